package sturdy

import (
	"fmt"
	"math"
	"math/rand/v2"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/time/rate"
)

// A limitedServer takes a request if allow says so, and answers 429 if not. What
// comes before from or after to is not counted.
type limitedServer struct {
	allow   func() bool          // is asked by one at a time
	trip    func() time.Duration // to the server, and back
	headers []string             // of a 429

	from, to       time.Time
	mu             sync.Mutex // guards what follows, and what allow and trip use
	taken, refused int
}

func (s *limitedServer) RoundTrip(req *http.Request) (*http.Response, error) {
	s.travel()
	defer s.travel()
	s.mu.Lock()
	defer s.mu.Unlock()
	allowed := s.allow()
	if now := time.Now(); !now.Before(s.from) && now.Before(s.to) {
		if allowed {
			s.taken++
		} else {
			s.refused++
		}
	}
	if !allowed {
		return status(429, s.headers...)(req)
	}
	return status(200)(req)
}

func (s *limitedServer) travel() {
	s.mu.Lock()
	d := s.trip()
	s.mu.Unlock()
	time.Sleep(d)
}

// ask has callers send one request after the other, until to, and returns how many
// were given up.
func (s *limitedServer) ask(t *testing.T, rt http.RoundTripper, callers int) (failed int) {
	var mu sync.Mutex
	var wg sync.WaitGroup
	for i := range callers {
		wg.Go(func() {
			time.Sleep(time.Duration(i) * 137 * time.Microsecond) // no two at the same instant
			for time.Now().Before(s.to) {
				resp, err := rt.RoundTrip(get(t))
				if Check(resp, err) != nil {
					mu.Lock()
					failed++
					mu.Unlock()
				}
				assert.NoError(t, resp.Body.Close())
			}
		})
	}
	wg.Wait()
	return failed
}

// use is how much of a limit of so many per second the server's callers used, and
// waste is which part of what they sent was refused.
func (s *limitedServer) use(perSecond float64) float64 {
	return float64(s.taken) / perSecond / s.to.Sub(s.from).Seconds()
}

func (s *limitedServer) waste() float64 { return float64(s.refused) / float64(s.taken+s.refused) }

// windows allow so many in each, which began offset ago.
func windows(limit int, per, offset time.Duration) func() bool {
	began, window, n := time.Now().Add(-offset), time.Duration(0), 0
	return func() bool {
		if now := time.Since(began) / per; now != window {
			window, n = now, 0
		}
		n++
		return n <= limit
	}
}

func TestACallerOnItsOwnBacksOffAndIsSoonBack(t *testing.T) {
	// One request after the other: the pace is all that the server's refusals act on.
	for _, headers := range [][]string{nil, {"Retry-After-Ms", "50"}} {
		synctest.Test(t, func(t *testing.T) {
			const refusals, second = 6, time.Second
			var sent []time.Time
			base := rtFunc(func(req *http.Request) (*http.Response, error) {
				if sent = append(sent, time.Now()); len(sent) <= refusals {
					return status(429, headers...)(req)
				}
				return after(100*time.Millisecond, status(200))(req)
			})
			rt := &RateLimit{Base: base}
			for len(sent) < refusals+50 {
				resp, err := rt.RoundTrip(get(t))
				require.NoError(t, err)
				require.NoError(t, resp.Body.Close())
			}
			wait := func(i int) time.Duration { return sent[i+1].Sub(sent[i]) }
			assert.InDelta(t, second, wait(0), 20e6)
			assert.Greater(t, wait(1), wait(0))
			for i := 2; i < refusals-1; i++ {
				assert.InEpsilon(t, 2*wait(i-1), wait(i), 0.02, "the wait after %d refusals, with %q", i+1, headers)
			}
			assert.LessOrEqual(t, sent[refusals].Sub(sent[refusals-1]), 21*second, "no more than the least that is tried")
			assert.Less(t, sent[len(sent)-1].Sub(sent[refusals]), 12*second, "50 requests that take 5s: slow start leads back")
		})
	}
}

func TestWhateverABucketIsLikeItsRateIsFound(t *testing.T) {
	for seed := range uint64(16) {
		synctest.Test(t, func(t *testing.T) {
			random := rand.New(rand.NewPCG(seed, 0))
			limit := math.Exp(math.Log(4) + random.Float64()*3)
			burst := 10 + int(random.Float64()*random.Float64()*60*limit)
			callers := 4 << random.IntN(7)
			s := &limitedServer{
				allow: rate.NewLimiter(rate.Limit(limit), burst).Allow,
				trip:  func() time.Duration { return time.Duration(5e6 + 10e6*random.ExpFloat64()) },
				from:  time.Now().Add(2 * time.Minute), to: time.Now().Add(3 * time.Minute),
			}
			if random.IntN(2) == 0 {
				s.headers = []string{"Retry-After", "1"}
			}
			failed := s.ask(t, &Transport{Base: s}, callers)
			t.Logf("%.1f/s, burst %d, %d callers, %q: %.1f %% of it in the last minute", limit, burst, callers, s.headers, 100*s.use(limit))
			assert.GreaterOrEqual(t, s.use(limit), 0.95)
			assert.Zero(t, failed)
		})
	}
}

func TestLimitsThatBucketsDoNotExplain(t *testing.T) {
	const ms = time.Millisecond
	retryAfter := func(s string) []string { return []string{"Retry-After", s} }
	bucket := func(perSecond float64, burst int) func() func() bool {
		return func() func() bool { return rate.NewLimiter(rate.Limit(perSecond), burst).Allow }
	}
	window := func(limit int, per, offset time.Duration) func() func() bool {
		return func() func() bool { return windows(limit, per, offset) }
	}
	atRandom := func() func() bool {
		random := rand.New(rand.NewPCG(1, 2))
		return func() bool { return random.IntN(100) > 0 }
	}
	type row struct {
		name      string
		allow     func() func() bool
		perSecond float64
		headers   []string
		trip      time.Duration
		callers   int
		run       time.Duration
		use       float64 // at least
		waste     float64 // at most
	}
	var rows []row
	for _, limit := range []int{10, 50} {
		for _, trip := range []time.Duration{0, 50 * ms} {
			for _, offset := range []time.Duration{0, 300 * ms, 700 * ms} {
				name := fmt.Sprintf("%d in a second, from %v on, trips of %v", limit, offset, trip)
				rows = append(rows, row{name, window(limit, time.Second, offset), float64(limit), nil, trip, 64, 2 * time.Minute, 0.85, 0.08})
			}
		}
	}
	rows = append(rows, []row{
		{"20 in ten seconds", window(20, 10*time.Second, 0), 2, nil, 50 * ms, 64, 4 * time.Minute, 0.80, 0.38},
		{"who is refused waits 20 s", bucket(10, 10), 10, retryAfter("20"), 10 * ms, 32, 20 * time.Minute, 0.88, 0.01},
		{"who is refused waits 60 s", bucket(10, 10), 10, retryAfter("60"), 10 * ms, 32, 20 * time.Minute, 0.70, 0.01},
		{"answers that take 3 s", bucket(100, 10), 100, retryAfter("1"), 1500 * ms, 464, 2 * time.Minute, 0.65, 0.08},
		{"thousands wait", bucket(1500, 300), 1500, nil, 50 * ms, 6000, 20 * time.Second, 0.90, 0.07},
		{"one in a hundred, at random", atRandom, 640, nil, 50 * ms, 64, time.Minute, 0.22, 0.02},
	}...)
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &limitedServer{
					allow: row.allow(), trip: func() time.Duration { return row.trip }, headers: row.headers,
					from: time.Now(), to: time.Now().Add(row.run),
				}
				s.ask(t, &RateLimit{Base: s}, row.callers)
				t.Logf("%.1f %% of the limit used, %.1f %% refused", 100*s.use(row.perSecond), 100*s.waste())
				assert.GreaterOrEqual(t, s.use(row.perSecond), row.use)
				assert.LessOrEqual(t, s.waste(), row.waste)
			})
		})
	}
}
