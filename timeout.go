package sturdy

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptrace"
	"sync/atomic"
	"time"
)

// Timeout is a layer that gives up an attempt to which no answer comes. Its
// clock runs from the moment that the attempt is sent until the response's
// headers are there, and never into the body: a stream may flow for hours.
//
// The caller sees an *[Error] of class [ErrTimeout]. Below Retry it is one
// attempt that is bounded so, and the next one has the whole time again; time
// spent waiting for a turn or a circuit does not count. http.Client.Timeout, in
// contrast, bounds all attempts and the reading of the body together: leave it
// zero.
//
// The zero value bounds nothing.
//
//	client := &http.Client{Transport: &sturdy.Retry{
//		Base: &sturdy.Timeout{Header: 10 * time.Second},
//	}}
type Timeout struct {
	Base    http.RoundTripper            // sends the requests; nil means http.DefaultTransport
	Header  time.Duration                // from the sending to the response's headers; zero or negative means no limit
	Observe func(context.Context, Event) // is told of attempts that are given up; nil means nobody watches
}

// RoundTrip sends req, and gives it up when Header is over.
func (t *Timeout) RoundTrip(req *http.Request) (*http.Response, error) {
	return t.send(req, baseOf(t.Base), nil)
}

// CloseIdleConnections closes those of Base.
func (t *Timeout) CloseIdleConnections() { closeIdle(t.Base) }

func (t *Timeout) send(req *http.Request, next http.RoundTripper, watch func(context.Context, Event)) (*http.Response, error) {
	if t.Header <= 0 {
		return send(next, req)
	}
	ctx, cancel := context.WithCancelCause(req.Context())
	timer := time.AfterFunc(t.Header, func() { cancel(errHeaderTimeout) })
	flows := false
	defer func() {
		if !flows {
			timer.Stop()
			cancel(nil)
		}
	}()
	var way progress
	resp, err := sendFor(req, next, req.WithContext(way.watch(ctx, req)))
	inTime := timer.Stop()

	if err == nil && inTime {
		// The end of the context is the end of the body, so it has to last as long.
		if resp.Body != http.NoBody {
			flows = true
			resp.Body = onEnd(resp.Body, func(error) { cancel(nil) })
		}
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
	e := &Error{Class: ErrTimeout, Attempts: attemptOf(req), Time: time.Now(), Err: t.cause(err), unsent: way.unsent()}
	watchers{t.Observe, watch}.see(req, Event{Kind: EventTimeout, Wait: t.Header, Err: e})
	return nil, e
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

// errHeaderTimeout is the cause of an attempt's end when its time is up.
var errHeaderTimeout = errors.New("sturdy: no response headers in time")

// cause says how much time there was, and keeps what the base made of its end.
func (t *Timeout) cause(err error) error {
	if err == nil || errors.Is(err, errHeaderTimeout) || errors.Is(err, context.Canceled) {
		return fmt.Errorf("%w: %v", errHeaderTimeout, t.Header)
	}
	return fmt.Errorf("%w: %v: %w", errHeaderTimeout, t.Header, err)
}
