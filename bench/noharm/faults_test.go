package noharm

import (
	"errors"
	"math"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/sturdyhttp/sturdy/sturdytest"
)

// An attempt is one request as it arrives.
type attempt struct {
	call, n int           // the numbers of the call, from 0, and of this attempt of it, from 1
	at      time.Duration // since the start
	latency time.Duration // of its answer, if nothing happens
}

// A fault is what an attempt meets instead of an answer; nil means nothing.
type fault func(attempt) *sturdytest.Step

// A base is the server and the network of a scenario, for one client.
type base struct {
	faults  []fault // of which the first counts that hits
	latency time.Duration
	server  *sturdytest.Server        // answers what meets no fault; nil means that answer does
	change  func(resp *http.Response) // what the server answers
	answer  sturdytest.Step
	start   time.Time

	mu       sync.Mutex
	sent     int
	attempts map[int]int // by call
}

// callHeader has the number of the call. A client sends it with each attempt.
const callHeader = "X-Call"

func (b *base) RoundTrip(req *http.Request) (*http.Response, error) {
	a := b.arrive(req)
	for _, f := range b.faults {
		if step := f(a); step != nil {
			return sturdytest.Script(*step).RoundTrip(req)
		}
	}
	if b.server == nil {
		return sturdytest.Script(b.answer.After(a.latency)).RoundTrip(req)
	}
	resp, err := b.server.RoundTrip(req)
	if err == nil && b.change != nil {
		b.change(resp)
	}
	return resp, err
}

func (b *base) arrive(req *http.Request) attempt {
	call, err := strconv.Atoi(req.Header.Get(callHeader))
	if err != nil {
		panic(err)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.sent++
	b.attempts[call]++
	a := attempt{call: call, n: b.attempts[call], at: time.Since(b.start)}
	a.latency = time.Duration((0.8 + 0.4*random(0, a.call, a.n)) * float64(b.latency))
	return a
}

// random returns a number from 0 to 1 that follows from its arguments, by way
// of SplitMix64.
func random(seed uint64, call, n int) float64 {
	x := seed
	for _, v := range []int{call, n} {
		x += uint64(v) + 0x9e3779b97f4a7c15
		x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
		x = (x ^ x>>27) * 0x94d049bb133111eb
		x ^= x >> 31
	}
	return float64(x>>11) / (1 << 53)
}

// A kind is how a server fails: one of these, or a status.
type kind string

const (
	refused kind = "refused"
	reset   kind = "reset"
	hang    kind = "hang"       // until the outage's end, then a reset
	foreign kind = "errors.New" // as a Base makes it that net knows nothing of
	down    kind = "503"
	named   kind = "503 with Retry-After" // of what is left of the outage
)

// step is how an attempt fails in an outage of which this time is left.
func (k kind) step(left time.Duration) *sturdytest.Step {
	var s sturdytest.Step
	switch k {
	case refused:
		s = sturdytest.ConnRefused()
	case reset:
		s = sturdytest.ConnReset().After(soon)
	case hang:
		s = sturdytest.ConnReset().After(left)
	case foreign:
		s.Err = errors.New("the proxy has no route")
	case named:
		s = sturdytest.Status(503).With("Retry-After", strconv.Itoa(int(math.Ceil(left.Seconds())))).After(soon)
	default:
		code, err := strconv.Atoi(string(k))
		if err != nil {
			panic(err)
		}
		s = sturdytest.Status(code).After(soon)
	}
	return &s
}

// soon is how long a server takes to fail.
const soon = 5 * time.Millisecond

// outage fails what arrives between from and to.
func outage(k kind, from, to time.Duration) fault {
	return func(a attempt) *sturdytest.Step {
		if a.at < from || a.at >= to {
			return nil
		}
		return k.step(to - a.at)
	}
}

// outages fails what arrives in the first part of each period, but for the
// first period.
func outages(k kind, lasts, period time.Duration) fault {
	return func(a attempt) *sturdytest.Step {
		if in := a.at % period; a.at >= period && in < lasts {
			return k.step(lasts - in)
		}
		return nil
	}
}

// moment fails what is in flight at some time between from and to. If the two
// are one, it is a connection that dies.
func moment(from, to time.Duration) fault {
	return func(a attempt) *sturdytest.Step {
		if a.at > to || a.at+a.latency <= from {
			return nil
		}
		s := sturdytest.ConnReset().After(max(from-a.at, time.Millisecond))
		return &s
	}
}

// flaky fails a share of all attempts.
func flaky(k kind, share float64, seed uint64) fault {
	return func(a attempt) *sturdytest.Step {
		if random(seed, a.call, a.n) >= share {
			return nil
		}
		return k.step(time.Second)
	}
}

// hopeless fails all attempts of a share of the calls.
func hopeless(k kind, share float64, seed uint64) fault {
	return func(a attempt) *sturdytest.Step {
		if random(seed, a.call, 0) >= share {
			return nil
		}
		return k.step(time.Second)
	}
}
