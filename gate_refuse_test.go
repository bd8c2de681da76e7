package sturdy

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/time/rate"
)

// ends sends a request with a deadline, and returns when it came to an end, and how.
func ends(t *testing.T, l *RateLimit, deadline time.Duration) (time.Duration, error) {
	t.Helper()
	began := time.Now()
	ctx, cancel := context.WithTimeout(t.Context(), deadline)
	defer cancel()
	_, err := l.RoundTrip(get(t).WithContext(ctx))
	return time.Since(began), err
}

func TestAPauseRefusesThoseWhoseTurnWillComeTooLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		// The pause ends after 11 seconds, and then they leave one after the other.
		base := script(after(time.Second, status(429, "Retry-After", "10")), status(200))
		l := &RateLimit{Base: base, Limit: 0.5, Fixed: true}
		go sendAll(t, l, 1)
		synctest.Wait()
		deadlines := []time.Duration{11500 * time.Millisecond, 13500 * time.Millisecond, 12 * time.Second, 14900 * time.Millisecond, 15500 * time.Millisecond}
		want := []time.Duration{11 * time.Second, 13 * time.Second, time.Second, time.Second, 15 * time.Second}
		got := make([]time.Duration, len(deadlines))
		done := make(chan struct{})
		for i, d := range deadlines {
			go func() {
				var err error
				got[i], err = ends(t, l, d)
				assert.Equal(t, want[i] == time.Second, err != nil, "%v: %v", d, err)
				done <- struct{}{}
			}()
			synctest.Wait()
		}
		for range deadlines {
			<-done
		}
		assert.Equal(t, want, got)
	})
}

func TestTheSoonerOfMaxWaitAndDeadlineRefuses(t *testing.T) {
	for name, row := range map[string]struct {
		maxWait, deadline time.Duration
		isDeadline        bool
	}{
		"MaxWait":  {5 * time.Second, 9 * time.Second, false},
		"deadline": {9 * time.Second, 5 * time.Second, true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := &RateLimit{Base: script(status(200)), Limit: 0.1, MaxWait: row.maxWait}
				sendAll(t, l, 1)
				took, err := ends(t, l, row.deadline)
				require.ErrorIs(t, err, ErrWaitTooLong)
				assert.Zero(t, took)
				if row.isDeadline {
					assert.ErrorIs(t, err, context.DeadlineExceeded)
				} else {
					assert.ErrorIs(t, err, errMaxWait)
				}
			})
		})
	}
}

func TestATurnAtMaxWaitIsInTime(t *testing.T) {
	for maxWait, inTime := range map[time.Duration]bool{10 * time.Second: true, 10*time.Second - 1: false} {
		synctest.Test(t, func(t *testing.T) {
			l := &RateLimit{Base: script(status(200)), Limit: 0.1, MaxWait: maxWait}
			sendAll(t, l, 1)
			assert.Equal(t, inTime, sendAll(t, l, 1)[0] == nil, maxWait)
		})
	}
}

func TestALimitOfNextToNothingHoldsForEver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &RateLimit{Base: script(status(200)), Limit: 1e-30}
		sendAll(t, l, 1)
		took, err := ends(t, l, 24*time.Hour)
		require.ErrorIs(t, err, ErrWaitTooLong)
		assert.Zero(t, took)
	})
}

func TestACircuitThatClosesAfterTheDeadlineRefusesAtOnceWhateverMaxWaitSays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base := script(status(200))
		b := &Breaker{Base: base, MaxWait: time.Minute}
		b.Trip(exampleKey, time.Now().Add(10*time.Second))
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		_, err := b.RoundTrip(get(t).WithContext(ctx))
		require.ErrorIs(t, err, ErrCircuitOpen)
		assert.Zero(t, time.Since(base.began))
	})
}

func TestACircuitThatClosesAtMaxWaitIsWaitedFor(t *testing.T) {
	for maxWait, waits := range map[time.Duration]bool{10 * time.Second: true, 10*time.Second - 1: false} {
		synctest.Test(t, func(t *testing.T) {
			b := &Breaker{Base: script(status(200)), MaxWait: maxWait}
			b.Trip(exampleKey, time.Now().Add(10*time.Second))
			assert.Equal(t, waits, sendAll(t, b, 1)[0] == nil, maxWait)
		})
	}
}

// The circuit was asked before, and said that it is open for an hour.
func TestACircuitThatOpensSoonerForWhoCannotWaitIsAskedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGate(rate.Inf, 1)
		c := (&Breaker{OpenFor: time.Second, MaxOpen: time.Hour}).newCircuit()
		now := time.Now()
		c.since, c.until = now, now.Add(time.Hour)
		g.mu.Lock()
		defer g.mu.Unlock()
		hasty := newTurn(get(t), now, wish{circuit: c, patient: time.Minute})
		g.insert(hasty)
		hasty.line.put(&g.shut, c.until)
		g.reviewAll(now)
		g.pump(now)
		defer g.timer.Stop()
		assert.Equal(t, now.Add(time.Second), g.shut.first().at)
	})
}
