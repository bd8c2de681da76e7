package sturdy_test

import (
	"context"
	"net/http"
	"slices"
	"testing"
	"time"

	"golang.org/x/time/rate"

	"github.com/sturdyhttp/sturdy"
	"github.com/sturdyhttp/sturdy/sturdytest"
)

// A layer is made around a base, as sturdytest.TestLayer wants it.
type layer func(base http.RoundTripper) http.RoundTripper

// around returns a stack: the first layer is the outermost.
func around(layers ...layer) layer {
	return func(base http.RoundTripper) http.RoundTripper {
		for _, l := range slices.Backward(layers) {
			base = l(base)
		}
		return base
	}
}

// TestLayers runs the contract of http.RoundTripper on every layer, as it is and
// with settings, and on stacks of them.
func TestLayers(t *testing.T) {
	t.Parallel()
	retry := func(base http.RoundTripper) http.RoundTripper {
		return &sturdy.Retry{Base: base, Attempts: 3, MinDelay: 100 * time.Millisecond, MaxElapsed: time.Minute}
	}
	limit := func(base http.RoundTripper) http.RoundTripper {
		return &sturdy.RateLimit{Base: base, Limit: 1000, Burst: 10}
	}
	breaker := func(base http.RoundTripper) http.RoundTripper {
		return &sturdy.Breaker{Base: base, Failures: 2, MaxWait: time.Minute}
	}
	timeout := func(base http.RoundTripper) http.RoundTripper {
		return &sturdy.Timeout{Base: base, Header: 10 * time.Second}
	}
	idle := func(base http.RoundTripper) http.RoundTripper {
		return &sturdy.Timeout{Base: base, Header: 10 * time.Second, Idle: time.Minute}
	}
	stream := func(base http.RoundTripper) http.RoundTripper { return &sturdy.Stream{Base: base} }
	statusErrors := func(base http.RoundTripper) http.RoundTripper { return &sturdy.StatusErrors{Base: base} }
	stack := func(base http.RoundTripper) http.RoundTripper {
		return &sturdy.Transport{
			Base:      base,
			Retry:     sturdy.Retry{Attempts: 4, ReplayUnsafe: true},
			RateLimit: sturdy.RateLimit{Limiter: rate.NewLimiter(1000, 10)},
			Breaker:   sturdy.Breaker{Failures: 3},
			Timeout:   sturdy.Timeout{Header: 10 * time.Second},
			Observe:   func(context.Context, sturdy.Event) {},
		}
	}
	for name, test := range map[string]struct {
		layer  layer
		except []string
	}{
		"Retry":                   {layer: func(base http.RoundTripper) http.RoundTripper { return &sturdy.Retry{Base: base} }},
		"Retry with settings":     {layer: retry},
		"RateLimit":               {layer: func(base http.RoundTripper) http.RoundTripper { return &sturdy.RateLimit{Base: base} }},
		"RateLimit with settings": {layer: limit},
		"Breaker":                 {layer: func(base http.RoundTripper) http.RoundTripper { return &sturdy.Breaker{Base: base} }},
		"Breaker with settings":   {layer: breaker},
		"Timeout":                 {layer: func(base http.RoundTripper) http.RoundTripper { return &sturdy.Timeout{Base: base} }},
		"Timeout with settings":   {layer: timeout},
		"Timeout with Idle":       {layer: idle},
		"Stream":                  {layer: stream},
		"StatusErrors":            {layer: statusErrors, except: []string{"status-is-no-error"}}, // what it is for

		"Transport":                         {layer: func(base http.RoundTripper) http.RoundTripper { return &sturdy.Transport{Base: base} }},
		"Transport with settings":           {layer: stack},
		"Transport around Transport":        {layer: around(stack, stack)},
		"StatusErrors around Transport":     {layer: around(statusErrors, stack), except: []string{"status-is-no-error"}},
		"the layers in Transport's order":   {layer: around(retry, limit, breaker, timeout)},
		"the layers in the opposite order":  {layer: around(timeout, breaker, limit, retry)},
		"Transport around Stream":           {layer: around(stack, stream)},
		"Stream around Transport":           {layer: around(stream, stack)},
		"Breaker around Retry":              {layer: around(breaker, retry)},
		"RateLimit around Retry":            {layer: around(limit, retry, breaker)},
		"Timeout around Retry around Retry": {layer: around(timeout, retry, retry)},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			sturdytest.TestLayer(t, test.layer, test.except...)
		})
	}
}
