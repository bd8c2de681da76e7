package sturdy

import (
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestALoneCallersBoundsHoldAfterABare429(t *testing.T) {
	for name, row := range map[string]struct {
		rt       *Transport
		deadline time.Duration
		ends     time.Duration // at the latest
	}{
		"a deadline":            {&Transport{}, 1500 * time.Millisecond, 1400 * time.Millisecond},
		"a short deadline":      {&Transport{}, 10 * time.Millisecond, 0},
		"MaxElapsed":            {&Transport{Retry: Retry{MaxElapsed: 10 * time.Millisecond}}, 0, 0},
		"MaxElapsed of seconds": {&Transport{Retry: Retry{MaxElapsed: 3 * time.Second}}, 0, 3 * time.Second},
		"MaxWait":               {&Transport{RateLimit: RateLimit{MaxWait: 2 * time.Second}}, 0, 5 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				base := script(status(429))
				row.rt.Base = base
				req := get(t)
				if row.deadline > 0 {
					req = req.WithContext(deadlineIn(t, row.deadline))
				}
				resp, err := row.rt.RoundTrip(req)
				require.NoError(t, err, "the answer in hand")
				assert.Equal(t, 429, resp.StatusCode)
				assert.LessOrEqual(t, time.Since(base.began), row.ends)
			})
		})
	}
}

func TestALoneCallersDelaysAreItsOwn(t *testing.T) {
	for name, row := range map[string]struct {
		retry  *Retry
		header []string
		most   time.Duration // between two attempts
		least  time.Duration
	}{
		"MaxDelay":             {&Retry{MaxDelay: time.Millisecond}, nil, time.Millisecond, 0},
		"MinDelay":             {&Retry{MinDelay: time.Millisecond}, nil, 8 * time.Millisecond, 0},
		"none":                 {&Retry{MinDelay: -1}, nil, 0, 0},
		"Retry-After-Ms":       {&Retry{}, []string{"Retry-After-Ms", "100"}, 110 * time.Millisecond, 100 * time.Millisecond},
		"Retry-After":          {&Retry{}, []string{"Retry-After", "2"}, 2200 * time.Millisecond, 2 * time.Second},
		"Retry-After and more": {&Retry{MaxDelay: time.Millisecond}, []string{"Retry-After", "2"}, 2200 * time.Millisecond, 2 * time.Second},
		"Retry-After: 0":       {&Retry{}, []string{"Retry-After", "0"}, 4 * time.Second, 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				refused := status(429, row.header...)
				base := script(refused, refused, refused, refused, status(200))
				req := get(t)
				resp, err := (&Transport{Base: base}).RoundTrip(req.WithContext(WithRetry(req.Context(), row.retry)))
				require.NoError(t, err)
				assert.Equal(t, 200, resp.StatusCode)
				sent := base.times()
				require.Len(t, sent, 5)
				for i := range sent[1:] {
					assert.LessOrEqual(t, sent[i+1]-sent[i], row.most, "%v", sent)
					assert.GreaterOrEqual(t, sent[i+1]-sent[i], row.least, "%v", sent)
				}
			})
		})
	}
}

func TestOthersAreHeldToThePaceWhateverOneCallerSets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base := script(status(429, "Retry-After", "3"), status(200))
		rt := &Transport{Base: base}
		var wg sync.WaitGroup
		for range 5 {
			wg.Go(func() {
				req := get(t)
				req = req.WithContext(WithRetry(req.Context(), &Retry{MaxDelay: time.Millisecond}))
				resp, err := rt.RoundTrip(req)
				if assert.NoError(t, err) {
					assert.Equal(t, 200, resp.StatusCode)
				}
			})
			time.Sleep(time.Millisecond)
		}
		wg.Wait()
		for _, at := range base.times()[1:] {
			assert.GreaterOrEqual(t, at, 3*time.Second)
		}
	})
}

func TestWithoutADeadlineNobodyWaitsLongerThanTwoMinutesForAServer(t *testing.T) {
	for name, row := range map[string]struct {
		callers int
		step    func(*http.Request) (*http.Response, error)
	}{
		"429 to everything":         {64, status(429)},
		"429 with a time":           {64, status(429, "Retry-After", "50")},
		"429 with a long time":      {64, status(429, "Retry-After", "90")},
		"503 with a time":           {64, status(503, "Retry-After", "50")},
		"503 with an hour":          {64, status(503, "Retry-After", "3600")},
		"a 200 with an absurd time": {5, status(200, "X-Ratelimit-Remaining", "0", "X-Ratelimit-Reset", "3600")},
		"down":                      {64, fails(errReset)},
		"429 to one":                {1, status(429)},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				rt := &Transport{Base: script(after(50*time.Millisecond, row.step))}
				began := time.Now()
				for range 2 {
					var wg sync.WaitGroup
					for range row.callers {
						wg.Go(func() {
							at := time.Now()
							resp, err := rt.RoundTrip(get(t))
							assert.LessOrEqual(t, time.Since(at), maxHold+10*time.Second)
							if err == nil {
								resp.Body.Close()
							}
						})
						time.Sleep(time.Millisecond)
					}
					wg.Wait()
				}
				assert.LessOrEqual(t, time.Since(began), 2*(maxHold+10*time.Second))
			})
		})
	}
}

func TestAQueueThatMovesHasNoEndButItsTurns(t *testing.T) {
	for name, rt := range map[string]*Transport{
		"a limit of the caller's": {RateLimit: RateLimit{Limit: 5}, Base: script(status(200))},
		"learned": {Base: script(func() func(*http.Request) (*http.Response, error) {
			var mu sync.Mutex
			tokens, at := 5., time.Time{}
			return func(req *http.Request) (*http.Response, error) { // 5 a second, and says nothing
				mu.Lock()
				defer mu.Unlock()
				now := time.Now()
				tokens, at = min(tokens+5*now.Sub(at).Seconds(), 5), now
				if tokens < 1 {
					return status(429)(req)
				}
				tokens--
				return status(200)(req)
			}
		}())},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var lost atomic.Int64
				var wg sync.WaitGroup
				for range 1000 {
					wg.Go(func() {
						if resp, err := rt.RoundTrip(get(t)); err != nil || resp.StatusCode != 200 {
							lost.Add(1)
						}
					})
				}
				wg.Wait()
				assert.Zero(t, lost.Load())
			})
		})
	}
}

func TestA503HoldsAKeyForAMinuteAtMost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		busy := status(503, "Retry-After", "3600")
		base := script(busy, busy, busy, status(200))
		rt := &Transport{Base: base, Retry: Retry{Attempts: -1}}
		for range fewBusy {
			sendAll(t, rt, 1)
		}
		require.NoError(t, sendAll(t, rt, 1)[0])
		assert.Equal(t, time.Minute, base.times()[3].Truncate(time.Second), "then somebody looks")
	})
}

func TestResetForgetsWhatWasLearned(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base := script(status(429, "Retry-After", "3600"), status(200))
		l := &RateLimit{Base: base, MaxWait: 2 * time.Hour}
		sendAll(t, l, 1)
		go func() {
			time.Sleep(time.Minute)
			l.Reset("no such key")
			time.Sleep(time.Minute)
			l.Reset(l.Limits()[0].Key)
		}()
		require.NoError(t, sendAll(t, l, 1)[0])
		assert.Equal(t, 2*time.Minute, time.Since(base.began), "who waits leaves")
		assert.Empty(t, l.Limits()[0].Source)
		sendAll(t, l, 1)
		assert.Equal(t, 2*time.Minute, time.Since(base.began))
	})
}

func TestNobodyIsRefusedForAGuess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		var refused atomic.Int64
		rt := &Transport{Base: script(func(req *http.Request) (*http.Response, error) {
			if time.Since(began) < 20*time.Second {
				return status(429)(req)
			}
			return status(200)(req)
		})}
		var wg sync.WaitGroup
		for range 500 {
			wg.Go(func() {
				resp, err := rt.RoundTrip(get(t).WithContext(deadlineIn(t, time.Hour)))
				if err != nil || resp.StatusCode != 200 {
					refused.Add(1)
				}
			})
			time.Sleep(20 * time.Millisecond)
		}
		wg.Wait()
		assert.LessOrEqual(t, refused.Load(), int64(1), "nothing is known of how fast the server is when it takes some again")
	})
}

func TestRetryAloneReplacesARetryLoop(t *testing.T) {
	for name, header := range map[string][]string{"bare": nil, "at once": {"Retry-After", "0"}} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var mu sync.Mutex
				tokens, at := 100., time.Now()
				r := &Retry{Base: rtFunc(func(req *http.Request) (*http.Response, error) {
					time.Sleep(50 * time.Millisecond)
					mu.Lock()
					defer mu.Unlock()
					now := time.Now()
					tokens, at = min(tokens+100*now.Sub(at).Seconds(), 100), now
					if tokens < 1 {
						return status(429, header...)(req)
					}
					tokens--
					return status(200)(req)
				})}
				lost := 0
				for _, err := range sendAll(t, r, 500) {
					if err != nil {
						lost++
					}
				}
				if header == nil {
					assert.Zero(t, lost, "500 at once, of 100 a second")
				} else {
					assert.Less(t, lost, 50, "who says that they may come at once has them come")
				}
			})
		})
	}
}
