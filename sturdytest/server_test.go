package sturdytest_test

import (
	"context"
	"errors"
	"io"
	"math"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/sturdyhttp/sturdy/sturdytest"
)

// post sends a body and returns the answer, with its body read and closed.
func post(t *testing.T, rt http.RoundTripper, body string) (*http.Response, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, apiURL, strings.NewReader(body))
	require.NoError(t, err)
	resp, err := rt.RoundTrip(req)
	require.NoError(t, err)
	got, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	return resp, string(got)
}

func TestZeroServerAnswers200AtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s sturdytest.Server
		start := time.Now()
		for range 100 {
			resp, _ := post(t, &s, "")
			assert.Equal(t, 200, resp.StatusCode)
			assert.Equal(t, http.Header{
				"Content-Type":   {"application/json"},
				"Content-Length": resp.Header["Content-Length"],
				"Date":           {"Sat, 01 Jan 2000 00:00:00 GMT"},
			}, resp.Header)
		}
		assert.Zero(t, time.Since(start))
		assert.Equal(t, sturdytest.Counts{Arrived: 100, OK: 100}, s.Stats().Counts)
	})
}

func TestStatsBeforeTheFirstRequestAreZero(t *testing.T) {
	assert.Equal(t, sturdytest.Stats{}, new(sturdytest.Server).Stats())
}

func TestOutageHitsFromItsBeginToBeforeItsEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &sturdytest.Server{Outages: []sturdytest.Outage{{From: time.Second, To: 2 * time.Second}}}
		assert.Equal(t, ms(0, 250, 500, 750, 2000, 2250), knock(t, s, 250*time.Millisecond, 2500*time.Millisecond))
		assert.Equal(t, sturdytest.Counts{Arrived: 10, OK: 6, Failed: 4}, s.Stats().Counts)
	})
}

func TestOutageWithoutEndIsForEver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &sturdytest.Server{Outages: []sturdytest.Outage{{From: time.Second}}}
		assert.Equal(t, ms(0, 600), knock(t, s, 600*time.Millisecond, time.Hour))
	})
}

func TestOutageAnswersAsItIsTold(t *testing.T) {
	const slow = 5 * time.Second
	for _, tc := range []struct {
		name   string
		server *sturdytest.Server
		status int
		took   time.Duration
		wait   string
		body   string
	}{
		{name: "like OpenAI", status: 503, body: "server_is_overloaded", server: &sturdytest.Server{Outages: []sturdytest.Outage{{}}}},
		{
			name: "like Anthropic", status: 529, body: "overloaded_error",
			server: &sturdytest.Server{Headers: sturdytest.Anthropic, Outages: []sturdytest.Outage{{}}},
		},
		{
			name: "slow", status: 503, took: slow, wait: "7", body: "server_is_overloaded",
			server: &sturdytest.Server{Outages: []sturdytest.Outage{{Answer: sturdytest.Step{}.With("Retry-After", "7").After(slow)}}},
		},
		{
			name: "with a body", status: 503, body: "maintenance",
			server: &sturdytest.Server{Outages: []sturdytest.Outage{{Answer: sturdytest.Step{Body: "maintenance"}}}},
		},
		{
			name: "with a status", status: 500, body: "Internal Server Error",
			server: &sturdytest.Server{Outages: []sturdytest.Outage{{Answer: sturdytest.Status(500)}}},
		},
		{
			name: "the first of two", status: 502, body: "Bad Gateway",
			server: &sturdytest.Server{Outages: []sturdytest.Outage{{Answer: sturdytest.Status(502)}, {}}},
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				start := time.Now()
				resp, body := post(t, tc.server, "")
				assert.Equal(t, tc.took, time.Since(start))
				assert.Equal(t, tc.status, resp.StatusCode)
				assert.Equal(t, tc.wait, resp.Header.Get("Retry-After"))
				assert.Contains(t, body, tc.body)
			})
		})
	}
}

func TestOutageThatRefusesConnectionsReadsNothing(t *testing.T) {
	s := &sturdytest.Server{Outages: []sturdytest.Outage{{Answer: sturdytest.ConnRefused()}}}
	req, up := newRequest(t, t.Context(), "hello")
	_, err := s.RoundTrip(req)
	assert.ErrorIs(t, err, syscall.ECONNREFUSED)
	read, _, closed, _ := up.state()
	assert.Zero(t, read)
	assert.Equal(t, 1, closed)
	assert.Equal(t, sturdytest.Counts{Arrived: 1, Failed: 1}, s.Stats().Counts)
	assert.Zero(t, s.Stats().InFlight)
}

func TestOutageIsNotChargedToTheLimits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &sturdytest.Server{
			Limits:  []sturdytest.Limit{{Rate: 1, Per: time.Hour}},
			Outages: []sturdytest.Outage{{To: time.Second}},
		}
		assert.Equal(t, ms(1000), knock(t, s, 100*time.Millisecond, 2*time.Second))
	})
}

func TestOutageHitsItsShare(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &sturdytest.Server{Outages: []sturdytest.Outage{{Share: 0.3}}}
		const n = 10_000
		for range n {
			post(t, s, "")
		}
		// 4 standard deviations: this seed is within them, and always will be.
		assert.InDelta(t, 0.3*n, s.Stats().Failed, 4*math.Sqrt(n*0.3*0.7))
	})
}

// took returns how long each of n answers took.
func took(t *testing.T, rt http.RoundTripper, n int) []time.Duration {
	var all []time.Duration
	for range n {
		start := time.Now()
		post(t, rt, "")
		all = append(all, time.Since(start))
	}
	return all
}

func TestLatencyIsTheSameForAllWithoutAP99(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &sturdytest.Server{
			Limits:  []sturdytest.Limit{{Rate: 2, Per: time.Hour}},
			Latency: sturdytest.Latency{Median: 300 * time.Millisecond},
			Refusal: sturdytest.Latency{Median: 10 * time.Millisecond},
		}
		assert.Equal(t, ms(300, 300, 10, 10), took(t, s, 4))
	})
}

func TestLatencyHasItsMedianAndItsP99(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &sturdytest.Server{Latency: sturdytest.Latency{Median: 100 * time.Millisecond, P99: time.Second}}
		all := took(t, s, 20_000)
		slices.Sort(all)
		assert.InEpsilon(t, 100*time.Millisecond, all[len(all)/2], 0.03)
		assert.InEpsilon(t, time.Second, all[len(all)*99/100], 0.06)
	})
}

func TestLatencyIsAddedToThatOfTheReply(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &sturdytest.Server{
			Latency: sturdytest.Latency{Median: time.Second},
			Reply:   func(*http.Request) sturdytest.Step { return sturdytest.OK("").After(2 * time.Second) },
		}
		assert.Equal(t, ms(3000), took(t, s, 1))
	})
}

// Above its capacity, a server answers not more in a second, but later.
func TestAboveCapacityLatencyGrowsWithWhatIsInFlight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &sturdytest.Server{Latency: sturdytest.Latency{Median: time.Second}, Capacity: 4}
		times := make([]time.Duration, 10)
		var wg sync.WaitGroup
		for i := range times {
			wg.Go(func() {
				time.Sleep(time.Duration(i)) // in their order
				times[i] = took(t, s, 1)[0]
			})
		}
		wg.Wait()
		assert.Equal(t, ms(1000, 1000, 1000, 1000, 1250, 1500, 1750, 2000, 2250, 2500), times)
		post(t, s, "")
		assert.Equal(t, 10, s.Stats().MaxInFlight)
		assert.Zero(t, s.Stats().InFlight)
	})
}

func TestTheSameSeedGivesTheSameRun(t *testing.T) {
	run := func(seed uint64) (trace []string, stats sturdytest.Stats) {
		synctest.Test(t, func(t *testing.T) {
			s := &sturdytest.Server{
				Limits:     []sturdytest.Limit{{Rate: 20, Burst: 5}},
				Headers:    sturdytest.OpenAI,
				RetryAfter: sturdytest.Milliseconds,
				Outages:    []sturdytest.Outage{{From: 2 * time.Second, To: 4 * time.Second, Share: 0.5}},
				Latency:    sturdytest.Latency{Median: 100 * time.Millisecond, P99: time.Second},
				Capacity:   8,
				Seed:       seed,
			}
			var mu sync.Mutex
			start := time.Now()
			var wg sync.WaitGroup
			for i := range 16 {
				wg.Go(func() {
					time.Sleep(time.Duration(i) * 977 * time.Microsecond)
					for time.Since(start) < 6*time.Second {
						resp, _ := post(t, s, "")
						mu.Lock()
						trace = append(trace, time.Since(start).String()+resp.Status+resp.Header.Get("retry-after-ms"))
						mu.Unlock()
						time.Sleep(50*time.Millisecond + time.Duration(i))
					}
				})
			}
			wg.Wait()
			stats = s.Stats()
		})
		return trace, stats
	}
	trace, stats := run(1)
	for range 3 {
		again, same := run(1)
		assert.Equal(t, trace, again)
		assert.Equal(t, stats, same)
	}
	other, _ := run(2)
	assert.NotEqual(t, trace, other)
}

func TestEachAnswerHasItsID(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &sturdytest.Server{Headers: sturdytest.OpenAI, Latency: sturdytest.Latency{Median: time.Second}}
		var ids sync.Map
		var wg sync.WaitGroup
		for range 100 {
			wg.Go(func() {
				resp, _ := post(t, s, "hello")
				_, twice := ids.LoadOrStore(resp.Header.Get("x-request-id"), true)
				assert.False(t, twice)
			})
		}
		wg.Wait()
	})
}

func TestStatsCountBySecondWhatCameAndWhatWasAnswered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &sturdytest.Server{
			Limits:  []sturdytest.Limit{{Rate: 3, Per: time.Hour}},
			Latency: sturdytest.Latency{Median: 1500 * time.Millisecond},
			Outages: []sturdytest.Outage{{From: 5 * time.Second}},
		}
		start := time.Now()
		var wg sync.WaitGroup
		for range 4 { // one is refused
			wg.Go(func() {
				post(t, s, "")
			})
		}
		wg.Wait()
		time.Sleep(5 * time.Second)
		post(t, s, "")
		second := func(at int, c sturdytest.Counts) sturdytest.Second {
			return sturdytest.Second{At: time.Duration(at) * time.Second, Counts: c}
		}
		assert.Equal(t, sturdytest.Stats{
			Counts:      sturdytest.Counts{Arrived: 5, OK: 3, Refused: 1, Failed: 1},
			Start:       start,
			MaxInFlight: s.Stats().MaxInFlight,
			Seconds: []sturdytest.Second{
				second(0, sturdytest.Counts{Arrived: 4, Refused: 1}),
				second(1, sturdytest.Counts{OK: 3}),
				second(6, sturdytest.Counts{Arrived: 1, Failed: 1}),
			},
		}, s.Stats())
	})
}

func TestStatsAreASnapshot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s sturdytest.Server
		post(t, &s, "")
		stats := s.Stats()
		post(t, &s, "")
		assert.Equal(t, 1, stats.Arrived)
		assert.Equal(t, 1, stats.Seconds[0].Arrived)
		assert.Equal(t, 2, s.Stats().Seconds[0].Arrived)
	})
}

func TestARequestIsInFlightUntilItsAnswerIsReadOrClosed(t *testing.T) {
	var s sturdytest.Server
	read, err := roundTrip(t, &s)
	require.NoError(t, err)
	closed, err := roundTrip(t, &s)
	require.NoError(t, err)
	assert.Equal(t, 2, s.Stats().InFlight)
	assert.Equal(t, 2, s.Stats().Unclosed)

	_, err = io.Copy(io.Discard, read.Body)
	require.NoError(t, err)
	assert.Equal(t, 1, s.Stats().InFlight)
	assert.Equal(t, 2, s.Stats().Unclosed)

	for range 2 { // counted once
		require.NoError(t, closed.Body.Close())
		require.NoError(t, read.Body.Close())
		assert.Zero(t, s.Stats().InFlight)
		assert.Zero(t, s.Stats().Unclosed)
	}
}

func TestAnAnswerWithoutBodyIsNotUnclosed(t *testing.T) {
	s := &sturdytest.Server{Reply: func(*http.Request) sturdytest.Step { return sturdytest.Status(204) }}
	resp, err := roundTrip(t, s)
	require.NoError(t, err)
	assert.Equal(t, 204, resp.StatusCode)
	assert.Zero(t, s.Stats().InFlight)
	assert.Zero(t, s.Stats().Unclosed)
}

func TestReplyReadsTheRequestAndItsErrorsAreFailures(t *testing.T) {
	s := &sturdytest.Server{Reply: func(r *http.Request) sturdytest.Step {
		body, err := io.ReadAll(r.Body)
		assert.NoError(t, err)
		assert.Equal(t, apiURL, r.URL.String())
		return sturdytest.Step{Status: 422, Body: string(body)}
	}}
	resp, body := post(t, s, "hello")
	assert.Equal(t, 422, resp.StatusCode)
	assert.Equal(t, "hello", body)
	assert.Equal(t, sturdytest.Counts{Arrived: 1, Failed: 1, Tokens: 2}, s.Stats().Counts)
}

// A request that ends at any point is counted as gone, its body is closed once,
// and nothing stays in flight.
func TestRequestsThatAreGivenUpAreGone(t *testing.T) {
	cause := errors.New("enough")
	for _, after := range []time.Duration{0, time.Millisecond, time.Second, 1999 * time.Millisecond} {
		synctest.Test(t, func(t *testing.T) {
			s := &sturdytest.Server{Latency: sturdytest.Latency{Median: 2 * time.Second}}
			ctx, cancel := context.WithCancelCause(t.Context())
			if after == 0 {
				cancel(cause)
			}
			time.AfterFunc(after, func() { cancel(cause) })
			req, up := newRequest(t, ctx, "hello")
			start := time.Now()
			_, err := s.RoundTrip(req)
			assert.Equal(t, cause, err)
			assert.Equal(t, after, time.Since(start))
			_, _, closed, _ := up.state()
			assert.Equal(t, 1, closed)
			assert.Equal(t, 1, s.Stats().Gone)
			assert.Zero(t, s.Stats().InFlight)
		})
		synctest.Test(t, func(t *testing.T) {
			s := &sturdytest.Server{Latency: sturdytest.Latency{Median: 2 * time.Second}}
			stop := make(chan struct{})
			time.AfterFunc(after, func() { close(stop) })
			req, _ := newRequest(t, t.Context(), "hello")
			req.Cancel = stop
			_, err := s.RoundTrip(req)
			assert.EqualError(t, err, "net/http: request canceled")
			assert.Equal(t, 1, s.Stats().Gone)
		})
	}
}

func TestPanicsAndGoexitsLeaveNothingBehind(t *testing.T) {
	for name, s := range map[string]*sturdytest.Server{
		"outage panics": {Outages: []sturdytest.Outage{{Answer: sturdytest.Panic("boom")}}},
		"outage exits":  {Outages: []sturdytest.Outage{{Answer: sturdytest.Goexit()}}},
		"Reply panics":  {Reply: func(*http.Request) sturdytest.Step { panic("boom") }},
		"Reply exits":   {Reply: func(*http.Request) sturdytest.Step { runtime.Goexit(); return sturdytest.Step{} }},
		"Key panics":    {Key: func(*http.Request) string { panic("boom") }},
	} {
		req, up := newRequest(t, t.Context(), "hello")
		var wg sync.WaitGroup
		wg.Go(func() {
			defer func() { recover() }()
			s.RoundTrip(req)
			t.Error("it returned")
		})
		wg.Wait()
		_, _, closed, _ := up.state()
		assert.Equal(t, 1, closed, name)
		assert.Equal(t, sturdytest.Counts{Arrived: 1, Failed: 1}, withoutTokens(s.Stats().Counts), name)
		assert.Zero(t, s.Stats().InFlight, name)
	}
}

func withoutTokens(c sturdytest.Counts) sturdytest.Counts { c.Tokens = 0; return c }

func TestSettingsThatMakeNoSenseAreReportedByName(t *testing.T) {
	limit := func(l sturdytest.Limit) *sturdytest.Server {
		return &sturdytest.Server{Limits: []sturdytest.Limit{{Rate: 1}, l}}
	}
	outage := func(o sturdytest.Outage) *sturdytest.Server {
		return &sturdytest.Server{Outages: []sturdytest.Outage{o}}
	}
	for want, s := range map[string]*sturdytest.Server{
		"Limits[1].Rate must be positive, it is 0":        limit(sturdytest.Limit{Burst: 5}),
		"Limits[1].Rate must be positive, it is NaN":      limit(sturdytest.Limit{Rate: math.NaN()}),
		"Limits[1].Rate must be positive, it is +Inf":     limit(sturdytest.Limit{Rate: math.Inf(1)}),
		"Limits[1].Per is negative: -1s":                  limit(sturdytest.Limit{Rate: 1, Per: -time.Second}),
		"Limits[1].Burst is negative: -1":                 limit(sturdytest.Limit{Rate: 1, Burst: -1}),
		"Limits[1].Unit is unknown: 9":                    limit(sturdytest.Limit{Rate: 1, Unit: 9}),
		"Limits[1].To must be after From, it is 1s":       limit(sturdytest.Limit{Rate: 1, From: time.Second, To: time.Second}),
		"Outages[0].Share must be from 0 to 1, it is 1.5": outage(sturdytest.Outage{Share: 1.5}),
		"Outages[0].To must be after From, it is 1s":      outage(sturdytest.Outage{From: 2 * time.Second, To: time.Second}),
		"Latency.Median is negative: -1s":                 {Latency: sturdytest.Latency{Median: -time.Second}},
		"Refusal.P99 must be at least Median, it is 1s":   {Refusal: sturdytest.Latency{Median: 2 * time.Second, P99: time.Second}},
		"Latency.P99 must be at least Median, it is 1s":   {Latency: sturdytest.Latency{P99: time.Second}},
		"Headers is unknown: 77":                          {Headers: 77},
		"RetryAfter is unknown: 77":                       {RetryAfter: 77},
		"Lie is negative: -1":                             {Lie: -1},
		"Capacity is negative: -1":                        {Capacity: -1},
	} {
		for range 2 { // each time
			req, up := newRequest(t, t.Context(), "hello")
			_, err := s.RoundTrip(req)
			assert.EqualError(t, err, "sturdytest: Server."+want)
			_, _, closed, _ := up.state()
			assert.Equal(t, 1, closed)
		}
		assert.Equal(t, sturdytest.Stats{}, s.Stats())
	}
}

func TestTenThousandAtOnceAreAllCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const n = 10_000
		s := &sturdytest.Server{
			Limits:  []sturdytest.Limit{{Rate: 100, Burst: 1000}},
			Outages: []sturdytest.Outage{{Share: 0.1, Answer: sturdytest.ConnReset()}},
			Latency: sturdytest.Latency{Median: 100 * time.Millisecond, P99: 10 * time.Second},
			Key:     func(r *http.Request) string { return r.Method },
		}
		var wg sync.WaitGroup
		for range n {
			wg.Go(func() {
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				defer cancel()
				req, _ := http.NewRequestWithContext(ctx, "POST", apiURL, strings.NewReader("hello"))
				if resp, err := s.RoundTrip(req); err == nil {
					resp.Body.Close()
				}
			})
		}
		wg.Wait()
		stats := s.Stats()
		assert.Equal(t, n, stats.Arrived)
		assert.Equal(t, n, stats.OK+stats.Refused+stats.Failed+stats.Gone)
		assert.Equal(t, 1000, stats.OK+stats.Gone, "the burst")
		assert.NotZero(t, stats.Gone)
		assert.Zero(t, stats.InFlight)
		assert.Zero(t, stats.Unclosed)
	})
}
