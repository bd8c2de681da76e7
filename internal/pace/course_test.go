package pace

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
)

func TestARefusalInTheDarkIsNoNews(t *testing.T) {
	for _, alone := range []bool{false, true} {
		p := course{ledger: new(ledger)}
		now := time.Unix(1e9, 0)
		n := 0.
		leave := func(after time.Duration) rejection {
			now = now.Add(after)
			n++
			p.ledger.add(now, n, 1, 1)
			answered := now.Add(50 * time.Millisecond)
			return rejection{n: n, sent: now, now: answered, resume: answered, alone: alone}
		}
		for range 100 {
			leave(10 * time.Millisecond)
		}
		p.refused(leave(10 * time.Millisecond))
		p.rough, p.rate = false, 100
		p.stay(time.Second)
		known := p.known

		p.refused(leave(100 * time.Millisecond))
		trickle := 4.
		if alone { // and each try is one of its attempts
			trickle = 1
		}
		assert.InEpsilon(t, trickle, p.current(), 0.01)
		leave(250 * time.Millisecond) // whose answer is overtaken by the next one's
		p.refused(leave(250 * time.Millisecond))
		assert.InEpsilon(t, trickle/2, p.current(), 0.01, "less and less")
		for range 20 {
			p.refused(leave(time.Second))
		}
		assert.InEpsilon(t, paceFloor, p.current(), 0.01)
		assert.Same(t, known, p.known, "nothing is learned")

		p.since = now // as if it had begun only now
		p.lit(now.Add(100 * time.Millisecond))
		assert.InEpsilon(t, paceCut*100, p.current(), 0.01, "goes on as before, once a request is taken")
	}
}

func TestAWrongRateIsNotHeldForWhatWasLostAtAHigherOne(t *testing.T) {
	p := course{delay: 100 * time.Millisecond, lost: 500}
	p.settle(rates{4, 4}, rejection{})
	assert.LessOrEqual(t, p.hold, time.Minute)
}

func TestInTheDarkManyLookMoreOften(t *testing.T) {
	for others, within := range map[int]time.Duration{0: 20 * time.Second, 3: 10 * time.Second, 15: 5 * time.Second / 2, 999: 5 * time.Second / 2} {
		p := course{ledger: new(ledger)}
		now := time.Unix(1e9, 0)
		for n := range 30 {
			now = now.Add(time.Second)
			p.ledger.add(now, float64(n+1), 1, 1)
			p.refused(rejection{n: float64(n + 1), sent: now, now: now, resume: now, others: others})
		}
		assert.InEpsilon(t, 1/within.Seconds(), p.current(), 0.01, "%d others", others)
	}
}

func TestAfterTheDarkSlowStartBeginsByWhatWasBefore(t *testing.T) {
	p := course{ledger: new(ledger), dark: true, back: 80, rate: 0.4}
	p.since = time.Unix(1e9, 0)
	p.lit(p.since.Add(time.Minute))
	assert.InEpsilon(t, 10, p.current(), 0.01)
}
