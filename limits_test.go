package sturdy

import (
	"fmt"
	"math"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// limitsNow is the Date of every response in these tests.
var limitsNow = time.Date(2025, 8, 21, 12, 41, 0, 0, time.UTC)

const day = 24 * time.Hour

// headerOf makes a header of names and values in turn.
func headerOf(pairs ...string) http.Header {
	h := http.Header{}
	for i := 0; i < len(pairs); i += 2 {
		h.Add(pairs[i], pairs[i+1])
	}
	return h
}

var openAIHeader = headerOf(
	"Content-Type", "application/json",
	"Openai-Processing-Ms", "257",
	"x-ratelimit-limit-requests", "500",
	"x-ratelimit-limit-tokens", "30000",
	"x-ratelimit-remaining-requests", "499",
	"x-ratelimit-remaining-tokens", "29996",
	"x-ratelimit-reset-requests", "120ms",
	"x-ratelimit-reset-tokens", "8ms",
	"x-request-id", "req_c8a9aa9843db449de0e4f3ada778f6ce",
)

func TestParseLimitsKnowsEveryDialect(t *testing.T) {
	for _, tt := range []struct {
		name   string
		header http.Header
		want   []Bucket
	}{
		{"OpenAI", openAIHeader, []Bucket{
			{"requests", "requests", 500, 499, 120 * time.Millisecond, 0},
			{"tokens", "tokens", 30000, 29996, 8 * time.Millisecond, 0},
		}},
		{"OpenAI, as its manual has it", headerOf(
			"x-ratelimit-limit-requests", "60",
			"x-ratelimit-limit-tokens", "150000",
			"x-ratelimit-remaining-requests", "59",
			"x-ratelimit-remaining-tokens", "149984",
			"x-ratelimit-reset-requests", "1s",
			"x-ratelimit-reset-tokens", "6m0s",
		), []Bucket{
			{"requests", "requests", 60, 59, time.Second, 0},
			{"tokens", "tokens", 150000, 149984, 6 * time.Minute, 0},
		}},
		{"OpenAI, with a project's tokens and those billed by use", headerOf(
			"x-ratelimit-limit-requests", "5000",
			"x-ratelimit-remaining-requests", "4999",
			"x-ratelimit-reset-requests", "12ms",
			"x-ratelimit-limit-tokens", "160000",
			"x-ratelimit-remaining-tokens", "159976",
			"x-ratelimit-reset-tokens", "9ms",
			"x-ratelimit-limit-tokens_usage_based", "160000",
			"x-ratelimit-remaining-tokens_usage_based", "159976",
			"x-ratelimit-reset-tokens_usage_based", "9ms",
			"x-ratelimit-limit-project-tokens", "1000000",
			"x-ratelimit-remaining-project-tokens", "990000",
			"x-ratelimit-reset-project-tokens", "600ms",
		), []Bucket{
			{"project-tokens", "tokens", 1000000, 990000, 600 * time.Millisecond, 0},
			{"requests", "requests", 5000, 4999, 12 * time.Millisecond, 0},
			{"tokens", "tokens", 160000, 159976, 9 * time.Millisecond, 0},
			{"tokens_usage_based", "tokens", 160000, 159976, 9 * time.Millisecond, 0},
		}},
		{"OpenAI, what is neither requests nor tokens has no unit", headerOf(
			"x-ratelimit-limit-images", "5",
			"x-ratelimit-remaining-images", "4",
		), []Bucket{
			{"images", "", 5, 4, -1, 0},
		}},
		{"Groq", headerOf(
			"retry-after", "2",
			"x-ratelimit-limit-requests", "14400",
			"x-ratelimit-limit-tokens", "18000",
			"x-ratelimit-remaining-requests", "14370",
			"x-ratelimit-remaining-tokens", "17997",
			"x-ratelimit-reset-requests", "2m59.56s",
			"x-ratelimit-reset-tokens", "7.66s",
		), []Bucket{
			{"requests", "requests", 14400, 14370, 2*time.Minute + 59560*time.Millisecond, 0},
			{"tokens", "tokens", 18000, 17997, 7660 * time.Millisecond, 0},
		}},
		{"Azure, resets are bare seconds", headerOf(
			"x-ratelimit-limit-requests", "10",
			"x-ratelimit-remaining-requests", "9",
			"x-ratelimit-reset-requests", "6",
			"x-ratelimit-remaining-tokens", "0",
			"x-ratelimit-reset-tokens", "55",
		), []Bucket{
			{"requests", "requests", 10, 9, 6 * time.Second, 0},
			{"tokens", "tokens", -1, 0, 55 * time.Second, 0},
		}},
		{"Azure, misspelled", headerOf(
			"x-rate-limit-reset-tokens", "55",
			"policy-id", "DeploymentRatelimit-Token",
			"x-ms-region", "West US",
		), []Bucket{
			{"tokens", "tokens", -1, -1, 55 * time.Second, 0},
		}},
		{"Azure, spelled in both ways", headerOf(
			"x-rate-limit-reset-tokens", "55",
			"x-ratelimit-remaining-tokens", "0",
			"x-ratelimit-reset-tokens", "12",
		), []Bucket{
			{"tokens", "tokens", -1, 0, 12 * time.Second, 0},
		}},
		{"what is not understood does not replace what is", headerOf(
			"x-rate-limit-limit", "10",
			"x-ratelimit-limit", "-1",
			"x-rate-limit-remaining", "3",
			"x-ratelimit-remaining", "few",
			"x-ratelimit-reset", "55",
			"x-ratelimit-reset-after", "soon",
		), []Bucket{
			{"", "requests", 10, 3, 55 * time.Second, 0},
		}},
		{"white space", headerOf(
			"x-ratelimit-limit", " 10 , 10;w=60\t",
			"x-ratelimit-remaining", " 3",
			"x-ratelimit-reset", "55\t",
		), []Bucket{
			{"", "requests", 10, 3, 55 * time.Second, time.Minute},
		}},
		{"Azure, -1 is unknown", headerOf(
			"x-ratelimit-limit-tokens", "-1",
			"x-ratelimit-remaining-tokens", "-1",
			"x-ratelimit-reset-tokens", "0",
		), []Bucket{
			{"tokens", "tokens", -1, -1, 0, 0},
		}},
		{"Anthropic, a reset in the past is over", headerOf(
			"anthropic-ratelimit-input-tokens-limit", "80000",
			"anthropic-ratelimit-input-tokens-remaining", "80000",
			"anthropic-ratelimit-input-tokens-reset", "2025-08-21T12:40:59Z",
			"anthropic-ratelimit-output-tokens-limit", "16000",
			"anthropic-ratelimit-output-tokens-remaining", "0",
			"anthropic-ratelimit-output-tokens-reset", "2025-08-21T12:41:07Z",
			"anthropic-ratelimit-requests-limit", "1000",
			"anthropic-ratelimit-requests-remaining", "999",
			"anthropic-ratelimit-requests-reset", "2025-08-21T12:41:00Z",
			"anthropic-ratelimit-tokens-limit", "96000",
			"anthropic-ratelimit-tokens-remaining", "80000",
			"anthropic-ratelimit-tokens-reset", "2025-08-21T14:42:00+02:00",
		), []Bucket{
			{"input-tokens", "input-tokens", 80000, 80000, 0, 0},
			{"output-tokens", "output-tokens", 16000, 0, 7 * time.Second, 0},
			{"requests", "requests", 1000, 999, 0, 0},
			{"tokens", "tokens", 96000, 80000, time.Minute, 0},
		}},
		{"Anthropic, subscription plans", headerOf(
			"anthropic-ratelimit-unified-status", "rejected",
			"anthropic-ratelimit-unified-reset", "1755780120",
			"anthropic-ratelimit-unified-5h-utilization", "0.42",
			"anthropic-ratelimit-unified-5h-reset", "1755780120",
			"anthropic-ratelimit-unified-7d-reset", "1755783660",
			"anthropic-ratelimit-unified-fallback-percentage", "0.5",
		), []Bucket{
			{"unified-5h", "", -1, -1, time.Minute, 5 * time.Hour},
			{"unified-7d", "", -1, -1, time.Hour, 7 * day},
			{"unified", "", -1, -1, time.Minute, 0},
		}},
		{"Mistral", headerOf(
			"x-ratelimit-limit-tokens-minute", "5000000",
			"x-ratelimit-remaining-tokens-minute", "4999948",
			"x-ratelimit-tokens-query-cost", "52",
			"x-ratelimit-limit-req-minute", "720",
			"x-ratelimit-remaining-req-minute", "717",
			"x-ratelimit-limit-tokens-month", "0",
		), []Bucket{
			{"req-minute", "requests", 720, 717, -1, time.Minute},
			{"tokens-minute", "tokens", 5000000, 4999948, -1, time.Minute},
			{"tokens-month", "tokens", 0, -1, -1, 30 * day},
		}},
		{"Cerebras", headerOf(
			"x-ratelimit-limit-requests-day", "14400",
			"x-ratelimit-remaining-requests-day", "14399",
			"x-ratelimit-reset-requests-day", "33011.382867",
			"x-ratelimit-limit-tokens-minute", "60000",
			"x-ratelimit-remaining-tokens-minute", "60000",
			"x-ratelimit-reset-tokens-minute", "11.382867",
			"x-ratelimit-limit-requests-hour", "900",
			"x-ratelimit-limit-requests-second", "5",
		), []Bucket{
			{"requests-day", "requests", 14400, 14399, 33011382867 * time.Microsecond, day},
			{"requests-hour", "requests", 900, -1, -1, time.Hour},
			{"requests-second", "requests", 5, -1, -1, time.Second},
			{"tokens-minute", "tokens", 60000, 60000, 11382867 * time.Microsecond, time.Minute},
		}},
		{"GitHub", headerOf(
			"x-ratelimit-limit", "5000",
			"x-ratelimit-remaining", "4987",
			"x-ratelimit-used", "13",
			"x-ratelimit-reset", "1755783660",
			"x-ratelimit-resource", "core",
		), []Bucket{
			{"core", "requests", 5000, 4987, time.Hour, 0},
		}},
		{"OpenRouter", headerOf(
			"X-RateLimit-Limit", "20",
			"X-RateLimit-Remaining", "0",
			"X-RateLimit-Reset", "1755780060500",
		), []Bucket{
			{"", "requests", 20, 0, 500 * time.Millisecond, 0},
		}},
		{"Discord, what needs no clock is the better one", headerOf(
			"X-RateLimit-Limit", "5",
			"X-RateLimit-Remaining", "0",
			"X-RateLimit-Reset", "1755780123.25",
			"X-RateLimit-Reset-After", "64.57",
			"X-RateLimit-Bucket", "abcd1234",
		), []Bucket{
			{"", "requests", 5, 0, 64570 * time.Millisecond, 0},
		}},
		{"seconds since 1970 with a fraction", headerOf("X-RateLimit-Reset", "1755780123.25"), []Bucket{
			{"", "requests", -1, -1, 63250 * time.Millisecond, 0},
		}},
		{"MailerLite, a date without a zone is not guessed at", headerOf(
			"X-RateLimit-Limit", "60",
			"X-RateLimit-Remaining", "0",
			"X-RateLimit-Reset", "2025-08-21 12:42:00",
		), []Bucket{
			{"", "requests", 60, 0, -1, 0},
		}},
		{"lemlist, nor is a JavaScript date", headerOf(
			"X-RateLimit-Limit", "20",
			"X-RateLimit-Remaining", "17",
			"X-RateLimit-Reset", "Thu Aug 21 2025 12:42:00 GMT+0000 (Coordinated Universal Time)",
		), []Bucket{
			{"", "requests", 20, 17, -1, 0},
		}},
		{"the window alone is not a name to tell the unit by", headerOf(
			"X-RateLimit-Limit-Minute", "5",
			"X-RateLimit-Remaining-Minute", "4",
		), []Bucket{
			{"minute", "requests", 5, 4, -1, time.Minute},
		}},
		{"another vendor's, the name before the word", headerOf(
			"x-ms-ratelimit-remaining-subscription-reads", "11999",
			"x-ratelimit-day-limit", "100",
			"x-ratelimit-day-remaining", "99",
		), []Bucket{
			{"subscription-reads", "", -1, 11999, -1, 0},
			{"day", "requests", 100, 99, -1, day},
		}},
		{"limits of a proxy and of the server behind it stay apart", headerOf(
			"x-ratelimit-limit-requests", "10",
			"x-ratelimit-remaining-requests", "9",
			"llm_provider-x-ratelimit-limit-requests", "500",
			"llm_provider-x-ratelimit-remaining-requests", "0",
		), []Bucket{
			{"requests", "requests", 500, 0, -1, 0},
			{"requests", "requests", 10, 9, -1, 0},
		}},
		{"a decimal count", headerOf("x-ratelimit-remaining", "594.9", "x-ratelimit-reset", "340"), []Bucket{
			{"", "requests", -1, 594, 340 * time.Second, 0},
		}},

		{"IETF, draft 10", headerOf(
			"RateLimit-Policy", `"burst";q=100;w=60,"daily";q=1000;w=86400`,
			"RateLimit", `"default";r=50;t=30`,
		), []Bucket{
			{"burst", "requests", 100, -1, -1, time.Minute},
			{"daily", "requests", 1000, -1, -1, day},
			{"default", "requests", -1, 50, 30 * time.Second, 0},
		}},
		{"IETF, draft 10, joined by name", headerOf(
			"RateLimit-Policy", `"permin"; q=50; w=60`,
			"RateLimit-Policy", `"perhr"; q=1000; w=3600; pk=:cHsdsRa894==:`,
			"RateLimit", `"perhr";r=0;t=1200;pk=:cHsdsRa894==:, "permin";r=49`,
		), []Bucket{
			{"permin", "requests", 50, 49, -1, time.Minute},
			{"perhr", "requests", 1000, 0, 20 * time.Minute, time.Hour},
		}},
		{"IETF, draft 10, other units", headerOf(
			"RateLimit-Policy", `"peruser";q=65535;qu="content-bytes";w=10, "slots";q=4;qu="concurrent-requests"`,
			"RateLimit", `"peruser";r=300;t=9`,
		), []Bucket{
			{"peruser", "content-bytes", 65535, 300, 9 * time.Second, 10 * time.Second},
			{"slots", "concurrent-requests", 4, -1, -1, 0},
		}},
		{"IETF, draft 10, parameters of the wrong kind are unknown", headerOf(
			"RateLimit-Policy", `"a";q=-1;w=60, "b";q=1.5, "c";q=7;w=0, "d";q=8;qu=tokens`,
			"RateLimit", `"c";r="5";t=-3, ("e" "f");r=1, "g";r=0, "h";r=-9;t=4`,
		), []Bucket{
			{"c", "requests", 7, -1, -1, 0},
			{"d", "", 8, -1, -1, 0},
			{"g", "requests", -1, 0, -1, 0},
			{"h", "requests", -1, -1, 4 * time.Second, 0},
		}},
		{"IETF, a malformed list is ignored whole", headerOf(
			"RateLimit-Policy", `"burst";q=100;w=60, "daily";q=`,
			"RateLimit", `"burst";r=0;t=30, `,
		), nil},
		{"IETF, draft 08, names without quotes", headerOf(
			"RateLimit-Policy", "quota;q=100;w=1",
			"RateLimit", "quota;t=1",
		), []Bucket{
			{"quota", "requests", 100, -1, time.Second, time.Second},
		}},
		{"IETF, draft 07", headerOf(
			"RateLimit", "limit=100, remaining=50, reset=30",
		), []Bucket{
			{"", "requests", 100, 50, 30 * time.Second, 0},
		}},
		{"IETF, draft 07, joined by limit", headerOf(
			"RateLimit-Policy", "1000;w=3600, 5000;w=86400",
			"RateLimit", "limit=5000, remaining=100, reset=36000",
		), []Bucket{
			{"", "requests", 1000, -1, -1, time.Hour},
			{"", "requests", 5000, 100, 10 * time.Hour, day},
		}},
		{"IETF, draft 07, without what it needs to be joined", headerOf(
			"RateLimit-Policy", "100;w=60",
			"RateLimit", "limit=10, reset=1",
		), []Bucket{
			{"", "requests", 100, -1, -1, time.Minute},
			{"", "requests", 10, -1, time.Second, 0},
		}},
		{"IETF, draft 06, without the limit that it could be joined by", headerOf(
			"RateLimit-Policy", "100;w=60",
			"RateLimit-Remaining", "5",
		), []Bucket{
			{"", "requests", 100, -1, -1, time.Minute},
			{"", "requests", -1, 5, -1, 0},
		}},
		{"IETF, draft 06", headerOf(
			"RateLimit-Limit", "10",
			"RateLimit-Policy", "10;w=1;burst=1000, 10;w=60",
			"RateLimit-Remaining", "1",
			"RateLimit-Reset", "50", // so it is not the limit of a second
		), []Bucket{
			{"", "requests", 10, -1, -1, time.Second},
			{"", "requests", 10, 1, 50 * time.Second, time.Minute},
		}},
		{"IETF, draft 03", headerOf(
			"RateLimit-Limit", "100, 100;w=60",
			"RateLimit-Remaining", "50",
			"RateLimit-Reset", "50",
		), []Bucket{
			{"", "requests", 100, 50, 50 * time.Second, time.Minute},
		}},
		{"IETF, draft 03, several policies, in APISIX's spelling", headerOf(
			"x-ratelimit-limit", "1000, 1000;w=1, 60000;w=60",
			"x-ratelimit-remaining", "1000",
			"x-ratelimit-reset", "1",
		), []Bucket{
			{"", "requests", 1000, 1000, time.Second, time.Second},
			{"", "requests", 60000, -1, -1, time.Minute},
		}},
		{"IETF, two drafts at once", headerOf(
			"RateLimit-Limit", "100",
			"RateLimit-Remaining", "99",
			"RateLimit-Reset", "60",
			"RateLimit-Policy", "100;w=60",
			"X-RateLimit-Limit", "100",
			"X-RateLimit-Remaining", "99",
			"X-RateLimit-Reset", "1755780120",
		), []Bucket{
			{"", "requests", 100, 99, time.Minute, time.Minute},
			{"", "requests", 100, 99, time.Minute, 0},
		}},
		{"IETF first, then the others by name", headerOf(
			"x-ratelimit-limit-tokens", "7",
			"anthropic-ratelimit-requests-limit", "8",
			"RateLimit-Policy", `"z";q=1, "a";q=2`,
		), []Bucket{
			{"z", "requests", 1, -1, -1, 0},
			{"a", "requests", 2, -1, -1, 0},
			{"requests", "requests", 8, -1, -1, 0},
			{"tokens", "tokens", 7, -1, -1, 0},
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for range 20 { // maps have many orders, results only one
				require.Equal(t, tt.want, ParseLimits(tt.header, limitsNow))
			}
		})
	}
}

func TestParseLimitsMakesUpNothing(t *testing.T) {
	for _, h := range []http.Header{
		nil,
		{},
		{"X-Ratelimit-Limit": nil},
		headerOf("Retry-After", "5", "Content-Type", "application/json"),
		headerOf("x-ratelimit-limit-requests", "", "x-ratelimit-remaining-requests", " "),
		headerOf("x-ratelimit-limit", "30,000"),
		headerOf("x-ratelimit-limit", "unlimited", "x-ratelimit-remaining", "+5"),
		headerOf("x-ratelimit-limit", "1e3", "x-ratelimit-remaining", "0x10"),
		headerOf("x-ratelimit-limit", "1_000", "x-ratelimit-remaining", "NaN"),
		headerOf("x-ratelimit-remaining", "-0", "x-ratelimit-reset", "-1s"),
		headerOf("x-ratelimit-reset", "Inf", "x-ratelimit-reset-tokens", "1.5.5"),
		headerOf("x-ratelimit-resource", "core", "x-ratelimit-bucket", "0"),
		headerOf("x-rate-limited-reset", "5", "x-ratelimited", "5", "x-ratelimit", "5"),
		headerOf("RateLimit", "100", "RateLimit-Policy", "100"),
		headerOf("RateLimit", "limit, remaining=-1, reset=soon", "RateLimit-Policy", "?1;q"),
	} {
		assert.Nil(t, ParseLimits(h, limitsNow), "%v", h)
	}
}

func TestParseLimitsSaturates(t *testing.T) {
	huge := "99999999999999999999999999"
	assert.Equal(t, []Bucket{{"", "requests", math.MaxInt64, math.MaxInt64, math.MaxInt64, 0}},
		ParseLimits(headerOf("x-ratelimit-limit", huge, "x-ratelimit-remaining", huge, "x-ratelimit-reset", huge), limitsNow))
	assert.Equal(t, []Bucket{{"", "requests", -1, -1, math.MaxInt64, 0}},
		ParseLimits(headerOf("x-ratelimit-reset", "9999999999h"), limitsNow))
	assert.Equal(t, []Bucket{{"", "requests", -1, -1, math.MaxInt64, 0}},
		ParseLimits(headerOf("x-ratelimit-reset", "9999-01-01T00:00:00Z"), limitsNow))
	assert.Equal(t, []Bucket{{"a", "requests", 1, 0, math.MaxInt64, math.MaxInt64}},
		ParseLimits(headerOf("RateLimit-Policy", `"a";q=1;w=999999999999999`, "RateLimit", `"a";r=0;t=999999999999999`), limitsNow))
}

func TestParseLimitsIsBounded(t *testing.T) {
	h := http.Header{}
	for i := range 200 {
		h.Set(fmt.Sprintf("x-ratelimit-limit-h%d", i), "1")
		h.Add("RateLimit-Policy", fmt.Sprintf(`"%d";q=1`, i))
		h.Add("RateLimit", fmt.Sprintf(`"other%d";r=1`, i))
	}
	assert.Len(t, ParseLimits(h, limitsNow), 3*maxLimits)
}

func TestParseLimitsCostsNothingWithoutLimits(t *testing.T) {
	h := headerOf("Content-Type", "application/json", "Date", "Thu, 21 Aug 2025 12:41:00 GMT")
	assert.Zero(t, testing.AllocsPerRun(100, func() { ParseLimits(h, limitsNow) }))
}

func TestExhaustedResetIsTheLongestOfEmptyBuckets(t *testing.T) {
	for _, tt := range []struct {
		name    string
		buckets []Bucket
		want    time.Duration
	}{
		{"none", nil, 0},
		{"none empty", []Bucket{{Remaining: 1, Reset: time.Minute}, {Remaining: -1, Reset: time.Minute}}, 0},
		{"reset unknown", []Bucket{{Remaining: 0, Reset: -1}}, 0},
		{"reset over", []Bucket{{Remaining: 0, Reset: 0}}, 0},
		{"several", []Bucket{
			{Remaining: 0, Reset: time.Second},
			{Remaining: 0, Reset: 3 * time.Second},
			{Remaining: 0, Reset: -1},
			{Remaining: 5, Reset: time.Minute},
		}, 3 * time.Second},
	} {
		d, ok := exhaustedReset(tt.buckets)
		assert.Equal(t, tt.want, d, tt.name)
		assert.Equal(t, tt.want > 0, ok, tt.name)
	}
}

func TestRetryAfter(t *testing.T) {
	const date = "Thu, 21 Aug 2025 12:41:00 GMT"
	for _, tt := range []struct {
		name   string
		header http.Header
		want   time.Duration // 0 if there is no hint
	}{
		{"seconds", headerOf("Retry-After", "3"), 3 * time.Second},
		{"fraction", headerOf("Retry-After", "1.5"), 1500 * time.Millisecond},
		{"a minute and more", headerOf("Retry-After", "61"), 61 * time.Second},
		{"a day", headerOf("Retry-After", "86400"), day},
		{"white space", headerOf("Retry-After", " \t3 "), 3 * time.Second},
		{"two values", headerOf("Retry-After", "3", "Retry-After", "7"), 3 * time.Second},
		{"longest Duration in seconds", headerOf("Retry-After", "9223372036"), 9223372036 * time.Second},
		{"too long for a Duration", headerOf("Retry-After", "9223372037"), math.MaxInt64},
		{"too long, and short if it wraps", headerOf("Retry-After", "18446744074"), math.MaxInt64},
		{"too long for an int64", headerOf("Retry-After", "99999999999999999999"), math.MaxInt64},

		{"none", headerOf(), 0},
		{"empty", headerOf("Retry-After", ""), 0},
		{"zero", headerOf("Retry-After", "0"), 0},
		{"zero for a Duration", headerOf("Retry-After", "0.0000000001"), 0},
		{"negative", headerOf("Retry-After", "-1"), 0},
		{"plus", headerOf("Retry-After", "+5"), 0},
		{"exponent", headerOf("Retry-After", "1e3"), 0},
		{"exponent out of range", headerOf("Retry-After", "1e400"), 0},
		{"NaN", headerOf("Retry-After", "NaN"), 0},
		{"Inf", headerOf("Retry-After", "Inf"), 0},
		{"hexadecimal", headerOf("Retry-After", "0x10"), 0},
		{"underscore", headerOf("Retry-After", "1_0"), 0},
		{"two points", headerOf("Retry-After", "1.5.5"), 0},
		{"no digit before the point", headerOf("Retry-After", ".5"), 0},
		{"no digit after the point", headerOf("Retry-After", "5."), 0},
		{"list", headerOf("Retry-After", "3, 7"), 0},
		{"duration", headerOf("Retry-After", "3s"), 0},
		{"text", headerOf("Retry-After", "soon"), 0},
		{"digits that are not ASCII", headerOf("Retry-After", "٣"), 0},

		{"HTTP date", headerOf("Retry-After", "Thu, 21 Aug 2025 12:41:10 GMT"), 10 * time.Second},
		{"RFC 850 date", headerOf("Retry-After", "Thursday, 21-Aug-25 12:41:10 GMT"), 10 * time.Second},
		{"asctime date", headerOf("Retry-After", "Thu Aug 21 12:41:10 2025"), 10 * time.Second},
		{"UTC for GMT", headerOf("Retry-After", "Thu, 21 Aug 2025 12:41:10 UTC"), 10 * time.Second},
		{"another zone", headerOf("Retry-After", "Thursday, 21-Aug-25 12:41:10 PST"), 0},
		{"now", headerOf("Retry-After", date), 0},
		{"past date", headerOf("Retry-After", "Thu, 21 Aug 2025 12:40:59 GMT"), 0},
		{"date far away", headerOf("Retry-After", "Fri, 31 Dec 9999 23:59:59 GMT"), math.MaxInt64},
		{"date by the server's clock, which is an hour slow", headerOf(
			"Retry-After", "Thu, 21 Aug 2025 11:41:10 GMT",
			"Date", "Thu, 21 Aug 2025 11:41:00 GMT",
		), 10 * time.Second},
		{"date by the server's clock, which is an hour fast", headerOf(
			"Retry-After", "Thu, 21 Aug 2025 13:41:00 GMT",
			"Date", "Thu, 21 Aug 2025 13:41:00 GMT",
		), 0},
		{"date beside an unreadable one", headerOf(
			"Retry-After", "Thu, 21 Aug 2025 12:41:10 GMT",
			"Date", "yesterday",
		), 10 * time.Second},

		{"milliseconds", headerOf("Retry-After-Ms", "250"), 250 * time.Millisecond},
		{"milliseconds of Azure's other header", headerOf("X-Ms-Retry-After-Ms", "1500"), 1500 * time.Millisecond},
		{"a fraction of a millisecond", headerOf("Retry-After-Ms", "0.5"), 500 * time.Microsecond},
		{"milliseconds first", headerOf(
			"Retry-After", "3", "X-Ms-Retry-After-Ms", "2000", "Retry-After-Ms", "1000",
		), time.Second},
		{"what is no hint is passed over", headerOf(
			"Retry-After-Ms", "NaN", "X-Ms-Retry-After-Ms", "0", "Retry-After", "3",
		), 3 * time.Second},
		{"a date is no number of milliseconds", headerOf("Retry-After-Ms", "Thu, 21 Aug 2025 12:41:10 GMT"), 0},
		{"too many milliseconds", headerOf("Retry-After-Ms", "99999999999999999999"), math.MaxInt64},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d, ok := retryAfter(tt.header, limitsNow)
			assert.Equal(t, tt.want, d)
			assert.Equal(t, tt.want > 0, ok)
		})
	}
}

func TestRetryAfterText(t *testing.T) {
	for message, want := range map[string]time.Duration{
		"Rate limit reached for gpt-4.1. Limit 200000, Used 191584. Please try again in 11.122s. Visit https://x": 11122 * time.Millisecond,
		"Please try again in 1m0.363142857s. Need more tokens?":                                                   60363142857,
		"Please try again in 9m38.016s.":                                                                          9*time.Minute + 38016*time.Millisecond,
		"Please try again in 20ms.":                                                                               20 * time.Millisecond,
		"Please try again in 6m0s":                                                                                6 * time.Minute,
		"try again in 1h2m3s":                                                                                     time.Hour + 2*time.Minute + 3*time.Second,
		"try again in 300µs":                                                                                      300 * time.Microsecond,
		"Please retry after 33 seconds.":                                                                          33 * time.Second,
		"Please retry after 86400 seconds. Please contact Azure support service":                                  day,
		"Rate limit is exceeded. Try again in 11 seconds.":                                                        11 * time.Second,
		"RATE LIMIT IS EXCEEDED. TRY AGAIN IN 11 SECONDS.":                                                        11 * time.Second,
		"* Quota exceeded for metric, limit: 4000000\nPlease retry in 47.434392449s.":                             47434392449,
		"retry after 1 minute":                                                                                    time.Minute,
		"retry in 2 hours":                                                                                        2 * time.Hour,
		"Please try again in 1 second":                                                                            time.Second,
		"Please wait 20 seconds, then go on":                                                                      20 * time.Second,
		"(please wait 5s)":                                                                                        5 * time.Second,
		"Try again in 1 hour 5 minutes":                                                                           65 * time.Minute,
		"max RPM: 3, please try again after 1 seconds":                                                            time.Second,
		"do not wait for it; retry after 3 days":                                                                  3 * day,
		"please wait a moment, please wait a while, please wait 7s":                                               7 * time.Second,
		"try again in 99999999999999999999 hours":                                                                 math.MaxInt64,

		"":                        0,
		"Please try again later.": 0,
		"Too many tokens, please wait before trying again.":                     0,
		"created within the last 5 minutes, please wait a moment and try again": 0,
		"Back off for at least 120 seconds":                                     0,
		"context deadline exceeded while awaiting headers":                      0,
		"max wait 30s exceeded":                                                 0,
		"await 5s":                                                              0,
		"wait5s":                                                                0,
		"try again in a few minutes":                                            0,
		"try again in 5":                                                        0,
		"try again in 5 parsecs":                                                0,
		"try again in 5 monthlings":                                             0,
		"try again in -5s":                                                      0,
		"try again in 0s":                                                       0,
		"try again in 1e3s":                                                     0,
		"try again in 1_000s":                                                   0,
		"try again in 1,000 seconds":                                            0,
		"try again in 1.2.3s":                                                   0,
		"try again in .5s":                                                      0,
		"try again in 5s6":                                                      0,
		"try again in 5s_6":                                                     0,
		"try again in NaNs":                                                     0,
		"try again in 5-10 seconds":                                             0,
		"Timeout after 30 seconds. You can retry your request within 10 minutes":   0,
		"Your limit of 3 requests in 20 seconds was reached, try again in a while": 0,
	} {
		d, ok := retryAfterText(message)
		assert.Equal(t, want, d, "%q", message)
		assert.Equal(t, want > 0, ok, "%q", message)
	}
}

func TestProtobufDuration(t *testing.T) {
	for s, want := range map[string]time.Duration{
		"47s":            47 * time.Second,
		"47.434392449s":  47434392449,
		"0.5s":           500 * time.Millisecond,
		"315576000000s":  math.MaxInt64,
		"0.000000001s":   1,
		"0s":             0,
		"-1s":            0,
		"+1s":            0,
		"47":             0,
		"47ms":           0,
		"1m":             0,
		"1m47s":          0,
		"s":              0,
		"":               0,
		" 47s":           0,
		"47 s":           0,
		"47s ":           0,
		"47.s":           0,
		"1e3s":           0,
		"NaNs":           0,
		"47 seconds":     0,
		"\x00":           0,
		"47S":            0,
		"0.0000000001s":  0,
		"1.000.000s":     0,
		"47.434392449ss": 0,
	} {
		d, ok := protobufDuration(s)
		assert.Equal(t, want, d, "%q", s)
		assert.Equal(t, want > 0, ok, "%q", s)
	}
}

func FuzzParseLimits(f *testing.F) {
	for _, s := range []string{
		"", "0", "-1", "500", "30,000", "1755780060500", "1755780123.25", "6m0s", "2m59.56s", "7 days",
		"2025-08-21T12:41:07Z", "2025-08-21 12:42:00", "100, 100;w=60, 1000;w=3600",
		`"burst";q=100;w=60,"daily";q=1000;w=86400;qu="tokens";pk=:YQ==:`, `"burst";r=50;t=30`,
		"limit=100, remaining=50, reset=30", "1e400", "99999999999999999999",
	} {
		f.Add("X-Ratelimit-Limit-Requests-Day", s, s, s)
		f.Add("Anthropic-Ratelimit-Tokens-Reset", "1", s, `"burst"`)
	}
	for _, page := range pages() {
		f.Add("X-Ratelimit-Remaining-"+page, page, page, page)
	}
	f.Fuzz(func(t *testing.T, name, value, ietf, policy string) {
		h := http.Header{}
		h.Set(name, value)
		h.Set("X-Ratelimit-Limit", value)
		h.Set("X-Ratelimit-Remaining", value)
		h.Set("X-Rate-Limit-Reset", value)
		h.Set("X-Ratelimit-Reset-After", ietf)
		h.Set("RateLimit", ietf)
		h.Set("RateLimit-Policy", policy)
		buckets := ParseLimits(h, limitsNow)
		for _, b := range buckets {
			assert.GreaterOrEqual(t, b.Limit, int64(-1))
			assert.GreaterOrEqual(t, b.Remaining, int64(-1))
			assert.GreaterOrEqual(t, b.Reset, time.Duration(-1))
			assert.GreaterOrEqual(t, b.Window, time.Duration(0))
			assert.True(t, b.Limit >= 0 || b.Remaining >= 0 || b.Reset >= 0, "nothing is known of %v", b)
		}
		assert.Equal(t, buckets, ParseLimits(h, limitsNow), "not the same twice")
		d, ok := exhaustedReset(buckets)
		assert.Equal(t, ok, d > 0)
	})
}

func FuzzRetryAfter(f *testing.F) {
	for _, s := range []string{
		"", "3", "1.5", "-1", "9223372037", "18446744074", "1e3", "NaN", "0x10", "1_0", " 7\t", "0.0000000001",
		"Thu, 21 Aug 2025 12:41:10 GMT", "Thursday, 21-Aug-25 12:41:10 UTC", "Thu Aug 21 12:41:10 2025",
		"Please try again in 1m0.363142857s.", "please wait 5 minutes 3 s", "retry after 1 second", "47.434392449s",
	} {
		f.Add(s, s, s)
		f.Add("", s, "Thu, 21 Aug 2025 11:41:00 GMT")
	}
	for _, page := range pages() {
		f.Add(page, page, page)
	}
	f.Fuzz(func(t *testing.T, ms, seconds, date string) {
		check := func(d time.Duration, ok bool) {
			assert.Equal(t, ok, d > 0, "%v, %v", d, ok)
			assert.GreaterOrEqual(t, d, time.Duration(0))
		}
		h := http.Header{}
		h.Set("Retry-After-Ms", ms)
		h.Set("Retry-After", seconds)
		h.Set("Date", date)
		check(retryAfter(h, limitsNow))
		check(retryAfterText(ms))
		check(retryAfterText("please wait " + seconds))
		check(protobufDuration(seconds))
	})
}

func BenchmarkParseLimits(b *testing.B) {
	without := http.Header{}
	for _, key := range []string{
		"Alt-Svc", "Cf-Cache-Status", "Cf-Ray", "Content-Length", "Content-Type", "Date", "Openai-Organization",
		"Openai-Processing-Ms", "Openai-Version", "Server", "Set-Cookie", "Strict-Transport-Security", "Vary",
		"X-Content-Type-Options", "X-Request-Id",
	} {
		without.Set(key, "value")
	}
	for _, bb := range []struct {
		name   string
		header http.Header
	}{
		{"OpenAI", openAIHeader},
		{"IETF", headerOf("RateLimit-Policy", `"burst";q=100;w=60,"daily";q=1000;w=86400`, "RateLimit", `"burst";r=50;t=30`)},
		{"none", without},
	} {
		b.Run(bb.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				ParseLimits(bb.header, limitsNow)
			}
		})
	}
}
