package sturdytest_test

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/sturdyhttp/sturdy/sturdytest"
)

// ms returns times in milliseconds.
func ms(all ...int) []time.Duration {
	times := make([]time.Duration, len(all))
	for i, n := range all {
		times[i] = time.Duration(n) * time.Millisecond
	}
	return times
}

// knock sends a request each gap for a time, and returns when, since the first,
// those came that were answered with 200.
func knock(t *testing.T, rt http.RoundTripper, gap, during time.Duration) (passed []time.Duration) {
	t.Helper()
	start := time.Now()
	for time.Since(start) < during {
		if resp, _ := post(t, rt, ""); resp.StatusCode == 200 {
			passed = append(passed, time.Since(start))
		}
		time.Sleep(gap)
	}
	return passed
}

func TestLimitsTakeWhatAHandCalculationSays(t *testing.T) {
	second := []sturdytest.Limit{{Rate: 2, Window: true}}
	for _, tc := range []struct {
		name   string
		limits []sturdytest.Limit
		gap    time.Duration
		want   []time.Duration // of three seconds
	}{
		{"bucket", []sturdytest.Limit{{Rate: 2, Burst: 3}}, time.Millisecond, ms(0, 1, 2, 500, 1000, 1500, 2000, 2500)},
		{"bucket of a second", []sturdytest.Limit{{Rate: 2}}, time.Millisecond, ms(0, 1, 500, 1000, 1500, 2000, 2500)},
		{"bucket by the minute", []sturdytest.Limit{{Rate: 60, Per: time.Minute, Burst: 1}}, time.Millisecond, ms(0, 1000, 2000)},
		{"bucket of one loses what no request waits for", []sturdytest.Limit{{Rate: 3, Burst: 1}}, 10 * time.Millisecond, ms(0, 340, 680, 1020, 1360, 1700, 2040, 2380, 2720)},
		{"bucket with less than one a second", []sturdytest.Limit{{Rate: 0.5}}, time.Millisecond, ms(0, 2000)},
		{"bucket that refills while nobody comes", []sturdytest.Limit{{Rate: 2, Burst: 3}}, 1100 * time.Millisecond, ms(0, 1100, 2200)},
		{"window", second, 100 * time.Millisecond, ms(0, 100, 1000, 1100, 2000, 2100)},
		{"window longer than a second", []sturdytest.Limit{{Rate: 2, Per: 1500 * time.Millisecond, Window: true}}, 100 * time.Millisecond, ms(0, 100, 1500, 1600)},
		{"window that a burst is given to", []sturdytest.Limit{{Rate: 2, Burst: 5, Window: true}}, 100 * time.Millisecond, ms(0, 100, 1000, 1100, 2000, 2100)},
		{"windows that are not those of the requests", []sturdytest.Limit{{Rate: 1, Window: true}}, 700 * time.Millisecond, ms(0, 1400, 2100)},
		{"window in which nobody comes", second, 2500 * time.Millisecond, ms(0, 2500)},
		{
			"window with a hidden one by the second",
			[]sturdytest.Limit{{Rate: 5, Per: time.Minute, Window: true}, {Rate: 2, Window: true, Hidden: true}}, 100 * time.Millisecond,
			ms(0, 100, 1000, 1100, 2000),
		},
		{
			"bucket that is halved", []sturdytest.Limit{{Rate: 4, Burst: 1, To: time.Second}, {Rate: 2, Burst: 1, From: time.Second}}, 10 * time.Millisecond,
			ms(0, 250, 500, 750, 1000, 1500, 2000, 2500),
		},
		{"bucket that is in force for a while", []sturdytest.Limit{{Rate: 1, From: time.Second, To: 2 * time.Second}}, 400 * time.Millisecond, ms(0, 400, 800, 1200, 2000, 2400, 2800)},
		{"window that begins later", []sturdytest.Limit{{Rate: 1, Window: true, From: 500 * time.Millisecond}}, 200 * time.Millisecond, ms(0, 200, 400, 600, 1600, 2600)},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				assert.Equal(t, tc.want, knock(t, &sturdytest.Server{Limits: tc.limits}, tc.gap, 3*time.Second))
			})
		})
	}
}

// Whoever asks all the time gets the burst and then the rate, to the last one.
func TestBucketGivesRateTimesTimeAndBurst(t *testing.T) {
	for _, tc := range []struct {
		rate  float64
		burst int
		want  int // in a minute less a millisecond
	}{
		{10, 10, 609},
		{50, 5, 3004},
		{7, 3, 422},
		{1.0 / 3, 1, 20},
	} {
		synctest.Test(t, func(t *testing.T) {
			s := &sturdytest.Server{Limits: []sturdytest.Limit{{Rate: tc.rate, Burst: tc.burst}}, RetryAfter: sturdytest.Milliseconds}
			start := time.Now()
			passed := 0
			for time.Since(start) < time.Minute-time.Millisecond {
				resp, _ := post(t, s, "")
				if resp.StatusCode == 200 {
					passed++
				} else {
					wait(t, resp)
				}
			}
			assert.Equal(t, tc.want, passed)
		})
	}
}

// Thirds of a second are not whole nanoseconds. Who comes in the nanosecond of
// one is not early, who comes before it is, and however often, no time is lost.
func TestBucketIsExactToTheNanosecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &sturdytest.Server{Limits: []sturdytest.Limit{{Rate: 3, Burst: 1}}}
		start := time.Now()
		for i := range 3000 {
			due := start.Add(time.Duration(i) * time.Second / 3)
			time.Sleep(time.Until(due) - 2)
			if i > 0 {
				resp, _ := post(t, s, "")
				require.Equal(t, 429, resp.StatusCode, i)
			}
			time.Sleep(time.Until(due))
			resp, _ := post(t, s, "")
			require.Equal(t, 200, resp.StatusCode, i)
		}
	})
}

func TestRemainingIsWholeWhateverTheRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for rate := range 40 {
			s := &sturdytest.Server{Limits: []sturdytest.Limit{{Rate: float64(rate + 1), Burst: 60}}, Headers: sturdytest.OpenAI}
			for left := 59; left >= 0; left-- {
				resp, _ := post(t, s, "")
				require.Equal(t, fmt.Sprint(left), resp.Header.Get("x-ratelimit-remaining-requests"))
			}
		}
	})
}

func TestOfSeveralWaitsTheLongestIsAskedFor(t *testing.T) {
	for _, limits := range [][]sturdytest.Limit{
		{{Rate: 1}, {Rate: 1, Per: minute}},
		{{Rate: 1, Per: minute}, {Rate: 1}},
	} {
		synctest.Test(t, func(t *testing.T) {
			s := &sturdytest.Server{Limits: limits, RetryAfter: sturdytest.Seconds}
			post(t, s, "")
			resp, _ := post(t, s, "")
			assert.Equal(t, "60", resp.Header.Get("Retry-After"))
		})
	}
}

func TestAWindowIsNeverMoreThanUsedUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &sturdytest.Server{Limits: []sturdytest.Limit{{Rate: 2, Window: true, ChargeRefused: true}}, Headers: sturdytest.OpenAI}
		for _, want := range []string{"1", "0", "0", "0"} {
			resp, _ := post(t, s, "")
			assert.Equal(t, want, resp.Header.Get("x-ratelimit-remaining-requests"))
		}
		time.Sleep(time.Second)
		resp, _ := post(t, s, "")
		assert.Equal(t, "1", resp.Header.Get("x-ratelimit-remaining-requests"))
	})
}

// wait waits as long as a refusal asks for, in milliseconds.
func wait(t *testing.T, resp *http.Response) {
	d, err := time.ParseDuration(resp.Header.Get("retry-after-ms") + "ms")
	require.NoError(t, err)
	time.Sleep(d)
}

func TestBucketGivesInNoTimeMoreThanRateTimesTimeAndBurst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const rate, burst = 7., 5
		s := &sturdytest.Server{Limits: []sturdytest.Limit{{Rate: rate, Burst: burst}}}
		random := rand.New(rand.NewPCG(1, 2))
		var passed []time.Duration
		for start := time.Now(); time.Since(start) < time.Minute; {
			if resp, _ := post(t, s, ""); resp.StatusCode == 200 {
				passed = append(passed, time.Since(start))
			}
			time.Sleep(time.Duration(random.Int64N(int64(300 * time.Millisecond))))
		}
		for i, from := range passed {
			for j, to := range passed[i:] {
				require.LessOrEqual(t, float64(j+1), rate*(to-from+1).Seconds()+burst)
			}
		}
	})
}

// Of all that a refusal says, the wait is what a client goes by: after it the
// request passes, and a nanosecond before it does not.
func TestRequestPassesWhenItsWaitIsOverAndNotBefore(t *testing.T) {
	tokens := `{"max_tokens":91}` // 96 in all
	for _, limit := range []sturdytest.Limit{
		{Rate: 4, Burst: 3},
		{Rate: 10, Per: time.Minute},
		{Rate: 3, Per: 6 * time.Second, Window: true},
		{Rate: 100, Per: 3 * time.Second, Unit: sturdytest.Tokens},
		{Rate: 300, Per: 6 * time.Second, Unit: sturdytest.Tokens, Window: true},
	} {
		for _, early := range []time.Duration{0, 1} {
			synctest.Test(t, func(t *testing.T) {
				s := &sturdytest.Server{Limits: []sturdytest.Limit{limit}, RetryAfter: sturdytest.Milliseconds}
				resp, _ := post(t, s, tokens)
				for resp.StatusCode == 200 {
					resp, _ = post(t, s, tokens)
				}
				d, err := time.ParseDuration(resp.Header.Get("retry-after-ms") + "ms")
				require.NoError(t, err)
				time.Sleep(d - early)
				resp, _ = post(t, s, tokens)
				assert.Equal(t, early == 0, resp.StatusCode == 200, "%+v, early by %v", limit, early)
			})
		}
	}
}

func TestTokensAreChargedBeforeTheAnswer(t *testing.T) {
	long := strings.Repeat("x", 400)
	for body, want := range map[string]int{
		"":                                      0,
		"not JSON":                              2,
		`{}`:                                    1 + 15,
		`{"max_tokens":100}`:                    5 + 100,
		`{"max_completion_tokens":7}`:           7 + 7,
		`{"max_output_tokens":7}`:               6 + 7,
		`{"n":3,"max_tokens":10}`:               6 + 30,
		`{"n":2}`:                               2 + 30,
		`{"max_tokens":-5}`:                     5 + 15,
		`{"prompt":"` + long + `"}`:             104 + 15,
		`{"stream":true,"n":0,"max_tokens":20}`: 10 + 20,
	} {
		synctest.Test(t, func(t *testing.T) {
			s := &sturdytest.Server{
				Limits:  []sturdytest.Limit{{Rate: 1000, Per: time.Minute, Unit: sturdytest.Tokens}},
				Headers: sturdytest.OpenAI,
			}
			resp, _ := post(t, s, body)
			assert.Equal(t, want, s.Stats().Tokens, body)
			assert.Equal(t, fmt.Sprint(1000-want), resp.Header.Get("x-ratelimit-remaining-tokens"), body)
		})
	}
}

func TestInputAndOutputHaveLimitsOfTheirOwn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &sturdytest.Server{
			Limits: []sturdytest.Limit{
				{Rate: 1000, Per: time.Minute, Unit: sturdytest.InputTokens},
				{Rate: 200, Per: time.Minute, Unit: sturdytest.OutputTokens},
			},
			Headers: sturdytest.Anthropic,
		}
		resp, _ := post(t, s, `{"max_tokens":100}`)
		assert.Equal(t, "995", resp.Header.Get("anthropic-ratelimit-input-tokens-remaining"))
		assert.Equal(t, "100", resp.Header.Get("anthropic-ratelimit-output-tokens-remaining"))
	})
}

func TestRequestsAndTokensAreLimitedTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &sturdytest.Server{
			Limits: []sturdytest.Limit{
				{Rate: 3, Per: time.Minute},
				{Rate: 100, Per: time.Minute, Unit: sturdytest.Tokens},
			},
			Headers: sturdytest.OpenAI,
		}
		codes := func(body string) (status int, requests, tokens, typ string) {
			resp, text := post(t, s, body)
			var e apiError
			require.NoError(t, json.Unmarshal([]byte(text), &e))
			if e.Error.Type != nil {
				typ = *e.Error.Type
			}
			return resp.StatusCode, resp.Header.Get("x-ratelimit-remaining-requests"), resp.Header.Get("x-ratelimit-remaining-tokens"), typ
		}
		for _, tc := range []struct {
			body                  string
			status                int
			requests, tokens, typ string
		}{
			{`{"max_tokens":55}`, 200, "2", "40", ""},
			{`{"max_tokens":55}`, 429, "2", "40", "tokens"}, // charged to neither
			{`{"max_tokens":5}`, 200, "1", "31", ""},
			{``, 200, "0", "31", ""},
			{``, 429, "0", "31", "requests"},
		} {
			status, requests, tokens, typ := codes(tc.body)
			assert.Equal(t, tc.status, status)
			assert.Equal(t, tc.requests, requests)
			assert.Equal(t, tc.tokens, tokens)
			assert.Equal(t, tc.typ, typ)
		}
	})
}

// Where refused requests count, asking more often than the limit allows gets
// less than the limit; where they do not, it gets all of it.
func TestRefusedRequestsCountIfSet(t *testing.T) {
	for _, tc := range []struct {
		charge bool
		want   []time.Duration
	}{
		{false, ms(0, 100, 1000, 2000)},
		{true, ms(0, 100)},
	} {
		synctest.Test(t, func(t *testing.T) {
			s := &sturdytest.Server{Limits: []sturdytest.Limit{{Rate: 1, Burst: 2, ChargeRefused: tc.charge}}}
			assert.Equal(t, tc.want, knock(t, s, 100*time.Millisecond, 3*time.Second))
			time.Sleep(time.Second)
			resp, _ := post(t, s, "")
			assert.Equal(t, 200, resp.StatusCode, "the bucket is never more than empty")
		})
	}
}

func TestALimitIsChargedWhatAnotherRefusesIfSet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &sturdytest.Server{
			Limits: []sturdytest.Limit{
				{Rate: 10, Per: time.Hour, Window: true, ChargeRefused: true},
				{Rate: 1, Per: time.Hour, Unit: sturdytest.Tokens},
			},
			Headers: sturdytest.OpenAI,
		}
		resp, _ := post(t, s, `{}`)
		assert.Equal(t, 429, resp.StatusCode)
		assert.Equal(t, "9", resp.Header.Get("x-ratelimit-remaining-requests"))
		assert.Equal(t, "1", resp.Header.Get("x-ratelimit-remaining-tokens"))
	})
}

func TestRequestsWithOneKeyShareTheLimits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &sturdytest.Server{
			Limits: []sturdytest.Limit{{Rate: 1, Burst: 2}},
			Key:    func(r *http.Request) string { return r.Header.Get("Authorization") },
		}
		send := func(key string) int {
			req, _ := newRequest(t, t.Context(), "")
			req.Header.Set("Authorization", key)
			resp, err := s.RoundTrip(req)
			require.NoError(t, err)
			require.NoError(t, resp.Body.Close())
			return resp.StatusCode
		}
		assert.Equal(t, []int{200, 200, 429}, []int{send("a"), send("a"), send("a")})
		assert.Equal(t, []int{200, 200, 429}, []int{send("b"), send("b"), send("b")})
	})
}

// A client that comes in the middle of a window has the rest of it.
func TestWindowsAreCountedFromStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &sturdytest.Server{Limits: []sturdytest.Limit{{Rate: 1, Window: true}}, Start: time.Now().Add(-700 * time.Millisecond)}
		assert.Equal(t, ms(0, 300, 1300, 2300), knock(t, s, 100*time.Millisecond, 3*time.Second))
		assert.Equal(t, time.Now().Add(-3700*time.Millisecond), s.Stats().Start)
	})
}
