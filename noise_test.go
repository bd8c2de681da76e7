package sturdy

import (
	"fmt"
	"math"
	"math/rand/v2"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
)

// throughNoise is how long so many callers take for calls to a server that refuses a
// share of the requests, whatever their rate, and how many calls are lost.
func throughNoise(t *testing.T, seed uint64, share float64, header []string, callers, calls int, client func(http.RoundTripper) http.RoundTripper) (took time.Duration, lost int) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		random := rand.New(rand.NewPCG(seed, 1))
		base := rtFunc(func(req *http.Request) (*http.Response, error) {
			mu.Lock()
			refused, trip := random.Float64() < share, time.Duration(50e6*(1+random.ExpFloat64()))
			mu.Unlock()
			time.Sleep(trip)
			if refused {
				return status(429, header...)(req)
			}
			return status(200)(req)
		})
		rt := client(base)
		began := time.Now()
		var next, failed atomic.Int64
		var wg sync.WaitGroup
		for range callers {
			wg.Go(func() {
				for next.Add(1) <= int64(calls) {
					resp, err := rt.RoundTrip(get(t))
					if Check(resp, err) != nil {
						failed.Add(1)
					}
					if err == nil {
						resp.Body.Close()
					}
				}
			})
		}
		wg.Wait()
		took, lost = time.Since(began), int(failed.Load())
	})
	return took, lost
}

func TestRefusalsAtRandomCutNoPace(t *testing.T) {
	const runs, calls = 3, 3000
	var ratios []float64
	for _, header := range [][]string{nil, {"Retry-After", "0"}, {"Retry-After", "1"}} {
		for _, share := range []float64{0.02, 0.1, 0.2} {
			for _, callers := range []int{4, 16, 64} {
				t.Run(fmt.Sprint(share, header, callers), func(t *testing.T) {
					ratio, lost, lostAlone := 0., 0, 0
					for seed := range uint64(runs) {
						alone, l := throughNoise(t, seed, share, header, callers, calls, func(base http.RoundTripper) http.RoundTripper { return &Retry{Base: base} })
						took, m := throughNoise(t, seed, share, header, callers, calls, func(base http.RoundTripper) http.RoundTripper { return &Transport{Base: base} })
						ratio += took.Seconds() / alone.Seconds() / runs
						lostAlone, lost = lostAlone+l, lost+m
					}
					t.Logf("%.2f times as long as Retry alone; lost %d and %d of %d", ratio, lost, lostAlone, runs*calls)
					ratios = append(ratios, ratio)
					assert.LessOrEqual(t, ratio, 12., "of some seconds: it takes as many until it is known that they come by chance")
					assert.LessOrEqual(t, lost, lostAlone+8, "at one in five, one of 3,000 fails five times")
				})
			}
		}
	}
	mean := 0.
	for _, r := range ratios {
		mean += math.Log(r) / float64(len(ratios))
	}
	t.Logf("%.2f times as long on average", math.Exp(mean))
	assert.LessOrEqual(t, math.Exp(mean), 2.)
}
