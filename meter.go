package sturdy

import (
	"math"
	"time"
)

// A meter follows one limit of the server as its headers tell of it: how many
// units are left now, and when there will be more.
//
// There are two kinds. A window has so many units until it ends, and all of
// them again after that; its end stays where it is while units are spent. A
// token bucket fills little by little; its reset is the time until it is full,
// and moves away as units are spent. Headers do not say which it is, but show
// it.
type meter struct {
	name, unit string // as the headers call it; empty for the caller's own

	limit  float64   // units in a full bucket, or in a window
	level  float64   // units left at
	at     time.Time //
	rate   float64   // units per second that a bucket gains
	ends   time.Time // when a window ends
	trust  float64   // how much of rate is believed; 1 unless requests were refused for which there was room
	born   time.Time // when it was heard of first
	window bool      // not a bucket
	mark   toll      // what had left when the newest answer's request did
	anchor sighting  // what the kind is told by
	fine   bool      // resets are not in whole seconds
	proof  proof     // that it is as it is told
	seen   float64   // units left, in the newest answer

	each       float64  // units that the server charges for one of Cost's; 0 if unknown
	perRequest float64  // and for a request
	priced     sighting // what that was learned by, with the time it was sent at
}

// A toll counts what has left a gate since it is there.
type toll struct{ requests, units float64 }

// A proof is what speaks for a limit that headers tell of.
type proof uint8

const (
	unproven  proof = iota
	disproved       // a request was taken for which there was no room
	counted         // what is left has fallen as requests were sent
	proved          // a request was refused when nothing was left, or it is the caller's own
)

// A sighting is what an answer said of a limit.
type sighting struct {
	mark toll
	left float64
	ends time.Time
}

const (
	// A reset that is no longer than this is taken for a bucket's until it
	// shows: with a window that short, the difference is small.
	shortReset = 5 * time.Second
	// Once a window has ended by the clock alone, one request at a time may see
	// whether it has, each so long after the last. The same is true of a limit
	// that is not proved.
	lookAgain = time.Second
	// meterShy keeps a meter from being ahead of the server's by a rounding.
	meterShy = 0.999
	// meterTrust is what each request that is taken gives back of a meter's trust.
	meterTrust = 0.0005
	// meterWeight is that of one request's news in what is learned of prices.
	meterWeight = 0.1
)

// wait is how long after now a request of n units may leave, if the last left at
// went.
func (m *meter) wait(now time.Time, n float64, went time.Time) time.Duration {
	d := m.due(now, n)
	switch {
	case d == 0 || m.believed(d):
		return d
	case m.proof == disproved:
		return 0
	}
	return min(d, max(went.Add(lookAgain).Sub(now), 0)) // one may see whether it is true
}

// believed reports whether there is proof enough to wait for so long.
func (m *meter) believed(d time.Duration) bool {
	return m.proof == proved || m.proof == counted && d <= maxHold
}

// disprove notes that a request was taken for which there was no room.
func (m *meter) disprove() { m.proof = disproved }

// due is how long after now there will be n units, as far as headers tell.
func (m *meter) due(now time.Time, n float64) time.Duration {
	n = min(n, m.limit)            // too much for the bucket: when it is full
	if !m.window && m.unit != "" { // of the server
		// Requests may overtake each other on their way to the server.
		n = min(n+min((m.limit-1)/5, m.rate/5, 2), m.limit)
	}
	if m.window && !now.Before(m.ends) {
		return 0 // whatever it costs: only an answer tells how much there is now
	}
	have := m.levelAt(now)
	switch {
	case have >= n:
		return 0
	case m.window:
		return max(m.ends.Sub(now), 1)
	case m.rate == 0:
		return 0 // nothing is known of when there will be more
	}
	return ceilSeconds((n - have) / (m.rate * m.trust))
}

// turnIn estimates how long after now it is the turn of a request with so many
// ahead of it, if they cost as much.
func (m *meter) turnIn(now time.Time, ahead int, cost float64) time.Duration {
	cost = min(cost, m.limit)
	missing := float64(ahead+1)*cost - m.level
	if dt := now.Sub(m.at); !m.window && dt > 0 {
		missing -= dt.Seconds() * m.rate * m.trust
	}
	switch {
	case missing <= 0:
		return 0
	case m.window:
		return max(m.ends.Sub(now), 0)
	case m.rate == 0:
		return 0
	}
	return ceilSeconds(missing / (m.rate * m.trust))
}

// levelAt brings the level up to now.
func (m *meter) levelAt(now time.Time) float64 {
	switch dt := now.Sub(m.at); {
	case dt <= 0:
	case !m.window:
		m.level, m.at = min(m.level+dt.Seconds()*m.rate*m.trust, m.limit), now
	case !now.Before(m.ends):
		m.level, m.at = 1, now
		m.ends = now.Add(lookAgain)
	}
	return m.level
}

// idle reports whether a new meter would do the same.
func (m *meter) idle(now time.Time) bool {
	switch {
	case m.window:
		return !now.Before(m.ends)
	case m.rate == 0:
		return true // it holds nobody up
	}
	return m.levelAt(now) >= m.limit
}

// cost is what the server charges for a request of so many units.
func (m *meter) cost(units float64) float64 {
	if m.unit == "requests" {
		return 1
	}
	return units * m.each
}

// perSecond is how many requests there is room for per second; 0 if unknown.
func (m *meter) perSecond() float64 {
	switch each := m.price(); {
	case each <= 0:
		return 0
	case m.window:
		return m.level / max(m.ends.Sub(m.at).Seconds(), 1) / each
	default:
		return m.rate / each
	}
}

// price is what a request costs on average; 0 if unknown.
func (m *meter) price() float64 {
	if m.unit == "requests" {
		return 1
	}
	return m.perRequest
}

// spend takes n units.
func (m *meter) spend(now time.Time, n float64) {
	m.levelAt(now)
	m.level -= n
}

// hear takes in what the answer to a request says that left at sent, when mark
// had left; by now it is left.
func (m *meter) hear(b Bucket, ok bool, sent, now time.Time, mark, left toll, past *ledger) {
	if m.born.IsZero() {
		m.born, m.trust = now, 1
	}
	fresh := m.at.IsZero() || mark.requests > m.mark.requests
	switch {
	case !ok && b.Remaining == 0:
		m.proof = proved
	case fresh && !m.at.IsZero() && m.proof != proved && float64(b.Remaining) < m.seen:
		m.proof = counted
	}
	if fresh {
		m.seen = float64(b.Remaining)
	}
	if b.Limit >= 0 {
		m.limit = max(float64(b.Limit), 1)
	}
	m.limit = max(m.limit, float64(b.Remaining))
	remaining := float64(b.Remaining)
	switch {
	case b.Reset >= 0:
		m.tell(sighting{mark, remaining, now.Add(b.Reset)}, b, ok, fresh)
	case !m.window:
		m.rate = m.limit / b.Window.Seconds() * meterShy
	}
	if m.rate > 0 { // one may look
		m.rate = max(m.rate, max(m.cost(1), 1)/maxPause.Seconds())
	}
	if fresh && ok {
		m.trust = min(m.trust+meterTrust, 1)
	}
	if fresh && m.unit != "requests" {
		m.charge(remaining, mark, sent)
	}
	level := m.follow(remaining, sent, now, mark, left, past)
	switch {
	case fresh:
		m.level, m.at, m.mark = level, now, mark
		if m.window && b.Reset >= 0 {
			m.ends = now.Add(min(b.Reset, maxPause))
		}
	case level < m.levelAt(now) && !m.window:
		m.level = level // an answer that is late never raises it
	}
}

// follow returns what is left now of what was left at sent.
func (m *meter) follow(level float64, sent, now time.Time, mark, left toll, past *ledger) float64 {
	refill := 0.
	if !m.window {
		refill = m.rate * m.trust
	}
	if refill > 0 && mark.requests+1 >= past.old {
		// One by one, as what a full bucket does not gain is lost.
		at := sent
		for n := mark.requests + 1; n <= left.requests; n++ {
			t, units := past.nth(n)
			level = min(level+t.Sub(at).Seconds()*refill, m.limit) - m.cost(units)
			at = t
		}
		return min(level+now.Sub(at).Seconds()*refill, m.limit)
	}
	gone := left.requests - mark.requests
	if m.unit != "requests" {
		gone = (left.units - mark.units) * m.each
	}
	return min(level+now.Sub(sent).Seconds()*refill-gone, m.limit)
}

// tell finds out what kind of limit this is, and how fast a bucket fills.
func (m *meter) tell(s sighting, b Bucket, ok, fresh bool) {
	spent := m.limit - s.left
	reset := b.Reset.Seconds()
	if spent < 1 || reset <= 0 {
		return
	}
	rate := spent / reset
	if b.Reset%time.Second != 0 {
		m.fine = true
	}
	exact := time.Second
	if m.fine {
		exact = time.Millisecond
	}
	if fresh {
		m.sight(s, b, rate, exact)
	}
	if b.Window > 0 && !m.window {
		m.rate = m.limit / b.Window.Seconds() * meterShy
		return
	}
	// Remaining and reset are rounded. Only of a bucket that was full before, it
	// is known how much is missing.
	lo, hi := (spent-1)/(reset+exact.Seconds()), math.Inf(1)
	if reset > exact.Seconds() {
		hi = spent / (reset - exact.Seconds())
	}
	switch full := ok && spent == 1 && (m.limit == 1 || m.rate == 0); {
	case full:
		lo, hi = rate, rate
	case m.rate == 0:
		m.rate = (spent - 0.5) / reset * meterShy
	}
	if !fresh && m.rate != 0 {
		lo = 0 // what is late never raises anything
	}
	m.rate = min(max(m.rate, lo*meterShy), hi*meterShy)
}

// sight finds out what kind of limit this is.
func (m *meter) sight(s sighting, b Bucket, rate float64, exact time.Duration) {
	a := &m.anchor
	switch moved := s.ends.Sub(a.ends); {
	case a.ends.IsZero() || s.left > a.left:
		if a.ends.IsZero() {
			m.window = b.Reset > shortReset && m.limit-s.left < m.limit/2 && math.Abs(math.Log(m.limit/rate/60)) > 0.2
		}
		*a = s
	default:
		// A bucket's reset moves by the time that it takes to fill what was
		// spent, a window's not at all.
		expected := seconds64((a.left - s.left) / rate)
		if expected < 4*max(exact, 50*time.Millisecond) {
			break
		}
		m.window = moved < expected/2
		*a = s
	}
}

// charge learns what the server charges for a unit, from how many are left.
func (m *meter) charge(remaining float64, mark toll, sent time.Time) {
	p, refill := &m.priced, m.rate
	if m.window {
		refill = 0
	}
	units, requests := mark.units-p.mark.units, mark.requests-p.mark.requests
	if fell := p.left + sent.Sub(p.ends).Seconds()*refill - remaining; !p.ends.IsZero() && fell > 0 && units > 0 {
		w := 1 - math.Pow(1-meterWeight, requests)
		if m.each == 0 {
			w = 1
		}
		m.each += (fell/units - m.each) * w
		m.perRequest += (fell/requests - m.perRequest) * w
	}
	*p = sighting{mark, remaining, sent}
}

// meterable reports whether b can be followed: it counts what is known of a
// request, and says how much is left, and when there is more.
func meterable(b Bucket) bool {
	return b.Remaining >= 0 && (b.Reset >= 0 || b.Window > 0) &&
		(b.Unit == "requests" || b.Unit == "tokens" || b.Unit == "input-tokens" || b.Unit == "output-tokens")
}
