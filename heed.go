package sturdy

import (
	"time"

	"golang.org/x/time/rate"

	"github.com/sturdyhttp/sturdy/internal/pace"
	"github.com/sturdyhttp/sturdy/internal/times"
)

// What a gate makes of the answers to the requests that have left it.

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

// sheds takes in that the server answered p that it has too much to do, and reports
// whether that is how it refuses what is over its limit, or may be.
func (g *gate) sheds(p *pass, now time.Time) (limit, doubt bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.pace.Busy(&p.sent, now)
}

// landed notes that a request which left is not out any more.
func (g *gate) landed(p *pass) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.pace.Lost(&p.sent)
	if g.waiting() > 0 {
		g.pump(time.Now())
	}
}

// taken notes that the server took a request, or that at least nothing is known
// to the contrary. With ok it was a success.
func (g *gate) taken(p *pass, ok bool, now time.Time, told []Bucket) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if ok {
		g.chance.ended(g.busy, g.pace.Left())
		g.busy = 0
	}
	g.pace.Taken(&p.sent, ok, now, limitsTold(told))
	if g.waiting() > 0 {
		g.pump(now)
	}
}

// refused holds everybody for d, because the server refused a request. Those whose turn
// would now come too late are refused. With paces, the others will leave paced.
func (g *gate) refused(p *pass, d time.Duration, paces bool, told []Bucket) pace.Verdict {
	g.mu.Lock()
	defer g.mu.Unlock()
	now := time.Now()
	v := g.pace.Refused(&p.sent, pace.Refusal{Now: now, Pause: d, Limits: limitsTold(told), Others: g.waiting(), Paces: paces})
	g.spare = 0
	if g.own != nil { // nothing accrues during a pause
		g.own = pace.Drained(g.limit, g.burst, now, times.Later(now, g.pace.Paused()))
	}
	g.review(now)
	return v
}

// hearBusy takes in what an answer says of the server's limits that says of itself that
// the server has too much to do: one of them may be what it has reached.
func (g *gate) hearBusy(p *pass, now time.Time, told []Bucket) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.pace.Hear(&p.sent, now, limitsTold(told))
}

func limitsTold(told []Bucket) []pace.Limit {
	if len(told) == 0 {
		return nil
	}
	limits := make([]pace.Limit, len(told))
	for i, b := range told {
		limits[i] = pace.Limit(b)
	}
	return limits
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
	known := g.pace.State(now)
	s := LimitState{
		Rate: known.Rate, Burst: known.Burst, Source: "refusals",
		Remaining: known.Remaining, Waiting: g.waiting(), InFlight: g.pace.InFlight(),
	}
	switch {
	case g.limit <= known.Rate && g.limit != rate.Inf:
		s.Rate, s.Burst, s.Source = g.limit, float64(g.burst), "setting"
	case known.Rate == rate.Inf:
		s.Source = ""
	case known.Told:
		s.Source = "headers"
	}
	if until := g.pace.Paused(); now.Before(until) {
		s.Paused = until
	}
	return s
}

// news returns the rate that the server allows, if it is another than the last
// that news returned, by more than a tenth.
func (g *gate) news() (perSecond float64, ok bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.pace.News()
}

// reset forgets what was learned.
func (g *gate) reset() {
	g.mu.Lock()
	defer g.mu.Unlock()
	now := time.Now()
	g.pace.Reset(now)
	g.busy, g.chance = 0, chance{}
	g.review(now)
}
