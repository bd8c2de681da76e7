package sturdy

import (
	"container/list"
	"fmt"
	"hash/maphash"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
)

// maxKeys is how many keys a layer remembers.
const maxKeys = 1024

// A key tells apart what is limited or fails by itself. Either the caller named
// it, or it is made of where a request goes and on whose behalf.
type key struct {
	name         string
	scheme, host string
	credential   uint64 // a fingerprint; 0 for none
}

// String returns the key for display. Its fingerprint is worth nothing outside
// this process.
func (k key) String() string {
	switch {
	case k.host == "":
		return k.name
	case k.credential == 0:
		return k.scheme + "://" + k.host
	}
	return fmt.Sprintf("%s://%s#%08x", k.scheme, k.host, uint32(k.credential)) //nolint:gosec // cut on purpose
}

// display is String if anybody is there to read it. A caller's own key may be
// the credential itself.
func (k key) display(req *http.Request, w watchers) string {
	switch {
	case !w.any():
		return ""
	case k.name != "":
		return withoutSecrets(k.name, secretsOf(req))
	}
	return k.String()
}

// originKey is the key of where req goes.
func originKey(req *http.Request) key {
	if req.URL == nil {
		return key{}
	}
	host := strings.ToLower(req.URL.Host)
	switch req.URL.Scheme {
	case "https":
		host = strings.TrimSuffix(host, ":443")
	case "http":
		host = strings.TrimSuffix(host, ":80")
	}
	return key{scheme: req.URL.Scheme, host: host}
}

// keyed holds one state for each key, at most maxKeys of them. Those that are
// idle and were not used for longest make room for new ones. One that is in
// use, or not idle, stays: if there are maxKeys of these, a new one is
// forgotten as soon as it is not in use.
//
// Whoever uses the same key as the last one needs no lock.
type keyed[S interface{ idle() bool }] struct {
	latest atomic.Pointer[entry[S]] // that was used
	over   atomic.Bool              // there are more than maxKeys

	mu      sync.Mutex
	entries map[key]*entry[S]
	order   list.List // of *entry[S], the longest unused first

	seeded sync.Once
	secret maphash.Seed
}

type entry[S any] struct {
	key   key
	state S
	users atomic.Int64 // less than 0 once it is forgotten
	place *list.Element
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

// use returns the entry of k, which stays until it is released.
func (m *keyed[S]) use(k key, fresh func() S) *entry[S] {
	if e := m.latest.Load(); e != nil && e.key == k && e.join() {
		return e
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	e := m.entries[k]
	if e == nil {
		if m.entries == nil {
			m.entries = make(map[key]*entry[S])
		}
		e = &entry[S]{key: k, state: fresh()}
		if len(m.entries) >= maxKeys {
			m.evict()
		}
		m.entries[k] = e
		m.over.Store(len(m.entries) > maxKeys)
		e.place = m.order.PushBack(e)
	} else {
		m.order.MoveToBack(e.place)
	}
	e.users.Add(1)
	m.latest.Store(e)
	return e
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

// each calls f for every key, without the lock.
func (m *keyed[S]) each(f func(key, S)) {
	m.mu.Lock()
	all := make([]*entry[S], 0, len(m.entries))
	for place := m.order.Front(); place != nil; place = place.Next() {
		e, _ := place.Value.(*entry[S])
		all = append(all, e)
	}
	m.mu.Unlock()
	for _, e := range all {
		f(e.key, e.state)
	}
}

// release ends a use of e, and reports whether e is remembered.
func (m *keyed[S]) release(e *entry[S]) bool {
	if e.users.Add(-1) > 0 || !m.over.Load() {
		return true
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.entries) > maxKeys && !m.evict() {
		m.remove(e)
	}
	return e.users.Load() >= 0
}

// evict makes room, if anything idle is there. What it passes by goes to the
// end of the order, so that the next search does not meet it first.
func (m *keyed[S]) evict() bool {
	for range m.order.Len() {
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
	m.order.Remove(e.place)
	delete(m.entries, e.key)
	m.over.Store(len(m.entries) > maxKeys)
	return true
}

// fingerprint tells credentials apart without keeping them: a hash with a seed
// that never leaves the process.
func (m *keyed[S]) fingerprint(credential string) uint64 {
	m.seeded.Do(func() { m.secret = maphash.MakeSeed() })
	return maphash.String(m.secret, credential)
}

// credentialOf returns what a server tells callers apart by, where req has it.
func credentialOf(req *http.Request) string {
	for _, name := range [...]string{"Authorization", "Api-Key", "X-Api-Key", "X-Goog-Api-Key"} {
		if v := req.Header[name]; len(v) > 0 && v[0] != "" {
			return signer(v[0])
		}
	}
	if req.URL == nil {
		return ""
	}
	if req.URL.User != nil {
		return req.URL.User.String()
	}
	for part := range strings.SplitSeq(req.URL.RawQuery, "&") {
		if v, ok := strings.CutPrefix(part, "key="); ok {
			return v
		}
	}
	return ""
}

// signer returns who signed a request, of a credential that is a signature and
// so is another each time: AWS Signature Version 4, HTTP signatures, Digest,
// OAuth 1. Any other credential it returns as it is.
func signer(credential string) string {
	if !strings.Contains(credential, "ignature=") && !strings.Contains(credential, "nonce=") {
		return credential
	}
	for _, name := range [...]string{"Credential=", "keyId=", "username=", "oauth_consumer_key="} {
		if _, id, ok := strings.Cut(credential, name); ok {
			return beforeAny(strings.TrimPrefix(id, `"`), `",/`) // AWS appends the date
		}
	}
	return credential
}
