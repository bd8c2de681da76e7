package pace

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/sturdyhttp/sturdy/internal/times"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// A bucketServer is a token bucket, and keeps a ledger of what was sent to it.
type bucketServer struct {
	rate, burst, tokens float64

	now, at time.Time
	n       float64
	ledger  ledger
}

func newBucketServer(rate, burst float64) *bucketServer {
	now := time.Unix(1e9, 0)
	return &bucketServer{rate: rate, burst: burst, tokens: burst, now: now, at: now}
}

// send sends a request, after d, and reports whether the server took it.
func (s *bucketServer) send(d time.Duration) bool {
	s.now = s.now.Add(d)
	s.n++
	s.ledger.add(s.now, s.n, 1, 0)
	s.tokens = min(s.tokens+s.now.Sub(s.at).Seconds()*s.rate, s.burst)
	s.at = s.now
	if s.tokens < 1 {
		return false
	}
	s.tokens--
	return true
}

// takes sends n requests, each after d, all of which the server takes.
func (s *bucketServer) takes(t *testing.T, n int, d time.Duration) {
	t.Helper()
	for range n {
		require.True(t, s.send(d))
	}
}

// until sends requests at a rate that grows by so much per request, until one is
// refused, and returns what that tells.
func (s *bucketServer) until(rate, growth float64) *finding {
	for s.send(times.Seconds(1 / rate)) {
		rate *= growth
	}
	f := s.ledger.witness(s.now, s.n, 0)
	s.ledger.begin(s.now, s.n)
	s.ledger.turn()
	return f
}

// in returns what f tells of a server with this burst.
func (f *finding) in(burst float64) rates {
	to := 0.
	for i := range f {
		if _, to = cell(to); burst <= to {
			return f[i]
		}
	}
	return f[burstCells-1]
}

func TestAFindingHoldsTheTruth(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for range 300 {
		rate, burst := math.Exp(random.Float64()*7-1), math.Floor(math.Exp(random.Float64()*6))
		t.Run(fmt.Sprintf("%.2f/s, burst %v", rate, burst), func(t *testing.T) {
			s := newBucketServer(rate, burst)
			for range 4 {
				f := s.until(rate*math.Exp(random.Float64()*2-1), 1+random.Float64()*0.1)
				// Requests that are known in blocks only are taken for evenly spread.
				most := 1e-6
				if s.ledger.size > 1 {
					most = 0.01
				}
				in := f.in(burst)
				assert.LessOrEqual(t, in.lo, rate*(1+most))
				assert.GreaterOrEqual(t, in.hi, rate*(1-most))
				s.now = s.now.Add(time.Duration(random.IntN(3)) * time.Second)
			}
		})
	}
}

func TestABurstLargerThanAllCellsIsNoRate(t *testing.T) {
	s := newBucketServer(400, 1e5)
	first := s.until(5000, 1)
	assert.LessOrEqual(t, first.in(1e5).lo, 400.)
	assert.GreaterOrEqual(t, first.in(1e5).hi, 400.)
	known := first.and(s.until(300, 1.001))
	require.NotNil(t, known)
	span, _, _ := known.span()
	assert.LessOrEqual(t, span.lo, 400.)
	assert.InEpsilon(t, 400, span.hi, 0.2)
}

func TestFindingsCrossAtTheRate(t *testing.T) {
	for _, tc := range []struct{ rate, burst float64 }{{2, 1}, {2, 10}, {10, 3}, {50, 1}, {50, 10}, {50, 50}, {500, 1}, {500, 10}, {500, 500}} {
		t.Run(fmt.Sprint(tc), func(t *testing.T) {
			s := newBucketServer(tc.rate, tc.burst)
			known := s.until(tc.rate/4, 1.1)
			for _, course := range []struct{ from, growth float64 }{{0.3, 1.05}, {0.8, 1.02}, {0.95, 1.001}} {
				known = known.and(s.until(tc.rate*course.from, course.growth))
				require.NotNil(t, known)
			}
			span, least, most := known.span()
			assert.InEpsilon(t, tc.rate, span.lo, 0.05)
			assert.InEpsilon(t, tc.rate, span.hi, 0.05)
			assert.LessOrEqual(t, least, tc.burst)
			assert.GreaterOrEqual(t, most, tc.burst)
		})
	}
}

func TestALedgerRemembersALongTime(t *testing.T) {
	s := newBucketServer(500, 10)
	s.tokens = 0
	s.ledger.begin(s.now, 0)
	s.takes(t, 100_000, 2*time.Millisecond)
	f := s.until(510, 1)
	assert.InEpsilon(t, 500, f.in(10).lo, 0.01)
	assert.InEpsilon(t, 500, f.in(10).hi, 0.01)
}

func TestARefusalThatComesLateTellsAsMuch(t *testing.T) {
	const ms = time.Millisecond
	for _, late := range []int{0, 100, 1000, 4000, 20_000} {
		t.Run(fmt.Sprint(late, " later"), func(t *testing.T) {
			s := newBucketServer(500, 300)
			// The course of a page, until a request is refused and then until that is heard.
			course := func(d time.Duration) *finding {
				for s.send(d) {
				}
				n, sent := s.n, s.now
				for i := range late {
					s.now = s.now.Add(d)
					s.n++
					s.ledger.add(s.now, s.n, 1, i)
				}
				f := s.ledger.witness(sent, n, 0)
				s.ledger.begin(sent, n)
				s.tokens, s.at = 0, s.now
				s.ledger.begin(s.now, s.n) // the others were refused, too
				return f
			}
			first := course(ms)
			assert.InEpsilon(t, 850, first.in(10).lo, 0.2, "and of other bursts")
			assert.LessOrEqual(t, first.in(300).lo, 500*1.02)
			assert.GreaterOrEqual(t, first.in(300).hi, 500*0.98)
			s.now = s.now.Add(time.Second)
			s.takes(t, 3000, 2500*time.Microsecond) // on the next page
			s.ledger.turn()
			second := course(ms)
			assert.LessOrEqual(t, second.in(300).lo, 500*1.02)
			assert.GreaterOrEqual(t, second.in(300).hi, 500*0.98)
		})
	}
}

func TestAPageThatBeginsAmongWhatIsNotKnownOneByOne(t *testing.T) {
	s := newBucketServer(500, 10)
	s.tokens = 0
	s.ledger.begin(s.now, 0)
	s.takes(t, 20_000, 2*time.Millisecond)
	all := s.ledger.last
	s.takes(t, 20_000, 4*time.Millisecond)
	s.ledger.begin(s.now.Add(-20_000*4*time.Millisecond), all)
	s.ledger.turn()
	seen := 0.
	s.ledger.walk(s.n+1, func(_ time.Duration, n float64) { seen += n })
	assert.InDelta(t, 20_000, seen, 1e-9)
	assert.InEpsilon(t, 250, s.ledger.need(s.now, s.n, 1, true, 0), 0.02)
}

func TestAFindingThatContradictsWhatIsKnown(t *testing.T) {
	s := newBucketServer(50, 10)
	var p course
	assert.True(t, p.learn(s.until(20, 1.1).some(), false))
	assert.True(t, p.learn(s.until(20, 1.02).some(), false))
	assert.True(t, p.learn(s.until(45, 1.01).some(), false))

	s.rate = 100
	assert.False(t, p.learn(s.until(50, 1.02).some(), false))
	span, least, most := p.known.span()
	assert.InEpsilon(t, 100, span.lo, 0.1)
	assert.InEpsilon(t, 100, span.hi, 0.1)
	assert.LessOrEqual(t, least, 10., "the burst is as it was")
	assert.GreaterOrEqual(t, most, 10.)
}

func TestARefusalThatOvertookAnother(t *testing.T) {
	ms := time.Millisecond
	at := time.Unix(1e9, 0).Add
	learn := func(ns ...float64) course {
		p := course{ledger: new(ledger)}
		for n := range 20 {
			p.ledger.add(at(time.Duration(n*n)*ms), float64(n+1), 1, 0)
		}
		for i, n := range ns {
			sent, _ := p.ledger.nth(n)
			r := rejection{n: n, sent: sent, now: at(500*ms + time.Duration(i)*ms), resume: at(2 * time.Second)}
			if i == 0 {
				p.refused(r)
			} else {
				p.also(r)
			}
		}
		p.before, p.ledger, p.delay, p.rejudged = nil, nil, 0, 0
		return p
	}
	late, early := learn(15, 12), learn(12, 15)
	assert.Equal(t, early, late)
}

func TestThousandsRefusedInReverseOrderAreAccountedForSeldom(t *testing.T) {
	const n, apart = 4000, 5e-3 // seconds
	began := time.Unix(1e9, 0)
	now := began.Add(30 * time.Second)
	refuse := func(backwards bool) course {
		p := course{ledger: new(ledger)}
		for i := range n {
			p.ledger.add(began.Add(times.Seconds(apart*float64(i))), float64(i+1), 1, i)
		}
		for i := range n - 100 { // the first hundred were taken
			which := float64(101 + i)
			if backwards {
				which = float64(n - i)
			}
			sent, _ := p.ledger.nth(which)
			r := rejection{n: which, sent: sent, now: now, resume: now.Add(time.Second)}
			if i == 0 {
				p.refused(r)
			} else {
				p.also(r)
			}
		}
		return p
	}
	forth, back := refuse(false), refuse(true)
	assert.Zero(t, forth.rejudged)
	assert.Less(t, back.rejudged, 300)
	assert.Less(t, forth.rate, slowMost)
	assert.InEpsilon(t, forth.rate, back.rate, 0.03)
	for i, want := range forth.known {
		assert.InDelta(t, want.lo, back.known[i].lo, 0.03*want.lo)
	}
}

func BenchmarkWitness(b *testing.B) {
	s := newBucketServer(500, 10)
	for range 20_000 {
		s.send(2 * time.Millisecond)
	}
	b.ReportAllocs()
	for b.Loop() {
		s.ledger.witness(s.now, s.n, time.Millisecond)
	}
}

func TestAClimbIsNoFasterThanRequestsLeave(t *testing.T) {
	var p course
	p.steer(rates{0.05, 0.1}, 1, rejection{})
	assert.InDelta(t, 80, p.ramp, 1e-9, "four requests' time at 0.05 a second")
	p.steer(rates{50, 100}, 1, rejection{})
	assert.InDelta(t, 1, p.ramp, 1e-9)
}
