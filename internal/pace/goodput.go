package pace

import "time"

// A goodput is the rate that a server has taken for a while: what it has taken for long
// bounds what is guessed of it, as long as refusals do not say that it takes less.
type goodput struct {
	since time.Time // what is counted
	n     float64   // successes since then
	best  float64   // per second
	run   int       // successes since the last refusal
}

const (
	goodputCount = 20          // successes that tell a rate, and
	goodputTime  = time.Second // so long
	goodputKeep  = 0.9         // of what is remembered, at each new count
	goodputFew   = 3           // successes from one refusal to the next: with fewer, the server takes much less
	goodputFloor = 0.5         // of it is not too fast, as far as is known
)

// took notes that a request was taken.
func (g *goodput) took(now time.Time) {
	g.run++
	if g.since.IsZero() {
		g.since = now
		return
	}
	g.n++
	if d := now.Sub(g.since); g.n >= goodputCount && d >= goodputTime {
		g.best = max(goodputKeep*g.best, g.n/d.Seconds())
		g.since, g.n = now, 0
	}
}

// refused notes that one was refused, and with it those that were on their way.
func (g *goodput) refused() {
	if g.run < goodputFew {
		g.best /= 2
	} else {
		g.best *= paceCut
	}
	g.run = 0
}

// floor is the least rate that may be tried where refusals contradict each other.
func (g *goodput) floor() float64 { return goodputFloor * g.best }
