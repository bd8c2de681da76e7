package sturdy

import (
	"context"
	"time"
)

// WithTenant returns a context whose requests are of the tenant of that name: a user, a
// job or a customer, on whose behalf they are sent. Tenants take turns: among those
// that wait in one queue with the same priority, one request of each tenant leaves, and
// then the next of each, however many one of them has. Those of one tenant leave in
// the order of their arrival. Requests without a name are of one tenant, that of the
// empty name.
//
// A tenant of whom nobody waits is not remembered, so there may be any number. A request
// that is sent again keeps its place. The name is in events as it is.
func WithTenant(ctx context.Context, name string) context.Context {
	return context.WithValue(ctx, tenantKey{}, name)
}

type tenantKey struct{}

func tenantOf(ctx context.Context) string {
	name, _ := ctx.Value(tenantKey{}).(string)
	return name
}

// A fairness has the tenants in a queue take turns, those of each priority by
// themselves. Each request is given the number of a round when it comes, and leaves in
// the order of these: the first of a tenant in the round after the present one, behind
// those of other tenants who came before it, and each further one a round later. That
// is start-time fair queuing (P. Goyal, H. Vin, H. Cheng, SIGCOMM 1996) but for who is
// new: it does not begin in the present round. So nothing need be remembered of who was
// here before, and new tenants without end do not keep the others from the next round.
//
// When one is gone, the next of its tenant moves up. Of those behind it the rounds may
// be too late then, until they are next.
type fairness struct {
	tenants map[tenancyKey]*tenancy
	rounds  map[int]int // the present one of each priority
}

// A tenancy are the requests of one tenant and priority in the queue, in the order of their
// arrival.
type tenancy struct {
	order

	shared int // so many leave in the same round as another
}

type tenancyKey struct {
	priority int
	tenant   string
}

func (t *turn) tenancy() tenancyKey { return tenancyKey{t.priority, t.tenant} }

// assign gives t, which is not in the queue yet, its round. As long as nobody has a
// name, there are none.
func (g *gate) assign(t *turn) {
	if g.fair == nil {
		if t.tenant == "" {
			return
		}
		g.fair = &fairness{tenants: make(map[tenancyKey]*tenancy), rounds: make(map[int]int)}
		for _, other := range g.queue.all() {
			g.fair.add(other)
		}
	}
	g.fair.add(t)
}

func (f *fairness) add(t *turn) {
	those := f.tenants[t.tenancy()]
	if those == nil {
		those = new(tenancy)
		f.tenants[t.tenancy()] = those
	}
	t.round = f.rounds[t.priority] + 1
	if t.attempts > 1 {
		t.round-- // its turn was in vain
	}
	if next := those.after(t.arrived); next != nil {
		t.round, t.shares = next.round, true
		those.shared++
	} else if last := those.last(); last != nil {
		t.round = max(t.round, last.round+1)
	}
	t.ofTenant = new(node)
	those.insert(t.ofTenant, t)
}

// ahead is how many are in front of t at least. In which round it leaves goes by how many
// of its tenant are in front of it.
func (f *fairness) ahead(queue *order, t *turn) int {
	those := f.tenants[t.tenancy()]
	own := those.before(t.ofTenant)
	p := t.place
	p.round = min(p.round, those.first().round+max(own-those.shared, 0))
	return own + queue.inFront(&p) - those.inFront(&p)
}

// leaves notes that it is the turn of t, which is still in the queue.
func (f *fairness) leaves(t *turn) {
	present := max(f.rounds[t.priority], f.tenants[t.tenancy()].first().round)
	f.rounds[t.priority] = present
	t.round = present + 1 // in which it is the turn of its tenant again
}

// moveUp has the next of t's tenant take its place. t is not in the queue any more.
func (g *gate) moveUp(t *turn) {
	those := g.fair.tenants[t.tenancy()]
	those.remove(t.ofTenant)
	t.ofTenant = nil
	if t.shares {
		those.shared--
	}
	next := those.first()
	switch {
	case next != nil && t.round < next.round:
		next.line.turns.remove(&next.inLine)
		g.queue.remove(&next.inQueue)
		next.round = t.round
		next.line.turns.insert(&next.inLine, next)
		g.queue.insert(&next.inQueue, next)
		if next.line.in == &g.open {
			g.reopen(next.line)
		}
	case next == nil:
		delete(g.fair.tenants, t.tenancy())
		if len(g.fair.tenants) == 0 {
			g.fair = nil
		}
	}
}

// after returns the first of a tenant's that arrived after a time; nil if nobody did.
func (o *order) after(arrived time.Time) (first *turn) {
	for n := o.root; n != nil; {
		if n.turn.arrived.After(arrived) {
			first, n = n.turn, n.left
		} else {
			n = n.right
		}
	}
	return first
}
