package sturdy

import (
	"cmp"
	"math"
	"slices"
	"time"

	"golang.org/x/time/rate"
)

// What a gate makes of the answers to the requests that have left it.

// What headers told of counts until they have been silent for so long, and in
// so many answers of success.
const (
	heardFor = time.Minute
	heardIn  = 20
)

// overloaded notes that an answer says that the server has too much to do, and
// reports whether that is about everybody: not if some others say so anyway.
func (g *gate) overloaded() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.busy++
	return g.busy >= max(fewBusy, g.chance.longest(0.01))
}

// fewBusy is how many answers in a row that the server is overloaded are needed to
// hold everybody: one is only about its request.
const fewBusy = 3

// landed notes that a request which left is not out any more.
func (g *gate) landed(p *pass) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.land(p)
	g.slots.lost(p.out)
	if g.waiting() > 0 {
		g.pump(time.Now())
	}
}

// taken notes that the server took a request, or that at least nothing is known
// to the contrary. With ok it was a success.
func (g *gate) taken(p *pass, ok bool, now time.Time, buckets []Bucket) {
	g.mu.Lock()
	defer g.mu.Unlock()
	flying := g.flying
	g.land(p)
	g.took = now
	if ok {
		g.chance.ended(g.busy, int(g.left.requests))
		g.busy = 0
	}
	if p.doubts != nil && ok {
		p.doubts.disprove()
	}
	if !g.fixed {
		if ok {
			g.slots.passed(p.out, p.at)
		} else {
			g.slots.lost(p.out)
		}
		g.pace.taken(flying)
		if p.mark.requests > g.cut {
			g.pace.lit(now)
		}
		g.hear(p, true, now, buckets)
		if ok && len(buckets) == 0 && len(g.meters) > 0 {
			g.unheard(now)
		}
	}
	if g.waiting() > 0 {
		g.pump(now)
	}
}

// refused holds everybody for d, because the server refused a request, and
// returns until when at least, zero if nobody is held, whether nobody else is
// there, and whether the refusal is news. Those whose turn would now come too late
// are refused. With learn, the others will leave paced.
func (g *gate) refused(p *pass, d time.Duration, learn bool, buckets []Bucket) (until time.Time, alone, news bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	now := time.Now()
	g.land(p)
	g.denied = now
	g.hear(p, false, now, buckets)
	resume, alone := now, g.flying == 0 && g.waiting() == 0
	if until := now.Add(d); d > 0 && until.After(g.paused) {
		g.paused = until
	}
	if g.paused.After(now) {
		resume = g.paused
	}
	// Requests that were on their way together are refused together: that is
	// one piece of news.
	news = p.mark.requests > g.cut
	if news {
		g.cut = g.left.requests
	}
	if learn && !g.fixed && !g.blind(p) {
		g.slots.refused(p.out, p.at, now, resume, news)
		r := rejection{
			n: p.mark.requests, sent: p.at, now: now, resume: resume,
			told: g.meterRate(), alone: alone, others: g.flying + g.waiting(),
		}
		switch {
		case g.slots.limited():
			g.pace.ledger.begin(p.at, p.mark.requests)
		case news:
			for _, m := range g.meters {
				m.trust = max(0.98*m.trust, 0.5)
			}
			g.pace.refused(r)
		default:
			g.pace.also(r)
		}
	}
	if resume.After(now) {
		g.pace.restart()
	}
	g.drain(now, resume)
	g.review(now)
	if !resume.After(now) && g.pace.rate == 0 {
		return time.Time{}, alone, news
	}
	g.paceAt(resume)
	if g.bucket != nil {
		resume = resume.Add(shortOf(g.bucket, resume))
	}
	return resume, alone, news
}

// blind reports whether a request left before the server's headers had told of
// its limits, so that its refusal says nothing against them.
func (g *gate) blind(p *pass) bool {
	return slices.ContainsFunc(g.meters, func(m *meter) bool { return !p.at.After(m.born) })
}

// hear takes in what an answer says of the server's limits.
func (g *gate) hear(p *pass, ok bool, now time.Time, buckets []Bucket) {
	if g.fixed || len(buckets) == 0 {
		return
	}
	g.heard, g.silent = now, 0
	a := hearing{ok: ok, sole: len(buckets) == 1, sent: p.at, now: now, mark: p.mark}
	newest := true
	for _, m := range g.meters {
		newest = newest && p.mark.requests > m.mark.requests
	}
	if newest {
		g.meters = g.meters[:0]
	}
	for _, b := range buckets {
		if !meterable(b) {
			continue
		}
		m := g.meterOf(b)
		if m == nil {
			continue
		}
		m.hear(b, a, g.left, g.pace.ledger)
		if newest && !slices.Contains(g.meters, m) { // told of twice, in two dialects
			g.meters = append(g.meters, m)
		}
	}
}

// hearBusy takes in what an answer says of the server's limits that says of itself that
// the server has too much to do: one of them may be what it has reached.
func (g *gate) hearBusy(p *pass, now time.Time, buckets []Bucket) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.hear(p, false, now, buckets)
}

// meterOf returns what is known of a limit. If there is no room for one more,
// what was not heard of for longest is forgotten; nil if that counts now.
func (g *gate) meterOf(b Bucket) *meter {
	if i := slices.IndexFunc(g.known, func(m *meter) bool { return m.name == b.Name && m.unit == b.Unit }); i >= 0 {
		return g.known[i]
	}
	if len(g.known) == maxLimits {
		oldest := slices.MinFunc(g.known, func(a, b *meter) int { return cmp.Compare(a.mark.requests, b.mark.requests) })
		if slices.Contains(g.meters, oldest) {
			return nil
		}
		g.known = slices.DeleteFunc(g.known, func(m *meter) bool { return m == oldest })
	}
	m := &meter{name: b.Name, unit: b.Unit, each: 1}
	g.known = append(g.known, m)
	return m
}

// unheard notes an answer without a word of limits, though others had told of
// them. If there are only such answers, nothing is known any more.
func (g *gate) unheard(now time.Time) {
	g.silent++
	if g.silent >= heardIn && now.Sub(g.heard) >= heardFor {
		g.meters = nil
		g.pace.restart()
	}
}

// settle takes in that a request used so many tokens.
func (g *gate) settle(p *pass, used float64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	now := time.Now()
	g.tokens.spend(now, used-p.charged)
	g.prices.learn(p.model, p.units, used)
	switch {
	case g.waiting() == 0:
	case used > p.charged:
		g.review(now) // the turns of all come later
	default:
		g.pump(now)
	}
}

// state returns what is known at now.
func (g *gate) state(now time.Time) LimitState {
	g.mu.Lock()
	defer g.mu.Unlock()
	s := LimitState{Rate: rate.Inf, Remaining: -1, Waiting: g.waiting(), InFlight: g.flying}
	if now.Before(g.paused) {
		s.Paused = g.paused
	}
	for _, m := range g.meters {
		if left := max(m.levelAt(now), 0); s.Remaining < 0 || left < s.Remaining {
			s.Remaining = left
		}
	}
	least := func(r, burst float64, source string) {
		if r > 0 && rate.Limit(r) < s.Rate {
			s.Rate, s.Burst, s.Source = rate.Limit(r), burst, source
		}
	}
	least(float64(g.limit), float64(g.burst), "setting")
	for _, m := range g.meters {
		least(m.perSecond(), m.limit/m.price(), "headers")
	}
	if g.pace.rate > 0 && !g.slots.limited() {
		least(g.pace.current(), g.pace.burst, "refusals")
	}
	return s
}

// news returns the rate that the server allows, if it is another than the last
// that news returned, by more than a tenth.
func (g *gate) news() (perSecond float64, ok bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	r := g.meterRate()
	if p := g.pace.rate; p > 0 && !g.pace.guess() && !g.slots.limited() && (r == 0 || p < r) {
		r = p
	}
	if r == 0 || math.Abs(r-g.said) <= g.said/10 {
		return 0, false
	}
	g.said = r
	return r, true
}

// meterRate is how many requests a second the server's headers allow; 0 if they
// do not say.
func (g *gate) meterRate() float64 {
	least := 0.
	for _, m := range g.meters {
		if r := m.perSecond(); r > 0 && (least == 0 || r < least) {
			least = r
		}
	}
	return least
}

// reset forgets what was learned.
func (g *gate) reset() {
	g.mu.Lock()
	defer g.mu.Unlock()
	now := time.Now()
	g.paused, g.pace, g.slots = time.Time{}, pace{ledger: g.pace.ledger}, slots{}
	g.meters, g.known, g.silent = nil, nil, 0
	g.busy, g.chance = 0, chance{}
	if g.pace.ledger != nil {
		g.pace.ledger.refill(now)
	}
	g.bucket = nil
	g.review(now)
}

// drain makes the buckets new, empty but for one token after a pause: nothing
// accrues while the key is paused, and there is no burst after it.
func (g *gate) drain(now, resume time.Time) {
	g.spare = 0
	if g.own != nil {
		g.own = drained(g.limit, g.burst, now, resume)
	}
	g.bucket = nil
	if g.pace.rate > 0 {
		g.bucket = drained(rate.Limit(g.pace.current()), 1, now, resume)
	}
}

func drained(limit rate.Limit, burst int, now, resume time.Time) *rate.Limiter {
	b := rate.NewLimiter(limit, burst)
	// One may leave at resume, unless that is too soon after the last.
	b.AllowN(later(now, resume.Add(-ceilSeconds(1/float64(limit)))), burst)
	return b
}
