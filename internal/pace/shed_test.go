package pace

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
)

// A busyRun sends requests one after the other, ten milliseconds apart, to a server that
// takes them ('o'), or answers 503 ('x'), or is asked nothing for half a second (' ').
type busyRun struct {
	Controller

	now  time.Time
	seen []shedState // without repetition
}

func (r *busyRun) send(answers string) *busyRun {
	for _, a := range answers {
		r.now = r.now.Add(10 * time.Millisecond)
		if a == ' ' {
			r.now = r.now.Add(500 * time.Millisecond)
			continue
		}
		s := r.Leave(r.now, 1)
		r.Depart(&s, r.now)
		r.answer(&s, a == 'o')
	}
	return r
}

func (r *busyRun) answer(s *Sent, ok bool) {
	r.now = r.now.Add(time.Millisecond)
	if ok {
		r.Taken(s, true, r.now, nil)
	} else if limit, _ := r.Busy(s, r.now); limit {
		r.Refused(s, Refusal{Now: r.now, Paces: true})
	} else {
		r.Lost(s)
	}
	if n := len(r.seen); r.shed.state != shedUnknown && n == 0 || n > 0 && r.shed.state != r.seen[n-1] {
		r.seen = append(r.seen, r.shed.state)
	}
}

func TestWhatA503Means(t *testing.T) {
	const unknown, suspected, limit = shedUnknown, shedSuspected, shedLimit
	many := strings.Repeat
	for name, row := range map[string]struct {
		answers string
		states  []shedState
	}{
		"all is taken":                            {many("o", 500), nil},
		"an outage":                               {many("o", 50) + many("x", 200) + many("o", 500), nil},
		"one outage after the other":              {many(many("x", 40)+many("o", 200), 10), nil},
		"one of ten is refused":                   {many("ooxoooooooooooxooooo", 50), nil},
		"half, and slowing down cures it":         {many("xo", 10) + many("o", 40), []shedState{suspected, limit}},
		"three of four, and it cures that":        {many("xxxo", 5) + many("o", 40), []shedState{suspected, limit}},
		"a third, and it changes nothing":         {many("xoo", 13), []shedState{suspected, unknown}},
		"as before, twice as many":                {many("xoo", 16), []shedState{suspected, unknown}},
		"and again when there were twice so many": {many("xoo", 40), []shedState{suspected, unknown, suspected, unknown}},
		"a limit, and then an outage":             {many("xo", 10) + many("o", 40) + many("x       ", 30), []shedState{suspected, limit, unknown}},
		"a limit that is none":                    {many("xo", 10) + many("o", 40) + many("xo", 15), []shedState{suspected, limit, unknown}},
		"few, always after as many":               {many(many("o", 20)+"x ", 8), []shedState{limit}},
		"few, now after more and now after fewer": {many(many("o", 20)+"x "+many("o", 9)+"x "+many("o", 35)+"x ", 8), nil},
	} {
		t.Run(name, func(t *testing.T) {
			r := (&busyRun{now: time.Unix(0, 0)}).send(row.answers)
			assert.Equal(t, row.states, r.seen)
		})
	}
}

func TestA503ThatComesWithMoreOutThanEverIsALimitInFlight(t *testing.T) {
	const slots = 8
	for name, row := range map[string]struct {
		takes func(i, out int) bool
		limit bool
	}{
		"always with more than eight": {func(_, out int) bool { return out <= slots }, true},
		"one of twenty":               {func(i, _ int) bool { return i%20 != 3 }, false},
	} {
		t.Run(name, func(t *testing.T) {
			r := &busyRun{now: time.Unix(0, 0)}
			var flying []*Sent
			for i := range 1000 {
				r.now = r.now.Add(time.Millisecond)
				s := r.Leave(r.now, 1)
				r.Depart(&s, r.now)
				if row.takes(i, r.InFlight()) {
					flying = append(flying, &s)
				} else {
					r.answer(&s, false)
				}
				if len(flying) >= slots && i%10 != 0 {
					r.answer(flying[0], true)
					flying = flying[1:]
				}
			}
			assert.Equal(t, row.limit, r.shed.limit())
			assert.Equal(t, row.limit, r.slots.limited())
		})
	}
}

func TestATrialSlowsDownByHalfAndEnds(t *testing.T) {
	r := (&busyRun{now: time.Unix(0, 0)}).send(strings.Repeat("xo", 10))
	assert.Equal(t, []shedState{shedSuspected}, r.seen)
	s := r.Leave(r.now, 1)
	r.Depart(&s, r.now)
	wait := r.Learned(r.now)
	assert.InDelta(t, 4*11*time.Millisecond, wait, float64(10*time.Millisecond), "half of those that were taken, which are half")
	assert.Zero(t, r.Learned(r.now.Add(shedLasts+time.Second)))
}
