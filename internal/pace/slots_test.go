package pace

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// A slotStep is a request that left with so many out and was taken or refused, all of
// one second later than the one before.
type slotStep struct {
	out     int
	refused bool
}

func taken(outs ...int) (steps []slotStep) {
	for _, out := range outs {
		steps = append(steps, slotStep{out, false})
	}
	return steps
}

func refusals(outs ...int) (steps []slotStep) {
	for _, out := range outs {
		steps = append(steps, slotStep{out, true})
	}
	return steps
}

func slotsAfter(steps ...[]slotStep) *slots {
	s, at := new(slots), time.Unix(0, 0)
	for _, some := range steps {
		for _, step := range some {
			at = at.Add(time.Second)
			s.left(step.out)
			if step.refused {
				s.refused(step.out, at, at.Add(time.Millisecond), at.Add(time.Millisecond), true)
			} else {
				s.passed(step.out, at)
			}
		}
	}
	return s
}

func manyTaken(n int, out int) []slotStep {
	outs := make([]int, n)
	for i := range outs {
		outs[i] = out
	}
	return taken(outs...)
}

func TestALimitInFlightIsToldFromOthers(t *testing.T) {
	full := [][]slotStep{taken(8, 8), refusals(9), taken(8, 8), refusals(9)}
	for name, row := range map[string]struct {
		steps [][]slotStep
		most  int // zero if it is none
	}{
		"nothing":                                {nil, 0},
		"one refusal":                            {[][]slotStep{taken(8, 8), refusals(9)}, 0},
		"two, with more out than ever":           {full, 8},
		"before any was taken":                   {[][]slotStep{refusals(9, 9, 9)}, 0},
		"at different numbers":                   {[][]slotStep{taken(8, 8), refusals(9), taken(12, 12), refusals(13)}, 0},
		"of many, at nearly the same":            {[][]slotStep{taken(48, 48), refusals(50), taken(48, 48), refusals(49)}, 48},
		"once with fewer out":                    {[][]slotStep{taken(8, 8), refusals(9, 3, 9)}, 0},
		"and then with as many":                  {[][]slotStep{taken(8, 8), refusals(9, 8, 9)}, 8},
		"one where more would be taken":          {append(full, refusals(8)), 7},
		"and another":                            {append(full, refusals(8), refusals(7)), 0},
		"one long after the other":               {append(full, refusals(8), manyTaken(70, 7), refusals(7)), 6},
		"with nobody else out":                   {[][]slotStep{taken(1, 1), refusals(2, 2, 1)}, 0},
		"it was none, and looks alike":           {[][]slotStep{taken(1, 1), refusals(2, 2, 1, 2, 2)}, 0},
		"but it still does":                      {[][]slotStep{taken(1, 1), refusals(2, 2, 1, 2, 2, 2, 2)}, 1},
		"one more is taken":                      {append(full, manyTaken(70, 8), taken(9)), 9},
		"one that was long on its way":           {[][]slotStep{taken(8, 8, 13), refusals(9, 9)}, 8},
		"a look that was taken by a race":        {append(full, manyTaken(70, 8), taken(9), refusals(9), refusals(8)), 7},
		"one more is not":                        {append(full, manyTaken(70, 8), refusals(9)), 8},
		"nor one of those that left with it":     {append(full, manyTaken(70, 8), []slotStep{{9, false}}, taken(8)), 9},
		"what was taken is out of date":          {[][]slotStep{taken(20, 20), manyTaken(2*slotsWindow, 8), refusals(9, 9)}, 8},
		"what was taken is not yet out of date":  {[][]slotStep{taken(20, 20), manyTaken(slotsWindow, 8), refusals(9, 9)}, 0},
		"more are out because some were refused": {[][]slotStep{taken(8, 8), refusals(9), taken(8, 8), refusals(9), taken(7, 8)}, 8},
	} {
		s := slotsAfter(row.steps...)
		assert.Equal(t, row.most > 0, s.limited(), name)
		if row.most > 0 {
			assert.Equal(t, row.most, s.most, name)
		}
	}
}

func TestWhoLeavesWithThoseThatAreRefusedSaysNothingOfWhatIsTaken(t *testing.T) {
	s, at := new(slots), time.Unix(0, 0)
	s.passed(8, at)
	s.passed(8, at)
	s.refused(9, at.Add(1), at.Add(5), at.Add(5), true)
	s.refused(12, at.Add(4), at.Add(9), at.Add(9), false)
	s.passed(12, at.Add(3)) // some of these 12 were refused
	s.passed(13, at.Add(8))
	assert.Equal(t, [2]int{8}, s.taken)
	s.passed(11, at.Add(9))
	s.passed(11, at.Add(9))
	assert.Equal(t, [2]int{11}, s.taken)
}

func TestOneMoreIsTriedNowAndThen(t *testing.T) {
	s := slotsAfter(taken(8, 8), refusals(9), taken(8, 8), refusals(9))
	now := time.Unix(1000, 0)
	assert.True(t, s.room(7, now))
	assert.False(t, s.room(8, now))
	look := func() (after int) {
		for ; !s.room(8, now); after++ {
			s.passed(8, now)
		}
		assert.False(t, s.room(9, now), "not two")
		s.left(9)
		assert.False(t, s.room(8, now), "not before it is known")
		return after
	}
	assert.Equal(t, 64, look())
	s.refused(9, now, now, now, true)
	assert.Equal(t, 128, look())
	s.refused(8, now, now, now.Add(5*time.Second), true) // with that one: they have overtaken each other
	assert.Equal(t, 8, s.most)
	for range 1000 {
		s.passed(8, now)
	}
	assert.False(t, s.room(8, now.Add(104*time.Second)), "a look may cost five seconds")
	assert.True(t, s.room(8, now.Add(105*time.Second)))
	now = now.Add(105 * time.Second)
	s.left(9)
	s.passed(9, now)
	assert.True(t, s.room(8, now))
	assert.False(t, s.room(9, now))
	s.forget(now.Add(time.Minute), now)
	assert.True(t, s.limited())
	s.forget(now.Add(time.Minute+1), now)
	assert.False(t, s.limited())
}

func TestALookThatIsNotAnsweredIsMadeAgain(t *testing.T) {
	now := time.Unix(1e9, 0)
	for name, end := range map[string]func(c *Controller, s *Sent){
		"no answer":          func(c *Controller, s *Sent) { c.Lost(s) },
		"another's mistake":  func(c *Controller, s *Sent) { c.Taken(s, false, now, nil) },
		"never sent":         func(c *Controller, s *Sent) { c.Undo(s, now) },
		"beside some others": func(c *Controller, s *Sent) { c.slots.heard = s.At.Add(1); c.Taken(s, true, now, nil) },
	} {
		t.Run(name, func(t *testing.T) {
			c := Controller{Bounded: true, went: now, slots: slots{state: slotsLimited, most: 1, full: slotsLook, patient: slotsLook}}
			send(&c, now)
			require.Zero(t, c.Learned(now))
			look := send(&c, now)
			require.Equal(t, slotsLooking, c.slots.state)
			end(&c, &look)
			assert.Equal(t, slotsLimited, c.slots.state)
			assert.Equal(t, 1, c.slots.most)
		})
	}
}
