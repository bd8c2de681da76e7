package sturdy

import (
	"cmp"
	"container/list"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// maxKeys is how many keys are kept where no other number is set. A key of a
	// RateLimit takes some 5 KiB, idle or not, one of a Breaker 2 KiB, and one of a
	// Budget less than 1 KiB.
	maxKeys = 4096

	// To make room for a new key, entries are looked at until one is idle: so many
	// for each use of a key on average, so that its cost does not grow with the
	// number of keys, and never more than maxLooks at a time.
	looksPerUse = 8
	maxLooks    = 1024

	// crowdedEvery is how often it is reported that there is no room.
	crowdedEvery = time.Minute

	// othersName is how the state is shown that keys share for which there is no room.
	othersName = "(all others)"
)

// keyed holds one state for each key. So many of them are kept; those that are
// idle and were not used for longest make room for new ones. One that is in use, or
// not idle, is never given up for another key: a new key for which there is no room
// shares one state with all such keys, or has one that is forgotten as soon as
// nobody uses it, whichever the layer asks for.
//
// What is idle changes with time, and finding it is bounded, see looksPerUse. So
// a new key may, rarely, find no room although something is idle far from the front;
// then its next use looks further.
//
// Whoever uses the same key as the last one needs no lock.
type keyed[S interface{ idle() bool }] struct {
	latest atomic.Pointer[entry[S]] // that was used

	mu      sync.Mutex
	entries map[key]*entry[S]
	order   list.List // of *entry[S]: those that are kept, the longest unused first
	shared  *entry[S] // of all keys for which there was no room; nil if nothing was shared yet
	looks   int       // that are left
	told    time.Time // when it was last reported that there is no room
}

type entry[S any] struct {
	key    key
	state  S
	users  atomic.Int64 // less than 0 once it is forgotten
	shared bool
	brief  atomic.Bool   // it is forgotten when it is not in use
	place  *list.Element // nil while it is brief, or if it is shared
}

// forgotten is that many users less than none.
const forgotten = -1 << 32

// join adds a user, if e is still remembered.
func (e *entry[S]) join() bool {
	if e.users.Add(1) > 0 {
		return true
	}
	e.users.Add(-1)
	return false
}

// A keeping is how a layer keeps its states. Its functions are called with the
// lock held.
type keeping[S any] struct {
	most   int      // that are kept; zero means maxKeys, negative means any number
	fresh  func() S // makes the state of one key
	shared func() S // makes the state that those share for which there is no room; nil if they share none
	must   bool     // the key is kept even if there is no room
}

// use returns the entry of k, which stays until it is released.
func (m *keyed[S]) use(k key, fresh func() S) *entry[S] {
	e, _ := m.useWithin(k, keeping[S]{fresh: fresh})
	return e
}

// useWithin is use with a layer's own keeping. It returns whether it should be
// reported that there is no room for k.
func (m *keyed[S]) useWithin(k key, how keeping[S]) (e *entry[S], crowded bool) {
	if e := m.latest.Load(); e != nil && e.key == k && !how.must && e.join() {
		return e, false
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.looks = min(m.looks+looksPerUse, maxLooks)
	e = m.entries[k]
	switch {
	case e == nil:
		e, crowded = m.add(k, how)
	case e.place != nil:
		m.order.MoveToBack(e.place)
	case how.must:
		m.keep(e)
	}
	e.users.Add(1)
	if !e.shared {
		m.latest.Store(e)
	}
	return e, crowded
}

// add returns a new entry for k, or the one that is shared.
func (m *keyed[S]) add(k key, how keeping[S]) (e *entry[S], crowded bool) {
	most := cmp.Or(how.most, maxKeys)
	room := most < 0
	for !room {
		room = m.order.Len() < most
		if !room && !m.evict() {
			break
		}
	}
	room = room || how.must
	if now := time.Now(); !room && (m.told.IsZero() || now.Sub(m.told) >= crowdedEvery) {
		m.told, crowded = now, true
	}
	if !room && how.shared != nil {
		if m.shared == nil {
			m.shared = &entry[S]{key: key{name: othersName}, state: how.shared(), shared: true}
		}
		return m.shared, crowded
	}
	e = &entry[S]{key: k, state: how.fresh()}
	if m.entries == nil {
		m.entries = make(map[key]*entry[S])
	}
	m.entries[k] = e
	if room {
		m.keep(e)
	} else {
		e.brief.Store(true)
	}
	return e, crowded
}

func (m *keyed[S]) keep(e *entry[S]) {
	e.brief.Store(false)
	e.place = m.order.PushBack(e)
}

// get returns the state of k, or its zero value if there is none. It may be
// forgotten at any time.
func (m *keyed[S]) get(k key) (state S) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if e := m.entries[k]; e != nil {
		state = e.state
	}
	return state
}

// each calls f for every key, without the lock: for those that are kept, then for
// those that are only in use, and for what is shared.
func (m *keyed[S]) each(f func(key, S)) {
	m.mu.Lock()
	all := make([]*entry[S], 0, len(m.entries)+1)
	for place := m.order.Front(); place != nil; place = place.Next() {
		e, _ := place.Value.(*entry[S])
		all = append(all, e)
	}
	if len(m.entries) > len(all) {
		for _, e := range m.entries {
			if e.place == nil {
				all = append(all, e)
			}
		}
	}
	if m.shared != nil {
		all = append(all, m.shared)
	}
	m.mu.Unlock()
	for _, e := range all {
		f(e.key, e.state)
	}
}

// release ends a use of e, and reports whether e is remembered.
func (m *keyed[S]) release(e *entry[S]) bool {
	if e.users.Add(-1) > 0 || !e.brief.Load() {
		return true
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if e.users.Load() == 0 && e.brief.Load() {
		if !e.state.idle() && m.evict() {
			m.keep(e)
		} else {
			m.remove(e)
		}
	}
	return e.users.Load() >= 0
}

// evict makes room, if anything idle is found. What it passes by goes to the
// end of the order, so that the next search does not meet it first.
func (m *keyed[S]) evict() bool {
	for range min(m.order.Len(), m.looks) {
		m.looks--
		front := m.order.Front()
		e, _ := front.Value.(*entry[S])
		if e.users.Load() == 0 && e.state.idle() && m.remove(e) {
			return true
		}
		m.order.MoveToBack(front)
	}
	return false
}

// remove forgets e, if nobody uses it.
func (m *keyed[S]) remove(e *entry[S]) bool {
	if !e.users.CompareAndSwap(0, forgotten) {
		return false
	}
	m.latest.CompareAndSwap(e, nil)
	if e.place != nil {
		m.order.Remove(e.place)
	}
	delete(m.entries, e.key)
	return true
}
