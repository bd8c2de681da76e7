package sturdy

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestAClientsTimeoutIsAlwaysTold(t *testing.T) {
	release := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/busy":
			w.WriteHeader(503)
			return
		case "/body":
			_, _ = io.WriteString(w, "half")
			_ = http.NewResponseController(w).Flush()
		}
		<-release
	}))
	defer server.Close()
	defer close(release)
	base := &http.Transport{DisableKeepAlives: true} // a connection that one has cancelled is not to fail another
	for name, layer := range map[string]http.RoundTripper{
		"Transport": &Transport{Base: base, Breaker: Breaker{Failures: -1, Ratio: -1}}, "Retry": &Retry{Base: base}, "Timeout": &Timeout{Base: base, Header: time.Hour},
		"Breaker": &Breaker{Base: base}, "RateLimit": &RateLimit{Base: base}, "Stream": &Stream{Base: base},
	} {
		client := &http.Client{Transport: layer, Timeout: 20 * time.Millisecond}
		paths := []string{"/", "/body"}
		if name == "Transport" || name == "Retry" {
			paths = append(paths, "/busy") // which waits for a retry then
		}
		for _, path := range paths {
			var wg sync.WaitGroup
			for range 50 {
				wg.Go(func() {
					resp, err := client.Get(server.URL + path)
					if err == nil && path == "/body" {
						_, err = io.ReadAll(resp.Body)
						resp.Body.Close()
						resp = nil
					}
					if err == nil {
						resp.Body.Close()
						assert.Equal(t, 503, resp.StatusCode, "%s: a wait that would be over too late is not begun", name)
						return
					}
					assert.Equal(t, ErrTimeout, ClassOf(err), "%s %s: %v", name, path, err)
					assert.ErrorIs(t, Check(nil, err), ErrTimeout, "%s %s: %v", name, path, err)
				})
			}
			wg.Wait()
		}
	}
}

func TestADeadlineTellsOfTheAttemptsBeforeIt(t *testing.T) {
	cause := errors.New("the caller's own cause")
	for name, step := range map[string]func(*http.Request) (*http.Response, error){
		"in the second attempt": hangs,
		"in the wait":           nil,
	} {
		synctest.Test(t, func(t *testing.T) {
			base := script(status(503), hangs)
			r := &Retry{Base: base, MinDelay: time.Millisecond}
			ctx, cancel := context.WithTimeoutCause(t.Context(), time.Minute, cause)
			defer cancel()
			if step == nil { // the deadline is not known beforehand
				r.MinDelay, r.MaxDelay = time.Hour, time.Hour
				ctx = hidden{ctx}
			}
			_, err := r.RoundTrip(get(t).WithContext(ctx))
			require.ErrorIs(t, err, context.DeadlineExceeded, name)
			require.ErrorIs(t, err, ErrTimeout, name)
			require.ErrorIs(t, err, cause, name)
			var e *Error
			require.ErrorAs(t, err, &e, name)
			assert.True(t, e.Timeout())
			assert.Contains(t, e.Error(), "server overloaded (503)")
			assert.NotEmpty(t, e.Report().Attempts)
			assert.Equal(t, len(base.times()), e.Attempts)
			assert.Equal(t, errNeutral, outcome(judge(get(t).WithContext(ctx), nil, err)), "a layer above holds it against nobody")
		})
	}
}

// hidden is a context that does not tell its deadline.
type hidden struct{ context.Context }

func (hidden) Deadline() (time.Time, bool) { return time.Time{}, false }

func TestARetryOfAnySDKsIsSentOnce(t *testing.T) {
	for name, row := range map[string]struct{ first, retry string }{
		"X-Stainless-Retry-Count": {"0", "1"},
		"Amz-Sdk-Request":         {"attempt=1; max=3", "ttl=20261128T000000Z; attempt=2; max=3"},
		"X-Goog-Api-Client":       {"gl-go/1.26 gccl-attempt-count/1", "gl-go/1.26 gccl-attempt-count/2"},
		"Retry-Attempt":           {"0", "1"},
	} {
		for value, want := range map[string]int{row.first: 3, row.retry: 1} {
			base := script(status(503))
			req := get(t)
			req.Header.Set(name, value)
			resp, err := (&Retry{Base: base, Attempts: 3, MinDelay: -1}).RoundTrip(req)
			require.NoError(t, err)
			require.NoError(t, resp.Body.Close())
			assert.Len(t, base.times(), want, "%s: %s", name, value)
		}
	}
}

func TestAnErrorOfJSONRPCIsAnAnswer(t *testing.T) {
	for body, sent := range map[string]int{
		`{"jsonrpc":"2.0","id":1,"error":{"code":-32000,"message":"server is busy"}}`: 1,
		`{"jsonrpc":"2.0","id":1,"error":{"code":-32603,"message":"Internal error"}}`: 1,
		`{"error":{"message":"x","code":"rate_limit_exceeded"}}`:                      3,
		`{"error":{"message":"x","code":503}}`:                                        3, // OpenRouter's: https://openrouter.ai/docs/api-reference/errors
	} {
		base := script(func(req *http.Request) (*http.Response, error) {
			resp := answer(req, 200, body)
			resp.Header.Set("Content-Type", "application/json")
			return resp, nil
		})
		resp, err := (&Retry{Base: &Stream{Base: base}, Attempts: 3, MinDelay: -1}).RoundTrip(post(t, "x"))
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
		assert.Len(t, base.times(), sent, body)
	}
}
