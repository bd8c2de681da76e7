package sturdy

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/time/rate"
)

// sendAll sends n requests at once and waits for their answers.
func sendAll(t *testing.T, rt http.RoundTripper, n int) []error {
	errs := make([]error, n)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			resp, err := rt.RoundTrip(get(t))
			if errs[i] = Check(resp, err); resp != nil {
				assert.NoError(t, resp.Body.Close())
			}
		})
	}
	wg.Wait()
	return errs
}

func every(d time.Duration, n int) []time.Duration {
	times := make([]time.Duration, n)
	for i := range times {
		times[i] = time.Duration(i) * d
	}
	return times
}

func TestRateLimitSpacesRequests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base := script(status(200))
		sendAll(t, &RateLimit{Base: base, Limit: 10}, 20)
		assert.Equal(t, every(100*time.Millisecond, 20), base.times())
	})
}

func TestRateLimitLetsABurstPass(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base := script(status(200))
		sendAll(t, &RateLimit{Base: base, Limit: 10, Burst: 5}, 8)
		ms := time.Millisecond
		assert.Equal(t, []time.Duration{0, 0, 0, 0, 0, 100 * ms, 200 * ms, 300 * ms}, base.times())
	})
}

func TestRateLimitZeroValueHasNoLimitOfItsOwn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base := script(status(200))
		sendAll(t, &RateLimit{Base: base}, 1000)
		assert.Equal(t, make([]time.Duration, 1000), base.times())
	})
}

func TestRateLimitKeepsTheOrderOfArrival(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var order []string
		l := &RateLimit{Limit: 1, Base: rtFunc(func(req *http.Request) (*http.Response, error) {
			order = append(order, req.Header.Get("N"))
			return status(200)(req)
		})}
		var wg sync.WaitGroup
		for i := range 20 {
			wg.Go(func() {
				time.Sleep(time.Duration(i) * time.Millisecond)
				req := get(t)
				req.Header.Set("N", fmt.Sprint(i))
				_, err := l.RoundTrip(req)
				assert.NoError(t, err)
			})
		}
		wg.Wait()
		for i, n := range order {
			assert.Equal(t, fmt.Sprint(i), n)
		}
	})
}

func TestARetriedRequestKeepsItsPlaceInTheQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var order []string
		rt := &Transport{RateLimit: RateLimit{Limit: 1}, Retry: Retry{MinDelay: -1},
			Base: rtFunc(func(req *http.Request) (*http.Response, error) {
				order = append(order, req.Header.Get("N"))
				if len(order) == 1 {
					return after(500*time.Millisecond, status(503))(req)
				}
				return status(200)(req)
			})}
		var wg sync.WaitGroup
		for i := range 4 {
			wg.Go(func() {
				time.Sleep(time.Duration(i) * time.Millisecond)
				req := get(t)
				req.Header.Set("N", fmt.Sprint(i))
				_, err := rt.RoundTrip(req)
				assert.NoError(t, err)
			})
		}
		wg.Wait()
		assert.Equal(t, []string{"0", "0", "1", "2", "3"}, order)
	})
}

func TestOne429HoldsEverybodyWithItsKey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base := script(status(429, "Retry-After", "7"), status(200))
		var seen observed
		l := &RateLimit{Base: base, Observe: seen.see}
		errs := sendAll(t, l, 1)
		assert.ErrorIs(t, errs[0], ErrRateLimit)

		other := get(t)
		other.Header.Set("Authorization", "Bearer somebody-else")
		_, err := l.RoundTrip(other)
		require.NoError(t, err)
		assert.Zero(t, time.Since(base.began), "somebody else is not held")

		sendAll(t, l, 5)
		assert.Equal(t, []EventKind{
			EventPause, EventQueue, EventQueue, EventQueue, EventQueue, EventQueue,
			EventWait, EventWait, EventWait, EventWait, EventWait,
		}, seen.kinds())
		times := base.times()[2:]
		require.Len(t, times, 5)
		assert.Equal(t, 7*time.Second, times[0])
		for i := range 4 {
			assert.Greater(t, times[i+1], times[i], "not all at once")
		}
	})
}

func TestTheLongestWaitAskedForCounts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base := script(after(time.Second, status(429, "Retry-After", "10")), after(2*time.Second, status(429, "Retry-After", "3")),
			after(3*time.Second, status(503, "Retry-After", "1")), status(200))
		l := &RateLimit{Base: base, Fixed: true}
		sendAll(t, l, 3)
		sendAll(t, l, 1)
		assert.Equal(t, []time.Duration{0, 0, 0, 11 * time.Second}, base.times())
	})
}

func TestNothingAccruesWhilePaused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base := script(status(429, "Retry-After", "30"), status(200))
		l := &RateLimit{Base: base, Limit: 10, Burst: 50, Fixed: true}
		sendAll(t, l, 1)
		sendAll(t, l, 5)
		s, ms := time.Second, time.Millisecond
		assert.Equal(t, []time.Duration{0, 30 * s, 30*s + 100*ms, 30*s + 200*ms, 30*s + 300*ms, 30*s + 400*ms}, base.times())
	})
}

func TestAPauseReachesThoseWhoWaitAlready(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base := script(after(500*time.Millisecond, status(429, "Retry-After", "10")), status(200))
		l := &RateLimit{Base: base, Limit: 1, Fixed: true}
		sendAll(t, l, 3)
		s := time.Second
		assert.Equal(t, []time.Duration{0, 10*s + s/2, 11*s + s/2}, base.times())
	})
}

func TestATurnThatComesTooLateIsRefusedAtOnce(t *testing.T) {
	for _, row := range []struct {
		name     string
		limit    *RateLimit
		deadline time.Duration
		ahead    int
		want     time.Duration // until its turn; 0 if it is not refused
	}{
		{"in time for the deadline", &RateLimit{Limit: 1}, 3500 * time.Millisecond, 3, 0},
		{"after the deadline", &RateLimit{Limit: 1}, 2500 * time.Millisecond, 3, 3 * time.Second},
		{"at the deadline", &RateLimit{Limit: 1}, 3 * time.Second, 3, 3 * time.Second},
		{"after MaxWait", &RateLimit{Limit: 1, MaxWait: 2500 * time.Millisecond}, 0, 3, 3 * time.Second},
		{"in time for MaxWait", &RateLimit{Limit: 1, MaxWait: 3500 * time.Millisecond}, 0, 3, 0},
		{"after neither", &RateLimit{Limit: 1}, 0, 3, 0},
	} {
		t.Run(row.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				row.limit.Base = script(status(200))
				for range row.ahead {
					go func() { sendAll(t, row.limit, 1) }()
				}
				synctest.Wait()
				began := time.Now()
				req := get(t)
				body := &trackedBody{Reader: strings.NewReader("")}
				req.Body = body
				if row.deadline != 0 {
					ctx, cancel := context.WithTimeout(t.Context(), row.deadline)
					defer cancel()
					req = req.WithContext(ctx)
				}
				_, err := row.limit.RoundTrip(req)
				if row.want == 0 {
					require.NoError(t, err)
					assert.Equal(t, 3*time.Second, time.Since(began))
					return
				}
				assert.Zero(t, time.Since(began))
				assert.ErrorIs(t, err, ErrWaitTooLong)
				assert.ErrorIs(t, err, ErrNotSent)
				assert.Equal(t, row.deadline != 0, errors.Is(err, context.DeadlineExceeded))
				var e *Error
				require.ErrorAs(t, err, &e)
				assert.Equal(t, row.want, e.RetryAfter)
				assert.Equal(t, 1, body.closes())
				time.Sleep(time.Minute)
			})
		})
	}
}

func TestAPauseRefusesThoseWhoseTurnIsNowTooLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base := script(after(500*time.Millisecond, status(429, "Retry-After", "10")), status(200))
		l := &RateLimit{Base: base, Limit: 1}
		go func() { sendAll(t, l, 1) }()
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		_, err := l.RoundTrip(get(t).WithContext(ctx))
		assert.ErrorIs(t, err, ErrWaitTooLong)
		assert.Equal(t, 500*time.Millisecond, time.Since(base.began), "as soon as it is known")
	})
}

func TestNobodyWaitsForADay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base := script(status(429, "Retry-After", "86400"), status(200))
		l := &RateLimit{Base: base}
		sendAll(t, l, 1)
		errs := sendAll(t, l, 1)
		assert.ErrorIs(t, errs[0], ErrWaitTooLong)
		assert.Zero(t, time.Since(base.began))
		assert.Len(t, base.times(), 1)
	})
}

func TestACancelledWaiterDelaysNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base := script(status(200))
		l := &RateLimit{Base: base, Limit: 1}
		sendAll(t, l, 1)
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		for range 100 {
			wg.Go(func() {
				_, err := l.RoundTrip(get(t).WithContext(ctx))
				assert.ErrorIs(t, err, context.Canceled)
			})
		}
		synctest.Wait()
		wg.Go(func() { sendAll(t, l, 1) })
		synctest.Wait()
		time.Sleep(500 * time.Millisecond)
		cancel()
		wg.Wait()
		assert.Equal(t, []time.Duration{0, time.Second}, base.times())
	})
}

func TestAfterARefusalTheOthersLeavePaced(t *testing.T) {
	// A real token bucket: 20 a second, a burst of 20, waits named to the millisecond.
	synctest.Test(t, func(t *testing.T) {
		bucket := rate.NewLimiter(20, 20)
		var sent, refused atomic.Int32
		base := rtFunc(func(req *http.Request) (*http.Response, error) {
			sent.Add(1)
			if bucket.Allow() {
				return after(10*time.Millisecond, status(200))(req)
			}
			refused.Add(1)
			return status(429, "Retry-After-Ms", "50")(req)
		})
		rt := &Transport{Base: base}
		began := time.Now()
		var wg sync.WaitGroup
		for range 16 {
			wg.Go(func() {
				for range 25 {
					resp, err := rt.RoundTrip(get(t))
					require.NoError(t, Check(resp, err))
				}
			})
		}
		wg.Wait()
		elapsed := time.Since(began)
		t.Logf("400 requests: %d sent, %d refused, %v; the server takes them in 19s", sent.Load(), refused.Load(), elapsed)
		assert.Less(t, refused.Load(), int32(60))
		assert.Less(t, elapsed, 30*time.Second)
	})
}

func TestRateLimitAsksALimiterOfTheCallers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base := script(status(200))
		l := &RateLimit{Base: base, Limiter: rate.NewLimiter(1, 1)}
		sendAll(t, l, 3)
		assert.Equal(t, every(time.Second, 3), base.times())

		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		_, err := l.RoundTrip(get(t).WithContext(ctx))
		assert.ErrorIs(t, err, ErrWaitTooLong)

		done := make(chan struct{})
		time.AfterFunc(time.Millisecond, func() { close(done) })
		req := get(t)
		req.Cancel = done
		_, err = l.RoundTrip(req)
		assert.ErrorIs(t, err, context.Canceled)
	})
}

func TestRateLimitTakesTheCallersKey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base := script(status(200))
		l := &RateLimit{Base: base, Limit: 1, Key: func(req *http.Request) string { return req.Method }}
		sendAll(t, l, 2)
		_, err := l.RoundTrip(post(t, ""))
		require.NoError(t, err)
		assert.Equal(t, []time.Duration{0, time.Second, time.Second}, base.times())
	})
}

func TestAPanicInAKeyFunctionClosesTheBody(t *testing.T) {
	for name, rt := range map[string]http.RoundTripper{
		"RateLimit": &RateLimit{Key: func(*http.Request) string { panic("key") }},
		"Breaker":   &Breaker{Key: func(*http.Request) string { panic("key") }},
	} {
		t.Run(name, func(t *testing.T) {
			body := &trackedBody{Reader: strings.NewReader("")}
			req := post(t, "")
			req.Body = body
			assert.PanicsWithValue(t, "key", func() { _, _ = rt.RoundTrip(req) })
			assert.Equal(t, 1, body.closes())
		})
	}
}

func TestRateLimitReportsBadSettings(t *testing.T) {
	for field, l := range map[string]*RateLimit{
		"RateLimit.Limit":   {Limit: rate.Limit(math.NaN())},
		"without RateLimit": {Burst: 5},
		"RateLimit.Limiter": {Limit: 1, Limiter: rate.NewLimiter(1, 1)},
	} {
		_, err := l.RoundTrip(get(t))
		assert.ErrorContains(t, err, field)
	}
	for field, rt := range map[string]*Transport{
		"Transport.Retry.Base":     {Retry: Retry{Base: http.DefaultTransport}},
		"Transport.RateLimit.Base": {RateLimit: RateLimit{Base: http.DefaultTransport}},
		"Transport.Breaker.Base":   {Breaker: Breaker{Base: http.DefaultTransport}},
		"Transport.Timeout.Base":   {Timeout: Timeout{Base: http.DefaultTransport}},
	} {
		_, err := rt.RoundTrip(get(t))
		assert.ErrorContains(t, err, field)
	}
}

func TestTenThousandGoroutinesPassTheGate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base := script(status(429, "Retry-After", "5"), status(200))
		rt := &Transport{Base: base, RateLimit: RateLimit{Limit: 10_000, Burst: 100, Fixed: true}}
		for _, err := range sendAll(t, rt, 10_000) {
			require.NoError(t, err)
		}
		assert.Len(t, base.times(), 10_001)
		for _, at := range base.times()[100:] {
			require.GreaterOrEqual(t, at, 5*time.Second)
		}
	})
}

func TestAPauseDoesNotMakeAnUnrelatedErrorARefusal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base := script(fails(errReset), status(503), status(400, "Retry-After", "9"), status(200))
		l := &RateLimit{Base: base}
		for range 4 {
			sendAll(t, l, 1)
		}
		assert.Zero(t, time.Since(base.began), "nothing but a 429 or 503 that names a wait holds anybody")
	})
}

func TestAKeyThatIsACredentialIsNotShown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var seen observed
		l := &RateLimit{
			Base: script(status(429, "Retry-After", "1")), Observe: seen.see,
			Key: func(req *http.Request) string { return "tenant " + req.Header.Get("Authorization") },
		}
		req := get(t)
		req.Header.Set("Authorization", "Bearer opaque-secret")
		_, err := l.RoundTrip(req)
		require.NoError(t, err)
		require.Len(t, seen.events, 1)
		assert.Equal(t, "tenant [redacted]", seen.events[0].Key)
	})
}

func TestNoPauseIsLongerThanAnHour(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base := script(status(429, "Retry-After", "1790000000"), status(200)) // a date, by mistake
		l := &RateLimit{Base: base}
		sendAll(t, l, 1)
		time.Sleep(time.Hour)
		require.NoError(t, sendAll(t, l, 1)[0])
	})
}

func TestARequestThatIsOverTakesNoToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base := script(status(200))
		l := &RateLimit{Base: base, Limit: 1}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		_, err := l.RoundTrip(get(t).WithContext(ctx))
		require.ErrorIs(t, err, context.Canceled)
		require.NoError(t, sendAll(t, l, 1)[0])
		assert.Equal(t, []time.Duration{0}, base.times())
	})
}

func TestAnAnswerFromACacheTellsNothingOfLimits(t *testing.T) {
	for name, row := range map[string]struct {
		header []string
		cached bool
	}{
		"the server's own": {nil, false},
		"of no age":        {[]string{"Age", "0"}, false},
		"of some age":      {[]string{"Age", "3"}, true},
		"of the caller's":  {[]string{"X-From-Cache", "1"}, true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				now := []string{"X-Ratelimit-Limit", "5000", "X-Ratelimit-Remaining", "0", "X-Ratelimit-Reset", "2400"}
				fresh := []string{"X-Ratelimit-Limit", "5000", "X-Ratelimit-Remaining", "4000", "X-Ratelimit-Reset", "2400"}
				l := &RateLimit{Base: script(status(200, fresh...), status(429, now...), status(200, fresh...), status(200, append(now, row.header...)...), status(200, fresh...))}
				var began time.Time
				for range 5 {
					began = time.Now()
					_, err := l.RoundTrip(get(t).WithContext(deadlineIn(t, 3*time.Hour)))
					require.NoError(t, err)
				}
				assert.Equal(t, !row.cached, time.Since(began) > 30*time.Minute)
			})
		})
	}
}
