package sturdy

import (
	"math"
	"math/bits"
	"net/http"
	"sync/atomic"
	"time"
)

// The first in a long queue have waited for longest, and have least time left. If each
// were sent when its turn has come, though its deadline is nearer than an answer, the
// server would work for nobody. So those who have time enough are sent before them.

// latencies are how long answers take, by the time that requests are given: those who
// know that an answer is quick give it less, and are not to be held up by what those
// learn who wait for slow ones. They may be used by many at the same time.
type latencies [16]latency

// of returns the latency of requests that are given so much time.
func (l *latencies) of(given time.Duration) *latency {
	return &l[min(bits.Len64(uint64(max(given.Milliseconds(), 0))), len(l)-1)]
}

// A latency is how long most answers take.
type latency struct{ ns atomic.Int64 } // 0 before the first

// In logarithms: the shares of a difference by which an answer makes a latency longer and
// shorter, and by how much one makes it longer that did not come before a deadline. Who
// is sent is often the one whose time is only just enough, so that is to be enough for
// most answers.
const (
	latencyUp   = 0.25
	latencyDown = 0.05
	latencyMiss = 0.1
)

func (l *latency) get() time.Duration { return time.Duration(l.ns.Load()) }

// add notes how long an answer took.
func (l *latency) add(took time.Duration) {
	took = max(took, 1)
	was := l.get()
	if was == 0 {
		was = took
	}
	off := math.Log(float64(took) / float64(was))
	if off > 0 {
		off *= latencyUp
	} else {
		off *= latencyDown
	}
	l.ns.Store(int64(float64(was) * math.Exp(off))) // one that is lost at times does no harm
}

// missed notes that there was no answer for so long, and then it was too late.
func (l *latency) missed(waited time.Duration) {
	was := l.get()
	switch {
	case was == 0:
		l.add(waited)
	case waited > was:
		l.ns.Store(int64(float64(was) * (1 + latencyMiss)))
	}
}

// noteLatency notes when an answer to p has come, or that it was too late.
func (p *passage) noteLatency(e *Error) {
	deadline, bounded := p.req.Context().Deadline()
	if !bounded {
		return
	}
	now := time.Now()
	l := p.gate.latencies.of(deadline.Sub(arrival(p.req, p.pass.sent.At.Add(-p.pass.waited))))
	if e == nil {
		l.add(now.Sub(p.pass.sent.At))
	} else if !now.Before(deadline) {
		l.missed(now.Sub(p.pass.sent.At))
	}
}

// arrival is when the call that req is an attempt of began; at now if it is the first.
func arrival(req *http.Request, now time.Time) time.Time {
	if c := callOf(req); c != nil {
		return c.began
	}
	return now
}

// epoch is what times of the process are counted from.
var epoch = time.Now()

// endOf is when the context of a request ends by itself; math.MaxInt64 for never.
func endOf(req *http.Request) time.Duration {
	if deadline, ok := req.Context().Deadline(); ok {
		return deadline.Sub(epoch)
	}
	return math.MaxInt64
}

// needs is how long an answer to t takes.
func (g *gate) needs(t *turn) time.Duration {
	if t.ends == math.MaxInt64 {
		return 0
	}
	return g.latencies.of(t.ends - t.arrived.Sub(epoch)).get()
}

// inTime returns who leaves l instead of t, if t has less time left than an answer takes:
// the first who has enough. If nobody has, it is who has most, of those that need as
// much as t.
func (g *gate) inTime(l *line, t *turn, now time.Time) *turn {
	at := now.Sub(epoch)
	needs := g.needs(t)
	if t.ends > at+needs {
		return t
	}
	for most := needs; ; {
		other := l.turns.endsAfter(at + most)
		if other == nil {
			break
		}
		if most = g.needs(other); other.ends > at+most {
			return other
		}
	}
	if other := l.turns.endsAfter(l.turns.root.ends - 1); g.needs(other) == needs {
		return other
	}
	return t
}
