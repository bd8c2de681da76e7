package sturdy

import (
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

type reply = func(*http.Request) (*http.Response, error)

func repeat(n int, all ...reply) (steps []reply) {
	for range n {
		steps = append(steps, all...)
	}
	return steps
}

// One answer that the server is overloaded may be about its request, and some that
// come by chance say nothing of the others.
func TestHowManyOverloadedAnswersHoldEverybody(t *testing.T) {
	busy, ok := status(503, "Retry-After", "10"), status(200)
	for name, row := range map[string]struct {
		before []reply
		held   bool
	}{
		"one":                           {repeat(1, busy), false},
		"two":                           {repeat(2, busy), false},
		"three":                         {repeat(3, busy), true},
		"two, a success, one":           {append(repeat(2, busy), ok, busy), false},
		"two, a success, two":           {append(repeat(2, busy), ok, busy, busy), false},
		"two, a success, many":          {append(append(repeat(2, busy), ok), repeat(30, busy)...), true},
		"two, another's fault, one":     {append(repeat(2, busy), status(404), busy), true},
		"three, where half are":         {append(repeat(50, busy, ok), repeat(3, busy)...), false},
		"many, where half are":          {append(repeat(50, busy, ok), repeat(30, busy)...), true},
		"three, where some were before": {append(append(repeat(10, busy, ok), repeat(1000, ok)...), repeat(3, busy)...), true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				base := script(append(row.before, ok)...)
				l := &RateLimit{Base: base}
				for range row.before {
					sendAll(t, l, 1)
				}
				began := time.Now()
				require.NoError(t, sendAll(t, l, 1)[0])
				assert.Equal(t, row.held, time.Since(began) > time.Second)
			})
		})
	}
}

func TestHeadersThatHaveFallenSilentAreForgotten(t *testing.T) {
	told := status(200, "RateLimit-Policy", `"d";q=1000;w=1000`, "RateLimit", `"d";r=999;t=1`)
	for name, row := range map[string]struct {
		silent int           // answers without headers
		code   int           // of these
		later  time.Duration // than the headers, the last of these
		known  bool
	}{
		"in one answer":                 {1, 200, time.Hour, true},
		"in 19":                         {19, 200, time.Hour, true},
		"in 20":                         {20, 200, time.Hour, false},
		"in 20, in just a minute":       {20, 200, time.Minute, false},
		"in 20, in less than a minute":  {20, 200, time.Minute - 1, true},
		"in 100, in less than a minute": {100, 200, time.Minute - 1, true},
		"in failures":                   {100, 404, time.Hour, true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := &RateLimit{Base: script(told, status(row.code))}
				sendAll(t, l, 1)
				time.Sleep(row.later)
				for range row.silent {
					sendAll(t, l, 1)
				}
				assert.Equal(t, row.known, l.Limits()[0].Source == "headers")
			})
		})
	}
}

func TestWithFixedRetryWaitsItself(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base := script(status(429), status(200))
		tr := &Transport{Base: base, RateLimit: RateLimit{Fixed: true}}
		require.NoError(t, sendAll(t, tr, 1)[0])
		assert.GreaterOrEqual(t, base.times()[1], time.Second)
	})
}

func TestOfSeveralLimitsTheTightestIsShown(t *testing.T) {
	for _, row := range []struct {
		requests, tokens string
		remaining        float64
	}{{"5", "3", 3}, {"3", "5", 3}, {"0", "5", 0}, {"5", "0", 0}, {"4", "4", 4}} {
		synctest.Test(t, func(t *testing.T) {
			l := &RateLimit{Base: script(status(200,
				"X-RateLimit-Limit-Requests", "100", "X-RateLimit-Remaining-Requests", row.requests, "X-RateLimit-Reset-Requests", "60s",
				"X-RateLimit-Limit-Tokens", "100", "X-RateLimit-Remaining-Tokens", row.tokens, "X-RateLimit-Reset-Tokens", "60s"))}
			assert.EqualValues(t, -1, func() float64 { g := l.newGate(); return g.state(time.Now()).Remaining }())
			sendAll(t, l, 1)
			assert.Equal(t, row.remaining, l.Limits()[0].Remaining, row)
		})
	}
}

func TestTheRateThatIsReportedIsTheTightestOne(t *testing.T) {
	for _, policy := range []string{`"a";q=1000;w=1000, "b";q=500;w=1000`, `"b";q=500;w=1000, "a";q=1000;w=1000`} {
		synctest.Test(t, func(t *testing.T) {
			var seen observed
			l := &RateLimit{Observe: seen.see, Base: script(status(200, "RateLimit-Policy", policy, "RateLimit", `"a";r=999;t=1, "b";r=499;t=2`))}
			sendAll(t, l, 1)
			require.Len(t, seen.events, 1)
			assert.InEpsilon(t, 0.5, float64(seen.events[0].Rate), 0.01)
		})
	}
}

func TestResetForgetsHeadersAndRefusalsAndBusyAnswers(t *testing.T) {
	for name, row := range map[string][]reply{
		"headers": {status(429, "X-RateLimit-Limit-Requests", "10", "X-RateLimit-Remaining-Requests", "0", "X-RateLimit-Reset-Requests", "60s")},
		"refusal": {status(429)},
		"pause":   {status(429, "Retry-After", "60")},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				base := script(append(row, status(200))...)
				l := &RateLimit{Base: base}
				sendAll(t, l, 1)
				l.Reset(l.Limits()[0].Key)
				s := l.Limits()[0]
				assert.Empty(t, s.Source)
				assert.Zero(t, s.Paused)
				assert.EqualValues(t, -1, s.Remaining)
				sendAll(t, l, 1)
				assert.Equal(t, make([]time.Duration, 2), base.times())
			})
		})
	}
	synctest.Test(t, func(t *testing.T) {
		base := script(append(repeat(4, status(503, "Retry-After", "10")), status(200))...)
		l := &RateLimit{Base: base}
		for range 2 {
			sendAll(t, l, 1)
		}
		l.Reset(l.Limits()[0].Key)
		for range 3 { // not the third and fourth in a row, but the first two
			sendAll(t, l, 1)
		}
		assert.Equal(t, make([]time.Duration, 5), base.times())
	})
}
