package noharm

import (
	"fmt"
	"math"
	"math/rand/v2"
	"net/http"
	"strings"
	"time"

	"github.com/sturdyhttp/sturdy/sturdytest"
)

// scenarios is how many a seed gives, and most how many calls, about, each of
// them has.
const (
	scenarios = 30
	most      = 250
)

// sweep returns scenarios that nobody has chosen.
func sweep(seed uint64) (all []scenario) {
	r := rand.New(rand.NewPCG(seed, 1))
	for i := range scenarios {
		all = append(all, draw(r, i))
	}
	return all
}

func draw(r *rand.Rand, i int) scenario {
	s := scenario{
		callers:  pick(r, 1, 1, 2, 5, 12, 20, 40, 64),
		latency:  logUniform(r, 5*ms, 500*ms),
		deadline: pick(r, 0, 0, 5*second, 10*second, 20*second, 30*second, 60*second),
		method:   pick(r, get, get, keyed),
		open:     r.IntN(3) == 0,
		lasts:    10 * second,
	}
	words := []string{fmt.Sprintf("%d:", i)}
	switch r.IntN(6) {
	case 0, 1, 2:
		k, lasts := pickKind(r), logUniform(r, 200*ms, 20*second)
		s.faults = []fault{outage(k, 2*second, 2*second+lasts)}
		s.lasts = 2*second + lasts + max(3*second, lasts/2)
		words = append(words, fmt.Sprintf("%s for %v", k, lasts))
	case 3:
		k, period := pickKind(r), logUniform(r, 3*second, 20*second)
		lasts := (time.Duration((0.1 + 0.3*r.Float64()) * float64(period))).Round(10 * ms)
		s.faults = []fault{outages(k, lasts, period)}
		s.lasts = 4 * period
		words = append(words, fmt.Sprintf("%s for %v of each %v", k, lasts, period))
	case 4:
		width := pick(r, 0, 20*ms, 60*ms, 200*ms)
		n := 1 + r.IntN(4)
		for range n {
			from := second + time.Duration(r.Int64N(int64(8*second))).Round(ms)
			s.faults = append(s.faults, moment(from, from+width))
		}
		words = append(words, fmt.Sprintf("%d moments of %v", n, width))
	case 5:
		words = append(words, s.limited(r))
	}
	if s.limits == nil && r.IntN(3) == 0 {
		k, share := pickKind(r), 0.05+0.55*r.Float64()
		s.faults = append(s.faults, flaky(k, share, r.Uint64()))
		s.open, s.chance = true, true
		words = append(words, fmt.Sprintf("%s for %.0f %% of attempts", k, 100*share))
	}
	s.every = max(100*ms, s.lasts*time.Duration(s.callers)/most).Round(ms)
	words = append(words, fmt.Sprintf("latency %v, %d callers each %v", s.latency, s.callers, s.every))
	if s.deadline > 0 {
		words = append(words, fmt.Sprintf("deadline %v", s.deadline))
	}
	if s.method == keyed {
		words = append(words, "POST")
	}
	if s.open {
		words = append(words, "open loop")
	}
	s.name = strings.Join(words, " ")
	return s
}

// limited gives the server a limit, and says which.
func (s *scenario) limited(r *rand.Rand) string {
	rate := math.Round(2 + 48*r.Float64())
	l := sturdytest.Limit{Rate: rate, Burst: 1 + r.IntN(int(rate)), Window: r.IntN(3) == 0}
	s.limits, s.says = []sturdytest.Limit{l}, pick(r, unsaid, sturdytest.Seconds, sturdytest.Milliseconds)
	s.chance = r.IntN(3) == 0
	code := 429
	if s.chance {
		code, s.change = 503, func(resp *http.Response) { unavailable(resp) }
	}
	return fmt.Sprintf("%v a second, burst %d, window %v, %ds, Retry-After %d", rate, l.Burst, l.Window, code, s.says)
}

func pick[T any](r *rand.Rand, from ...T) T { return from[r.IntN(len(from))] }

func pickKind(r *rand.Rand) kind {
	return pick(r, refused, reset, hang, foreign, down, named, "500", "502", "504")
}

func logUniform(r *rand.Rand, from, to time.Duration) time.Duration {
	x := math.Log(float64(from)) + r.Float64()*math.Log(float64(to)/float64(from))
	return time.Duration(math.Exp(x)).Round(ms)
}
