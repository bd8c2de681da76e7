package sturdy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/time/rate"
)

// assertGrowsLittle fails if ten times as much costs more than twelve times the
// operations.
func assertGrowsLittle(t *testing.T, n int, operations func(t *testing.T, n int) int) {
	t.Helper()
	few, many := operations(t, n), operations(t, 10*n)
	t.Logf("%d operations for %d, %d for %d", few, n, many, 10*n)
	require.Positive(t, few)
	assert.LessOrEqual(t, float64(many)/float64(few), 12.)
}

// Each of n requests in a queue of n is refused by the server, one a millisecond, and
// holds the others a little longer.
func TestARefusalDoesNotCostAWalkPastAllWhoWait(t *testing.T) {
	assertGrowsLittle(t, 800, func(t *testing.T, n int) (looks int) {
		synctest.Test(t, func(*testing.T) {
			g := newGate(rate.Inf, 1)
			queued(t, g, n)
			spared := func() time.Time {
				g.mu.Lock()
				defer g.mu.Unlock()
				return g.spared
			}
			for range n {
				before := spared()
				g.refused(&pass{gate: g}, time.Minute, false, nil)
				time.Sleep(time.Millisecond)
				if spared() != before {
					looks += n
				}
				looks++
			}
			g.mu.Lock()
			defer g.mu.Unlock()
			g.timer.Stop()
		})
		return looks
	})
}

// queued puts n requests into a queue.
func queued(t *testing.T, g *gate, n int) (last *turn) {
	req := get(t)
	g.mu.Lock()
	defer g.mu.Unlock()
	began := time.Now()
	for i := range n {
		last = newTurn(req, began.Add(time.Duration(i)), wish{units: 1})
		g.insert(last)
	}
	return last
}

func TestThoseWhoseTurnWouldComeTooLateAreRefusedInALongQueueToo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base := script(status(200), status(429, "Retry-After", "60"), status(200))
		l := &RateLimit{Base: base, Limit: 1}
		sendAll(t, l, 1)
		ctx, cancel := context.WithTimeout(t.Context(), 45*time.Second)
		defer cancel()
		began := time.Now()
		req := get(t).WithContext(ctx)
		const n = 44
		late := make(chan time.Duration, n)
		for range n {
			go func() {
				_, err := l.RoundTrip(req)
				if ClassOf(err) == ErrWaitTooLong {
					late <- time.Since(began)
				}
			}()
		}
		synctest.Wait()
		require.Empty(t, late)
		patient, leave := context.WithCancel(t.Context())
		for range 200 {
			go func() {
				if resp, err := l.RoundTrip(get(t).WithContext(patient)); err == nil {
					resp.Body.Close()
				}
			}()
		}
		synctest.Wait()
		time.Sleep(2 * time.Second)
		require.Len(t, late, n-1, "all but the one that was refused")
		for range n - 1 {
			assert.Less(t, <-late, 1100*time.Millisecond, "soon after the pause began")
		}
		leave()
	})
}

func TestALongQueueIsLookedAtSoonAndAShortOneAtOnce(t *testing.T) {
	for n, after := range map[int]time.Duration{longQueue: 0, longQueue + 1: (longQueue + 1) * lookPause, 1000: 1000 * lookPause} {
		t.Run(strconv.Itoa(n), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				g := newGate(rate.Inf, 1)
				last := queued(t, g, n)
				last.latest, last.why = time.Now().Add(45*time.Second), context.DeadlineExceeded
				g.refused(&pass{gate: g}, time.Second, false, nil)
				g.refused(&pass{gate: g}, time.Minute, false, nil)
				g.refused(&pass{gate: g}, time.Minute, false, nil)
				time.Sleep(max(after-1, 0))
				select {
				case <-last.ready:
					assert.Zero(t, after, "not yet")
				default:
					assert.NotZero(t, after, "at once")
				}
				time.Sleep(time.Nanosecond)
				synctest.Wait()
				<-last.ready
				require.ErrorIs(t, last.err, ErrWaitTooLong)
				g.mu.Lock()
				defer g.mu.Unlock()
				assert.Equal(t, n-1, g.waiting())
				g.timer.Stop()
			})
		})
	}
}

// A hundred that were refused come again, to a queue of n that arrived later.
func TestWhoComesAgainFindsThePlaceThatItHad(t *testing.T) {
	assertGrowsLittle(t, 10_000, func(t *testing.T, n int) (steps int) {
		g := newGate(rate.Inf, 1)
		queued(t, g, n)
		long := time.Now().Add(-time.Hour)
		for i := range 100 {
			again := newTurn(get(t), long, wish{units: 1})
			g.insert(again)
			require.Equal(t, i, g.queue.before(&again.inQueue))
			for at := again.inQueue.up; at != nil; at = at.up {
				steps++
			}
		}
		return steps
	})
}

func TestAQueueKeepsTheOrderOfArrival(t *testing.T) {
	g := newGate(rate.Inf, 1)
	circuits := []*circuit{nil, (&Breaker{}).newCircuit(), (&Breaker{}).newCircuit()}
	var all []*turn // in order
	random := rand.New(rand.NewPCG(7, 7))
	began := time.Now()
	for range 3000 {
		switch {
		case len(all) > 0 && random.IntN(3) == 0:
			i := random.IntN(len(all))
			g.remove(all[i])
			all = append(all[:i:i], all[i+1:]...)
		default:
			c := circuits[random.IntN(len(circuits))]
			one := newTurn(get(t), began.Add(time.Duration(random.IntN(1e9))), wish{circuit: c})
			one.attempts = random.IntN(4)
			g.insert(one)
			i := 0
			for i < len(all) && !one.arrived.Before(all[i].arrived) {
				i++
			}
			all = append(all[:i:i], append([]*turn{one}, all[i:]...)...)
		}
		require.Equal(t, len(all), g.waiting())
		if len(all) == 0 {
			assert.Empty(t, g.lines)
			continue
		}
		first := g.open.first().turns.first()
		require.Same(t, all[0], first)
		i := random.IntN(len(all))
		require.Equal(t, i, g.queue.before(&all[i].inQueue))
		for _, l := range g.lines {
			var least, last *turn
			for _, one := range all {
				if one.circuit == l.circuit && (least == nil || one.tries() < least.tries()) {
					least = one
				}
				if one.circuit == l.circuit && (last == nil || one.tries() <= last.tries()) {
					last = one
				}
			}
			require.Same(t, least, l.turns.leastTried())
			require.Same(t, last, l.turns.lastLeastTried())
		}
	}
	require.Equal(t, all, g.queue.all())
}

// In one queue n circuits are open, each with one who waits, when requests to other
// hosts pass by, and the circuits change one after the other.
func TestAnOpenCircuitIsNotAskedAgainForWhatPassesBy(t *testing.T) {
	assertGrowsLittle(t, 300, func(t *testing.T, n int) (asked int) {
		synctest.Test(t, func(t *testing.T) {
			g := newGate(rate.Inf, 1)
			g.pace.Fixed = true
			until := time.Now().Add(time.Hour)
			circuits := make([]*circuit, n)
			for i := range circuits {
				circuits[i] = (&Breaker{MaxWait: 2 * time.Hour}).newCircuit()
				circuits[i].trip(until)
				_, turn, err := g.enter(get(t), wish{units: 1, circuit: circuits[i], patient: 2 * time.Hour})
				require.NoError(t, err)
				defer turn.timer.Stop()
			}
			count := func() {
				g.mu.Lock()
				defer g.mu.Unlock()
				require.Len(t, g.shut, n)
				for _, l := range g.shut {
					if !l.at.Equal(until) {
						l.at = until
						asked++
					}
				}
			}
			for _, c := range circuits { // whoever is asked says something else now
				c.until = until.Add(time.Minute)
			}
			for range 100 {
				free := (&Breaker{}).newCircuit()
				left, turn, err := g.enter(get(t), wish{units: 1, circuit: free})
				require.NoError(t, err)
				if turn != nil {
					<-turn.ready
					left = *turn.pass
				}
				g.landed(&left)
				count()
			}
			require.Zero(t, asked)
			for _, c := range circuits {
				c.trip(until.Add(time.Minute))
				count()
			}
			g.mu.Lock()
			defer g.mu.Unlock()
			g.timer.Stop()
		})
		return asked
	})
}

// Each of n keys has one who waits for the same host to come back.
func TestManyKeysReturnWithoutAskingOftenEach(t *testing.T) {
	assertGrowsLittle(t, 300, func(t *testing.T, n int) (asked int) {
		synctest.Test(t, func(*testing.T) {
			r := ramp{flow: float64(n) / 10}
			r.start(time.Now())
			type waiter struct {
				kept time.Time
				next time.Time
			}
			waiting := make([]*waiter, n)
			for i := range waiting {
				waiting[i] = &waiter{next: time.Now()}
			}
			for len(waiting) > 0 {
				now := time.Now()
				var left []*waiter
				soon := now.Add(time.Hour)
				for _, w := range waiting {
					if !w.next.After(now) {
						asked++
						d := r.admit(now, &w.kept)
						if d == 0 {
							r.succeeded()
							continue
						}
						w.next = now.Add(d)
					}
					soon = earlier(soon, w.next)
					left = append(left, w)
				}
				waiting = left
				time.Sleep(time.Until(soon))
			}
		})
		return asked
	})
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

// A hostile body begins with n blanks, one in each read.
func TestABodyThatComesByteByByteIsLookedAtOnce(t *testing.T) {
	body := bytes.Repeat([]byte{' '}, peekBytes)
	o := &opening{}
	for n := range body {
		require.False(t, o.over(body[:n+1]))
		require.Equal(t, n+1, o.head.seen, "each byte once")
	}
}

func TestTheEndOfALineIsFoundWithoutASearchOfAllTheRest(t *testing.T) {
	for _, end := range []string{"\n", "\r", "\r\n"} {
		for _, length := range []int{0, 1, 511, 512, 513, 5000} {
			line := strings.Repeat("x", length)
			b := []byte(line + end + "data: y" + end)
			require.Equal(t, length, lineEnd(b))
			got, rest := cutLine(b)
			require.Equal(t, line, string(got))
			require.Equal(t, "data: y"+end, string(rest))
		}
	}
	assert.Equal(t, -1, lineEnd([]byte(strings.Repeat("x", 5000))))
	assert.Equal(t, -1, lineEnd(nil))
}

func TestHugeHeadersOfLimitsCostNothing(t *testing.T) {
	items := func(n int) string { return strings.TrimSuffix(strings.Repeat(`"a";q=1;w=1, `, n), ", ") }
	for _, key := range []string{"Ratelimit", "Ratelimit-Policy", "X-Ratelimit-Limit", "X-Ratelimit-Remaining", "X-Ratelimit-Reset", "X-Ratelimit-Resource"} {
		h := http.Header{key: {"1, " + items(80_000)}}
		if key == "Ratelimit" || key == "Ratelimit-Policy" {
			h[key] = []string{items(80_000)}
		}
		assert.LessOrEqual(t, testing.AllocsPerRun(10, func() { ParseLimits(h, time.Unix(1, 0)) }), 1., key)
		many := http.Header{key: make([]string, 100_000)}
		for i := range many[key] {
			many[key][i] = items(1)
		}
		assert.LessOrEqual(t, testing.AllocsPerRun(10, func() { ParseLimits(many, time.Unix(1, 0)) }), 50., key)
	}
	assert.Empty(t, ParseLimits(http.Header{"X-Ratelimit-Limit-" + strings.Repeat("A", 1<<20): {"1"}}, time.Unix(1, 0)))
	long := `"` + strings.Repeat("a", 1000) + `";q=1;w=1`
	assert.Empty(t, ParseLimits(http.Header{"Ratelimit-Policy": {long}}, time.Unix(1, 0)), "a name that nobody gives")
}

func TestTheHistoryOfManyAttemptsIsShort(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const n = 10_000
		r := &Retry{Base: script(status(503)), Attempts: n, MinDelay: 1, MaxDelay: 1, Budget: &Budget{Size: -1}}
		resp, err := r.RoundTrip(get(t))
		require.NoError(t, err)
		defer resp.Body.Close()
		var e *Error
		require.ErrorAs(t, Check(resp, nil), &e)
		report := e.Report()
		assert.Equal(t, n, report.Sent)
		numbers := make([]int, 0, 2*fewAttempts+1)
		for _, a := range report.Attempts {
			numbers = append(numbers, a.Number)
		}
		assert.Equal(t, []int{1, 2, 3, 4, 5, 6, 7, 8, n - 8, n - 7, n - 6, n - 5, n - 4, n - 3, n - 2, n - 1, n}, numbers)
		assert.Contains(t, report.String(), fmt.Sprintf("sent         %d times\n", n))
		assert.Contains(t, report.String(), fmt.Sprintf("  attempt %d ", n))
	})
}

func TestATimeToReturnThatNobodyUsesIsAnothers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := (&Breaker{}).newCircuit()
		c.ramp.flow = 100
		c.ramp.start(time.Now())
		gates := []*gate{newGate(rate.Inf, 1), newGate(rate.Inf, 1), newGate(rate.Inf, 1)}
		patient := newTurn(get(t), time.Now(), wish{circuit: c})
		gates[2].mu.Lock()
		gates[2].insert(patient)
		gates[2].mu.Unlock()
		before := c.ramp.next
		for range 100 { // they come from two keys, are given a time, and do not wait for it
			var turns [2]*turn
			for i := range turns {
				var err error
				if _, turns[i], err = gates[i].enter(get(t), wish{units: 1, circuit: c}); err != nil {
					t.Fatal(err)
				}
			}
			for i, turn := range turns {
				if turn != nil {
					gates[i].quit(turn)
				}
			}
		}
		assert.Less(t, c.ramp.next.Sub(before), time.Second)
		assert.LessOrEqual(t, len(c.ramp.free), 3)
		gates[2].mu.Lock()
		gates[2].pump(time.Now())
		gates[2].mu.Unlock()
		time.Sleep(time.Second)
		select {
		case <-patient.ready:
		default:
			t.Error("who waits does not leave")
		}
	})
}

func TestTheTextOfACauseIsBounded(t *testing.T) {
	for _, part := range []string{`parse "" `, "x ", `invalid port "`, "a://b "} {
		assert.LessOrEqual(t, len(causeText(errors.New(strings.Repeat(part, 1<<20/len(part))), nil)), 4*textBytes)
		e := &Error{Class: ErrConnection, Err: errors.New(strings.Repeat(part, 1<<20/len(part)))}
		assert.LessOrEqual(t, len(e.Error()), 2*maxMessage)
	}
}

// BenchmarkLongQueue looks at all in a queue: ns/turn is what lookPause goes by.
func BenchmarkLongQueue(b *testing.B) {
	const n = 10_000
	for name, tenants := range map[string]int{"one tenant": 1, "100 tenants": 100} {
		b.Run(name, func(b *testing.B) {
			g := newGate(1, 1)
			req := get(b)
			for i := range n {
				one := newTurn(req, time.Now(), wish{units: 1})
				if tenants > 1 {
					one.tenant = strconv.Itoa(i % tenants)
				}
				g.insert(one)
			}
			for b.Loop() {
				g.reviewAll(time.Now())
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/n, "ns/turn")
		})
	}
}

// BenchmarkQueued puts one into a queue of many, and takes one out.
func BenchmarkQueued(b *testing.B) {
	for name, tenants := range map[string]int{"one tenant": 1, "100 tenants": 100} {
		b.Run(name, func(b *testing.B) {
			g := newGate(1, 1)
			req := get(b)
			n := 0
			come := func() {
				one := newTurn(req, time.Now(), wish{units: 1})
				if n++; tenants > 1 {
					one.tenant = strconv.Itoa(n % tenants)
				}
				g.insert(one)
			}
			for range 10_000 {
				come()
			}
			b.ReportAllocs()
			for b.Loop() {
				come()
				g.remove(g.queue.first())
			}
		})
	}
}
