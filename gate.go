package sturdy

import (
	"container/list"
	"context"
	"errors"
	"fmt"
	"iter"
	"math"
	"net/http"
	"slices"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// maxHold is how long a request without a deadline waits because of a server's
// wish. Nobody means to wait for a day.
const maxHold = 2 * time.Minute

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
// whose circuit is open do not hold up the rest.
//
// Locks are taken in this order: gate, circuit.
type gate struct {
	mu     sync.Mutex
	limit  rate.Limit // the caller's ceiling; rate.Inf without one
	burst  int
	fixed  bool          // nothing is learned
	bucket *rate.Limiter // nil: they leave as they come
	paused time.Time     // nobody leaves before
	pace   pace
	meters []*meter // of the newest answer that had any
	known  []*meter // of all answers
	tokens *meter   // the caller's ceiling; nil without one
	said   float64  // the rate that was reported last
	cut    float64  // how many had left at the last news
	left   toll
	flying int              // sent, and not answered
	spare  int              // tokens taken for requests that were then cancelled
	queue  list.List        // of *turn
	doors  map[*circuit]int // how many in the queue are there for each
	timer  *time.Timer
}

// A wish is what a request asks of a gate.
type wish struct {
	units   float64
	maxWait time.Duration // of RateLimit
	circuit *circuit      // nil if there is none
	patient time.Duration // MaxWait of Breaker
}

// A turn is a request's place in the queue.
type turn struct {
	wish
	req      *http.Request
	arrived  time.Time
	attempts int           // how often it was sent, this time included
	latest   time.Time     // a turn after this is of no use; zero for any
	why      error         // what says so: context.DeadlineExceeded for the context
	until    time.Time     // how long it waits for the circuit; zero for not at all
	ready    chan struct{} // closed when the turn has come, or is refused
	place    *list.Element // in the queue, until it is ready
	pass     pass
	err      error // why it is refused
}

// A pass is what a request takes along when it leaves.
type pass struct {
	gate     *gate
	at       time.Time // when it left
	mark     toll      // what had left by then, it included
	units    float64
	charged  float64 // of the caller's tokens
	flies    bool    // counts as flying
	waited   time.Duration
	circuit  *circuit
	admitted admission
}

func newGate(limit rate.Limit, burst int) *gate {
	g := &gate{limit: limit, burst: burst}
	if limit != rate.Inf {
		g.bucket = rate.NewLimiter(limit, burst)
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
		if m.levelAt(now) < m.limit {
			return false
		}
	}
	g.limitAt(now)
	return g.pace.rate == 0 && (g.bucket == nil || g.bucket.TokensAt(now) >= float64(g.burst))
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
	if g.queue.Len() == 0 && g.wait(began, w.units) == 0 {
		if a, wait := w.circuit.admit(began, req); wait == 0 {
			p := g.leave(began, w, a)
			g.mu.Unlock()
			return p, nil, nil
		}
	}
	t := newTurn(req, began, w)
	t.place = g.insert(t)
	if g.refuse(t, began, g.ahead(t.place)) {
		g.remove(t.place)
		g.mu.Unlock()
		return pass{}, nil, t.err
	}
	g.pump(began)
	g.mu.Unlock()
	return pass{}, t, nil
}

// await returns when the turn of a request in the queue has come.
func (g *gate) await(t *turn) (pass, error) {
	began := time.Now()
	select {
	case <-t.ready:
	case <-t.req.Context().Done():
	case <-cancelled(t.req):
	}
	if end := gone(t.req); end != nil {
		g.quit(t)
		return pass{}, end
	}
	t.pass.waited = time.Since(began)
	return t.pass, t.err
}

func newTurn(req *http.Request, now time.Time, w wish) *turn {
	t := &turn{wish: w, req: req, arrived: now, why: errMaxHold, ready: make(chan struct{})}
	if c := callOf(req); c != nil {
		t.arrived, t.attempts = c.began, int(c.attempt.Load())
	}
	if w.maxWait > 0 {
		t.latest, t.why = now.Add(w.maxWait+1), errMaxWait // a turn at MaxWait is in time
	}
	deadline, bounded := deadlineOf(req)
	if bounded && (t.latest.IsZero() || deadline.Before(t.latest)) {
		t.latest, t.why = deadline, context.DeadlineExceeded
	}
	switch {
	case w.patient < 0, w.patient == 0 && !bounded:
	case w.patient == 0:
		t.until = deadline
	default:
		t.until = now.Add(w.patient + 1)
		if bounded && deadline.Before(t.until) {
			t.until = deadline
		}
	}
	return t
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
			if g.bucket != nil {
				g.spare = min(g.spare+1, g.burst)
			}
			for m := range g.limits() {
				m.spend(now, -m.cost(t.units))
			}
			g.land(&t.pass)
		}
	default:
		g.remove(t.place)
	}
	g.pump(now)
	g.mu.Unlock()
	t.pass.circuit.settle(t.pass.admitted, errNeutral, nil) // if it had been let through
}

// wait returns 0 if a request may leave at now, as far as the gate goes, or how
// long to wait before looking again.
func (g *gate) wait(now time.Time, units float64) time.Duration {
	if d := g.paused.Sub(now); d > 0 {
		return d
	}
	g.paused = time.Time{}
	d := time.Duration(0)
	if !g.fixed && g.limit == rate.Inf {
		d = g.pace.cold(g.flying, now)
	}
	for m := range g.limits() {
		d = max(d, m.wait(now, m.cost(units)))
	}
	limit := g.limitAt(now)
	if g.bucket != nil && g.spare == 0 {
		if missing := 1 - g.bucket.TokensAt(now); missing > 0 {
			d = max(d, ceilSeconds(missing/float64(limit)))
		}
	}
	return d
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

// leave lets a request leave at now, for which there is room.
func (g *gate) leave(now time.Time, w wish, a admission) pass {
	g.left.requests++
	g.left.units += w.units
	for m := range g.limits() {
		m.spend(now, m.cost(w.units))
	}
	switch {
	case g.spare > 0:
		g.spare--
	case g.bucket != nil:
		g.bucket.AllowN(now, 1)
	}
	g.flying++
	if !g.fixed {
		if g.pace.ledger == nil {
			g.pace.ledger = new(ledger)
		}
		g.pace.ledger.add(now, g.left.requests, w.units)
	}
	p := pass{gate: g, at: now, mark: g.left, units: w.units, flies: true, circuit: w.circuit, admitted: a}
	if g.tokens != nil {
		p.charged = g.tokens.cost(w.units)
	}
	return p
}

func (g *gate) land(p *pass) {
	if p.flies {
		p.flies = false
		g.flying--
	}
}

// limitAt brings the bucket up to date with the pace, and returns its rate.
func (g *gate) limitAt(now time.Time) rate.Limit {
	if g.pace.rate == 0 {
		return g.limit
	}
	limit := rate.Limit(g.pace.at(now))
	if limit < g.limit {
		g.bucket.SetLimitAt(now, limit)
		// At a high rate timers are late by more than a request's time.
		g.bucket.SetBurstAt(now, max(1, min(int(limit/200), int(g.pace.burst))))
		return limit
	}
	// Back at the ceiling.
	if g.limit == rate.Inf {
		g.bucket = nil
		return rate.Inf
	}
	g.bucket.SetLimitAt(now, g.limit)
	g.bucket.SetBurstAt(now, g.burst)
	return g.limit
}

// ahead is how many are in the queue before place. Most are the last.
func (g *gate) ahead(place *list.Element) int {
	n := g.queue.Len() - 1
	for e := place.Next(); e != nil; e = e.Next() {
		n--
	}
	return n
}

// turnIn estimates how long a request with so many ahead of it will wait, as
// far as that is known: not by a pace that is only a guess.
func (g *gate) turnIn(now time.Time, ahead int, units float64) time.Duration {
	start := now
	if g.paused.After(now) {
		start = g.paused
	}
	wait := time.Duration(0)
	for m := range g.limits() {
		wait = max(wait, m.turnIn(start, ahead, units))
	}
	limit := g.limitAt(start)
	if g.bucket != nil && limit != rate.Inf && !g.pace.rough {
		if missing := float64(ahead+1-g.spare) - g.bucket.TokensAt(start); missing > 0 {
			wait = max(wait, ceilSeconds(missing/float64(limit)))
		}
	}
	return start.Sub(now) + wait
}

// refuse reports whether it is of no use to t to wait, and says so in it.
func (g *gate) refuse(t *turn, now time.Time, ahead int) bool {
	if e := t.circuit.refusal(now, t.until, t.req); e != nil {
		t.err = e
		return true
	}
	wait := g.turnIn(now, ahead, t.units)
	inTime := now.Add(wait).Before(t.latest)
	if t.latest.IsZero() {
		inTime = g.paused.Sub(now) <= maxHold
	}
	if inTime {
		return false
	}
	t.err = refusal(ErrWaitTooLong, wait, fmt.Errorf("sturdy: its turn would come in %v: %w", wait.Round(time.Millisecond), t.why))
	return true
}

// Why a request does not wait longer, if not because of its deadline.
var (
	errMaxWait = errors.New("more than MaxWait")
	errMaxHold = errors.New("more than 2m, and it has no deadline")
)

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
		if d := g.wait(now, t.units); d > 0 {
			next = min(next, d)
			break
		}
		if t.circuit.probes(now) {
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
		t.pass = g.leave(now, t.wish, a)
		close(t.ready)
		e = g.queue.Front()
	}
	g.wake(next)
}

// leastTried returns which of those in the queue, from t on, is to be the probe of
// t's circuit: the first of those that were sent least often. A probe costs an
// attempt, and whoever is the first in the queue should not pay for all of them.
func (g *gate) leastTried(e *list.Element, t *turn) (*list.Element, *turn) {
	best, least := e, t
	for e = e.Next(); e != nil && least.attempts > 1; e = e.Next() {
		if other, _ := e.Value.(*turn); other.circuit == t.circuit && other.attempts < least.attempts {
			best, least = e, other
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
	ahead := 0
	for e := g.queue.Front(); e != nil; {
		t, _ := e.Value.(*turn)
		next := e.Next()
		if g.refuse(t, now, ahead) {
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

// landed notes that a request which left is not out any more.
func (g *gate) landed(p *pass) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.land(p)
	if g.queue.Len() > 0 {
		g.pump(time.Now())
	}
}

// taken notes that the server took a request, or that at least nothing is known
// to the contrary.
func (g *gate) taken(p *pass, now time.Time, buckets []Bucket) {
	g.mu.Lock()
	defer g.mu.Unlock()
	flying := g.flying
	g.land(p)
	if !g.fixed {
		g.pace.taken(flying)
		g.hear(p, true, now, buckets)
	}
	if g.queue.Len() > 0 {
		g.pump(now)
	}
}

// refused holds everybody for d, because the server refused a request, and
// returns until when, zero if nobody is held, and whether that is news. Those whose turn would now come
// too late are refused. With learn, the others will leave paced.
func (g *gate) refused(p *pass, d time.Duration, learn bool, buckets []Bucket) (until time.Time, news bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	now := time.Now()
	g.land(p)
	g.hear(p, false, now, buckets)
	resume := now
	if until := now.Add(d); d > 0 && until.After(g.paused) {
		g.paused = until
	}
	if g.paused.After(now) {
		resume = g.paused
	}
	// Requests that were on their way together are refused together: that is
	// one piece of news.
	news = p.mark.requests > g.cut
	if news {
		g.cut = g.left.requests
	}
	if learn && !g.fixed && !g.blind(p) {
		if news {
			for _, m := range g.meters {
				m.trust = max(0.98*m.trust, 0.5)
			}
			g.pace.refused(now, p.at, p.mark.requests, resume, g.meterRate())
		} else {
			g.pace.also(p.at, p.mark.requests, resume)
		}
	}
	g.drain(now, resume)
	g.review(now)
	if !resume.After(now) && g.pace.rate == 0 {
		return time.Time{}, news
	}
	return resume, news
}

// blind reports whether a request left before the server's headers had told of
// its limits, so that its refusal says nothing against them.
func (g *gate) blind(p *pass) bool {
	return slices.ContainsFunc(g.meters, func(m *meter) bool { return !p.at.After(m.born) })
}

// hear takes in what an answer says of the server's limits.
func (g *gate) hear(p *pass, ok bool, now time.Time, buckets []Bucket) {
	if g.fixed || len(buckets) == 0 {
		return
	}
	newest := true
	for _, m := range g.meters {
		newest = newest && p.mark.requests > m.mark.requests
	}
	if newest {
		g.meters = g.meters[:0]
	}
	for _, b := range buckets {
		if !meterable(b) {
			continue
		}
		i := slices.IndexFunc(g.known, func(m *meter) bool { return m.name == b.Name && m.unit == b.Unit })
		if i < 0 {
			if len(g.known) == maxLimits {
				continue
			}
			i = len(g.known)
			g.known = append(g.known, &meter{name: b.Name, unit: b.Unit, each: 1})
		}
		m := g.known[i]
		m.hear(b, ok, p.at, now, p.mark, g.left, g.pace.ledger)
		if newest {
			g.meters = append(g.meters, m)
		}
	}
}

// settle takes in that a request used so many tokens.
func (g *gate) settle(p *pass, used float64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	m := g.tokens
	now := time.Now()
	m.spend(now, used-p.charged)
	if p.units > 0 {
		if m.each == 0 {
			m.each = used / p.units
		}
		m.each += (used/p.units - m.each) * meterWeight
	}
	if g.queue.Len() > 0 {
		g.pump(now)
	}
}

// state returns what is known at now.
func (g *gate) state(now time.Time) LimitState {
	g.mu.Lock()
	defer g.mu.Unlock()
	s := LimitState{Rate: rate.Inf, Remaining: -1, Waiting: g.queue.Len(), InFlight: g.flying}
	if now.Before(g.paused) {
		s.Paused = g.paused
	}
	for _, m := range g.meters {
		if left := max(m.levelAt(now), 0); s.Remaining < 0 || left < s.Remaining {
			s.Remaining = left
		}
	}
	least := func(r float64, source string) {
		if r > 0 && rate.Limit(r) < s.Rate {
			s.Rate, s.Source = rate.Limit(r), source
		}
	}
	least(float64(g.limit), "setting")
	least(g.meterRate(), "headers")
	if g.pace.rate > 0 {
		least(g.pace.current(), "refusals")
	}
	return s
}

// news returns the rate that the server allows, if it is another than the last
// that news returned, by more than a tenth.
func (g *gate) news() (perSecond float64, ok bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	r := g.meterRate()
	if p := g.pace.rate; p > 0 && !g.pace.rough && (r == 0 || p < r) {
		r = p
	}
	if r == 0 || math.Abs(r-g.said) <= g.said/10 {
		return 0, false
	}
	g.said = r
	return r, true
}

// meterRate is how many requests a second the server's headers allow; 0 if they
// do not say.
func (g *gate) meterRate() float64 {
	least := 0.
	for _, m := range g.meters {
		if r := m.perSecond(); r > 0 && (least == 0 || r < least) {
			least = r
		}
	}
	return least
}

// drain makes the bucket new, empty but for one token after a pause: nothing
// accrues while the key is paused, and there is no burst after it.
func (g *gate) drain(now, resume time.Time) {
	limit, burst := g.limit, g.burst
	if g.pace.rate != 0 {
		limit, burst = min(limit, rate.Limit(g.pace.current())), 1
	}
	if limit == rate.Inf {
		g.bucket = nil
		return
	}
	g.bucket = rate.NewLimiter(limit, burst)
	// One may leave at resume, unless that is too soon after the last.
	g.bucket.AllowN(later(now, resume.Add(-ceilSeconds(1/float64(limit)))), burst)
	g.spare = 0
}

// ceilSeconds makes a duration of seconds, never too short.
func ceilSeconds(s float64) time.Duration {
	ns := math.Ceil(s * float64(time.Second))
	if ns >= math.MaxInt64 {
		return math.MaxInt64
	}
	return max(time.Duration(ns), 1)
}
