package pace

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/time/rate"
)

// send has one request leave at now.
func send(c *Controller, now time.Time) Sent {
	s := c.Leave(now, 1)
	c.Depart(&s, now)
	return s
}

func TestAControllerIsIdleIfANewOneWouldDoTheSame(t *testing.T) {
	now := time.Unix(1e9, 0)
	for name, row := range map[string]struct {
		state func(c *Controller)
		after time.Duration // it is idle; zero for never
	}{
		"one is out":           {func(c *Controller) { send(c, now) }, 0},
		"a pause":              {func(c *Controller) { c.paused = now.Add(time.Hour) }, time.Hour},
		"a bucket of headers":  {func(c *Controller) { c.meters = []*meter{{limit: 10, level: 3, at: now, rate: 1, trust: 1}} }, 7 * time.Second},
		"a rate":               {func(c *Controller) { c.course.rate, c.went = 5, now }, Forget + 1},
		"a limit in flight":    {func(c *Controller) { c.slots.state, c.went = slotsLimited, now }, Forget + 1},
		"it was used just now": {func(c *Controller) { c.went = now }, 1},
	} {
		var c Controller
		require.True(t, c.Idle(now))
		row.state(&c)
		if row.after == 0 {
			assert.False(t, c.Idle(now.Add(24*time.Hour)), name)
			continue
		}
		assert.Equal(t, row.after == 1, c.Idle(now.Add(row.after-1)), name)
		assert.True(t, c.Idle(now.Add(row.after)), name)
	}
}

// At a high rate timers are late by more than a request's time: so a few may leave
// at once, as many as leave in 5ms.
func TestTheBucketOfALearnedRate(t *testing.T) {
	for _, row := range []struct {
		rate, burst float64 // learned
		ceiling     rate.Limit
		want        int // 0 if nobody is held
	}{
		{10, 50, 0, 1},
		{1000, 50, 0, 5},
		{1194, 50, rate.Inf, 5},
		{1000, 3, rate.Inf, 3},
		{1000, 0, rate.Inf, 1},
		{10, 50, 11, 1},
		{10, 50, 10, 0},
		{10, 50, 9, 0},
	} {
		now := time.Now()
		c := Controller{Ceiling: row.ceiling, course: course{rate: row.rate, burst: row.burst, last: now}, bucket: rate.NewLimiter(1, 1)}
		c.keepUp(now)
		if row.want == 0 {
			assert.Nil(t, c.bucket, row)
			continue
		}
		assert.Equal(t, row.want, c.bucket.Burst(), row)
		assert.Equal(t, rate.Limit(row.rate), c.bucket.Limit(), row)
	}
}

func TestALimitThatIsToldOfTwiceIsChargedOnce(t *testing.T) {
	var c Controller
	now := time.Unix(1e9, 0)
	s := send(&c, now)
	told := Limit{Unit: "requests", Limit: 10, Remaining: 9, Reset: time.Minute}
	c.Taken(&s, true, now, []Limit{told, told})
	assert.Len(t, c.meters, 1)
}

func TestOfNewNamesTheOldestIsForgotten(t *testing.T) {
	var c Controller
	now := time.Unix(1e9, 0)
	for i := range MaxNames + 6 {
		s := send(&c, now)
		c.Taken(&s, true, now, []Limit{{Name: fmt.Sprint("r", i), Unit: "requests", Limit: 10, Remaining: 9, Reset: time.Minute}})
	}
	assert.Len(t, c.known, MaxNames)
	assert.Equal(t, "r6", c.known[0].name)
	assert.Equal(t, "r69", c.meters[0].name)
}

func TestWhatIsNoRefusalByALimitIsHeardOfTheLimitToo(t *testing.T) {
	var c Controller
	now := time.Unix(1e9, 0)
	told := func(left int64) []Limit {
		return []Limit{{Unit: "requests", Limit: 60, Remaining: left, Reset: time.Duration(60-left) * 1500 * time.Millisecond}}
	}
	for _, left := range []int64{59, 58} {
		s := send(&c, now)
		c.Taken(&s, true, now, told(left))
		now = now.Add(time.Millisecond)
	}
	s := send(&c, now)
	c.Hear(&s, now, told(58))
	assert.InDelta(t, 58, c.meters[0].floor, 0)
	assert.Zero(t, c.course.rate, "it may as well have too much to do")
}

func TestTheRateThatIsNews(t *testing.T) {
	for name, row := range map[string]struct {
		inferred, headers, before float64
		guess                     bool
		want                      float64 // 0 for no news
	}{
		"nothing is known":                     {},
		"a rate that was inferred":             {inferred: 5, want: 5},
		"a guess":                              {inferred: 5, guess: true},
		"headers":                              {headers: 3, want: 3},
		"headers that allow less":              {inferred: 5, headers: 3, want: 3},
		"headers that allow more":              {inferred: 3, headers: 5, want: 3},
		"headers that allow more than a guess": {inferred: 3, headers: 5, guess: true, want: 5},
		"a tenth more than before":             {headers: 1100, before: 1000},
		"more than that":                       {headers: 1101, before: 1000, want: 1101},
		"a tenth less":                         {headers: 900, before: 1000},
		"nothing any more":                     {before: 1000},
	} {
		t.Run(name, func(t *testing.T) {
			c := Controller{said: row.before, course: course{rate: row.inferred, rough: row.guess}}
			if row.headers > 0 {
				c.meters = []*meter{{unit: "requests", rate: row.headers}, {unit: "tokens", rate: 1}}
			}
			got, ok := c.News()
			assert.Equal(t, row.want, got)
			assert.Equal(t, row.want > 0, ok)
			_, again := c.News()
			assert.False(t, again, "it is told once")
		})
	}
}
