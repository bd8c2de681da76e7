package pace

import (
	"math"
	"time"

	"github.com/sturdyhttp/sturdy/internal/times"
)

// A meter follows one limit of the server as its headers tell of it: how many
// units are left now, and when there will be more.
//
// There are two kinds. A window has so many units until it ends, and all of
// them again after that; its end stays where it is while units are spent. A
// token bucket fills little by little; its reset is the time until it is full,
// and moves away as units are spent. Headers do not say which it is, but show
// it.
//
// How fast a bucket fills is told by its reset, and by what becomes of what is left:
// the units that were spent while it did not fall have come in. Each of the two tells
// between which rates it is, and no more: what is left is rounded, and a reset may be
// to whole seconds. One that is not known well holds nobody too long.
type meter struct {
	name, unit string // as the headers call it

	limit  float64       // units in a full bucket, or in a window
	level  float64       // units left at
	at     time.Time     //
	rate   float64       // units per second that a bucket gains; 0 if unknown
	ends   time.Time     // when a window ends, or may be looked at again
	until  time.Time     // when it ends as it was told
	period time.Duration // how long after that the next one does; 0 until one was seen to begin full
	trust  float64       // how much of rate is believed; 1 unless requests were refused for which there was room
	born   time.Time     // when it was heard of first
	window bool          // not a bucket
	mark   toll          // what had left when the newest answer's request did
	anchor sighting      // what the kind is told by
	fine   bool          // resets are not in whole seconds
	sharp  bool          // an answer has told well how fast a bucket fills
	proof  proof         // that it is as it is told
	seen   float64       // units left, in the newest answer

	told   float64 // the limit, as headers have it; 0 if they do not
	most   float64 // units left, at most, after a request that was taken
	least  float64 // the same, at least
	short  bool    // it was empty sooner than what is told allows
	floor  float64 // what is told to be left when nothing is
	refill refill  // how fast a bucket has filled
	belied bool    // that was not as it was told

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
	proved          // a request was refused when nothing was left
)

// A hearing is what there is to know of an answer besides what it says of a limit.
type hearing struct {
	ok   bool      // it does not refuse the request
	sole bool      // it tells of no other limit
	sent time.Time // when the request left
	now  time.Time // when the answer came
	mark toll      // what had left with the request
}

// A sighting is what an answer said of a limit.
type sighting struct {
	mark toll
	left float64
	ends time.Time
}

// A refill is how many units have come into a bucket, and in how long. What is older
// counts less.
type refill struct {
	units, seconds float64
	from           sighting // up to here; its time is when the request was sent
}

const (
	// A reset that is no longer than this is taken for a bucket's until it
	// shows: with a window that short, the difference is small.
	shortReset = 5 * time.Second
	// A reset that is shorter, and in whole seconds, tells no rate.
	sharpReset = 5 * time.Second
	// Once a window has ended by the clock alone, one request at a time may see
	// whether it has, each so long after the last. The same is true of a limit
	// that is not proved.
	lookAgain = time.Second
	// meterShy keeps a meter from being ahead of the server's by a rounding.
	meterShy = 0.999
	// A limit that has not refused any is not believed to hold a request for longer.
	maxCounted = 2 * time.Minute
	// meterTrust is what each request that is taken gives back of a meter's trust.
	meterTrust = 0.0005
	// With less trust, what headers tell of the rate is not heard, once it is known by
	// what has come in: that is after half a dozen refusals.
	meterBelied = 0.9
	// meterWeight is that of one request's news in what is learned of prices.
	meterWeight = 0.1
	// A refill is looked at each so many requests, or each second if that is sooner:
	// then what jitter adds to a time is little of it.
	refillRequests = 10
	// What a refill tells is as old as this many requests, on average: so many tell
	// the rate to 2 %, as two units are uncertain.
	refillMemory = 100
	// followSteps is in how many steps what has left since an answer is gone through,
	// at most: thousands may be out, and each has an answer.
	followSteps = 128
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
	return m.proof == proved || m.proof == counted && d <= maxCounted
}

// disprove notes that a request was taken for which there was no room.
func (m *meter) disprove() { m.proof = disproved }

// due is how long after now there will be n units, as far as headers tell.
func (m *meter) due(now time.Time, n float64) time.Duration {
	n = min(n, m.limit) // too much for the bucket: when it is full
	if !m.window {
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
	return times.CeilSeconds((n - have) / (m.rate * m.trust))
}

// turnIn estimates how long after now it is the turn of a request with so many
// ahead of it, if they cost as much. A rate that is not told well tells nothing of that:
// nobody is to be refused for it.
func (m *meter) turnIn(now time.Time, ahead int, cost float64) time.Duration {
	if !m.window && !m.sharp {
		return 0
	}
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
	return times.CeilSeconds(missing / (m.rate * m.trust))
}

// levelAt brings the level up to now.
func (m *meter) levelAt(now time.Time) float64 {
	switch dt := now.Sub(m.at); {
	case dt <= 0:
	case !m.window:
		m.level, m.at = min(m.level+dt.Seconds()*m.rate*m.trust, m.limit), now
	case now.Before(m.ends):
	case m.period > 0 && m.ends.Equal(m.until): // not twice without an answer
		m.level, m.at = m.limit, now
		m.ends = now.Add(m.period)
	default:
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

// hear takes in what an answer says, before which so many have left in the past.
func (m *meter) hear(b Limit, a hearing, left toll, past *ledger) {
	if m.born.IsZero() {
		m.born, m.trust, m.least = a.now, 1, math.Inf(1)
	}
	fresh := m.at.IsZero() || a.mark.requests > m.mark.requests
	remaining := m.size(b, a)
	m.weigh(remaining, a.ok, fresh)
	if b.Reset >= 0 {
		m.tell(b, a, remaining, fresh)
	}
	if b.Window > 0 && !m.belied {
		m.assign(b.Window)
	}
	if fresh && m.unit == "requests" {
		m.measure(sighting{a.mark, remaining, a.sent}, a.ok)
	}
	if m.rate > 0 { // one may look
		m.rate = max(m.rate, max(m.cost(1), 1)/MaxPause.Seconds())
	}
	if fresh && a.ok {
		m.trust = min(m.trust+meterTrust, 1)
	}
	if fresh && m.unit != "requests" {
		m.charge(remaining, a.mark, a.sent)
	}
	level := m.follow(remaining, a, left, past)
	switch {
	case fresh:
		if m.window && b.Reset >= 0 {
			m.end(remaining, b.Reset, a)
		}
		m.level, m.at, m.mark, m.seen = level, a.now, a.mark, remaining
	case level < m.levelAt(a.now) && (!m.window || m.same(a.now.Add(b.Reset).Sub(m.until), a)):
		m.level = level // an answer that is late never raises it
	}
}

// size finds out how many units a full bucket has, and returns how many are left.
//
// The limit that is told may be another: that of a minute, over a bucket of some
// seconds. Then either no more is ever left than the bucket has, or less than a part of
// the limit is never left.
func (m *meter) size(b Limit, a hearing) (remaining float64) {
	left := float64(b.Remaining)
	news := !a.ok && a.sent.After(m.born) // before that nobody was held
	if b.Limit >= 0 {
		m.told = float64(b.Limit)
	}
	if a.ok {
		m.most, m.least, m.floor = max(m.most, left), min(m.least, left), min(m.floor, left)
	}
	switch {
	case m.window:
		m.floor = 0 // what is refused with units left is refused by another limit
	case news && a.sole && left <= m.least:
		m.floor = max(m.floor, left)
	}
	m.short = m.short || news && left-m.floor < 1
	m.limit = m.told
	if m.short && m.most+1 < m.told/2 {
		m.limit = m.most + 1
	}
	m.limit = max(m.limit, m.most, left, 1) - m.floor
	return left - m.floor
}

// weigh takes in what speaks for the limit.
func (m *meter) weigh(remaining float64, ok, fresh bool) {
	switch {
	case !ok && remaining == 0:
		m.proof = proved
	case fresh && !m.at.IsZero() && m.proof != proved && remaining < m.seen:
		m.proof = counted
	}
	if !ok && m.level >= 1 {
		m.period = 0 // no window is taken for full before one is seen to be
	}
}

// end notes when a window ends, of which so many units are left.
func (m *meter) end(remaining float64, reset time.Duration, a hearing) {
	ends, exact := a.now.Add(min(reset, MaxPause)), m.exact()
	begun := remaining > m.seen && a.now.After(m.until.Add(-exact))
	switch moved := ends.Sub(m.until); {
	case begun && remaining >= m.limit/2 && m.limit > 1 && !m.until.IsZero():
		m.period = max(moved, 0)
	case !begun && moved >= 0 && m.same(moved, a):
		ends = m.until // the end is late by a rounding and an answer's way: least where it seems the soonest
	}
	m.ends, m.until = ends, ends
}

// same reports whether a window's end that has moved by so much is still the same.
func (m *meter) same(moved time.Duration, a hearing) bool {
	return moved.Abs() <= 2*m.exact()+a.now.Sub(a.sent)
}

// exact is what resets are rounded to.
func (m *meter) exact() time.Duration {
	if m.fine {
		return time.Millisecond
	}
	return time.Second
}

// follow returns what is left now of what was left at sent.
func (m *meter) follow(level float64, a hearing, left toll, past *ledger) float64 {
	rate := 0.
	if !m.window {
		rate = m.rate * m.trust
	}
	gone := left.requests - a.mark.requests
	if rate > 0 && a.mark.requests+1 >= past.old {
		// Step by step, as what a full bucket does not gain is lost.
		at, step := a.sent, math.Ceil(gone/followSteps)
		for n := a.mark.requests; n < left.requests; {
			k := min(step, left.requests-n)
			n += k
			t, units := past.nth(n)
			level = min(level+t.Sub(at).Seconds()*rate, m.limit) - k*m.cost(units)
			at = t
		}
		return min(level+a.now.Sub(at).Seconds()*rate, m.limit)
	}
	if m.unit != "requests" {
		gone = (left.units - a.mark.units) * m.each
	}
	return min(level+a.now.Sub(a.sent).Seconds()*rate-gone, m.limit)
}

// tell finds out by the reset what kind of limit this is, and how fast a bucket fills.
func (m *meter) tell(b Limit, a hearing, left float64, fresh bool) {
	spent := m.limit - left
	reset := b.Reset.Seconds()
	if b.Reset%time.Second != 0 {
		m.fine = true
	}
	if spent < 1 || reset <= 0 {
		return
	}
	exact := m.exact().Seconds()
	sharp := reset >= 2*exact && (m.fine || b.Reset >= sharpReset)
	m.sharp = m.sharp || sharp
	if fresh && sharp {
		m.sight(sighting{a.mark, left, a.now.Add(b.Reset)}, b, spent/reset, a.now.Sub(a.sent), a.ok)
	}
	if b.Window > 0 || m.belied {
		return // a policy says it better, or the answers do
	}
	if !sharp {
		if m.rate == 0 && m.limit*reset == spent*time.Minute.Seconds() {
			m.rate = spent / reset * meterShy // most limits are for a minute
		}
		m.within((spent-1)/(reset+exact), math.Inf(1))
		return
	}
	// Remaining and reset are rounded. Only of a bucket that was full before, it
	// is known how much is missing.
	lo, hi := (spent-1)/(reset+exact), spent/(reset-exact)
	switch full := a.ok && spent == 1 && (m.limit == 1 || m.rate == 0); {
	case full:
		m.rate = spent / reset * meterShy
		return
	case m.rate == 0:
		m.rate = (spent - 0.5) / reset * meterShy
	}
	if !fresh && m.rate != 0 {
		lo = 0 // what is late never raises anything
	}
	m.within(lo, hi)
}

// assign takes in that the limit is for so long. That is in whole seconds: a bucket that
// is full again sooner has more.
func (m *meter) assign(window time.Duration) {
	lo, hi := m.told/window.Seconds(), math.Inf(1)
	if window >= sharpReset {
		m.sharp = true
		hi = m.told / (window - time.Second).Seconds()
	} else if m.limit <= 1 {
		return // nothing would ever tell that it has
	}
	if m.rate == 0 {
		m.rate = lo * meterShy
	}
	m.within(lo, hi)
}

// within takes in that a bucket gains from lo to hi units a second.
func (m *meter) within(lo, hi float64) {
	if m.rate > 0 {
		m.rate = min(max(m.rate, lo*meterShy), hi*meterShy)
	}
}

// measure finds out how fast a bucket fills, by what was spent and has not fallen.
func (m *meter) measure(s sighting, ok bool) {
	r := &m.refill
	switch {
	case m.window || m.limit <= 1:
		return // of which nothing is left after any request, full or not
	case !ok || r.from.ends.IsZero():
		r.from = s // it is not known whether what is refused is charged
		return
	}
	requests, seconds := s.mark.requests-r.from.mark.requests, s.ends.Sub(r.from.ends).Seconds()
	if requests < refillRequests && seconds < 1 {
		return
	}
	gained := requests - (r.from.left - s.left)
	r.from = s
	full := s.left >= m.most-m.floor
	if full && m.rate > 0 && !m.sharp {
		m.rate = max(m.rate, 2*requests/seconds) // it has taken that, and was full nevertheless
	}
	if gained < 0 || full && gained*r.seconds <= r.units*seconds {
		return // what a full bucket does not gain tells nothing
	}
	w := math.Exp(-requests / refillMemory)
	r.units, r.seconds = r.units*w+gained, r.seconds*w+seconds
	if r.units < refillRequests {
		return
	}
	switch {
	case m.rate == 0:
		m.rate = r.units / r.seconds
	case m.trust < meterBelied:
		m.belied, m.trust = true, 1
	case m.sharp && !m.belied:
		return
	}
	m.within((r.units-2)/r.seconds, (r.units+2)/r.seconds)
}

// sight finds out what kind of limit this is.
func (m *meter) sight(s sighting, b Limit, rate float64, trip time.Duration, ok bool) {
	a := &m.anchor
	switch {
	case a.ends.IsZero():
		m.window = b.Reset > shortReset && m.limit-s.left < m.limit/2 && math.Abs(math.Log(m.limit/rate/60)) > 0.2
		*a = s
	case !ok || s.left > a.left:
		*a = s // it may be charged or not
	default:
		// A bucket's reset moves by the time that it takes to fill what was
		// spent, a window's not at all.
		spent := a.left - s.left
		if m.unit == "requests" {
			spent = s.mark.requests - a.mark.requests
		}
		expected := times.Seconds(spent / rate)
		if expected < 4*max(m.exact(), trip, 50*time.Millisecond) {
			break
		}
		window := s.ends.Sub(a.ends) < expected/2
		if window != m.window {
			m.window, m.refill = window, refill{}
		}
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
