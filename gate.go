package sturdy

import (
	"math"
	"net/http"
	"sync"
	"time"

	"github.com/sturdyhttp/sturdy/internal/pace"

	"golang.org/x/time/rate"
)

// A gate is the queue of one key. Requests leave it in the order of their priority and
// first arrival, when all of these hold: the key is not paused, the caller's limit
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
	own    *rate.Limiter // holds them to limit; nil without one
	spare  int           // tokens taken from it for requests that were then cancelled
	tokens *allowance    // the caller's ceiling; nil without one
	prices *prices       // in these tokens; nil without one
	pace   pace.Controller
	busy   int    // answers in a row that the server is overloaded
	chance chance // of these while it works
	queue  order
	ranked int                   // of these have another priority than zero
	fair   *fairness             // nil if nobody in it has a name
	passed int                   // have left in a row while others waited that are less urgent
	lines  map[*circuit]*line    // of the queue
	open   agenda                // of these, whose circuit is asked when their turn comes
	shut   agenda                // who are passed by for now
	payers int                   // who have left the queue for the caller's Limiter
	paying map[*payment]struct{} // of these, who wait in it
	spared time.Time             // all in the queue are not looked at again before
	due    bool                  // that is due
	timer  *time.Timer

	latencies latencies // of successes
}

// A wish is what a request asks of a gate.
type wish struct {
	units    float64
	model    string        // that it asks for; empty if that makes no difference
	waitEnds time.Time     // by RateLimit.MaxWait; zero for never
	circuit  *circuit      // nil if there is none
	patient  time.Duration // MaxWait of Breaker
	pays     bool          // it waits for the caller's Limiter when it has left
}

// A pass is what a request takes along when it leaves.
type pass struct {
	wish
	gate     *gate
	sent     pace.Sent
	charged  float64 // of the caller's tokens
	waited   time.Duration
	admitted admission
}

func newGate(limit rate.Limit, burst int) *gate {
	g := &gate{limit: limit, burst: burst}
	if limit != rate.Inf {
		g.own = rate.NewLimiter(limit, burst)
		g.pace.Ceiling, g.pace.Bounded = limit, true
	}
	return g
}

// idle reports whether the gate may be forgotten: it holds nobody up, and a new
// one would do the same.
func (g *gate) idle() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	now := time.Now()
	return g.waiting() == 0 && g.pace.Idle(now) && g.tokens.full(now) &&
		(g.own == nil || g.own.TokensAt(now) >= float64(g.burst))
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
	if g.waiting() == 0 && g.wait(began, &w) == 0 {
		if a, wait := w.circuit.admit(began, req, nil); wait == 0 {
			p := g.leave(began, w, a)
			g.mu.Unlock()
			return p, nil, nil
		}
	}
	t := newTurn(req, began, w)
	g.insert(t)
	if g.refuse(t, began, g.outlook(began), g.ahead(t)) {
		g.remove(t)
		g.mu.Unlock()
		return pass{}, nil, t.err
	}
	t.timer = time.AfterFunc(t.nextCheck(began, 0), func() { g.check(t) })
	g.pump(began)
	g.mu.Unlock()
	return pass{}, t, nil
}

// quit takes back the turn of a request that does not wait for it any more. If
// it had come already, the next in the queue has it.
func (g *gate) quit(t *turn) {
	t.timer.Stop()
	g.mu.Lock()
	now := time.Now()
	if t.line != nil {
		g.remove(t)
	} else if t.pass != nil {
		g.undo(t.pass, now)
	}
	g.pump(now)
	g.mu.Unlock()
	if t.pass != nil {
		t.pass.circuit.settle(t.pass.admitted, errNeutral, nil)
	}
}

// takeBack has the next in the queue leave, instead of one who is not sent.
func (g *gate) takeBack(p *pass) {
	g.mu.Lock()
	defer g.mu.Unlock()
	now := time.Now()
	g.undo(p, now)
	g.pump(now)
}

// undo gives back what p was charged.
func (g *gate) undo(p *pass, now time.Time) {
	if g.own != nil {
		g.spare = min(g.spare+1, g.burst)
	}
	g.tokens.spend(now, -p.charged)
	if p.pays {
		p.pays = false
		g.payers--
	}
	g.pace.Undo(&p.sent, now)
}

// wait returns 0 if a request may leave at now, as far as the gate goes, or how
// long to wait before looking again.
func (g *gate) wait(now time.Time, w *wish) time.Duration {
	d, learned := g.told(now, w)
	if learned {
		d = max(d, g.pace.Learned(now))
	}
	return d
}

// told is the part of wait that the caller's settings and the server's words make, and
// whether there is another.
func (g *gate) told(now time.Time, w *wish) (wait time.Duration, learned bool) {
	if w.pays && g.payers >= maxPayers {
		return math.MaxInt64, false // until one of them is sent
	}
	wait, learned = g.pace.Told(now, w.units)
	if !learned {
		return wait, false
	}
	wait = max(wait, g.tokens.wait(now, g.cost(w)))
	if g.own != nil && g.spare == 0 {
		wait = max(wait, pace.ShortOf(g.own, now))
	}
	return wait, true
}

// waitOf is wait for one in the queue. Who is alone and has backed off from a
// refusal as the server said, or as Retry's settings say, need not wait for a
// guess: it is held up for the sake of nobody.
func (g *gate) waitOf(t *turn, now time.Time) time.Duration {
	if t.backed && g.pace.InFlight() == 0 && g.waiting() == 1 {
		d, _ := g.told(now, &t.wish)
		return d
	}
	return g.wait(now, &t.wish)
}

// cost is how many of the caller's tokens a request will be charged.
func (g *gate) cost(w *wish) float64 {
	if g.tokens == nil {
		return 0
	}
	return g.prices.cost(w.model, w.units)
}

// leave lets a request leave at now, for which there is room.
func (g *gate) leave(now time.Time, w wish, a admission) pass {
	p := pass{wish: w, gate: g, admitted: a, charged: g.cost(&w)}
	p.sent = g.pace.Leave(now, w.units)
	g.tokens.spend(now, p.charged)
	if g.spare > 0 {
		g.spare--
	} else if g.own != nil {
		g.own.AllowN(now, 1)
	}
	if w.pays {
		g.payers++
	} else {
		g.pace.Depart(&p.sent, now)
	}
	return p
}

// pump lets leave who may, and sets the timer for the next.
func (g *gate) pump(now time.Time) {
	for l := g.shut.first(); l != nil && !l.at.After(now); l = g.shut.first() {
		g.reopen(l)
	}
	next := time.Duration(math.MaxInt64)
	for {
		l := g.open.first()
		if l == nil {
			break
		}
		t := l.first
		if from, due := g.overdue(t.priority); due != nil {
			l, t = from, due
		}
		t = g.inTime(l, t, now)
		if d := g.waitOf(t, now); d > 0 {
			next = min(next, d)
			break
		}
		// Whoever finds out whether the server is there again pays with an attempt:
		// the first in the queue should not do so for all of them. A probe is made by
		// those who came last, and have most time left for what comes of it.
		switch {
		case t.circuit.probes(now):
			t = l.turns.lastLeastTried()
		case g.pace.Probes():
			t = l.turns.leastTried()
		}
		a, d := t.circuit.admit(now, t.req, &l.kept)
		if d > 0 {
			l.put(&g.shut, now.Add(d))
			continue
		}
		if g.fair != nil {
			g.fair.leaves(t)
		}
		g.remove(t)
		g.notePassed(t)
		t.stalled = g.stalledFor(t, now)
		p := g.leave(now, t.wish, a)
		t.pass = &p
		close(t.ready)
	}
	if l := g.shut.first(); l != nil {
		next = min(next, l.at.Sub(now))
	}
	if g.due {
		next = min(next, max(g.spared.Sub(now), 1))
	}
	g.wake(next)
}

func (g *gate) wake(d time.Duration) {
	switch {
	case g.waiting() == 0 || d == math.MaxInt64:
		if g.timer != nil {
			g.timer.Stop()
		}
	case g.timer != nil:
		g.timer.Reset(d)
	default:
		g.timer = time.AfterFunc(d, func() {
			g.mu.Lock()
			defer g.mu.Unlock()
			if now := time.Now(); g.due {
				g.review(now)
			} else {
				g.pump(now)
			}
		})
	}
}

// review refuses those for whom waiting has become of no use, and lets leave
// who may: after a pause has begun, or a circuit has changed. In a long queue it
// looks at all of them only so often that it takes little of the time.
func (g *gate) review(now time.Time) {
	g.overtake(now)
	if g.due = g.waiting() > 0 && now.Before(g.spared); !g.due {
		g.reviewAll(now)
	}
	g.pump(now)
}

func (g *gate) reviewAll(now time.Time) {
	if g.waiting() > longQueue {
		pause := lookPause
		if g.fair != nil {
			pause = fairLookPause
		}
		g.spared = now.Add(time.Duration(g.waiting()) * pause)
	}
	o := g.outlook(now)
	higher, same, priority := 0, 0, math.MaxInt
	for _, t := range g.queue.all() {
		if t.priority < priority {
			higher, same, priority = higher+same, 0, t.priority
		}
		ahead := g.passing(higher, same)
		if g.fair != nil {
			ahead = g.ahead(t)
		}
		if g.refuse(t, now, o, ahead) {
			g.remove(t)
			close(t.ready)
		} else {
			same++
		}
	}
}

// To look at one in the queue takes some 40 ns, and 1 µs where tenants take turns
// (BenchmarkLongQueue). With a pause of lookPause for each, that is a hundredth of the
// time, however long the queue is and however many are refused. A short queue is not
// spared.
const (
	longQueue     = 100
	lookPause     = 5 * time.Microsecond
	fairLookPause = 100 * time.Microsecond
)

// circuitChanged is called by a circuit, without its lock.
func (g *gate) circuitChanged(c *circuit) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if l := g.lines[c]; l != nil {
		g.reopen(l)
	}
	g.review(time.Now())
}
