package sturdy

import (
	"context"
	"net/http"
	"net/url"
	"sync/atomic"
)

// initialTransport is http.DefaultTransport as it was before the program could
// replace it, by one of our layers perhaps.
var initialTransport = http.DefaultTransport

// replaced reports whether http.DefaultTransport is another than it was.
func replaced() bool {
	now, ok := http.DefaultTransport.(*http.Transport) // other types may not be comparable
	initial, was := initialTransport.(*http.Transport)
	return !ok || !was || now != initial
}

// enter sends req through a layer, by pass. Where a layer without a Base is
// http.DefaultTransport itself, or below it, its requests come back to it: then they
// are sent by the transport that was there before, and pass no layer twice.
func enter(layer http.RoundTripper, req *http.Request, pass func(*http.Request) (*http.Response, error)) (*http.Response, error) {
	if !replaced() {
		return pass(req)
	}
	entered := 0 // how often, for others too that req is sent on behalf of
	for ctx := req.Context(); ; {
		e, _ := ctx.Value(entryKey{}).(*entryOf)
		if e == nil {
			break
		}
		if e.layer == layer {
			if entered++; e.same(req) || entered == maxEntered {
				return send(initialTransport, req)
			}
		}
		ctx = e.Context
	}
	inner := req.WithContext(&entryOf{req.Context(), layer, req.Method, req.URL})
	resp, err := pass(inner)
	answerTo(req, inner, resp)
	return resp, err
}

// maxEntered is how often a layer may be entered within itself: a request for a token,
// and one for that. What comes back more often than that would do so for ever, such as
// through a wrapper that makes the path longer each time.
const maxEntered = 4

// An entryOf is the context of a request that has entered a layer, while
// http.DefaultTransport is not what it was.
type entryOf struct {
	context.Context
	layer  http.RoundTripper
	method string   // with url: what tells the request from
	url    *url.URL // one that only borrows its context
}

type entryKey struct{}

func (e *entryOf) Value(key any) any {
	if _, ok := key.(entryKey); ok {
		return e
	}
	return e.Context.Value(key)
}

// same reports whether req has come back. A wrapper may have signed its query anew.
func (e *entryOf) same(req *http.Request) bool {
	if e.url == nil || req.URL == nil {
		return sameRequest(req, e.method, e.url)
	}
	return e.method == req.Method && e.url.Scheme == req.URL.Scheme && e.url.Host == req.URL.Host && e.url.Path == req.URL.Path
}

// sameRequest reports whether req is the request of this method and URL, or a copy
// of it.
func sameRequest(req *http.Request, method string, u *url.URL) bool {
	if method != req.Method {
		return false
	}
	return u == req.URL || u != nil && req.URL != nil && u.String() == req.URL.String()
}

// An idleCloser forwards http.Client.CloseIdleConnections. A default that has been
// replaced may lead back to the layer that asks: then those of the default that was
// there before are closed.
type idleCloser struct{ closing uint32 } //nolint:modernize // a Timeout or a Stream may be copied

func (c *idleCloser) closeIdle(base http.RoundTripper) {
	base = baseOf(base)
	if replaced() {
		if atomic.SwapUint32(&c.closing, 1) != 0 {
			base = initialTransport
		} else {
			defer atomic.StoreUint32(&c.closing, 0)
		}
	}
	if b, ok := base.(interface{ CloseIdleConnections() }); ok {
		b.CloseIdleConnections()
	}
}
