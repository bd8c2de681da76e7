package pace

import (
	"math"
	"slices"
	"time"
)

// A ledger is when requests left, since the server last refused one: then its
// bucket was empty. The last of them are known one by one, the others in blocks.
//
// A new page begins with each refusal, but the one before is kept until the next
// request is refused, or the room is needed: of requests that left together, the
// first to be refused need not be the first that is heard of.
type ledger struct {
	page
	next  page
	last  float64 // the number of the last
	old   float64 // the number of the oldest whose time is known
	epoch time.Time
	times []time.Duration // since epoch, by number
	units []float32       // of each

	ends   [ledgerBlocks]time.Duration // when the last of each block left
	from   float64                     // the number of the first of the first block
	blocks int
	size   float64 // requests in a block
	part   float64 // in the block that is not full yet
}

// A page is where an account begins.
type page struct {
	start time.Time
	first float64 // the number of the first in it; 0 if there is none
	full  bool    // the server's bucket was full at the start, not empty
}

const (
	ledgerSize   = 256  // how many are known one by one, at least
	ledgerMost   = 4096 // and at most, if so many are out
	ledgerBlocks = 128
)

// add notes that the nth request leaves, after which so many are out.
func (l *ledger) add(t time.Time, n, units float64, flying int) {
	if l.times == nil {
		l.times, l.units = make([]time.Duration, ledgerSize), make([]float32, ledgerSize)
		l.epoch, l.old, l.size = t, n, 1
		l.page = page{t, n, true}
	}
	if size := len(l.times); 2*flying > size && size < ledgerMost {
		l.grow(2 * size)
	}
	i := l.index(n)
	if n-l.old == float64(len(l.times)) {
		if l.next.first > 0 && l.old >= l.next.first {
			l.turn()
		}
		if l.old >= l.first {
			l.block(l.times[i])
		}
		l.old++
	}
	l.times[i], l.units[i] = t.Sub(l.epoch), float32(units)
	l.last = n
}

// grow makes room for size, as what is out may still be refused.
func (l *ledger) grow(size int) {
	times, units := make([]time.Duration, size), make([]float32, size)
	for n := l.old; n <= l.last; n++ {
		i := l.index(n)
		times[int(n)%size], units[int(n)%size] = l.times[i], l.units[i]
	}
	l.times, l.units = times, units
}

// index is where the nth is, of those that are known one by one. Their number is
// a power of two.
func (l *ledger) index(n float64) int { return int(n) & (len(l.times) - 1) }

// block adds the oldest, which left at t, to the blocks. When there is no more
// room for them, each becomes twice as large.
func (l *ledger) block(t time.Duration) {
	if l.blocks == 0 && l.part == 0 {
		l.from = l.old
	}
	l.ends[l.blocks] = t
	if l.part++; l.part < l.size {
		return
	}
	l.part = 0
	if l.blocks++; l.blocks == ledgerBlocks {
		l.blocks /= 2
		l.size *= 2
		for i := range l.blocks {
			l.ends[i] = l.ends[2*i+1]
		}
	}
}

// begin prepares a new page after the nth, which left at t.
func (l *ledger) begin(t time.Time, n float64) {
	if n >= l.next.first {
		l.next = page{t, n + 1, false}
	}
}

// refill begins a new page at t, with a full bucket.
func (l *ledger) refill(t time.Time) {
	l.next = page{t, l.last + 1, true}
	l.turn()
}

// turn goes over to the next page, if there is one.
func (l *ledger) turn() {
	if l.next.first == 0 {
		return
	}
	l.page, l.next = l.next, page{}
	if l.first >= l.old {
		l.blocks, l.size, l.part = 0, 1, 0
		return
	}
	// So many are out that it begins in the blocks.
	if before := min(int((l.first-l.from)/l.size), l.blocks); before > 0 {
		copy(l.ends[:], l.ends[before:])
		l.blocks -= before
		l.from += float64(before) * l.size
	}
}

// before is how many on the page left before the nth.
func (l *ledger) before(n float64) float64 { return n - l.first }

// latest is when the last one left.
func (l *ledger) latest() time.Time { return l.epoch.Add(l.times[l.index(l.last)]) }

// recent is at how many a second those that were so many left before the nth.
func (l *ledger) recent(n, many float64) float64 {
	from := max(n-many, l.old)
	if from >= n {
		return math.Inf(1)
	}
	first, _ := l.nth(from)
	last, _ := l.nth(n)
	return (n - from) / last.Sub(first).Seconds()
}

// nth returns when the nth left, and its units. It must not be before old.
func (l *ledger) nth(n float64) (time.Time, float64) {
	i := l.index(n)
	return l.epoch.Add(l.times[i]), float64(l.units[i])
}

// need returns the least rate with which a bucket of this burst would have had
// room for all that left before the nth, or for the nth, which left at sent.
// Those that left within slack may have reached the server in another order.
func (l *ledger) need(sent time.Time, n, burst float64, all bool, slack time.Duration) float64 {
	r := replay{burst: burst, at: l.start.Sub(l.epoch), all: all}
	if all {
		r.at, r.level = r.at-slack, 1 // less would have been as empty
	}
	if l.full {
		r.level = burst
	}
	for { // each time the rate that the last time would have needed
		again := r
		l.walk(n, again.take)
		if !all {
			at := sent.Sub(l.epoch)
			for i := max(n+1, l.old); i <= l.last && l.times[l.index(i)] <= at+slack; i++ {
				again.taken++ // it may have come before the nth
			}
			again.all = true
			again.take(at, 1)
		}
		if again.need <= r.rate*(1+1e-9) {
			return r.rate
		}
		r.rate = again.need
	}
}

// walk calls f with all on the page that left before the nth.
func (l *ledger) walk(n float64, f func(t time.Duration, requests float64)) {
	for b := 0; b <= l.blocks && b < ledgerBlocks; b++ {
		first, size := l.from+float64(b)*l.size, l.size
		if b == l.blocks {
			size = l.part
		}
		if many := min(first+size, n) - max(first, l.first); many > 0 {
			f(l.ends[b], many)
		}
	}
	for i := max(l.first, l.old); i < n; i++ {
		f(l.times[l.index(i)], 1)
	}
}

// A replay is what a token bucket would have made of some requests.
type replay struct {
	rate, burst float64
	all         bool          // all need room
	at          time.Duration // when it had
	level       float64       // tokens, and
	taken       float64       // so many were taken since
	need        float64       // rate with which there would have been room
}

// take takes a token for each request at t. If there are several, they have come
// one by one since the last.
func (r *replay) take(t time.Duration, requests float64) {
	r.taken += requests
	seconds := max(t-r.at, 0).Seconds()
	switch left := r.level + seconds*r.rate - r.taken; {
	case left > r.burst-1:
		r.at, r.level, r.taken = t, r.burst-1, 0
	case left < -1e-9 && r.all:
		r.need = max(r.need, (r.taken-r.level)/seconds)
	}
}

// A finding is what the refusals of a server tell of it, if it is a token
// bucket: for each burst that it may have, between which rates its own must be.
// One refusal alone fits a large burst with a low rate as well as a small burst
// with a high rate. The next one, after other requests, does so along another
// line, and where the lines cross are the burst and the rate.
//
// The bursts are in cells, of which the first have one each. The last has all that
// are larger.
type finding [burstCells]rates

// rates are those from lo to hi, in requests per second; none if hi is 0, or
// less than lo.
type rates struct{ lo, hi float64 }

const (
	burstCells = 42
	cellGrowth = 1.2  // from one cell to the next
	findingAge = 1.01 // by how much what is older is widened
	findingTie = 1.02 // by how much two may contradict each other: a network has jitter
)

func (r rates) none() bool { return r.hi == 0 || r.lo > r.hi*findingTie }

// cell returns the bursts from which, and to which, the cell is that comes
// after the bursts to last.
func cell(last float64) (from, to float64) {
	from = last + 1
	return from, max(from, math.Ceil(from*cellGrowth)-1)
}

// witness returns what the refusal of the nth request tells, which left at sent:
// with less than lo an earlier one would have been refused, with more than hi
// not even this one.
//
// Requests may overtake each other on their way by slack.
func (l *ledger) witness(sent time.Time, n float64, slack time.Duration) *finding {
	f := new(finding)
	var r rates
	to := 0.
	for i := range f {
		switch {
		case to <= n-l.first+1:
			var from float64
			if from, to = cell(to); i == burstCells-1 {
				to = math.Inf(1)
			}
			r = rates{l.need(sent, n, to, true, slack), l.need(sent, n, from, false, slack)}
		case l.full: // so large a burst would not have been used up
			r = rates{}
		} // else a bucket that never becomes full, however large it is
		f[i] = r
	}
	return f
}

// and returns what both tell; nil if they contradict each other.
func (f *finding) and(newer *finding) *finding {
	both := new(finding)
	for i := range both {
		both[i].lo = max(f[i].lo/findingAge, newer[i].lo)
		both[i].hi = min(f[i].hi*findingAge, newer[i].hi)
	}
	return both.some()
}

// but returns f without the bursts that older rules out; nil if that leaves
// nothing.
func (f *finding) but(older *finding) *finding {
	rest := *f
	for i := range rest {
		if older[i].none() {
			rest[i] = rates{}
		}
	}
	return rest.some()
}

// some returns f, nil if it leaves nothing.
func (f *finding) some() *finding {
	if slices.ContainsFunc(f[:], func(r rates) bool { return !r.none() }) {
		return f
	}
	return nil
}

// span returns between which rates the server's is, and its burst.
func (f *finding) span() (r rates, least, most float64) {
	r.lo = math.Inf(1)
	to := 0.
	for i := range f {
		var from float64
		from, to = cell(to)
		if f[i].none() {
			continue
		}
		if least == 0 {
			least = from
		}
		most = to
		r.lo, r.hi = min(r.lo, f[i].lo, f[i].hi), max(r.hi, f[i].lo, f[i].hi)
	}
	return r, least, most
}
