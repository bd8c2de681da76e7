package sturdy

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/sturdyhttp/sturdy/internal/pace"
	"golang.org/x/time/rate"
)

// together sends one request after the other, each with the answer that it is to get,
// before the first is answered, and waits for all of them.
func together(t *testing.T, rt http.RoundTripper, answers ...reply) {
	t.Helper()
	done := make(chan error)
	for _, answer := range answers {
		go func() { done <- uses(rt, get(t), 1, answer) }()
		time.Sleep(100 * time.Millisecond) // the cold start takes less
	}
	for range answers {
		require.NoError(t, <-done)
	}
}

func TestRefusalsOfWhatWasSentTogetherAreOnePause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var seen observed
		l := &RateLimit{Base: rtFunc(replies), Observe: seen.see}
		refused := status(429, "Retry-After", "10")
		together(t, l, after(time.Second, refused), after(2*time.Second, refused))
		pauses := 0
		for _, kind := range seen.kinds() {
			if kind == EventPause {
				pauses++
			}
		}
		assert.Equal(t, 1, pauses)
	})
}

func TestARefusalThatIsHeardOfLateMayBeTheFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &RateLimit{Base: rtFunc(replies)}
		for range 50 {
			require.NoError(t, uses(l, get(t), 1, after(10*time.Millisecond, status(200))))
		}
		late := make(chan error)
		go func() { late <- uses(l, get(t), 1, after(time.Minute, status(429))) }()
		time.Sleep(20 * time.Second)
		require.NoError(t, uses(l, get(t), 1, status(429)))
		assert.InDelta(t, 1, float64(l.Limits()[0].Rate), 0.1, "a quarter of what was sent in 20s")
		require.NoError(t, <-late)
		assert.InDelta(t, 25, float64(l.Limits()[0].Rate), 3, "a quarter of what was sent in the first half second")
	})
}

func TestWhoLeftBeforeARefusalWasKnownShowsNotThatTheServerTakesAnyAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &RateLimit{Base: rtFunc(replies)}
		require.NoError(t, uses(l, get(t), 1, status(429)))
		last := make(chan error)
		go func() { assert.NoError(t, uses(l, get(t), 1, after(20*time.Second, status(429)))) }()
		time.Sleep(10 * time.Second)
		go func() { last <- uses(l, get(t), 1, after(20*time.Second, status(200))) }()
		time.Sleep(15 * time.Second)
		dark := l.Limits()[0].Rate
		require.NoError(t, <-last)
		assert.Equal(t, dark, l.Limits()[0].Rate)
		require.NoError(t, uses(l, get(t), 1, status(200)))
		assert.Greater(t, l.Limits()[0].Rate, dark, "but one who left after that does")
	})
}

func headersOf(unit string, limit, remaining int, reset string) []string {
	return []string{"X-RateLimit-Limit-" + unit, fmt.Sprint(limit), "X-RateLimit-Remaining-" + unit, fmt.Sprint(remaining), "X-RateLimit-Reset-" + unit, reset}
}

func TestARefusalOfWhatLeftBeforeHeadersWereHeardSaysNothingAgainstThem(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &RateLimit{Base: rtFunc(replies)}
		together(t, l, after(time.Second, status(200, headersOf("Requests", 100, 90, "10s")...)), after(2*time.Second, status(429)))
		assert.Equal(t, "headers", l.Limits()[0].Source)
		require.NoError(t, uses(l, get(t), 1, status(429)))
		assert.Equal(t, "refusals", l.Limits()[0].Source, "but one of what left after that does")
	})
}

func TestALateAnswerDoesNotSayThatThereAreNoOtherLimits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &RateLimit{Base: rtFunc(replies)}
		both := append(headersOf("Requests", 100, 90, "60s"), headersOf("Tokens", 100, 3, "60s")...)
		together(t, l, after(2*time.Second, status(200, headersOf("Requests", 100, 91, "60s")...)), after(time.Second, status(200, both...)))
		assert.InDelta(t, 3, l.Limits()[0].Remaining, 0.5+2*100./60)
		assert.Less(t, l.Limits()[0].Remaining, 10.)
		require.NoError(t, uses(l, get(t), 1, status(200, headersOf("Requests", 100, 89, "60s")...)))
		assert.Greater(t, l.Limits()[0].Remaining, 80., "but the newest does")
	})
}

func TestOfLimitsBeyondAllBoundsTheFirstAreFollowed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var policies, states []string
		for i := range maxLimits {
			policies = append(policies, fmt.Sprintf(`"p%d";q=50;w=60`, i))
			states = append(states, fmt.Sprintf(`"p%d";r=40;t=60`, i))
		}
		headers := append(headersOf("Requests", 50, 1, "60s"), "RateLimit-Policy", strings.Join(policies, ", "), "RateLimit", strings.Join(states, ", "))
		l := &RateLimit{Base: script(status(200, headers...))}
		require.NoError(t, sendAll(t, l, 1)[0])
		assert.EqualValues(t, 40, l.Limits()[0].Remaining)
	})
}

func TestWhereThereIsNoRoomForALimitTheOneThatWasNotHeardOfForLongestIsForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		says := func(code int, name string, remaining int) reply {
			return status(code, append(headersOf("", 10, remaining, "100"), "X-Ratelimit-Resource", name)...)
		}
		l := &RateLimit{Base: rtFunc(replies)}
		send := func(answer reply) { require.NoError(t, uses(l, get(t), 1, answer)) }
		send(says(429, "first", 0)) // which proves it
		for i := range maxLimits - 1 {
			send(says(200, fmt.Sprint("other", i), 5))
		}
		send(says(200, "first", 5))
		send(says(200, "one too many", 5))
		send(says(200, "first", 0))
		began := time.Now()
		send(status(200))
		assert.Greater(t, time.Since(began), 5*time.Second, "and not for a look after one")
	})
}

func TestWhereHeadersAreForgottenRequestsLeaveGentlyAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const many = 200
		var told atomic.Bool
		base := script(func(req *http.Request) (*http.Response, error) {
			if told.Load() {
				return after(time.Second, status(200, headersOf("Requests", 1_000_000, 999_999, "3600s")...))(req)
			}
			return after(time.Second, status(200))(req)
		})
		l := &RateLimit{Base: base}
		spread := func() time.Duration {
			for _, err := range sendAll(t, l, many) {
				require.NoError(t, err)
			}
			times := base.times()
			return times[len(times)-1] - times[len(times)-many]
		}
		gentle := spread()
		told.Store(true)
		require.Less(t, spread(), gentle/10, "about as many were out before")
		told.Store(false)
		time.Sleep(time.Minute)
		for range 20 {
			sendAll(t, l, 1)
		}
		require.Empty(t, l.Limits()[0].Source)
		assert.Greater(t, spread(), gentle/2)
	})
}

func TestWhatIsLeftIsNeverShownAsLessThanNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &RateLimit{Base: script(status(200, headersOf("Requests", 10, 0, "60s")...), after(time.Hour, status(200)))}
		sendAll(t, l, 1)
		go sendAll(t, l, 1) // one sees whether that is true
		time.Sleep(2 * time.Second)
		assert.Equal(t, 1, l.Limits()[0].InFlight)
		assert.Zero(t, l.Limits()[0].Remaining)
		time.Sleep(time.Hour)
	})
}

func TestALimitInTokensIsNoRateUntilItIsKnownWhatARequestCosts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var seen observed
		l := &RateLimit{Base: rtFunc(replies), Observe: seen.see}
		require.NoError(t, uses(l, get(t), 1, status(200, headersOf("Tokens", 1000, 900, "60s")...)))
		assert.Equal(t, rate.Inf, l.Limits()[0].Rate)
		assert.Empty(t, l.Limits()[0].Source)
		assert.Empty(t, seen.kinds())
		require.NoError(t, uses(l, get(t), 1, status(200, append(headersOf("Requests", 100, 90, "60s"), headersOf("Units-Tokens", 1000, 900, "60s")...)...)))
		assert.Equal(t, "headers", l.Limits()[0].Source)
		assert.Equal(t, []EventKind{EventLimit}, seen.kinds())
	})
}

// Where a server refuses requests for which its headers say that there is room, they
// promise too much.
func TestHeadersThatPromiseTooMuchAreBelievedLess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &RateLimit{Base: rtFunc(replies)}
		says := func(code, remaining int) reply {
			return status(code, "RateLimit-Policy", `"p";q=10;w=100`, "RateLimit", fmt.Sprintf(`"p";r=%d;t=50`, remaining))
		}
		wait := func() time.Duration {
			require.NoError(t, uses(l, get(t), 1, says(200, 0)))
			began := time.Now()
			require.NoError(t, uses(l, get(t), 1, says(200, 5)))
			return time.Since(began)
		}
		require.NoError(t, uses(l, get(t), 1, says(429, 0))) // which proves it
		time.Sleep(20 * time.Second)
		require.InDelta(t, 10, wait().Seconds(), 0.5, "one in ten seconds")
		for range 40 {
			require.NoError(t, uses(l, get(t), 1, says(429, 5)))
		}
		time.Sleep(2 * pace.Forget) // what was inferred from the refusals is forgotten
		assert.InDelta(t, 20, wait().Seconds(), 1, "half as many, and no less")
	})
}

func TestResetOfAKeyThatHasLearnedNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &RateLimit{Base: script(status(200)), Fixed: true}
		sendAll(t, l, 1)
		l.Reset(l.Limits()[0].Key)
		require.NoError(t, sendAll(t, l, 1)[0])
	})
}

func TestAfterAResetThreeBusyAnswersHoldEverybody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base := script(append(repeat(5, status(503, "Retry-After", "10")), status(200))...)
		l := &RateLimit{Base: base}
		sendAll(t, l, 1)
		sendAll(t, l, 1)
		l.Reset(l.Limits()[0].Key)
		for range 4 {
			sendAll(t, l, 1)
		}
		assert.Equal(t, append(make([]time.Duration, 5), 10*time.Second), base.times())
	})
}

func TestAfterAResetARefusalTellsAsMuchAsTheFirst(t *testing.T) {
	inferred := func(t *testing.T, before func(*testing.T, *RateLimit)) (r rate.Limit) {
		synctest.Test(t, func(t *testing.T) {
			l := &RateLimit{Base: rtFunc(replies)}
			before(t, l)
			for range 100 {
				require.NoError(t, uses(l, get(t), 1, status(200)))
				time.Sleep(100 * time.Millisecond)
			}
			require.NoError(t, uses(l, get(t), 1, status(429)))
			r = l.Limits()[0].Rate
		})
		return r
	}
	first := inferred(t, func(*testing.T, *RateLimit) {})
	assert.InDelta(t, 2.5, float64(first), 0.1, "a quarter of what was sent")
	assert.InEpsilon(t, float64(first), float64(inferred(t, func(t *testing.T, l *RateLimit) {
		assert.NoError(t, uses(l, get(t), 1, status(429)))
		time.Sleep(50 * time.Second)
		l.Reset(l.Limits()[0].Key)
	})), 0.01)
}

func TestATokenThatWasGivenBackIsGoneAfterAPause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base := script(after(2*time.Second, status(429, "Retry-After", "10")), status(200))
		ctx, cancel := context.WithCancel(t.Context())
		l := &RateLimit{Base: base, Limit: 1, Fixed: true, Observe: func(_ context.Context, ev Event) {
			if ev.Kind == EventQueue && time.Since(base.began) == 0 {
				time.Sleep(1500 * time.Millisecond) // its turn came after a second
				cancel()
			}
		}}
		go sendAll(t, l, 1)
		synctest.Wait()
		_, err := l.RoundTrip(get(t).WithContext(ctx))
		require.ErrorIs(t, err, context.Canceled)
		time.Sleep(time.Second)
		sendAll(t, l, 2)
		assert.Equal(t, []time.Duration{0, 12 * time.Second, 13 * time.Second}, base.times())
	})
}
