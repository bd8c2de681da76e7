package pace

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// A grouped server says which of a group of n are refused.
type grouped func(random *rand.Rand, n int) (refused []bool)

func byChanceOf(p float64) grouped {
	return func(random *rand.Rand, n int) []bool {
		refused := make([]bool, n)
		for i := range refused {
			refused[i] = random.Float64() < p
		}
		return refused
	}
}

// burstOf takes so many of a group.
func burstOf(b int) grouped {
	return func(random *rand.Rand, n int) []bool {
		refused := make([]bool, n)
		for i := b; i < n; i++ {
			refused[i] = true
		}
		random.Shuffle(n, func(i, j int) { refused[i], refused[j] = refused[j], refused[i] })
		return refused
	}
}

// usedByOthers has its bucket empty for a part of the time.
func usedByOthers(part float64) grouped {
	return func(random *rand.Rand, n int) []bool {
		refused := make([]bool, n)
		if random.Float64() < part {
			for i := range refused {
				refused[i] = random.Float64() < 0.8
			}
		}
		return refused
	}
}

// everyNth refuses each nth request: its bucket fills up in the pause that follows.
func everyNth(nth int) grouped {
	left := 0
	return func(_ *rand.Rand, n int) []bool {
		refused := make([]bool, n)
		for i := range refused {
			left++
			refused[i] = left%nth == 0
		}
		return refused
	}
}

// tried returns what a trial says in the end, and after how many requests.
func tried(seed uint64, chance float64, server grouped, most int) (v verdict, requests int) {
	random := rand.New(rand.NewPCG(seed, 2))
	var tr trial
	tr.begin(chance)
	for v == undecided {
		for i, refused := range server(random, min(tr.most, most)) {
			o := outcome(0)
			if i == 0 {
				o |= outcomeFirst
			}
			if refused {
				o |= outcomeRefused
			}
			requests++
			if tr.follow(o) {
				if v = tr.verdict(); v != undecided {
					return v, requests
				}
			}
		}
	}
	return v, requests
}

func TestATrialTellsChanceFromLimits(t *testing.T) {
	for _, row := range []struct {
		name     string
		server   func() grouped
		chance   float64 // that is supposed
		most     int     // that leave at once
		want     verdict
		wrong    float64 // of the trials, at most
		requests int     // on average, at most
	}{
		{"2 % by chance", func() grouped { return byChanceOf(0.02) }, 0.02, 4, byChance, 0.15, 300},
		{"10 % by chance", func() grouped { return byChanceOf(0.1) }, 0.1, 4, byChance, 0.15, 80},
		{"20 % by chance", func() grouped { return byChanceOf(0.2) }, 0.2, 4, byChance, 0.15, 80},
		{"20 % by chance, thought to be 10 %", func() grouped { return byChanceOf(0.2) }, 0.1, 4, byChance, 0.35, 80},
		{"20 % by chance, one by one", func() grouped { return byChanceOf(0.2) }, 0.2, 1, byChance, 0.25, 100},
		{"a burst of 1", func() grouped { return burstOf(1) }, 0.1, 4, byLimit, 0, 8},
		{"a burst of 2", func() grouped { return burstOf(2) }, 0.1, 4, byLimit, 0, 60},
		{"a burst of 3", func() grouped { return burstOf(3) }, 0.1, 4, byLimit, 0, 140},
		{"more than that", func() grouped { return burstOf(4) }, 0.1, 4, byLimit, 0, 100},
		{"others use it up for a tenth of the time", func() grouped { return usedByOthers(0.1) }, 0.1, 4, byLimit, 0.02, 100},
		{"others use it up for a third of the time", func() grouped { return usedByOthers(0.3) }, 0.2, 4, byLimit, 0.02, 40},
		{"every other", func() grouped { return everyNth(2) }, 0.1, 1, byLimit, 0, 40},
		{"every 28th", func() grouped { return everyNth(28) }, 0.03, 4, byLimit, 0, 140},
	} {
		t.Run(row.name, func(t *testing.T) {
			const trials = 1000
			wrong, requests := 0., 0
			for seed := range uint64(trials) {
				v, n := tried(seed, row.chance, row.server(), row.most)
				if requests += n; v != row.want {
					wrong++
				}
			}
			t.Logf("%.1f %% wrong, after %d requests", 100*wrong/trials, requests/trials)
			assert.LessOrEqual(t, wrong/trials, row.wrong)
			assert.LessOrEqual(t, requests/trials, row.requests)
		})
	}
}

func TestOutcomesComeInTheOrderOfSending(t *testing.T) {
	o := outcomes{next: 1}
	for n := range 300 {
		o.left(float64(n+1), 0)
	}
	assert.InDelta(t, 45, o.next, 0, "of 256 the order is known")
	all := func(nth float64, what outcome) (got []outcome) {
		for this := range o.became(nth, what) {
			got = append(got, this)
		}
		return got
	}
	assert.Empty(t, all(44, 0), "it is too late for that")
	assert.Empty(t, all(47, outcomeRefused))
	assert.Empty(t, all(46, 0))
	assert.Equal(t, []outcome{outcomeKnown, outcomeKnown, outcomeKnown | outcomeRefused}, all(45, 0))
	for n := range outcomesBehind {
		require.Empty(t, all(float64(49+n), 0))
	}
	assert.Len(t, all(49+outcomesBehind, 0), outcomesBehind+2, "the 48th keeps nobody waiting")
	assert.Empty(t, all(48, 0))
}

func TestWhereRefusalsComeByChanceTheRateGrowsUntilThereAreMore(t *testing.T) {
	now := time.Unix(1e9, 0)
	n := newNoise(0)
	n.state, n.rate, n.chance, n.slow, n.since = refusalsByChance, 10, 0.1, 1, now
	random := rand.New(rand.NewPCG(1, 1))
	serve := func(requests int, share float64) {
		for range requests {
			now = now.Add(n.wait(now))
			n.left(n.last+1, now)
			what := outcome(0)
			if random.Float64() < share {
				what = outcomeRefused
			}
			n.became(n.last, what, 0, false, now)
		}
	}
	serve(400, 0.1)
	assert.Greater(t, n.rate, 100.)
	fast := n.rate
	serve(40, 0.7)
	assert.Less(t, n.rate, fast)
	serve(400, 0.7)
	assert.Equal(t, refusalsByPace, n.state, "that is no chance")
}

func TestWhatWasTakenForLongBoundsWhatIsGuessed(t *testing.T) {
	var g goodput
	now := time.Unix(1e9, 0)
	for range 101 {
		g.took(now)
		now = now.Add(20 * time.Millisecond)
	}
	assert.InDelta(t, 25, g.floor(), 1)
	g.refused()
	assert.InDelta(t, 25*paceCut, g.floor(), 1, "one of many")
	g.refused()
	g.refused()
	assert.InDelta(t, 25*paceCut/4, g.floor(), 1, "one after the other")
}

func TestThatRefusalsComeByChanceIsForgottenWithoutUse(t *testing.T) {
	var c Controller
	now := time.Unix(1e9, 0)
	s := send(&c, now)
	c.Refused(&s, Refusal{Now: now, Paces: true})
	c.noise.state, c.noise.rate = refusalsByChance, 10
	c.Learned(now.Add(Forget))
	require.True(t, c.noise.decides())
	later := now.Add(Forget + 1)
	c.Learned(later)
	s = send(&c, later)
	v := c.Refused(&s, Refusal{Now: later, Pause: time.Second, Paces: true})
	assert.False(t, v.Until.Before(later.Add(time.Second)), "a pause holds everybody again")
}
