package sturdy

import (
	"context"
	"net/http"
)

// Transport is the whole stack: [Retry] over [RateLimit] over [Breaker] over
// [Timeout] over Base. It makes an http.Client withstand rate limits, overload
// and outages, and works for any API, through any SDK that takes an
// http.Client.
//
// The caller sees what Base returned, in the end: the last answer as it came,
// whatever its status, or an error. [Check] tells what either of them means.
// Response.Request is the caller's own request, however often it was sent.
//
// The zero value is ready to use. Make one Transport and keep it: what it knows
// of limits and outages is in it. Its settings are not changed after the first
// request.
//
//	client := &http.Client{Transport: &sturdy.Transport{}}
type Transport struct {
	Base      http.RoundTripper            // sends the requests; nil means http.DefaultTransport
	Retry     Retry                        // sends again; its Base is not used
	RateLimit RateLimit                    // paces; its Base is not used
	Breaker   Breaker                      // stops knocking on a server that is down; its Base is not used
	Timeout   Timeout                      // bounds each attempt; its Base is not used
	Observe   func(context.Context, Event) // is told what every layer does, as their own Observe are; nil means nobody watches

	idle idleCloser
}

// RoundTrip sends req through the stack.
func (t *Transport) RoundTrip(req *http.Request) (*http.Response, error) {
	return enter(t, req, t.roundTrip)
}

func (t *Transport) roundTrip(req *http.Request) (*http.Response, error) {
	if err := t.check(); err != nil {
		closeBody(req)
		return nil, err
	}
	resp, err := t.Retry.send(req, (*belowRetry)(t), t.Observe)
	return t.Breaker.answer(req, resp, err)
}

// CloseIdleConnections closes those of Base.
func (t *Transport) CloseIdleConnections() { t.idle.closeIdle(t.Base) }

func (t *Transport) check() error {
	var field string
	switch {
	case t.Retry.Base != nil:
		field = "Retry"
	case t.RateLimit.Base != nil:
		field = "RateLimit"
	case t.Breaker.Base != nil:
		field = "Breaker"
	case t.Timeout.Base != nil:
		field = "Timeout"
	default:
		return nil
	}
	return misconfigured("Transport.%s.Base is set, but only Transport.Base is used", field)
}

// A Transport is also what is below each of its layers.
type (
	belowRetry Transport
	belowGate  Transport
)

func (t *belowRetry) RoundTrip(req *http.Request) (*http.Response, error) {
	return gated(req, (*belowGate)(t), &t.RateLimit, &t.Breaker, t.Observe)
}

func (t *belowGate) RoundTrip(req *http.Request) (*http.Response, error) {
	return t.Timeout.send(req, baseOf(t.Base), t.Observe)
}
