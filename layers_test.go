package sturdy_test

import (
	"net/http"
	"testing"
	"time"

	"github.com/sturdyhttp/sturdy"
	"github.com/sturdyhttp/sturdy/sturdytest"
)

// A layer is made of a base, as sturdytest.TestLayer wants it.
type layer func(base http.RoundTripper) http.RoundTripper

// TestLayers runs the contract of http.RoundTripper on every layer, as it is and
// with typical settings, and on stacks of them.
func TestLayers(t *testing.T) {
	t.Parallel()
	retry := func(base http.RoundTripper) http.RoundTripper {
		return &sturdy.Retry{Base: base, Attempts: 3, MinDelay: 100 * time.Millisecond, MaxElapsed: time.Minute}
	}
	limit := func(base http.RoundTripper) http.RoundTripper {
		return &sturdy.RateLimit{Base: base, Limit: 1000, Burst: 10}
	}
	breaker := func(base http.RoundTripper) http.RoundTripper {
		return &sturdy.Breaker{Base: base, Failures: 2, OpenFor: time.Second}
	}
	timeout := func(base http.RoundTripper) http.RoundTripper {
		return &sturdy.Timeout{Base: base, Header: 10 * time.Second}
	}
	for name, layer := range map[string]layer{
		"Retry":               func(base http.RoundTripper) http.RoundTripper { return &sturdy.Retry{Base: base} },
		"Retry with settings": retry,
		"RateLimit":           func(base http.RoundTripper) http.RoundTripper { return &sturdy.RateLimit{Base: base} },
		"RateLimit of a few":  limit,
		"Breaker":             func(base http.RoundTripper) http.RoundTripper { return &sturdy.Breaker{Base: base} },
		"Breaker that opens":  breaker,
		"Timeout":             func(base http.RoundTripper) http.RoundTripper { return &sturdy.Timeout{Base: base} },
		"Timeout of headers":  timeout,
		"Transport":           func(base http.RoundTripper) http.RoundTripper { return &sturdy.Transport{Base: base} },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			sturdytest.TestLayer(t, layer)
		})
	}
}
