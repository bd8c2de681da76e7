package sturdy

import (
	"math"
	"math/rand/v2"
	"time"
)

// An order holds turns by their priority, those of one priority in the order of their
// arrival, or of rounds if tenants take turns, and those that arrived at the same time as
// they were put in. All it does takes a time that grows with the
// logarithm of their number, wherever a turn's place is: what was refused and comes
// again belongs in front of most.
//
// It is a treap, a search tree that is balanced at random: R. Seidel, C. Aragon,
// "Randomized search trees", Algorithmica 16 (1996).
type order struct{ root *node }

// A node is a turn's place in an order.
type node struct {
	turn            *turn
	up, left, right *node
	weight          uint32
	size            int           // turns in the tree below, itself included
	least           int           // the fewest attempts of these
	ends            time.Duration // when the last of these ends
}

// fewest is least, of a tree that may be empty.
func (n *node) fewest() int {
	if n == nil {
		return math.MaxInt
	}
	return n.least
}

func (n *node) count() int {
	if n == nil {
		return 0
	}
	return n.size
}

// latestEnd is ends, of a tree that may be empty.
func (n *node) latestEnd() time.Duration {
	if n == nil {
		return math.MinInt64
	}
	return n.ends
}

// update makes size, least and ends true, if they are of what is below.
func (n *node) update() {
	n.size = n.left.count() + 1 + n.right.count()
	n.least = min(n.left.fewest(), n.turn.tries(), n.right.fewest())
	n.ends = max(n.left.latestEnd(), n.turn.ends, n.right.latestEnd())
}

// insert puts t, whose place will be n, behind all that do not leave after it.
func (o *order) insert(n *node, t *turn) {
	*n = node{turn: t, weight: rand.Uint32()} //nolint:gosec // balances a tree
	n.update()
	link := &o.root
	for at := *link; at != nil; at = *link {
		at.size++
		at.least = min(at.least, n.least)
		at.ends = max(at.ends, n.ends)
		n.up = at
		if link = &at.right; t.less(&at.turn.place) {
			link = &at.left
		}
	}
	*link = n
	for n.up != nil && n.weight < n.up.weight {
		o.lift(n)
	}
}

// remove takes n out.
func (o *order) remove(n *node) {
	for n.left != nil || n.right != nil {
		if n.right == nil || n.left != nil && n.left.weight < n.right.weight {
			o.lift(n.left)
		} else {
			o.lift(n.right)
		}
	}
	*o.linkTo(n) = nil
	for at := n.up; at != nil; at = at.up {
		at.update()
	}
	n.up = nil
}

// lift changes the places of n and the node above it in the tree, and no order.
func (o *order) lift(n *node) {
	above := n.up
	*o.linkTo(above) = n
	n.up, above.up = above.up, n
	var moved *node
	if above.left == n {
		moved = n.right
		above.left, n.right = moved, above
	} else {
		moved = n.left
		above.right, n.left = moved, above
	}
	if moved != nil {
		moved.up = above
	}
	above.update()
	n.update()
}

// linkTo is what points to n from above.
func (o *order) linkTo(n *node) **node {
	switch {
	case n.up == nil:
		return &o.root
	case n.up.left == n:
		return &n.up.left
	}
	return &n.up.right
}

// first returns who is in front; nil if nobody is there.
func (o *order) first() *turn {
	n := o.root
	if n == nil {
		return nil
	}
	for n.left != nil {
		n = n.left
	}
	return n.turn
}

// last returns who is behind all others; nil if nobody is there.
func (o *order) last() *turn {
	n := o.root
	if n == nil {
		return nil
	}
	for n.right != nil {
		n = n.right
	}
	return n.turn
}

// below returns the first of those with a lower priority; nil if nobody has one.
func (o *order) below(priority int) (first *turn) {
	for n := o.root; n != nil; {
		if n.turn.priority < priority {
			first, n = n.turn, n.left
		} else {
			n = n.right
		}
	}
	return first
}

// inFront is how many have a place in front of p.
func (o *order) inFront(p *place) (count int) {
	for n := o.root; n != nil; {
		if n.turn.less(p) {
			count += n.left.count() + 1
			n = n.right
		} else {
			n = n.left
		}
	}
	return count
}

// above is how many have a higher priority.
func (o *order) above(priority int) (count int) {
	for n := o.root; n != nil; {
		if n.turn.priority > priority {
			count += n.left.count() + 1
			n = n.right
		} else {
			n = n.left
		}
	}
	return count
}

// endsAfter returns the first who ends after a time; nil if nobody does.
func (o *order) endsAfter(time time.Duration) *turn {
	if o.root.latestEnd() <= time {
		return nil
	}
	for n := o.root; ; {
		switch {
		case n.left.latestEnd() > time:
			n = n.left
		case n.turn.ends > time:
			return n.turn
		default:
			n = n.right
		}
	}
}

// leastTried returns the first of those that were sent least often.
func (o *order) leastTried() *turn {
	n := o.root
	for {
		switch {
		case n.left.fewest() == n.least:
			n = n.left
		case n.turn.tries() == n.least:
			return n.turn
		default:
			n = n.right
		}
	}
}

// lastLeastTried returns the last of them.
func (o *order) lastLeastTried() *turn {
	n := o.root
	for {
		switch {
		case n.right.fewest() == n.least:
			n = n.right
		case n.turn.tries() == n.least:
			return n.turn
		default:
			n = n.left
		}
	}
}

// before is how many are in front of n.
func (o *order) before(n *node) int {
	ahead := n.left.count()
	for ; n.up != nil; n = n.up {
		if n == n.up.right {
			ahead += n.up.left.count() + 1
		}
	}
	return ahead
}

// all returns the turns in order.
func (o *order) all() []*turn {
	those := make([]*turn, 0, o.root.count())
	var walk func(n *node)
	walk = func(n *node) {
		if n != nil {
			walk(n.left)
			those = append(those, n.turn)
			walk(n.right)
		}
	}
	walk(o.root)
	return those
}
