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
)

// hearAll has m hear n answers, d apart, to requests of one unit that left just
// before them. The answers are made by bucket.
func (m *meter) hearAll(n int, d time.Duration, bucket func(i int, at time.Duration) Bucket) {
	began := time.Unix(1e9, 0)
	past := new(ledger)
	for i := range n {
		at := time.Duration(i) * d
		now := began.Add(at)
		mark := toll{float64(i + 1), float64(i + 1)}
		past.add(now, mark.requests, 1, 0)
		m.hear(bucket(i, at), true, now, now.Add(time.Millisecond), mark, mark, past)
	}
}

func TestAMeterOfAWindowLearnsThePrice(t *testing.T) {
	m := &meter{name: "tokens", unit: "tokens", each: 1}
	m.hearAll(300, time.Second, func(i int, at time.Duration) Bucket {
		in := at % time.Minute
		return Bucket{Unit: "tokens", Limit: 60_000, Remaining: 60_000 - 205*int64(i%60+1), Reset: time.Minute - in}
	})
	assert.True(t, m.window)
	assert.InEpsilon(t, 205, m.each, 0.01)
}

func TestAMeterThatIsToldNoReset(t *testing.T) {
	m := &meter{name: "r", unit: "requests", each: 1}
	m.hearAll(2, time.Second, func(i int, _ time.Duration) Bucket {
		return Bucket{Unit: "requests", Limit: 60, Remaining: 59, Window: time.Minute, Reset: -1}
	})
	assert.InEpsilon(t, 1, m.rate, 0.01)
}

func TestAMeterIsIdleWhenANewOneWouldDoTheSame(t *testing.T) {
	now := time.Unix(1e9, 0)
	window := &meter{unit: "requests", each: 1, limit: 10, level: 3, at: now, window: true, ends: now.Add(time.Minute)}
	assert.False(t, window.idle(now))
	assert.True(t, window.idle(now.Add(time.Hour)))
	bucket := &meter{unit: "requests", each: 1, limit: 10, level: 3, at: now, rate: 1, trust: 1}
	assert.False(t, bucket.idle(now))
	assert.True(t, bucket.idle(now.Add(10*time.Second)))
	unknown := &meter{unit: "requests", each: 1, limit: 10, level: 3, at: now}
	assert.True(t, unknown.idle(now))
}

func TestAMeterTrustsAgain(t *testing.T) {
	m := &meter{name: "r", unit: "requests", each: 1, trust: 0.5, born: time.Unix(1, 0)}
	m.hearAll(1000, time.Second, func(int, time.Duration) Bucket {
		return Bucket{Unit: "requests", Limit: 60, Remaining: 59, Reset: time.Second}
	})
	assert.InDelta(t, 1, m.trust, 1e-9)
}

func TestAWindowThatIsOverLetsOneLookWhateverItCosts(t *testing.T) {
	now := time.Unix(1e9, 0)
	m := &meter{unit: "tokens", each: 205, limit: 60_000, at: now, window: true, ends: now.Add(time.Minute), proof: proved}
	assert.Equal(t, time.Minute, m.wait(now, 205, now))
	for i := range 3 {
		at := now.Add(time.Minute + time.Duration(i)*lookAgain)
		assert.Zero(t, m.wait(at, 205, at))
		m.spend(at, 205)
		assert.Equal(t, lookAgain, m.wait(at, 205, at), "one at a time")
	}
}

func TestALimitThatIsToldOfTwiceIsChargedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &RateLimit{Base: script(status(200,
			"X-Ratelimit-Limit", "10", "X-Ratelimit-Remaining", "9", "X-Ratelimit-Reset", "60",
			"Ratelimit-Limit", "10", "Ratelimit-Remaining", "9", "Ratelimit-Reset", "60"))}
		sendAll(t, l, 1)
		g := l.gates.use(originKey(get(t)), l.newGate).state
		assert.Len(t, g.meters, 1)
	})
}

// prove has what headers told so far proved.
func (l *RateLimit) prove(t *testing.T) {
	for _, m := range l.gates.use(originKey(get(t)), l.newGate).state.known {
		m.proof = proved
	}
}

func TestHeadersThatStopAreForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var n atomic.Int64
		l := &RateLimit{Base: rtFunc(func(req *http.Request) (*http.Response, error) {
			if n.Add(1) <= 100 {
				return status(200, "X-Ratelimit-Limit", "10", "X-Ratelimit-Remaining", "0", "X-Ratelimit-Reset", "10")(req)
			}
			return status(200)(req)
		})}
		began := time.Now()
		sendAll(t, l, 1)
		l.prove(t)
		sendAll(t, l, 99)
		assert.InDelta(t, 100, time.Since(began).Seconds(), 30)
		assert.Equal(t, "headers", l.Limits()[0].Source)
		began = time.Now()
		sendAll(t, l, 1000)
		assert.Less(t, time.Since(began), 2*heardFor)
		assert.Empty(t, l.Limits()[0].Source)
	})
}

func TestHeadersOfSomeAnswersCount(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var n atomic.Int64
		l := &RateLimit{Base: rtFunc(func(req *http.Request) (*http.Response, error) {
			if n.Add(1)%10 == 1 {
				return status(200, "X-Ratelimit-Limit", "10", "X-Ratelimit-Remaining", "0", "X-Ratelimit-Reset", "10")(req)
			}
			return status(200)(req)
		})}
		began := time.Now()
		sendAll(t, l, 1)
		l.prove(t)
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
				assert.LessOrEqual(t, time.Since(base.began), 2*lookAgain, "one looks, and then they are not believed")
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
		assert.LessOrEqual(t, time.Since(base.began), 2*lookAgain)
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
				assert.Greater(t, time.Since(base.began), 7*maxPause)
				assert.Less(t, time.Since(base.began), 11*maxPause)
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
		g := l.gates.use(originKey(get(t)), l.newGate).state
		assert.Len(t, g.known, maxLimits)
		assert.Equal(t, "r70", g.meters[0].name)
	})
}
