package sturdytest_test

import (
	"cmp"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/sturdyhttp/sturdy"
	"github.com/sturdyhttp/sturdy/sturdytest"
)

const (
	fourTokens  = "sixteen letters."
	manyTokens  = `{"model":"gpt-4.1","max_tokens":19995}` // 20,005 of them
	minute, day = time.Minute, 24 * time.Hour
)

// ofLimits returns what a header says of limits, and of requests that exceed
// them.
func ofLimits(h http.Header) map[string]string {
	said := make(map[string]string)
	for key := range h {
		switch key {
		case "Content-Type", "Content-Length", "Date":
		default:
			said[strings.ToLower(key)] = h.Get(key)
		}
	}
	return said
}

type headers = map[string]string

// The numbers are those of real answers: 500 requests a minute and 30,000
// tokens, of which a request took one and four.
func TestHeadersAreThoseOfTheDialect(t *testing.T) {
	perMinute := func(name, unit string, limit, left int64, reset, window time.Duration) sturdy.Bucket {
		return sturdy.Bucket{Name: name, Unit: unit, Limit: limit, Remaining: left, Reset: reset, Window: window}
	}
	for _, tc := range []struct {
		name     string
		dialect  sturdytest.Dialect
		first    headers
		parsed   []sturdy.Bucket
		refusal  headers
		status   int
		code     string
		typ, msg string
	}{
		{
			name: "none", first: headers{}, refusal: headers{"retry-after": "21"}, status: 429, code: "rate_limit_exceeded", typ: "tokens",
			msg: "Rate limit reached for gpt-4.1 in organization org-sturdytest on tokens per min (TPM): Limit 30000, Used 20009, Requested 20005. Please try again in 20.028s.",
		},
		{
			name: "OpenAI", dialect: sturdytest.OpenAI,
			first: headers{
				"x-ratelimit-limit-requests": "500", "x-ratelimit-remaining-requests": "499", "x-ratelimit-reset-requests": "120ms",
				"x-ratelimit-limit-tokens": "30000", "x-ratelimit-remaining-tokens": "29996", "x-ratelimit-reset-tokens": "8ms",
				"x-request-id": "req_1",
			},
			parsed: []sturdy.Bucket{
				perMinute("requests", "requests", 500, 499, 120*time.Millisecond, 0),
				perMinute("tokens", "tokens", 30000, 29996, 8*time.Millisecond, 0),
			},
			refusal: headers{
				"x-ratelimit-limit-requests": "500", "x-ratelimit-remaining-requests": "498", "x-ratelimit-reset-requests": "240ms",
				"x-ratelimit-limit-tokens": "30000", "x-ratelimit-remaining-tokens": "9991", "x-ratelimit-reset-tokens": "40.018s",
				"x-request-id": "req_3", "retry-after": "21",
			},
			status: 429, code: "rate_limit_exceeded", typ: "tokens",
			msg: "Rate limit reached for gpt-4.1 in organization org-sturdytest on tokens per min (TPM): Limit 30000, Used 20009, Requested 20005. Please try again in 20.028s.",
		},
		{
			name: "Anthropic", dialect: sturdytest.Anthropic,
			first: headers{
				"anthropic-ratelimit-requests-limit": "500", "anthropic-ratelimit-requests-remaining": "499", "anthropic-ratelimit-requests-reset": "2000-01-01T00:00:00Z",
				"anthropic-ratelimit-tokens-limit": "30000", "anthropic-ratelimit-tokens-remaining": "29996", "anthropic-ratelimit-tokens-reset": "2000-01-01T00:00:00Z",
				"request-id": "req_1",
			},
			parsed: []sturdy.Bucket{
				perMinute("requests", "requests", 500, 499, 0, 0),
				perMinute("tokens", "tokens", 30000, 29996, 0, 0),
			},
			refusal: headers{
				"anthropic-ratelimit-requests-limit": "500", "anthropic-ratelimit-requests-remaining": "498", "anthropic-ratelimit-requests-reset": "2000-01-01T00:00:00Z",
				"anthropic-ratelimit-tokens-limit": "30000", "anthropic-ratelimit-tokens-remaining": "9991", "anthropic-ratelimit-tokens-reset": "2000-01-01T00:00:40Z",
				"request-id": "req_3", "x-should-retry": "true", "retry-after": "21",
			},
			status: 429, typ: "rate_limit_error",
			msg: "This request would exceed the rate limit for your organization of 30000 tokens per min. Please try again later.",
		},
		{
			name: "Azure", dialect: sturdytest.Azure,
			first: headers{
				"x-ratelimit-limit-requests": "500", "x-ratelimit-remaining-requests": "499", "x-ratelimit-reset-requests": "1",
				"x-ratelimit-limit-tokens": "30000", "x-ratelimit-remaining-tokens": "29996", "x-ratelimit-reset-tokens": "1",
				"x-request-id": "req_1",
			},
			parsed: []sturdy.Bucket{
				perMinute("requests", "requests", 500, 499, time.Second, 0),
				perMinute("tokens", "tokens", 30000, 29996, time.Second, 0),
			},
			refusal: headers{"x-rate-limit-reset-tokens": "21", "x-request-id": "req_3", "retry-after": "21"},
			status:  429, code: "429",
			msg: "Requests to the ChatCompletions_Create Operation under Azure OpenAI API version 2024-10-21 have exceeded token rate limit of your current OpenAI S0 pricing tier. Please retry after 21 seconds.",
		},
		{
			name: "IETF", dialect: sturdytest.IETF,
			first: headers{
				"ratelimit-policy": `"requests-per-min";q=500;w=60, "tokens-per-min";q=30000;w=60;qu="tokens"`,
				"ratelimit":        `"requests-per-min";r=499;t=1, "tokens-per-min";r=29996;t=1`,
			},
			parsed: []sturdy.Bucket{
				perMinute("requests-per-min", "requests", 500, 499, time.Second, minute),
				perMinute("tokens-per-min", "tokens", 30000, 29996, time.Second, minute),
			},
			refusal: headers{
				"ratelimit-policy": `"requests-per-min";q=500;w=60, "tokens-per-min";q=30000;w=60;qu="tokens"`,
				"ratelimit":        `"requests-per-min";r=498;t=1, "tokens-per-min";r=9991;t=41`,
				"retry-after":      "21",
			},
			status: 429, msg: "Request cannot be satisfied as assigned quota has been exceeded",
		},
		{
			name: "GitHub", dialect: sturdytest.GitHub,
			first: headers{
				"x-ratelimit-limit": "500", "x-ratelimit-remaining": "499", "x-ratelimit-used": "1", "x-ratelimit-reset": "946684801",
				"x-ratelimit-resource": "core",
			},
			parsed: []sturdy.Bucket{perMinute("core", "requests", 500, 499, time.Second, 0)},
			refusal: headers{
				"x-ratelimit-limit": "500", "x-ratelimit-remaining": "498", "x-ratelimit-used": "2", "x-ratelimit-reset": "946684801",
				"x-ratelimit-resource": "core", "retry-after": "21",
			},
			status: 403, msg: "API rate limit exceeded.",
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &sturdytest.Server{
					Limits: []sturdytest.Limit{
						{Rate: 500, Per: minute},
						{Rate: 30000, Per: minute, Unit: sturdytest.Tokens},
						{Rate: 60000, Per: minute, Hidden: true},
						{Rate: 1, From: day},
					},
					Headers:    tc.dialect,
					RetryAfter: sturdytest.Seconds,
				}
				resp, _ := post(t, s, fourTokens)
				assert.Equal(t, tc.first, ofLimits(resp.Header))
				assert.Equal(t, tc.parsed, sturdy.ParseLimits(resp.Header, time.Now()))

				post(t, s, manyTokens)
				e := failure(t, s, manyTokens)
				assert.Equal(t, tc.refusal, ofLimits(e.header))
				assert.Equal(t, tc.status, e.StatusCode)
				assert.Equal(t, sturdy.ErrRateLimit, e.Class)
				assert.True(t, e.Retryable())
				assert.Equal(t, 21*time.Second, e.RetryAfter)
				assert.Equal(t, tc.code, e.Code)
				assert.Equal(t, tc.msg, e.Message)
				if tc.dialect != sturdytest.IETF { // its type is a URI
					assert.Equal(t, tc.typ, e.Type)
				}
			})
		})
	}
}

// A failed is an answer as sturdy judges it.
type failed struct {
	*sturdy.Error
	header http.Header
}

// failure sends a request that fails.
func failure(t *testing.T, rt http.RoundTripper, body string) failed {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, apiURL, strings.NewReader(body))
	require.NoError(t, err)
	resp, err := rt.RoundTrip(req)
	require.NoError(t, err)
	defer resp.Body.Close()
	var e *sturdy.Error
	require.ErrorAs(t, sturdy.Check(resp, nil), &e, resp.Status)
	return failed{e, resp.Header}
}

// What real refusals said of limit, use and request is what these say, and the
// wait in their text follows from it.
func TestRefusalsSayWhatRealOnesSaid(t *testing.T) {
	for _, tc := range []struct {
		limit           int
		per             time.Duration
		used, requested int
		want            string
	}{
		{200000, minute, 191584, 45490, "on tokens per min (TPM): Limit 200000, Used 191584, Requested 45490. Please try again in 11.122s."},
		{200000, minute, 158404, 48556, "on tokens per min (TPM): Limit 200000, Used 158404, Requested 48556. Please try again in 2.088s."},
		{10000, minute, 8554, 3082, "on tokens per min (TPM): Limit 10000, Used 8554, Requested 3082. Please try again in 9.816s."},
		{6000, minute, 5034, 1443, "on tokens per min (TPM): Limit 6000, Used 5034, Requested 1443. Please try again in 4.77s."},
		{30000, minute, 28039, 3906, "on tokens per min (TPM): Limit 30000, Used 28039, Requested 3906. Please try again in 3.89s."},
		{100000, day, 97050, 3619, "on tokens per day (TPD): Limit 100000, Used 97050, Requested 3619. Please try again in 9m38.016s."},
		{30000, minute, 0, 30001, "on tokens per min (TPM): Limit 30000, Requested 30001. The input or output tokens must be reduced in order to run successfully."},
		{30000, minute, 0, 36278, "on tokens per min (TPM): Limit 30000, Requested 36278. The input or output tokens must be reduced in order to run successfully."},
	} {
		synctest.Test(t, func(t *testing.T) {
			s := &sturdytest.Server{
				Limits:     []sturdytest.Limit{{Rate: float64(tc.limit), Per: tc.per, Unit: sturdytest.Tokens}},
				RetryAfter: sturdytest.Milliseconds,
			}
			if tc.used > 0 {
				resp, _ := post(t, s, tokens(tc.used))
				assert.Equal(t, 200, resp.StatusCode)
			}
			e := failure(t, s, tokens(tc.requested))
			assert.Contains(t, e.Message, tc.want)
			assert.Equal(t, "tokens", e.Type)
			assert.Equal(t, "rate_limit_exceeded", e.Code)
			if tooLarge := tc.requested > tc.limit; tooLarge {
				assert.Equal(t, sturdy.ErrRequestTooLarge, e.Class)
				assert.False(t, e.Retryable())
				assert.Empty(t, ofLimits(e.header), "waiting does not help")
			} else {
				assert.Equal(t, sturdy.ErrRateLimit, e.Class)
			}
		})
	}
}

// tokens returns a request that is charged n tokens: 1,000 and more.
func tokens(n int) string {
	for output := n; ; output-- {
		if body := fmt.Sprintf(`{"max_tokens":%d}`, output); output+(len(body)+3)/4 == n {
			return body
		}
	}
}

func TestRefusalsOfRequestsNameTheirLimit(t *testing.T) {
	for want, limit := range map[string]sturdytest.Limit{
		"requests per min (RPM): Limit 1, Used 1, Requested 1. Please try again in 1m0s.":      {Rate: 1, Per: minute},
		"requests per day (RPD): Limit 200, Used 200, Requested 1. Please try again in 7m12s.": {Rate: 200, Per: day},
		"requests per sec (RPS): Limit 3, Used 3, Requested 1. Please try again in 1s.":        {Rate: 3, Window: true},
		"requests per sec (RPS): Limit 1, Used 1, Requested 1. Please try again in 1ms.":       {Rate: 5000, Burst: 1},
		"requests per 10s: Limit 2, Used 2, Requested 1. Please try again in 5s.":              {Rate: 2, Per: 10 * time.Second},
	} {
		synctest.Test(t, func(t *testing.T) {
			s := &sturdytest.Server{Limits: []sturdytest.Limit{limit}}
			for range cmp.Or(limit.Burst, int(limit.Rate)) {
				post(t, s, "")
			}
			e := failure(t, s, "")
			assert.Contains(t, e.Message, want)
			assert.Equal(t, "requests", e.Type)
			assert.Equal(t, sturdy.ErrRateLimit, e.Class)
		})
	}
}

func TestWhatCanNeverPassIsNotAskedToWait(t *testing.T) {
	for _, dialect := range []sturdytest.Dialect{0, sturdytest.OpenAI, sturdytest.Anthropic, sturdytest.Azure, sturdytest.IETF, sturdytest.GitHub} {
		for _, form := range []sturdytest.RetryAfter{0, sturdytest.Seconds, sturdytest.Milliseconds, sturdytest.Date} {
			synctest.Test(t, func(t *testing.T) {
				s := &sturdytest.Server{
					Limits:     []sturdytest.Limit{{Rate: 10, Per: minute, Unit: sturdytest.Tokens}},
					Headers:    dialect,
					RetryAfter: form,
				}
				resp, body := post(t, s, manyTokens)
				assert.GreaterOrEqual(t, resp.StatusCode, 400)
				assert.Empty(t, resp.Header.Get("Retry-After"))
				assert.Empty(t, resp.Header.Get("retry-after-ms"))
				assert.Empty(t, resp.Header.Get("x-rate-limit-reset-tokens"))
				assert.NotContains(t, body, "retry after")
				assert.NotContains(t, body, "try again in")
				assert.NotEqual(t, "true", resp.Header.Get("x-should-retry"))
				time.Sleep(time.Hour)
				resp, _ = post(t, s, manyTokens)
				assert.GreaterOrEqual(t, resp.StatusCode, 400)
			})
		}
	}
}

func TestRetryAfterHasTheFormAskedFor(t *testing.T) {
	for _, tc := range []struct {
		form sturdytest.RetryAfter
		want headers
		wait time.Duration
	}{
		{0, headers{}, 0},
		{sturdytest.Seconds, headers{"retry-after": "2"}, 2 * time.Second},
		{sturdytest.Milliseconds, headers{"retry-after-ms": "1334", "retry-after": "2"}, 1334 * time.Millisecond},
		{sturdytest.Date, headers{"retry-after": "Sat, 01 Jan 2000 00:00:02 GMT"}, 2 * time.Second},
	} {
		synctest.Test(t, func(t *testing.T) {
			s := &sturdytest.Server{Limits: []sturdytest.Limit{{Rate: 0.75}}, RetryAfter: tc.form, Headers: sturdytest.IETF}
			s.Limits[0].Hidden = true // the headers say nothing else
			post(t, s, "")
			e := failure(t, s, "")
			assert.Equal(t, tc.want, ofLimits(e.header))
			assert.Equal(t, tc.wait, e.RetryAfter)
		})
	}
}

func TestHeadersLieByAFactor(t *testing.T) {
	for _, tc := range []struct {
		lie         float64
		limit, left string
	}{
		{0, "500", "499"},
		{2, "1000", "998"},
		{0.5, "250", "249"},
	} {
		synctest.Test(t, func(t *testing.T) {
			s := &sturdytest.Server{Limits: []sturdytest.Limit{{Rate: 500, Per: minute}}, Headers: sturdytest.OpenAI, Lie: tc.lie}
			resp, _ := post(t, s, "")
			assert.Equal(t, tc.limit, resp.Header.Get("x-ratelimit-limit-requests"))
			assert.Equal(t, tc.left, resp.Header.Get("x-ratelimit-remaining-requests"))
			assert.Equal(t, "120ms", resp.Header.Get("x-ratelimit-reset-requests"))
		})
	}
}

func TestHeadersOfAWindowTellItsEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &sturdytest.Server{Limits: []sturdytest.Limit{{Rate: 60, Per: time.Hour, Window: true}}, Headers: sturdytest.GitHub}
		post(t, s, "")
		time.Sleep(575 * time.Second) // GitHub's own example: 50m25s are left
		resp, _ := post(t, s, "")
		assert.Equal(t, []sturdy.Bucket{{
			Name: "core", Unit: "requests", Limit: 60, Remaining: 58, Reset: 50*time.Minute + 25*time.Second,
		}}, sturdy.ParseLimits(resp.Header, time.Now()))
	})
}

func TestOfTwoLimitsWithOneUnitHeadersTellTheFirst(t *testing.T) {
	limits := []sturdytest.Limit{{Rate: 14400, Per: day}, {Rate: 30, Per: minute}}
	for dialect, want := range map[sturdytest.Dialect]headers{
		sturdytest.OpenAI: {"x-ratelimit-limit-requests": "14400", "x-ratelimit-remaining-requests": "14399", "x-ratelimit-reset-requests": "6s", "x-request-id": "req_1"},
		sturdytest.IETF: {
			"ratelimit-policy": `"requests-per-day";q=14400;w=86400, "requests-per-min";q=30;w=60`,
			"ratelimit":        `"requests-per-day";r=14399;t=6, "requests-per-min";r=29;t=2`,
		},
	} {
		synctest.Test(t, func(t *testing.T) {
			resp, _ := post(t, &sturdytest.Server{Limits: limits, Headers: dialect}, "")
			assert.Equal(t, want, ofLimits(resp.Header))
		})
	}
}

func TestIETFPoliciesHaveWholeNumbers(t *testing.T) {
	for want, limit := range map[string]sturdytest.Limit{
		`"requests-per-sec";q=50;w=1`:  {Rate: 50, Burst: 5},
		`"requests-per-sec";q=1;w=2`:   {Rate: 0.5},
		`"requests-per-min";q=90;w=60`: {Rate: 90, Per: minute, Window: true},
		`"requests-per-10s";q=7;w=10`:  {Rate: 7, Per: 10 * time.Second},
	} {
		resp, _ := post(t, &sturdytest.Server{Limits: []sturdytest.Limit{limit}, Headers: sturdytest.IETF}, "")
		assert.Equal(t, want, resp.Header.Get("RateLimit-Policy"))
	}
}

func TestGitHubTellsOfNoTokens(t *testing.T) {
	s := &sturdytest.Server{Limits: []sturdytest.Limit{{Rate: 100, Unit: sturdytest.Tokens}}, Headers: sturdytest.GitHub}
	resp, _ := post(t, s, "")
	assert.Empty(t, ofLimits(resp.Header))
}

func TestAHiddenLimitOfGitHubIsItsSecondaryOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &sturdytest.Server{
			Limits:  []sturdytest.Limit{{Rate: 5000, Per: time.Hour, Window: true}, {Rate: 1, Hidden: true}},
			Headers: sturdytest.GitHub,
		}
		post(t, s, "")
		e := failure(t, s, "")
		assert.Equal(t, 403, e.StatusCode)
		assert.Equal(t, "4999", e.header.Get("x-ratelimit-remaining"))
		assert.Equal(t, "You have exceeded a secondary rate limit. Please wait a few minutes before you try again.", e.Message)
		assert.Equal(t, sturdy.ErrRateLimit, e.Class)
	})
}
