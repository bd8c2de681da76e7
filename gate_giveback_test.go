package sturdy

import (
	"context"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/time/rate"
)

// leavesLate sends a request that has to queue, and whose caller leaves after
// its turn has come, but before it is sent: at the end of d.
func leavesLate(t *testing.T, l *RateLimit, d time.Duration, req *http.Request) {
	t.Helper()
	ctx, cancel := context.WithCancel(req.Context())
	defer cancel()
	l.Observe = func(_ context.Context, ev Event) {
		if ev.Kind == EventQueue {
			time.Sleep(d)
			cancel()
		}
	}
	_, err := l.RoundTrip(req.WithContext(ctx))
	require.ErrorIs(t, err, context.Canceled)
	l.Observe = nil
}

func TestTheTokenOfOneWhoLeavesAfterItsTurnIsTheNextOnes(t *testing.T) {
	for name, row := range map[string]struct {
		limit rate.Limit
		burst int
	}{"the caller's limit": {1, 1}, "with a burst": {1, 3}} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				base := script(status(200))
				l := &RateLimit{Base: base, Limit: row.limit, Burst: row.burst}
				sendAll(t, l, row.burst)
				leavesLate(t, l, 1500*time.Millisecond, get(t)) // its turn came after a second
				sendAll(t, l, 2)
				assert.Equal(t, []time.Duration{1500 * time.Millisecond, 2 * time.Second}, base.times()[row.burst:])
			})
		})
	}
}

func TestAllThoseWhoLeaveAfterTheirTurnGiveBackNoMoreThanABurst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base := script(status(200))
		l := &RateLimit{Base: base, Limit: 1}
		sendAll(t, l, 1)
		ctx, cancel := context.WithCancel(t.Context())
		l.Observe = func(_ context.Context, ev Event) {
			if ev.Kind == EventQueue {
				<-ctx.Done()
			}
		}
		done := make(chan error)
		for range 5 {
			go func() {
				_, err := l.RoundTrip(get(t).WithContext(ctx))
				done <- err
			}()
		}
		time.Sleep(10500 * time.Millisecond) // by now all of their turns have come
		cancel()
		for range 5 {
			require.ErrorIs(t, <-done, context.Canceled)
		}
		l.Observe = nil
		sendAll(t, l, 4)
		for i, at := range base.times()[1:] {
			assert.LessOrEqual(t, 10500*time.Millisecond, at)
			if i >= 2 { // one was given back, and one had accrued
				assert.GreaterOrEqual(t, at, 10500*time.Millisecond+time.Duration(i-1)*time.Second/2)
			}
		}
		assert.Zero(t, l.Limits()[0].InFlight)
	})
}

func TestTheUnitsOfOneWhoLeavesAfterItsTurnAreTheNextOnes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base := script(status(200))
		costs := 600
		l := &RateLimit{Base: base, Tokens: 10, Cost: func(*http.Request) int { return costs }} // 600 in a minute
		sendAll(t, l, 1)
		costs = 100
		leavesLate(t, l, 15*time.Second, get(t)) // its turn came after 10 seconds
		costs = 150
		sendAll(t, l, 1)
		assert.Equal(t, []time.Duration{0, 15 * time.Second}, base.times())
	})
}
