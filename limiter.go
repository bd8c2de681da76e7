package sturdy

import (
	"context"
	"fmt"
	"time"
)

// A Limiter says when n more requests may be sent: it waits until then, or
// returns an error if that is not before the context ends. A *rate.Limiter is
// one.
//
// It is asked last, for a request that could be sent at once otherwise. If the
// key is paused or the circuit opens while it waits, the context ends, and it is
// asked again later: so little is taken from it for what is not sent. Of one key, 64
// requests ask at the same time at most: a rate.Limiter does not give back what was
// reserved before others. One that does not heed its context holds the request past
// the deadline.
type Limiter interface {
	WaitN(ctx context.Context, n int) error
}

const maxPayers = 64

// A payment is a request that has left the gate and waits for the caller's Limiter.
type payment struct {
	circuit   *circuit
	probes    bool // for the circuit
	cancel    context.CancelFunc
	overtaken bool // it may not be sent any more
}

// pay waits for the caller's Limiter, and reports whether that has let the request
// pass, and whether it must come back to the gate all the same.
func (p *passage) pay() (paid, overtaken bool, err error) {
	end, bounded := deadlineOf(p.req)
	if most := p.pass.waitEnds; !most.IsZero() && (!bounded || most.Before(end)) {
		end, bounded = most, true
	}
	var ctx context.Context
	var cancel context.CancelFunc
	if bounded {
		ctx, cancel = context.WithDeadline(p.req.Context(), end)
	} else {
		ctx, cancel = context.WithCancel(p.req.Context())
	}
	defer cancel()
	if old := cancelled(p.req); old != nil {
		go func() {
			select {
			case <-old:
				cancel()
			case <-ctx.Done():
			}
		}()
	}
	pay := &payment{circuit: p.pass.circuit, probes: p.pass.admitted.probe != nil, cancel: cancel}
	p.gate.begin(pay)
	defer p.gate.end(pay, nil) // also after a panic
	if err = p.limit.Limiter.WaitN(ctx, 1); err == nil {
		p.gate.end(pay, &p.pass)
	} else {
		p.gate.end(pay, nil)
	}
	switch over := gone(p.req); {
	case over != nil:
		return false, false, over
	case err == nil || pay.overtaken:
		return err == nil, pay.overtaken, nil
	}
	return false, false, refusal(ErrWaitTooLong, 0, fmt.Errorf("sturdy: RateLimit.Limiter: %w", err))
}

func (g *gate) begin(pay *payment) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.paying == nil {
		g.paying = make(map[*payment]struct{})
	}
	g.paying[pay] = struct{}{}
	g.line(pay.circuit).paying++
	g.overtake(time.Now()) // it may have been since it left
}

// end ends the wait for the Limiter. The one with this pass is sent now, unless it
// was overtaken.
func (g *gate) end(pay *payment, sent *pass) {
	g.mu.Lock()
	defer g.mu.Unlock()
	now := time.Now()
	if sent != nil && !pay.overtaken {
		sent.pays = false
		g.payers--
		g.pace.Depart(&sent.sent, now)
		sent.admitted = sent.circuit.depart(sent.admitted, now)
	}
	g.stopPaying(pay)
	if g.waiting() > 0 {
		g.pump(now)
	}
}

// overtake has those come back who wait for the Limiter and may not be sent any
// more.
func (g *gate) overtake(now time.Time) {
	paused := now.Before(g.pace.Paused())
	for pay := range g.paying {
		if paused || !pay.probes && pay.circuit.isOpen() {
			pay.overtaken = true
			pay.cancel()
			g.stopPaying(pay)
		}
	}
}

func (g *gate) stopPaying(pay *payment) {
	if _, pays := g.paying[pay]; pays {
		delete(g.paying, pay)
		l := g.lines[pay.circuit]
		l.paying--
		g.used(l)
	}
}
