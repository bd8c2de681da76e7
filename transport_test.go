package sturdy_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/sturdyhttp/sturdy"
)

func TestTheZeroTransportMakesAClientSturdy(t *testing.T) {
	s := protocol(1).serve(t, inTurn(
		answer(http.StatusServiceUnavailable, "overloaded", "Retry-After-Ms", "50"),
		fine,
	))
	client := &http.Client{Transport: &sturdy.Transport{}}
	t.Cleanup(client.CloseIdleConnections)

	o := s.do(client, s.request(http.MethodPost, "body"))
	require.NoError(t, o.failure)
	assert.Equal(t, "fine", o.body)
	assert.Len(t, s.seen(), 2)
}

func TestEachAnswerHasItsClassAndIsSentAgainOnlyWhereThatHelps(t *testing.T) {
	t.Parallel()
	const invalid = "invalid_request_error"
	rows := []struct {
		name    string
		status  int
		body    string
		headers []string
		class   sturdy.Class
		kindOf  sturdy.Class
		again   bool
		wait    time.Duration // before each further attempt, at least
	}{
		{name: "invalid authentication", status: 401, body: said("Invalid Authentication", invalid, ""), class: sturdy.ErrAuthentication},
		{name: "incorrect API key", status: 401, body: noKey, class: sturdy.ErrAuthentication},
		{
			name: "no member of an organization", status: 401, class: sturdy.ErrAuthentication,
			body: said("You must be a member of an organization to use the API", invalid, "no_organization"),
		},
		{
			name: "rate limit", status: 429, body: rateLimited, headers: []string{"Retry-After-Ms", "50"},
			class: sturdy.ErrRateLimit, again: true, wait: asked,
		},
		{name: "rate limit without a time", status: 429, body: rateLimited, class: sturdy.ErrRateLimit, again: true},
		{name: "no quota", status: 429, body: noQuota, class: sturdy.ErrQuotaExceeded, kindOf: sturdy.ErrRateLimit},
		{
			name: "no quota although it names a time", status: 429, body: noQuota, headers: []string{"Retry-After-Ms", "50"},
			class: sturdy.ErrQuotaExceeded, kindOf: sturdy.ErrRateLimit,
		},
		{
			name: "billing not active", status: 429, class: sturdy.ErrQuotaExceeded, kindOf: sturdy.ErrRateLimit,
			body: said("Your account is not active, please check your billing details on our website.", "billing_not_active", "billing_not_active"),
		},
		{
			name: "server error", status: 500, class: sturdy.ErrInternalServer, again: true,
			body: said("The server had an error while processing your request", "server_error", ""),
		},
		{name: "bad gateway", status: 502, body: "<html><title>502 Bad Gateway</title></html>", class: sturdy.ErrInternalServer, again: true},
		{
			name: "overloaded", status: 503, class: sturdy.ErrOverloaded, kindOf: sturdy.ErrInternalServer, again: true,
			body: said("The engine is currently overloaded, please try again later", "server_error", ""),
		},
		{
			name: "overloaded with a time", status: 503, body: "busy", headers: []string{"Retry-After-Ms", "50"},
			class: sturdy.ErrOverloaded, kindOf: sturdy.ErrInternalServer, again: true, wait: asked,
		},
		{name: "gateway timeout", status: 504, class: sturdy.ErrTimeout, kindOf: sturdy.ErrConnection, again: true},
		{name: "bad request", status: 400, body: said("Invalid value", invalid, "invalid_value"), class: sturdy.ErrBadRequest},
		{name: "forbidden", status: 403, body: said("Not for you", invalid, ""), class: sturdy.ErrPermissionDenied},
		{name: "not found", status: 404, body: said("No such model", invalid, "model_not_found"), class: sturdy.ErrNotFound},
		{name: "request timeout", status: 408, class: sturdy.ErrTimeout, kindOf: sturdy.ErrConnection, again: true},
		{name: "conflict", status: 409, body: said("The name is taken", invalid, ""), class: sturdy.ErrConflict},
		{name: "conflict that passes", status: 409, body: said("Try again", invalid, "lock_timeout"), class: sturdy.ErrConflict, again: true},
		{name: "unprocessable", status: 422, body: said("Cannot do that", invalid, ""), class: sturdy.ErrUnprocessable},
	}
	overBoth(t, func(t *testing.T, p protocol) {
		for _, row := range rows {
			for _, method := range [...]string{http.MethodGet, http.MethodPost} {
				t.Run(fmt.Sprintf("%d %s to %s", row.status, row.name, method), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						fails := answer(row.status, row.body, row.headers...)
						var body string
						if method == http.MethodPost {
							body = "body"
						}

						s := p.serveInBubble(t, fails)
						client := s.client(&sturdy.Transport{
							Retry:     sturdy.Retry{Attempts: 3},
							RateLimit: sturdy.RateLimit{Fixed: true}, // which does not slow down
						})
						o := s.do(client, s.request(method, body))
						require.NoError(t, o.err, "a status is no error of Client.Do")
						assert.Equal(t, row.status, o.status())
						assert.Equal(t, row.body, o.body)
						require.ErrorIs(t, o.failure, row.class)
						assert.Equal(t, row.class, sturdy.ClassOf(o.failure))
						if row.kindOf != 0 {
							require.ErrorIs(t, o.failure, row.kindOf)
						}
						var e *sturdy.Error
						require.ErrorAs(t, o.failure, &e)
						assert.Equal(t, row.again, e.Retryable())
						if !row.again {
							assert.Equal(t, 1, e.Attempts)
							assert.Len(t, s.seen(), 1, "sent exactly once")
							return
						}
						assert.Equal(t, 3, e.Attempts)
						assertApart(t, s.seen(), 3, row.wait)

						s = p.serveInBubble(t, inTurn(fails, fails, fine))
						o = s.do(s.client(&sturdy.Transport{}), s.request(method, body))
						require.NoError(t, o.failure)
						assert.Equal(t, "fine", o.body)
						assertApart(t, s.seen(), 3, row.wait)
					})
				})
			}
		}
	})
}

// assertApart asserts that n requests came, at least wait apart.
func assertApart(t *testing.T, seen []arrival, n int, wait time.Duration) {
	t.Helper()
	require.Len(t, seen, n)
	for i := range seen[1:] {
		assert.GreaterOrEqual(t, seen[i+1].at.Sub(seen[i].at), wait)
	}
}

func TestAfterA429NobodyWithThatKeyIsSentBeforeTheTimeAskedFor(t *testing.T) {
	t.Parallel()
	const pause = 300 * time.Millisecond
	overBoth(t, func(t *testing.T, p protocol) {
		synctest.Test(t, func(t *testing.T) {
			s := p.serveInBubble(t, inTurn(answer(429, rateLimited, "Retry-After-Ms", "300"), fine))
			paused := make(chan struct{})
			client := s.client(&sturdy.Transport{Observe: onPause(paused)})
			var callers sync.WaitGroup
			call := func() {
				o := s.do(client, s.request(http.MethodPost, "body", "Authorization", "Bearer key"))
				assert.NoError(t, o.failure)
				assert.Equal(t, "fine", o.body)
			}
			callers.Go(call)
			await(t, paused)
			for range 8 {
				callers.Go(call)
			}
			callers.Wait()
			seen := s.seen()
			require.Len(t, seen, 10)
			for _, a := range seen[1:] {
				assert.GreaterOrEqual(t, a.at.Sub(seen[0].at), pause)
			}
		})
	})
}

func TestAfterA429TheOthersAreSentAtOnce(t *testing.T) {
	t.Parallel()
	overBoth(t, func(t *testing.T, p protocol) {
		s := p.serve(t, func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("Authorization") == "Bearer held" {
				answer(429, rateLimited, "Retry-After", "100")(w, r)
				return
			}
			fine(w, r)
		})
		paused := make(chan struct{})
		client := s.client(&sturdy.Transport{Observe: onPause(paused)})
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		var held, free sync.WaitGroup
		wait := func() {
			o := s.do(client, s.request(http.MethodPost, "body", "Authorization", "Bearer held").WithContext(ctx))
			assert.ErrorIs(t, o.err, context.Canceled)
		}
		held.Go(wait)
		await(t, paused)
		for i := range 8 {
			held.Go(wait)
			free.Go(func() {
				// One has another key, one is without.
				o := s.do(client, s.request(http.MethodPost, "body", "Authorization", []string{"Bearer free", ""}[i%2]))
				assert.NoError(t, o.failure)
			})
		}
		free.Wait() // for 100 seconds, if they were held too
		cancel()
		held.Wait()
		for _, a := range s.seen()[1:] {
			assert.NotEqual(t, "Bearer held", a.credential)
		}
		assert.Len(t, s.seen(), 9)
	})
}

func TestCloseIdleConnectionsReachesTheBase(t *testing.T) {
	t.Parallel()
	overBoth(t, func(t *testing.T, p protocol) {
		s := p.serve(t, fine)
		client := s.client(&sturdy.Transport{})
		require.NoError(t, s.do(client, s.request(http.MethodGet, "")).failure)
		require.EqualValues(t, 1, s.opened.Load())
		require.Zero(t, s.closed.Load())
		// In HTTP/2 a connection is idle a moment after the answer's last byte.
		require.Eventually(t, func() bool {
			client.CloseIdleConnections()
			return s.closed.Load() == 1
		}, guard, time.Millisecond)
		require.NoError(t, s.do(client, s.request(http.MethodGet, "")).failure)
		assert.EqualValues(t, 2, s.opened.Load())
	})
}

func TestOfManyConcurrentCallsNoneIsLost(t *testing.T) {
	t.Parallel()
	const calls = 500
	// echo sends back the body, by which a caller knows its own answer.
	echo := func(w http.ResponseWriter, r *http.Request) { _, _ = io.Copy(w, r.Body) }
	type steps []http.HandlerFunc
	kinds := []struct {
		steps   steps // each is taken once, and the last one's answer is the caller's
		class   sturdy.Class
		headers []string
	}{
		{steps: steps{echo}},
		{steps: steps{answer(503, "busy"), answer(500, "down"), echo}},
		{steps: steps{answer(429, rateLimited, "Retry-After-Ms", "20"), echo}},
		{steps: steps{answer(401, noKey)}, class: sturdy.ErrAuthentication},
		{steps: steps{answer(429, noQuota)}, class: sturdy.ErrQuotaExceeded},
		{steps: steps{answer(404, "")}, class: sturdy.ErrNotFound},
		{steps: steps{answer(409, "", "Retry-After-Ms", "1"), echo}},
		{steps: steps{resetting, echo}, headers: []string{"Idempotency-Key", "k"}},
		{steps: steps{resetting}, class: sturdy.ErrConnection},
		{steps: steps{hanging}}, // its caller leaves
	}
	overBoth(t, func(t *testing.T, p protocol) {
		synctest.Test(t, func(t *testing.T) {
			type caller struct {
				handler http.HandlerFunc
				ctx     context.Context // the handler ends it
				leave   context.CancelFunc
			}
			callers := make(map[string]caller, calls)
			want := 1
			for i := range calls {
				kind := kinds[i%len(kinds)]
				ctx, leave := context.WithCancel(t.Context())
				callers[fmt.Sprint(i)] = caller{inTurn(kind.steps...), ctx, leave}
				want += len(kind.steps)
			}
			callers["to connect"] = caller{handler: echo, ctx: t.Context()}
			s := p.serveInBubble(t, func(w http.ResponseWriter, r *http.Request) {
				c := callers[r.Header.Get("X-Call")]
				if n, err := strconv.Atoi(r.Header.Get("X-Call")); err == nil && n%len(kinds) == len(kinds)-1 {
					c.leave()
				}
				c.handler(w, r)
			})
			if p == 1 {
				s.base.MaxConnsPerHost, s.base.MaxIdleConnsPerHost = 50, 50
			}
			// With so many failures on purpose the circuit would open, and the budget be spent.
			client := s.client(&sturdy.Transport{
				Retry:   sturdy.Retry{Budget: &sturdy.Budget{Size: -1}},
				Breaker: sturdy.Breaker{Failures: -1, Ratio: -1},
			})
			call := func(id string, headers ...string) outcome {
				// Each has a key of its own: a pause is for one of them.
				req := s.request(http.MethodPost, id, append(headers, "X-Call", id, "Authorization", "Bearer "+id)...)
				return s.do(client, req.WithContext(callers[id].ctx))
			}
			require.NoError(t, call("to connect").failure)

			var wg sync.WaitGroup
			for i := range calls {
				wg.Go(func() {
					kind, id := kinds[i%len(kinds)], fmt.Sprint(i)
					switch o := call(id, kind.headers...); {
					case i%len(kinds) == len(kinds)-1:
						assert.ErrorIs(t, o.err, context.Canceled, id)
					case kind.class != 0:
						assert.ErrorIs(t, o.failure, kind.class, id)
					default:
						assert.NoError(t, o.failure, id)
						assert.Equal(t, id, o.body)
					}
				})
			}
			wg.Wait()

			sent := map[string]int{}
			for _, a := range s.seen() {
				sent[a.call]++
			}
			for i := range calls {
				assert.Equal(t, len(kinds[i%len(kinds)].steps), sent[fmt.Sprint(i)], "call %d", i)
			}
			assert.Equal(t, want, len(s.seen())) //nolint:testifylint // too many to print
			t.Logf("%d requests over %d connections", len(s.seen()), s.opened.Load())
		})
	})
}
