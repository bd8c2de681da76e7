package sturdy

import (
	"math"
	"math/rand/v2"
	"slices"
	"time"
)

// A line is the part of a gate's queue that is there for one circuit: its turns, in
// the order of arrival, and those who have left the queue and wait for the caller's
// Limiter.
type line struct {
	circuit *circuit // nil for none
	turns   order
	paying  map[*payment]struct{}
	shut    bool      // it is passed by for now
	kept    time.Time // for its next to leave, after an outage; zero for none
}

// An order holds turns in the order of their arrival, and those that arrived at the
// same time as they were put in. All it does takes a time that grows with the
// logarithm of their number, wherever a turn's place is: what was refused and comes
// again belongs in front of most.
//
// It is a treap, a search tree that is balanced at random: R. Seidel, C. Aragon,
// "Randomized search trees", Algorithmica 16 (1996).
type order struct{ root *turn }

// A node is a turn's place in an order.
type node struct {
	up, left, right *turn
	in              *line // nil if it is in none
	weight          uint32
	size            int // turns in the tree below, itself included
	least           int // the fewest attempts of these
}

// tries is how often a request was sent, this time included. Without a Retry
// nobody counts.
func (t *turn) tries() int { return max(t.attempts, 1) }

// fewest is least, of a tree that may be empty.
func (t *turn) fewest() int {
	if t == nil {
		return math.MaxInt
	}
	return t.least
}

func (t *turn) count() int {
	if t == nil {
		return 0
	}
	return t.size
}

// update makes size and least true, if they are of what is below.
func (t *turn) update() {
	t.size = t.left.count() + 1 + t.right.count()
	t.least = min(t.left.fewest(), t.tries(), t.right.fewest())
}

// insert puts t behind all that arrived before it.
func (o *order) insert(t *turn) {
	t.left, t.right, t.up = nil, nil, nil
	t.weight = rand.Uint32() //nolint:gosec // balances a tree
	t.update()
	link := &o.root
	for at := *link; at != nil; at = *link {
		at.size++
		at.least = min(at.least, t.least)
		t.up = at
		if link = &at.right; t.arrived.Before(at.arrived) {
			link = &at.left
		}
	}
	*link = t
	for t.up != nil && t.weight < t.up.weight {
		o.lift(t)
	}
}

// remove takes t out.
func (o *order) remove(t *turn) {
	for t.left != nil || t.right != nil {
		if t.right == nil || t.left != nil && t.left.weight < t.right.weight {
			o.lift(t.left)
		} else {
			o.lift(t.right)
		}
	}
	*o.linkTo(t) = nil
	for at := t.up; at != nil; at = at.up {
		at.update()
	}
	t.up = nil
}

// lift changes the places of t and the turn above it in the tree, and no order.
func (o *order) lift(t *turn) {
	above := t.up
	*o.linkTo(above) = t
	t.up, above.up = above.up, t
	var moved *turn
	if above.left == t {
		moved = t.right
		above.left, t.right = moved, above
	} else {
		moved = t.left
		above.right, t.left = moved, above
	}
	if moved != nil {
		moved.up = above
	}
	above.update()
	t.update()
}

// linkTo is what points to t from above.
func (o *order) linkTo(t *turn) **turn {
	switch {
	case t.up == nil:
		return &o.root
	case t.up.left == t:
		return &t.up.left
	}
	return &t.up.right
}

// first returns who arrived first; nil if nobody is there.
func (o *order) first() *turn {
	t := o.root
	for t != nil && t.left != nil {
		t = t.left
	}
	return t
}

// leastTried returns the first of those that were sent least often.
func (o *order) leastTried() *turn {
	t := o.root
	for {
		switch {
		case t.left.fewest() == t.least:
			t = t.left
		case t.tries() == t.least:
			return t
		default:
			t = t.right
		}
	}
}

// lastLeastTried returns the last of them.
func (o *order) lastLeastTried() *turn {
	t := o.root
	for {
		switch {
		case t.right.fewest() == t.least:
			t = t.right
		case t.tries() == t.least:
			return t
		default:
			t = t.left
		}
	}
}

// before is how many are in front of t.
func (o *order) before(t *turn) int {
	n := t.left.count()
	for ; t.up != nil; t = t.up {
		if t == t.up.right {
			n += t.up.left.count() + 1
		}
	}
	return n
}

// earlier is how many arrived before t did, who is in another order.
func (o *order) earlier(t *turn) (n int) {
	for at := o.root; at != nil; {
		if at.arrived.Before(t.arrived) {
			n += at.left.count() + 1
			at = at.right
		} else {
			at = at.left
		}
	}
	return n
}

// all appends the turns below t to those, in order.
func (t *turn) all(those []*turn) []*turn {
	if t == nil {
		return those
	}
	return t.right.all(append(t.left.all(those), t))
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
	if l.turns.root == nil && len(l.paying) == 0 {
		delete(g.lines, l.circuit)
		l.circuit.leaves(g, l.kept)
	}
}

// insert puts t in its place: behind all that arrived before it.
func (g *gate) insert(t *turn) {
	t.in = g.line(t.circuit)
	t.in.turns.insert(t)
	g.waiting++
}

func (g *gate) remove(t *turn) {
	t.in.turns.remove(t)
	g.used(t.in)
	t.in = nil
	g.waiting--
}

// head returns the first of those that are not passed by, and its line; nil if all
// are.
func (g *gate) head() (first *turn, of *line) {
	for _, l := range g.lines {
		if l.shut {
			continue
		}
		if t := l.turns.first(); t != nil && (first == nil || t.arrived.Before(first.arrived)) {
			first, of = t, l
		}
	}
	return first, of
}

// ahead is how many are in the queue before t.
func (g *gate) ahead(t *turn) int {
	n := t.in.turns.before(t)
	for _, l := range g.lines {
		if l != t.in {
			n += l.turns.earlier(t)
		}
	}
	return n
}

// queue returns all who wait, in their order.
func (g *gate) queue() []*turn {
	all := make([]*turn, 0, g.waiting)
	for _, l := range g.lines {
		all = l.turns.root.all(all)
	}
	if len(g.lines) > 1 {
		slices.SortStableFunc(all, func(a, b *turn) int { return a.arrived.Compare(b.arrived) })
	}
	return all
}
