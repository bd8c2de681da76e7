package pace

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/sturdyhttp/sturdy/internal/times"
)

// hearAll has m hear n answers, d apart, to requests of one unit that left just
// before them. The answers are made by bucket.
func (m *meter) hearAll(n int, d time.Duration, bucket func(i int, at time.Duration) Limit) {
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
	m.hearAll(300, time.Second, func(i int, at time.Duration) Limit {
		in := at % time.Minute
		return Limit{Unit: "tokens", Limit: 60_000, Remaining: 60_000 - 205*int64(i%60+1), Reset: time.Minute - in}
	})
	assert.True(t, m.window)
	assert.InEpsilon(t, 205, m.each, 0.01)
}

func TestAMeterThatIsToldNoReset(t *testing.T) {
	m := &meter{name: "r", unit: "requests", each: 1}
	m.hearAll(2, time.Second, func(i int, _ time.Duration) Limit {
		return Limit{Unit: "requests", Limit: 60, Remaining: 59, Window: time.Minute, Reset: -1}
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
	m.hearAll(1000, time.Second, func(int, time.Duration) Limit {
		return Limit{Unit: "requests", Limit: 60, Remaining: 59, Reset: time.Second}
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

// A ticker is a server with a token bucket, or a window of per, that is asked again and
// again, and what its headers say.
type ticker struct {
	rate, burst float64
	per         time.Duration // of a window; zero for a bucket
	say         func(limit, left float64, reset time.Duration) Limit
}

// inMillis says resets in milliseconds, inSeconds in seconds.
func inMillis(limit, left float64, reset time.Duration) Limit {
	return Limit{Unit: "requests", Limit: int64(limit), Remaining: int64(left), Reset: reset.Round(time.Millisecond)}
}

func inSeconds(limit, left float64, reset time.Duration) Limit {
	return Limit{Unit: "requests", Limit: int64(limit), Remaining: int64(left), Reset: (reset + time.Second - 1).Truncate(time.Second)}
}

// policy says what draft-ietf-httpapi-ratelimit-headers-10 has.
func policy(window time.Duration) func(limit, left float64, reset time.Duration) Limit {
	return func(limit, left float64, reset time.Duration) Limit {
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
		reset := times.Seconds((s.burst - level) / s.rate)
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
	minute := func(limit, left float64, reset time.Duration) Limit { // is told, over a bucket of some seconds
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
	ticker{300, 30, 0, func(_, left float64, reset time.Duration) Limit { return inMillis(18_000, left, reset) }}.ask(m, 2000, 0, 3*time.Millisecond)
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
	for dialect, say := range map[string]func(limit, left float64, reset time.Duration) Limit{
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
			m.hear(Limit{Unit: "requests", Limit: 60, Remaining: left, Reset: reset}, hearing{ok: ok, sole: sole, sent: now, now: now, mark: mark}, mark, new(ledger))
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
		b := Limit{Unit: "requests", Limit: 100, Remaining: left, Reset: time.Minute - at}
		m.hear(b, hearing{ok: true, sent: began.Add(at), now: began.Add(at), mark: toll{n, n}}, toll{12, 12}, new(ledger))
	}
	hear(1, 99, 0)
	hear(12, 95, time.Second) // it was the first of those that left with it
	assert.InDelta(t, 95, m.level, 0)
	hear(5, 88, time.Second)
	assert.InDelta(t, 81, m.level, 0, "seven more had left than this")
}
