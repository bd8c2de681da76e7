package sturdy

import (
	"context"
	"fmt"
	"net/http"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/sturdyhttp/sturdy/internal/pace"
)

// codeOf is the status of the nth answer: the first refuses, which proves its headers.
func codeOf(n int64) int {
	if n == 1 {
		return 429
	}
	return 200
}

func TestHeadersThatStopAreForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var n atomic.Int64
		l := &RateLimit{Base: rtFunc(func(req *http.Request) (*http.Response, error) {
			if n := n.Add(1); n <= 100 {
				return status(codeOf(n), "X-Ratelimit-Limit", "10", "X-Ratelimit-Remaining", "0", "X-Ratelimit-Reset", "10")(req)
			}
			return status(200)(req)
		})}
		began := time.Now()
		sendAll(t, l, 1)
		sendAll(t, l, 99)
		assert.InDelta(t, 120, time.Since(began).Seconds(), 30)
		assert.Equal(t, "headers", l.Limits()[0].Source)
		began = time.Now()
		sendAll(t, l, 1000)
		assert.Less(t, time.Since(began), 2*time.Minute)
		assert.Empty(t, l.Limits()[0].Source)
	})
}

func TestHeadersOfSomeAnswersCount(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var n atomic.Int64
		l := &RateLimit{Base: rtFunc(func(req *http.Request) (*http.Response, error) {
			if n := n.Add(1); n%10 == 1 {
				return status(codeOf(n), "X-Ratelimit-Limit", "10", "X-Ratelimit-Remaining", "0", "X-Ratelimit-Reset", "10")(req)
			}
			return status(200)(req)
		})}
		began := time.Now()
		sendAll(t, l, 1)
		sendAll(t, l, 299)
		assert.InDelta(t, 300, time.Since(began).Seconds(), 30)
	})
}

func TestHeadersThatTheAnswersDoNotBearOutHoldNobody(t *testing.T) {
	for name, header := range map[string][]string{
		"a bucket that is empty for an hour": {"X-Ratelimit-Limit", "10", "X-Ratelimit-Remaining", "0", "X-Ratelimit-Reset", "3600"},
		"a window without a limit":           {"X-Ratelimit-Remaining", "0", "X-Ratelimit-Reset", "100"},
		"a policy of a day":                  {"Ratelimit-Policy", `"p";q=10;w=86400`, "Ratelimit", `"p";r=0;t=86400`},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				base := script(status(200, header...))
				client := &Transport{Base: base}
				for range 100 {
					resp, err := client.RoundTrip(get(t).WithContext(deadlineIn(t, 5*time.Second)))
					require.NoError(t, err)
					require.NoError(t, resp.Body.Close())
				}
				assert.LessOrEqual(t, time.Since(base.began), 2*time.Second, "one looks, and then they are not believed")
			})
		})
	}
}

func TestHeadersThatProveTrueRefuseWhoCannotWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := 0
		base := script(func(req *http.Request) (*http.Response, error) {
			n++
			code := 200
			if n > 10 {
				code = 429
			}
			return status(code, "X-Ratelimit-Limit", "10", "X-Ratelimit-Remaining", fmt.Sprint(max(10-n, 0)), "X-Ratelimit-Reset", "3600")(req)
		})
		l := &RateLimit{Base: base}
		for range 10 {
			require.NoError(t, sendAll(t, l, 1)[0])
		}
		require.ErrorIs(t, sendAll(t, l, 1)[0], ErrRateLimit, "one looks whether it is true")
		assert.LessOrEqual(t, time.Since(base.began), 2*time.Second)
		require.ErrorIs(t, sendAll(t, l, 1)[0], ErrWaitTooLong, "it is, and nobody waits for an hour")
		assert.Len(t, base.times(), 11)
	})
}

func TestNoHeaderHoldsAnybodyForLongerThanAnHour(t *testing.T) {
	for name, header := range map[string][]string{
		"a bucket of a year": {"X-Ratelimit-Limit", "10", "X-Ratelimit-Remaining", "0", "X-Ratelimit-Reset", "31536000"},
		"a policy of a year": {"Ratelimit-Policy", `"p";q=10;w=31536000`, "Ratelimit", `"p";r=0`},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				base := script(status(200, header...), status(429, header...))
				l := &RateLimit{Base: base, Observe: func(context.Context, Event) {}}
				for range 10 {
					_, err := l.RoundTrip(get(t).WithContext(deadlineIn(t, 1000*time.Hour)))
					require.NoError(t, err)
				}
				assert.Greater(t, time.Since(base.began), 7*pace.MaxPause)
				assert.Less(t, time.Since(base.began), 11*pace.MaxPause)
			})
		})
	}
}

func TestNewNamesOfLimitsAreHeard(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var n atomic.Int64
		l := &RateLimit{Base: rtFunc(func(req *http.Request) (*http.Response, error) {
			name := fmt.Sprint("r", min(n.Add(1), 70))
			return status(200, "X-Ratelimit-Limit", "10", "X-Ratelimit-Remaining", "0", "X-Ratelimit-Reset", "10", "X-Ratelimit-Resource", name)(req)
		})}
		began := time.Now()
		sendAll(t, l, 100)
		assert.InDelta(t, 100, time.Since(began).Seconds(), 30)
		assert.InDelta(t, 0, l.Limits()[0].Remaining, 1.5, "though there have been more than are followed")
	})
}

func TestA503WithNothingLeftTeachesLikeA429(t *testing.T) {
	for _, code := range []int{429, 503} {
		t.Run(fmt.Sprint(code), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				says := func(code, left int) func(*http.Request) (*http.Response, error) {
					return status(code, "X-Ratelimit-Limit", "2", "X-Ratelimit-Remaining", fmt.Sprint(left), "X-Ratelimit-Reset", "30")
				}
				l := &RateLimit{Base: script(says(200, 1), says(200, 0), says(code, 0))}
				for range 3 {
					sendAll(t, l, 1)
				}
				_, err := l.RoundTrip(get(t).WithContext(deadlineIn(t, 5*time.Second)))
				require.ErrorIs(t, err, ErrWaitTooLong, "it is proved")
			})
		})
	}
}
