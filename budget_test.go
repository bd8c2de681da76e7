package sturdy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// left is what the account of the key of get has, in retries.
func (b *Budget) left(t testing.TB) float64 {
	e := b.open(get(t))
	defer b.close(e)
	e.state.mu.Lock()
	defer e.state.mu.Unlock()
	e.state.age()
	return e.state.balance
}

func TestWithAnEmptyBudgetTheLastAnswerGoesBackAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var seen observed
		base := script(status(503))
		r := &Retry{Base: base, Attempts: 10, MinDelay: -1, Budget: &Budget{Size: 3}, Observe: seen.see}
		resp, err := r.RoundTrip(get(t))
		require.NoError(t, err)
		require.Len(t, base.times(), 4, "once, and three retries")
		assert.Equal(t, base.times()[3], time.Since(base.began), "no wait after the last")
		assert.Equal(t, []EventKind{EventRetry, EventRetry, EventRetry, EventBudget}, seen.kinds())
		body, err := io.ReadAll(resp.Body)
		require.NoError(t, err)
		assert.Equal(t, `{"error":{"message":"status 503"}}`, string(body))
		assert.Equal(t, 4, Classify(resp, nil).Attempts)
	})
}

func TestWithAnEmptyBudgetTheErrorGoesBackAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base := script(fails(errReset))
		_, err := (&Retry{Base: base, Budget: &Budget{Size: 1}, MinDelay: -1}).RoundTrip(get(t))
		assert.ErrorIs(t, err, errReset)
		assert.Len(t, base.times(), 2)
		assert.Zero(t, time.Since(base.began))
	})
}

func TestWhatBecomesOfARetryThatWasPaidFor(t *testing.T) {
	refused := refusal(ErrCircuitOpen, time.Second, errors.New("open"))
	late := func(req *http.Request) (*http.Response, error) { return after(time.Hour, status(200))(req) }
	for _, row := range []struct {
		name  string
		steps []func(*http.Request) (*http.Response, error)
		wait  time.Duration // MinDelay
		left  float64       // of 5; one more comes in ten seconds
	}{
		{"a success pays it back", []func(*http.Request) (*http.Response, error){status(503), status(200)}, -1, 5},
		{"so does an answer for good", []func(*http.Request) (*http.Response, error){status(503), status(404)}, -1, 5},
		{"and one that asks for a wait", []func(*http.Request) (*http.Response, error){status(503), status(429), status(200)}, -1, 5},
		{"a failure does not", []func(*http.Request) (*http.Response, error){status(503), status(503), status(200)}, -1, 4},
		{"each failure costs one", []func(*http.Request) (*http.Response, error){status(503)}, -1, 1},
		{"nor does a broken connection", []func(*http.Request) (*http.Response, error){fails(errReset)}, -1, 1},
		{"what our own layers refuse was not sent", []func(*http.Request) (*http.Response, error){status(503), fails(refused)}, -1, 5},
		{"a caller who leaves during the wait had it sent to nobody", []func(*http.Request) (*http.Response, error){status(503, "Retry-After", "60")}, 0, 5.5},
		{"one who leaves after it was sent leaves it open", []func(*http.Request) (*http.Response, error){status(503), late}, -1, 4.5},
		{"a first failure alone costs nothing", []func(*http.Request) (*http.Response, error){status(404)}, -1, 5},
	} {
		t.Run(row.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := &Budget{Size: 5, Ratio: -1}
				ctx, cancel := context.WithCancel(t.Context())
				time.AfterFunc(time.Second, cancel)
				resp, err := (&Retry{Base: script(row.steps...), Budget: b, MinDelay: row.wait}).RoundTrip(get(t).WithContext(ctx))
				if err == nil {
					require.NoError(t, resp.Body.Close())
				}
				assert.InDelta(t, row.left, b.left(t), 1e-9)
			})
		})
	}
}

func TestAPanicInTheBaseOrAHookPaysARetryBack(t *testing.T) {
	for name, r := range map[string]*Retry{
		"base panics": {Base: script(status(503), func(*http.Request) (*http.Response, error) { panic("base") })},
		"base exits": {Base: script(status(503), func(*http.Request) (*http.Response, error) {
			runtime.Goexit()
			return nil, nil
		})},
		"hook panics": {Base: script(status(503)), Observe: func(context.Context, Event) { panic("hook") }},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r.Budget, r.MinDelay = &Budget{Size: 5, Ratio: -1}, -1
				done := make(chan struct{})
				go func() {
					defer close(done)
					defer func() { _ = recover() }()
					_, _ = r.RoundTrip(get(t))
				}()
				<-done
				assert.Equal(t, 5., r.Budget.left(t))
			})
		})
	}
}

func TestARetryThatGetBodyFailsIsPaidBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &Budget{Size: 5}
		req := post(t, "x")
		req.GetBody = func() (io.ReadCloser, error) { return nil, errors.New("gone") }
		resp, err := (&Retry{Base: script(status(503)), Budget: b}).RoundTrip(req)
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
		assert.Equal(t, 5., b.left(t))
	})
}

func TestARetryIsPaidForBeforeItsWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base := script(status(503, "Retry-After", "10"))
		r := &Retry{Base: base, Attempts: 2, Budget: &Budget{Size: 2, Ratio: -1}, MinDelay: -1}
		var mu sync.Mutex
		var ended []time.Duration
		var wg sync.WaitGroup
		for range 5 {
			wg.Go(func() {
				resp, err := r.RoundTrip(get(t))
				assert.NoError(t, err)
				assert.NoError(t, resp.Body.Close())
				mu.Lock()
				defer mu.Unlock()
				ended = append(ended, time.Since(base.began))
			})
		}
		wg.Wait()
		assert.Equal(t, []time.Duration{0, 0, 0, 10 * time.Second, 10 * time.Second}, ended)
	})
}

func TestWhileTheServerWorksRetriesAreFree(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		down := true
		r := &Retry{Budget: &Budget{Size: 1, Ratio: 0.5}, Attempts: 2, MinDelay: -1}
		sent := 0
		r.Base = rtFunc(func(req *http.Request) (*http.Response, error) {
			sent++
			if down {
				return status(503)(req)
			}
			return status(200)(req)
		})
		call := func() int {
			sent = 0
			resp, err := r.RoundTrip(get(t))
			require.NoError(t, err)
			require.NoError(t, resp.Body.Close())
			return sent
		}
		assert.Equal(t, 2, call(), "there is one from the beginning")
		assert.Equal(t, 1, call(), "it failed")
		down = false
		call()
		assert.Equal(t, 0.5, r.Budget.left(t))
		down = true
		time.Sleep(budgetWorks - 1)
		for range 10 {
			assert.Equal(t, 2, call(), "the server has just worked")
		}
		time.Sleep(time.Nanosecond)
		assert.Equal(t, 1, call(), "and now it has not for some time")
	})
}

func TestAnEmptyBudgetGetsOneRetryInTwoSeconds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base := script(status(503))
		r := &Retry{Base: base, Budget: &Budget{Size: 1}, Attempts: 2, MinDelay: -1}
		call := func() int {
			before := len(base.times())
			resp, err := r.RoundTrip(get(t))
			require.NoError(t, err)
			require.NoError(t, resp.Body.Close())
			return len(base.times()) - before
		}
		assert.Equal(t, 2, call())
		time.Sleep(budgetDrip - time.Millisecond)
		assert.Equal(t, 1, call())
		time.Sleep(time.Millisecond)
		assert.Equal(t, 2, call())
		time.Sleep(time.Hour)
		assert.Equal(t, 2, call())
		assert.Equal(t, 1, call(), "never more than Size")
	})
}

func TestWhatWasSentBeforeAFailureWasKnownIsOneEventWithIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var down atomic.Bool
		var sent atomic.Int64
		r := &Retry{Budget: &Budget{Size: 1, Ratio: -1}, MinDelay: -1, Attempts: 2}
		r.Base = rtFunc(func(req *http.Request) (*http.Response, error) {
			sent.Add(1)
			time.Sleep(100 * time.Millisecond)
			if down.Load() {
				return fails(errReset)(req)
			}
			return status(200)(req)
		})
		many := func(n int, moment bool) (lost int64) {
			down.Store(true)
			var failed atomic.Int64
			var wg sync.WaitGroup
			for i := range n {
				wg.Go(func() {
					time.Sleep(time.Duration(i) * time.Millisecond)
					if resp, err := r.RoundTrip(get(t)); err != nil {
						failed.Add(1)
					} else {
						resp.Body.Close()
					}
				})
			}
			time.Sleep(time.Duration(100+n) * time.Millisecond)
			if moment {
				down.Store(false)
			}
			wg.Wait()
			return failed.Load()
		}
		assert.Zero(t, many(50, true), "all come home, though one retry was paid for")
		assert.EqualValues(t, 100, sent.Load())
		time.Sleep(time.Minute)
		many(50, false)
		assert.EqualValues(t, 200, sent.Load(), "in an outage they are free once")
		assert.EqualValues(t, 50, many(50, false))
		assert.LessOrEqual(t, sent.Load(), int64(252), "and no more")
	})
}

func TestWhatSuccessesLiftABudgetAboveItsSizeFades(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &Budget{Size: 10}
		r := &Retry{Base: script(status(200)), Budget: b}
		for range 100 {
			_, err := r.RoundTrip(get(t))
			require.NoError(t, err)
		}
		assert.InDelta(t, 10+300, b.left(t), 1e-9)
		time.Sleep(budgetFade)
		assert.InDelta(t, 10+300/math.E, b.left(t), 1e-9)
		time.Sleep(time.Hour)
		assert.InDelta(t, 10, b.left(t), 1e-9)
	})
}

func TestASuccessEarnsRetries(t *testing.T) {
	for _, row := range []struct {
		name  string
		ratio float64
		steps []func(*http.Request) (*http.Response, error)
		left  float64 // of 1
	}{
		{"a success", 0, []func(*http.Request) (*http.Response, error){status(200)}, 4},
		{"a redirect", 0, []func(*http.Request) (*http.Response, error){status(302)}, 4},
		{"an answer for good", 0, []func(*http.Request) (*http.Response, error){status(404)}, 1},
		{"a retry that was free", 0, []func(*http.Request) (*http.Response, error){status(429, "Retry-After", "1"), status(200)}, 4},
		{"a retry that was paid for", 0, []func(*http.Request) (*http.Response, error){status(503), status(200)}, 4},
		{"another ratio", 0.1, []func(*http.Request) (*http.Response, error){status(200)}, 1.1},
		{"a negative ratio", -1, []func(*http.Request) (*http.Response, error){status(200)}, 1},
	} {
		t.Run(row.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := &Budget{Size: 1, Ratio: row.ratio}
				resp, err := (&Transport{Base: script(row.steps...), Retry: Retry{Budget: b, MinDelay: -1}}).RoundTrip(get(t))
				require.NoError(t, err)
				require.NoError(t, resp.Body.Close())
				assert.InDelta(t, row.left, b.left(t), 1e-9)
			})
		})
	}
}

func TestABudgetForgetsNoDebt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base := script(status(503))
		r := &Retry{Base: base, MinDelay: -1}
		call := func(url string) int {
			before := len(base.times())
			resp, err := r.RoundTrip(newRequest(t, http.MethodGet, url, http.NoBody))
			require.NoError(t, err)
			require.NoError(t, resp.Body.Close())
			return len(base.times()) - before
		}
		for range 5 {
			assert.Equal(t, 5, call("https://down.example.com"))
		}
		for i := range 2 * maxKeys {
			e := r.own.open(newRequest(t, http.MethodGet, fmt.Sprintf("https://%d.example.com", i), http.NoBody))
			r.own.close(e)
		}
		assert.Len(t, r.own.accounts.entries, maxKeys)
		assert.Equal(t, 1, call("https://down.example.com"))
	})
}

func TestABudgetHasAnAccountForEachKey(t *testing.T) {
	byTenant := func(req *http.Request) string { return req.Header.Get("X-Tenant") }
	for _, row := range []struct {
		name   string
		key    func(*http.Request) string
		a, b   string // URLs
		shared bool
	}{
		{"hosts", nil, "https://a.example.com/1", "https://b.example.com/1", false},
		{"schemes", nil, "https://a.example.com/1", "http://a.example.com/1", false},
		{"paths of a host", nil, "https://a.example.com/1", "https://a.example.com/2", true},
		{"hosts of one key", byTenant, "https://a.example.com/1", "https://b.example.com/1", true},
	} {
		t.Run(row.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				base := script(status(503))
				r := &Retry{Base: base, Budget: &Budget{Size: 1, Key: row.key}, MinDelay: -1}
				for _, url := range []string{row.a, row.b} {
					resp, err := r.RoundTrip(newRequest(t, http.MethodGet, url, http.NoBody))
					require.NoError(t, err)
					require.NoError(t, resp.Body.Close())
				}
				if row.shared {
					assert.Len(t, base.times(), 2+1)
				} else {
					assert.Len(t, base.times(), 2+2)
				}
			})
		})
	}
}

func TestSeveralTransportsMayShareABudget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sent := func(a, b *Transport) int {
			base := script(status(503))
			a.Base, b.Base = base, base
			for _, rt := range []*Transport{a, b} {
				rt.Retry.MinDelay, rt.Retry.Attempts = -1, 30
				rt.Breaker.Failures, rt.Breaker.Ratio = -1, -1
				resp, err := rt.RoundTrip(get(t))
				require.NoError(t, err)
				require.NoError(t, resp.Body.Close())
			}
			return len(base.times())
		}
		assert.Equal(t, 2*(1+budgetSize), sent(&Transport{}, &Transport{}), "each has its own")
		shared := &Budget{Size: 7}
		assert.Equal(t, 2+7, sent(&Transport{Retry: Retry{Budget: shared}}, &Transport{Retry: Retry{Budget: shared}}))
		off := &Budget{Size: -1}
		assert.Equal(t, 2*30, sent(&Transport{Retry: Retry{Budget: off}}, &Transport{Retry: Retry{Budget: off}}), "negative is off")
	})
}

func TestARetryThatTheServerAsksForIsFree(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		limited := status(429, "Retry-After", "1")
		steps := []func(*http.Request) (*http.Response, error){limited, limited, limited, limited, status(200)}
		b := &Budget{Size: 1, Ratio: -1}
		resp, err := (&Transport{Base: script(steps...), Retry: Retry{Budget: b}}).RoundTrip(get(t))
		require.NoError(t, err)
		assert.Equal(t, 200, resp.StatusCode)
		assert.Equal(t, 1., b.left(t))

		resp, err = (&Retry{Base: script(steps...), Budget: b}).RoundTrip(get(t))
		require.NoError(t, err)
		assert.Equal(t, 200, resp.StatusCode, "Retry alone is asked to come back, too")
		assert.Equal(t, 1., b.left(t))

		down := status(503, "Retry-After", "1")
		b = &Budget{Size: 1, Ratio: -1}
		base := script(down)
		resp, err = (&Transport{Base: base, Retry: Retry{Budget: b}}).RoundTrip(get(t))
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
		assert.Len(t, base.times(), 2, "an overloaded server is not a limit")
	})
}

func TestBudgetReportsBadSettings(t *testing.T) {
	body := &trackedBody{Reader: strings.NewReader("x")}
	req := post(t, "")
	req.Body = body
	_, err := (&Retry{Base: script(status(200)), Budget: &Budget{Ratio: math.NaN()}}).RoundTrip(req)
	assert.ErrorContains(t, err, "Budget.Ratio")
	assert.ErrorIs(t, err, ErrNotSent)
	assert.Equal(t, 1, body.closes())
}

func TestAPanicInABudgetsKeyClosesTheAnswer(t *testing.T) {
	for code, steps := range map[int]func(*http.Request) (*http.Response, error){200: status(200), 503: status(503)} {
		body := &trackedBody{Reader: strings.NewReader("x")}
		r := &Retry{Budget: &Budget{Key: func(*http.Request) string { panic("key") }}}
		r.Base = rtFunc(func(req *http.Request) (*http.Response, error) {
			resp, err := steps(req)
			resp.Body = body
			return resp, err
		})
		assert.PanicsWithValue(t, "key", func() { _, _ = r.RoundTrip(get(t)) })
		assert.Equal(t, 1, body.closes(), "after %d", code)
	}
}

func TestTenThousandGoroutinesLeaveABudgetAsTheyFoundIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &Budget{Ratio: -1}
		r := &Retry{Budget: b, Attempts: 2, MinDelay: -1}
		r.Base = rtFunc(func(req *http.Request) (*http.Response, error) {
			time.Sleep(time.Millisecond) // in which a part of a retry comes
			if attemptOf(req) == 1 {
				return answer(req, 503, ""), nil
			}
			return answer(req, 200, ""), nil
		})
		// One that fails first: what is sent after it is known is another event.
		failing := true
		base := r.Base
		r.Base = rtFunc(func(req *http.Request) (*http.Response, error) {
			if failing {
				return answer(req, 503, ""), nil
			}
			return base.RoundTrip(req)
		})
		_, err := r.RoundTrip(get(t))
		require.NoError(t, err)
		failing = false
		has := b.left(t)
		require.InDelta(t, budgetSize-1, has, 1e-9)

		var wg sync.WaitGroup
		var mu sync.Mutex
		codes := map[int]int{}
		for range 10_000 {
			wg.Go(func() {
				resp, err := r.RoundTrip(get(t))
				if assert.NoError(t, err) {
					mu.Lock()
					codes[resp.StatusCode]++
					mu.Unlock()
					assert.NoError(t, resp.Body.Close())
				}
			})
		}
		wg.Wait()
		assert.Equal(t, map[int]int{200: budgetSize - 1, 503: 10_000 - budgetSize + 1}, codes, "no more are out than the budget has")
		assert.InDelta(t, has+2*float64(time.Millisecond)/float64(budgetDrip), b.left(t), 1e-9)
		assert.Zero(t, b.accounts.entries[originKey(get(t))].users.Load())
	})
}

// A traffic is what callers do, and the server to them, in virtual time.
type traffic struct {
	rate    float64       // calls per second; 0 for a loop of 64 goroutines
	latency time.Duration // up to half as much more or less
	warm    time.Duration // before the trouble
	trouble time.Duration
	share   float64 // of the attempts, that fails then
}

// A tally counts what began in the time of trouble.
type tally struct{ calls, sent, ok int }

func (f traffic) run(t *testing.T, seed uint64) (sum tally) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		troubled := func() bool {
			d := time.Since(began)
			return d >= f.warm && d < f.warm+f.trouble
		}
		var mu sync.Mutex
		random := rand.New(rand.NewPCG(seed, 0))
		r := &Retry{Base: baseFunc(func(req *http.Request) (*http.Response, error) {
			mu.Lock()
			bad := troubled() && random.Float64() < f.share
			if troubled() {
				sum.sent++
			}
			latency := f.latency/2 + time.Duration(random.Int64N(int64(f.latency)))
			mu.Unlock()
			time.Sleep(latency)
			resp := &http.Response{StatusCode: http.StatusOK, Body: http.NoBody, Request: req}
			if bad {
				resp.StatusCode = http.StatusServiceUnavailable
			}
			return resp, nil
		})}
		req := get(t)
		call := func() {
			counts := troubled()
			resp, err := r.RoundTrip(req)
			mu.Lock()
			defer mu.Unlock()
			if counts {
				sum.calls++
				if err == nil && resp.StatusCode == http.StatusOK {
					sum.ok++
				}
			}
		}
		f.begin(began.Add(f.warm+f.trouble), call)
	})
	return sum
}

func (f traffic) begin(end time.Time, call func()) {
	var wg sync.WaitGroup
	defer wg.Wait()
	if f.rate == 0 {
		for i := range 64 {
			wg.Go(func() {
				time.Sleep(time.Duration(i) * time.Millisecond)
				for time.Now().Before(end) {
					call()
				}
			})
		}
		return
	}
	for time.Now().Before(end) {
		wg.Go(call)
		time.Sleep(time.Duration(float64(time.Second) / f.rate))
	}
}

func (s *tally) add(o tally) {
	s.calls, s.sent, s.ok = s.calls+o.calls, s.sent+o.sent, s.ok+o.ok
}

func (s *tally) perCall() float64 { return float64(s.sent) / float64(s.calls) }
func (s *tally) okShare() float64 { return float64(s.ok) / float64(s.calls) }

func TestInATotalOutageHardlyMoreIsSentThanCallsAreMade(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		rate    float64
		trouble time.Duration
		most    float64 // requests for each call
	}{
		{50, time.Minute, 1.05}, // and 1.1 at most in any that is longer than some seconds
		{50, 5 * time.Minute, 1.03},
		{500, 20 * time.Second, 1.09},
		{500, time.Minute, 1.05},
		{0, time.Minute, 1.05},
		{50, 10 * time.Second, 1.20}, // half of what is extra comes in the first two seconds
		{10, time.Minute, 1.12},
		{2, time.Minute, 1.45}, // Size counts for more, the fewer calls there are
		{2, 10 * time.Minute, 1.28},
	} {
		t.Run(fmt.Sprintf("%v a second, %v", row.rate, row.trouble), func(t *testing.T) {
			t.Parallel()
			f := traffic{rate: row.rate, latency: 100 * time.Millisecond, warm: 30 * time.Second, trouble: row.trouble, share: 1}
			for seed := range uint64(3) {
				sum := f.run(t, seed)
				t.Logf("%d calls, %.4f requests for each", sum.calls, sum.perCall())
				assert.LessOrEqual(t, sum.perCall(), row.most)
				if row.rate > 0 {
					promised := budgetSize + row.trouble.Seconds()/budgetDrip.Seconds() + budgetFade.Seconds()*budgetRatio*row.rate +
						budgetWorks.Seconds()*row.rate // each of which is retried once in that time, or so
					assert.LessOrEqual(t, float64(sum.sent-sum.calls), promised+1, "what the comment of Budget promises")
				}
			}
		})
	}
}

func TestWhileAPartOfTheAttemptsFailsNextToNoCallIsLost(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		rate    float64
		latency time.Duration
		warm    time.Duration
		trouble time.Duration
		share   float64
		least   float64 // of the calls that succeed
	}{
		{50, 100 * time.Millisecond, 0, 5 * time.Minute, 0.1, 0.995},
		{50, 100 * time.Millisecond, 0, 5 * time.Minute, 0.3, 0.996}, // 0.99757 is what five attempts can do
		{50, 2 * time.Second, time.Minute, 5 * time.Minute, 0.3, 0.996},
		{500, 100 * time.Millisecond, 0, time.Minute, 0.3, 0.996},
		{500, 100 * time.Millisecond, 0, time.Minute, 0.1, 0.995},
		{2, 100 * time.Millisecond, 0, 2 * time.Hour, 0.3, 0.996},
		{0, time.Second, 0, 5 * time.Minute, 0.3, 0.996},
		{0, 10 * time.Second, 0, time.Hour, 0.3, 0.996},
		{50, 100 * time.Millisecond, 0, 2 * time.Minute, 0.5, 0.964}, // 0.96875 is
		{50, 100 * time.Millisecond, 0, 2 * time.Minute, 0.7, 0.825}, // 0.83193 is
		{20, 500 * time.Millisecond, 0, 5 * time.Minute, 0.7, 0.82},
	} {
		t.Run(fmt.Sprintf("%v a second, %v, %v", row.rate, row.latency, row.share), func(t *testing.T) {
			t.Parallel()
			f := traffic{rate: row.rate, latency: row.latency, warm: row.warm, trouble: row.trouble, share: row.share}
			var sum tally
			for seed := range uint64(3) {
				sum.add(f.run(t, seed))
			}
			t.Logf("%d calls, %.4f of them succeed, %.3f requests for each", sum.calls, sum.okShare(), sum.perCall())
			assert.GreaterOrEqual(t, sum.okShare(), row.least)
		})
	}
}
