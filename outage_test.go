package sturdy

import (
	"context"
	"fmt"
	"net/http"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// The outages are those that a plain loop sits out, and longer ones where there is
// time for it.
func TestALoneCallerSitsAnOutageOut(t *testing.T) {
	for name, layer := range map[string]func(http.RoundTripper) http.RoundTripper{
		"Retry":     func(b http.RoundTripper) http.RoundTripper { return &Retry{Base: b} },
		"Transport": func(b http.RoundTripper) http.RoundTripper { return &Transport{Base: b} },
	} {
		for _, row := range []struct {
			deadline, outage time.Duration
		}{
			{0, 300 * time.Millisecond}, {0, 12 * time.Second}, {0, 15 * time.Second}, {0, 22 * time.Second},
			{5 * time.Second, 3 * time.Second}, {10 * time.Second, 7 * time.Second},
			{30 * time.Second, 20 * time.Second}, {60 * time.Second, 40 * time.Second}, {time.Hour, 40 * time.Second},
		} {
			t.Run(fmt.Sprintf("%s, %v, deadline %v", name, row.outage, row.deadline), func(t *testing.T) {
				for range 20 { // the jitter is another each time
					synctest.Test(t, func(t *testing.T) {
						began := time.Now()
						base := script(func(req *http.Request) (*http.Response, error) {
							if time.Since(began) < row.outage {
								return nil, errReset
							}
							return status(200)(req)
						})
						ctx := t.Context()
						if row.deadline > 0 {
							ctx = deadlineIn(t, row.deadline)
						}
						resp, err := layer(base).RoundTrip(get(t).WithContext(ctx))
						require.NoError(t, err, "sent at %v", base.times())
						assert.Equal(t, 200, resp.StatusCode)
						assert.LessOrEqual(t, len(base.times()), 5)
					})
				}
			})
		}
	}
}

func TestASuccessOfAnotherCallEndsTheWaitForTheServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		r := &Retry{Base: rtFunc(func(req *http.Request) (*http.Response, error) {
			if time.Since(began) < 5*time.Second {
				return nil, errReset
			}
			return status(200)(req)
		})}
		var wg sync.WaitGroup
		defer wg.Wait()
		wg.Go(func() {
			assert.NoError(t, sendAll(t, r, 1)[0]) // waits for its fourth attempt from 3s to 9s
			assert.Less(t, time.Since(began), 9*time.Second)
		})
		time.Sleep(5 * time.Second)
		require.NoError(t, sendAll(t, r, 1)[0])
		time.Sleep(time.Second)
	})
}

func TestSettingsBoundTheWaitForTheServer(t *testing.T) {
	for name, r := range map[string]*Retry{
		"MaxDelay": {MaxDelay: time.Second},
		"MinDelay": {MinDelay: time.Second},
		"none":     {MinDelay: -1},
	} {
		synctest.Test(t, func(t *testing.T) {
			base := script(fails(errReset))
			r.Base = base
			_, err := r.RoundTrip(get(t))
			require.ErrorIs(t, err, errReset)
			assert.Len(t, base.times(), 5)
			assert.LessOrEqual(t, time.Since(base.began), 15*time.Second, name)
		})
	}
}

func TestOneEventIsOneEvent(t *testing.T) {
	for _, flying := range []int{15, 50, 200} {
		synctest.Test(t, func(t *testing.T) {
			var bad atomic.Bool
			var refused, lost atomic.Int64
			rt := &Transport{Base: rtFunc(func(req *http.Request) (*http.Response, error) {
				time.Sleep(50 * time.Millisecond)
				if bad.Load() {
					return nil, errReset
				}
				return status(200)(req)
			}), Observe: func(_ context.Context, ev Event) {
				switch ev.Kind {
				case EventOpen, EventRefuse, EventBudget:
					refused.Add(1)
				}
			}}
			sendAll(t, rt, flying) // a first, so that the cold start is over
			sendAll(t, rt, flying)
			time.AfterFunc(40*time.Millisecond, func() { bad.Store(true) })
			time.AfterFunc(60*time.Millisecond, func() { bad.Store(false) })
			for _, err := range sendAll(t, rt, flying) {
				if err != nil {
					lost.Add(1)
				}
			}
			assert.Zero(t, lost.Load())
			assert.Zero(t, refused.Load(), "%d: no circuit opens, and no retry is denied", flying)
		})
	}
}

func TestBodiesOfOneConnectionThatBreaksAreOneEvent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ends := make(chan struct{})
		var opened atomic.Int64
		b := &Breaker{Base: rtFunc(func(req *http.Request) (*http.Response, error) {
			resp := answer(req, 200, "")
			resp.Body = brokenBy(ends)
			return resp, nil
		}), Observe: func(_ context.Context, ev Event) {
			if ev.Kind == EventOpen {
				opened.Add(1)
			}
		}}
		var wg sync.WaitGroup
		for range 50 {
			wg.Go(func() {
				resp, err := b.RoundTrip(get(t))
				if assert.NoError(t, err) {
					_, err = resp.Body.Read(make([]byte, 1))
					assert.Error(t, err)
					resp.Body.Close()
				}
			})
		}
		synctest.Wait()
		close(ends)
		wg.Wait()
		assert.Zero(t, opened.Load())
	})
}

type brokenBy chan struct{}

func (b brokenBy) Read([]byte) (int, error) { <-b; return 0, errReset }
func (brokenBy) Close() error               { return nil }

func TestFailuresByChanceOpenNoCircuit(t *testing.T) {
	for _, share := range []float64{0.3, 0.5, 0.7} {
		synctest.Test(t, func(t *testing.T) {
			var n atomic.Int64
			var opened, denied atomic.Int64
			rt := &Transport{Base: rtFunc(func(req *http.Request) (*http.Response, error) {
				// A sequence without correlation, the same in every run.
				if x := n.Add(1); float64((uint64(x)*0x9e3779b97f4a7c15)>>40)/(1<<24) < share {
					time.Sleep(5 * time.Millisecond) // failures are faster
					return status(503)(req)
				}
				time.Sleep(100 * time.Millisecond)
				return status(200)(req)
			}), Observe: func(_ context.Context, ev Event) {
				switch ev.Kind {
				case EventOpen:
					opened.Add(1)
				case EventBudget:
					denied.Add(1)
				}
			}}
			for range 50 {
				sendAll(t, rt, 20)
			}
			assert.Zero(t, opened.Load(), "%v fail", share)
			assert.Zero(t, denied.Load(), "%v fail", share)
		})
	}
}

func TestACallWaitsForACircuitThatOpensLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		down := func() bool { s := time.Since(began); return s > 0 && s < 20*time.Second }
		rt := &Transport{Base: rtFunc(func(req *http.Request) (*http.Response, error) {
			time.Sleep(20 * time.Millisecond)
			if down() {
				return nil, errReset
			}
			return status(200)(req)
		})}
		for _, err := range sendAll(t, rt, 100) {
			assert.NoError(t, err)
		}
		assert.Less(t, time.Since(began), 30*time.Second)
	})
}

func TestTheProbeComesSoonerForWhoCannotWaitForIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		base := script(func(req *http.Request) (*http.Response, error) {
			if time.Since(began) < 8*time.Second {
				return nil, errReset
			}
			return status(200)(req)
		})
		rt := &Transport{Base: base, Retry: Retry{Attempts: -1}}
		for range 10 {
			sendAll(t, rt, 1)
		}
		time.Sleep(7500 * time.Millisecond) // the next probe would be at 12s
		_, err := rt.RoundTrip(get(t).WithContext(deadlineIn(t, 2*time.Second)))
		require.Error(t, err, "it is the probe itself, and too early")
		_, err = rt.RoundTrip(get(t).WithContext(deadlineIn(t, 2*time.Second)))
		require.NoError(t, err)
		assert.Less(t, time.Since(began), 9*time.Second)
	})
}

func TestManyThousandsWhoWaitForACircuitCostLittleAndComeBackPaced(t *testing.T) {
	const waiting = 15_000
	began := time.Now()
	var mu sync.Mutex
	var seconds [120]int
	synctest.Test(t, func(t *testing.T) {
		began = time.Now()
		rt := &Transport{Base: rtFunc(func(req *http.Request) (*http.Response, error) {
			time.Sleep(50 * time.Millisecond)
			at := time.Since(began)
			mu.Lock()
			seconds[int(at/(500*time.Millisecond))]++
			mu.Unlock()
			if at < 10*time.Second {
				return nil, errReset
			}
			return status(200)(req)
		})}
		sendAll(t, rt, 40)
		var before, after runtime.MemStats
		var lost atomic.Int64
		var wg sync.WaitGroup
		ready := make(chan struct{})
		for range waiting {
			req := get(t)
			wg.Go(func() {
				<-ready
				resp, err := rt.RoundTrip(req)
				if err != nil {
					lost.Add(1)
					return
				}
				resp.Body.Close()
			})
		}
		synctest.Wait()
		runtime.GC()
		runtime.ReadMemStats(&before)
		close(ready)
		synctest.Wait()
		runtime.GC()
		runtime.ReadMemStats(&after)
		mib := float64(after.HeapAlloc-before.HeapAlloc) / (1 << 20)
		t.Logf("%.1f MiB for %d that wait", mib, waiting)
		assert.Less(t, mib, 20.)
		wg.Wait()
		assert.Zero(t, lost.Load())
	})
	most := 0.
	for i := 21; i < len(seconds)-1; i++ {
		if seconds[i-1] > 500 {
			most = max(most, float64(seconds[i])/float64(seconds[i-1]))
		}
	}
	t.Logf("each half second: %v", seconds[18:40])
	assert.LessOrEqual(t, most, 2.6, "from one half second to the next: it doubles")
}
