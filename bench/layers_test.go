package bench

import (
	"net/http"
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
