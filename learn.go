package sturdy

import (
	"math"
	"time"
)

// A pace is the rate at which requests leave once a server has refused one of
// them: learned from its refusals alone, and forgotten when it is so high that
// it means nothing, or was not used for long.
//
// It is cut to 0.9 of what the server was last seen to take, and grows back as
// CUBIC does in TCP (RFC 9438), but in proportion to the rate itself, so that
// it serves 2 requests a second as well as 500. As long as nothing but a burst
// was refused, and when the server takes far more than it did, it doubles each
// second instead. It grows only while it is used: a rate that was not tried
// says nothing of the server.
type pace struct {
	peak  float64       // requests per second that the server was seen to take; 0 if it refused none
	grown time.Duration // time in use since the last cut
	last  time.Time     // when it was used last
	rough bool          // peak says what a burst was, not what the rate is

	window time.Time // when counting began
	taken  int       // requests that the server took since
	before int       // and in the window before
}

const (
	paceStart   = 10.             // per second: where nothing but a burst was seen
	paceCut     = 0.9             // of the peak
	paceFast    = 0.7             // of the rate that was too fast: the least that is made of it
	paceMoved   = 1.25            // of the peak: if the server takes that, its limit has changed
	paceHold    = 2 * time.Second // until the rate is back at the peak
	paceFloor   = 1.              // per second: the least that is tried
	paceNothing = 10_000.         // per second: no limit to speak of
	paceWindow  = 10 * time.Second
	paceForget  = time.Minute
)

// note counts a request that the server took.
func (p *pace) note(now time.Time) {
	if age := now.Sub(p.window); age >= paceWindow {
		p.before = p.taken
		if age >= 2*paceWindow {
			p.before = 0
		}
		p.taken, p.window = 0, now
	}
	p.taken++
}

// late counts a request that the server took although it left before the last
// cut: then the burst that was refused was not as small as it looked.
func (p *pace) late() {
	if p.rough {
		p.peak++
	}
}

// seen is the rate at which the server took requests lately. It is rough if
// there was less than a second to see it.
func (p *pace) seen(now time.Time) (perSecond float64, rough bool) {
	elapsed := now.Sub(p.window)
	if p.before > 0 {
		return float64(p.before+p.taken) / (paceWindow + elapsed).Seconds(), false
	}
	return float64(p.taken) / max(elapsed.Seconds(), 1), elapsed < time.Second
}

// cut takes in that the server refused a request at now, and takes none before
// resume.
func (p *pace) cut(now, resume time.Time) {
	seen, rough := p.seen(now)
	switch current := p.rate(); {
	case !math.IsInf(current, 1):
		p.peak, p.rough = min(max(seen, paceFast*current), current), false
	case rough:
		p.peak, p.rough = max(seen, paceStart), true
	default:
		p.peak, p.rough = seen, false
	}
	p.peak = max(p.peak, paceFloor)
	p.grown, p.last = 0, resume
	p.window, p.taken, p.before = resume, 0, 0
}

// use lets the pace grow up to now. Gaps of more than two requests' time do not
// count: so it stays below twice the rate at which requests really leave.
func (p *pace) use(now time.Time) {
	idle := now.Sub(p.last)
	if p.peak == 0 || idle <= 0 {
		return
	}
	if idle > paceForget {
		p.peak = 0
		return
	}
	p.grown += min(idle, time.Duration(2/p.rate()*float64(time.Second)))
	p.last = now
}

// rate is the pace in requests per second, and +Inf if nobody has to be slow.
func (p *pace) rate() float64 {
	if p.peak == 0 {
		return math.Inf(1)
	}
	t, hold := p.grown.Seconds(), paceHold.Seconds()
	moved := hold * (1 + math.Cbrt((paceMoved-1)/(1-paceCut)))
	var r float64
	switch x := (t - hold) / hold; {
	case p.rough:
		r = p.peak * paceCut * math.Exp2(t)
	case t <= moved:
		r = p.peak * (1 + (1-paceCut)*x*x*x)
	default:
		r = p.peak * paceMoved * math.Exp2(t-moved)
	}
	if r >= paceNothing {
		return math.Inf(1)
	}
	return r
}
