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
	latency time.Duration             // of an answer; zero means 50ms
	answer  sturdytest.Step           // to what meets no fault; zero means a 200
	limits  []sturdytest.Limit        // of what meets no fault
	says    sturdytest.RetryAfter     // how a refusal tells the wait
	change  func(resp *http.Response) // what a server with limits answers; nil means not

	callers  int
	every    time.Duration // a caller's next call begins so long after the last began, or when that has ended; zero means 50ms
	lasts    time.Duration // no call begins later; zero means that calls counts
	calls    int           // of each caller
	open     bool          // the next call does not wait for the last to end
	deadline time.Duration // of each call; zero means none
	method   method

	chance   bool // whether an attempt fails is decided by chance
	whole    bool // the zero value must bring home all calls, also where no other client does
	alone    bool // Retry alone is held against the others too
	careless bool // a client that repeats these requests is careless: only a bare client is held against ours
}

// A method is how a call asks: zero is a GET.
type method uint8

const (
	get    method = iota
	keyed         // a POST with an Idempotency-Key
	unsafe        // a POST without
)

// The clients that are compared, in the order of the table.
const (
	zeroValue = iota
	bareClient
	retryAlone
	retryLoop
)

var clients = [...]struct {
	name string
	over func(base http.RoundTripper) http.RoundTripper
}{
	zeroValue:  {"zero value", func(base http.RoundTripper) http.RoundTripper { return &sturdy.Transport{Base: base} }},
	bareClient: {"bare", func(base http.RoundTripper) http.RoundTripper { return base }},
	retryAlone: {"Retry alone", func(base http.RoundTripper) http.RoundTripper { return &sturdy.Retry{Base: base} }},
	retryLoop: {"go-retryablehttp", func(base http.RoundTripper) http.RoundTripper {
		c := retryablehttp.NewClient()
		c.HTTPClient.Transport = base
		c.Logger = nil
		return c.StandardClient().Transport
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
			all[i] = s.drive(t.Context(), &http.Client{Transport: c.over(b)}, "https://api.example.com")
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

// page is the body of a right answer, and of a POST.
const page = `{"answer": 42}`

// drive lets the callers call, and waits for the last of them.
func (s *scenario) drive(ctx context.Context, c *http.Client, url string) *outcome {
	o := &outcome{lost: make(map[int]bool)}
	start, every := time.Now(), cmp.Or(s.every, 50*time.Millisecond)
	var wg sync.WaitGroup
	for caller := range s.callers {
		wg.Go(func() {
			// Callers begin one after the other, but for those who call once.
			if s.calls != 1 {
				<-time.After(every * time.Duration(caller) / time.Duration(s.callers))
			}
			for i := 0; s.lasts == 0 && i < s.calls || s.lasts > 0 && time.Since(start) < s.lasts; i++ {
				began, number := time.Now(), caller+i*s.callers
				if s.open {
					wg.Go(func() { s.call(ctx, c, url, number, o) })
				} else {
					s.call(ctx, c, url, number, o)
				}
				<-time.After(time.Until(began.Add(every)))
			}
		})
	}
	wg.Wait()
	return o
}

// call makes one call and notes what became of it.
func (s *scenario) call(ctx context.Context, c *http.Client, url string, number int, o *outcome) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	hangs := time.AfterFunc(patience, cancel) // a deadline would be seen, and heeded
	if s.deadline > 0 {
		ctx, cancel = context.WithTimeout(ctx, s.deadline)
		defer cancel()
	}
	began := time.Now()
	ok := s.comesHome(ctx, c, url, number)
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

// comesHome reports whether a call gets its answer, with all of its body.
func (s *scenario) comesHome(ctx context.Context, c *http.Client, url string, number int) bool {
	verb, body := http.MethodGet, io.Reader(http.NoBody)
	if s.method != get {
		verb, body = http.MethodPost, strings.NewReader(page)
	}
	req, err := http.NewRequestWithContext(ctx, verb, url, body)
	if err != nil {
		panic(err)
	}
	req.Header.Set(callHeader, strconv.Itoa(number))
	if s.method == keyed {
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
// the other has not: if the two are alike, each loses half of those, give or
// take three standard deviations.
//
// Elsewhere it counts. But a caller who is told no soon calls again soon, and
// is told no again: where the clients made not as many calls, o must also have
// occupied its callers for longer with those that were lost.
func (o *outcome) worse(other *outcome, chance bool) bool {
	if !chance {
		return len(o.lost) > len(other.lost) && (o.calls == other.calls || o.wasted > other.wasted)
	}
	mine, theirs := without(o.lost, other.lost), without(other.lost, o.lost)
	return float64(mine-theirs) > 3*math.Sqrt(float64(mine+theirs))
}

// without returns how many of a are not in b.
func without(a, b map[int]bool) (n int) {
	for key := range a {
		if !b[key] {
			n++
		}
	}
	return n
}

// String returns the outcome as a cell of the table.
func (o *outcome) String() string {
	s := fmt.Sprintf("%d/%d %d %.1fs", len(o.lost), o.calls, o.sent, o.slowest.Seconds())
	if o.hung > 0 {
		s += fmt.Sprintf(", %d hang", o.hung)
	}
	return s
}

// verdict says what is wrong with the outcomes; empty is nothing.
func (s *scenario) verdict(all []*outcome) string {
	var wrong []string
	if all[zeroValue].hung > 0 {
		wrong = append(wrong, "hangs")
	}
	if s.whole && len(all[zeroValue].lost) > 0 {
		wrong = append(wrong, "loses calls")
	}
	wrong = append(wrong, s.losesTo(all, zeroValue)...)
	if s.alone {
		wrong = append(wrong, s.losesTo(all, retryAlone)...)
	}
	return strings.Join(wrong, ", ")
}

// losesTo says to whom a client of ours loses.
func (s *scenario) losesTo(all []*outcome, client int) (wrong []string) {
	who := ""
	if client != zeroValue {
		who = clients[client].name + " "
	}
	for i, other := range all {
		if i == zeroValue || i == client || s.careless && i != bareClient {
			continue
		}
		if all[client].worse(other, s.chance) {
			wrong = append(wrong, who+"loses to "+clients[i].name)
		}
	}
	return wrong
}
