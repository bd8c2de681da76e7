package sturdy

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// breaks is a step that succeeds, with a body that breaks after a while.
func breaks(d time.Duration) reply {
	return func(req *http.Request) (*http.Response, error) {
		resp := answer(req, 200, "")
		r, w := io.Pipe()
		time.AfterFunc(d, func() { w.CloseWithError(errReset) })
		resp.Body = r
		return resp, nil
	}
}

func bodiless(req *http.Request) (*http.Response, error) {
	resp := answer(req, 204, "")
	resp.Body = http.NoBody
	return resp, nil
}

// Where requests fail by chance, a probe may, too.
func TestWhereRequestsFailByChanceSoDoProbes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var seen observed
		b := &Breaker{Base: rtFunc(replies), Observe: seen.see}
		send := func(answer reply) { _ = uses(b, get(t), 1, answer) }
		for range 100 {
			send(status(500))
			send(status(200))
		}
		require.Empty(t, seen.kinds())
		failsUntilOpen := func() (sent int) {
			for opened := len(seen.kinds()); len(seen.kinds()) == opened || seen.kinds()[len(seen.kinds())-1] != EventOpen; sent++ {
				require.Less(t, sent, 200)
				send(status(500))
			}
			return sent
		}
		failsUntilOpen()
		share := b.circuits.get(originKey(get(t))).chance.longest(0.02)
		require.InDelta(t, 7, share, 1, "of requests of which half fail, so many in a row are one in fifty")
		assert.Equal(t, share, failsUntilOpen(), "so many probes")
		send(status(500))
		send(status(200)) // a probe that succeeds
		require.Equal(t, EventClose, seen.kinds()[len(seen.kinds())-1])
		for range 50 {
			send(status(200))
		}
		assert.InDelta(t, 20, failsUntilOpen(), 15)
	})
}

func TestAProbeWhoseTimeIsOverFreesNobodysPlace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &Breaker{Base: rtFunc(replies), Failures: 1}
		require.NoError(t, uses(b, get(t), 1, status(500)))
		go func() {
			ctx, cancel := context.WithTimeout(t.Context(), 7*time.Second)
			defer cancel()
			assert.Error(t, uses(b, get(t).WithContext(ctx), 1, hangs))
		}()
		time.Sleep(2 * time.Second)
		go func() { assert.NoError(t, uses(b, get(t), 1, after(10*time.Second, status(200)))) }() // sent some 6s after the failure
		time.Sleep(6 * time.Second)                                                               // the first has ended a second ago
		assert.Equal(t, StateHalfOpen, b.State(exampleKey))
		require.Error(t, uses(b, get(t).WithContext(deadlineIn(t, time.Second)), 1, status(200)), "the second is out")
		time.Sleep(time.Minute)
		assert.Equal(t, StateClosed, b.State(exampleKey))
	})
}

func TestTheBodyOfAProbeThatBreaksIsAFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &Breaker{Base: rtFunc(replies), Failures: 1}
		require.NoError(t, uses(b, get(t), 1, status(500)))
		require.Error(t, uses(b, get(t), 1, breaks(time.Second)))
		assert.Equal(t, StateOpen, b.State(exampleKey))
	})
}

func TestACallerWhoLeavesWhileABodyComesOpensNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &Breaker{Failures: 1, Base: rtFunc(func(req *http.Request) (*http.Response, error) {
			resp := answer(req, 200, "")
			r, w := io.Pipe()
			context.AfterFunc(req.Context(), func() { w.CloseWithError(req.Context().Err()) })
			resp.Body = r
			return resp, nil
		})}
		ctx, cancel := context.WithCancel(t.Context())
		resp, err := b.RoundTrip(get(t).WithContext(ctx))
		require.NoError(t, err)
		time.AfterFunc(time.Second, cancel)
		_, err = io.ReadAll(resp.Body)
		require.ErrorIs(t, err, context.Canceled)
		assert.Equal(t, StateClosed, b.State(exampleKey))
	})
}

func TestACircuitThatOpensRefusesAtOnceWhoIsInAQueueAndDoesNotWait(t *testing.T) {
	for name, step := range map[string]reply{"by an answer": after(5*time.Second, status(500)), "by a body": breaks(5 * time.Second)} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				tr := &Transport{
					Base: rtFunc(replies), Retry: Retry{Attempts: -1}, RateLimit: RateLimit{Limit: 0.02},
					Breaker: Breaker{Failures: 1, MaxWait: -1},
				}
				began := time.Now()
				go func() { _ = uses(tr, get(t), 1, step) }()
				synctest.Wait()
				require.ErrorIs(t, uses(tr, get(t), 1, status(200)), ErrCircuitOpen)
				assert.Equal(t, 5*time.Second, time.Since(began))
			})
		})
	}
}

func TestAfterACircuitHasClosedItsHistoryBeginsAnew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var seen observed
		b := &Breaker{Base: rtFunc(replies), Failures: 2, Observe: seen.see}
		for _, step := range []reply{
			breaks(0), breaks(0), // opens it
			bodiless,                 // closes it
			status(500),              // one is not enough
			bodiless,                 //
			status(500), status(500), // opens it
			status(500),                           // the probe
			bodiless,                              // closes it
			status(500), status(500), status(500), // opens it twice
		} {
			_ = uses(b, get(t), 1, step)
		}
		var opened []time.Duration
		for _, ev := range seen.events {
			if ev.Kind == EventOpen {
				opened = append(opened, ev.Wait)
			}
		}
		s := time.Second
		assert.Equal(t, []time.Duration{s, s, 2 * s, s, 2 * s}, wholeSeconds(opened))
	})
}

func TestAProbeFromBeforeACircuitWasResetHoldsUpNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &Breaker{Base: rtFunc(replies)}
		b.Trip(exampleKey, time.Now())
		go func() { assert.NoError(t, uses(b, get(t), 1, after(time.Minute, status(200)))) }()
		synctest.Wait()
		b.Reset(exampleKey)
		b.Trip(exampleKey, time.Now().Add(time.Second))
		began := time.Now()
		require.NoError(t, uses(b, get(t), 1, status(200)))
		assert.Equal(t, time.Second, time.Since(began))
		time.Sleep(time.Minute)
	})
}

// What is sent on behalf of a probe is none of the requests that the circuit counts.
func TestAfterARequestOnBehalfOfAProbeTheCircuitKnowsHowManyAreOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tr := &Transport{Retry: Retry{Attempts: -1}}
		token := true
		tr.Base = rtFunc(func(req *http.Request) (*http.Response, error) {
			if token && req.URL.Path != "/token" {
				_, err := tr.RoundTrip(newRequest(t, http.MethodPost, exampleKey+"/token", nil).WithContext(req.Context()))
				return answer(req, 200, ""), err
			}
			if token {
				return status(200)(req)
			}
			return status(500)(req)
		})
		tr.Breaker.Trip(exampleKey, time.Now())
		require.NoError(t, sendAll(t, tr, 1)[0])
		require.Equal(t, StateClosed, tr.Breaker.State(exampleKey))
		token = false
		time.Sleep(time.Minute) // nobody has to return slowly any more
		for range 10 {
			sendAll(t, tr, 1)
		}
		assert.Equal(t, StateOpen, tr.Breaker.State(exampleKey), "all have failed, and nobody is out")
	})
}

// While requests are out that may yet succeed, failures in a row open the circuit only
// after as long as a success takes.
func TestHowLongASuccessTakesIsWaitedForBeforeACircuitOpens(t *testing.T) {
	ok := func(d time.Duration) reply { return after(d, status(200)) }
	bad := status(500)
	for name, row := range map[string]struct {
		before     []reply
		least, out time.Duration // after the first failure
	}{
		"nothing is known": {nil, time.Second, 1200 * time.Millisecond},
		"it takes long":    {[]reply{ok(4 * time.Second)}, 4 * time.Second, 4200 * time.Millisecond},
		"it took long": {
			append(repeat(1, ok(8*time.Second)), repeat(40*64, ok(10*time.Millisecond))...),
			0, 1200 * time.Millisecond,
		},
		"it takes long, since some fail": {
			append(repeat(1, ok(10*time.Millisecond)), repeat(20, bad, ok(4*time.Second), ok(4*time.Second))...),
			3 * time.Second, 5 * time.Second,
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := &Breaker{Base: rtFunc(replies)}
				for _, step := range row.before {
					require.NoError(t, uses(b, get(t), 1, step))
				}
				require.Equal(t, StateClosed, b.State(exampleKey))
				go func() { assert.NoError(t, uses(b, get(t), 1, ok(time.Hour))) }()
				synctest.Wait()
				began := time.Now()
				for b.State(exampleKey) == StateClosed {
					require.Less(t, time.Since(began), time.Minute)
					require.NoError(t, uses(b, get(t), 1, bad))
					time.Sleep(100 * time.Millisecond)
				}
				opened := time.Since(began) - 100*time.Millisecond
				assert.GreaterOrEqual(t, opened, row.least)
				assert.LessOrEqual(t, opened, row.out)
				time.Sleep(time.Hour)
			})
		})
	}
}

func TestTheRatioBeginsAnewWhenNoFailureIsInTheWindowAnyMore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &Breaker{Base: rtFunc(replies), Failures: -1}
		send := func(n int, answer reply) {
			for range n {
				require.NoError(t, uses(b, get(t), 1, answer))
				time.Sleep(time.Millisecond)
			}
		}
		send(1, status(500))
		time.Sleep(time.Minute)
		send(100, status(200))
		send(48, status(500))
		require.Equal(t, StateClosed, b.State(exampleKey))
		send(2, status(500))
		assert.Equal(t, StateOpen, b.State(exampleKey), "the successes before are not counted")
	})
}

func TestHowLongAFailureIsRememberedWhereThereIsNoRoom(t *testing.T) {
	for _, row := range []struct {
		window, later time.Duration
		kept          bool
	}{
		{0, time.Minute - 1, true}, {0, time.Minute, false},
		{10 * time.Minute, 10*time.Minute - 1, true}, {10 * time.Minute, 10 * time.Minute, false},
	} {
		t.Run(fmt.Sprint(row.window, row.later), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := &Breaker{Base: rtFunc(replies), Failures: 2, Window: row.window, MaxKeys: 1, Key: byHost}
				require.NoError(t, uses(b, getFrom(t, "bad"), 1, status(500)))
				time.Sleep(row.later)
				require.NoError(t, uses(b, getFrom(t, "other"), 1, status(200)))
				require.NoError(t, uses(b, getFrom(t, "bad"), 1, status(500)))
				assert.Equal(t, row.kept, b.State("bad") == StateOpen)
			})
		})
	}
}

// returns has 300 requests come at 50 a second, until the circuit opens for 25 seconds,
// and so many others after that, and returns how many of those are sent in each tenth of
// a second after it has closed. Some of those that are sent from then on for a moment
// may fail.
func returns(t *testing.T, others int, failing time.Duration, some int) (sent [50]int) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var closed time.Time
		b := &Breaker{Failures: 100, MaxWait: time.Minute, Base: rtFunc(func(req *http.Request) (*http.Response, error) {
			mu.Lock()
			at, down := time.Since(closed), false
			if !closed.IsZero() {
				if i := int(at / (100 * time.Millisecond)); i < len(sent) {
					sent[i]++
				}
				if down = some > 0 && at >= failing && at < failing+20*time.Millisecond; down {
					some--
				}
			}
			mu.Unlock()
			time.Sleep(20 * time.Millisecond)
			if down {
				return status(500)(req)
			}
			return status(200)(req)
		})}
		var wg sync.WaitGroup
		come := func() { wg.Go(func() { sendAll(t, b, 1) }) }
		for range 300 {
			come()
			time.Sleep(20 * time.Millisecond)
		}
		time.Sleep(time.Second)
		mu.Lock()
		closed = time.Now().Add(25 * time.Second)
		mu.Unlock()
		b.Trip(exampleKey, closed)
		for range others {
			come()
		}
		for range 4 {
			come()
			time.Sleep(6 * time.Second)
		}
		wg.Wait()
	})
	return sent
}

func sum(n []int) (s int) {
	for _, n := range n {
		s += n
	}
	return s
}

func TestThoseWhoReturnBeginHalfAsFastAsTheyCameBefore(t *testing.T) {
	sent := returns(t, 40, 0, 0)
	assert.InDelta(t, 18, sum(sent[:5]), 4, "25 a second, and twice as fast after half of one, however few came of late: %v", sent)
}

func TestWhereSomeOfThoseWhoReturnFailTheOthersComeHalfAsFast(t *testing.T) {
	for _, some := range []int{1, 5} {
		t.Run(fmt.Sprint(some), func(t *testing.T) {
			well, ill := returns(t, 1000, 0, 0), returns(t, 1000, 1500*time.Millisecond, some)
			require.Equal(t, sum(well[:15]), sum(ill[:15]))
			ratio := float64(sum(ill[16:19])) / float64(sum(well[16:19]))
			assert.InDelta(t, 0.5, ratio, 0.15, "once, for all that were sent together: %v, %v", well, ill)
		})
	}
}
