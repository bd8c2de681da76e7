package sturdy

import (
	"context"
	"math/rand/v2"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// A breakerModel is what a Breaker is to do with requests that come one after
// the other, in the plainest words.
type breakerModel struct {
	failures int
	run      int
	until    time.Time // zero: closed
}

// lets reports whether a request is let in.
func (m *breakerModel) lets(now time.Time) bool { return !now.Before(m.until) }

// hears takes in an outcome; opened is how long the circuit said that it opens.
func (m *breakerModel) hears(outcome error, now time.Time, opened time.Duration) {
	half := !m.until.IsZero()
	switch outcome {
	case nil:
		m.run, m.until = 0, time.Time{}
	case errFailed:
		if m.run++; half || m.run >= m.failures {
			m.until = now.Add(opened)
		}
	}
}

// TestTheBreakerDoesAsItsModel drives a Breaker with random outcomes, delays,
// cancels and panics, one after the other.
func TestTheBreakerDoesAsItsModel(t *testing.T) {
	for seed := range uint64(200) {
		synctest.Test(t, func(t *testing.T) {
			random := rand.New(rand.NewPCG(seed, 7))
			var outcome error
			var ends string
			var sent int
			var opened time.Duration
			m := &breakerModel{failures: 1 + random.IntN(4)}
			b := &Breaker{
				Failures: m.failures, Ratio: -1, MaxWait: -1,
				Observe: func(_ context.Context, ev Event) {
					if ev.Kind == EventOpen {
						opened = ev.Wait
					}
				},
				Base: rtFunc(func(req *http.Request) (*http.Response, error) {
					sent++
					time.Sleep(time.Duration(random.IntN(20_000)) * time.Millisecond)
					switch ends {
					case "panic":
						panic("base")
					case "cancel":
						return nil, context.Canceled
					case "429":
						return status(429)(req)
					case "fail":
						return status(503)(req)
					case "break":
						return fails(errReset)(req)
					}
					return status(200)(req)
				}),
			}
			for step := range 100 {
				time.Sleep(time.Duration(random.IntN(3000)) * time.Millisecond)
				ends = [...]string{"panic", "cancel", "429", "fail", "fail", "break", "ok"}[random.IntN(7)]
				outcome = map[string]error{"fail": errFailed, "break": errFailed, "ok": nil}[ends]
				if ends == "panic" || ends == "cancel" || ends == "429" {
					outcome = errNeutral
				}
				want, before := m.lets(time.Now()), sent
				func() {
					defer func() { _ = recover() }()
					if resp, err := b.RoundTrip(get(t)); err == nil {
						require.NoError(t, resp.Body.Close())
					}
				}()
				require.Equal(t, want, sent > before, "seed %d, step %d, %s", seed, step, ends)
				if want {
					m.hears(outcome, time.Now(), opened)
				}
			}
		})
	}
}

// TestOfManyAtOnceTheBreakerKeepsItsWord looks at what passes while many
// requests come, fail, hang, are cancelled and panic at the same time.
func TestOfManyAtOnceTheBreakerKeepsItsWord(t *testing.T) {
	for seed := range uint64(20) {
		synctest.Test(t, func(t *testing.T) {
			random := rand.New(rand.NewPCG(seed, 8))
			var mu sync.Mutex
			pick := func(n int) int {
				mu.Lock()
				defer mu.Unlock()
				return random.IntN(n)
			}
			var healthy, down atomic.Bool
			var closed time.Time // nobody may pass before
			var out int
			b := &Breaker{
				Failures: 3, MaxWait: time.Minute,
				Base: rtFunc(func(req *http.Request) (*http.Response, error) {
					mu.Lock()
					out++
					assert.False(t, time.Now().Before(closed), "nobody passes an open circuit")
					mu.Unlock()
					time.Sleep(time.Duration(pick(2000)) * time.Millisecond)
					switch n := pick(20); {
					case healthy.Load():
					case n == 0:
						panic("base")
					case n == 1:
						return nil, context.Canceled
					case n == 2:
						return status(429)(req)
					case n < 8 || down.Load():
						return status(500)(req)
					}
					return status(200)(req)
				}),
				Observe: func(_ context.Context, ev Event) {
					switch ev.Kind {
					case EventOpen:
						mu.Lock()
						closed = time.Now().Add(ev.Wait)
						mu.Unlock()
					case EventClose, EventHalfOpen:
						mu.Lock()
						closed = time.Time{}
						mu.Unlock()
					}
				},
			}
			var wg sync.WaitGroup
			for i := range 400 {
				down.Store(i%100 < 40)
				time.Sleep(time.Duration(pick(100)) * time.Millisecond)
				patience := time.Duration(pick(20_000)) * time.Millisecond
				wg.Go(func() {
					defer func() { _ = recover() }()
					ctx, cancel := context.WithTimeout(t.Context(), patience)
					defer cancel()
					if resp, err := b.RoundTrip(get(t).WithContext(ctx)); err == nil {
						resp.Body.Close()
					}
				})
			}
			wg.Wait()
			require.Greater(t, out, 5, "some pass")
			healthy.Store(true)
			resp, err := b.RoundTrip(get(t))
			require.NoError(t, err, "whatever happened, it recovers")
			require.NoError(t, resp.Body.Close())
			time.Sleep(time.Minute)
			assert.Equal(t, StateClosed, b.State(exampleKey))
		})
	}
}
