package sturdy

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/time/rate"

	"github.com/stretchr/testify/assert"
)

// A crowd sends more than a server takes, each call with the same short deadline.
type crowd struct {
	limit    rate.Limit
	burst    int
	after    string        // Retry-After of a refusal; empty for none
	took     time.Duration // by a success
	deadline time.Duration
}

// run returns how many calls a client brought home, and with how many requests.
func (c crowd) run(t *testing.T, client func(base http.RoundTripper) http.RoundTripper) (home, sent int) {
	synctest.Test(t, func(t *testing.T) {
		random := rand.New(rand.NewPCG(3, 4))
		bucket := rate.NewLimiter(c.limit, c.burst)
		var requests, successes atomic.Int64
		rt := client(rtFunc(func(req *http.Request) (*http.Response, error) {
			requests.Add(1)
			if !bucket.Allow() {
				if c.after == "" {
					return after(5*time.Millisecond, status(429))(req)
				}
				return after(5*time.Millisecond, status(429, "Retry-After", c.after))(req)
			}
			return after(c.took, status(200))(req)
		}))
		var calls sync.WaitGroup
		for began := time.Now(); time.Since(began) < 26*time.Second; {
			calls.Go(func() {
				ctx, cancel := context.WithTimeout(t.Context(), c.deadline)
				defer cancel()
				resp, err := rt.RoundTrip(get(t).WithContext(ctx))
				if err != nil {
					return
				}
				resp.Body.Close()
				if resp.StatusCode == 200 {
					successes.Add(1)
				}
			})
			time.Sleep(time.Duration(random.ExpFloat64() * float64(time.Second) / 20))
		}
		calls.Wait()
		home, sent = int(successes.Load()), int(requests.Load())
	})
	return home, sent
}

func bare(base http.RoundTripper) http.RoundTripper { return base }

func zeroValue(base http.RoundTripper) http.RoundTripper { return &Transport{Base: base} }

// Those who wait are sent while there is time for an answer. What is missing where less
// than all is asked for is a second of each pause that the server wants, and the turns in
// which nobody had time enough.
func TestShortDeadlinesCostNextToNothingBesideABareClient(t *testing.T) {
	const short, medium, long = 300 * time.Millisecond, 900 * time.Millisecond, 10 * time.Second
	for _, row := range []struct {
		burst    int
		after    string
		took     time.Duration
		deadline time.Duration
		least    float64 // of what a bare client brings home
	}{
		{1, "", 20 * time.Millisecond, short, 1},
		{1, "", 20 * time.Millisecond, medium, 1},
		{1, "", 20 * time.Millisecond, long, 1.3},
		{1, "", 80 * time.Millisecond, short, 1},
		{1, "", 200 * time.Millisecond, short, 0.85},
		{1, "", 200 * time.Millisecond, medium, 1},
		{1, "", 200 * time.Millisecond, long, 1.3},
		{1, "1", 20 * time.Millisecond, short, 1},
		{1, "1", 80 * time.Millisecond, medium, 1},
		{1, "1", 200 * time.Millisecond, short, 0.75},
		{1, "1", 200 * time.Millisecond, long, 1.3},
		{5, "", 20 * time.Millisecond, short, 0.95},
		{5, "", 80 * time.Millisecond, medium, 0.95},
		{5, "", 200 * time.Millisecond, short, 0.75},
		{5, "", 200 * time.Millisecond, long, 1.2},
		{5, "1", 20 * time.Millisecond, short, 0.85},
		{5, "1", 80 * time.Millisecond, medium, 0.85},
		{5, "1", 200 * time.Millisecond, short, 0.75},
		{5, "1", 200 * time.Millisecond, long, 1.2},
	} {
		t.Run(fmt.Sprintf("burst %d, Retry-After %q, %v, deadline %v", row.burst, row.after, row.took, row.deadline), func(t *testing.T) {
			c := crowd{limit: 5, burst: row.burst, after: row.after, took: row.took, deadline: row.deadline}
			home, sent := c.run(t, bare)
			ours, requests := c.run(t, zeroValue)
			t.Logf("%d with %d requests; a bare client %d with %d", ours, requests, home, sent)
			assert.GreaterOrEqual(t, float64(ours), row.least*float64(home))
			assert.LessOrEqual(t, requests, max(sent/3, ours*11/10))
		})
	}
}

func TestWhoHasNoTimeForAnAnswerYieldsToWhoHas(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &departures{began: time.Now()}
		took := 400 * time.Millisecond
		l := &RateLimit{Limit: 10, Base: rtFunc(func(req *http.Request) (*http.Response, error) {
			resp, err := d.RoundTrip(req)
			if err := sleep(req, took); err != nil {
				return nil, err
			}
			return resp, err
		})}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		d.call(t, l, ctx, "learn", 1)
		d.calls.Wait()
		time.Sleep(time.Second)
		took = 20 * time.Millisecond
		d.call(t, l, t.Context(), "first", 1)
		for i := range 3 {
			ctx, cancel := context.WithTimeout(t.Context(), 530*time.Millisecond) // for 130 ms
			defer cancel()
			d.call(t, l, ctx, fmt.Sprint("hasty", i), 1)
		}
		d.call(t, l, t.Context(), "patient", 2)
		d.calls.Wait()
		assert.Equal(t, []string{"learn", "first", "hasty0", "patient", "patient", "hasty1", "hasty2"}, d.names, "nobody is refused")
	})
}

func TestIfNobodyHasTimeForAnAnswerWhoHasMostIsSent(t *testing.T) {
	now := time.Now()
	g := newGate(rate.Inf, 1)
	come := func(left, given time.Duration) *turn {
		one := newTurn(get(t), now.Add(left-given), wish{units: 1})
		one.ends = now.Add(left).Sub(epoch)
		g.insert(one)
		return one
	}
	g.latencies.of(time.Second).add(500 * time.Millisecond)
	g.latencies.of(time.Minute).add(10 * time.Second)
	first := come(100*time.Millisecond, time.Second)
	l := first.line
	assert.Same(t, first, g.inTime(l, first, now), "it is alone")
	most := come(300*time.Millisecond, time.Second)
	come(200*time.Millisecond, time.Second)
	assert.Same(t, most, g.inTime(l, first, now))
	other := come(9*time.Second, time.Minute)
	assert.Same(t, first, g.inTime(l, first, now), "who has most needs more")
	enough := come(11*time.Second, time.Minute)
	come(12*time.Second, time.Minute)
	assert.Same(t, enough, g.inTime(l, first, now))
	assert.Same(t, enough, g.inTime(l, other, now))
	patient := newTurn(get(t), now, wish{units: 1})
	assert.Same(t, patient, g.inTime(l, patient, now), "it has no deadline")
}

// Those with short deadlines get quick answers.
func TestTheQuickDoNotYieldForWhatTheSlowNeed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &departures{began: time.Now()}
		l := &RateLimit{Limit: 10, Base: rtFunc(func(req *http.Request) (*http.Response, error) {
			takes := 5 * time.Second
			if req.Header.Get("X-Call") == "quick" {
				takes = 50 * time.Millisecond
			}
			resp, err := d.RoundTrip(req)
			return resp, cmp.Or(sleep(req, takes), err)
		})}
		call := func(name string, given time.Duration, n int) {
			ctx, cancel := context.WithTimeout(t.Context(), given)
			t.Cleanup(cancel)
			d.call(t, l, ctx, name, n)
		}
		for range 5 {
			call("slow", 20*time.Second, 1)
			call("quick", time.Second, 1)
			d.calls.Wait()
		}
		d.names = nil
		call("slow", 20*time.Second, 2)
		call("quick", time.Second, 2)
		call("slow", 20*time.Second, 2)
		d.calls.Wait()
		assert.Equal(t, []string{"slow", "slow", "quick", "quick", "slow", "slow"}, d.names)
	})
}

func TestAnAnswerThatComesTooLateTellsHowLongItTakes(t *testing.T) {
	for name, base := range map[string]http.RoundTripper{
		"none in time": rtFunc(hangs), "in time": rtFunc(after(90*time.Millisecond, status(200))),
	} {
		synctest.Test(t, func(t *testing.T) {
			l := &RateLimit{Base: base}
			for _, given := range []time.Duration{100 * time.Millisecond, 0} {
				req := get(t)
				if given > 0 {
					req = req.WithContext(deadlineIn(t, given))
				} else {
					ctx, cancel := context.WithCancel(t.Context())
					time.AfterFunc(time.Second, cancel)
					req = req.WithContext(ctx)
				}
				if resp, err := l.RoundTrip(req); err == nil {
					resp.Body.Close()
				}
			}
			l.gates.each(func(_ key, g *gate) {
				assert.InDelta(t, 95*time.Millisecond, g.latencies.of(100*time.Millisecond).get(), float64(5*time.Millisecond), name)
				assert.Zero(t, g.latencies.of(time.Second).get(), name)
			})
		})
	}
}

func TestLatency(t *testing.T) {
	const ms = time.Millisecond
	var l latency
	step := func(want time.Duration) { t.Helper(); assert.InEpsilon(t, want, l.get(), 0.01) }
	l.missed(100 * ms)
	step(100 * ms)
	l = latency{}
	l.add(100 * ms)
	step(100 * ms)
	l.missed(90 * ms)
	step(100 * ms)
	l.missed(101 * ms)
	step(110 * ms)
	l = latency{}
	l.add(100 * ms)
	l.add(1600 * ms)
	step(200 * ms)
	for range 20 {
		l.add(100 * ms)
	}
	step(128 * ms)
	l.add(0)
	assert.Positive(t, l.get())

	var all latencies
	assert.Same(t, all.of(-1), all.of(0))
	assert.NotSame(t, all.of(time.Second), all.of(3*time.Second))
	assert.Same(t, all.of(time.Hour), all.of(time.Minute))
	assert.Same(t, all.of(time.Hour), all.of(math.MaxInt64))
}
