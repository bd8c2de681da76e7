package sturdy

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"math"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/sturdyhttp/sturdy/internal/times"

	"github.com/sony/gobreaker/v2"
	"golang.org/x/time/rate"
)

// Breaker is a layer that stops knocking on a server that is down. When
// Failures in a row, or nearly all of the latest requests, have failed, the
// circuit of that key, by default a scheme and a host, opens: its requests are
// held or refused for OpenFor. Then one is let through as a probe. If it
// succeeds, the circuit closes, and those who waited leave one by one, faster and
// faster, so that the server does not fall again; if it fails, the circuit stays
// open for twice as long, up to MaxOpen. A probe that is out for longer than that
// gives its place to another.
//
// A failure is a connection that could not be made or broke, also in the middle
// of a body, a timeout, and an answer of 408, 424, or 500 and above. A 429, a 503 that a
// RateLimit in the same Transport takes for a limit's, and what is the caller's own doing
// count neither way: a cancelled context, a name that does not exist, a bad certificate, an error that Base makes up by itself, such as
// another limiter's, or that it met on the way to a token. Any other answer is a
// success, also a 501 and others that repeating does not cure. Failures of
// requests that were all sent before the first of them was known count as one: it
// takes one moment, or one connection that breaks, to fail everything in flight.
//
// A request waits for the circuit to close, as long as its deadline allows, and
// for 30 seconds without one, or as long as an overloaded server asked for. If the
// circuit cannot close in that time, it is refused at once with an [ErrCircuitOpen];
// RetryAfter says when to come back.
//
// MaxKeys are kept, at some 2 KiB each. For a new one, one makes room that is not in
// use, and whose circuit is closed and has seen no failure of late. If there is none, an
// [EventKeys] says so, once a minute, and the new key has a circuit of its own for as
// long as any of its requests is out: one that it shared with other hosts would refuse
// the requests to one for the failures of another.
//
// The zero value is ready to use.
//
//	client := &http.Client{Transport: &sturdy.Breaker{
//		Failures: 5,
//		Base:     &sturdy.Retry{},
//	}}
type Breaker struct {
	Base        http.RoundTripper            // sends the requests; nil means http.DefaultTransport
	Failures    int                          // in a row that open the circuit; zero means 10, or more while some fail by chance; negative means that none do
	Ratio       float64                      // of failures among the requests of a Window that opens the circuit; zero means 0.9, negative means that none does
	Window      time.Duration                // that Ratio looks at; zero or negative means 10s
	MinRequests int                          // in a Window, before Ratio means anything; zero or negative means 50
	OpenFor     time.Duration                // the first open period; zero or negative means 1s
	MaxOpen     time.Duration                // the longest open period; zero or negative means 5s; a Retry-After on a 503 may prolong it up to 1m
	MaxWait     time.Duration                // how long a request waits for the circuit; zero means as long as its deadline allows, and 30s without one; negative means not at all
	Answer      bool                         // answer what is refused with a 503 made here, for an SDK that would retry an error; false means an error
	Key         func(*http.Request) string   // requests with one key share one circuit; nil means scheme and host
	MaxKeys     int                          // keys that are kept, see above; zero means 1024, negative means any number
	Observe     func(context.Context, Event) // is told of changes, waits and refusals; nil means nobody watches

	circuits keyed[*circuit]
	idle     idleCloser
}

const (
	maxCircuits = 1024             // keys that are kept: hosts are fewer than callers
	maxOpenHint = time.Minute      // the longest open period that a server may ask for
	slowSuccess = time.Second      // how long a success takes, until one was seen
	maxOpenWait = 30 * time.Second // how long a request without a deadline waits for a circuit
)

// RoundTrip sends req if the circuit is closed, or when it closes.
func (b *Breaker) RoundTrip(req *http.Request) (*http.Response, error) {
	return enter(b, req, b.roundTrip)
}

func (b *Breaker) roundTrip(req *http.Request) (*http.Response, error) {
	resp, err := gated(req, baseOf(b.Base), nil, b, nil)
	answerTo(req, req, resp)
	return b.answer(req, resp, err)
}

// CloseIdleConnections closes those of Base.
func (b *Breaker) CloseIdleConnections() { b.idle.closeIdle(b.Base) }

func (b *Breaker) check() error {
	switch {
	case math.IsNaN(b.Ratio) || b.Ratio > 1:
		return misconfigured("Breaker.Ratio is not between 0 and 1: %v", b.Ratio)
	case b.OpenFor > 0 && b.MaxOpen > 0 && b.OpenFor > b.MaxOpen:
		return misconfigured("Breaker.OpenFor is more than Breaker.MaxOpen: %v, %v", b.OpenFor, b.MaxOpen)
	}
	return nil
}

// circuitOf returns the circuit of req's key, and whether it should be reported
// that there is no room for that.
func (b *Breaker) circuitOf(req *http.Request) (*entry[*circuit], bool) {
	return b.circuits.useWithin(b.keyOf(req), keeping[*circuit]{most: cmp.Or(b.MaxKeys, maxCircuits), fresh: b.newCircuit})
}

func (b *Breaker) keyOf(req *http.Request) key {
	if b.Key != nil {
		return key{name: b.Key(req)}
	}
	return originKey(req)
}

// What gobreaker is told of a request. A nil error is a success.
var (
	errFailed  = errors.New("failed")
	errNeutral = errors.New("says nothing of the server")
)

// outcome is what e says of the server's health.
func outcome(e *Error) error {
	switch {
	case e == nil:
		return nil
	case e.Class == 0, e.foreign, e.limit, e.Class.kindOf(ErrRateLimit), e.Class.kindOf(ErrNotSent):
		return errNeutral
	case e.StatusCode != 0 && e.again == againNever:
		return nil // such as 501: the server works, and says that this will not
	case e.Class.kindOf(ErrConnection) && e.again == againNever:
		return errNeutral // a mistake, not an outage
	case e.Class.kindOf(ErrConnection), e.Class.kindOf(ErrInternalServer):
		return errFailed
	}
	return nil
}

// A circuit is the state of one key. gobreaker keeps count of the outcomes and
// decides when the circuit opens and closes. It is told of an outcome when that
// is known, not when the request is sent: so failures that take longer than the
// window count, and a probe that is never heard of holds nothing. What it has
// no notion of is here: an open period that grows, the probe's lease, those who
// wait, and their return.
//
// The methods of a nil circuit let everything pass.
type circuit struct {
	failures         int
	strict           bool // failures is the caller's own number
	ratio            float64
	minRequests      int
	window           time.Duration
	openFor, maxOpen time.Duration

	mu         sync.Mutex
	machine    *gobreaker.TwoStepCircuitBreaker[struct{}]
	admitted   int                // requests so far
	out        int                // of these that have not come back
	takes      time.Duration      // how long a success takes; 0 until one was seen
	run        failures           // in a row
	recent     failures           // that machine counts; none if successes need not be counted
	broken     failures           // bodies in a row that broke
	chance     chance             // of a failure while the server works
	trials     int                // probes that may still fail, as they do by chance
	generation int                // how often the state changed
	since      time.Time          // when it opened
	until      time.Time          // nobody is let in before; zero if the circuit is closed
	asked      time.Time          // nobody is let in before, as the server said, or who opened it by hand
	opened     int                // how often in a row it opened
	forced     bool               // it is to open whatever the count
	probe      *probe             // the last that was let in, until it is heard of
	ramp       ramp               // how fast they return
	gates      map[*gate]struct{} // where some wait for a change
	events     []Event            // of changes that were not reported yet
	last       *Error             // the failure that is being booked
	lasting    string             // what opened the circuit, in words

	alone *gate // the queue, where there is no RateLimit
}

// failures are how many requests failed, of which those that were sent before
// the first failure was known count once, with that one.
type failures struct {
	n     int
	since time.Time // when the first failure came back
	last  time.Time // when the last of them did
	known int       // requests that had been sent then
}

// add counts the failure of the nth request, when so many were sent, and reports
// whether it says more than the first.
func (f *failures) add(nth, sent int) bool {
	now := time.Now()
	switch {
	case f.n == 0:
		*f = failures{since: now, known: sent}
	case nth <= f.known:
		return false
	}
	f.last = now
	f.n++
	return true
}

// A probe is a lease: when it is over, another one may be sent. The answer
// counts all the same, if the circuit has not changed since.
type probe struct {
	until time.Time
	of    *call // what it belongs to
}

// sends reports whether req is sent on behalf of the probe itself, such as for
// its token.
func (p *probe) sends(req *http.Request) bool {
	return p != nil && p.of != nil && p.of == rootCall(req)
}

// An admission is what a circuit knows a request by that it let through.
type admission struct {
	nth        int // of all requests that were let through
	at         time.Time
	generation int
	probe      *probe // nil for a request through a closed circuit
	aside      bool   // it is not asked for its outcome
}

func (b *Breaker) newCircuit() *circuit {
	c := &circuit{
		failures:    cmp.Or(b.Failures, 10),
		strict:      b.Failures != 0,
		ratio:       cmp.Or(b.Ratio, 0.9),
		minRequests: b.MinRequests,
		window:      b.Window,
		openFor:     b.OpenFor,
		maxOpen:     b.MaxOpen,
		alone:       newGate(rate.Inf, 1),
	}
	c.alone.pace.Fixed = true
	if c.minRequests <= 0 {
		c.minRequests = 50
	}
	if c.openFor <= 0 {
		c.openFor = time.Second
	}
	if c.maxOpen <= 0 {
		c.maxOpen = 5 * time.Second
	}
	if c.window <= 0 {
		c.window = 10 * time.Second
	}
	c.machine = c.newMachine()
	return c
}

func (c *circuit) newMachine() *gobreaker.TwoStepCircuitBreaker[struct{}] {
	return gobreaker.NewTwoStepCircuitBreaker[struct{}](gobreaker.Settings{
		MaxRequests:   1,
		Interval:      c.window,
		BucketPeriod:  max(c.window/10, 1),
		Timeout:       1, // until says how long
		ReadyToTrip:   c.trips,
		OnStateChange: c.change,
	})
}

// trips reports whether the circuit opens. It is called with the lock, within
// book. What gobreaker calls consecutive ends with its window.
func (c *circuit) trips(n gobreaker.Counts) bool {
	seen := n.TotalFailures + n.TotalSuccesses
	return c.forced ||
		c.failures > 0 && (c.inRow() || c.broken.n >= c.failures) ||
		c.ratio > 0 && int64(seen) >= int64(c.minRequests) && float64(n.TotalFailures) >= c.ratio*float64(seen)
}

// inRow reports whether so many have failed in a row that the server is down. A
// number of the caller's own is taken at its word.
func (c *circuit) inRow() bool {
	if c.strict {
		return c.run.n >= c.failures
	}
	// Failures come sooner than the successes that were sent among them.
	settled := c.out == 0 || time.Since(c.run.since) >= cmp.Or(c.takes, slowSuccess)
	return settled && c.run.n >= max(c.failures, c.chance.longest(1e-6))
}

// idle reports whether the circuit may be forgotten: it is closed and does not
// count failures. Those that were the last are not worth keeping once they are old,
// nor is an open period that is long over.
func (c *circuit) idle() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.until.IsZero() {
		return time.Since(c.until) >= maxOpenHint
	}
	last := times.Later(times.Later(c.run.last, c.recent.last), c.broken.last)
	return last.IsZero() || time.Since(last) >= max(c.window, maxOpenHint)
}

// admit lets a request in and returns 0, or how long to wait before asking
// again, unless the circuit changes sooner. The time at which the line may return that
// req is in is kept there.
func (c *circuit) admit(now time.Time, req *http.Request, kept *time.Time) (admission, time.Duration) {
	if c == nil {
		return admission{}, 0
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.until.IsZero():
		if kept != nil && kept.IsZero() && len(c.gates) <= 1 {
			kept = nil // nobody else asks
		}
		if d := c.ramp.admit(now, kept); d > 0 {
			return admission{}, d
		}
		return c.pass(now), 0
	case now.Before(c.until):
		return admission{}, c.until.Sub(now)
	case c.probe.sends(req):
		return admission{aside: true}, 0
	case c.probe != nil && now.Before(c.probe.until):
		return admission{}, c.probe.until.Sub(now)
	}
	c.probe = &probe{until: now.Add(max(c.openFor, c.maxOpen)), of: rootCall(req)}
	a := c.pass(now)
	a.probe = c.probe
	return a, 0
}

func (c *circuit) pass(now time.Time) admission {
	c.admitted++
	c.out++
	return admission{nth: c.admitted, at: now, generation: c.generation}
}

// depart is for a request that is sent later than it was let through, at now.
func (c *circuit) depart(a admission, now time.Time) admission {
	if c == nil {
		return a
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.admitted++
	a.nth, a.at = c.admitted, now
	return a
}

// time measures how long a success took, of some.
func (c *circuit) time(a admission) {
	if c.takes == 0 || a.nth%64 == 0 || c.recent.n > 0 {
		took := time.Since(a.at)
		c.takes += (took - cmp.Or(c.takes, took)) / 8
		c.takes = cmp.Or(c.takes, took)
	}
}

// probes reports whether the next that is admitted at now is a probe.
func (c *circuit) probes(now time.Time) bool {
	if c == nil {
		return false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return !c.until.IsZero() && !now.Before(c.until) && (c.probe == nil || !now.Before(c.probe.until))
}

// refusal returns why a request does not wait for the circuit until then; nil if
// it does, or need not. With asked, it waits as long as the server asked for, too.
// It may be let in sooner than it was told, as it cannot wait for longer.
func (c *circuit) refusal(now, until time.Time, asked bool, req *http.Request) (e *Error, sooner bool) {
	if c == nil {
		return nil, false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	next := c.until // when something may change by itself
	switch {
	case c.until.IsZero():
		return nil, false
	case now.Before(next):
	case c.probe == nil || c.probe.sends(req) || !now.Before(c.probe.until):
		return nil, false
	default:
		next = c.probe.until
	}
	switch {
	case !asked:
		sooner = c.hurry(now, until)
	case c.asked.Sub(now) <= maxOpenHint: // else it was opened by hand
		until = times.Later(until, c.asked.Add(time.Second))
	}
	if now.Before(until) && c.until.Before(until) {
		return nil, sooner
	}
	return refusal(ErrCircuitOpen, max(next.Sub(now), 1), errors.New("sturdy: "+c.lasting)), sooner
}

// hurry makes the open period as short as the first, where somebody waits who
// cannot wait longer, and reports whether it did: no guess of when the server is back
// refuses them.
func (c *circuit) hurry(now, until time.Time) bool {
	soon := times.Later(times.Later(c.since.Add(c.openFor), c.asked), now)
	if !soon.Before(until) || !soon.Before(c.until) || c.until.Before(until) {
		return false
	}
	c.until = soon
	return true
}

// isOpen reports whether the circuit lets nobody pass but a probe.
func (c *circuit) isOpen() bool {
	if c == nil {
		return false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return !c.until.IsZero()
}

// state returns the state at now, and until when nobody is let in.
func (c *circuit) state(now time.Time) (State, time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.until.IsZero():
		return StateClosed, c.until
	case now.Before(c.until):
		return StateOpen, c.until
	}
	return StateHalfOpen, c.until
}

// trip opens the circuit until then.
func (c *circuit) trip(until time.Time) {
	c.mu.Lock()
	if c.until.IsZero() {
		c.forced = true
		c.tell(errFailed, nil)
		c.forced = false
	}
	c.until, c.asked = until, until
	c.unlock(true)
}

// reset closes the circuit.
func (c *circuit) reset() {
	c.mu.Lock()
	if !c.until.IsZero() {
		c.change("", gobreaker.StateOpen, gobreaker.StateClosed)
	}
	c.machine = c.newMachine()
	c.run, c.broken, c.recent = failures{}, failures{}, failures{}
	c.unlock(true)
}

// arrived counts a request that wants to pass.
func (c *circuit) arrived(now time.Time) {
	if c == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ramp.came.add(now, rampWindow)
}

// waits and leaves keep the list of the gates where some wait.
func (c *circuit) waits(g *gate) {
	if c == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.gates == nil {
		c.gates = make(map[*gate]struct{})
	}
	c.gates[g] = struct{}{}
}

// leaves has g wait no more, for which this time to leave may be kept.
func (c *circuit) leaves(g *gate, kept time.Time) {
	if c == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.gates, g)
	c.ramp.giveBack(kept)
}

// settle books the outcome of a request, lets those who wait look again, and
// returns the events of it, and what the request's body is known by. It is
// called without the lock of any gate.
func (c *circuit) settle(a admission, outcome error, e *Error) ([]Event, admission) {
	if c == nil || a.aside {
		return nil, a
	}
	c.mu.Lock()
	generation := c.generation
	current := a.generation == generation
	c.out--
	mine := a.probe != nil && a.probe == c.probe
	if mine {
		c.probe = nil // if it said nothing, it is the next one's turn
	}
	switch {
	case outcome == errNeutral: //nolint:errorlint // the value itself
	case mine && outcome != nil && c.trials > 1:
		c.trials-- // while the server works, so many fail that another is to see
	case current:
		c.book(a, outcome, e)
	case e != nil && !c.until.IsZero():
		if asked := time.Now().Add(hint(e)); asked.After(c.until) {
			c.until, c.asked = asked, asked // refused while the circuit opened
		}
	}
	a.generation, a.probe = c.generation, nil
	return c.unlock(mine || c.generation != generation), a
}

// ended books how the body of an answer ended that was a success so far.
func (c *circuit) ended(a admission, outcome error, e *Error) []Event {
	if c == nil || a.aside {
		return nil
	}
	c.mu.Lock()
	generation := c.generation
	switch {
	case a.generation != generation || outcome == errNeutral: //nolint:errorlint // the value itself
	case outcome == nil:
		c.broken = failures{}
	default:
		c.broken.add(a.nth, c.admitted)
		c.book(a, outcome, e)
	}
	return c.unlock(c.generation != generation)
}

// book counts an outcome. As long as nothing fails gobreaker need not hear of
// it: the ratio begins with the first failure.
func (c *circuit) book(a admission, outcome error, e *Error) {
	if outcome == nil {
		c.time(a)
		c.ramp.succeeded()
	}
	switch {
	case outcome != nil:
		if a.nth > c.ramp.known && c.run.n >= c.chance.longest(0.05) {
			c.ramp.failed(time.Now(), c.admitted)
		}
		c.run.add(a.nth, c.admitted)
		if c.recent.add(a.nth, c.admitted) {
			c.tell(outcome, e)
		}
	case c.recent.n > 0 || !c.until.IsZero():
		if c.until.IsZero() {
			c.chance.ended(c.run.n, c.admitted)
		}
		c.run = failures{}
		c.tell(nil, nil)
		if c.machine.Counts().TotalFailures == 0 {
			c.recent = failures{}
		}
	}
}

// tell tells gobreaker of an outcome.
func (c *circuit) tell(outcome error, e *Error) {
	done, err := c.machine.Allow()
	if err != nil {
		return
	}
	c.last = e
	done(outcome)
	c.last = nil
}

// unlock gives the lock back, and then, if the circuit has changed, tells those
// who wait.
func (c *circuit) unlock(changed bool) []Event {
	events := c.events
	c.events = nil
	var gates []*gate
	if changed {
		gates = slices.Collect(maps.Keys(c.gates))
	}
	c.mu.Unlock()
	for _, g := range gates {
		g.circuitChanged(c)
	}
	return events
}

// change is called by gobreaker, with the lock held. It takes itself for
// half-open at once, but is not told of a probe before until.
func (c *circuit) change(_ string, _, to gobreaker.State) {
	now := time.Now()
	switch to {
	case gobreaker.StateOpen:
		c.opened++
		if c.until.IsZero() {
			c.ramp.stop(now)
		}
		ev := Event{Kind: EventOpen, Wait: c.period(), Err: c.last}
		if !c.strict {
			c.trials = c.chance.longest(0.02)
		}
		c.since, c.until, c.asked = now, now.Add(ev.Wait), now.Add(hint(c.last))
		c.lasting = "its circuit was opened by hand"
		if c.last != nil {
			c.lasting = "the last of its failures: " + c.last.Class.phrase()
		}
		c.events = append(c.events, ev)
	case gobreaker.StateClosed:
		c.until, c.asked, c.opened = time.Time{}, time.Time{}, 0
		c.run, c.broken, c.recent = failures{}, failures{}, failures{}
		c.ramp.start(now)
		c.events = append(c.events, Event{Kind: EventClose})
	default:
		return
	}
	c.generation++
	c.probe = nil
}

// period is how long the circuit stays open: twice as long each time, at least
// as long as an overloaded server asked for, and a little longer, lest all who
// failed together come back together.
func (c *circuit) period() time.Duration {
	d := c.openFor
	for range c.opened - 1 {
		if d >= c.maxOpen {
			break
		}
		d *= 2
	}
	d = min(d, max(c.maxOpen, c.openFor))
	d = max(d, hint(c.last))
	return d + jitter(min(d/10, 500*time.Millisecond))
}

// hint is how long an overloaded server asked to be left alone.
func hint(e *Error) time.Duration {
	if e == nil || e.Class != ErrOverloaded {
		return 0
	}
	return min(e.RetryAfter, maxOpenHint)
}
