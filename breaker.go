package sturdy

import (
	"cmp"
	"context"
	"errors"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sony/gobreaker/v2"
)

// Breaker is a layer that stops knocking on a server that is down. After
// Failures in a row the circuit of that key, by default a scheme and a host,
// opens: its requests are held or refused for OpenFor. Then one is let through
// as a probe. If it succeeds, the circuit closes; if it fails, the circuit
// stays open for twice as long, up to MaxOpen. A probe that is out for longer
// than that gives its place to another.
//
// A failure is a connection that could not be made or broke, a timeout, and an
// answer of 408, 424, or 500 and above. A 429 and what is the caller's own doing count
// neither way: a cancelled context, a name that does not exist, a bad
// certificate. Any other answer is a success.
//
// A request that has a deadline waits for the circuit to close, as long as
// that may happen in time. One that has none is refused at once with an
// [ErrCircuitOpen]; RetryAfter says when to come back.
//
// The zero value is ready to use.
//
//	client := &http.Client{Transport: &sturdy.Breaker{
//		Failures: 5,
//		Base:     &sturdy.Retry{},
//	}}
type Breaker struct {
	Base     http.RoundTripper            // sends the requests; nil means http.DefaultTransport
	Failures int                          // in a row that open the circuit; zero means 10, negative means that none do
	OpenFor  time.Duration                // the first open period; zero or negative means 1s
	MaxOpen  time.Duration                // the longest open period; zero or negative means 5s; a Retry-After on a 503 may prolong it up to 1m
	MaxWait  time.Duration                // how long a request waits for the circuit; zero means as long as its deadline allows, and not at all without one; negative means not at all
	Key      func(*http.Request) string   // requests with one key share one circuit; nil means scheme and host
	Observe  func(context.Context, Event) // is told of changes, waits and refusals; nil means nobody watches

	circuits keyed[*circuit]
	open     atomic.Int32 // how many circuits are not closed
}

const maxOpenHint = time.Minute // the longest open period that a server may ask for

// RoundTrip sends req if the circuit is closed, or when it closes.
func (b *Breaker) RoundTrip(req *http.Request) (*http.Response, error) {
	return b.send(req, baseOf(b.Base), nil)
}

// CloseIdleConnections closes those of Base.
func (b *Breaker) CloseIdleConnections() { closeIdle(b.Base) }

func (b *Breaker) send(req *http.Request, next http.RoundTripper, watch func(context.Context, Event)) (*http.Response, error) {
	passed := false
	defer func() {
		if !passed {
			closeBody(req)
		}
	}()
	entry := b.circuits.use(b.keyOf(req), b.newCircuit)
	defer b.circuits.release(entry)
	c := entry.state
	report := reporter{entry.key, req, watchers{b.Observe, watch}}

	a, waited, err := c.admit(req, b.MaxWait)
	if err != nil {
		report.refusal(err)
		return nil, err
	}
	// Whatever happens, the circuit hears of it: a probe that is never heard of
	// again would leave it half-open for ever.
	verdict := errNeutral
	var e *Error
	defer func() { report.all(c.settle(a, verdict, e)) }()
	report.wait(waited)
	if a.probe != nil {
		report.all([]Event{{Kind: EventHalfOpen}})
	}
	queue, _ := next.(queuer)
	if queue != nil && (waited > 0 || a.probe != nil) {
		if err := queue.rejoin(req); err != nil {
			return nil, err
		}
	}
	passed = true
	resp, err := send(next, req)
	e = judge(req, resp, err)
	if queue != nil && e != nil && a.probe != nil {
		queue.heed(req, e)
	}
	verdict = outcome(e)
	return resp, err
}

// A queuer is what is below a Breaker in a Transport, where a queue is above
// it. Who waits for the circuit, or follows a probe, has left the queue, and must
// not pass those who wait there for a pause to end.
type queuer interface {
	rejoin(*http.Request) error // waits for a pause that began in the meantime
	heed(*http.Request, *Error) // begins a pause, before the circuit lets the next one in
}

// hold waits until the circuit may let req in, or refuses it, without letting it
// in: in a Transport nobody pays a token, or waits for a turn, for a request that
// the circuit refuses.
func (b *Breaker) hold(req *http.Request, watch func(context.Context, Event)) error {
	if b.open.Load() == 0 {
		return nil
	}
	entry := b.circuits.use(b.keyOf(req), b.newCircuit)
	defer b.circuits.release(entry)
	report := reporter{entry.key, req, watchers{b.Observe, watch}}
	entry.state.mu.Lock()
	waited, err := entry.state.wait(req, b.MaxWait)
	entry.state.mu.Unlock()
	if err != nil {
		report.refusal(err)
		return err
	}
	report.wait(waited)
	return nil
}

func (b *Breaker) keyOf(req *http.Request) key {
	if b.Key != nil {
		return key{name: b.Key(req)}
	}
	return originKey(req)
}

// A reporter tells what happened to a request, outside every lock.
type reporter struct {
	key key
	req *http.Request
	w   watchers
}

func (r *reporter) all(events []Event) {
	for _, ev := range events {
		ev.Key = r.key.display(r.req, r.w)
		r.w.see(r.req, ev)
	}
}

func (r *reporter) wait(d time.Duration) {
	if d > 0 {
		r.all([]Event{{Kind: EventWait, Wait: d}})
	}
}

func (r *reporter) refusal(err error) {
	if e, ok := errors.AsType[*Error](err); ok {
		r.all([]Event{{Kind: EventRefuse, Err: e}})
	}
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
	case e.Class == 0, e.Class.kindOf(ErrRateLimit), e.Class.kindOf(ErrNotSent):
		return errNeutral
	case e.Class.kindOf(ErrConnection) && e.again == againNever:
		return errNeutral // a mistake, not an outage
	case e.Class.kindOf(ErrConnection), e.Class.kindOf(ErrInternalServer):
		return errFailed
	}
	return nil
}

// A circuit is the state of one key. gobreaker keeps count, and sees to it that
// an answer to a request from before the last change does not count. What it
// has no notion of is here: an open period that grows, a probe that takes too
// long, and those who wait.
type circuit struct {
	failures         int
	openFor, maxOpen time.Duration
	open             *atomic.Int32

	mu      sync.Mutex
	machine *gobreaker.TwoStepCircuitBreaker[struct{}]
	until   time.Time     // nobody is let in before; zero if the circuit is closed
	opened  int           // how often in a row it opened
	probe   *probe        // the last that was let in, until it is heard of
	changed chan struct{} // closed at the next change; nil if nobody waits for one
	events  []Event       // of changes that were not reported yet
	last    *Error        // the failure that is being settled
	lasting string        // what opened the circuit, in words
}

// A probe is a lease: when it is over, another one may be sent. The answer
// counts all the same, however late.
type probe struct {
	done  func(error)
	until time.Time
	over  bool
}

// An admission is how to tell gobreaker what became of a request.
type admission struct {
	done  func(error)
	probe *probe // nil for a request through a closed circuit
}

func (b *Breaker) newCircuit() *circuit {
	c := &circuit{failures: cmp.Or(b.Failures, 10), openFor: b.OpenFor, maxOpen: b.MaxOpen, open: &b.open}
	if c.openFor <= 0 {
		c.openFor = time.Second
	}
	if c.maxOpen <= 0 {
		c.maxOpen = 5 * time.Second
	}
	c.machine = gobreaker.NewTwoStepCircuitBreaker[struct{}](gobreaker.Settings{
		MaxRequests: 1,
		Timeout:     1, // until says how long
		ReadyToTrip: func(n gobreaker.Counts) bool {
			return c.failures > 0 && int64(n.ConsecutiveFailures) >= int64(c.failures)
		},
		IsExcluded:    func(err error) bool { return err == errNeutral }, //nolint:errorlint // the value itself
		OnStateChange: c.change,
	})
	return c
}

// idle reports whether the circuit may be forgotten, and then is: the layer no
// longer counts it as open. A run of failures that has not opened it is not
// worth keeping, nor is an open period that is long over.
func (c *circuit) idle() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.until.IsZero() {
		return true
	}
	if time.Since(c.until) < maxOpenHint {
		return false
	}
	c.until = time.Time{}
	c.open.Add(-1)
	return true
}

// admit lets req in. If the circuit is open it waits, or refuses.
func (c *circuit) admit(req *http.Request, maxWait time.Duration) (a admission, waited time.Duration, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for {
		if c.until.IsZero() {
			a.done, err = c.machine.Allow()
			return a, waited, err
		}
		w, err := c.wait(req, maxWait)
		if waited += w; err != nil {
			return a, waited, err
		}
		if c.until.IsZero() {
			continue
		}
		if c.probe != nil { // took too long: its place is another's
			c.probe.over = true
			c.probe.done(errNeutral)
		}
		if a.done, err = c.machine.Allow(); err != nil {
			return a, waited, c.refusal(0)
		}
		lease := max(c.openFor, c.maxOpen)
		a.probe = &probe{done: a.done, until: time.Now().Add(lease)}
		c.probe = a.probe
		return a, waited, nil
	}
}

// wait returns when the circuit may let a request in, or why it does not. It is
// called with the lock, and waits without it.
func (c *circuit) wait(req *http.Request, maxWait time.Duration) (waited time.Duration, err error) {
	if c.until.IsZero() {
		return 0, nil
	}
	began := time.Now()
	latest, patient := patience(req, began, maxWait)
	for now := began; ; now = time.Now() {
		next := c.until // when something may change by itself
		if !now.Before(next) && c.probe != nil {
			next = c.probe.until
		}
		if !now.Before(next) {
			return now.Sub(began), nil
		}
		if !patient || !now.Before(latest) || !c.until.Before(latest) {
			return 0, c.refusal(next.Sub(now))
		}
		if latest.Before(next) {
			next = latest
		}
		if err := c.await(req, next.Sub(now)); err != nil {
			return 0, err
		}
	}
}

// patience is until when req waits for the circuit; false if it does not wait.
func patience(req *http.Request, now time.Time, maxWait time.Duration) (latest time.Time, ok bool) {
	deadline, bounded := deadlineOf(req)
	switch {
	case maxWait < 0, maxWait == 0 && !bounded:
		return time.Time{}, false
	case maxWait == 0:
		return deadline, true
	}
	latest = now.Add(maxWait + 1) // what comes at MaxWait is in time
	if bounded && deadline.Before(latest) {
		latest = deadline
	}
	return latest, true
}

// await waits for d, or for a change of state.
func (c *circuit) await(req *http.Request, d time.Duration) error {
	if c.changed == nil {
		c.changed = make(chan struct{})
	}
	changed := c.changed
	c.mu.Unlock()
	defer c.mu.Lock()
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-changed:
	case <-req.Context().Done():
	case <-cancelled(req):
	}
	return gone(req)
}

func (c *circuit) refusal(open time.Duration) *Error {
	return refusal(ErrCircuitOpen, cmp.Or(open, c.openFor), errors.New("sturdy: "+c.lasting))
}

// settle books the outcome of a request, and returns the events of it.
func (c *circuit) settle(a admission, outcome error, e *Error) []Event {
	c.mu.Lock()
	defer c.mu.Unlock()
	neutral := outcome == errNeutral //nolint:errorlint // the value itself
	// A probe whose lease is over has given its place back already.
	if a.probe == nil || !a.probe.over || !neutral {
		c.last = e
		a.done(outcome)
		c.last = nil
	}
	if a.probe != nil && a.probe == c.probe {
		c.probe = nil
		c.wakeAll() // if it said nothing, it is the next one's turn
	}
	return c.takeEvents()
}

// change is called by gobreaker, within Allow and done, with the lock held. It
// takes itself for half-open at once, but is not asked to let a probe pass
// before until.
func (c *circuit) change(_ string, _, to gobreaker.State) {
	switch to {
	case gobreaker.StateOpen:
		if c.opened++; c.until.IsZero() {
			c.open.Add(1)
		}
		ev := Event{Kind: EventOpen, Wait: c.period(), Err: c.last}
		c.until = time.Now().Add(ev.Wait)
		c.lasting = "the last of its failures: " + c.last.Class.phrase()
		c.events = append(c.events, ev)
	case gobreaker.StateClosed:
		if !c.until.IsZero() {
			c.open.Add(-1)
		}
		c.until, c.opened = time.Time{}, 0
		c.events = append(c.events, Event{Kind: EventClose})
	default:
		return
	}
	c.probe = nil
	c.wakeAll()
}

// period is how long the circuit stays open: twice as long each time, and at
// least as long as an overloaded server asked for.
func (c *circuit) period() time.Duration {
	d := c.openFor
	for range c.opened - 1 {
		if d >= c.maxOpen {
			break
		}
		d *= 2
	}
	d = min(d, max(c.maxOpen, c.openFor))
	if c.last != nil && c.last.Class == ErrOverloaded {
		d = max(d, min(c.last.RetryAfter, maxOpenHint))
	}
	return d
}

func (c *circuit) wakeAll() {
	if c.changed != nil {
		close(c.changed)
		c.changed = nil
	}
}

func (c *circuit) takeEvents() []Event {
	events := c.events
	c.events = nil
	return events
}
