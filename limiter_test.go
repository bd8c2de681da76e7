package sturdy

import (
	"context"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/time/rate"
)

// takenFrom is how many tokens a Limiter has given, of one that was full at first.
type takenFrom struct {
	*rate.Limiter
	began time.Time
}

func newTakenFrom(perSecond rate.Limit, burst int) *takenFrom {
	return &takenFrom{rate.NewLimiter(perSecond, burst), time.Now()}
}

// missing is how many tokens less it has than it had at first, and will have for a
// limiter that gains none.
func (l *takenFrom) missing() float64 { return float64(l.Burst()) - l.Tokens() }

func TestALimiterIsNotAskedForWhatIsRefused(t *testing.T) {
	for name, set := range map[string]func(*Transport){
		"at once":           func(tr *Transport) { tr.Breaker.MaxWait = -1 },
		"after a while":     func(*Transport) {},
		"later than allows": func(tr *Transport) { tr.Breaker.MaxWait = time.Second },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				const n = 1000
				limiter := newTakenFrom(rate.Every(time.Hour), n)
				base := script(status(503))
				tr := &Transport{Base: base, RateLimit: RateLimit{Limiter: limiter}, Retry: Retry{Attempts: 1}}
				set(tr)
				tr.Breaker.Trip(exampleKey, time.Now().Add(10*time.Minute))
				for _, err := range sendAll(t, tr, n) {
					require.ErrorIs(t, err, ErrCircuitOpen)
				}
				assert.Empty(t, base.times())
				assert.InDelta(t, 0, limiter.missing(), 0.01, "tokens taken for nothing sent")
			})
		})
	}
}

func TestThoseWhoWaitForALimiterComeBackWhenTheCircuitOpens(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		limiter := newTakenFrom(1, 1)
		var sent atomic.Int32
		tr := &Transport{
			Base: rtFunc(func(req *http.Request) (*http.Response, error) {
				if sent.Add(1) <= 2 {
					return status(503)(req)
				}
				return status(200)(req)
			}),
			RateLimit: RateLimit{Limiter: limiter}, Retry: Retry{Attempts: 1},
			Breaker: Breaker{Failures: 2, OpenFor: 20 * time.Second, MaxOpen: 20 * time.Second, MaxWait: 10 * time.Second},
		}
		errs := sendAll(t, tr, 300)
		refused := 0
		for _, err := range errs {
			if ClassOf(err) == ErrCircuitOpen {
				refused++
			}
		}
		assert.Equal(t, 298, refused)
		assert.EqualValues(t, 2, sent.Load())
		assert.Less(t, limiter.missing(), 65., "who had not asked it yet takes nothing")
	})
}

func TestNobodyWhoWaitsForALimiterIsSentIntoAPause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		limiter := newTakenFrom(10, 1)
		base := script(status(200), status(200), status(429, "Retry-After", "30"), status(200))
		l := &RateLimit{Base: base, Limiter: limiter}
		failed := 0
		for _, err := range sendAll(t, l, 20) {
			if err != nil {
				failed++
			}
		}
		assert.Equal(t, 1, failed)
		for i, at := range base.times() {
			if i > 2 {
				assert.GreaterOrEqual(t, at, 30*time.Second)
			}
		}
		assert.Len(t, base.times(), 20)
	})
}

func TestALimiterSeesTheEndOfTheCall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var end time.Duration
		began := time.Now()
		l := &Retry{MaxElapsed: 3 * time.Second, Base: &RateLimit{
			Base: script(status(200)), Limiter: waitFunc(func(ctx context.Context) error {
				deadline, _ := ctx.Deadline()
				end = deadline.Sub(began)
				return nil
			}),
		}}
		require.NoError(t, sendAll(t, l, 1)[0])
		assert.Equal(t, 3*time.Second, end)
	})
}

// A limiter behind a network answers late: it is asked for many at the same time.
func TestALateLimiterHoldsOnlyItsOwn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base := script(status(200))
		l := &RateLimit{Base: base, Limiter: waitFunc(func(context.Context) error {
			time.Sleep(time.Second)
			return nil
		})}
		sendAll(t, l, maxPayers)
		for _, at := range base.times() {
			assert.Equal(t, time.Second, at)
		}
	})
}

func TestThoseWhoGiveUpWaitingForALimiterMakeRoomForOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base := script(status(200))
		var asked atomic.Int32
		l := &RateLimit{Base: base, Limiter: waitFunc(func(ctx context.Context) error {
			if asked.Add(1) <= maxPayers {
				<-ctx.Done()
				return ctx.Err()
			}
			return nil
		})}
		ctx, cancel := context.WithCancel(t.Context())
		for range maxPayers {
			go func() {
				_, err := l.RoundTrip(get(t).WithContext(ctx))
				assert.ErrorIs(t, err, context.Canceled)
			}()
		}
		synctest.Wait()
		done := make(chan error)
		go func() { done <- sendAll(t, l, 1)[0] }()
		synctest.Wait()
		assert.EqualValues(t, maxPayers, asked.Load(), "one too many asks later")
		cancel()
		require.NoError(t, <-done)
		synctest.Wait()
		for range 3 {
			require.NoError(t, sendAll(t, l, 1)[0])
		}
		s := l.Limits()[0]
		assert.Zero(t, s.InFlight)
		assert.Zero(t, s.Waiting)
		assert.Zero(t, l.gates.get(l.keyOf(get(t))).payers)
	})
}

func TestALimiterIsWaitedForAsLongAsTheSettingsSay(t *testing.T) {
	type ends struct {
		after time.Duration
		class error
	}
	stuck := waitFunc(func(ctx context.Context) error {
		<-ctx.Done()
		return ctx.Err()
	})
	for name, row := range map[string]struct {
		maxWait, deadline, cancel time.Duration
		want                      ends
	}{
		"MaxWait":                       {maxWait: time.Second, want: ends{time.Second, ErrWaitTooLong}},
		"MaxWait, and a later deadline": {maxWait: time.Second, deadline: time.Minute, want: ends{time.Second, ErrWaitTooLong}},
		"MaxWait, after the deadline":   {maxWait: time.Minute, deadline: time.Second, want: ends{time.Second, context.DeadlineExceeded}},
		"the old way to cancel":         {maxWait: time.Minute, cancel: time.Second, want: ends{time.Second, context.Canceled}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := &RateLimit{Base: script(status(200)), Limiter: stuck, MaxWait: row.maxWait}
				req := get(t)
				if row.deadline > 0 {
					ctx, cancel := context.WithTimeout(t.Context(), row.deadline)
					defer cancel()
					req = req.WithContext(ctx)
				}
				if row.cancel > 0 {
					old := make(chan struct{})
					req.Cancel = old
					time.AfterFunc(row.cancel, func() { close(old) })
				}
				began := time.Now()
				_, err := l.RoundTrip(req)
				require.ErrorIs(t, err, row.want.class)
				assert.Equal(t, row.want.after, time.Since(began))
				assert.Zero(t, l.gates.get(l.keyOf(get(t))).payers)
				assert.Zero(t, l.Limits()[0].InFlight)
			})
		})
	}
}

func TestWhatALimiterHasGivenIsNotAskedForAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var asked atomic.Int32
		base := script(after(time.Second, status(429, "Retry-After", "30")), status(200))
		l := &RateLimit{Base: base, Limiter: waitFunc(func(context.Context) error {
			if asked.Add(1) == 2 {
				time.Sleep(2 * time.Second) // and does not heed its context
			}
			return nil
		})}
		var wg sync.WaitGroup
		for range 2 {
			wg.Go(func() { sendAll(t, l, 1) })
			synctest.Wait()
		}
		wg.Wait()
		assert.Equal(t, []time.Duration{0, 31 * time.Second}, base.times(), "the pause holds the second")
		assert.EqualValues(t, 2, asked.Load())
	})
}

type waitFunc func(context.Context) error

func (f waitFunc) WaitN(ctx context.Context, _ int) error { return f(ctx) }

func TestClosingABodyWhileItIsReadIsNoRace(t *testing.T) {
	for range 50 {
		reading := make(chan struct{})
		var once sync.Once
		l := &RateLimit{Tokens: 1000, Base: bareFunc(func(req *http.Request) (*http.Response, error) {
			resp := answer(req, 200, "")
			resp.Body = &trackedBody{Reader: readerFunc(func(p []byte) (int, error) {
				once.Do(func() { close(reading) })
				return copy(p, `{"usage":{"total_tokens":17}}`), nil
			})}
			return resp, nil
		})}
		resp, err := l.RoundTrip(get(t))
		require.NoError(t, err)
		var reader sync.WaitGroup
		reader.Go(func() {
			for range 1000 {
				_, _ = resp.Body.Read(make([]byte, 100))
			}
		})
		<-reading
		resp.Body.Close()
		reader.Wait()
	}
}

func TestMaxWaitBoundsAllWaitsOfARequestTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var asked atomic.Int32
		l := &RateLimit{
			Base: script(status(429, "Retry-After", "9"), status(200)), MaxWait: 10 * time.Second,
			Limiter: waitFunc(func(ctx context.Context) error {
				if asked.Add(1) > 1 {
					return sleepFor(ctx, 9*time.Second)
				}
				return nil
			}),
		}
		sendAll(t, l, 1)
		began := time.Now()
		require.ErrorIs(t, sendAll(t, l, 1)[0], ErrWaitTooLong)
		assert.Equal(t, 10*time.Second, time.Since(began))
	})
}

func TestTheNextAsksALimiterAsSoonAsOneIsSent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base := script(after(time.Hour, status(200)))
		l := &RateLimit{Base: base, Limiter: waitFunc(func(ctx context.Context) error { return sleepFor(ctx, time.Second) })}
		sendAll(t, l, maxPayers+1)
		assert.Equal(t, 2*time.Second, base.times()[maxPayers], "and not when that one is answered")
	})
}

func TestAHookThatPanicsAfterTheWaitForALimiterLeavesNobodyAsking(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &RateLimit{
			Base: script(status(200)), Limiter: waitFunc(func(ctx context.Context) error { return sleepFor(ctx, time.Second) }),
			Observe: func(_ context.Context, ev Event) {
				if ev.Kind == EventWait {
					panic("hook")
				}
			},
		}
		assert.PanicsWithValue(t, "hook", func() { _, _ = l.RoundTrip(get(t)) })
		assert.Zero(t, l.Limits()[0].InFlight)
		assert.Zero(t, l.gates.get(l.keyOf(get(t))).payers, "or one more than may could ask at the same time")
	})
}

// A failure counts for the circuit by when its request was sent, not by when it began
// to wait for the Limiter.
func TestAFailureCountsFromWhenTheLimiterHasLetTheRequestPass(t *testing.T) {
	for name, row := range map[string]struct {
		late time.Duration // the second, after the first
		open bool
	}{
		"sent before the first failure was known": {time.Second, false},
		"sent after it": {3 * time.Second, true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var asked atomic.Int32
				tr := &Transport{
					Base:    script(after(2*time.Second, status(500))),
					Retry:   Retry{Attempts: -1},
					Breaker: Breaker{Failures: 2},
					RateLimit: RateLimit{Limiter: waitFunc(func(ctx context.Context) error {
						return sleepFor(ctx, time.Duration(asked.Add(1)-1)*row.late)
					})},
				}
				sendAll(t, tr, 2)
				assert.Equal(t, row.open, tr.Breaker.State(exampleKey) == StateOpen)
			})
		})
	}
}

func TestAWaitForALimiterLeavesNoGoroutineBehind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // which fails if one is left
		l := &RateLimit{Base: script(status(200)), Limiter: waitFunc(func(context.Context) error { return nil })}
		req := get(t).WithContext(context.WithoutCancel(t.Context()))
		req.Cancel = make(chan struct{})
		_, err := l.RoundTrip(req)
		require.NoError(t, err)
	})
}

func TestAHookThatPanicsWhenOneComesBackFromALimiterGivesItsUnitsBackOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base := script(after(time.Second, status(429, "Retry-After", "10")), status(200))
		var asked, queued atomic.Int32
		l := &RateLimit{
			Base: base, Fixed: true, Tokens: 1, // 60 in a minute
			Cost: func(req *http.Request) int { return int(req.ContentLength) },
			Limiter: waitFunc(func(ctx context.Context) error {
				if asked.Add(1) == 2 {
					return sleepFor(ctx, time.Hour)
				}
				return nil
			}),
			Observe: func(_ context.Context, ev Event) {
				if ev.Kind == EventQueue && queued.Add(1) == 1 {
					panic("hook")
				}
			},
		}
		send := func(units int64) {
			req := get(t)
			req.ContentLength = units
			_, err := l.RoundTrip(req)
			assert.NoError(t, err)
		}
		go send(50)
		synctest.Wait()
		assert.PanicsWithValue(t, "hook", func() { send(10) })
		assert.Equal(t, time.Second, time.Since(base.began), "when the pause began")
		send(30)
		assert.Equal(t, []time.Duration{0, 20 * time.Second}, base.times())
	})
}

func sleepFor(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
