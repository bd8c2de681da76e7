package sturdy

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"golang.org/x/time/rate"
)

// A shedding server answers 503 to some requests.
type shedding struct {
	takes   func() bool
	done    func() // with one that was taken
	lasts   time.Duration
	refuses reply

	sent, refused atomic.Int64
}

func (s *shedding) RoundTrip(req *http.Request) (*http.Response, error) {
	s.sent.Add(1)
	if !s.takes() {
		s.refused.Add(1)
		return after(time.Millisecond, s.refuses)(req)
	}
	defer s.done()
	return after(s.lasts, status(200))(req)
}

// limitReq is nginx's limit_req with nodelay, limitConn its limit_conn. Both answer 503
// if they are told nothing else.
func limitReq(perSecond rate.Limit, burst int) *shedding {
	l := rate.NewLimiter(perSecond, burst+1)
	return &shedding{takes: l.Allow, done: func() {}, lasts: 10 * time.Millisecond}
}

func limitConn(n int) *shedding {
	slots := make(chan struct{}, n)
	return &shedding{takes: func() bool {
		select {
		case slots <- struct{}{}:
			return true
		default:
			return false
		}
	}, done: func() { <-slots }, lasts: 20 * time.Millisecond}
}

// atRandom fails a part of all requests.
func atRandom(share float64) *shedding {
	var mu sync.Mutex
	random := rand.New(rand.NewPCG(1, 1))
	return &shedding{takes: func() bool {
		mu.Lock()
		defer mu.Unlock()
		return random.Float64() >= share
	}, done: func() {}, lasts: 50 * time.Millisecond}
}

// callFor has callers call one after the other for so long, and returns how many calls
// came home in that time, and how many did not at all.
func callFor(t *testing.T, rt http.RoundTripper, callers int, lasts time.Duration) (home, lost int64) {
	began := time.Now()
	var ok, failed atomic.Int64
	var wg sync.WaitGroup
	for range callers {
		wg.Go(func() {
			for time.Since(began) < lasts {
				switch resp, err := rt.RoundTrip(get(t)); {
				case err != nil || resp.StatusCode != 200:
					failed.Add(1)
				case time.Since(began) < lasts:
					ok.Add(1)
				}
			}
		})
	}
	wg.Wait()
	return ok.Load(), failed.Load()
}

func TestA503ThatMeansALimitPacesAsA429Does(t *testing.T) {
	const lasts = 2 * time.Minute
	for name, row := range map[string]struct {
		server func() *shedding
		allows float64 // a second, however many call
		asks   []string
		least  float64 // of what it allows
	}{
		"limit_req":                   {func() *shedding { return limitReq(50, 10) }, 50, nil, 0.95},
		"limit_req with Retry-After":  {func() *shedding { return limitReq(50, 10) }, 50, []string{"Retry-After", "1"}, 0.85},
		"limit_conn":                  {func() *shedding { return limitConn(8) }, 400, nil, 0.9},
		"limit_conn with Retry-After": {func() *shedding { return limitConn(8) }, 400, []string{"Retry-After", "1"}, 0.75},
	} {
		for _, callers := range []int{1, 16, 64} {
			t.Run(fmt.Sprintf("%s, callers: %d", name, callers), func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) {
					s := row.server()
					s.refuses = status(503, row.asks...)
					home, lost := callFor(t, &Transport{Base: s}, callers, lasts)
					share := float64(s.refused.Load()) / float64(s.sent.Load())
					allows := min(row.allows, float64(callers)/s.lasts.Seconds()) * lasts.Seconds()
					t.Logf("%s, callers: %d: %.2f of the limit, %d lost, %.2f %% refused", name, callers, float64(home)/allows, lost, 100*share)
					assert.LessOrEqual(t, lost, home/5000, "before it is known that they mean a limit")
					assert.Greater(t, float64(home), row.least*allows)
					assert.Less(t, share, 0.03)
				})
			})
		}
	}
}

func TestA503AtRandomSlowsNobodyDown(t *testing.T) {
	for _, share := range []float64{0.02, 0.1, 0.2, 0.3} {
		t.Run(fmt.Sprint(share), func(t *testing.T) {
			t.Parallel()
			through := func(fixed bool) (home int64) {
				synctest.Test(t, func(t *testing.T) {
					s := atRandom(share)
					s.refuses = status(503)
					tr := &Transport{Base: s}
					tr.RateLimit.Fixed = fixed
					home, _ = callFor(t, tr, 64, 15*time.Second)
				})
				return home
			}
			assert.Greater(t, float64(through(false)), 0.85*float64(through(true)), "of what comes through without any pace")
		})
	}
}

// TestAServerThatAnswers503ToAllIsDown: also one whose 503s meant a limit before.
func TestAServerThatAnswers503ToAllIsDown(t *testing.T) {
	for name, limited := range map[string]bool{"after a limit's refusals": true, "at once": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				var down atomic.Bool
				s := limitReq(50, 10)
				limit := s.takes
				s.takes = func() bool { return !down.Load() && (!limited || limit()) }
				s.refuses = status(503)
				var opened atomic.Int64
				tr := &Transport{Base: s, Observe: func(_ context.Context, ev Event) {
					if ev.Kind == EventOpen && down.Load() {
						opened.Add(1)
					}
				}}
				time.AfterFunc(30*time.Second, func() { down.Store(true) })
				time.AfterFunc(45*time.Second, func() {
					assert.NotZero(t, opened.Load())
					down.Store(false)
				})
				_, lost := callFor(t, tr, 64, 90*time.Second)
				assert.Zero(t, lost)
			})
		})
	}
}
