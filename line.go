package sturdy

import (
	"container/heap"
	"time"
)

// A line is the part of a gate's queue that is there for one circuit: its turns, in
// the order of arrival.
type line struct {
	circuit *circuit // nil for none
	turns   order
	paying  int       // who have left the queue, and wait for the caller's Limiter
	kept    time.Time // for its next to leave, after an outage; zero for none

	in    *agenda   // open or shut; nil if it has no turns
	first *turn     // of one that is open
	at    time.Time // of one that is shut, when it is asked again
	index int       // in that agenda
}

// An agenda is a heap of lines: of open ones by who is the first, of others by their time.
type agenda []*line

func (a *agenda) Len() int { return len(*a) }
func (a *agenda) Less(i, j int) bool {
	l, other := (*a)[i], (*a)[j]
	if l.first != nil && other.first != nil {
		return l.first.less(&other.first.place)
	}
	return l.at.Before(other.at)
}

func (a *agenda) Swap(i, j int) {
	those := *a
	those[i], those[j] = those[j], those[i]
	those[i].index, those[j].index = i, j
}

func (a *agenda) Push(x any) {
	l := x.(*line)
	l.index = len(*a)
	*a = append(*a, l)
}

func (a *agenda) Pop() any {
	last := len(*a) - 1
	l := (*a)[last]
	(*a)[last] = nil
	*a = (*a)[:last]
	return l
}

// first is the line that comes first; nil without any.
func (a *agenda) first() *line {
	if len(*a) == 0 {
		return nil
	}
	return (*a)[0]
}

// put moves l to the agenda that it belongs in, nil for none: to open without a time, or
// to shut with one.
func (l *line) put(in *agenda, at time.Time) {
	if l.in == in {
		if l.come(at); in != nil {
			heap.Fix(in, l.index)
		}
		return
	}
	if l.in != nil {
		heap.Remove(l.in, l.index)
	}
	l.come(at)
	if l.in = in; in != nil {
		heap.Push(in, l)
	}
}

// come notes what l is put into an agenda with.
func (l *line) come(at time.Time) {
	if l.first, l.at = nil, at; at.IsZero() {
		l.first = l.turns.first()
	}
}

// line returns the line for a circuit. Whoever leaves it calls used.
func (g *gate) line(c *circuit) *line {
	l := g.lines[c]
	if l == nil {
		if g.lines == nil {
			g.lines = make(map[*circuit]*line)
		}
		l = &line{circuit: c}
		g.lines[c] = l
		c.waits(g)
	}
	return l
}

// used forgets l if nobody is in it.
func (g *gate) used(l *line) {
	if l.turns.root == nil && l.paying == 0 {
		delete(g.lines, l.circuit)
		l.circuit.leaves(g, l.kept)
	}
}

// reopen has the circuit of l be asked when its turn comes.
func (g *gate) reopen(l *line) {
	if l.turns.root != nil {
		l.put(&g.open, time.Time{})
	} else {
		l.put(nil, time.Time{})
	}
}

// insert puts t in its place: see order. A circuit is asked again for one that is new,
// as it lets some pass sooner than others.
func (g *gate) insert(t *turn) {
	if t.priority != 0 {
		g.ranked++
	}
	g.assign(t)
	t.line = g.line(t.circuit)
	t.line.turns.insert(&t.inLine, t)
	g.queue.insert(&t.inQueue, t)
	g.reopen(t.line)
}

func (g *gate) remove(t *turn) {
	if t.priority != 0 {
		g.ranked--
	}
	l := t.line
	t.line = nil
	l.turns.remove(&t.inLine)
	g.queue.remove(&t.inQueue)
	if l.in == &g.open || l.turns.root == nil {
		g.reopen(l)
	}
	g.used(l)
	if t.ofTenant != nil {
		g.moveUp(t)
	}
}

// waiting is how many are in the queue.
func (g *gate) waiting() int { return g.queue.root.count() }
