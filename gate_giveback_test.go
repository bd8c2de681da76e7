package sturdy

import (
	"context"
	"net/http"
	"sync/atomic"
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

func TestTheTokenOfOneWhoLeavesIsTheNextOnesAlsoAtALearnedRate(t *testing.T) {
	refused := func(t *testing.T) (*RateLimit, *steps) {
		base := script(status(429), status(200))
		l := &RateLimit{Base: base}
		_, err := l.RoundTrip(get(t))
		require.NoError(t, err)
		return l, base
	}
	var turn time.Duration // of the second request
	synctest.Test(t, func(t *testing.T) {
		l, base := refused(t)
		sendAll(t, l, 1)
		turn = base.times()[1]
		require.Positive(t, turn)
	})
	synctest.Test(t, func(t *testing.T) {
		l, base := refused(t)
		leavesLate(t, l, turn+time.Millisecond, get(t))
		sendAll(t, l, 1)
		assert.Equal(t, turn+time.Millisecond, base.times()[1])
	})
}

func TestWhenOneLeavesTheNextMovesUpAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base := script(status(200))
		l := &RateLimit{Base: base, Limit: 1}
		sendAll(t, l, 1)
		done := make(chan struct{})
		time.AfterFunc(time.Second/2, func() {
			sent := make(chan error)
			go func() { sent <- sendAll(t, l, 1)[0] }()
			assert.NoError(t, <-sent)
			close(done)
		})
		var queued atomic.Int32
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		l.Observe = func(_ context.Context, ev Event) {
			if ev.Kind == EventQueue && queued.Add(1) == 1 {
				time.Sleep(1500 * time.Millisecond)
				cancel()
			}
		}
		_, err := l.RoundTrip(get(t).WithContext(ctx)) // its turn came after a second
		require.ErrorIs(t, err, context.Canceled)
		<-done
		assert.Equal(t, []time.Duration{0, 1500 * time.Millisecond}, base.times())
	})
}

func TestWhenTheHeadOfTheQueueGivesUpTheNextMovesUpAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base := script(status(200))
		l := &RateLimit{Base: base, Tokens: 10, Cost: func(req *http.Request) int { return int(req.ContentLength) }}
		send := func(ctx context.Context, units int64) error {
			req := get(t).WithContext(ctx)
			req.ContentLength = units
			_, err := l.RoundTrip(req)
			return err
		}
		require.NoError(t, send(t.Context(), 600))
		ctx, cancel := context.WithCancel(t.Context())
		gaveUp := make(chan error)
		go func() { gaveUp <- send(ctx, 500) }()
		synctest.Wait()
		time.AfterFunc(5*time.Second, cancel)
		require.NoError(t, send(t.Context(), 10))
		require.ErrorIs(t, <-gaveUp, context.Canceled)
		assert.Equal(t, []time.Duration{0, 5 * time.Second}, base.times())
	})
}

func TestAProbeOfOneWhoLeavesAfterItsTurnIsTheNextOnes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base := script(status(500), status(200))
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		tr := &Transport{Base: base, Retry: Retry{Attempts: -1}, Breaker: Breaker{Failures: 1, OpenFor: 10 * time.Second, MaxOpen: 10 * time.Second}}
		_, err := tr.RoundTrip(get(t))
		require.NoError(t, err)
		tr.Observe = func(_ context.Context, ev Event) {
			if ev.Kind == EventQueue {
				time.Sleep(15 * time.Second) // it became the probe after 10
				cancel()
			}
		}
		_, err = tr.RoundTrip(get(t).WithContext(ctx))
		require.ErrorIs(t, err, context.Canceled)
		tr.Observe = nil
		require.NoError(t, sendAll(t, tr, 1)[0])
		assert.Equal(t, 15*time.Second, base.times()[1])
	})
}

func TestAHookThatPanicsLeavesNobodyInFlight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &RateLimit{Base: script(status(429, "Retry-After", "1")), Observe: func(context.Context, Event) { panic("hook") }}
		assert.PanicsWithValue(t, "hook", func() { _, _ = l.RoundTrip(get(t)) })
		assert.Zero(t, l.Limits()[0].InFlight)
	})
}
