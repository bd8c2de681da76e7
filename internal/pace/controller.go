// Package pace finds out how fast a server takes requests, and says when the next of
// them may leave: by what its headers tell of limits, and by what it took and refused.
//
// It knows requests by number, time and units, and answers by taken or refused. It has
// no clock and no timer, as time is an argument, no goroutine and no lock, and knows
// nothing of HTTP, queues, retries and circuits.
package pace

import (
	"cmp"
	"math"
	"slices"
	"time"

	"golang.org/x/time/rate"

	"github.com/sturdyhttp/sturdy/internal/times"
)

// A Controller is what is known of the limits that some requests share. Its zero value
// knows nothing, and has no limit.
//
// A request asks Told and Learned whether it may leave, then Leave and Depart note that
// it does, and in the end one of Taken, Refused, Lost and Undo what has become of it.
type Controller struct {
	Ceiling rate.Limit // a limit of the caller's, at which nothing need be inferred; zero means none
	Fixed   bool       // nothing is learned
	Bounded bool       // the caller has a limit, so that there is no cold start

	paused time.Time // nobody leaves before
	course course
	bucket *rate.Limiter // holds them to the course; nil while that holds nobody
	spare  bool          // a token was taken from it for one that did not leave
	noise  *noise        // nil before the first refusal
	steady goodput
	slots  slots
	shed   shed
	meters []*meter  // of the newest answer that had any
	known  []*meter  // of all answers
	heard  time.Time // when the newest answer that had any came
	silent int       // successes since then

	left   toll
	cut    float64   // how many had left at the last news
	flying int       // sent, and not answered
	went   time.Time // when the last left
	took   time.Time // when the server was last known to take any
	denied time.Time // when it last refused one
	said   float64   // the rate that was news last
}

// Sent is a request that has left.
type Sent struct {
	At    time.Time // when it left
	Units float64   // of what the server's limits count, if that is not requests

	mark   toll   // what had left by then, it included
	flies  bool   // it counts as in flight
	out    int    // how many were, with it, when it left
	doubts *meter // that held it, but not for long enough to be true; nil if none did
}

// A Refusal is an answer that refuses a request because of a limit.
type Refusal struct {
	Now    time.Time
	Pause  time.Duration // the time that the server asks for; zero if it does not
	Limits []Limit       // that its headers tell of
	Others int           // how many wait
	Paces  bool          // a limit is what refuses, and the others are to leave paced; else the pause is all
}

// A Verdict is what became of all because one was refused.
type Verdict struct {
	Until time.Time // that request is not sent before; zero if it is not held
	Alone bool      // nobody else was there
	News  bool      // it was not sent together with one that was refused before
}

const (
	// MaxPause is the longest that a server's wish holds anybody. One that asks for
	// more, by mistake perhaps, is asked again after it.
	MaxPause = time.Hour
	// Forget is after how long without use what was inferred is forgotten.
	Forget = time.Minute
	// MaxNames is how many limits of a server are known at once.
	MaxNames = 64

	// What headers told of counts until they have been silent for so long, and in
	// so many answers of success.
	heardFor = time.Minute
	heardIn  = 20
)

// Idle reports whether a new controller would do the same.
func (c *Controller) Idle(now time.Time) bool {
	if c.flying > 0 || now.Before(c.paused) {
		return false
	}
	for _, m := range c.meters {
		if !m.idle(now) {
			return false
		}
	}
	learned := c.course.rate > 0 || c.slots.limited()
	return !learned || now.Sub(c.went) > Forget // being asked is no use of it
}

// Told returns how long after now a request of so many units has to wait for what the
// server said, and whether Learned has to be asked: not while a pause lasts.
func (c *Controller) Told(now time.Time, units float64) (wait time.Duration, learned bool) {
	if d := c.paused.Sub(now); d > 0 {
		return d, false
	}
	c.paused = time.Time{}
	for _, m := range c.meters {
		wait = max(wait, m.wait(now, m.cost(units), c.went))
	}
	return wait, true
}

// Learned returns how long after now a request has to wait for what is inferred from
// those that were taken and refused; the longest time if it is until one is answered.
func (c *Controller) Learned(now time.Time) time.Duration {
	d := c.shed.wait(now)
	if !c.Fixed && !c.Bounded {
		d = max(d, c.course.cold(c.flying, now))
	}
	c.slots.forget(now, c.went)
	if c.noise != nil && now.Sub(c.went) > Forget {
		c.noise, c.steady = nil, goodput{}
	}
	if c.slots.limited() {
		if !c.slots.room(c.flying, now) {
			return math.MaxInt64
		}
		return d
	}
	if c.noise.decides() {
		return max(d, c.noise.wait(now))
	}
	c.keepUp(now)
	if c.bucket != nil && !c.spare {
		d = max(d, ShortOf(c.bucket, now))
	}
	return d
}

// ShortOf is how long after now a bucket has a token.
func ShortOf(bucket *rate.Limiter, now time.Time) time.Duration {
	missing := 1 - bucket.TokensAt(now)
	if missing <= 0 {
		return 0
	}
	return times.CeilSeconds(missing / float64(bucket.Limit()))
}

// TurnIn is how long after now what has proved true holds a request with so many ahead
// of it, but for a pause: the least time, and no guess.
func (c *Controller) TurnIn(now time.Time, ahead int, units float64) time.Duration {
	wait := time.Duration(0)
	for _, m := range c.meters {
		if d := m.turnIn(now, ahead, m.cost(units)); m.believed(d) {
			wait = max(wait, d)
		}
	}
	return wait
}

// Paused is until when nobody may leave; past or zero if nobody is held.
func (c *Controller) Paused() time.Time { return c.paused }

// Probes reports whether those that leave find something out at the cost of an attempt:
// the server has taken nobody for a while, or it is looked at whether it refuses by chance.
func (c *Controller) Probes() bool {
	return c.course.dark || c.noise != nil && c.noise.state == refusalsInDoubt
}

// Refusing reports whether the newest answers were refusals.
func (c *Controller) Refusing() bool { return c.course.dark || c.denied.After(c.took) }

// Took is when the server was last known to take a request.
func (c *Controller) Took() time.Time { return c.took }

// InFlight is how many were sent, and not answered.
func (c *Controller) InFlight() int { return c.flying }

// Left is how many have left in all.
func (c *Controller) Left() int { return int(c.left.requests) }

// Leave notes that a request of so many units leaves at now.
func (c *Controller) Leave(now time.Time, units float64) Sent {
	s := Sent{Units: units, flies: true}
	for _, m := range c.meters {
		cost := m.cost(units)
		if m.due(now, cost) > 0 {
			s.doubts = m
		}
		m.spend(now, cost)
	}
	if c.spare {
		c.spare = false
	} else if c.bucket != nil {
		c.bucket.AllowN(now, 1)
	}
	c.flying++
	s.out = c.flying
	c.slots.left(s.out)
	c.shed.leave(now)
	return s
}

// Depart numbers a request, which has left, when it is sent.
func (c *Controller) Depart(s *Sent, now time.Time) {
	c.left.requests++
	c.left.units += s.Units
	c.went = now
	s.At, s.mark = now, c.left
	if c.Fixed {
		return
	}
	if c.course.ledger == nil {
		c.course.ledger = new(ledger)
	}
	c.course.ledger.add(now, c.left.requests, s.Units, c.flying)
	if c.noise != nil {
		c.noise.left(c.left.requests, now)
	}
}

// Undo takes back that a request has left: it was not sent.
func (c *Controller) Undo(s *Sent, now time.Time) {
	c.spare = c.bucket != nil
	for _, m := range c.meters {
		m.spend(now, -m.cost(s.Units))
	}
	c.Lost(s)
}

// Lost notes that nothing will be known of a request.
func (c *Controller) Lost(s *Sent) {
	c.land(s)
	c.slots.lost(s.out)
	c.became(s, outcomeNothing, c.went)
}

// became tells noise what became of a request.
func (c *Controller) became(s *Sent, what outcome, now time.Time) {
	n := c.noise
	if n == nil || s.mark.requests == 0 {
		return
	}
	pace := c.course.current()
	if c.course.rate == 0 {
		pace = c.course.ledger.before(s.mark.requests) / max(s.At.Sub(c.course.ledger.start), slowTrip).Seconds()
	}
	decided := n.decides()
	n.became(s.mark.requests, what, pace, c.odd(), now)
	if decided && !n.decides() {
		c.course.last = now
		c.drain(now, now)
	}
}

// odd reports whether no limit that is known explains the refusals.
func (c *Controller) odd() bool {
	told := slices.ContainsFunc(c.meters, func(m *meter) bool { return m.proof == proved })
	return c.course.crowd >= crowded && !c.course.dark && !c.slots.limited() && !told
}

func (c *Controller) land(s *Sent) {
	if s.flies {
		s.flies = false
		c.flying--
	}
}

// Taken notes that the server took a request, or that at least nothing is known
// to the contrary. With ok it was a success.
func (c *Controller) Taken(s *Sent, ok bool, now time.Time, limits []Limit) {
	flying := c.flying
	c.land(s)
	c.took = now
	if s.doubts != nil && ok {
		s.doubts.disprove()
	}
	if c.Fixed {
		return
	}
	c.became(s, 0, now)
	if ok {
		c.steady.took(now)
		c.slots.passed(s.out, s.At)
		c.tookAmongBusy(s, now)
	} else {
		c.slots.lost(s.out)
	}
	c.course.taken(flying)
	if s.mark.requests > c.cut {
		c.course.lit(now)
	}
	c.hear(s, true, now, limits)
	if ok && len(limits) == 0 && len(c.meters) > 0 {
		c.unheard(now)
	}
}

// Refused holds everybody as long as the server wants, because it refused a request.
func (c *Controller) Refused(s *Sent, r Refusal) Verdict {
	now := r.Now
	c.land(s)
	c.denied = now
	c.Hear(s, now, r.Limits)
	v := Verdict{Alone: c.flying == 0 && r.Others == 0}
	if r.Paces && !c.Fixed {
		if c.noise == nil {
			c.noise = newNoise(c.left.requests)
		}
		what := outcomeRefused
		if slices.ContainsFunc(r.Limits, func(l Limit) bool { return l.Remaining == 0 }) {
			what = outcomeNothing // the server says itself which limit it is
		}
		c.became(s, what, now)
		if c.noise.state == refusalsByChance {
			return v
		}
	}
	if until := now.Add(r.Pause); r.Pause > 0 {
		c.paused = times.Later(c.paused, until)
	}
	resume := times.Later(now, c.paused)
	// Requests that were on their way together are refused together: that is
	// one piece of news.
	v.News = s.mark.requests > c.cut
	if v.News {
		c.cut = c.left.requests
		c.steady.refused()
		c.course.floor = c.steady.floor()
	}
	if r.Paces && !c.Fixed && !c.blind(s) {
		c.infer(s, resume, v, r)
	}
	if resume.After(now) {
		c.course.restart()
	}
	c.drain(now, resume)
	if !resume.After(now) && c.course.rate == 0 {
		return v
	}
	c.keepUp(resume)
	v.Until = resume
	if c.bucket != nil {
		v.Until = resume.Add(ShortOf(c.bucket, resume))
	}
	return v
}

// Busy takes in that the server says that it has too much to do, and reports whether that
// is how it refuses what is over a limit: then it is Refused, with Paces. In doubt, that
// is being found out.
func (c *Controller) Busy(s *Sent, now time.Time) (limit, doubt bool) {
	if c.Fixed || c.course.ledger == nil {
		return false, false
	}
	was := c.shed.state
	l := c.course.ledger
	if len(c.meters) > 0 || c.course.rate > 0 {
		l = nil // what paces them makes their refusals alike
	}
	c.shed.busy(c.answered(s, now), l)
	if c.shed.limit() && c.course.dark && now.Sub(c.course.since) > shedDark {
		c.shed = shed{} // it is down
	}
	if c.shed.limit() && c.shed.slots > 0 && !c.slots.limited() && was == shedLimit {
		c.shed.clear()
	}
	c.shedChanged(was, now)
	if !c.shed.limit() && c.course.rate == 0 {
		c.course.ledger.begin(s.At, s.mark.requests)
	}
	return c.shed.limit(), c.shed.state == shedSuspected
}

func (c *Controller) answered(s *Sent, now time.Time) answered {
	a := answered{n: s.mark.requests, out: s.out, sent: s.At, now: now, left: c.left.requests}
	if c.course.rate > 0 && !c.slots.limited() {
		a.pace = c.course.current()
	}
	return a
}

// tookAmongBusy takes in that a request was taken.
func (c *Controller) tookAmongBusy(s *Sent, now time.Time) {
	was := c.shed.state
	c.shed.took(c.answered(s, now))
	c.shedChanged(was, now)
}

// shedChanged has requests leave as what is held of 503s says now.
func (c *Controller) shedChanged(was shedState, now time.Time) {
	switch is := c.shed.state; {
	case is == was:
	case is == shedLimit && c.shed.slots > 0:
		c.slots = slots{state: slotsLimited, most: c.shed.slots, patient: slotsLook, taken: [2]int{c.shed.slots}}
	case is == shedLimit && c.shed.rate > 0 && c.course.rate == 0:
		c.course.rate, c.course.rough, c.course.shy = c.shed.rate, true, paceShy
		c.course.used, c.course.last = 0, now
		c.drain(now, now)
	case was == shedLimit:
		c.course, c.slots = course{ledger: c.course.ledger, warm: true}, slots{}
		c.drain(now, now)
	}
}

// infer takes in what a refusal tells of what the server does not.
func (c *Controller) infer(s *Sent, resume time.Time, v Verdict, r Refusal) {
	c.slots.refused(s.out, s.At, r.Now, resume, v.News)
	j := rejection{
		n: s.mark.requests, sent: s.At, now: r.Now, resume: resume,
		told: c.meterRate(), alone: v.Alone, others: c.flying + r.Others,
	}
	switch {
	case c.slots.limited(), c.noise.decides():
		c.course.ledger.begin(s.At, s.mark.requests)
	case v.News:
		for _, m := range c.meters {
			m.trust = max(0.98*m.trust, 0.5)
		}
		c.course.refused(j)
	default:
		c.course.also(j)
	}
}

// blind reports whether a request left before the server's headers had told of
// its limits, so that its refusal says nothing against them.
func (c *Controller) blind(s *Sent) bool {
	return slices.ContainsFunc(c.meters, func(m *meter) bool { return !s.At.After(m.born) })
}

// Hear takes in what an answer that is no success says of the server's limits.
func (c *Controller) Hear(s *Sent, now time.Time, limits []Limit) { c.hear(s, false, now, limits) }

func (c *Controller) hear(s *Sent, ok bool, now time.Time, limits []Limit) {
	if c.Fixed || len(limits) == 0 {
		return
	}
	c.heard, c.silent = now, 0
	a := hearing{ok: ok, sole: len(limits) == 1, sent: s.At, now: now, mark: s.mark}
	newest := true
	for _, m := range c.meters {
		newest = newest && s.mark.requests > m.mark.requests
	}
	if newest {
		c.meters = c.meters[:0]
	}
	for _, l := range limits {
		if !l.meterable() {
			continue
		}
		m := c.meterOf(l)
		if m == nil {
			continue
		}
		m.hear(l, a, c.left, c.course.ledger)
		if newest && !slices.Contains(c.meters, m) { // told of twice, in two dialects
			c.meters = append(c.meters, m)
		}
	}
}

// meterOf returns what is known of a limit. If there is no room for one more,
// what was not heard of for longest is forgotten; nil if that counts now.
func (c *Controller) meterOf(l Limit) *meter {
	if i := slices.IndexFunc(c.known, func(m *meter) bool { return m.name == l.Name && m.unit == l.Unit }); i >= 0 {
		return c.known[i]
	}
	if len(c.known) == MaxNames {
		oldest := slices.MinFunc(c.known, func(a, b *meter) int { return cmp.Compare(a.mark.requests, b.mark.requests) })
		if slices.Contains(c.meters, oldest) {
			return nil
		}
		c.known = slices.DeleteFunc(c.known, func(m *meter) bool { return m == oldest })
	}
	m := &meter{name: l.Name, unit: l.Unit, each: 1}
	c.known = append(c.known, m)
	return m
}

// unheard notes an answer without a word of limits, though others had told of
// them. If there are only such answers, nothing is known any more.
func (c *Controller) unheard(now time.Time) {
	c.silent++
	if c.silent >= heardIn && now.Sub(c.heard) >= heardFor {
		c.meters = nil
		c.course.restart()
	}
}

// A State is what a controller knows.
type State struct {
	Rate      rate.Limit // requests per second that may leave now; rate.Inf if no limit is known
	Burst     float64    // requests that the server takes at once, as far as is known
	Told      bool       // Rate is the server's word, and not inferred
	Remaining float64    // units left in the tightest limit that headers tell of; -1 if they tell of none
}

// State returns what is known at now.
func (c *Controller) State(now time.Time) State {
	s := State{Rate: rate.Inf, Remaining: -1}
	for _, m := range c.meters {
		if left := max(m.levelAt(now), 0); s.Remaining < 0 || left < s.Remaining {
			s.Remaining = left
		}
		if r := m.perSecond(); r > 0 && rate.Limit(r) < s.Rate {
			s.Rate, s.Burst, s.Told = rate.Limit(r), m.limit/m.price(), true
		}
	}
	if r := rate.Limit(c.course.current()); c.course.rate > 0 && !c.slots.limited() && r < s.Rate {
		s.Rate, s.Burst, s.Told = r, c.course.burst, false
	}
	return s
}

// News returns the rate that the server allows, if it is another than the last
// that News returned, by more than a tenth.
func (c *Controller) News() (perSecond float64, ok bool) {
	r := c.meterRate()
	if p := c.course.rate; p > 0 && !c.course.guess() && !c.slots.limited() && (r == 0 || p < r) {
		r = p
	}
	if r == 0 || math.Abs(r-c.said) <= c.said/10 {
		return 0, false
	}
	c.said = r
	return r, true
}

// meterRate is how many requests a second the server's headers allow; 0 if they
// do not say.
func (c *Controller) meterRate() float64 {
	least := 0.
	for _, m := range c.meters {
		if r := m.perSecond(); r > 0 && (least == 0 || r < least) {
			least = r
		}
	}
	return least
}

// Reset forgets what was learned.
func (c *Controller) Reset(now time.Time) {
	c.paused, c.course, c.slots = time.Time{}, course{ledger: c.course.ledger}, slots{}
	c.noise, c.steady, c.shed = nil, goodput{}, shed{}
	c.meters, c.known, c.silent = nil, nil, 0
	if c.course.ledger != nil {
		c.course.ledger.refill(now)
	}
	c.bucket, c.spare = nil, false
}

// drain makes the bucket new, empty but for one token after a pause: nothing
// accrues while nobody may leave, and there is no burst after it.
func (c *Controller) drain(now, resume time.Time) {
	c.spare, c.bucket = false, nil
	if c.course.rate > 0 {
		c.bucket = Drained(rate.Limit(c.course.current()), 1, now, resume)
	}
}

// Drained returns a bucket for which nothing accrues from now on to resume. One may
// leave then, unless that is too soon after the last.
func Drained(limit rate.Limit, burst int, now, resume time.Time) *rate.Limiter {
	b := rate.NewLimiter(limit, burst)
	b.AllowN(times.Later(now, resume.Add(-times.CeilSeconds(1/float64(limit)))), burst)
	return b
}

// keepUp brings the bucket up to date with the course.
func (c *Controller) keepUp(now time.Time) {
	if c.course.rate == 0 {
		return
	}
	limit := rate.Limit(c.course.at(now))
	if limit >= cmp.Or(c.Ceiling, rate.Inf) {
		c.bucket = nil // it holds nobody, until the next refusal
	}
	if c.bucket == nil {
		return
	}
	c.bucket.SetLimitAt(now, limit)
	// At a high rate timers are late by more than a request's time.
	c.bucket.SetBurstAt(now, max(1, min(int(limit/200), int(c.course.burst))))
}
