package sturdy

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"slices"
	"sync/atomic"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestARefusalIsReported(t *testing.T) {
	for name, row := range map[string]struct {
		layer func(*observed) http.RoundTripper
		class Class
	}{
		"RateLimit": {func(o *observed) http.RoundTripper {
			return &RateLimit{Base: script(status(200)), Limit: 0.1, MaxWait: time.Second, Observe: o.see}
		}, ErrWaitTooLong},
		"Breaker": {func(o *observed) http.RoundTripper {
			b := &Breaker{Base: script(status(200)), MaxWait: -1, Observe: o.see}
			time.AfterFunc(time.Second/2, func() { b.Trip(exampleKey, time.Now().Add(time.Hour)) })
			return b
		}, ErrCircuitOpen},
		"Transport": {func(o *observed) http.RoundTripper {
			return &Transport{Base: script(status(200)), RateLimit: RateLimit{Limit: 0.1, MaxWait: time.Second}, Observe: o.see}
		}, ErrWaitTooLong},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var seen observed
				rt := row.layer(&seen)
				sendAll(t, rt, 1)
				time.Sleep(time.Second)
				err := sendAll(t, rt, 1)[0]
				require.ErrorIs(t, err, row.class)
				last := seen.events[len(seen.events)-1]
				assert.Equal(t, EventRefuse, last.Kind)
				assert.Equal(t, row.class, last.Err.Class)
			})
		})
	}
}

func TestTheWaitThatIsReportedIsThatForAllLimits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var seen observed
		base := script(status(429, "Retry-After", "10"), status(200))
		var asked atomic.Int32
		limiter := waitFunc(func(ctx context.Context) error {
			return sleepFor(ctx, time.Duration(asked.Add(1)-1)*3*time.Second)
		})
		l := &RateLimit{Base: base, Limiter: limiter, Fixed: true, Observe: seen.see}
		sendAll(t, l, 1)
		sendAll(t, l, 1)
		i := slices.IndexFunc(seen.events, func(ev Event) bool { return ev.Kind == EventWait })
		require.GreaterOrEqual(t, i, 0)
		assert.Equal(t, 13*time.Second, seen.events[i].Wait, "for the pause, and then for the Limiter")
	})
}

func TestABodyThatBreaksOpensTheCircuitAndThatIsReported(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var seen observed
		b := &Breaker{Failures: 1, Observe: seen.see, Base: rtFunc(func(req *http.Request) (*http.Response, error) {
			resp := answer(req, 200, "")
			resp.Body = io.NopCloser(iotest.ErrReader(errReset))
			return resp, nil
		})}
		resp, err := b.RoundTrip(get(t))
		require.NoError(t, err)
		assert.Empty(t, seen.kinds())
		_, err = io.ReadAll(resp.Body)
		require.Error(t, err)
		assert.Equal(t, []EventKind{EventOpen}, seen.kinds())
	})
}

func TestALimitThatHeadersTellOfIsReportedToTheTransportsObserve(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var seen observed
		tr := &Transport{Observe: seen.see, Base: script(
			status(200, "RateLimit-Policy", `"d";q=1000;w=1000`, "RateLimit", `"d";r=900;t=100`),
		)}
		sendAll(t, tr, 1)
		assert.Equal(t, []EventKind{EventLimit}, seen.kinds())
	})
}

func TestALimitIsReportedAgainWhenItHasChangedByMoreThanATenth(t *testing.T) {
	for _, row := range []struct {
		limit int
		told  bool
	}{{1000, false}, {1095, false}, {1105, true}, {905, false}, {895, true}, {2000, true}} {
		t.Run(fmt.Sprint(row.limit), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var seen observed
				says := func(limit int) func(*http.Request) (*http.Response, error) {
					return status(200, "RateLimit-Policy", fmt.Sprintf(`"d";q=%d;w=1000`, limit), "RateLimit", fmt.Sprintf(`"d";r=%d;t=1`, limit-1))
				}
				l := &RateLimit{Observe: seen.see, Base: script(says(1000), says(row.limit))}
				sendAll(t, l, 1)
				require.Equal(t, []EventKind{EventLimit}, seen.kinds())
				assert.InEpsilon(t, 1, float64(seen.events[0].Rate), 0.01)
				time.Sleep(time.Minute)
				sendAll(t, l, 1)
				assert.Equal(t, row.told, len(seen.kinds()) == 2)
				if row.told {
					assert.InEpsilon(t, float64(row.limit)/1000, float64(seen.events[1].Rate), 0.01)
				}
			})
		})
	}
}

func TestABaseThatPanicsLeavesNobodyInFlightAndNoProbe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		boom := func(*http.Request) (*http.Response, error) { panic("base") }
		tr := &Transport{Base: script(boom, status(200)), Retry: Retry{Attempts: -1}}
		tr.Breaker.Trip(exampleKey, time.Now())
		time.Sleep(time.Second)
		assert.PanicsWithValue(t, "base", func() { _, _ = tr.RoundTrip(get(t)) })
		assert.Zero(t, tr.RateLimit.Limits()[0].InFlight)
		began := time.Now()
		require.NoError(t, sendAll(t, tr, 1)[0])
		assert.Zero(t, time.Since(began), "the next is the probe")
	})
}

func TestWhileTheCircuitIsOpenARetryCostsNothingOfTheBudget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base := script(status(500), status(500), status(500), status(500), status(200))
		tr := &Transport{Base: base, Retry: Retry{Budget: &Budget{Size: 1}}, Breaker: Breaker{Failures: 1}}
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		resp, err := tr.RoundTrip(get(t).WithContext(ctx))
		require.NoError(t, err)
		assert.Equal(t, 200, resp.StatusCode)
		assert.Len(t, base.times(), 5)
	})
}

func TestClosedCircuitsAreForgottenAndOpenOnesAreNot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &Breaker{Base: script(status(200)), Key: byHost, MaxWait: -1}
		b.Trip("down", time.Now().Add(10*time.Second))
		others := func() {
			for i := range 2 * maxCircuits {
				_, err := b.RoundTrip(getFrom(t, fmt.Sprint("other", i)))
				require.NoError(t, err)
			}
			assert.Len(t, b.Circuits(), maxCircuits)
		}
		others()
		assert.Equal(t, StateOpen, b.State("down"))
		time.Sleep(10*time.Second + maxOpenHint/2)
		others()
		assert.Equal(t, StateHalfOpen, b.State("down"))
		time.Sleep(maxOpenHint)
		others()
		assert.Equal(t, StateClosed, b.State("down"), "that it was open is long over")
	})
}
