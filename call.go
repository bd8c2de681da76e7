package sturdy

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"sync/atomic"
	"time"
)

// A call is one logical request on its way through the stack, however often it
// is sent. Retry makes it and passes it down in the request's context, so that
// the layers below know which requests belong together. It is the context that
// it travels in, which saves an allocation on every request.
type call struct {
	context.Context
	began    time.Time     // its place among others that wait
	method   string        // with url: what tells it from
	url      *url.URL      // a request that only borrows its context
	latest   time.Time     // no attempt may begin later; zero for any time
	backed   time.Time     // from then on a lone caller need not back off from a refusal any longer; zero for never
	patience time.Duration // how long it waits in all, without a deadline, while nothing moves
	stalled  time.Duration // how long it has waited in all while nothing moved
	paced    bool          // the attempt has failed and its circuit is open, which paces the next
	attempt  atomic.Int32  // how many times it was sent, this time included
	over     atomic.Bool   // its answer is back with the caller
}

type callKey struct{}

func (c *call) Value(key any) any {
	if _, ok := key.(callKey); ok {
		return c
	}
	return c.Context.Value(key)
}

// callOf returns the call that req is an attempt of, or nil. A request that was
// only made with the context of another one, such as that of a token source,
// is no attempt of it.
func callOf(req *http.Request) *call {
	c, _ := req.Context().Value(callKey{}).(*call)
	if c == nil || c.over.Load() || !sameRequest(req, c.method, c.url) {
		return nil
	}
	return c
}

// rootCall returns the outermost call that req is made within, or nil: itself,
// or the one that it is sent on behalf of.
func rootCall(req *http.Request) (root *call) {
	for ctx := req.Context(); ; ctx = root.Context {
		c, _ := ctx.Value(callKey{}).(*call)
		if c == nil {
			return root
		}
		root = c
	}
}

// attemptOf is the number of the attempt that req is.
func attemptOf(req *http.Request) int {
	if c := callOf(req); c != nil {
		return int(c.attempt.Load())
	}
	return 1
}

// send is how every layer calls the one below it. Whatever that one does,
// exactly one of response and error comes back, a response has a body, and a
// cancelled request's error has both the context's error and its cause in it.
func send(base http.RoundTripper, req *http.Request) (*http.Response, error) {
	return sendFor(req, base, req)
}

// sendFor is send with an attempt whose context may end before that of req,
// which is the caller's.
func sendFor(req *http.Request, base http.RoundTripper, attempt *http.Request) (*http.Response, error) {
	resp, err := base.RoundTrip(attempt)
	if err == nil && resp != nil {
		if resp.Body == nil {
			resp.Body = http.NoBody
		}
		if attempt != req && resp.Request == attempt {
			resp.Request = req
		}
		return resp, nil
	}
	if err == nil {
		err = fmt.Errorf("sturdy: %T returned neither a response nor an error", base)
	}
	if resp != nil && resp.Body != nil {
		resp.Body.Close()
	}
	if end := gone(req); end != nil && !sameEnd(err, end) {
		err = &cancellation{err: end, also: err}
	}
	return nil, err
}

// baseOf returns rt, or the default for a nil Base: as it is now, so that a mock
// that was installed later counts.
func baseOf(rt http.RoundTripper) http.RoundTripper {
	if rt == nil {
		return http.DefaultTransport
	}
	return rt
}

// A cancellation is the end of a request by its caller's doing. In it are the
// context's error, its cause, and what the base returned, if that is another.
type cancellation struct{ err, also error }

func (c *cancellation) Error() string {
	if c.also != nil {
		return c.also.Error()
	}
	return c.err.Error()
}
func (c *cancellation) Unwrap() []error { return []error{c.err, c.also} }
func (c *cancellation) Timeout() bool   { return errors.Is(c.err, context.DeadlineExceeded) }
func (c *cancellation) Temporary() bool { return c.Timeout() }

// gone returns why the caller has given req up, or nil.
func gone(req *http.Request) error {
	ctx := req.Context()
	if err := ctx.Err(); err != nil {
		if cause := context.Cause(ctx); cause != err { //nolint:errorlint // asks for the same value
			return &cancellation{err: err, also: cause}
		}
		return err
	}
	select {
	case <-cancelled(req):
		return &cancellation{err: context.Canceled, also: errors.New("sturdy: request canceled")}
	default:
		return nil
	}
}

// cancelled is closed when the caller cancels req the old way.
func cancelled(req *http.Request) <-chan struct{} {
	return req.Cancel // deprecated, but http.Client.Timeout uses it still
}

// sameEnd reports whether all that is in end is in err too.
func sameEnd(err, end error) bool {
	if c, ok := errors.AsType[*cancellation](end); ok {
		return errors.Is(err, c.err) && errors.Is(err, c.also)
	}
	return errors.Is(err, end)
}

// sleep waits for d, or until the caller gives req up: then it returns why.
func sleep(req *http.Request, d time.Duration) error {
	if d > 0 && gone(req) == nil {
		t := time.NewTimer(d)
		defer t.Stop()
		select {
		case <-t.C:
		case <-req.Context().Done():
		case <-cancelled(req):
		}
	}
	return gone(req)
}

// deadlineOf is when req has to be sent by: the context's deadline, or the end
// of Retry.MaxElapsed if that is sooner.
func deadlineOf(req *http.Request) (deadline time.Time, ok bool) {
	deadline, ok = req.Context().Deadline()
	if c := callOf(req); c != nil && !c.latest.IsZero() && (!ok || c.latest.Before(deadline)) {
		return c.latest, true
	}
	return deadline, ok
}
