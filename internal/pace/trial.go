package pace

import (
	"math"
	"time"
)

// A trial is the experiment by which refusals by chance are told from those of a limit:
// what becomes of requests that leave in groups.
type trial struct {
	chance float64   // of a refusal, if chance it is
	starts time.Time // when the group that leaves began to
	size   int       // of it
	most   int       // that leave in a group

	group   tally // that is looked at
	looks   bool  // else it is of those that left before
	groups  tally // groups, and refusals in them
	weighed float64

	// Nats for chance, and against each of these.
	single  float64             // a limit that is exceeded a quarter as often at the lower pace
	shared  float64             // one that others use up: of a group, any number is refused as well
	bursts  [trialGroup]float64 // one that takes so many of a group, and no more
	exceeds float64             // one that refuses every other request

	gap  float64    // requests since the last refusal
	gaps [3]float64 // from refusal to refusal: how many, their sum, and that of their squares
}

// A verdict is what a trial says.
type verdict uint8

const (
	undecided verdict = iota
	byChance
	byLimit
)

const (
	trialGroup  = 4                // requests that leave at once
	trialAtOnce = time.Millisecond // is at once
	trialSure   = 4.5              // nats that decide for chance: by Wald's bound it is wrong once in 90 times
	trialShared = 6.               // the same, against a limit that others use up: each of many clients may make the trial
	trialNot    = 3.               // nats that decide against it: by that bound, once in 20
	trialMost   = 24               // refusals that are enough
	trialLong   = 24.              // refusals by chance that there should have been: it is long enough
	trialEven   = 1.03             // times what it is if all are the same: the mean square of the gaps
	trialLikely = 0.9              // that a limit takes the same number of each group
)

func (t *trial) begin(chance float64) { *t = trial{chance: chance, most: trialGroup} }

// open reports whether one that leaves at now belongs to the group that leaves.
func (t *trial) open(now time.Time) bool {
	return t.size > 0 && t.size < t.most && now.Sub(t.starts) <= trialAtOnce
}

// follow takes in an outcome, in the order of sending, and reports whether a group is
// complete by it.
func (t *trial) follow(o outcome) (complete bool) {
	if o&outcomeFirst != 0 {
		complete = t.weigh()
		t.looks = true
	}
	if !t.looks || o&outcomeNothing != 0 {
		return complete
	}
	t.gap++
	refused := o&outcomeRefused != 0
	if refused {
		if t.groups.refused+t.group.refused > 0 {
			t.gaps[0]++
			t.gaps[1] += t.gap
			t.gaps[2] += t.gap * t.gap
		}
		t.gap = 0
	}
	if t.group.add(refused); t.group.all == float64(t.most) {
		complete = t.weigh() || complete
	}
	return complete
}

// weigh takes in what became of a group, if there is one.
func (t *trial) weigh() bool {
	n, k, p := t.group.all, t.group.refused, t.chance
	t.group = tally{}
	if n == 0 {
		return false
	}
	t.groups.all++
	t.groups.refused += k
	t.weighed += n
	likely := binomial(n, k, p)
	if k == 0 {
		t.single += math.Log(likely / (1 - p*n/trialGroup))
	} else {
		t.single += math.Log(likely / (p / trialGroup))
		t.shared += math.Log(likely / (1 - math.Pow(1-p, n)) * n)
	}
	t.exceeds += math.Log(likely / binomial(n, k, 0.5))
	for b := range t.bursts {
		q := (1 - trialLikely) / n
		if k == max(n-float64(b), 0) {
			q = trialLikely
		}
		t.bursts[b] += math.Log(likely / q)
	}
	return true
}

// binomial is how likely k of n are refused, if each is with a chance of p.
func binomial(n, k, p float64) float64 {
	b := math.Pow(p, k) * math.Pow(1-p, n-k)
	for i := range int(k) {
		b *= (n - float64(i)) / float64(i+1)
	}
	return b
}

// verdict says what the groups so far show.
func (t *trial) verdict() verdict {
	burst := 0
	for b, nats := range t.bursts {
		if nats < t.bursts[burst] {
			burst = b
		}
	}
	// If requests leave one by one, for want of others or because of another limit, there
	// is no group, and it takes twice as much.
	alone := t.weighed < 1.5*t.groups.all
	switch {
	case t.exceeds < -trialNot, t.groups.refused >= trialMost, t.weighed > trialLong/t.chance:
		return byLimit
	case t.exceeds < trialNot && t.single > trialSure:
		return undecided
	case t.single > trialSure && t.even():
		return byLimit
	case t.bursts[burst] < -trialNot && t.groups.all > 1:
		if burst < 2 || burst >= t.most {
			return byLimit
		}
		*t = trial{chance: t.chance, starts: t.starts, size: t.size, looks: true, most: burst} // groups that such a limit takes
	case t.bursts[burst] < trialSure && !alone:
	case t.single > trialSure && t.shared > trialShared, t.single > 2*trialSure && alone:
		return byChance
	case t.single < -trialNot, t.shared < -trialNot:
		return byLimit
	}
	return undecided
}

// even reports whether refusals come after the same number of requests each time, as
// those of a limit do that fills up in the pauses.
func (t *trial) even() bool {
	number, sum, squares := t.gaps[0], t.gaps[1], t.gaps[2]
	return number >= 3 && squares*number < trialEven*sum*sum
}
