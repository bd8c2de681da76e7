package sturdy

import (
	"context"
	"time"
)

// WithPriority returns a context whose requests leave a queue before those of a lower
// priority, whoever came first. Zero is normal, negative is less urgent; n below -100 or
// above 100 counts as that.
//
// However many of a higher priority come, the others do not wait for ever: when ten
// in a row have passed them over, the next to leave is one of them, whoever arrived
// first of those who are next in each priority. So a request that has just come leaves
// after one other at most, if nobody else of its priority or above waits, however long
// and old the queue is. And in a flood of urgent ones, one turn in eleven is left for
// the rest.
//
// A request that is sent again keeps its priority. What has left the queue, and waits
// for RateLimit.Limiter, is not passed any more.
func WithPriority(ctx context.Context, n int) context.Context {
	return context.WithValue(ctx, priorityKey{}, min(max(n, -maxPriority), maxPriority))
}

type priorityKey struct{}

const (
	maxPriority = 100

	// maxPassed is how many in a row leave before those who are less urgent, until one
	// of these does: few enough that they have a tenth of what there is, so that the
	// urgent ones lose next to nothing.
	maxPassed = 10
)

func priorityOf(ctx context.Context) int {
	n, _ := ctx.Value(priorityKey{}).(int)
	return n
}

// A place is what a turn has its place in a queue by.
type place struct {
	priority int
	round    int       // of its tenant; 0 if tenants do not take turns
	arrived  time.Time // at first, if it is sent again
}

// less reports whether p is in front of other.
func (p *place) less(other *place) bool {
	switch {
	case p.priority != other.priority:
		return p.priority > other.priority
	case p.round != other.round:
		return p.round < other.round
	}
	return p.arrived.Before(other.arrived)
}

// ahead is how many leave before t at least, of those in the queue.
func (g *gate) ahead(t *turn) int {
	n := g.queue.before(&t.inQueue)
	if g.fair != nil {
		n = g.fair.ahead(&g.queue, t)
	}
	if g.ranked == 0 {
		return n
	}
	higher := g.queue.above(t.priority)
	return g.passing(higher, n-higher)
}

// passing is how many leave before one that has so many of a higher and of the same
// priority ahead of it, at least. It and the latter leave in turns that the former let
// pass, if these are too many.
func (g *gate) passing(higher, same int) int {
	return same + min(higher, (same+1)*maxPassed-g.passed)
}

// overdue returns who is to leave before all that are of this priority, because so
// many have passed it over, and its line; nil if nobody is.
func (g *gate) overdue(priority int) (*line, *turn) {
	if g.passed < maxPassed {
		return nil, nil
	}
	var from *line
	var first *turn
	for _, l := range g.open {
		for t := l.turns.below(priority); t != nil; t = l.turns.below(t.priority) {
			if first == nil || t.arrived.Before(first.arrived) {
				from, first = l, t
			}
		}
	}
	return from, first
}

// notePassed counts how many in a row have passed over those who are less urgent, when t
// leaves and is not in the queue any more. One who was overdue begins a new row.
func (g *gate) notePassed(t *turn) {
	if g.ranked > 0 || t.priority != 0 {
		if last := g.queue.last(); last != nil && last.priority < t.priority && g.passed < maxPassed {
			g.passed++
			return
		}
	}
	g.passed = 0
}
