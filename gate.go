package sturdy

import (
	"container/list"
	"context"
	"errors"
	"fmt"
	"math"
	"net/http"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// maxHold is how long a request without a deadline waits because of a server's
// wish. Nobody means to wait for a day.
const maxHold = 2 * time.Minute

// A gate is the queue of one key. Requests leave it in the order of their first
// arrival, when the key is not paused and the bucket has a token for them.
//
// Whether a request may leave is decided when it leaves, and only for the head
// of the queue: so nobody holds a reservation that a later pause or a new rate
// would have to take back. That is why rate.Limiter serves as a bucket here,
// but not its Wait and Reserve.
type gate struct {
	mu     sync.Mutex
	limit  rate.Limit // the caller's ceiling; rate.Inf without one
	burst  int
	bucket *rate.Limiter // nil: they leave as they come
	paused time.Time     // nobody leaves before
	pace   pace
	epoch  int       // how often the server's refusals were news
	spare  int       // tokens taken for requests that were then cancelled
	queue  list.List // of *turn
	timer  *time.Timer
}

// A turn is a request's place in the queue.
type turn struct {
	arrived time.Time
	latest  time.Time     // a turn after this is of no use; zero for any
	why     error         // what says so: context.DeadlineExceeded for the context
	ready   chan struct{} // closed when the turn has come, or is refused
	err     error         // why it is refused
}

func newGate(limit rate.Limit, burst int) *gate {
	g := &gate{limit: limit, burst: burst}
	if limit != rate.Inf {
		g.bucket = rate.NewLimiter(limit, burst)
	}
	return g
}

// idle reports whether the gate may be forgotten: it holds nobody up, and a new
// one would do the same.
func (g *gate) idle() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	now := time.Now()
	if g.queue.Len() > 0 || now.Before(g.paused) {
		return false
	}
	g.limitAt(now)
	return g.pace.peak == 0 && (g.bucket == nil || g.bucket.TokensAt(now) >= float64(g.burst))
}

// enter returns when it is req's turn, with the time that it waited and the
// epoch that it leaves in, or at once with an ErrWaitTooLong if its turn would
// come after its deadline, or after maxWait.
func (g *gate) enter(req *http.Request, maxWait time.Duration) (waited time.Duration, epoch int, err error) {
	g.mu.Lock()
	if g.bucket == nil && g.paused.IsZero() && g.queue.Len() == 0 {
		epoch = g.epoch
		g.mu.Unlock()
		return 0, epoch, nil
	}
	if end := gone(req); end != nil {
		g.mu.Unlock()
		return 0, 0, end
	}
	began := time.Now()
	if g.queue.Len() == 0 && g.take(began) == 0 {
		epoch = g.epoch
		g.mu.Unlock()
		return 0, epoch, nil
	}
	t := newTurn(req, began, maxWait)
	place := g.insert(t)
	if g.refuse(t, began, g.turnIn(began, g.ahead(place))) {
		g.queue.Remove(place)
		g.mu.Unlock()
		return 0, 0, t.err
	}
	g.pump(began)
	g.mu.Unlock()

	select {
	case <-t.ready:
	case <-req.Context().Done():
	case <-cancelled(req):
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if end := gone(req); end != nil {
		g.leave(t, place)
		return 0, 0, end
	}
	return time.Since(began), g.epoch, t.err
}

func newTurn(req *http.Request, now time.Time, maxWait time.Duration) *turn {
	t := &turn{arrived: now, why: errMaxHold, ready: make(chan struct{})}
	if c := callOf(req); c != nil {
		t.arrived = c.began
	}
	if maxWait > 0 {
		t.latest, t.why = now.Add(maxWait+1), errMaxWait // a turn at MaxWait is in time
	}
	if deadline, ok := deadlineOf(req); ok && (t.latest.IsZero() || deadline.Before(t.latest)) {
		t.latest, t.why = deadline, context.DeadlineExceeded
	}
	return t
}

// insert puts t in its place: behind all that arrived before it.
func (g *gate) insert(t *turn) *list.Element {
	for e := g.queue.Back(); e != nil; e = e.Prev() {
		if other, _ := e.Value.(*turn); !t.arrived.Before(other.arrived) {
			return g.queue.InsertAfter(t, e)
		}
	}
	return g.queue.PushFront(t)
}

// leave takes back the turn of a request that was cancelled. If it had come
// already, the next in the queue has it.
func (g *gate) leave(t *turn, place *list.Element) {
	select {
	case <-t.ready:
		if t.err == nil && g.bucket != nil {
			g.spare = min(g.spare+1, g.burst)
		}
	default:
		g.queue.Remove(place)
	}
	g.pump(time.Now())
}

// take lets one request leave at now, and returns 0, or how long that is too
// early.
func (g *gate) take(now time.Time) time.Duration {
	if d := g.paused.Sub(now); d > 0 {
		return d
	}
	g.paused = time.Time{}
	limit := g.limitAt(now)
	if g.bucket == nil {
		return 0
	}
	if g.spare > 0 {
		g.spare--
		return 0
	}
	if g.bucket.AllowN(now, 1) {
		return 0
	}
	return ceilSeconds((1 - g.bucket.TokensAt(now)) / float64(limit))
}

// limitAt brings the bucket up to date with the pace, and returns its rate.
func (g *gate) limitAt(now time.Time) rate.Limit {
	if g.pace.peak == 0 {
		return g.limit
	}
	g.pace.use(now)
	limit := rate.Limit(g.pace.rate())
	if limit < g.limit {
		g.bucket.SetLimitAt(now, limit)
		return limit
	}
	// Back at the ceiling.
	g.pace.peak = 0
	if g.limit == rate.Inf {
		g.bucket = nil
		return rate.Inf
	}
	g.bucket.SetLimitAt(now, g.limit)
	g.bucket.SetBurstAt(now, g.burst)
	return g.limit
}

// ahead is how many are in the queue before place. Most are the last.
func (g *gate) ahead(place *list.Element) int {
	n := g.queue.Len() - 1
	for e := place.Next(); e != nil; e = e.Next() {
		n--
	}
	return n
}

// turnIn estimates how long a request with so many ahead of it will wait.
func (g *gate) turnIn(now time.Time, ahead int) time.Duration {
	start := now
	if g.paused.After(now) {
		start = g.paused
	}
	wait := start.Sub(now)
	limit := g.limitAt(start)
	if g.bucket == nil {
		return wait
	}
	if missing := float64(ahead+1-g.spare) - g.bucket.TokensAt(start); missing > 0 && limit != rate.Inf {
		wait += ceilSeconds(missing / float64(limit))
	}
	return wait
}

// refuse reports whether a turn in wait is of no use to t, and says so in it.
func (g *gate) refuse(t *turn, now time.Time, wait time.Duration) bool {
	inTime := now.Add(wait).Before(t.latest)
	if t.latest.IsZero() {
		inTime = g.paused.Sub(now) <= maxHold
	}
	if inTime {
		return false
	}
	t.err = refusal(ErrWaitTooLong, wait, fmt.Errorf("sturdy: its turn would come in %v: %w", wait.Round(time.Millisecond), t.why))
	return true
}

// Why a request does not wait longer, if not because of its deadline.
var (
	errMaxWait = errors.New("more than MaxWait")
	errMaxHold = errors.New("more than 2m, and it has no deadline")
)

// pump lets leave who may, and sets the timer for the next.
func (g *gate) pump(now time.Time) {
	for e := g.queue.Front(); e != nil; e = g.queue.Front() {
		if d := g.take(now); d > 0 {
			g.wake(d)
			return
		}
		t, _ := g.queue.Remove(e).(*turn)
		close(t.ready)
	}
	if g.timer != nil {
		g.timer.Stop()
	}
}

func (g *gate) wake(d time.Duration) {
	if g.timer != nil {
		g.timer.Reset(d)
		return
	}
	g.timer = time.AfterFunc(d, func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		g.pump(time.Now())
	})
}

func (g *gate) isPaused() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return time.Now().Before(g.paused)
}

// taken notes that the server took a request which left in this epoch.
func (g *gate) taken(epoch int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if epoch < g.epoch {
		g.pace.late()
	} else {
		g.pace.note(time.Now())
	}
}

// pause holds everybody for d, because the server refused a request that left
// in this epoch, and returns until when, and whether that is news. Those whose
// turn would now come too late are refused. With learn, the others will leave
// paced.
func (g *gate) pause(d time.Duration, epoch int, learn bool) (until time.Time, news bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	now := time.Now()
	resume := now
	if until := now.Add(d); d > 0 && until.After(g.paused) {
		g.paused = until
	}
	if g.paused.After(now) {
		resume = g.paused
	}
	g.pace.last = resume
	// Requests that were on their way together are refused together: that is
	// one piece of news.
	if news = epoch == g.epoch; news {
		g.epoch++
		if learn {
			g.pace.cut(now, resume)
		}
	}
	if g.bucket != nil || g.pace.peak != 0 {
		g.drain(resume)
	}
	ahead := 0
	for e := g.queue.Front(); e != nil; {
		t, _ := e.Value.(*turn)
		next := e.Next()
		if g.refuse(t, now, g.turnIn(now, ahead)) {
			g.queue.Remove(e)
			close(t.ready)
		} else {
			ahead++
		}
		e = next
	}
	g.pump(now)
	return g.paused, news
}

// drain makes the bucket new, with one token at resume: nothing accrues while
// the key is paused, and there is no burst after it.
func (g *gate) drain(resume time.Time) {
	limit, burst := g.limit, g.burst
	if g.pace.peak != 0 {
		limit, burst = min(limit, rate.Limit(g.pace.rate())), 1
	}
	g.bucket = rate.NewLimiter(limit, burst)
	g.bucket.AllowN(resume, burst-1)
	g.spare = 0
}

// ceilSeconds makes a duration of seconds, never too short.
func ceilSeconds(s float64) time.Duration {
	ns := math.Ceil(s * float64(time.Second))
	if ns >= math.MaxInt64 {
		return math.MaxInt64
	}
	return max(time.Duration(ns), 1)
}
