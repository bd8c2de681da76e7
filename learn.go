package sturdy

import (
	"math"
	"time"
)

// A pace is how fast requests may leave, as far as the server's refusals tell.
// It serves where the server says nothing of its limits, and guards against
// what it does not say: a hidden limit, or a wrong one.
//
// Before the first refusal only the cold start is bounded: at most coldWindow
// requests are out at once, coldGrowth times as many in each round trip that
// brings no refusal, until there are so many that it no longer matters. TCP
// begins the same way (RFC 5681, section 3.1, RFC 6928), and for the same
// reason: what is in flight when the first refusal comes back is lost.
//
// After the first refusal the pace is found in slow start, as in TCP. Each
// further refusal tells what the rate is, see ledger.fit. The pace stays a
// little below that, and tries what is above it only now and then, and the
// less often the more that costs: a limit that was raised is found in the time
// that the costs of looking for it allow. As it goes up faster and faster then,
// a limit that has doubled is found in some seconds, and one that has not is
// exceeded by little.
//
// Nothing here has a scale of its own, so it serves 2 requests a second as well
// as 500.
type pace struct {
	window float64 // how many may be out at once; 0 before the first
	out    int     // how many were out at once
	warm   bool    // the cold start is over

	rate  float64       // requests per second that the server seems to take; 0 if it refused none
	rough bool          // rate is where slow start began
	used  time.Duration // time in use since the last refusal
	last  time.Time     // when it was used last
	hold  time.Duration // time in use until more is tried
	step  float64       // of the rate: how trying more begins
	delay time.Duration // from the sending of a request to its refusal
	lost  int           // how many were refused together the last time

	least  float64 // burst is more than that
	burst  float64 // requests that the server takes at once
	lowest float64 // number of the request
	whole  float64 // burst is not more than that
	told   float64 // what headers said then
	ledger *ledger // nil before the first request
}

const (
	coldWindow = 16.                   // requests
	coldStep   = 60 * time.Millisecond // in which twice as many leave
	coldGrowth = 2.5                   // times, in a round trip
	coldEnd    = 250.                  // requests
	coldTrip   = time.Second           // a request that was not refused by then has been taken

	paceStart   = 4.    // per second: where slow start begins
	paceShy     = 0.985 // of the rate
	paceEager   = 0.1   // of the rate: how trying more begins, at first
	paceStep    = 0.01  // and when the rate has proved right
	paceFloor   = 0.05  // per second: the least that is tried
	paceNothing = 1e4   // per second: no limit to speak of
	paceForget  = time.Minute
	paceCost    = 50 // times what a refusal costs: how long nothing is tried
	minHold     = time.Second
	longHold    = time.Minute
)

// cold is how long the cold start holds up a request at now, while so many are
// out; 0 if it does not.
func (p *pace) cold(flying int, now time.Time) time.Duration {
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
	if flying < p.out {
		return 0 // as many were out before
	}
	p.out = flying
	out := float64(flying)
	return p.ledger.latest().Add(seconds64(coldStep.Seconds() * math.Log2((out+1)/out))).Sub(now)
}

// trip is how long after now a round trip is over in any case: a server that
// refuses a request does so sooner.
func (p *pace) trip(now time.Time) time.Duration { return coldTrip - now.Sub(p.last) }

// taken lets more requests be out, because one was taken while so many were.
func (p *pace) taken(flying int) {
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

func (p *pace) grow(taken float64) {
	p.window += taken * (coldGrowth - 1)
	p.warm = p.window > coldEnd
}

// at brings the pace up to now, and returns it: +Inf if nobody has to be slow.
// Gaps of more than two requests' time do not count: a rate that was not tried
// says nothing of the server.
func (p *pace) at(now time.Time) float64 {
	if p.rate == 0 {
		return math.Inf(1)
	}
	if idle := now.Sub(p.last); idle > paceForget {
		*p = pace{ledger: p.ledger}
		return math.Inf(1)
	} else if idle > 0 {
		p.used += min(idle, seconds64(2/p.current()))
		p.last = now
	}
	r := p.current()
	if r >= paceNothing {
		*p = pace{ledger: p.ledger, warm: true}
		return math.Inf(1)
	}
	return r
}

func (p *pace) current() float64 {
	if p.rough {
		return p.rate * math.Exp2(p.used.Seconds()/max(p.delay.Seconds(), 0.1))
	}
	r := p.rate * paceShy
	if more := p.used - p.hold; more > 0 {
		r += p.rate * p.step * (math.Exp2(more.Seconds()/max(1, 8*p.delay.Seconds(), 4/p.rate)) - 1)
	}
	return r
}

// refused takes in that the server refused a request, the first of those that
// are refused together, and takes none before resume. It was the nth that left,
// at sent. Told is the rate that the server's headers tell of, 0 for none.
func (p *pace) refused(now, sent time.Time, n float64, resume time.Time, told float64) {
	p.delay = now.Sub(sent)
	was, most := p.rate, p.current()
	cost := resume.Sub(now) + seconds64(float64(p.lost)/max(was, 1))
	switch {
	case was == 0 && told > 0:
		p.burst = max(1, p.ledger.within(sent, n, time.Second))
		p.rate, p.hold, p.whole, p.step = told, minHold, p.burst, paceStep
	case was == 0:
		p.burst = max(1, p.ledger.within(sent, n, time.Second))
		p.rate, p.rough, p.whole = paceStart, true, p.burst
	case p.ledger.before(n) == 0:
		p.rate, p.rough, p.hold, p.step = most/2, false, minHold, paceEager
	default:
		p.fit(sent, n, most)
		if p.rough {
			// What the bucket gained in a pause may have carried it so far, or not:
			// to be too fast is found out sooner than to be too slow.
			p.rate = math.Sqrt(p.rate * most)
		}
		if told > 0 && told < 0.98*p.told {
			p.rate = told // nobody has tried that
		}
		if !p.rough && math.Abs(p.rate-was) < 0.1*was {
			p.step = max(p.step/3, paceStep)
			p.hold = max(minHold, min(3*p.hold, paceCost*cost, longHold))
		} else {
			p.hold, p.step = minHold, paceEager
		}
		if !p.rough && most > 1.03*p.rate && p.burst > 1.5*p.least {
			p.burst = math.Sqrt(p.burst * p.least)
		}
		p.rough = false
	}
	p.rate, p.least = max(p.rate, paceFloor), max(p.least, 1)
	p.used, p.last, p.lost, p.lowest, p.told = 0, resume, 1, n, told
	p.ledger.begin(sent, n)
}

// fit sets the rate to what the refusal of the nth request says that it is.
func (p *pace) fit(sent time.Time, n, most float64) {
	if !p.rough && p.used < p.hold {
		// What seemed to be the rate was too fast: the burst must have been larger.
		p.least = p.burst
		p.burst = min(2*p.burst, p.whole)
	}
	lo, hi := p.ledger.fit(sent, n, p.burst, most)
	p.rate = min(math.Sqrt(lo*hi), most)
}

// also takes in a further refusal of a request that left before the last cut.
func (p *pace) also(sent time.Time, n float64, resume time.Time) {
	p.lost++
	p.last = resume
	if n < p.lowest && p.rough {
		p.burst = max(1, p.burst-(p.lowest-n))
		p.lowest = n
	}
	p.ledger.begin(sent, n)
}

// A ledger is what the server took since it last refused a request: then its
// bucket was empty.
type ledger struct {
	start time.Time                 // of the account
	first float64                   // the number of the first in it
	last  float64                   // the number of the last in it
	times [ledgerSize]time.Duration // since epoch, by number
	units [ledgerSize]float32       // of each
	epoch time.Time
}

const ledgerSize = 256

// add notes that the nth request leaves.
func (l *ledger) add(t time.Time, n, units float64) {
	if l.epoch.IsZero() {
		l.epoch, l.start, l.first = t, t, n
	}
	l.times[int(n)%ledgerSize], l.units[int(n)%ledgerSize] = t.Sub(l.epoch), float32(units)
	l.last = n
}

// begin starts a new account after the nth.
func (l *ledger) begin(t time.Time, n float64) {
	if n >= l.first {
		l.start, l.first = t, n+1
	}
}

// before is how many in the account left before the nth.
func (l *ledger) before(n float64) float64 { return n - l.first }

// latest is when the last one left.
func (l *ledger) latest() time.Time { return l.epoch.Add(l.times[int(l.last)%ledgerSize]) }

// nth returns when the nth left, and its units. It must not be before oldest.
func (l *ledger) nth(n float64) (time.Time, float64) {
	i := int(n) % ledgerSize
	return l.epoch.Add(l.times[i]), float64(l.units[i])
}

// oldest is the number of the oldest whose time is known.
func (l *ledger) oldest() float64 { return max(1, l.last-ledgerSize+1) }

// within is how many left before the nth, in the time d before t.
func (l *ledger) within(t time.Time, n float64, d time.Duration) float64 {
	since := t.Sub(l.epoch) - d
	i := n
	for i > l.oldest() && l.times[int(i-1)%ledgerSize] >= since {
		i--
	}
	return n - i
}

// fit returns between which rates that of the server must be, if it is a token
// bucket of this burst that was empty at the start of the account, took all
// that left before the nth, and refused that one: with less than lo it would
// have refused an earlier one, with more than hi not even this one.
func (l *ledger) fit(sent time.Time, n, burst, most float64) (lo, hi float64) {
	solve := func(f func(rate float64) float64) float64 {
		lo, hi := 0., most
		for range 30 {
			if mid := (lo + hi) / 2; f(mid) < 0 {
				lo = mid
			} else {
				hi = mid
			}
		}
		return hi
	}
	lo = solve(func(rate float64) float64 { least, _ := l.replay(sent, n, burst, rate); return least })
	hi = solve(func(rate float64) float64 { _, last := l.replay(sent, n, burst, rate); return last })
	return lo, hi
}

// replay returns how many tokens a bucket would have had left: at least, after
// those that left before the nth, and after that one.
func (l *ledger) replay(sent time.Time, n, burst, rate float64) (least, last float64) {
	at, tokens := l.start.Sub(l.epoch), 0.
	oldest := max(l.first, l.oldest())
	if oldest > l.first {
		t := l.times[int(oldest)%ledgerSize]
		tokens = min(max((t-at).Seconds()*rate-(oldest-l.first), 0), burst)
		at = t
	}
	least = math.Inf(1)
	for i := oldest; i < n; i++ {
		t := l.times[int(i)%ledgerSize]
		tokens = min(tokens+(t-at).Seconds()*rate, burst) - 1
		at, least = t, min(least, tokens)
	}
	return least, min(tokens+(sent.Sub(l.epoch)-at).Seconds()*rate, burst) - 1
}

func seconds64(s float64) time.Duration { return saturate(s * float64(time.Second)) }
