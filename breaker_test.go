package sturdy

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestBreakerOpensAfterFailuresInARow(t *testing.T) {
	for _, row := range []struct {
		name  string
		step  func(*http.Request) (*http.Response, error)
		opens bool
	}{
		{"500", status(500), true},
		{"503", status(503), true},
		{"a broken connection", fails(errReset), true},
		{"a timeout of an attempt", fails(&Error{Class: ErrTimeout}), true},
		{"a resolver that is down", fails(&net.DNSError{IsTemporary: true}), true},
		{"no such host", fails(&net.DNSError{IsNotFound: true}), false},
		{"429", status(429), false},
		{"400", status(400), false},
		{"401", status(401), false},
		{"404", status(404), false},
		{"200", status(200), false},
	} {
		t.Run(row.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				base := script(row.step)
				b := &Breaker{Base: base, Failures: 3, MaxWait: -1}
				for range 3 {
					sendAll(t, b, 1)
				}
				_, err := b.RoundTrip(get(t))
				assert.Equal(t, row.opens, errors.Is(err, ErrCircuitOpen))
				if row.opens {
					assert.Len(t, base.times(), 3)
					assert.ErrorIs(t, err, ErrNotSent)
					var e *Error
					require.ErrorAs(t, err, &e)
					assert.Equal(t, time.Second, e.RetryAfter.Truncate(time.Second))
				}
			})
		})
	}
}

func TestAnAnswerThatWouldBeTheSameAgainIsNoOutage(t *testing.T) {
	for name, step := range map[string]func(*http.Request) (*http.Response, error){
		"501":                   status(501),
		"505":                   status(505),
		"508":                   status(508),
		"510":                   status(510),
		"500 and not again":     status(500, "X-Should-Retry", "false"),
		"503 and not again":     status(503, "X-Should-Retry", "false"),
		"504 and not again":     status(504, "X-Should-Retry", "false"),
		"an error below 200 OK": opens(`{"error":{"code":501,"message":"not implemented","status":"UNIMPLEMENTED"}}`),
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var seen observed
				steps := slices.Repeat([]func(*http.Request) (*http.Response, error){step}, 20)
				base := &Stream{Base: script(append(steps, status(502), step)...)}
				b := &Breaker{Base: base, Observe: seen.see}
				for range 20 {
					sendAll(t, b, 1)
				}
				assert.Empty(t, seen.kinds(), "ten in a row open nothing")

				b = &Breaker{Base: base, Failures: 1, Observe: seen.see}
				for range 2 {
					sendAll(t, b, 1)
				}
				assert.Equal(t, []EventKind{EventOpen, EventWait, EventHalfOpen, EventClose}, seen.kinds(), "a probe that gets it closes the circuit")
			})
		})
	}
}

func TestWhatABaseMakesUpSaysNothingOfTheServer(t *testing.T) {
	for name, err := range map[string]error{
		"a limiter's": errors.New("rate: Wait(n=1) would exceed context deadline"),
		"a signer's":  fmt.Errorf("sign: %w", errors.New("no credentials")),
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				base := script(fails(err))
				var seen observed
				rt := &Transport{Base: base, Breaker: Breaker{Observe: seen.see}}
				for range 20 {
					_, got := rt.RoundTrip(get(t))
					require.True(t, got == err, "the very error: %#v", got)
				}
				assert.Len(t, base.times(), 100, "a plain loop sends it again, too")
				assert.NotContains(t, seen.kinds(), EventOpen)

				base = script(fails(err), status(200))
				resp, got := (&Transport{Base: base}).RoundTrip(get(t))
				require.NoError(t, got)
				assert.Equal(t, 200, resp.StatusCode)

				base = script(fails(err), status(200))
				_, got = (&Transport{Base: base}).RoundTrip(post(t, "x"))
				assert.True(t, got == err, "it is not known that nothing was sent")
			})
		})
	}
}

// opens is a step that answers 200, with an error as its first event.
func opens(event string) func(*http.Request) (*http.Response, error) {
	return func(req *http.Request) (*http.Response, error) {
		resp := answer(req, 200, "data: "+event+"\n\n")
		resp.Header.Set("Content-Type", "text/event-stream")
		return resp, nil
	}
}

func TestBreakerCountsFailuresInARowOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base := script(status(500), status(500), status(200), status(500), status(500), status(429), status(400), status(500), status(500))
		b := &Breaker{Base: base, Failures: 3}
		for range 9 {
			for _, err := range sendAll(t, b, 1) {
				require.NotErrorIs(t, err, ErrCircuitOpen)
			}
		}
	})
}

func TestACancelledRequestSaysNothingOfTheServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base := script(hangs)
		var seen observed
		b := &Breaker{Base: base, Failures: 1, Observe: seen.see}
		for i := range 20 {
			ctx, cancel := context.WithCancel(t.Context())
			if i%2 == 0 {
				ctx, cancel = context.WithTimeout(t.Context(), time.Second)
			} else {
				time.AfterFunc(time.Second, cancel)
			}
			_, err := b.RoundTrip(get(t).WithContext(ctx))
			require.Error(t, err)
			cancel()
		}
		assert.Empty(t, seen.kinds())
	})
}

func TestBreakerProbesAfterItsOpenPeriod(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base := script(status(503), status(503), status(503), status(503), status(200))
		var seen observed
		b := &Breaker{Base: base, Failures: 1, OpenFor: time.Second, MaxOpen: 3 * time.Second, MaxWait: time.Hour, Observe: seen.see}
		for range 6 {
			sendAll(t, b, 1)
		}
		s := time.Second
		assert.Equal(t, []time.Duration{0, s, 3 * s, 6 * s, 9 * s, 9 * s}, wholeSeconds(base.times()), "1s, 2s, then 3s at most")
		assert.Equal(t, []EventKind{
			EventOpen, EventWait, EventHalfOpen, EventOpen, EventWait, EventHalfOpen, EventOpen,
			EventWait, EventHalfOpen, EventOpen, EventWait, EventHalfOpen, EventClose,
		}, seen.kinds())
	})
}

func TestAnOverloadedServerMayProlongTheOpenPeriod(t *testing.T) {
	for asked, want := range map[string]time.Duration{"20": 20 * time.Second, "3600": time.Minute} {
		synctest.Test(t, func(t *testing.T) {
			base := script(status(503, "Retry-After", asked), status(200))
			b := &Breaker{Base: base, Failures: 1, MaxWait: time.Hour}
			sendAll(t, b, 1)
			sendAll(t, b, 1)
			assert.Equal(t, []time.Duration{0, want}, wholeSeconds(base.times()))
		})
	}
}

func TestOneProbeAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base := script(status(503), after(time.Second, status(200)), status(200))
		b := &Breaker{Base: base, Failures: 1, MaxWait: time.Minute}
		sendAll(t, b, 1)
		for _, err := range sendAll(t, b, 100) {
			require.NoError(t, err)
		}
		s := time.Second
		times := wholeSeconds(base.times())
		assert.Equal(t, []time.Duration{0, s, 2 * s}, times[:3], "the others wait for the probe's outcome")
		assert.Len(t, times, 101)
	})
}

func TestARequestWaitsForTheCircuitAsLongAsItMay(t *testing.T) {
	for _, row := range []struct {
		name     string
		maxWait  time.Duration
		deadline time.Duration
		waits    bool
	}{
		{"no deadline", 0, 0, true},
		{"a deadline after the open period", 0, 2 * time.Second, true},
		{"a deadline within the open period", 0, 900 * time.Millisecond, false},
		{"MaxWait after the open period", 2 * time.Second, 0, true},
		{"MaxWait within the open period", 900 * time.Millisecond, time.Hour, false},
		{"MaxWait is off", -1, time.Hour, false},
	} {
		t.Run(row.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				base := script(status(503), status(200))
				b := &Breaker{Base: base, Failures: 1, MaxWait: row.maxWait}
				sendAll(t, b, 1)
				req := get(t)
				if row.deadline != 0 {
					ctx, cancel := context.WithTimeout(t.Context(), row.deadline)
					defer cancel()
					req = req.WithContext(ctx)
				}
				_, err := b.RoundTrip(req)
				if row.waits {
					require.NoError(t, err)
					assert.Equal(t, time.Second, time.Since(base.began).Truncate(time.Second))
				} else {
					assert.ErrorIs(t, err, ErrCircuitOpen)
					assert.Zero(t, time.Since(base.began), "refused at once")
				}
			})
		})
	}
}

func TestAWaiterIsRefusedWhenTheProbeFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base := script(status(503))
		b := &Breaker{Base: base, Failures: 1}
		sendAll(t, b, 1)
		ctx, cancel := context.WithTimeout(t.Context(), 1900*time.Millisecond)
		defer cancel()
		var refused atomic.Int32
		var wg sync.WaitGroup
		for range 10 {
			wg.Go(func() {
				_, err := b.RoundTrip(get(t).WithContext(ctx))
				if errors.Is(err, ErrCircuitOpen) {
					refused.Add(1)
				}
			})
		}
		wg.Wait()
		assert.Equal(t, []time.Duration{0, time.Second}, wholeSeconds(base.times()))
		assert.Equal(t, int32(9), refused.Load())
		assert.Equal(t, time.Second, time.Since(base.began).Truncate(time.Second), "at once: the next probe would be after the deadline")
	})
}

func TestANeutralProbeGivesItsPlaceToTheNext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base := script(status(503), hangs, status(200))
		b := &Breaker{Base: base, Failures: 1, MaxWait: time.Hour}
		sendAll(t, b, 1)
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		go func() { _, _ = b.RoundTrip(get(t).WithContext(ctx)) }()
		synctest.Wait()
		time.Sleep(2 * time.Second)
		for _, err := range sendAll(t, b, 3) {
			require.NoError(t, err)
		}
		s := time.Second
		assert.Equal(t, []time.Duration{0, s, 5 * s}, wholeSeconds(base.times()[:3]))
	})
}

func TestAnAnswerFromBeforeTheChangeDoesNotCount(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base := script(after(10*time.Second, status(200)), status(503), after(20*time.Second, status(503)))
		b := &Breaker{Base: base, Failures: 1, MaxOpen: time.Minute, MaxWait: time.Hour}
		go func() { sendAll(t, b, 1) }() // sent while the circuit is closed, answered while it is half-open
		synctest.Wait()
		sendAll(t, b, 1)
		go func() { sendAll(t, b, 1) }() // the probe, until 21s
		time.Sleep(15 * time.Second)
		_, err := b.RoundTrip(get(t).WithContext(deadlineIn(t, time.Second)))
		assert.Error(t, err, "a late success has not closed it")
		assert.Len(t, base.times(), 3)
		time.Sleep(time.Minute)
	})
}

func TestAProbeThatTakesTooLongGivesItsPlaceToAnother(t *testing.T) {
	for name, probe := range map[string]func(*http.Request) (*http.Response, error){
		"it never ends":     hangs,
		"it succeeds later": after(time.Hour, status(200)),
		"it fails later":    after(time.Hour, status(500)),
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithCancel(t.Context())
				base := script(status(503), probe, status(200))
				b := &Breaker{Base: base, Failures: 1, MaxWait: time.Minute}
				sendAll(t, b, 1)
				var wg sync.WaitGroup
				wg.Go(func() { _, _ = b.RoundTrip(get(t).WithContext(ctx)) })
				time.Sleep(2 * time.Second)
				require.NoError(t, sendAll(t, b, 1)[0])
				s := time.Second
				assert.Equal(t, []time.Duration{0, s, 6 * s}, wholeSeconds(base.times()), "a lease of 5s")
				time.Sleep(2 * time.Hour)
				require.NoError(t, sendAll(t, b, 1)[0])
				cancel()
				wg.Wait()
				require.NoError(t, sendAll(t, b, 1)[0])
			})
		})
	}
}

func TestALateSuccessOfAProbeStillCloses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base := script(status(503), after(20*time.Second, status(200)))
		b := &Breaker{Base: base, Failures: 1, MaxWait: time.Hour}
		sendAll(t, b, 1)
		for _, err := range sendAll(t, b, 20) {
			require.NoError(t, err)
		}
		s := time.Second
		assert.Equal(t, []time.Duration{0, s, 6 * s, 11 * s, 16 * s, 21 * s}, wholeSeconds(base.times()[:6]), "one probe each 5s, until the first succeeds")
		for _, at := range base.times()[6:] {
			assert.GreaterOrEqual(t, at, 21*s)
		}
	})
}

func TestInATransportAnOpenCircuitComesBeforeTheQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base := script(status(503), status(200))
		rt := &Transport{Base: base, Retry: Retry{Attempts: -1}, RateLimit: RateLimit{Limit: 1}, Breaker: Breaker{Failures: 1, MaxWait: -1}}
		sendAll(t, rt, 1)
		for _, err := range sendAll(t, rt, 5) {
			require.ErrorIs(t, err, ErrCircuitOpen)
		}
		assert.Zero(t, time.Since(base.began), "refused at once, without a turn")
		time.Sleep(1500 * time.Millisecond)
		require.NoError(t, sendAll(t, rt, 1)[0])
		assert.Equal(t, []time.Duration{0, 1500 * time.Millisecond}, base.times(), "and without a token")
	})
}

func TestAPauseHoldsThoseWhoWaitedForTheCircuit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base := script(status(500), status(429, "Retry-After", "30"), status(200))
		rt := &Transport{Base: base, Retry: Retry{Attempts: -1}, Breaker: Breaker{Failures: 1, MaxWait: time.Hour}}
		sendAll(t, rt, 1)
		sendAll(t, rt, 8)
		s := time.Second
		assert.Equal(t, []time.Duration{0, s}, wholeSeconds(base.times()[:2]))
		for _, at := range base.times()[2:] {
			assert.GreaterOrEqual(t, at, 31*s)
		}
		assert.Len(t, base.times(), 9)
	})
}

func deadlineIn(t *testing.T, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

func TestOneHostThatIsDownDoesNotStopAnother(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base := rtFunc(func(req *http.Request) (*http.Response, error) {
			if req.URL.Host == "down.example.com" {
				return status(503)(req)
			}
			return status(200)(req)
		})
		b := &Breaker{Base: base, Failures: 1}
		for range 3 {
			req := get(t)
			req.URL.Host = "down.example.com"
			_, _ = b.RoundTrip(req)
			require.NoError(t, sendAll(t, b, 1)[0])
		}
	})
}

func TestBreakerOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &Breaker{Base: script(status(503)), Failures: -1, Ratio: -1}
		for range 100 {
			require.ErrorIs(t, sendAll(t, b, 1)[0], ErrOverloaded)
		}
	})
}

func TestEventsLeaveOutsideTheLock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var b *Breaker
		b = &Breaker{Base: script(status(503)), Failures: 1, MaxWait: -1, Observe: func(_ context.Context, ev Event) {
			if ev.Kind == EventOpen {
				_, err := b.RoundTrip(get(t))
				assert.ErrorIs(t, err, ErrCircuitOpen)
			}
		}}
		sendAll(t, b, 1)
	})
}

func TestAHookThatPanicsHoldsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base := script(status(503), status(200))
		panicked := false
		b := &Breaker{Base: base, Failures: 1, MaxWait: time.Minute, Observe: func(_ context.Context, ev Event) {
			if ev.Kind == EventHalfOpen && !panicked {
				panicked = true
				panic("hook")
			}
		}}
		sendAll(t, b, 1)
		assert.PanicsWithValue(t, "hook", func() { _, _ = b.RoundTrip(get(t)) })
		assert.NoError(t, sendAll(t, b, 1)[0], "the probe's place is free again")
	})
}

func TestKeysAreBoundedAndOpenCircuitsAreKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base := rtFunc(func(req *http.Request) (*http.Response, error) {
			if len(req.Host) > 0 && req.Header.Get("Down") != "" {
				return status(503)(req)
			}
			return status(200)(req)
		})
		b := &Breaker{Base: base, Failures: 1, OpenFor: time.Hour, MaxOpen: time.Hour}
		for i := range 100 {
			req := get(t)
			req.URL.Host = fmt.Sprintf("down%d.example.com", i)
			req.Header.Set("Down", "1")
			_, _ = b.RoundTrip(req)
		}
		for i := range 100_000 {
			req := get(t)
			req.URL.Host = fmt.Sprintf("h%d.example.com", i)
			_, err := b.RoundTrip(req)
			require.NoError(t, err)
		}
		assert.Len(t, b.circuits.entries, maxCircuits)
		for i := range 100 {
			req := get(t)
			req.URL.Host = fmt.Sprintf("down%d.example.com", i)
			_, err := b.RoundTrip(req)
			require.ErrorIs(t, err, ErrCircuitOpen)
		}
	})
}
