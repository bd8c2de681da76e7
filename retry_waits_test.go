package sturdy

import (
	"context"
	"errors"
	"io"
	"net/http"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// gaps are the times between requests.
func gaps(times []time.Duration) []time.Duration {
	between := make([]time.Duration, len(times)-1)
	for i := range between {
		between[i] = times[i+1] - times[i]
	}
	return between
}

// Where the server is down, each wait is a part of the time that the call has left.
func TestTheAttemptsOfALoneCallerAreSpreadOverItsTime(t *testing.T) {
	for name, row := range map[string]struct {
		attempts   int
		deadline   time.Duration
		most, last time.Duration // of that time for one wait, and for the last one
		parts      []float64
	}{
		"by default":      {5, 0, maxOpenWait, maxOpenWait, []float64{0, 0.1, 0.25, 0.85}},
		"a deadline":      {5, 10 * time.Second, time.Hour, time.Hour, []float64{0, 0.1, 0.25, 0.85}},
		"a late deadline": {5, time.Hour, maxOpenWait, 2 * maxOpenWait, []float64{0, 0.1, 0.25, 0.85}},
		"many attempts":   {8, 0, maxOpenWait, maxOpenWait, []float64{0, 0, 0, 0, 0.1, 0.25, 0.85}},
		"few":             {3, 0, maxOpenWait, maxOpenWait, []float64{0, 0.1}},
		"two":             {2, 0, maxOpenWait, maxOpenWait, []float64{0}},
	} {
		t.Run(name, func(t *testing.T) {
			for range 20 { // the jitter is another each time
				synctest.Test(t, func(t *testing.T) {
					base := script(fails(errReset))
					req := get(t)
					if row.deadline > 0 {
						req = req.WithContext(deadlineIn(t, row.deadline))
					}
					r := &Retry{Base: base, Attempts: row.attempts}
					_, err := r.RoundTrip(req)
					require.Error(t, err)
					sent := base.times()
					require.Len(t, sent, row.attempts)
					for i, gap := range gaps(sent) {
						left := maxOpenWait
						if row.deadline > 0 {
							left = row.deadline
						}
						most := row.most
						if i == row.attempts-2 {
							most = row.last
						}
						want := row.parts[i] * (min(left-sent[i], most)).Seconds()
						assert.GreaterOrEqual(t, gap.Seconds(), 0.9*want-0.001, "%v", sent)
						assert.LessOrEqual(t, gap.Seconds(), max(want, r.ceiling(i+1).Seconds())+0.001, "%v", sent)
					}
				})
			}
		})
	}
}

func TestAWaitForTheServerEndsWithItsRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base := script(fails(errReset))
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(2*time.Second, cancel)
		_, err := (&Retry{Base: base}).RoundTrip(get(t).WithContext(ctx))
		require.ErrorIs(t, err, context.Canceled)
		assert.Equal(t, 2*time.Second, time.Since(base.began))
		assert.Len(t, base.times(), 2)
	})
}

// What ends the wait of many who wait for the server: they are not to come back at
// once, nor later than without it.
func TestThoseWhoWaitForTheServerComeBackApartWhenItWorksAgain(t *testing.T) {
	const many = 200
	for name, step := range map[string]reply{"a success": status(200), "an answer for good": status(404)} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var mu sync.Mutex
				var sent, due []time.Time
				attempts := make(map[context.Context]int)
				r := &Retry{
					Budget: &Budget{Size: -1},
					Base: rtFunc(func(req *http.Request) (*http.Response, error) {
						if req.Header.Get("X-Call") != "" {
							return step(req)
						}
						mu.Lock()
						defer mu.Unlock()
						ctx := req.Context()
						if attempts[ctx]++; attempts[ctx] <= 3 {
							return nil, errReset
						}
						sent = append(sent, time.Now())
						return status(200)(req)
					}),
					Observe: func(_ context.Context, ev Event) {
						if ev.Kind == EventRetry && ev.Err.Attempts == 3 {
							mu.Lock()
							defer mu.Unlock()
							due = append(due, time.Now().Add(ev.Wait))
						}
					},
				}
				began := time.Now()
				var wg sync.WaitGroup
				wg.Go(func() { sendAll(t, r, many) })
				time.Sleep(8600 * time.Millisecond) // all wait for their fourth attempt, until 8.8s at least
				req := get(t)
				req.Header.Set("X-Call", "another")
				_, err := r.RoundTrip(req)
				require.NoError(t, err)
				wg.Wait()
				require.Len(t, sent, many)
				slices.SortFunc(sent, time.Time.Compare)
				slices.SortFunc(due, time.Time.Compare)
				assert.Less(t, sent[0].Sub(began), 8800*time.Millisecond)
				assert.Greater(t, sent[many-1].Sub(sent[0]), 300*time.Millisecond)
				for i := range sent {
					assert.False(t, sent[i].After(due[i]), "%v, %v", sent[i].Sub(began), due[i].Sub(began))
				}
			})
		})
	}
}

func TestASuccessOfWhatWasSentBeforeShowsNotThatTheServerWorksAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base := script(after(2*time.Second, status(200)), fails(errReset), fails(errReset), status(200))
		r := &Retry{Base: base}
		go sendAll(t, r, 1)
		synctest.Wait()
		require.NoError(t, sendAll(t, r, 1)[0])
		assert.Greater(t, base.times()[3], 2600*time.Millisecond, "a tenth of half a minute after the second failure")
	})
}

// The wait that a server asks for is kept to, also by a call that waited for it to
// work again before.
func TestASuccessOfAnotherCallDoesNotShortenAWaitThatTheServerAskedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base := script(fails(errReset), fails(errReset), status(503, "Retry-After", "30"), status(200))
		r := &Retry{Base: base}
		done := make(chan error)
		go func() { done <- sendAll(t, r, 1)[0] }()
		time.Sleep(10 * time.Second)
		require.Len(t, base.times(), 3)
		require.NoError(t, sendAll(t, r, 1)[0])
		require.NoError(t, <-done)
		sent := base.times()
		assert.GreaterOrEqual(t, sent[4]-sent[2], 30*time.Second)
	})
}

// Two minutes are as long as a call without a deadline waits in all for what a server
// asks for. What it waits because the server is down is none of that.
func TestWhatCountsForTheTwoMinutesThatAServerMayAskFor(t *testing.T) {
	hanging := func(seconds string) reply {
		return func(req *http.Request) (*http.Response, error) {
			resp, err := status(429, "Retry-After", seconds)(req)
			resp.Body = newStalledBody("x")
			return resp, err
		}
	}
	for name, row := range map[string]struct {
		steps []reply
		sent  int
	}{
		"a server that is down":                      {append(repeat(3, fails(errReset)), status(503, "Retry-After", "115"), status(200)), 5},
		"a 429 without a time":                       {append(repeat(3, status(429)), status(429, "Retry-After", "115"), status(200)), 4},
		"a 503 with a time":                          {append(repeat(2, status(503, "Retry-After", "50")), status(503, "Retry-After", "50")), 3},
		"a time, and then none":                      {append(repeat(1, status(503, "Retry-After", "119.5")), repeat(5, status(503))...), 5},
		"a time that passes while an answer is read": {repeat(5, hanging("50")), 3},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				base := script(row.steps...)
				resp, err := (&Retry{Base: base}).RoundTrip(get(t))
				require.NoError(t, err)
				require.NoError(t, resp.Body.Close())
				assert.Len(t, base.times(), row.sent)
			})
		})
	}
}

func TestWaitsOfTheCallersOwnAreNotBoundByTwoMinutes(t *testing.T) {
	for name, row := range map[string]struct {
		r    *Retry
		code int
	}{
		"503, both delays": {&Retry{MinDelay: 10_000 * time.Hour, MaxDelay: 10_000 * time.Hour, Attempts: 2}, 503},
		"429, both delays": {&Retry{MinDelay: 10_000 * time.Hour, MaxDelay: 10_000 * time.Hour, Attempts: 2}, 429},
		"429, MinDelay":    {&Retry{MinDelay: 10_000 * time.Hour, Attempts: 2}, 429},
		"429, MaxDelay":    {&Retry{MaxDelay: 10_000 * time.Hour, Attempts: 25}, 429},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				base := script(status(row.code))
				row.r.Base = base
				_, err := row.r.RoundTrip(get(t))
				require.NoError(t, err)
				assert.Len(t, base.times(), row.r.Attempts)
			})
		})
	}
}

// Who comes back after the time that a message names may come back too soon, as all who
// were told the same do: then they wait longer each time. A header is kept to.
func TestATimeThatProvesTooShortIsDoubledUnlessAHeaderNamesIt(t *testing.T) {
	message := func(code int, d string) reply {
		return telling(code, `{"error":{"message":"Please try again in `+d+`."}}`)
	}
	type bounds struct{ least, most time.Duration }
	s := time.Second
	for name, row := range map[string]struct {
		step      reply
		transport bool
		want      []bounds
	}{
		"a message":                          {message(429, "1s"), false, []bounds{{s, 11 * s / 10}, {2 * s, 4 * s}, {4 * s, 8 * s}}},
		"a message to one who is alone":      {message(429, "1s"), true, []bounds{{s, 11 * s / 10}, {s, 11 * s / 10}, {s, 11 * s / 10}}},
		"a header":                           {status(429, "Retry-After-Ms", "500"), false, []bounds{{s / 2, 6 * s / 10}, {s / 2, 6 * s / 10}, {s / 2, 6 * s / 10}}},
		"an overloaded server":               {status(503, "Retry-After", "1"), false, []bounds{{s, 11 * s / 10}, {s, 11 * s / 10}, {s, 11 * s / 10}}},
		"an overloaded server, for a moment": {status(503, "Retry-After-Ms", "999"), false, []bounds{{s * 9 / 10, 11 * s / 10}, {2 * s, 4 * s}, {4 * s, 8 * s}}},
		"no time":                            {status(429), false, []bounds{{s, 2 * s}, {2 * s, 4 * s}, {4 * s, 8 * s}, {8 * s, 16 * s}, {16 * s, 32 * s}, {20 * s, 40 * s}, {20 * s, 40 * s}}},
	} {
		t.Run(name, func(t *testing.T) {
			for range 5 { // the jitter is another each time
				synctest.Test(t, func(t *testing.T) {
					base := script(row.step)
					r := &Retry{Base: base, Attempts: len(row.want) + 1}
					if row.transport {
						r.Base = &RateLimit{Base: base}
					}
					_, err := r.RoundTrip(get(t).WithContext(deadlineIn(t, time.Hour)))
					require.NoError(t, err)
					sent := base.times()
					require.Len(t, sent, len(row.want)+1)
					for i, gap := range gaps(sent) {
						assert.GreaterOrEqual(t, gap, row.want[i].least, "%v", sent)
						assert.LessOrEqual(t, gap, row.want[i].most, "%v", sent)
					}
				})
			}
		})
	}
}

func TestABackoffIsCutToBetweenHalfAndFiveSixthsOfTheTimeThatIsLeft(t *testing.T) {
	for range 50 {
		synctest.Test(t, func(t *testing.T) {
			base := script(status(429), status(200))
			resp, err := (&Retry{Base: base}).RoundTrip(get(t).WithContext(deadlineIn(t, 600*time.Millisecond)))
			require.NoError(t, err)
			assert.Equal(t, 200, resp.StatusCode)
			assert.GreaterOrEqual(t, base.times()[1], 300*time.Millisecond)
			assert.LessOrEqual(t, base.times()[1], 500*time.Millisecond)
		})
	}
}

// dribble is a step whose body comes in so many parts, with a pause before each.
func dribble(code int, parts int, pause time.Duration, headers ...string) reply {
	return func(req *http.Request) (*http.Response, error) {
		resp, err := status(code, headers...)(req)
		r, w := io.Pipe()
		resp.Body = r
		go func() {
			for range parts {
				time.Sleep(pause)
				if _, err := io.WriteString(w, " "); err != nil {
					return
				}
			}
			_, _ = io.WriteString(w, "{}")
			w.Close()
		}()
		return resp, err
	}
}

func TestAnAnswerThatDribblesHoldsTheNextAttemptNoLonger(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base := script(dribble(429, 20, 400*time.Millisecond, "Retry-After", "2"), status(200))
		resp, err := (&Retry{Base: base}).RoundTrip(get(t))
		require.NoError(t, err)
		assert.Equal(t, 200, resp.StatusCode)
		assert.InDelta(t, (peekTime + 2100*time.Millisecond).Seconds(), base.times()[1].Seconds(), 0.11)
		time.Sleep(time.Minute)
	})
}

func TestWhatIsKnownOfAnAttemptIsKeptWhenItsAnswerComesLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		late := dribble(429, 1, time.Second, "Retry-After", "2")
		var seen observed
		_, err := (&Retry{Base: script(late, late, status(503)), Attempts: 3, Observe: seen.see}).RoundTrip(get(t))
		require.NoError(t, err)
		require.Equal(t, []EventKind{EventRetry, EventRetry, EventGiveUp}, seen.kinds())
		for i, ev := range seen.events {
			assert.Equal(t, i+1, ev.Err.Attempts)
			assert.Len(t, ev.Err.Report().Attempts, i+1)
		}
	})
}

func TestALateAnswerKeepsItsCallsPlaceInTheQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base := script(after(time.Hour, status(200)), dribble(429, 1, time.Second, "Retry-After", "10"), status(200))
		tr := &Transport{Base: base}
		go sendAll(t, tr, 1)
		time.Sleep(time.Second)
		require.NoError(t, sendAll(t, tr, 1)[0])
		assert.Equal(t, 11*time.Second+peekTime, base.times()[2], "as soon as the pause is over")
		time.Sleep(time.Hour)
	})
}

func TestADeadlineAfterABrokenConnectionNamesNoStatus(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base := script(fails(errReset), hangs)
		_, err := (&Retry{Base: base}).RoundTrip(get(t).WithContext(deadlineIn(t, 10*time.Second)))
		require.ErrorIs(t, err, ErrTimeout)
		require.ErrorContains(t, err, "before that")
		assert.NotContains(t, err.Error(), "(0)")
	})
}

// What a base says without an answer is not the server's word that it has not acted.
func TestAnErrorOfABaseThatNamesAClassDoesNotMakeAPostSafe(t *testing.T) {
	for _, class := range []Class{ErrRateLimit, ErrOverloaded} {
		synctest.Test(t, func(t *testing.T) {
			base := script(fails(&Error{Class: class, Err: errors.New("says the base")}))
			_, err := (&Retry{Base: base}).RoundTrip(post(t, "x"))
			require.ErrorIs(t, err, class)
			assert.Len(t, base.times(), 1)
		})
	}
}

func TestABodyOfUnknownLengthIsNotKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base := script(status(503))
		req := newRequest(t, http.MethodPost, exampleKey, io.NopCloser(io.MultiReader()))
		require.Zero(t, req.ContentLength) // which means that it is not known
		resp, err := (&Retry{Base: base}).RoundTrip(req)
		require.NoError(t, err)
		assert.Equal(t, 503, resp.StatusCode)
		assert.Len(t, base.times(), 1)
	})
}
