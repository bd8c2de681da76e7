package sturdy

import (
	"math"
	"slices"
	"time"

	"github.com/sturdyhttp/sturdy/internal/times"
)

// A ramp lets those return who waited for a circuit to close: at half the rate at
// which requests come, and twice as fast each half second, until all who waited are
// gone. Faster than they come they leave only as long as nothing fails, and as the
// server takes them: at most at four times the rate of the half second before, which
// is what doubling takes.
type ramp struct {
	began time.Time   // when the rate was base; zero if nobody has to be slow
	from  time.Time   // when the circuit closed
	next  time.Time   // when the next may leave, for whom no time is kept
	base  float64     // requests per second
	flow  float64     // requests that come per second: the most when it opened, and when it closed
	known int         // requests that had been sent when the rate was last cut
	free  []time.Time // that were kept for who did not leave

	came  flow // requests that come
	taken flow // successes, while the ramp lasts
}

const (
	rampStart  = 0.5 // of the rate at which requests come
	rampSafe   = 1.1 // of it: what is left of the server's room serves those who waited
	rampTaken  = 4.  // times what was taken
	rampDouble = 500 * time.Millisecond
	rampWindow = 5 * time.Second // in which those who come are counted
	rampMany   = 1e5             // requests per second: as good as all at once
	rampAhead  = 200 * time.Millisecond
)

// stop remembers the rate when a circuit opens.
func (r *ramp) stop(now time.Time) { r.flow, r.began = r.came.rate(now), time.Time{} }

// start begins the return, now that the circuit has closed.
func (r *ramp) start(now time.Time) {
	r.flow = max(r.flow, r.came.rate(now))
	r.base = max(rampStart*r.flow, 1)
	r.began, r.from, r.next, r.free, r.taken = now, now, now, nil, flow{}
}

// failed notes that one of so many requests has failed, and not by chance.
func (r *ramp) failed(now time.Time, sent int) {
	if r.began.IsZero() {
		return
	}
	if most := rampSafe * r.flow; r.rate(now) > most {
		r.base, r.began, r.known = max(r.rate(now)/2, most), now, sent
	}
}

// succeeded notes that one has not.
func (r *ramp) succeeded() {
	if !r.began.IsZero() {
		r.taken.add(time.Now(), rampDouble)
	}
}

// rate is how many may leave per second.
func (r *ramp) rate(now time.Time) float64 {
	most := max(rampSafe*r.flow, rampTaken*r.taken.before, r.base)
	return min(r.base*math.Exp2(now.Sub(r.began).Seconds()/rampDouble.Seconds()), most)
}

// admit lets a request leave and returns 0, or when it may. Where many lines wait, each
// is kept a time of its own: if all came at the same, and one of them could leave, they
// would come as often as there are of them. But none is kept that is far ahead, as the
// rate may have grown by then.
func (r *ramp) admit(now time.Time, kept *time.Time) time.Duration {
	if r.began.IsZero() {
		return 0
	}
	if kept != nil && !kept.IsZero() && !kept.Before(r.from) {
		if d := kept.Sub(now); d > 0 {
			return d
		}
		*kept = time.Time{}
		return 0
	}
	if i := r.soonest(); i >= 0 {
		at := r.free[i]
		d := at.Sub(now)
		if d <= 0 || kept != nil {
			r.free = slices.Delete(r.free, i, i+1)
		}
		if d > 0 && kept != nil {
			*kept = at
		}
		return max(d, 0)
	}
	d := r.next.Sub(now)
	switch {
	case d > rampAhead:
		return d - rampAhead/2
	case d > 0 && kept == nil:
		return d
	}
	perSecond := r.rate(times.Later(now, r.next))
	if d <= 0 && (perSecond >= rampMany || perSecond >= r.flow && -d > time.Second) {
		r.began = time.Time{} // nobody has had to wait for a while
		return 0
	}
	if kept != nil {
		*kept = r.next
	}
	// In the time until the next, the rate grows on.
	double := rampDouble.Seconds()
	r.next = r.next.Add(times.Seconds(double * math.Log2(1+math.Ln2/(perSecond*double))))
	if d > 0 {
		return d
	}
	if kept != nil {
		*kept = time.Time{}
	}
	return 0
}

// giveBack takes back a time that was kept for nobody who is still there.
func (r *ramp) giveBack(kept time.Time) {
	if !r.began.IsZero() && !kept.IsZero() && !kept.Before(r.from) {
		r.free = append(r.free, kept)
	}
}

// soonest is which of the times that were given back comes first; -1 without any.
func (r *ramp) soonest() int {
	first := -1
	for i, t := range r.free {
		if first < 0 || t.Before(r.free[first]) {
			first = i
		}
	}
	return first
}

// A flow counts what happens per second.
type flow struct {
	since  time.Time // what is counted, and
	n      int       // how much since
	before float64   // per second, in the window before
}

func (f *flow) add(now time.Time, window time.Duration) {
	if age := now.Sub(f.since); age >= window {
		f.before = 0
		if age < 2*window {
			f.before = float64(f.n) / age.Seconds()
		}
		f.since, f.n = now, 0
	}
	f.n++
}

func (f *flow) rate(now time.Time) float64 {
	return max(f.before, float64(f.n)/max(now.Sub(f.since).Seconds(), 1))
}
