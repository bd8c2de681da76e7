//go:build !race

package sturdy_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/sturdyhttp/sturdy"
	"github.com/sturdyhttp/sturdy/sturdytest"
)

// An openLoop is calls that come at their own pace, whatever the answers are.
type openLoop struct {
	rt        http.RoundTripper
	perSecond float64
	lasts     time.Duration
	patience  time.Duration // the deadline of each call; zero for none
	cancels   float64       // the share of the callers who give up within 100ms
}

// A called is what became of a call.
type called struct {
	at, took time.Duration
	ok       bool
	err      error
}

func (l *openLoop) run(t *testing.T) []called {
	random := rand.New(rand.NewPCG(1, 2))
	began := time.Now()
	var mu sync.Mutex
	var all []called
	var wg sync.WaitGroup
	for time.Since(began) < l.lasts {
		gives := random.Float64() < l.cancels
		after := time.Duration(random.IntN(100)) * time.Millisecond
		wg.Go(func() {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			if l.patience > 0 {
				ctx, cancel = context.WithTimeout(ctx, l.patience)
				defer cancel()
			}
			if gives {
				time.AfterFunc(after, cancel)
			}
			req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://api.example.com/", http.NoBody)
			if err != nil {
				panic(err)
			}
			c := called{at: time.Since(began)}
			resp, err := l.rt.RoundTrip(req)
			if c.err = err; err == nil {
				c.ok = resp.StatusCode == http.StatusOK
				resp.Body.Close()
			}
			c.took = time.Since(began) - c.at
			mu.Lock()
			defer mu.Unlock()
			all = append(all, c)
		})
		// Spread, so that no two come at the same instant.
		time.Sleep(time.Duration((0.5 + random.Float64()) / l.perSecond * float64(time.Second)))
	}
	wg.Wait()
	slices.SortFunc(all, func(a, b called) int { return int(a.at - b.at) })
	return all
}

func failed(calls []called) (n int) {
	for _, c := range calls {
		if !c.ok {
			n++
		}
	}
	return n
}

// arrived is how many requests came to a server in this time.
func arrived(s *sturdytest.Server, from, to time.Duration) (n, most int) {
	for _, second := range s.Stats().Seconds {
		if second.At >= from && second.At < to {
			n += second.Arrived
			most = max(most, second.Arrived)
		}
	}
	return n, most
}

func down(from, to time.Duration, answer sturdytest.Step) *sturdytest.Server {
	return &sturdytest.Server{Latency: answers, Outages: []sturdytest.Outage{{From: from, To: to, Answer: answer}}}
}

// maxOpenWait is how long a call without a deadline waits for a circuit.
const maxOpenWait = 30 * time.Second

// steepest returns by how much the number of requests grows from one second to
// the next, at most, and the most that come in one, from then on.
func steepest(s *sturdytest.Server, from time.Duration) (growth float64, most int) {
	last, before := 0, 0
	for _, second := range s.Stats().Seconds {
		if second.At < from {
			continue
		}
		if last >= 10 && before >= 10 { // fewer, and a part of a second, say little
			growth = max(growth, float64(second.Arrived)/float64(last))
		}
		before, last, most = last, second.Arrived, max(most, second.Arrived)
	}
	return growth, most
}

// simTable collects what scenarios show, one row each.
type simTable struct{ rows []string }

func (s *simTable) addf(name, format string, args ...any) {
	s.rows = append(s.rows, fmt.Sprintf("| %-42s | ", name)+fmt.Sprintf(format, args...)+" |")
}

func TestSimBreaker(t *testing.T) {
	var table simTable
	fast := sturdytest.Status(503).After(5 * time.Millisecond)
	const from, to = 30 * time.Second, 90 * time.Second

	t.Run("callers who can wait", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			srv := down(from, to, fast)
			calls := (&openLoop{rt: &sturdy.Transport{Base: srv}, perSecond: 50, lasts: 10 * time.Minute, patience: 90 * time.Second}).run(t)
			sent, _ := arrived(srv, from, to)
			came := 0
			for _, c := range calls {
				if c.at >= from && c.at < to {
					came++
				}
			}
			growth, peak := steepest(srv, to)
			table.addf("60 s of fast 503s, callers wait 90 s", "%d of %d failed, %.3f requests a call in the outage, the return grows by %.1f a second at most, to %d/s",
				failed(calls), len(calls), float64(sent)/float64(came), growth, peak)
			assert.Zero(t, failed(calls))
			assert.LessOrEqual(t, float64(sent), 0.05*float64(came))
			assert.LessOrEqual(t, growth, 5., "it doubles each half second at most")
		})
	})

	t.Run("callers without a deadline", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			srv := down(from, to, fast)
			calls := (&openLoop{rt: &sturdy.Transport{Base: srv}, perSecond: 50, lasts: 2 * time.Minute}).run(t)
			sent, _ := arrived(srv, from, to)
			first, slowest, longest, lost := time.Hour, time.Duration(0), time.Duration(0), 0
			for _, c := range calls {
				switch end := c.at + c.took; {
				case c.ok && end > to:
					first = min(first, end-to)
				case !c.ok:
					if errors.Is(c.err, sturdy.ErrCircuitOpen) { // it was never sent
						slowest = max(slowest, c.took)
					}
					longest = max(longest, c.took)
					if c.at > to-maxOpenWait+6*time.Second { // MaxOpen, and what is added to it
						lost++
					}
				}
			}
			table.addf("the same, callers without a deadline", "refused after %v, or %v if sent before, %d requests in the outage, first success %.1f s after it, %d lost of its last 24 s",
				slowest.Round(time.Second), longest.Round(time.Second), sent, first.Seconds(), lost)
			assert.LessOrEqual(t, slowest, maxOpenWait+time.Second)
			assert.LessOrEqual(t, longest, 2*time.Minute)
			assert.LessOrEqual(t, first, 6*time.Second)
			assert.Zero(t, lost)
		})
	})

	t.Run("Retry-After", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			srv := down(from, from+10*time.Second, fast.With("Retry-After", "20"))
			calls := (&openLoop{rt: &sturdy.Transport{Base: srv}, perSecond: 50, lasts: 2 * time.Minute, patience: 90 * time.Second}).run(t)
			last, next := time.Duration(0), time.Duration(0)
			for _, s := range srv.Stats().Seconds {
				switch {
				case s.Failed > 0:
					last = s.At
				case last > 0 && next == 0 && s.Arrived > 0:
					next = s.At
				}
			}
			table.addf("503s with Retry-After 20", "%d failed, next request %v after the last 503 (to a second)", failed(calls), next-last)
			assert.Zero(t, failed(calls))
			assert.GreaterOrEqual(t, next-last, 20*time.Second)
			assert.LessOrEqual(t, next-last, 21*time.Second)
		})
	})

	t.Run("slow failures", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			srv := down(0, 0, sturdytest.Status(500).After(30*time.Second))
			var opened time.Duration
			began := time.Now()
			b := &sturdy.Breaker{Base: srv, Failures: 10, Observe: func(_ context.Context, ev sturdy.Event) {
				if ev.Kind == sturdy.EventOpen && opened == 0 {
					opened = time.Since(began)
				}
			}}
			for range 20 {
				req, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://api.example.com/", http.NoBody)
				if resp, err := b.RoundTrip(req); err == nil {
					resp.Body.Close()
				}
			}
			table.addf("failures that take 30 s, one by one", "opens after %v", opened)
			assert.Equal(t, 300*time.Second, opened)
		})
	})

	t.Run("half fail", func(t *testing.T) {
		half := func(failures int, ratio float64) (share float64) {
			synctest.Test(t, func(t *testing.T) {
				srv := down(from, to, fast)
				srv.Outages[0].Share = 0.5
				rt := &sturdy.Transport{Base: srv}
				rt.Breaker.Failures, rt.Breaker.Ratio = failures, ratio
				calls := (&openLoop{rt: rt, perSecond: 50, lasts: 2 * time.Minute, patience: 90 * time.Second}).run(t)
				share = 1 - float64(failed(calls))/float64(len(calls))
			})
			return share
		}
		alone, with := half(-1, -1), half(0, 0)
		table.addf("half of all calls fail for 60 s", "%.1f %% succeed, with Retry alone %.1f %%", 100*with, 100*alone)
		assert.GreaterOrEqual(t, with, alone-0.03)
	})

	t.Run("30 % fail", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			srv := down(0, 0, fast)
			srv.Outages[0].Share = 0.3
			opened := 0
			rt := &sturdy.Transport{Base: srv, Observe: func(_ context.Context, ev sturdy.Event) {
				if ev.Kind == sturdy.EventOpen {
					opened++
				}
			}}
			calls := (&openLoop{rt: rt, perSecond: 50, lasts: 5 * time.Minute, patience: 90 * time.Second}).run(t)
			table.addf("30 % fail for five minutes", "opens %d times, %.2f %% succeed", opened, 100-100*float64(failed(calls))/float64(len(calls)))
			// Of 21,000 attempts, ten in a row fail by chance once in a dozen runs.
			assert.LessOrEqual(t, opened, 1)
		})
	})

	t.Run("callers cancel", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			srv := &sturdytest.Server{Latency: answers}
			opened := 0
			rt := &sturdy.Transport{Base: srv, Observe: func(_ context.Context, ev sturdy.Event) {
				if ev.Kind == sturdy.EventOpen {
					opened++
				}
			}}
			(&openLoop{rt: rt, perSecond: 50, lasts: 2 * time.Minute, cancels: 0.1}).run(t)
			table.addf("10 % of the callers cancel", "opens %d times", opened)
			assert.Zero(t, opened)
		})
	})

	t.Run("batch", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			srv := down(20*time.Second, 50*time.Second, fast)
			srv.Limits = []sturdytest.Limit{{Rate: 50, Burst: 50}}
			srv.RetryAfter = sturdytest.Seconds
			rt := &sturdy.Transport{Base: srv, RateLimit: sturdy.RateLimit{Limit: 50}}
			began := time.Now()
			ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
			defer cancel()
			calls, lost := make(chan struct{}, 3000), 0
			for range cap(calls) {
				calls <- struct{}{}
			}
			close(calls)
			var mu sync.Mutex
			var wg sync.WaitGroup
			for range 64 {
				wg.Go(func() {
					for range calls {
						req, _ := http.NewRequestWithContext(ctx, http.MethodGet, "https://api.example.com/", http.NoBody)
						resp, err := rt.RoundTrip(req)
						if err == nil {
							resp.Body.Close()
						}
						if err != nil || resp.StatusCode != http.StatusOK {
							mu.Lock()
							lost++
							mu.Unlock()
						}
					}
				})
			}
			wg.Wait()
			bound := (3000.0-50)/50 + 30
			share := bound / time.Since(began).Seconds()
			sent, _ := arrived(srv, 20*time.Second, 50*time.Second)
			table.addf("3,000 at 50/s, down from 20 s to 50 s", "%d failed, %.1f %% of the bound, %d requests in the outage", lost, 100*share, sent)
			assert.Zero(t, lost)
			assert.GreaterOrEqual(t, share, 0.92)
			assert.Less(t, sent, 100)
		})
	})

	t.Run("two hosts", func(t *testing.T) {
		live := func(dead bool) (times []time.Duration) {
			synctest.Test(t, func(t *testing.T) {
				srv, gone := &sturdytest.Server{Latency: sturdytest.Latency{Median: answers.Median}}, down(0, 0, fast)
				rt := &sturdy.Transport{Base: roundTripper(func(req *http.Request) (*http.Response, error) {
					if req.URL.Host == "dead.example.com" {
						return gone.RoundTrip(req)
					}
					return srv.RoundTrip(req)
				})}
				if dead {
					var wg sync.WaitGroup
					defer wg.Wait()
					for range 20 {
						wg.Go(func() {
							ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
							defer cancel()
							req, _ := http.NewRequestWithContext(ctx, http.MethodGet, "https://dead.example.com/", http.NoBody)
							if resp, err := rt.RoundTrip(req); err == nil {
								resp.Body.Close()
							}
						})
					}
				}
				for _, c := range (&openLoop{rt: rt, perSecond: 50, lasts: 20 * time.Second, patience: time.Minute}).run(t) {
					require.True(t, c.ok)
					times = append(times, c.took)
				}
			})
			return times
		}
		alone, beside := live(false), live(true)
		table.addf("two hosts, one dead", "the live one: %d calls, all as if alone: %v", len(beside), slices.Equal(alone, beside))
		assert.Equal(t, alone, beside)
	})

	t.Run("keys", func(t *testing.T) {
		var before, after runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		b := &sturdy.Breaker{
			Failures: 1, OpenFor: time.Hour, MaxOpen: time.Hour,
			Key: func(req *http.Request) string { return req.URL.Path },
			Base: roundTripper(func(req *http.Request) (*http.Response, error) {
				code := http.StatusOK
				if strings.HasPrefix(req.URL.Path, "/down") {
					code = http.StatusInternalServerError
				}
				return &http.Response{StatusCode: code, Header: http.Header{}, Body: http.NoBody, Request: req}, nil
			}),
		}
		for i := range 100_000 {
			path := fmt.Sprintf("/%d", i)
			if i%1000 == 0 {
				path = "/down" + path
			}
			req, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://api.example.com"+path, http.NoBody)
			_, err := b.RoundTrip(req)
			require.NoError(t, err)
		}
		runtime.GC()
		runtime.ReadMemStats(&after)
		open := 0
		for _, c := range b.Circuits() {
			if c.State == sturdy.StateOpen {
				open++
			}
		}
		heap := int64(after.HeapAlloc) - int64(before.HeapAlloc)
		table.addf("100,000 keys", "%.1f MiB, %d of 100 circuits still open", float64(heap)/(1<<20), open)
		assert.Less(t, heap, int64(4<<20))
		assert.Equal(t, 100, open)
		runtime.KeepAlive(b)
	})
	t.Log("\n| outage                                     | what is shown |\n| ------------------------------------------ | ------------- |\n" + strings.Join(table.rows, "\n"))
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(req *http.Request) (*http.Response, error) { return f(req) }
