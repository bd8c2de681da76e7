package noharm

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"math"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-retryablehttp"

	"github.com/sturdyhttp/sturdy"
	"github.com/sturdyhttp/sturdy/sturdytest"
)

// A scenario is a server with faults, and its callers.
type scenario struct {
	name string

	faults  []fault
	latency time.Duration   // of an answer; zero means 50ms
	answer  sturdytest.Step // to what meets no fault; zero means a 200
	limits  []sturdytest.Limit
	says    sturdytest.RetryAfter     // how a refusal tells the wait
	change  func(resp *http.Response) // of a server with limits
	chance  bool                      // whether an attempt fails is decided by chance

	callers  int
	every    time.Duration // a caller's next call begins so long after the last began, or when it has ended; zero means 50ms
	lasts    time.Duration // no call begins later; zero means that calls counts
	calls    int           // of each caller
	open     bool          // the next call does not wait for the last to end
	deadline time.Duration // of each call; zero means none
	post     bool          // each call is a POST with an Idempotency-Key, not a GET
}

// clients are those that are compared: the first is held against the others.
var clients = []struct {
	name string
	over func(base http.RoundTripper) http.RoundTripper
}{
	{"zero value", func(base http.RoundTripper) http.RoundTripper { return &sturdy.Transport{Base: base} }},
	{"bare", func(base http.RoundTripper) http.RoundTripper { return base }},
	{"Retry alone", func(base http.RoundTripper) http.RoundTripper { return &sturdy.Retry{Base: base} }},
	{"go-retryablehttp", func(base http.RoundTripper) http.RoundTripper {
		c := retryablehttp.NewClient()
		c.HTTPClient.Transport = base
		c.Logger = nil
		return &retryablehttp.RoundTripper{Client: c}
	}},
}

// patience is after what time a call is said to hang.
const patience = 10 * time.Minute

// An outcome is what became of one client's calls.
type outcome struct {
	calls, sent, hung int
	lost              map[int]bool  // by number of the call
	wasted            time.Duration // how long callers were occupied by calls that were lost
	slowest           time.Duration

	mu sync.Mutex
}

// run lets each client meet the scenario.
func (s *scenario) run(t *testing.T) []*outcome {
	all := make([]*outcome, len(clients))
	for i, c := range clients {
		synctest.Test(t, func(t *testing.T) {
			b := s.base()
			all[i] = s.drive(t.Context(), &http.Client{Transport: c.over(b)})
			all[i].sent = b.sent
		})
	}
	return all
}

func (s *scenario) base() *base {
	b := &base{
		faults: s.faults, latency: cmp.Or(s.latency, 50*time.Millisecond), answer: s.answer, change: s.change,
		start: time.Now(), attempts: make(map[int]int),
	}
	if b.answer.Status == 0 {
		b.answer = sturdytest.OK(page)
	}
	if s.limits != nil {
		b.server = &sturdytest.Server{
			Limits: s.limits, RetryAfter: s.says,
			Latency: sturdytest.Latency{Median: b.latency}, Refusal: sturdytest.Latency{Median: 5 * time.Millisecond},
			Reply: func(*http.Request) sturdytest.Step { return b.answer },
		}
	}
	return b
}

const page = `{"answer": 42}`

// drive lets the callers call, and waits for the last of them.
func (s *scenario) drive(ctx context.Context, c *http.Client) *outcome {
	o := &outcome{lost: make(map[int]bool)}
	start, every := time.Now(), cmp.Or(s.every, 50*time.Millisecond)
	var wg sync.WaitGroup
	for caller := range s.callers {
		wg.Go(func() {
			// Callers begin one after the other, but for those who call once.
			if s.calls != 1 {
				time.Sleep(every * time.Duration(caller) / time.Duration(s.callers))
			}
			for i := 0; s.lasts == 0 && i < s.calls || s.lasts > 0 && time.Since(start) < s.lasts; i++ {
				began, number := time.Now(), caller+i*s.callers
				if s.open {
					wg.Go(func() { s.call(ctx, c, number, o) })
				} else {
					s.call(ctx, c, number, o)
				}
				time.Sleep(time.Until(began.Add(every)))
			}
		})
	}
	wg.Wait()
	return o
}

// call makes one call and notes what became of it.
func (s *scenario) call(ctx context.Context, c *http.Client, number int, o *outcome) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	// No deadline, for clients can see deadlines.
	hangs := time.AfterFunc(patience, cancel)
	if s.deadline > 0 {
		ctx, cancel = context.WithTimeout(ctx, s.deadline)
		defer cancel()
	}
	began := time.Now()
	ok := s.do(ctx, c, number)
	took := time.Since(began)

	o.mu.Lock()
	defer o.mu.Unlock()
	o.calls++
	o.slowest = max(o.slowest, took)
	if !ok {
		o.lost[number] = true
		o.wasted += max(took, s.every)
	}
	if !hangs.Stop() {
		o.hung++
	}
}

// do reports whether a call comes home, with all of its body.
func (s *scenario) do(ctx context.Context, c *http.Client, number int) bool {
	method, body := http.MethodGet, io.Reader(http.NoBody)
	if s.post {
		method, body = http.MethodPost, strings.NewReader(page)
	}
	req, err := http.NewRequestWithContext(ctx, method, "https://api.example.com/v1/answers", body)
	if err != nil {
		panic(err)
	}
	req.Header.Set(callHeader, strconv.Itoa(number))
	if s.post {
		req.Header.Set("Idempotency-Key", strconv.Itoa(number))
	}
	resp, err := c.Do(req)
	if err != nil {
		return false
	}
	defer resp.Body.Close()
	got, err := io.ReadAll(resp.Body)
	return err == nil && resp.StatusCode < 400 && string(got) == page
}

// worse reports whether o has lost more than other.
//
// Where chance decides, it looks at the calls that one of the two has lost and
// the other has not: of so many, either loses half, give or take three standard
// deviations.
//
// Elsewhere it counts. A caller who is told no soon calls again soon, and is
// told no again, so that o must also have occupied its callers for longer.
func (o *outcome) worse(other *outcome, chance bool) bool {
	if !chance {
		return len(o.lost) > len(other.lost) && o.wasted > other.wasted
	}
	mine, theirs := 0, 0
	for call := range o.lost {
		if !other.lost[call] {
			mine++
		}
	}
	for call := range other.lost {
		if !o.lost[call] {
			theirs++
		}
	}
	return float64(mine-theirs) > 3*math.Sqrt(float64(mine+theirs))
}

func (o *outcome) String() string {
	s := fmt.Sprintf("%d/%d %d %.1fs", len(o.lost), o.calls, o.sent, o.slowest.Seconds())
	if o.hung > 0 {
		s += fmt.Sprintf(" %d hang", o.hung)
	}
	return s
}

// verdict says what is wrong with the first outcome; empty is nothing.
func (s *scenario) verdict(all []*outcome) string {
	var wrong []string
	if all[0].hung > 0 {
		wrong = append(wrong, "hangs")
	}
	for i, other := range all[1:] {
		if all[0].worse(other, s.chance) {
			wrong = append(wrong, "loses to "+clients[i+1].name)
		}
	}
	return strings.Join(wrong, ", ")
}
