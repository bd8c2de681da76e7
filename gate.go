package sturdy

import (
	"container/list"
	"iter"
	"math"
	"net/http"
	"slices"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// A gate is the queue of one key. Requests leave it in the order of their first
// arrival, when all of these hold: the key is not paused, the caller's limit
// and the server's have room for the request, there are not too many out yet to
// know the limit, and the circuit lets it through.
//
// Whether a request may leave is decided when it leaves, and only for the head
// of the queue: so nobody holds a reservation that a later pause or a new rate
// would have to take back. That is why rate.Limiter serves as a bucket here,
// but not its Wait and Reserve.
//
// Only a circuit lets others pass by: if there are many in one queue, those
// whose circuit is open do not hold up the rest. And while the server takes
// nobody, those go first that were sent least often.
//
// Locks are taken in this order: gate, circuit.
type gate struct {
	mu     sync.Mutex
	limit  rate.Limit // the caller's ceiling; rate.Inf without one
	burst  int
	fixed  bool          // nothing is learned
	own    *rate.Limiter // holds them to limit; nil without one
	bucket *rate.Limiter // holds them to pace; nil while that holds nobody
	paused time.Time     // nobody leaves before
	pace   pace
	meters []*meter  // of the newest answer that had any
	known  []*meter  // of all answers
	heard  time.Time // when the newest answer that had any came
	silent int       // successes since then
	tokens *meter    // the caller's ceiling; nil without one
	prices *prices   // in these tokens; nil without one
	said   float64   // the rate that was reported last
	cut    float64   // how many had left at the last news
	left   toll
	went   time.Time        // when the last left
	took   time.Time        // when the server was last known to take any
	denied time.Time        // when it last refused one
	busy   int              // answers in a row that the server is overloaded
	chance chance           // of these while it works
	flying int              // sent, and not answered
	spare  int              // tokens taken for requests that were then cancelled
	queue  list.List        // of *turn
	doors  map[*circuit]int // how many in the queue are there for each
	timer  *time.Timer
}

// A wish is what a request asks of a gate.
type wish struct {
	units   float64
	model   string        // that it asks for; empty if that makes no difference
	maxWait time.Duration // of RateLimit
	circuit *circuit      // nil if there is none
	patient time.Duration // MaxWait of Breaker
}

// A pass is what a request takes along when it leaves.
type pass struct {
	gate     *gate
	at       time.Time // when it left
	mark     toll      // what had left by then, it included
	units    float64
	model    string
	charged  float64 // of the caller's tokens
	flies    bool    // counts as flying
	doubts   *meter  // that held it, but not for long enough to be true; nil if none did
	waited   time.Duration
	circuit  *circuit
	admitted admission
}

func newGate(limit rate.Limit, burst int) *gate {
	g := &gate{limit: limit, burst: burst}
	if limit != rate.Inf {
		g.own = rate.NewLimiter(limit, burst)
	}
	return g
}

// idle reports whether the gate may be forgotten: it holds nobody up, and a new
// one would do the same.
func (g *gate) idle() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	now := time.Now()
	if g.queue.Len() > 0 || g.flying > 0 || now.Before(g.paused) {
		return false
	}
	for m := range g.limits() {
		if !m.idle(now) {
			return false
		}
	}
	learned := g.pace.rate > 0 && now.Sub(g.went) <= paceForget // being asked is no use of the pace
	return !learned && (g.own == nil || g.own.TokensAt(now) >= float64(g.burst))
}

// enter lets req leave, if it may do so at once. Otherwise it returns its turn,
// to await, or an error if that would come too late, or the circuit is open and
// req does not wait for that.
func (g *gate) enter(req *http.Request, w wish) (pass, *turn, error) {
	g.mu.Lock()
	if end := gone(req); end != nil {
		g.mu.Unlock()
		return pass{}, nil, end
	}
	began := time.Now()
	w.circuit.arrived(began)
	if g.queue.Len() == 0 && g.wait(began, &w) == 0 {
		if a, wait := w.circuit.admit(began, req); wait == 0 {
			p := g.leave(began, w, a)
			g.mu.Unlock()
			return p, nil, nil
		}
	}
	t := newTurn(req, began, w)
	t.place = g.insert(t)
	if g.refuse(t, began, g.outlook(began), g.ahead(t.place)) {
		g.remove(t.place)
		g.mu.Unlock()
		return pass{}, nil, t.err
	}
	t.timer = time.AfterFunc(t.nextCheck(began, 0), func() { g.check(t) })
	g.pump(began)
	g.mu.Unlock()
	return pass{}, t, nil
}

// insert puts t in its place: behind all that arrived before it.
func (g *gate) insert(t *turn) *list.Element {
	if t.circuit != nil {
		if g.doors == nil {
			g.doors = make(map[*circuit]int)
		}
		if g.doors[t.circuit]++; g.doors[t.circuit] == 1 {
			t.circuit.waits(g)
		}
	}
	for e := g.queue.Back(); e != nil; e = e.Prev() {
		if other, _ := e.Value.(*turn); !t.arrived.Before(other.arrived) {
			return g.queue.InsertAfter(t, e)
		}
	}
	return g.queue.PushFront(t)
}

func (g *gate) remove(place *list.Element) *turn {
	t, _ := g.queue.Remove(place).(*turn)
	t.place = nil
	if t.circuit != nil {
		if g.doors[t.circuit]--; g.doors[t.circuit] == 0 {
			delete(g.doors, t.circuit)
			t.circuit.leaves(g)
		}
	}
	return t
}

// quit takes back the turn of a request that does not wait for it any more. If
// it had come already, the next in the queue has it.
func (g *gate) quit(t *turn) {
	g.mu.Lock()
	now := time.Now()
	select {
	case <-t.ready:
		if t.err == nil {
			if g.own != nil || g.bucket != nil {
				g.spare = min(g.spare+1, g.burst)
			}
			for m := range g.limits() {
				m.spend(now, -g.cost(m, &t.wish))
			}
			g.land(t.pass)
		}
	default:
		g.remove(t.place)
	}
	g.pump(now)
	g.mu.Unlock()
	if t.pass != nil {
		t.pass.circuit.settle(t.pass.admitted, errNeutral, nil)
	}
}

// wait returns 0 if a request may leave at now, as far as the gate goes, or how
// long to wait before looking again.
func (g *gate) wait(now time.Time, w *wish) time.Duration {
	d := g.told(now, w)
	if g.paused.IsZero() {
		d = max(d, g.learned(now))
	}
	return d
}

// told is the part of wait that the caller's settings and the server's words
// make.
func (g *gate) told(now time.Time, w *wish) time.Duration {
	if d := g.paused.Sub(now); d > 0 {
		return d
	}
	g.paused = time.Time{}
	d := time.Duration(0)
	for m := range g.limits() {
		d = max(d, m.wait(now, g.cost(m, w), g.went))
	}
	if g.own != nil && g.spare == 0 {
		d = max(d, shortOf(g.own, now))
	}
	return d
}

// learned is the part of wait that is inferred from what the server refused.
func (g *gate) learned(now time.Time) time.Duration {
	d := time.Duration(0)
	if !g.fixed && g.limit == rate.Inf {
		d = g.pace.cold(g.flying, now)
	}
	g.paceAt(now)
	if g.bucket != nil && g.spare == 0 {
		d = max(d, shortOf(g.bucket, now))
	}
	return d
}

// shortOf is how long after now a bucket has a token.
func shortOf(bucket *rate.Limiter, now time.Time) time.Duration {
	missing := 1 - bucket.TokensAt(now)
	if missing <= 0 {
		return 0
	}
	return ceilSeconds(missing / float64(bucket.Limit()))
}

// waitOf is wait for one in the queue. Who is alone and has backed off from a
// refusal as the server said, or as Retry's settings say, need not wait for a
// guess: it is held up for the sake of nobody.
func (g *gate) waitOf(t *turn, now time.Time) time.Duration {
	if t.backed && g.flying == 0 && g.queue.Len() == 1 {
		return g.told(now, &t.wish)
	}
	return g.wait(now, &t.wish)
}

// limits are those that are counted in meters: the caller's, and the server's.
func (g *gate) limits() iter.Seq[*meter] {
	return func(yield func(*meter) bool) {
		if g.tokens != nil && !yield(g.tokens) {
			return
		}
		for _, m := range g.meters {
			if !yield(m) {
				return
			}
		}
	}
}

// cost is what m will be charged for a request.
func (g *gate) cost(m *meter, w *wish) float64 {
	if m == g.tokens {
		return g.prices.cost(w.model, w.units)
	}
	return m.cost(w.units)
}

// leave lets a request leave at now, for which there is room.
func (g *gate) leave(now time.Time, w wish, a admission) pass {
	g.left.requests++
	g.left.units += w.units
	g.went = now
	p := pass{gate: g, at: now, mark: g.left, units: w.units, model: w.model, flies: true, circuit: w.circuit, admitted: a}
	for m := range g.limits() {
		cost := g.cost(m, &w)
		if m.due(now, cost) > 0 {
			p.doubts = m
		}
		m.spend(now, cost)
	}
	if g.tokens != nil {
		p.charged = g.cost(g.tokens, &w)
	}
	if g.spare > 0 {
		g.spare--
	} else {
		for _, b := range [...]*rate.Limiter{g.own, g.bucket} {
			if b != nil {
				b.AllowN(now, 1)
			}
		}
	}
	g.flying++
	if !g.fixed {
		if g.pace.ledger == nil {
			g.pace.ledger = new(ledger)
		}
		g.pace.ledger.add(now, g.left.requests, w.units, g.flying)
	}
	return p
}

func (g *gate) land(p *pass) {
	if p.flies {
		p.flies = false
		g.flying--
	}
}

// paceAt brings the bucket up to date with the pace.
func (g *gate) paceAt(now time.Time) {
	if g.pace.rate == 0 {
		return
	}
	limit := rate.Limit(g.pace.at(now))
	if limit >= g.limit {
		g.bucket = nil // it holds nobody, until the next refusal
	}
	if g.bucket == nil {
		return
	}
	g.bucket.SetLimitAt(now, limit)
	// At a high rate timers are late by more than a request's time.
	g.bucket.SetBurstAt(now, max(1, min(int(limit/200), int(g.pace.burst))))
}

// pump lets leave who may, and sets the timer for the next.
func (g *gate) pump(now time.Time) {
	var shut []*circuit // who is there for one of these is passed by
	next := time.Duration(math.MaxInt64)
	for e := g.queue.Front(); e != nil; {
		t, _ := e.Value.(*turn)
		if t.circuit != nil && slices.Contains(shut, t.circuit) {
			e = e.Next()
			continue
		}
		if d := g.waitOf(t, now); d > 0 {
			next = min(next, d)
			break
		}
		switch {
		case t.circuit.probes(now):
			e, t = g.prober(e, t)
		case g.pace.dark:
			e, t = g.leastTried(e, t)
		}
		a, d := t.circuit.admit(now, t.req)
		if d > 0 {
			next = min(next, d)
			if shut = append(shut, t.circuit); len(shut) == len(g.doors) {
				break
			}
			e = e.Next()
			continue
		}
		g.remove(e)
		t.stalled = g.stalledFor(t, now)
		p := g.leave(now, t.wish, a)
		t.pass = &p
		close(t.ready)
		e = g.queue.Front()
	}
	g.wake(next)
}

// leastTried returns which of those in the queue, from t on, is to find out
// whether the server is there again, or t's circuit closes: the first of those
// that were sent least often. It costs an attempt, and whoever is the first in the
// queue should not pay for all of them.
func (g *gate) leastTried(e *list.Element, t *turn) (*list.Element, *turn) {
	best, least := e, t
	for e = e.Next(); e != nil && least.attempts > 1; e = e.Next() {
		if other, _ := e.Value.(*turn); other.circuit == t.circuit && other.attempts < least.attempts {
			best, least = e, other
		}
	}
	return best, least
}

// prober is leastTried for a circuit, from the back: whoever came last has most
// time left for what comes of it.
func (g *gate) prober(first *list.Element, t *turn) (*list.Element, *turn) {
	best, least := first, t
	for e := g.queue.Back(); e != first; e = e.Prev() {
		other, _ := e.Value.(*turn)
		if other.circuit != t.circuit || best != first && other.attempts >= least.attempts || other.attempts > least.attempts {
			continue
		}
		if best, least = e, other; least.attempts <= 1 {
			break
		}
	}
	return best, least
}

func (g *gate) wake(d time.Duration) {
	switch {
	case g.queue.Len() == 0 || d == math.MaxInt64:
		if g.timer != nil {
			g.timer.Stop()
		}
	case g.timer != nil:
		g.timer.Reset(d)
	default:
		g.timer = time.AfterFunc(d, func() {
			g.mu.Lock()
			defer g.mu.Unlock()
			g.pump(time.Now())
		})
	}
}

// review refuses those for whom waiting has become of no use, and lets leave
// who may: after a pause has begun, or a circuit has changed.
func (g *gate) review(now time.Time) {
	ahead, o := 0, g.outlook(now)
	for e := g.queue.Front(); e != nil; {
		t, _ := e.Value.(*turn)
		next := e.Next()
		if g.refuse(t, now, o, ahead) {
			g.remove(e)
			close(t.ready)
		} else {
			ahead++
		}
		e = next
	}
	g.pump(now)
}

// circuitChanged is called by a circuit, without its lock.
func (g *gate) circuitChanged() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.review(time.Now())
}

// ceilSeconds makes a duration of seconds, never too short.
func ceilSeconds(s float64) time.Duration {
	ns := math.Ceil(s * float64(time.Second))
	if ns >= math.MaxInt64 {
		return math.MaxInt64
	}
	return max(time.Duration(ns), 1)
}
