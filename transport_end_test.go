package sturdy_test

import (
	"context"
	"errors"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/sturdyhttp/sturdy"
)

func TestAWaitEndsWithItsRequest(t *testing.T) {
	t.Parallel()
	why := errors.New("the user left")
	ends := []struct {
		name  string
		by    func(*http.Request) (_ *http.Request, end func())
		cause error
	}{
		{"a context", func(req *http.Request) (*http.Request, func()) {
			ctx, cancel := context.WithCancel(req.Context())
			return req.WithContext(ctx), cancel
		}, nil},
		{"a context with a cause", func(req *http.Request) (*http.Request, func()) {
			ctx, cancel := context.WithCancelCause(req.Context())
			return req.WithContext(ctx), func() { cancel(why) }
		}, why},
		{"Request.Cancel", func(req *http.Request) (*http.Request, func()) {
			c := make(chan struct{})
			req.Cancel = c
			return req, func() { close(c) }
		}, nil},
	}
	// In each of these the only request that is sent is followed by a wait
	// whose end is far away.
	waits := []struct {
		name      string
		answer    http.HandlerFunc
		transport func() *sturdy.Transport
	}{
		{"a pause", answer(429, rateLimited, "Retry-After", "3600"), func() *sturdy.Transport {
			return &sturdy.Transport{
				Retry:     sturdy.Retry{MaxRetryAfter: 24 * time.Hour},
				RateLimit: sturdy.RateLimit{MaxWait: 24 * time.Hour},
			}
		}},
		{"a backoff", answer(500, "down"), func() *sturdy.Transport {
			return &sturdy.Transport{Retry: sturdy.Retry{MinDelay: 1e6 * time.Hour, MaxDelay: 1e6 * time.Hour}}
		}},
		{"an open circuit", answer(500, "down"), func() *sturdy.Transport {
			return &sturdy.Transport{Breaker: sturdy.Breaker{Failures: 1, OpenFor: time.Hour, MaxWait: 24 * time.Hour}}
		}},
	}
	overBoth(t, func(t *testing.T, p protocol) {
		for _, wait := range waits {
			for _, end := range ends {
				t.Run(wait.name+" with "+end.name, func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						s := p.serveInBubble(t, wait.answer)
						client := s.client(wait.transport())
						req, cancel := end.by(s.request(http.MethodPost, "body"))
						began := time.Now()
						time.AfterFunc(time.Minute, cancel) // by then it waits
						o := s.do(client, req)
						require.Len(t, s.seen(), 1)
						assert.Equal(t, time.Minute, time.Since(began))
						require.ErrorIs(t, o.err, context.Canceled)
						require.NotErrorIs(t, o.err, context.DeadlineExceeded)
						if end.cause != nil {
							require.ErrorIs(t, o.err, end.cause)
						}
						assertTimeout(t, o.err, false)
						assert.Zero(t, sturdy.ClassOf(o.failure), "it says nothing of the server")
						assert.NotErrorAs(t, o.err, new(*sturdy.Error), "the end of the caller's context is not wrapped")
					})
				})
			}
		}
	})
}

// stuck is a Limiter that lets nobody through.
type stuck struct{}

func (stuck) WaitN(ctx context.Context, _ int) error {
	<-ctx.Done()
	return ctx.Err()
}

func TestAWaitWithoutAKnownEndEndsWithTheDeadline(t *testing.T) {
	t.Parallel()
	overBoth(t, func(t *testing.T, p protocol) {
		for name, limit := range map[string]func(*http.Client, *http.Request) (*http.Request, context.CancelFunc){
			"of http.Client.Timeout": func(c *http.Client, req *http.Request) (*http.Request, context.CancelFunc) {
				c.Timeout = asked
				return req, func() {}
			},
			"of the context": func(_ *http.Client, req *http.Request) (*http.Request, context.CancelFunc) {
				ctx, cancel := context.WithTimeout(req.Context(), asked)
				return req.WithContext(ctx), cancel
			},
		} {
			t.Run(name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					s := p.serveInBubble(t, fine)
					client := s.client(&sturdy.Transport{RateLimit: sturdy.RateLimit{Limiter: stuck{}}})
					began := time.Now()
					req, cancel := limit(client, s.request(http.MethodPost, "body"))
					defer cancel()
					o := s.do(client, req)
					assert.Equal(t, asked, time.Since(began))
					require.ErrorIs(t, o.err, context.DeadlineExceeded)
					assertTimeout(t, o.err, true)
					assert.Empty(t, s.seen())
				})
			})
		}
	})
}

func TestAWaitPastTheDeadlineIsNotBegun(t *testing.T) {
	t.Parallel()
	overBoth(t, func(t *testing.T, p protocol) {
		for name, limit := range map[string]func(*http.Client, *http.Request) (*http.Request, context.CancelFunc){
			"of http.Client.Timeout": func(c *http.Client, req *http.Request) (*http.Request, context.CancelFunc) {
				c.Timeout = 10 * time.Minute
				return req, func() {}
			},
			"of the context": func(_ *http.Client, req *http.Request) (*http.Request, context.CancelFunc) {
				ctx, cancel := context.WithTimeout(req.Context(), 10*time.Minute)
				return req.WithContext(ctx), cancel
			},
		} {
			t.Run(name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					s := p.serveInBubble(t, answer(429, rateLimited, "Retry-After", "3600"))
					client := s.client(&sturdy.Transport{Retry: sturdy.Retry{MaxRetryAfter: 24 * time.Hour}})
					began := time.Now()

					req, cancel := limit(client, s.request(http.MethodPost, "body"))
					defer cancel()
					o := s.do(client, req)
					require.NoError(t, o.err)
					assert.Equal(t, 429, o.status())
					assert.JSONEq(t, rateLimited, o.body, "the answer in hand")
					var e *sturdy.Error
					require.ErrorAs(t, o.failure, &e)
					assert.Equal(t, time.Hour, e.RetryAfter)

					req, cancel = limit(client, s.request(http.MethodPost, "body"))
					defer cancel()
					o = s.do(client, req)
					require.ErrorIs(t, o.err, sturdy.ErrWaitTooLong)
					require.ErrorIs(t, o.err, sturdy.ErrNotSent)
					require.ErrorIs(t, o.err, context.DeadlineExceeded)
					assertTimeout(t, o.err, true)
					require.ErrorAs(t, o.err, &e)
					assert.Zero(t, e.Attempts)
					assert.InDelta(t, time.Hour, e.RetryAfter, float64(time.Minute))

					assert.Zero(t, time.Since(began))
					assert.Len(t, s.seen(), 1)
				})
			})
		}
	})
}

func TestACancelledRequestDoesNotCountForTheCircuit(t *testing.T) {
	t.Parallel()
	overBoth(t, func(t *testing.T, p protocol) {
		var mu sync.Mutex
		var cancel context.CancelFunc
		s := p.serve(t, func(w http.ResponseWriter, r *http.Request) {
			mu.Lock()
			leave := cancel
			mu.Unlock()
			leave()
			hanging(w, r)
		})
		client := s.client(&sturdy.Transport{Breaker: sturdy.Breaker{Failures: 1, OpenFor: time.Hour}})
		for range 3 {
			ctx, leave := context.WithCancel(t.Context())
			mu.Lock()
			cancel = leave
			mu.Unlock()
			o := s.do(client, s.request(http.MethodGet, "").WithContext(ctx))
			require.ErrorIs(t, o.err, context.Canceled)
			assert.Zero(t, sturdy.ClassOf(o.failure))
		}
		assert.Len(t, s.seen(), 3)
	})
}
