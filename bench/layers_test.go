package bench

import (
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"

	"go.opentelemetry.io/contrib/instrumentation/net/http/otelhttp"

	"github.com/sturdyhttp/sturdy"
	"github.com/sturdyhttp/sturdy/sturdytest"
)

// otelhttpBreaks are the rules that a otelhttp.Transport breaks. A version that
// keeps them makes the tests say so.
var otelhttpBreaks = []string{
	"idle-connections-closed", // it has no CloseIdleConnections
	"request-trailers",        // it sends a Clone, whose trailers are a copy
}

func TestTransportOfOtelhttpKeepsTheOtherRules(t *testing.T) {
	t.Parallel()
	sturdytest.TestLayer(t, func(base http.RoundTripper) http.RoundTripper { return otelhttp.NewTransport(base) }, otelhttpBreaks...)
}

// Spans of the attempts are below the stack, the span of the whole is above it.
func TestStackBetweenTransportsOfOtelhttpKeepsTheOtherRules(t *testing.T) {
	t.Parallel()
	sturdytest.TestLayer(t, func(base http.RoundTripper) http.RoundTripper {
		return otelhttp.NewTransport(&sturdy.Transport{Base: otelhttp.NewTransport(base)})
	}, otelhttpBreaks...)
}

// A program may trace all that leaves it: the stack within its default transport.
func TestStackBelowOtelhttpMayBeTheDefaultTransport(t *testing.T) {
	var hits atomic.Int32
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { hits.Add(1) }))
	defer server.Close()
	before := http.DefaultTransport
	defer func() { http.DefaultTransport = before }()
	defer before.(*http.Transport).CloseIdleConnections()
	http.DefaultTransport = otelhttp.NewTransport(&sturdy.Transport{})
	resp, err := http.Get(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if n := hits.Load(); n != 1 {
		t.Errorf("sent %d times", n)
	}
}
