package sturdy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"sync"
	"sync/atomic"
	"time"
)

// Timeout is a layer that gives up what does not come: an attempt without an
// answer, and a body that stalls.
//
// Header bounds an attempt from the moment that it is sent until the response's
// headers are there, and not the body. Below Retry the next attempt has the
// whole time again; time spent waiting for a turn or a circuit does not count.
//
// Idle bounds each wait for the next bytes of a body. It counts while somebody
// reads: a stream may flow for hours, keep-alives of the server's count as
// bytes, and a reader may take its time. When it is over, the connection is
// given up. The body of a 101 is a connection of its own, which may be silent.
//
// In both cases the caller sees an *[Error] of class [ErrTimeout], of Idle as
// what Read returns. http.Client.Timeout, in contrast, bounds all attempts and
// the reading of the body together: leave it zero.
//
// The zero value bounds nothing.
//
//	client := &http.Client{Transport: &sturdy.Retry{
//		Base: &sturdy.Timeout{Header: 10 * time.Second, Idle: time.Minute},
//	}}
type Timeout struct {
	Base    http.RoundTripper            // sends the requests; nil means http.DefaultTransport
	Header  time.Duration                // from the sending to the response's headers; zero or negative means no limit
	Idle    time.Duration                // for which a read of the body may wait for a byte; zero or negative means no limit
	Observe func(context.Context, Event) // is told of what is given up; nil means nobody watches

	idle idleCloser
}

// RoundTrip sends req, and gives it up when Header is over.
func (t *Timeout) RoundTrip(req *http.Request) (*http.Response, error) {
	return enter(t, req, t.roundTrip)
}

func (t *Timeout) roundTrip(req *http.Request) (*http.Response, error) {
	return t.send(req, baseOf(t.Base), nil)
}

// CloseIdleConnections closes those of Base.
func (t *Timeout) CloseIdleConnections() { t.idle.closeIdle(t.Base) }

func (t *Timeout) send(req *http.Request, next http.RoundTripper, watch func(context.Context, Event)) (*http.Response, error) {
	if t.Header <= 0 && t.Idle <= 0 {
		resp, err := send(next, req)
		answerTo(req, req, resp)
		return resp, err
	}
	ctx, cancel := context.WithCancelCause(req.Context())
	flows := false
	defer func() {
		if !flows {
			cancel(nil)
		}
	}()
	w := watchers{t.Observe, watch}
	resp, err := t.awaitHeader(ctx, cancel, req, next, w)
	if err != nil {
		return nil, err
	}
	// The end of the context is the end of the body, so it has to last as long.
	if resp.Body != http.NoBody {
		flows = true
		t.bound(req, resp, cancel, w)
	}
	answerTo(req, req, resp)
	return resp, nil
}

// awaitHeader sends req with ctx, and cancels that when Header is over.
func (t *Timeout) awaitHeader(
	ctx context.Context, cancel context.CancelCauseFunc, req *http.Request, next http.RoundTripper, w watchers,
) (*http.Response, error) {
	if t.Header <= 0 {
		return sendFor(req, next, req.WithContext(ctx))
	}
	timer := time.AfterFunc(t.Header, func() { cancel(errHeaderTimeout) })
	defer timer.Stop()
	var way progress
	resp, err := sendFor(req, next, req.WithContext(way.watch(ctx, req)))
	inTime := timer.Stop()

	if err == nil && inTime {
		return resp, nil
	}
	if !inTime {
		cancel(errHeaderTimeout) // the timer's goroutine may not have run yet
	}
	if context.Cause(ctx) != errHeaderTimeout || gone(req) != nil { //nolint:errorlint // the value itself
		return resp, err
	}
	if resp != nil {
		resp.Body.Close() // it came as the clock struck: its body is dead already
	}
	cause := t.cause(err)
	text := causeText(cause, secretsOf(req))
	e := &Error{
		Class: ErrTimeout, Attempts: attemptOf(req), Time: time.Now(), Err: shownCause(cause, text), cause: text,
		origin: originOf(req), unsent: way.unsent(),
	}
	w.see(req, Event{Kind: EventTimeout, Wait: t.Header, Err: e})
	return nil, e
}

// bound makes cancel the end of resp's body, and of a body that stalls.
func (t *Timeout) bound(req *http.Request, resp *http.Response, cancel context.CancelCauseFunc, w watchers) {
	if t.Idle <= 0 || resp.StatusCode == http.StatusSwitchingProtocols {
		resp.Body = onEnd(resp.Body, func(error) { cancel(nil) })
		return
	}
	x := exchangeOf(req, resp)
	b := &idleBody{ReadCloser: resp.Body, limit: t.Idle, cancel: cancel, began: time.Now().Add(-1)}
	b.giveUp = func() {
		if b.err = gone(req); b.err == nil {
			e := x.broke(ErrTimeout, fmt.Errorf("%w: %v", errIdleTimeout, t.Idle))
			b.err = e
			w.see(req, Event{Kind: EventTimeout, Attempt: e.Attempts, Wait: t.Idle, Err: e})
		}
	}
	b.timer = time.AfterFunc(b.limit, b.look)
	b.runs.Store(true)
	resp.Body = onEnd(b, func(error) {
		b.end()
		cancel(nil)
	})
}

// An idleBody ends when a read of it has waited for limit. A read only notes
// when it began. The timer, of which there is one, looks at that when it fires,
// and is set for what is left then.
type idleBody struct {
	io.ReadCloser
	limit  time.Duration
	cancel context.CancelCauseFunc // ends a read that is under way
	giveUp func()                  // sets err, and tells of it
	err    error                   // what reads return after one was ended
	close  sync.Once
	timer  *time.Timer
	runs   atomic.Bool  // the timer is to fire
	ended  atomic.Bool  // it is not needed any more
	began  time.Time    // before the first read
	since  atomic.Int64 // when the read under way began, in ns after began; or one of these
}

const (
	noRead  = 0
	stalled = -1 // a read was ended
)

func (b *idleBody) Read(p []byte) (n int, err error) {
	now := int64(time.Since(b.began))
	switch {
	case b.err != nil:
		return 0, b.err
	case !b.since.CompareAndSwap(noRead, now):
		// Another read is under way, which the timer looks at, or was ended.
		return b.ReadCloser.Read(p)
	case !b.runs.Load():
		b.set(b.limit)
	}
	defer func() {
		if b.since.CompareAndSwap(now, noRead) {
			return
		}
		// Bytes that came as the clock struck are not taken back, nor is an end with
		// them. An end without is that of a body that was closed.
		if n > 0 && err == io.EOF { //nolint:errorlint // a Reader returns io.EOF itself
			b.err = err
			return
		}
		b.giveUp()
		err = b.err
	}()
	return b.ReadCloser.Read(p)
}

// set sets the timer, unless somebody else has.
func (b *idleBody) set(d time.Duration) {
	if b.runs.CompareAndSwap(false, true) {
		b.timer.Reset(d)
		if b.ended.Load() {
			b.timer.Stop()
		}
	}
}

// look is what the timer does.
func (b *idleBody) look() {
	b.runs.Store(false) // a read that begins now sets it, or else is seen here
	since := b.since.Load()
	if since <= noRead {
		return
	}
	if left := b.limit - (time.Since(b.began) - time.Duration(since)); left > 0 {
		b.set(left)
		return
	}
	if !b.since.CompareAndSwap(since, stalled) {
		b.set(b.limit) // another read has begun just now, or none
		return
	}
	b.cancel(errIdleTimeout)
	// A body that does not heed the context heeds this. One that panics is no
	// worse than one that stalls.
	defer func() { _ = recover() }()
	b.Close()
}

// end lets go of the timer.
func (b *idleBody) end() {
	b.ended.Store(true)
	b.timer.Stop()
}

func (b *idleBody) Close() (err error) {
	b.close.Do(func() {
		b.cancel(nil) // Close may wait for a read that is under way: see peeked.Close
		err = b.ReadCloser.Close()
	})
	return err
}

// progress is how far a request got on its way. It tells whether one that timed
// out can have reached the server.
type progress struct{ asked, connected atomic.Bool }

// watch returns ctx with hooks for net/http. Where it makes no difference, it
// spares their cost.
func (p *progress) watch(ctx context.Context, req *http.Request) context.Context {
	if idempotent(req) {
		return ctx
	}
	return httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		GetConn: func(string) { p.asked.Store(true) },
		GotConn: func(httptrace.GotConnInfo) { p.connected.Store(true) },
	})
}

// unsent reports whether there was no connection to send the request on. A base
// that does not heed the hooks leaves that open.
func (p *progress) unsent() bool { return p.asked.Load() && !p.connected.Load() }

// The causes of an attempt's end when its time is up.
var (
	errHeaderTimeout = errors.New("sturdy: no response headers in time")
	errIdleTimeout   = errors.New("sturdy: no byte of the response's body in time")
)

// cause says how much time there was, and keeps what the base made of its end.
func (t *Timeout) cause(err error) error {
	if err == nil || errors.Is(err, errHeaderTimeout) || errors.Is(err, context.Canceled) {
		return fmt.Errorf("%w: %v", errHeaderTimeout, t.Header)
	}
	return fmt.Errorf("%w: %v: %w", errHeaderTimeout, t.Header, err)
}
