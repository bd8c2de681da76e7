package sturdy_test

import (
	"context"
	"fmt"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/sturdyhttp/sturdy"
)

func TestABurstOfFailuresOpensTheCircuitAndTheServerIsLeftAlone(t *testing.T) {
	t.Parallel()
	overBoth(t, func(t *testing.T, p protocol) {
		for _, status := range [...]int{500, 503} {
			t.Run(fmt.Sprint(status), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					s := p.serveInBubble(t, answer(status, "down"))
					client := s.client(&sturdy.Transport{Breaker: sturdy.Breaker{OpenFor: time.Hour}})
					for range 2 { // of five attempts each
						o := s.do(client, s.request(http.MethodPost, "body"))
						require.NoError(t, o.err)
						assert.Equal(t, status, o.status())
					}
					require.Len(t, s.seen(), 10)

					began := time.Now()
					o := s.do(client, s.request(http.MethodPost, "body"))
					assert.Zero(t, time.Since(began))
					require.ErrorIs(t, o.err, sturdy.ErrCircuitOpen)
					require.ErrorIs(t, o.err, sturdy.ErrNotSent)
					var e *sturdy.Error
					require.ErrorAs(t, o.err, &e)
					assert.Zero(t, e.Attempts)
					assert.InDelta(t, time.Hour, e.RetryAfter, float64(time.Minute))
					assert.Len(t, s.seen(), 10, "the server sees nothing of it")
				})
			})
		}
	})
}

func TestConcurrentFailuresOpenTheCircuitAndNobodyGetsAnythingElse(t *testing.T) {
	t.Parallel()
	overBoth(t, func(t *testing.T, p protocol) {
		synctest.Test(t, func(t *testing.T) {
			s := p.serveInBubble(t, answer(503, "down"))
			client := s.client(&sturdy.Transport{Breaker: sturdy.Breaker{OpenFor: time.Hour}})
			var wg sync.WaitGroup
			for range 20 {
				wg.Go(func() {
					o := s.do(client, s.request(http.MethodPost, "body"))
					if o.err != nil {
						assert.ErrorIs(t, o.err, sturdy.ErrCircuitOpen)
						return
					}
					assert.ErrorIs(t, o.failure, sturdy.ErrOverloaded)
					assert.Equal(t, "down", o.body)
				})
			}
			wg.Wait()
			n := len(s.seen())
			assert.GreaterOrEqual(t, n, 10)
			assert.Less(t, n, 70, "10 that open the circuit, and those that are under way until it is clear that no success is among them")
			o := s.do(client, s.request(http.MethodGet, ""))
			require.ErrorIs(t, o.err, sturdy.ErrCircuitOpen)
			assert.Len(t, s.seen(), n)
		})
	})
}

func TestTheAnswerInHandStandsWhereTheNextAttemptIsRefused(t *testing.T) {
	t.Parallel()
	overBoth(t, func(t *testing.T, p protocol) {
		for name, row := range map[string]struct{ method, body string }{
			"with a body":    {http.MethodPost, "down"},
			"without a body": {http.MethodPost, ""},
			"to HEAD":        {http.MethodHead, ""},
		} {
			t.Run(name, func(t *testing.T) {
				s := p.serve(t, answer(500, row.body))
				client := s.client(&sturdy.Transport{Breaker: sturdy.Breaker{Failures: 1, OpenFor: time.Hour}})
				o := s.do(client, s.request(row.method, "body"))
				require.NoError(t, o.err)
				assert.Equal(t, 500, o.status())
				assert.Equal(t, row.body, o.body)
				require.ErrorIs(t, o.failure, sturdy.ErrInternalServer)
				assert.Len(t, s.seen(), 1)
			})
		}
	})
}

func TestARequestWithADeadlineWaitsUntilTheCircuitCloses(t *testing.T) {
	t.Parallel()
	overBoth(t, func(t *testing.T, p protocol) {
		synctest.Test(t, func(t *testing.T) {
			down := answer(500, "down")
			s := p.serveInBubble(t, inTurn(down, down, fine))
			client := s.client(&sturdy.Transport{Breaker: sturdy.Breaker{Failures: 2, OpenFor: asked}})
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			o := s.do(client, s.request(http.MethodPost, "body").WithContext(ctx))
			require.NoError(t, o.failure)
			seen := s.seen()
			require.Len(t, seen, 3)
			assert.InDelta(t, asked, seen[2].at.Sub(seen[1].at), float64(asked/10+time.Millisecond), "with a little jitter")
			assert.GreaterOrEqual(t, seen[2].at.Sub(seen[1].at), asked)
		})
	})
}

func TestWhatIsNoFailureOfTheServerNeverOpensTheCircuit(t *testing.T) {
	t.Parallel()
	overBoth(t, func(t *testing.T, p protocol) {
		for name, handler := range map[string]http.HandlerFunc{
			"401":          answer(401, noKey),
			"404":          answer(404, ""),
			"429":          answer(429, rateLimited),
			"429 no quota": answer(429, noQuota),
		} {
			t.Run(name, func(t *testing.T) {
				s := p.serve(t, handler)
				client := s.client(&sturdy.Transport{
					Retry:     sturdy.Retry{Attempts: -1},
					RateLimit: sturdy.RateLimit{Fixed: true}, // which does not slow down
				})
				for range 12 {
					require.NoError(t, s.do(client, s.request(http.MethodGet, "")).err)
				}
				assert.Len(t, s.seen(), 12)
			})
		}
	})
}
