package pace

import (
	"math"
	"time"

	"github.com/sturdyhttp/sturdy/internal/times"
)

// A noise finds out whether a server refuses by chance, whatever the pace: one bad
// replica among several, say. A pace that is cut for that is cut for nothing.
//
// No count of refusals tells: at its edge a limit refuses one in so many just as chance
// does, and where several clients share a limit, half of the pace of one of them changes
// as little as with chance. An experiment does: for a while requests leave at a lower pace,
// and in groups. A limit that one client exceeds alone is not exceeded then, or it
// takes the same number of each group; a limit that others use up refuses most of a group;
// chance refuses one of it here and there. Each of these explanations is weighed against
// chance by Wald's sequential test ("Sequential Tests of Statistical Hypotheses", Annals
// of Mathematical Statistics 16, 1945).
//
// It begins when refusals contradict each other, so that no one limit explains them, and
// come one by one. If chance it is, they say nothing of others as long as there are no
// more of them, and the rate grows until there are.
type noise struct {
	state    noiseState
	wrong    float64 // experiments that found a limit: the next comes later
	best     float64 // the highest pace at which one was refused, of late
	share    tally   // of what left, in its order
	runs     float64 // how often one was refused after another
	before   bool    // the last was
	news     float64 // refusals since the last experiment
	outcomes outcomes
	trial    trial

	rate   float64   // requests per second that leave, unless refusals depend on the pace
	next   time.Time // when the next leaves
	chance float64   // of a refusal
	slow   float64   // it takes so many times as long to double
	excess float64   // nats that say that more are refused than by chance, and
	runOn  float64   // that who leaves after a refused one is refused, too
	taken  tally     // since the rate was cut, by what left after that
	since  time.Time
	last   float64 // the number of the last that left
	cut    float64 // and of the last before the rate was cut
}

// A noiseState is what is held of the refusals.
type noiseState uint8

const (
	refusalsByPace   noiseState = iota // they depend on it
	refusalsInDoubt                    // the experiment is on
	refusalsByChance                   // they do not
)

const (
	noiseLeast  = 0.016     // of the requests: fewer are not worth it
	noiseMany   = 0.08      // of the requests: then noiseNews refusals are enough to begin, with fewer twice as many
	noiseMost   = 0.3       // of the requests: more is not by chance
	noiseNews   = 2         // refusals before an experiment; four times as many after each that found a limit
	noisePrior  = 4         // successes that are taken for granted
	noiseKeep   = 1 - 1./64 // of what is remembered, at each request
	noiseTest   = 0.8       // of the pace, in the experiment, and
	noiseBest   = 1. / 4    // at least of the highest one
	noiseLost   = 8.        // nats that say that there are more refusals
	noiseDouble = 20.       // requests in which the rate doubles, at least
	noiseSlower = 4.        // times as slowly after a cut
	noiseDrift  = 1. / 200  // of what a request tells of the chance
	noiseTrust  = 0.9       // of what was taken: the rate after a cut
	noiseCatch  = 5e6       // ns by which a timer may be late
	noiseNever  = 0.9       // of the requests: that many are refused by chance at most
	noiseRare   = 0.005     // of the requests: that few are, at least
)

// A tally counts requests, and those that were refused.
type tally struct{ all, refused float64 }

func (t *tally) add(refused bool) {
	t.all++
	if refused {
		t.refused++
	}
}

func newNoise(left float64) *noise { return &noise{outcomes: outcomes{next: left + 1}, last: left} }

// decides reports whether n holds requests instead of the course.
func (n *noise) decides() bool { return n != nil && n.state != refusalsByPace }

// wait is how long after now one may leave.
func (n *noise) wait(now time.Time) time.Duration {
	if n.state == refusalsInDoubt && n.trial.open(now) {
		return 0
	}
	return max(n.next.Sub(now), 0)
}

// left notes that the nth left.
func (n *noise) left(nth float64, now time.Time) {
	n.last = nth
	o := outcome(0)
	switch n.state {
	case refusalsInDoubt:
		if !n.trial.open(now) {
			n.trial.starts, n.trial.size = now, 0
			o = outcomeFirst
		}
		n.trial.size++
		n.next = n.trial.starts.Add(times.Seconds(float64(n.trial.size) / n.rate))
	case refusalsByChance:
		n.next = times.Later(n.next, now.Add(-noiseCatch)).Add(times.Seconds(1 / n.rate))
	}
	n.outcomes.left(nth, o)
}

// became takes in what became of the nth. The pace is that of the course, and odd is
// whether no one limit explains the refusals so far.
func (n *noise) became(nth float64, what outcome, pace float64, odd bool, now time.Time) {
	for o := range n.outcomes.became(nth, what) {
		refused, known := o&outcomeRefused != 0, o&outcomeNothing == 0
		switch {
		case n.state == refusalsInDoubt:
			if n.trial.follow(o) {
				n.decide()
			}
		case !known:
		case n.state == refusalsByPace:
			n.suspect(refused, pace, odd, now)
		default:
			n.course(refused, now)
		}
	}
}

// suspect looks whether many are refused, and each of them alone.
func (n *noise) suspect(refused bool, pace float64, odd bool, now time.Time) {
	n.share.all, n.share.refused, n.runs = n.share.all*noiseKeep, n.share.refused*noiseKeep, n.runs*noiseKeep
	n.share.add(refused)
	if refused {
		n.best = max(n.best, pace)
		n.news++
		if n.before {
			n.runs++
		}
	}
	n.before = refused
	share := n.share.refused / (n.share.all + noisePrior)
	needed := noiseNews * math.Pow(4, n.wrong)
	if share < noiseMany {
		needed *= 2
	}
	if refused || !odd || n.news < needed || share < noiseLeast || share > noiseMost || n.runs > n.share.refused/2 {
		return
	}
	n.state = refusalsInDoubt
	n.rate, n.next = max(noiseTest*pace, noiseBest*n.best, 2*paceFloor), now
	n.trial.begin(min(max(share, 0.02), 0.2))
}

// decide heeds what the experiment says so far.
func (n *noise) decide() {
	switch n.trial.verdict() {
	case byChance:
		n.state, n.slow, n.chance = refusalsByChance, 1, n.trial.chance
		n.excess, n.runOn, n.before = 0, 0, false
		n.rate = max(2*n.rate, n.best)
		n.taken, n.since, n.cut = tally{}, n.trial.starts, 0
	case byLimit:
		n.disprove()
	}
}

// disprove notes that refusals depend on the pace after all.
func (n *noise) disprove() {
	n.state, n.wrong = refusalsByPace, n.wrong+1
	n.news, n.share, n.runs, n.best = 0, tally{}, 0, 0
}

// course sets the rate where refusals come by chance: it grows until more are refused
// than that. Page's cumulative sum tells ("Continuous Inspection Schemes", Biometrika 41,
// 1954).
func (n *noise) course(refused bool, now time.Time) {
	if n.outcomes.next <= n.cut+1 {
		return // it left at the rate before
	}
	n.taken.add(refused)
	p := n.chance
	if n.before { // by chance the next is refused no more often
		q := min(max(p, 0.05), 0.3)
		if refused {
			n.runOn += math.Log(0.5 / q)
		} else {
			n.runOn = max(n.runOn+math.Log(0.5/(1-q)), 0)
		}
	}
	n.before = refused
	more := min(noiseNever, 2*p+0.1)
	if refused {
		n.excess += math.Log(more / p)
		n.chance += (1 - n.chance) * noiseDrift
	} else {
		n.excess += math.Log((1 - more) / (1 - p))
		n.chance = max(n.chance*(1-noiseDrift), noiseRare)
		n.rate *= math.Exp2(1 / (max(noiseDouble, n.rate/2) * n.slow))
	}
	n.excess = max(n.excess, 0)
	switch {
	case n.chance > noiseMost+0.1, n.runOn > noiseLost:
		n.disprove()
	case n.excess > noiseLost:
		if took := now.Sub(n.since).Seconds(); took > 0 {
			n.rate = min(n.rate, max(n.rate/2, noiseTrust*(n.taken.all-n.taken.refused)/took/(1-p)))
		}
		n.rate = max(n.rate, paceFloor)
		n.excess, n.slow = 0, min(n.slow*noiseSlower, noiseSlower*noiseSlower)
		n.taken, n.since, n.cut = tally{}, now, n.last
	}
}
