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
		m.hear(bucket(i, at), hearing{ok: true, sole: true, sent: now, now: now.Add(time.Millisecond), mark: mark}, mark, past)
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

// A ticker is a server with a token bucket, or a window of per, that is asked again and
// again, and what its headers say.
type ticker struct {
	rate, burst float64
	per         time.Duration // of a window; zero for a bucket
	say         func(limit, left float64, reset time.Duration) Bucket
}

// inMillis says resets in milliseconds, inSeconds in seconds.
func inMillis(limit, left float64, reset time.Duration) Bucket {
	return Bucket{Unit: "requests", Limit: int64(limit), Remaining: int64(left), Reset: reset.Round(time.Millisecond)}
}

func inSeconds(limit, left float64, reset time.Duration) Bucket {
	return Bucket{Unit: "requests", Limit: int64(limit), Remaining: int64(left), Reset: roundedUp(reset, time.Second)}
}

// policy says what draft-ietf-httpapi-ratelimit-headers-10 has.
func policy(window time.Duration) func(limit, left float64, reset time.Duration) Bucket {
	return func(limit, left float64, reset time.Duration) Bucket {
		b := inSeconds(limit, left, reset)
		b.Window = window
		return b
	}
}

// ask has m hear n answers to requests that are gap apart, the first after from.
func (s ticker) ask(m *meter, n int, from, gap time.Duration) time.Time {
	past := new(ledger)
	level, then, now := s.burst, time.Duration(0), time.Time{}
	for i := range n {
		at := from + time.Duration(i)*gap
		now = time.Unix(1e9, 0).Add(at)
		switch {
		case s.per == 0:
			level = min(level+(at-then).Seconds()*s.rate, s.burst)
		case at/s.per != then/s.per:
			level = s.burst
		}
		then = at
		ok := level >= 1
		if ok {
			level--
		}
		reset := seconds64((s.burst - level) / s.rate)
		if s.per > 0 {
			reset = s.per - at%s.per
		}
		mark := toll{m.mark.requests + 1, m.mark.requests + 1}
		past.add(now, mark.requests, 1, 0)
		m.spend(now, 1)
		m.hear(s.say(s.burst, level, reset), hearing{ok: ok, sole: true, sent: now, now: now.Add(time.Millisecond), mark: mark}, mark, past)
	}
	return now
}

func TestWhatAMeterMakesOfABucket(t *testing.T) {
	minute := func(limit, left float64, reset time.Duration) Bucket { // is told, over a bucket of some seconds
		return inMillis(600, 600-limit+left, reset)
	}
	for name, row := range map[string]struct {
		server ticker
		n      int
		gap    time.Duration
		rate   float64 // as the meter has it; 0 if it holds nobody
		limit  float64
	}{
		"told in milliseconds":                  {ticker{50, 10, 0, inMillis}, 100, 20 * time.Millisecond, 50, 10},
		"of one":                                {ticker{50, 1, 0, inMillis}, 100, 21 * time.Millisecond, 50, 1},
		"a minute's worth is told, and refused": {ticker{10, 2, 0, minute}, 200, 60 * time.Millisecond, 10, 2},
		"in seconds, never empty":               {ticker{80, 2, 0, inSeconds}, 1000, 13 * time.Millisecond, 0, 2},
		"in seconds, asked too often":           {ticker{80, 8, 0, inSeconds}, 1000, 11 * time.Millisecond, 80, 8},
		"in seconds, of one":                    {ticker{80, 1, 0, inSeconds}, 1000, 13 * time.Millisecond, 0, 1},
		"in seconds, slow":                      {ticker{0.1, 10, 0, inSeconds}, 100, 9 * time.Second, 0.1, 10},
		"a policy of a second, of one":          {ticker{320, 1, 0, policy(time.Second)}, 1000, 4 * time.Millisecond, 0, 1},
		"a policy of a minute":                  {ticker{1, 60, 0, policy(time.Minute)}, 100, time.Second, 1, 60},
	} {
		t.Run(name, func(t *testing.T) {
			m := &meter{unit: "requests", each: 1}
			row.server.ask(m, row.n, 0, row.gap)
			assert.False(t, m.window)
			assert.InDelta(t, row.rate, m.rate, 0.06*row.rate)
			assert.InDelta(t, row.limit, m.limit, 0)
		})
	}
}

func TestALimitThatIsToldOverASmallerBucketIsNotItsSize(t *testing.T) {
	m := &meter{unit: "requests", each: 1}
	ticker{300, 30, 0, func(_, left float64, reset time.Duration) Bucket { return inMillis(18_000, left, reset) }}.ask(m, 2000, 0, 3*time.Millisecond)
	assert.InDelta(t, 30, m.limit, 0, "no more was ever left")
	assert.InEpsilon(t, 300, m.rate, 0.06)
}

func TestARateThatIsToldTooLowGoesUpWithoutARefusal(t *testing.T) {
	m := &meter{unit: "requests", each: 1}
	s := ticker{24, 2, 0, policy(time.Second)}
	s.ask(m, 1, 0, 0)
	assert.InEpsilon(t, 2, m.rate, 0.01)
	s.ask(m, 20, time.Second, 500*time.Millisecond)
	assert.InEpsilon(t, 4, m.rate, 0.3, "twice as fast as it was asked: it was full each time")
}

func TestAResetThatIsShortAgainstASecondHoldsNobody(t *testing.T) {
	m := &meter{unit: "requests", each: 1}
	now := ticker{80, 1, 0, inSeconds}.ask(m, 100, 0, 13*time.Millisecond)
	assert.Zero(t, m.due(now.Add(time.Millisecond), 1))
	assert.Zero(t, m.perSecond(), "and tells no rate")
}

func TestWhatAMeterMakesOfAWindow(t *testing.T) {
	for dialect, say := range map[string]func(limit, left float64, reset time.Duration) Bucket{
		"milliseconds": inMillis, "seconds": inSeconds, "a policy": policy(time.Minute),
	} {
		for _, per := range []time.Duration{10 * time.Second, time.Minute} {
			t.Run(fmt.Sprint(dialect, ", of ", per), func(t *testing.T) {
				s := ticker{10, 10 * per.Seconds(), per, say}
				seconds := per.Seconds()
				m := &meter{unit: "requests", each: 1}
				s.ask(m, int(5*seconds), per/3, 100*time.Millisecond)
				assert.True(t, m.window)
				assert.WithinDuration(t, time.Unix(1e9, 0).Add(per), m.ends, 110*time.Millisecond, "of those that are told, rounded up, the soonest")
				assert.Zero(t, m.period)
				m.level = 0
				assert.InDelta(t, 1, m.levelAt(m.ends), 0, "one may look")

				m = &meter{unit: "requests", each: 1}
				now := s.ask(m, int(15*seconds), per/3, 100*time.Millisecond)
				assert.InDelta(t, per, m.period, float64(200*time.Millisecond), "it was seen to begin full")
				m.level = 0
				assert.Zero(t, m.levelAt(now))
				assert.InDelta(t, m.limit, m.levelAt(m.ends), 0, "and so will the next")
			})
		}
	}
}

func TestWhatIsRefusedWithUnitsLeftIsRefusedByAnother(t *testing.T) {
	began := time.Unix(1e9, 0)
	refused := func(window, sole bool) *meter {
		m := &meter{unit: "requests", each: 1}
		hear := func(i int, ok bool, left int64) {
			now := began.Add(time.Duration(i) * time.Second)
			mark := toll{float64(i), float64(i)}
			reset := time.Duration(60-left) * 1001 * time.Millisecond
			if window {
				reset = time.Minute - now.Sub(began)
			}
			m.hear(Bucket{Unit: "requests", Limit: 60, Remaining: left, Reset: reset}, hearing{ok: ok, sole: sole, sent: now, now: now, mark: mark}, mark, new(ledger))
		}
		hear(1, true, 59)
		hear(2, true, 58)
		hear(3, false, 58)
		return m
	}
	assert.InDelta(t, 58, refused(false, true).floor, 0, "a bucket of two, of which sixty are told")
	assert.Zero(t, refused(false, false).floor, "the other is told of too")
	assert.Zero(t, refused(true, true).floor, "a window has what it is told to have")
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
				g := l.gates.use(originKey(get(t)), l.newGate).state
				assert.Equal(t, proved, g.meters[0].proof)
				assert.Positive(t, g.pace.rate)
			})
		})
	}
}

func TestA503WithUnitsLeftIsHeardOfTheLimitToo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		says := func(code, left int) func(*http.Request) (*http.Response, error) {
			return status(code, "X-Ratelimit-Limit", "60", "X-Ratelimit-Remaining", fmt.Sprint(left), "X-Ratelimit-Reset", fmt.Sprint(1.5*float64(60-left)))
		}
		l := &RateLimit{Base: script(says(200, 59), says(200, 58), says(503, 58))}
		for range 3 {
			sendAll(t, l, 1)
			time.Sleep(time.Millisecond)
		}
		g := l.gates.use(originKey(get(t)), l.newGate).state
		assert.InDelta(t, 58, g.meters[0].floor, 0)
		assert.Zero(t, g.pace.rate, "it may as well have too much to do")
	})
}

func TestARateThatIsNotToldWellRefusesNobody(t *testing.T) {
	m := &meter{unit: "requests", each: 1}
	now := ticker{24, 2, 0, policy(time.Second)}.ask(m, 1, 0, 0)
	assert.Zero(t, m.turnIn(now, 1000, 1))
	m = &meter{unit: "requests", each: 1}
	now = ticker{1, 60, 0, policy(time.Minute)}.ask(m, 1, 0, 0)
	assert.InDelta(t, 942, m.turnIn(now, 1000, 1).Seconds(), 3)
}

func TestRequestsThatOvertakeEachOtherLeaveAWindowNoFuller(t *testing.T) {
	began := time.Unix(1e9, 0)
	m := &meter{unit: "requests", each: 1}
	hear := func(n float64, left int64, at time.Duration) {
		b := Bucket{Unit: "requests", Limit: 100, Remaining: left, Reset: time.Minute - at}
		m.hear(b, hearing{ok: true, sent: began.Add(at), now: began.Add(at), mark: toll{n, n}}, toll{12, 12}, new(ledger))
	}
	hear(1, 99, 0)
	hear(12, 95, time.Second) // it was the first of those that left with it
	assert.InDelta(t, 95, m.level, 0)
	hear(5, 88, time.Second)
	assert.InDelta(t, 81, m.level, 0, "seven more had left than this")
}
