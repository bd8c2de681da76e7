package sturdy

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"runtime"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// TestWhateverAServerDoesTheGateKeepsItsWord drives a gate with random answers,
// cancels and arrivals, and looks at what left it.
func TestWhateverAServerDoesTheGateKeepsItsWord(t *testing.T) {
	for seed := range uint64(60) {
		synctest.Test(t, func(t *testing.T) {
			random := rand.New(rand.NewPCG(seed, 0))
			const limit, burst = 20, 5
			server := rand.New(rand.NewPCG(seed, 1))
			var mu sync.Mutex // guards what follows, and server
			var sent []time.Duration
			var pause, since time.Duration // nobody may leave before pause, since then
			learns := seed%2 == 0          // and then, if refusals come by chance, they hold nobody else
			began := time.Now()
			l := &RateLimit{Limit: limit, Burst: burst, Fixed: !learns, Base: rtFunc(func(req *http.Request) (*http.Response, error) {
				mu.Lock()
				at := time.Since(began)
				if at > since && !learns { // else it left before the refusal was heard
					assert.GreaterOrEqual(t, at, pause, "nothing leaves while paused")
				}
				sent = append(sent, at)
				refuse, takes := server.IntN(20) == 0, time.Duration(server.IntN(300))*time.Millisecond
				mu.Unlock()
				time.Sleep(takes)
				if !refuse {
					return status(200)(req)
				}
				mu.Lock()
				defer mu.Unlock()
				since = time.Since(began)
				pause = max(pause, since+2*time.Second)
				return status(429, "Retry-After", "2")(req)
			})}
			var wg sync.WaitGroup
			for range 500 {
				gap, patience := time.Duration(random.IntN(80))*time.Millisecond, time.Duration(random.IntN(20_000))*time.Millisecond
				time.Sleep(gap)
				wg.Go(func() {
					ctx, cancel := context.WithCancel(t.Context())
					defer cancel()
					time.AfterFunc(patience, cancel)
					_, _ = l.RoundTrip(get(t).WithContext(ctx))
				})
			}
			wg.Wait()
			require.Greater(t, len(sent), 50)
			for i := range sent {
				for j := i + burst; j < len(sent); j++ {
					most := (sent[j]-sent[i]).Seconds()*limit + burst + 1e-6
					require.LessOrEqual(t, float64(j-i+1), most, "no interval carries more than rate × time + burst")
				}
			}
			assert.Zero(t, l.Limits()[0].InFlight)
			assert.Zero(t, l.Limits()[0].Waiting)
		})
	}
}

func TestACancelNeverDelaysOthers(t *testing.T) {
	for seed := range uint64(10) {
		synctest.Test(t, func(t *testing.T) {
			run := func(cancels bool) (left []time.Duration) {
				random := rand.New(rand.NewPCG(seed, 1))
				began := time.Now()
				base := script(status(200))
				l := &RateLimit{Base: base, Limit: 10}
				times := make([]time.Duration, 100)
				var wg sync.WaitGroup
				for i := range times {
					goes, after := random.IntN(3) == 0, time.Duration(random.IntN(5000))*time.Millisecond
					wg.Go(func() {
						ctx, cancel := context.WithCancel(t.Context())
						defer cancel()
						if cancels && goes {
							time.AfterFunc(after, cancel)
						}
						if _, err := l.RoundTrip(get(t).WithContext(ctx)); err == nil && !goes {
							times[i] = time.Since(began)
						}
					})
					synctest.Wait()
				}
				wg.Wait()
				return times
			}
			all, some := run(false), run(true)
			for i := range all {
				assert.LessOrEqual(t, some[i].Truncate(time.Microsecond), all[i]) // nanoseconds are rounded up
			}
		})
	}
}

func TestColdStartIsGentleAndSoonOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base := script(after(500*time.Millisecond, status(200)))
		l := &RateLimit{Base: base}
		sendAll(t, l, 1000)
		times := base.times()
		at := func(d time.Duration) int {
			n, _ := slices.BinarySearch(times, d+1)
			return n
		}
		assert.LessOrEqual(t, at(0), 1, "who knows whether the server takes more")
		assert.LessOrEqual(t, at(60*time.Millisecond), 3)
		assert.LessOrEqual(t, at(499*time.Millisecond), 16)
		assert.Less(t, times[999], 3*time.Second)

		before := time.Since(base.began)
		sendAll(t, l, 1000)
		assert.Equal(t, before+500*time.Millisecond, time.Since(base.began), "nobody waits any more")
	})
}

func TestColdStartDoesNotHoldUpAServerThatAnswersFast(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base := script(after(time.Millisecond, status(200)))
		l := &RateLimit{Base: base}
		var wg sync.WaitGroup
		for range 64 {
			wg.Go(func() {
				for range 100 {
					_, _ = l.RoundTrip(get(t))
				}
			})
		}
		wg.Wait()
		assert.Less(t, time.Since(base.began), 120*time.Millisecond, "100 would be best")
	})
}

func TestAHundredThousandWaitersAreNotHeavy(t *testing.T) {
	if testing.Short() {
		t.Skip("takes seconds")
	}
	g := newGate(1, 1)
	req := get(t)
	_, _, err := g.enter(req, wish{units: 1})
	require.NoError(t, err)
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	const n = 100_000
	now := time.Now()
	g.mu.Lock()
	for range n {
		g.insert(newTurn(req, now, wish{units: 1}))
	}
	g.mu.Unlock()
	runtime.GC()
	runtime.ReadMemStats(&after)
	assert.Less(t, after.HeapAlloc-before.HeapAlloc, uint64(100<<20))
	assert.Equal(t, n, g.waiting())
}

func TestAfterAPauseNobodyLeavesAllAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		at := make(map[time.Duration]int)
		began := time.Now()
		l := &RateLimit{Base: rtFunc(func(req *http.Request) (*http.Response, error) {
			d := time.Since(began)
			mu.Lock()
			at[d]++
			mu.Unlock()
			if d == time.Second {
				return status(503, "Retry-After", "5")(req)
			}
			time.Sleep(100 * time.Millisecond)
			return status(200)(req)
		})}
		sendAll(t, l, 64)
		time.Sleep(900*time.Millisecond - time.Since(began)%time.Second)
		sendAll(t, l, 1)
		sendAll(t, l, 64)
		assert.Less(t, at[6*time.Second], 4)
		assert.Less(t, time.Since(began), 8*time.Second, "nor do they wait for long")
	})
}

func BenchmarkGate(b *testing.B) {
	base := rtFunc(func(req *http.Request) (*http.Response, error) {
		return &http.Response{StatusCode: 200, Body: http.NoBody}, nil
	})
	b.Run("idle", func(b *testing.B) {
		g := newGate(1e12, 1)
		req := get(b)
		b.ReportAllocs()
		for b.Loop() {
			p, _, err := g.enter(req, wish{units: 1})
			if err != nil {
				b.Fatal(err)
			}
			g.taken(&p, true, p.sent.At, nil)
		}
	})
	// With nothing to do but to pass the gate, its lock is all that there is. A
	// request of net/http on loopback takes some 20 microseconds of one core.
	for _, work := range []time.Duration{0, 2 * time.Microsecond} {
		b.Run(fmt.Sprintf("parallel,work=%v", work), func(b *testing.B) {
			l := &RateLimit{Base: rtFunc(func(req *http.Request) (*http.Response, error) {
				for began := time.Now(); time.Since(began) < work; {
					runtime.KeepAlive(req)
				}
				return base(req)
			})}
			req := get(b)
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					_, _ = l.RoundTrip(req)
				}
			})
		})
	}
}
