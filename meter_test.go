package sturdy

import (
	"fmt"
	"net/http"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
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
	m := &meter{unit: "tokens", each: 205, limit: 60_000, at: now, window: true, ends: now.Add(time.Minute)}
	assert.Equal(t, time.Minute, m.wait(now, 205))
	for i := range 3 {
		at := now.Add(time.Minute + time.Duration(i)*lookAgain)
		assert.Zero(t, m.wait(at, 205))
		m.spend(at, 205)
		assert.Equal(t, lookAgain, m.wait(at, 205), "one at a time")
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
		sendAll(t, l, 100)
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
		sendAll(t, l, 300)
		assert.InDelta(t, 300, time.Since(began).Seconds(), 30)
	})
}

func TestNoHeaderHoldsAnybodyForever(t *testing.T) {
	for name, header := range map[string][]string{
		"a bucket of a year": {"X-Ratelimit-Limit", "10", "X-Ratelimit-Remaining", "0", "X-Ratelimit-Reset", "31536000"},
		"a policy of a year": {"Ratelimit-Policy", `"p";q=10;w=31536000`, "Ratelimit", `"p";r=0`},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := &RateLimit{Base: script(status(200, header...))}
				began := time.Now()
				sendAll(t, l, 100)
				assert.Less(t, time.Since(began), 101*maxPause)
			})
		})
	}
}

func TestNoWindowHoldsAnybodyForever(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var n atomic.Int64
		l := &RateLimit{Base: rtFunc(func(req *http.Request) (*http.Response, error) {
			left := fmt.Sprint(max(10-n.Add(1), 0))
			return status(200, "X-Ratelimit-Limit", "10", "X-Ratelimit-Remaining", left, "X-Ratelimit-Reset", "31536000")(req)
		})}
		began := time.Now()
		for range 20 {
			sendAll(t, l, 1)
		}
		assert.Greater(t, time.Since(began), 9*maxPause)
		assert.Less(t, time.Since(began), 12*maxPause)
	})
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
