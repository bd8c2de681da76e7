package sturdytest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"
)

// How the body of a request is read while the answer is out already. The
// grace is that of http.Transport, which then gives up the connection.
const (
	chunk     = 4 << 10
	latePause = time.Millisecond
	lateGrace = 50 * time.Millisecond
)

// errCanceled is what http.Transport returns for Request.Cancel. It does not
// export it.
var errCanceled = errors.New("net/http: request canceled")

// An exchange is one request on its way through its step.
type exchange struct {
	req    *http.Request
	step   Step
	mu     *sync.Mutex
	record *Request // guarded by mu

	closeOnce  sync.Once
	finishOnce sync.Once
	finished   chan struct{} // closed when nobody wants more of the response's body

	onFinish, onClose func() // called once, when finished is closed and when the body is; nil means nobody cares
}

// RoundTrip answers req with the next step. Like that of [http.Transport] it
// closes the request's body on every path, and gives up with [context.Cause]
// when the request's context is done.
//
// A request whose context is done from the start takes a step too, but none of
// it is played.
func (p *Player) RoundTrip(req *http.Request) (resp *http.Response, err error) {
	x, err := p.take(req)
	defer func() {
		if resp == nil {
			x.closeBody() // also when a step panicked
		}
		x.note(func(r *Request) { r.Err = err })
	}()
	if err != nil {
		return nil, err
	}
	if err := x.send(); err != nil {
		return nil, err
	}
	return x.answer()
}

// send sends the request. It returns when the server has read it, or at once
// if the server does not wait for that.
func (x *exchange) send() error {
	if err := sendable(x.req); err != nil {
		return err
	}
	if err := ended(x.req); err != nil {
		return err
	}
	switch {
	case x.req.Body == nil || x.req.Body == http.NoBody:
		x.closeBody()
	case !x.step.early:
		defer x.closeBody()
		bodyErr, err := await(x.req, x.startReading(0))
		if err != nil {
			return err
		}
		return bodyErr
	case x.step.answers():
		go x.sendLate()
	}
	return nil
}

// sendable refuses what http.Transport refuses, in its words. What it can tell
// only at the body's end is in checkLength.
func sendable(req *http.Request) error {
	switch {
	case req.URL == nil:
		return errors.New("http: nil Request.URL")
	case req.Header == nil:
		return errors.New("http: nil Request.Header")
	case req.ContentLength != 0 && req.Body == nil:
		return fmt.Errorf("http: Request.ContentLength=%d with nil Body", req.ContentLength)
	}
	return nil
}

// sendLate reads the body of a request that is answered early, for as long as
// http.Transport would keep the connection.
func (x *exchange) sendLate() {
	defer x.closeBody()
	read := x.startReading(latePause)
	finished := x.finished
	var grace <-chan time.Time
	for {
		select {
		case <-read: //nolint:errcheck // nobody is told of it any more
			return
		case <-x.req.Context().Done():
			return
		case <-x.req.Cancel:
			return
		case <-finished:
			finished, grace = nil, time.After(lateGrace)
		case <-grace:
			return
		}
	}
}

// startReading reads the request's body in a goroutine, since a read may block
// for longer than the request lives. As in net/http, closing the body is what
// ends it then.
func (x *exchange) startReading(pause time.Duration) <-chan error {
	done := make(chan error, 1)
	go func() { done <- x.readBody(pause) }()
	return done
}

// readBody reads the request's body to its end, with a pause before each part.
func (x *exchange) readBody(pause time.Duration) error {
	buf := make([]byte, chunk)
	for {
		time.Sleep(pause)
		if x.bodyClosed() {
			return nil // nobody waits for the error any more
		}
		n, err := x.req.Body.Read(buf)
		x.note(func(r *Request) { r.Body = append(r.Body, buf[:n]...) })
		if err == io.EOF {
			return x.checkLength()
		}
		if err != nil {
			return err
		}
	}
}

// checkLength fails, as http.Transport does, if the body was not as long as
// the request said. A body that was sent before and not rewound shows here.
func (x *exchange) checkLength() error {
	x.mu.Lock()
	defer x.mu.Unlock()
	want, got := x.req.ContentLength, int64(len(x.record.Body))
	if want > 0 && got != want {
		return fmt.Errorf("http: ContentLength=%d with Body length %d", want, got)
	}
	return nil
}

func (x *exchange) bodyClosed() bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.record.BodyClosed
}

// closeBody closes the request's body, once.
func (x *exchange) closeBody() {
	x.closeOnce.Do(func() {
		// Noted first: readBody begins no read on a closed body.
		x.note(func(r *Request) { r.BodyClosed = true })
		if x.req.Body != nil {
			x.req.Body.Close()
		}
	})
}

// answer plays the step, after its delay.
func (x *exchange) answer() (*http.Response, error) {
	if x.step.delay > 0 {
		t := time.NewTimer(x.step.delay)
		defer t.Stop()
		if _, err := await(x.req, t.C); err != nil {
			return nil, err
		}
	}
	switch s := x.step; {
	case s.do != nil:
		return nil, s.do(x.req)
	case s.Err != nil:
		return nil, s.Err
	}
	return x.respond(), nil
}

// note changes the request's record.
func (x *exchange) note(f func(*Request)) {
	x.mu.Lock()
	defer x.mu.Unlock()
	f(x.record)
}

// finish says that nobody wants more of the response's body.
func (x *exchange) finish() {
	x.finishOnce.Do(func() {
		close(x.finished)
		if x.onFinish != nil {
			x.onFinish()
		}
	})
}

// await returns what comes from c, unless the request ends before or just
// then. A nil c waits for the request's end.
func await[T any](req *http.Request, c <-chan T) (v T, err error) {
	select {
	case v = <-c:
		return v, ended(req)
	case <-req.Context().Done():
	case <-req.Cancel:
	}
	return v, ended(req)
}

// ended returns why the client has given up req, or nil.
func ended(req *http.Request) error {
	select {
	case <-req.Context().Done():
		return context.Cause(req.Context())
	default:
	}
	select {
	case <-req.Cancel:
		return errCanceled
	default:
		return nil
	}
}
