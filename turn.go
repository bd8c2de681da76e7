package sturdy

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/sturdyhttp/sturdy/internal/times"
)

// maxHold is how long a call without a deadline waits in all while nothing moves:
// because the server asked for it, takes nothing, or is down. Nobody means to wait
// for a day.
const maxHold = 2 * time.Minute

// A turn is a request's place in the queue of a gate, and how long it is worth
// its while to stay there.
//
// What is certain refuses it at once: a deadline of the caller's that comes
// before the turn can, by the caller's own limit, a pause that the server asked
// for, or headers that have proved true. What the pace has inferred refuses
// nobody: it may change at any moment.
type turn struct {
	wish
	place
	line     *line // where it waits; nil if it does not
	inLine   node
	inQueue  node
	req      *http.Request
	call     *call // nil without a Retry
	ofTenant *node // of its tenant; nil if tenants do not take turns
	tenant   string
	shares   bool          // the round of another of its tenant
	ends     time.Duration // see endOf
	attempts int           // how often it was sent, this time included
	backed   bool          // it has backed off as long as it must
	joined   time.Time     // the queue
	latest   time.Time     // a turn after this is of no use; zero for any
	why      error         // what says so: context.DeadlineExceeded for the context
	hold     time.Duration // how long it waits while nothing moves; 0 with a deadline
	held     time.Time     // since when nothing moves while it waits; zero if something does
	stalled  time.Duration // how long nothing had moved when it left
	until    time.Time     // how long it waits for the circuit; zero for not at all
	asked    bool          // or as long as the server asked for, if that is longer
	ready    chan struct{} // closed when the turn has come, or is refused
	pass     *pass         // once it has come
	timer    *time.Timer   // for check
	err      error         // why it is refused
}

func newTurn(req *http.Request, now time.Time, w wish) *turn {
	t := &turn{
		wish: w, req: req, call: callOf(req), joined: now, ends: endOf(req), ready: make(chan struct{}),
		place: place{priority: priorityOf(req.Context()), arrived: now}, tenant: tenantOf(req.Context()),
	}
	hold := maxHold
	if c := t.call; c != nil {
		t.arrived, t.attempts = c.began, int(c.attempt.Load())
		t.backed = !c.backed.IsZero() && !now.Before(c.backed)
		hold = max(c.patience-c.stalled, 1)
	}
	if !w.waitEnds.IsZero() {
		t.latest, t.why = w.waitEnds.Add(1), errMaxWait // a turn at MaxWait is in time
	}
	deadline, bounded := deadlineOf(req)
	if !bounded && w.waitEnds.IsZero() {
		t.hold = hold
	}
	if bounded && (t.latest.IsZero() || deadline.Before(t.latest)) {
		t.latest, t.why = deadline, context.DeadlineExceeded
	}
	switch {
	case w.patient > 0:
		t.until = now.Add(w.patient + 1)
	case w.patient == 0 && bounded:
		t.until = deadline
	case w.patient == 0:
		t.until, t.asked = now.Add(maxOpenWait+1), true
	}
	if bounded && deadline.Before(t.until) {
		t.until = deadline
	}
	return t
}

// Why a request does not wait longer, if not because of its deadline.
var (
	errMaxWait = errors.New("more than MaxWait")
	errMaxHold = errors.New("more than 2m, and it has no deadline")
)

// await returns when the turn of a request in the queue has come.
func (g *gate) await(t *turn) (pass, error) {
	select {
	case <-t.ready:
	case <-t.req.Context().Done():
	case <-cancelled(t.req):
	}
	t.timer.Stop()
	if end := gone(t.req); end != nil {
		g.quit(t)
		return pass{}, end
	}
	if t.call != nil {
		t.call.stalled += t.stalled
	}
	if t.err != nil {
		return pass{}, t.err
	}
	t.pass.waited = time.Since(t.joined)
	return *t.pass, nil
}

// check refuses t if it has waited long enough, and sees to it that it is checked
// again if it has not. It is what t's timer does.
func (g *gate) check(t *turn) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if t.line == nil {
		return
	}
	now := time.Now()
	if g.refuse(t, now, g.outlook(now), 0) {
		g.remove(t)
		close(t.ready)
		g.pump(now)
		return
	}
	t.timer.Reset(t.nextCheck(now, g.stalledFor(t, now)))
}

// nextCheck is how long after now t may have waited long enough, if nothing has
// moved for so long. The context's own deadline needs no check.
func (t *turn) nextCheck(now time.Time, stalled time.Duration) time.Duration {
	next := maxHold
	if t.hold > 0 {
		next = max(t.hold-stalled, time.Second)
	}
	deadline, _ := t.req.Context().Deadline()
	for _, end := range [...]time.Time{t.latest, t.until} {
		if d := end.Sub(now); d > 0 && !end.Equal(deadline) {
			next = min(next, d)
		}
	}
	return next
}

// tries is how often a request was sent, this time included. Without a Retry
// nobody counts.
func (t *turn) tries() int { return max(t.attempts, 1) }

// An outlook is what the turns of all in a queue are estimated by.
type outlook struct {
	start  time.Time // when the pause is over
	tokens float64   // in the caller's bucket then
}

func (g *gate) outlook(now time.Time) outlook {
	o := outlook{start: times.Later(now, g.pace.Paused())}
	if g.own != nil {
		o.tokens = g.own.TokensAt(o.start) + float64(g.spare)
	}
	return o
}

// turnIn is how long a request with so many ahead of it will wait at least.
func (g *gate) turnIn(now time.Time, o outlook, ahead int, w *wish) time.Duration {
	wait := o.start.Sub(now) + g.metered(o.start, ahead, w)
	if missing := float64(ahead+1) - o.tokens; missing > 0 && g.own != nil {
		wait = max(wait, o.start.Sub(now)+times.CeilSeconds(missing/float64(g.limit)))
	}
	return wait
}

// metered is how long after now the caller's tokens, and limits of the server that have
// proved true, hold a request with so many ahead of it.
func (g *gate) metered(now time.Time, ahead int, w *wish) time.Duration {
	return max(g.pace.TurnIn(now, ahead, w.units), g.tokens.turnIn(now, ahead, g.cost(w)))
}

// refuse reports whether it is of no use to t to wait on, and says so in it.
func (g *gate) refuse(t *turn, now time.Time, o outlook, ahead int) bool {
	e, sooner := t.circuit.refusal(now, t.until, t.asked, t.req)
	if e != nil {
		t.err = e
		return true
	}
	if sooner {
		g.reopen(t.line)
	}
	wait, why := g.turnIn(now, o, ahead, &t.wish), t.why
	late := !t.latest.IsZero() && !now.Add(wait).Before(t.latest)
	if !late && t.hold > 0 {
		// Who waits in a queue that moves has no end but its turn.
		asked := o.start.Sub(now) + g.metered(o.start, 0, &t.wish)
		still := asked > 0 || g.pace.Refusing() || t.circuit.isOpen()
		switch {
		case !still:
			t.held = time.Time{}
		case t.held.IsZero():
			t.held = now
		}
		stalled := g.stalledFor(t, now)
		late = still && (stalled >= t.hold || stalled+asked > t.hold)
		why = errMaxHold
	}
	if !late {
		return false
	}
	if deadline, ok := t.req.Context().Deadline(); ok && !now.Before(deadline) {
		t.err = context.DeadlineExceeded // the context says so in a moment
	} else {
		t.err = refusal(ErrWaitTooLong, wait, fmt.Errorf("sturdy: its turn would come in %v: %w", wait.Round(time.Millisecond), why))
	}
	return true
}

// stalledFor is how long t has waited while nothing moved. Once the server takes
// something, the wait of those who were never sent begins anew.
func (g *gate) stalledFor(t *turn, now time.Time) time.Duration {
	since := t.held
	if since.IsZero() {
		return 0
	}
	if t.attempts <= 1 {
		since = times.Later(since, g.pace.Took())
	}
	return now.Sub(since)
}
