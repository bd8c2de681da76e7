package sturdy_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/sturdyhttp/sturdy"
	"github.com/sturdyhttp/sturdy/sturdytest"
)

const models = "https://api.example.com/v1/models"

// How to test code that calls an API: the failures come from a script, and in
// a bubble of testing/synctest the waits take no time.
func TestAClientSurvivesABadMinute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rt := sturdytest.Script(
			sturdytest.ConnReset(),
			sturdytest.RateLimited(30*time.Second),
			sturdytest.OK(`{}`),
		)
		client := &http.Client{Transport: &sturdy.Transport{Base: rt, Retry: sturdy.Retry{MinDelay: -1}}}
		began := time.Now()
		resp, err := client.Get(models)
		require.NoError(t, err)
		assert.Equal(t, http.StatusOK, resp.StatusCode)
		assert.Equal(t, 30*time.Second, time.Since(began))
		require.NoError(t, resp.Body.Close())
		rt.Done(t)
	})
}

func Example() {
	client := &http.Client{Transport: &sturdy.Transport{
		Base: sturdytest.Script(sturdytest.QuotaExceeded()), // instead of a server
	}}
	resp, err := client.Get(models)
	if err := sturdy.Check(resp, err); err != nil {
		if errors.Is(err, sturdy.ErrQuotaExceeded) {
			fmt.Println("waiting will not help")
		}
		var e *sturdy.Error
		if errors.As(err, &e) {
			fmt.Println(e.StatusCode, e.Code, e.Retryable(), e.Attempts)
		}
	}
	// Output:
	// waiting will not help
	// 429 insufficient_quota false 1
}

func ExampleTransport() {
	client := &http.Client{Transport: &sturdy.Transport{
		RateLimit: sturdy.RateLimit{Limit: 50, Burst: 10},
		Timeout:   sturdy.Timeout{Header: 30 * time.Second},
		Observe:   sturdy.Log(slog.Default()),
		Base:      sturdytest.Script(sturdytest.OK(`{}`)),
	}}
	resp, err := client.Get(models)
	fmt.Println(resp.StatusCode, err)
	// Output: 200 <nil>
}

func ExampleRetry() {
	rt := sturdytest.Script(sturdytest.Status(503).Times(2), sturdytest.OK(`{}`))
	client := &http.Client{Transport: &sturdy.Retry{Base: rt, MinDelay: time.Millisecond}}
	resp, err := client.Get(models)
	fmt.Println(resp.StatusCode, err, len(rt.Requests()))
	// Output: 200 <nil> 3
}

// A rule of the caller's: here a 404 means that what was just made is not there
// yet.
func ExampleRetry_decide() {
	rt := sturdytest.Script(sturdytest.Status(404).Times(2), sturdytest.OK(`{}`))
	client := &http.Client{Transport: &sturdy.Retry{
		Base:     rt,
		MinDelay: time.Millisecond,
		Decide: func(req *http.Request, e *sturdy.Error) sturdy.Decision {
			if req.Method == http.MethodGet && e.Class == sturdy.ErrNotFound {
				return sturdy.Again
			}
			return sturdy.Default
		},
	}}
	resp, err := client.Get(models)
	fmt.Println(resp.StatusCode, err, len(rt.Requests()))
	// Output: 200 <nil> 3
}

func ExampleWithRetry() {
	rt := sturdytest.Script(sturdytest.Status(503).Forever())
	client := &http.Client{Transport: &sturdy.Transport{Base: rt}}
	ctx := sturdy.WithRetry(context.Background(), &sturdy.Retry{Attempts: 1})
	req, _ := http.NewRequestWithContext(ctx, http.MethodGet, models, http.NoBody)
	resp, err := client.Do(req)
	fmt.Println(resp.StatusCode, err, len(rt.Requests()))
	// Output: 503 <nil> 1
}

// queue sends a request to each path, in this order, with its context, and prints in
// which order they left. The first leaves at once.
func queue(contexts map[string]context.Context, paths ...string) {
	waits := make(chan struct{}, len(paths))
	rt := sturdytest.Script(sturdytest.OK(`{}`).Forever())
	client := &http.Client{Transport: &sturdy.RateLimit{
		Limit: 2, // a second
		Base:  rt,
		Observe: func(_ context.Context, ev sturdy.Event) {
			if ev.Kind == sturdy.EventQueue {
				waits <- struct{}{}
			}
		},
	}}
	var calls sync.WaitGroup
	for i, path := range paths {
		req, _ := http.NewRequestWithContext(contexts[path], http.MethodGet, models+"/"+path, http.NoBody)
		calls.Go(func() {
			if resp, err := client.Do(req); err == nil {
				resp.Body.Close()
			}
		})
		if i > 0 {
			select {
			case <-waits:
			case <-time.After(time.Second): // too late to wait
			}
		}
	}
	calls.Wait()
	for _, req := range rt.Requests() {
		fmt.Print(" ", filepath.Base(req.URL.Path))
	}
}

func ExampleWithPriority() {
	ctx := context.Background()
	queue(map[string]context.Context{
		"batch":       ctx,
		"interactive": sturdy.WithPriority(ctx, 1),
	}, "batch", "batch", "batch", "interactive")
	// Output: batch interactive batch batch
}

func ExampleWithTenant() {
	ctx := context.Background()
	queue(map[string]context.Context{
		"many": sturdy.WithTenant(ctx, "many"),
		"few":  sturdy.WithTenant(ctx, "few"),
	}, "many", "many", "many", "many", "few")
	// Output: many many few many many
}

// Twenty retries for a server that never recovers, however many calls.
func ExampleBudget() {
	rt := sturdytest.Script(sturdytest.Status(500).Forever())
	client := &http.Client{Transport: &sturdy.Retry{Base: rt, MinDelay: -1, Budget: &sturdy.Budget{Size: 20}}}
	for range 100 {
		resp, err := client.Get(models)
		if err == nil {
			resp.Body.Close()
		}
	}
	fmt.Println(len(rt.Requests()))
	// Output: 120
}

func ExampleRateLimit() {
	client := &http.Client{Transport: &sturdy.RateLimit{
		Limit:   1, // a second
		MaxWait: 100 * time.Millisecond,
		Base:    sturdytest.Script(sturdytest.OK(`{}`).Forever()),
	}}
	_, err := client.Get(models)
	fmt.Println(err)
	_, err = client.Get(models)
	fmt.Println(errors.Is(err, sturdy.ErrWaitTooLong))
	// Output:
	// <nil>
	// true
}

func ExampleBreaker() {
	client := &http.Client{Transport: &sturdy.Breaker{
		Failures: 2,
		MaxWait:  -1, // refuse, do not wait
		Base:     sturdytest.Script(sturdytest.Overloaded().Forever()),
	}}
	for range 3 {
		resp, err := client.Get(models)
		fmt.Println(sturdy.ClassOf(sturdy.Check(resp, err)).String())
	}
	// Output:
	// overloaded
	// overloaded
	// circuit_open
}

func ExampleTimeout() {
	client := &http.Client{Transport: &sturdy.Timeout{
		Header: time.Millisecond,
		Base:   sturdytest.Script(sturdytest.Hang()),
	}}
	_, err := client.Get(models)
	fmt.Println(errors.Is(err, sturdy.ErrTimeout), errors.Is(err, sturdy.ErrConnection))
	// Output: true true
}

func ExampleClassOf() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Millisecond)
	defer cancel()
	<-ctx.Done()
	switch sturdy.ClassOf(ctx.Err()) {
	case sturdy.ErrTimeout:
		fmt.Println("took too long")
	case sturdy.ErrConnection:
		fmt.Println("could not get through")
	}
	// Output: took too long
}

func ExampleLog() {
	log := slog.New(slog.NewTextHandler(os.Stdout, &slog.HandlerOptions{
		ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
			if a.Key == slog.TimeKey || a.Key == "wait" { // which varies a little
				return slog.Attr{}
			}
			return a
		},
	}))
	client := &http.Client{Transport: &sturdy.Breaker{
		Failures: 1,
		Observe:  sturdy.Log(log),
		Base:     sturdytest.Script(sturdytest.Step{Status: 500}),
	}}
	_, _ = client.Get(models)
	// Output:
	// level=WARN msg="sturdy: open" method=GET host=api.example.com attempt=1 key=https://api.example.com error.class=internal_server error.status=500 error.attempts=1
}
