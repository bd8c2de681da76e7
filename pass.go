package sturdy

import (
	"context"
	"errors"
	"net/http"
	"time"

	"golang.org/x/time/rate"
)

// gated is how RateLimit and Breaker let a request pass, each alone or, in a
// Transport, both: l or b may be nil. They share one queue, so that whoever
// leaves it may leave for both of them, and nobody pays a token for what the
// circuit refuses.
func gated(req *http.Request, next http.RoundTripper, l *RateLimit, b *Breaker, watch func(context.Context, Event)) (*http.Response, error) {
	p := passage{req: req, limit: l, breaker: b, transport: watch}
	defer p.close()
	if err := p.open(); err != nil {
		return nil, err
	}
	p.sent = true
	resp, err := send(next, req)
	p.resp = resp
	p.learn(judge(req, resp, err))
	p.resp = nil
	return resp, err
}

// A passage is one request's way through a gate.
type passage struct {
	req       *http.Request
	limit     *RateLimit
	breaker   *Breaker
	transport func(context.Context, Event)

	gate    *gate
	limited *entry[*gate]
	circuit *entry[*circuit]
	pass    pass
	left    bool           // the gate, with pass
	sent    bool           // the base has the request
	resp    *http.Response // while nobody else has it
	settled bool           // it is booked what became of the request
	e       *Error
	notes   []note // that nobody was told of yet
}

// A note is an event of RateLimit's or of Breaker's.
type note struct {
	limit bool
	Event
}

// open returns when the request may leave.
func (p *passage) open() error {
	w := wish{units: 1}
	var crowded bool
	if p.breaker != nil {
		if err := p.breaker.check(); err != nil {
			return err
		}
		if p.circuit, crowded = p.breaker.circuitOf(p.req); crowded {
			p.tell(false, Event{Kind: EventKeys})
		}
		w.circuit, w.patient = p.circuit.state, p.breaker.MaxWait
		p.gate = w.circuit.alone
	}
	if p.limit != nil {
		if err := p.limit.check(); err != nil {
			return err
		}
		if p.limited, crowded = p.limit.gateOf(p.req); crowded {
			p.tell(true, Event{Kind: EventKeys})
		}
		p.gate = p.limited.state
		w.units = p.limit.units(p.req)
		if p.limit.MaxWait > 0 {
			w.waitEnds = time.Now().Add(p.limit.MaxWait)
		}
		if p.gate.prices != nil {
			w.model = modelOf(p.req, maxEvent)
		}
	}
	waited, err := p.leave(w)
	if err != nil {
		p.tellRefusal(err)
		return err
	}
	if waited > 0 {
		p.tellPlace(p.limit != nil, Event{Kind: EventWait, Wait: waited})
	}
	if p.pass.admitted.probe != nil {
		p.tell(false, Event{Kind: EventHalfOpen})
	}
	return nil
}

// leave returns when the request has left the gate and may be sent, and how long
// that took.
func (p *passage) leave(w wish) (waited time.Duration, err error) {
	for w.pays = p.limit != nil && p.limit.Limiter != nil; ; {
		p.pass, err = p.enter(w)
		if err != nil {
			return 0, err
		}
		p.left = true
		waited += p.pass.waited
		if !w.pays {
			return waited, nil
		}
		began := time.Now()
		paid, overtaken, err := p.pay()
		if err != nil {
			return 0, err
		}
		waited += time.Since(began)
		if !overtaken {
			return waited, nil
		}
		w.pays = !paid
		p.comeBack()
	}
}

// comeBack undoes that the request has left the gate, before it was sent.
func (p *passage) comeBack() {
	p.left = false
	p.gate.takeBack(&p.pass)
	p.pass.circuit.settle(p.pass.admitted, errNeutral, nil)
}

// enter returns when the request may leave the gate.
func (p *passage) enter(w wish) (pass, error) {
	leave, t, err := p.gate.enter(p.req, w)
	if t == nil {
		return leave, err
	}
	told := false
	defer func() {
		if !told {
			p.gate.quit(t) // a hook has panicked
		}
	}()
	if p.limit != nil {
		p.tellPlace(true, Event{Kind: EventQueue})
	}
	told = true
	return p.gate.await(t)
}

// learn takes in what became of the request, and tells of it when all is booked.
func (p *passage) learn(e *Error) {
	p.e = e
	p.noteLatency(e)
	if p.limit != nil {
		p.limit.learn(p, p.resp, e)
	} else {
		p.gate.landed(&p.pass)
	}
	p.settled = true
	var events []Event
	events, p.pass.admitted = p.pass.circuit.settle(p.pass.admitted, outcome(e), e)
	for _, ev := range events {
		p.notes = append(p.notes, note{false, ev})
	}
	if e != nil && p.pass.circuit.isOpen() {
		if c := callOf(p.req); c != nil {
			c.paced = true
		}
	}
	for _, n := range p.notes {
		p.tell(n.limit, n.Event)
	}
	if e == nil && p.resp.Body != http.NoBody {
		p.follow(p.resp)
	}
}

// follow has the body of a success tell what becomes of it.
func (p *passage) follow(resp *http.Response) {
	meters := p.limit != nil && p.gate.tokens != nil && resp.StatusCode != http.StatusSwitchingProtocols
	if !meters && p.pass.circuit == nil {
		return
	}
	f := &follower{passage: *p}
	if meters {
		resp.Body = &metered{resp.Body, &f.usage}
	}
	resp.Body = onEnd(resp.Body, f.ended)
}

// A follower is what is left of a passage while the body is read.
type follower struct {
	passage

	usage usageMeter
}

// ended corrects the outcome by what the body ended with, and the estimate of
// the tokens by what were used.
func (f *follower) ended(err error) {
	if used := f.usage.used(); used > 0 {
		f.gate.settle(&f.pass, float64(used))
	}
	if f.pass.circuit == nil {
		return
	}
	var e *Error
	if err != nil {
		e = judge(f.req, nil, err)
	}
	for _, ev := range f.pass.circuit.ended(f.pass.admitted, outcome(e), e) {
		f.tell(false, ev)
	}
}

// news notes a limit of the server's that was learned.
func (p *passage) news() {
	if p.limit.Observe == nil && p.transport == nil {
		return
	}
	if r, ok := p.gate.news(); ok {
		p.notes = append(p.notes, note{true, Event{Kind: EventLimit, Rate: rate.Limit(r)}})
	}
}

// close gives back what the request holds, whatever happened to it: a probe
// that is never heard of again would leave a circuit half-open. Then it closes
// the bodies that nobody else has.
func (p *passage) close() {
	switch {
	case !p.left || p.settled:
	case p.sent:
		p.gate.landed(&p.pass)
		p.pass.circuit.settle(p.pass.admitted, errNeutral, nil)
	default:
		p.comeBack()
	}
	if p.limited != nil && !p.limit.gates.release(p.limited) && p.e != nil {
		p.e.notBefore = time.Time{} // nobody is in charge of the wait any more
	}
	if p.circuit != nil {
		p.breaker.circuits.release(p.circuit)
	}
	if !p.sent {
		closeBody(p.req)
	} else if p.resp != nil {
		p.resp.Body.Close()
	}
}

// tell reports an event, of RateLimit's or of Breaker's.
func (p *passage) tell(limit bool, ev Event) {
	var w watchers
	if limit {
		w = watchers{p.limit.Observe, p.transport}
		ev.Key = p.limited.key.display(p.req, w)
	} else {
		w = watchers{p.breaker.Observe, p.transport}
		ev.Key = p.circuit.key.display(p.req, w)
	}
	w.see(p.req, ev)
}

// tellPlace reports an event about the request's place in the queue.
func (p *passage) tellPlace(limit bool, ev Event) {
	ev.Priority, ev.Tenant = priorityOf(p.req.Context()), tenantOf(p.req.Context())
	p.tell(limit, ev)
}

func (p *passage) tellRefusal(err error) {
	if e, ok := errors.AsType[*Error](err); ok {
		p.tellPlace(e.Class != ErrCircuitOpen, Event{Kind: EventRefuse, Err: e})
	}
}
