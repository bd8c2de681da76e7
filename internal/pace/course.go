package pace

import (
	"math"
	"time"

	"github.com/sturdyhttp/sturdy/internal/times"
)

// A course is how fast requests may leave, as far as the server's refusals tell.
// It serves where the server says nothing of its limits, and guards against
// what it does not say: a hidden limit, or a wrong one.
//
// Before the first refusal only the cold start is bounded: at most coldWindow
// requests are out at once, coldGrowth times as many in each round trip that
// brings no refusal, until there are so many that it no longer matters. TCP
// begins the same way (RFC 5681, section 3.1, RFC 6928), and for the same
// reason: what is in flight when the first refusal comes back is lost.
//
// The second refusal is sought in slow start, as in TCP. From then on it is
// known between which rates the server's must be, see finding. The pace begins
// at the lower end and goes up until the next refusal, which narrows that
// down. Each costs the pause that the server asks for, so once the rate is
// known well the pace stays there, and tries what is above it only now and then:
// the less often the more that costs. As it goes up faster and faster then, a
// limit that has doubled is found in some seconds, and one that has not is
// exceeded by little.
//
// A refusal that contradicts what is known means that the limit has changed, and
// then the newer counts, or that others share it, and what one client sees of it
// tells little of the whole. Until refusals agree again, each slows down by the
// same part, and time brings it back: as who sends more is refused more often,
// all who share a limit come to send the same.
//
// While a server refuses everything the pace goes down to next to nothing. Nothing
// is learned from that. If it is soon over, as a window of a second is, the pace
// goes on as before; else the first request that is taken again begins a slow
// start, which leads back to what was taken before.
//
// It serves 2 requests a second as well as 500: what it does is measured in round
// trips, in requests and in what a refusal costs.
type course struct {
	window float64 // how many may be out at once; 0 before the first
	out    int     // how many were out at once
	warm   bool    // the cold start is over

	rate  float64       // requests per second from which the course begins; 0 if the server refused none
	rough bool          // it is the course of slow start
	shy   float64       // part of the rate that is left unused
	hold  time.Duration // time in use until more is tried
	step  float64       // how much more then, as a part of the rate
	ramp  float64       // in so many seconds; twice as much in the next
	used  time.Duration // time in use since the last refusal
	last  time.Time     // when it was used last

	known    *finding      // of all refusals; nil if they tell nothing
	floor    float64       // requests per second: no less is tried while refusals contradict each other
	burst    float64       // requests that the server takes at once, at least
	ledger   *ledger       // what the next refusal will be held against; nil before the first request
	delay    time.Duration // from the sending of the last refused request to its refusal
	lost     int           // how many were refused together with it
	early    bool          // it was, though it left at a rate that seemed safe
	dark     bool          // none was taken between the last two refusals
	since    time.Time     // when that began
	back     float64       // requests per second before, to go back to if it is soon over
	backSlow bool          // that was slow start
	proven   float64       // requests per second that were taken for some time; 0 if unknown
	doubt    bool          // it contradicted what was known
	crowd    int           // how often that happens; nothing is sure if it is crowded or more
	patience time.Duration // hold, the next time, if nothing changes

	before   *course // what was known before the last refusal
	lowest   float64 // the number of the request
	rejudged int     // how often an earlier one was heard of later
}

const (
	coldWindow = 16.                   // requests
	coldStep   = 60 * time.Millisecond // in which twice as many leave
	coldMany   = 250                   // requests: with so many out the others need not leave one by one
	coldGrowth = 2.5                   // times, in a round trip
	coldEnd    = 8000.                 // requests
	coldTrip   = time.Second           // a request that was not refused by then has been taken

	slowFrom  = 1. / 4 // of the average before the first refusal: where slow start begins
	slowLeast = 1.     // requests per second
	slowMost  = 100.
	slowTrip  = 100 * time.Millisecond // in which it doubles, at least

	paceTight    = 0.08                   // two rates so close are as good as one
	paceShy      = 0.0005                 // of the rate, if nothing speaks against it
	paceVeryShy  = 0.04                   // of the rate, at most
	paceStep     = 0.01                   // of the rate: how trying more begins
	paceRamp     = 10.                    // seconds, at most, unless requests are further apart
	paceCut      = 0.85                   // of the rate, when it does not hold any more
	paceJitter   = 10                     // part of a round trip by which requests overtake each other
	paceFloor    = 0.05                   // requests per second: the least that is tried
	paceNothing  = 1e4                    // requests per second: no limit to speak of
	paceCost     = 50                     // times what a refusal costs: how long to hold, at most
	manyRejudged = 32                     // accounts of one refusal, for each that left earlier
	darkTrip     = 250 * time.Millisecond // from one request to the next in the dark, at first
	aloneTrip    = time.Second            // the same, if there is but one
	darkLongest  = 5 * time.Second / 2    // the same, at last, where many wait
	darkAll      = 40 * time.Second       // the same, times how many wait: their attempts are to last for two minutes
	shortDark    = 3 * time.Second        // is soon over
	provenBy     = 11                     // requests that were taken
	minHold      = time.Second
	longHold     = 10 * time.Minute
	crowded      = 3   // contradictions count as that much, and each refusal without one makes up for 1
	crowdRamp    = 5.  // seconds, at most
	crowdShare   = 60. // requests, of which one may be refused at no loss of speed
)

// A rejection is that the server refused a request.
type rejection struct {
	n      float64   // the number of the request
	sent   time.Time // when it left
	now    time.Time // when the refusal came
	resume time.Time // no request leaves before
	told   float64   // requests per second that the server's headers allow; 0 if they do not say
	alone  bool      // nobody else waits, or is out
	others int       // how many wait, or are out
}

// cold is how long the cold start holds up a request at now, while so many are
// out; 0 if it does not.
func (p *course) cold(flying int, now time.Time) time.Duration {
	switch {
	case p.warm || p.rate > 0 || flying == 0:
		return 0
	case p.window == 0:
		p.window, p.last = coldWindow, now
	case p.trip(now) <= 0:
		p.grow(p.window)
		p.last = now
	}
	if float64(flying) >= p.window {
		return p.trip(now)
	}
	if flying < p.out || flying >= coldMany {
		return 0 // as many were out before, or so many that a few more at once do not matter
	}
	p.out = flying
	out := float64(flying)
	return max(p.ledger.latest().Add(times.Seconds(coldStep.Seconds()*math.Log2((out+1)/out))).Sub(now), 0)
}

// trip is how long after now a round trip is over in any case: a server that
// refuses a request does so sooner.
func (p *course) trip(now time.Time) time.Duration { return coldTrip - now.Sub(p.last) }

// taken lets more requests be out, because one was taken while so many were.
func (p *course) taken(flying int) {
	if p.warm {
		return
	}
	if flying >= p.out { // else fewer are sent than may be
		p.out++
	}
	if 2*float64(flying) >= p.window {
		p.grow(1)
	}
}

// restart begins the cold start anew: those who waited for the end of a pause
// are not to leave all at once.
func (p *course) restart() { p.window, p.out, p.warm = 0, 0, false }

func (p *course) grow(taken float64) {
	p.window += taken * (coldGrowth - 1)
	p.warm = p.window > coldEnd
}

// at brings the pace up to now, and returns it: +Inf if nobody has to be slow.
// Gaps of more than two requests' time do not count: a rate that was not tried
// says nothing of the server.
func (p *course) at(now time.Time) float64 {
	if p.rate == 0 {
		return math.Inf(1)
	}
	if idle := now.Sub(p.last); idle > Forget {
		p.ledger.refill(now)
		*p = course{ledger: p.ledger}
		return math.Inf(1)
	} else if idle > 0 {
		p.used += min(idle, times.Seconds(2/p.current()))
		p.last = now
	}
	r := p.current()
	if p.rough && p.proven > 0 && r > p.proven { // back where it was
		p.rough, p.rate, p.used = false, p.proven, 0
		p.stay(minHold)
		r = p.current()
	}
	if r >= paceNothing {
		*p = course{ledger: p.ledger, warm: true}
		return math.Inf(1)
	}
	return r
}

// current is how many requests a second may leave.
func (p *course) current() float64 {
	if p.rough {
		return p.slowStart()
	}
	r := p.rate * (1 - p.shy)
	if more := p.used - p.hold; more > 0 {
		r *= 1 + p.step*(math.Exp2(more.Seconds()/p.ramp)-1)
	}
	return r
}

// slowStart returns the rate in slow start. It doubles in a round trip, or with
// every other request if these are further apart.
func (p *course) slowStart() float64 {
	trip := max(2*p.delay, slowTrip).Seconds()
	r, t := p.rate, p.used.Seconds()
	if fast := 2 / trip; r < fast {
		slow := (1/r - 1/fast) * 2 / math.Ln2
		if t < slow {
			return 1 / (1/r - t*math.Ln2/2)
		}
		r, t = fast, t-slow
	}
	return r * math.Exp2(t/trip)
}

// guess reports whether the current rate says little of what the server's is.
func (p *course) guess() bool { return p.rough || p.step > 0.25 }

// refused takes in a rejection, the first of those that come together.
func (p *course) refused(r rejection) {
	p.ledger.turn()
	before := *p
	before.before = nil
	p.heed(r)
	p.before, p.lowest, p.lost, p.rejudged = &before, r.n, 1, 0
}

// also takes in a further one, of a request that was sent before it was known.
func (p *course) also(r rejection) {
	lost, rejudged := p.lost, p.rejudged
	if r.n < p.lowest-p.slack() && r.n >= p.ledger.first && p.before != nil {
		// It was this one that the server refused first.
		before := p.before
		*p = *before
		p.heed(r)
		p.before, p.lowest = before, r.n
		rejudged++
	}
	p.lost, p.rejudged = lost+1, rejudged
	p.last = r.resume
	p.ledger.begin(r.sent, r.n)
}

// slack is how much earlier than the lowest a request must have left to be worth
// another account. Where thousands are refused in the reverse order, all of them
// would take seconds.
func (p *course) slack() float64 {
	if p.rejudged < manyRejudged {
		return 0
	}
	return (findingTie - 1) * p.ledger.before(p.lowest)
}

// lit notes that the server takes requests again, after it has refused all.
func (p *course) lit(now time.Time) {
	if !p.dark {
		return
	}
	p.dark, p.used, p.last = false, 0, now
	switch soon := now.Sub(p.since) < shortDark; {
	case soon && p.backSlow:
		p.rate, p.rough = max(p.back/2, slowLeast), true
	case soon:
		p.climb(rates{paceCut * p.back, p.back}, crowdRamp)
	default:
		p.rate, p.rough = max(p.current(), slowLeast, p.back/8), true
	}
}

// darken slows down to next to nothing, as the server has taken nothing since it
// last refused a request. That tells nothing of its rate: its window has not
// ended yet, or it takes nothing from anybody.
func (p *course) darken(r rejection, most float64) {
	if !p.dark {
		p.dark, p.since, p.back, p.backSlow = true, r.now, most, p.rough
		if p.proven == 0 && !p.rough { // where slow start is to end
			p.proven = most
		}
	}
	trip := max(2*p.delay, darkTrip)
	if r.alone { // and pays for every try
		trip = max(trip, aloneTrip)
	}
	longest := max(trip, darkLongest, darkAll/time.Duration(r.others+1))
	p.rough, p.rate = false, max(min(most/2, 1/trip.Seconds()), 1/longest.Seconds())
	p.stay(longHold)
}

// heed sets a new course.
func (p *course) heed(r rejection) {
	p.delay = r.now.Sub(r.sent)
	was, most := p.rate, p.current()
	early := p.used < p.hold
	// It stays dark until a request that left since then is known to be taken, see
	// lit: this refusal may have overtaken the answer to an earlier one.
	if p.dark || was > 0 && p.ledger.before(r.n) == 0 {
		p.darken(r, most)
		p.begin(r)
		return
	}
	if !p.rough && p.used > minHold && p.ledger.before(r.n) >= provenBy {
		p.proven = was
	}
	sound := p.learn(p.ledger.witness(r.sent, r.n, p.delay/paceJitter).some(), early)
	span, large := rates{0, most}, 1.
	if p.known != nil {
		span, p.burst, large = p.known.span()
		span.hi = min(span.hi, most)
		span.lo = min(span.lo, span.hi)
	}
	switch {
	case was == 0 && r.told == 0:
		p.shy, p.rough = paceShy, true
		p.rate = slowFrom * p.ledger.before(r.n) / max(r.sent.Sub(p.ledger.start), slowTrip).Seconds()
		p.rate = min(max(p.rate, slowLeast), slowMost)
	case was == 0:
		p.shy = paceShy
		p.settle(rates{r.told, r.told}, r)
	default:
		p.early, p.rough = early && sound, false
		p.crowd = max(p.crowd-1, 0)
		if !sound {
			p.crowd = min(p.crowd+crowded, 2*crowded)
		}
		switch {
		case p.crowd >= crowded:
			p.patience = 0
			// One refusal in crowdShare requests is worth no less speed, unless
			// it costs a pause: then it is to be seldom for how long that is.
			pause := r.resume.Sub(r.now).Seconds()
			p.climb(rates{paceCut * most, most}, min(crowdRamp, max(crowdShare/most, crowdRamp*pause)))
		case early:
			p.shy = min(2*p.shy, paceVeryShy)
			p.steer(span, large, r)
		default:
			if p.hold > 0 { // what it took all that time it will take again
				p.shy = max(paceShy, p.shy/2)
				p.patience = 2 * p.hold
				span = rates{max(span.lo, was), max(span.hi, was)}
			}
			p.steer(span, large, r)
		}
	}
	p.begin(r)
}

// begin begins the course, and a page of the ledger.
func (p *course) begin(r rejection) {
	p.rate = max(p.rate, paceFloor)
	if !p.dark && p.crowd >= crowded {
		p.rate = max(p.rate, p.floor)
	}
	p.used, p.last = 0, r.resume
	p.ledger.begin(r.sent, r.n)
}

// learn adds what is newly seen to what is known, and reports whether the two
// agree, or the server is not what it was: that too is what it means if twice in
// a row a safe rate proves too high.
func (p *course) learn(seen *finding, early bool) bool {
	if p.known == nil || seen == nil {
		p.known = seen
		return seen != nil
	}
	if both := p.known.and(seen); both != nil && (!early || !p.early) {
		p.known, p.doubt = both, false
		return true
	}
	// The burst may still be as it was.
	if rest := seen.but(p.known); rest != nil && !p.doubt {
		seen = rest
	}
	p.known, p.doubt = seen, true
	return false
}

// steer sets a course by the rates between which the server's is, with a burst
// of no more than large.
func (p *course) steer(span rates, large float64, r rejection) {
	// A refusal says what is too fast, and seldom what is not: the course begins
	// no further below than this. A slow server would be long at an eighth, as a
	// climb lasts some requests: no further than half.
	span.lo = max(span.lo, span.hi/8, min(span.hi/2, slowLeast))
	if span.hi <= span.lo*(1+paceTight) {
		p.settle(span, r)
		return
	}
	// So slow that the bucket is empty soon after the rate is too high. If that
	// has not told enough, the same again would not either: what a slow climb
	// leaves open is told by a fast one.
	seconds := large / (span.hi - span.lo)
	if climbed := p.hold == 0 && p.step > 0; climbed {
		if fast := p.leastRamp(span.lo); p.ramp > 2*fast {
			seconds = fast
		} else {
			seconds = p.mostRamp(span.lo)
		}
	}
	p.climb(span, seconds)
}

// climb sets a course from the one rate to the other, in so many seconds.
func (p *course) climb(span rates, seconds float64) {
	p.rate, p.hold = span.lo, 0
	p.step = span.hi/span.lo - 1
	p.ramp = min(max(p.leastRamp(span.lo), seconds), p.mostRamp(span.lo))
}

// leastRamp is in how many seconds a climb from this rate may be over, so that
// some requests leave and some refusals come meanwhile.
func (p *course) leastRamp(rate float64) float64 { return max(1, 8*p.delay.Seconds(), 4/rate) }

// mostRamp is in how many seconds a climb is over at the latest, but so that it
// differs from the fastest.
func (p *course) mostRamp(rate float64) float64 { return max(paceRamp, 4*p.leastRamp(rate)) }

// settle sets a course that stays at the rate, and looks later whether the
// server takes more.
func (p *course) settle(span rates, r rejection) {
	p.rate = max(span.lo, paceFloor)
	// What the bucket gains in a pause is not lost, and what is refused is lost
	// on both sides.
	cost := max(0, r.resume.Sub(r.now).Seconds()-p.burst/p.rate)
	// No more than is out in some round trips: the rate may be wrong by much, and
	// is not to last for that.
	cost += 2 * min(float64(p.lost)/p.rate, max(1/p.rate, 4*p.delay.Seconds()))
	hold := times.Seconds(paceCost * cost)
	p.stay(max(minHold, min(max(hold/2, p.patience), hold, longHold)))
}

// stay sets the course at the rate for so long.
func (p *course) stay(hold time.Duration) {
	p.hold, p.step, p.ramp = hold, paceStep, p.leastRamp(p.rate)
}
