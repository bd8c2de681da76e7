package sturdy

import (
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestWhoBacksOffAloneKeepsToTheCallersLimitToo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base := script(status(429, "Retry-After", "1"), status(200))
		tr := &Transport{Base: base, RateLimit: RateLimit{Limit: 0.1}}
		require.NoError(t, sendAll(t, tr, 1)[0])
		assert.Equal(t, []time.Duration{0, 10 * time.Second}, base.times())
	})
}

func TestEachOfSeveralLimitsHolds(t *testing.T) {
	const full, empty = "100", "0"
	told := func(requests, tokens string) func(*http.Request) (*http.Response, error) {
		return status(429,
			"X-RateLimit-Limit-Requests", "100", "X-RateLimit-Remaining-Requests", requests, "X-RateLimit-Reset-Requests", "60s",
			"X-RateLimit-Limit-Tokens", "100", "X-RateLimit-Remaining-Tokens", tokens, "X-RateLimit-Reset-Tokens", "60s")
	}
	for name, row := range map[string]struct {
		told   func(*http.Request) (*http.Response, error)
		tokens bool // the caller limits tokens, too
	}{
		"the first":                            {told(empty, full), false},
		"the second":                           {told(full, empty), false},
		"the first, below the caller's limit":  {told(empty, full), true},
		"the second, below the caller's limit": {told(full, empty), true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				base := script(row.told, status(200))
				l := &RateLimit{Base: base}
				if row.tokens {
					l.Tokens, l.Cost = 1000, func(*http.Request) int { return 1 }
				}
				_, err := l.RoundTrip(get(t))
				require.NoError(t, err)
				sendAll(t, l, 1)
				assert.GreaterOrEqual(t, base.times()[1], 30*time.Second)
			})
		})
	}
}

func TestWhatHasLeftSinceIsOffWhatAnAnswerSaysIsLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		left := status(200, "X-RateLimit-Limit-Tokens", "1000", "X-RateLimit-Remaining-Tokens", "600", "X-RateLimit-Reset-Tokens", "60s")
		base := script(after(100*time.Millisecond, left), after(time.Hour, status(200)), status(200))
		costs := 300
		l := &RateLimit{Base: base, Cost: func(*http.Request) int { return costs }}
		go sendAll(t, l, 1)
		time.Sleep(50 * time.Millisecond)
		go sendAll(t, l, 1)
		time.Sleep(100 * time.Millisecond)
		synctest.Wait()
		costs = 400
		sendAll(t, l, 1)
		assert.GreaterOrEqual(t, base.times()[2], time.Second, "the second takes 300 of the 600 that were left")
		time.Sleep(time.Hour)
	})
}
