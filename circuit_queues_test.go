package sturdy

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// Else a circuit would hold on to the queue of every key that has ever waited for it.
func TestACircuitForgetsAQueueWhereNobodyWaitsForItAnyMore(t *testing.T) {
	for name, end := range map[string]func(b *Breaker, cancel func()){
		"all have left":     func(b *Breaker, _ func()) { b.Reset(exampleKey) },
		"all have given up": func(_ *Breaker, cancel func()) { cancel() },
		"all were told no":  func(b *Breaker, _ func()) { b.Trip(exampleKey, time.Now().Add(24*time.Hour)) },
		"one after the other": func(b *Breaker, cancel func()) {
			time.AfterFunc(time.Second, cancel)
			time.Sleep(time.Minute)
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				tr := &Transport{Base: script(status(200)), Retry: Retry{Attempts: -1}, Breaker: Breaker{MaxWait: 2 * time.Hour}}
				tr.Breaker.Trip(exampleKey, time.Now().Add(time.Hour))
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				done := make(chan struct{})
				for range 3 {
					go func() {
						_, _ = tr.RoundTrip(get(t).WithContext(ctx))
						done <- struct{}{}
					}()
				}
				synctest.Wait()
				c := tr.Breaker.circuits.get(originKey(get(t)))
				require.Len(t, c.gates, 1)
				began := time.Now()
				end(&tr.Breaker, cancel)
				for range 3 {
					<-done
				}
				assert.LessOrEqual(t, time.Since(began), time.Minute, "nobody waits for MaxWait")
				assert.Empty(t, c.gates)
				assert.Empty(t, tr.RateLimit.gates.get(key{scheme: "https", host: "api.example.com"}).lines, "nor does the queue know of it")
			})
		})
	}
}

func TestACircuitRemembersAQueueAsLongAsSomebodyWaitsForIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base := script(status(200))
		tr := &Transport{Base: base, Breaker: Breaker{MaxWait: 2 * time.Hour}}
		tr.Breaker.Trip(exampleKey, time.Now().Add(time.Hour))
		time.AfterFunc(time.Minute, func() { tr.Breaker.Reset(exampleKey) })
		for range 3 {
			go func() {
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				time.AfterFunc(time.Second, cancel)
				_, err := tr.RoundTrip(get(t).WithContext(ctx))
				assert.ErrorIs(t, err, context.Canceled)
			}()
		}
		require.NoError(t, sendAll(t, tr, 1)[0])
		assert.Equal(t, []time.Duration{time.Minute}, base.times())
	})
}

func TestACircuitForgetsAQueueWhereNobodyWaitsForALimiterAnyMore(t *testing.T) {
	for name, limiter := range map[string]func() error{
		"it lets all pass": func() error { return nil },
		"it lets none":     func() error { return errors.New("no") },
		"it panics":        func() error { panic("limiter") },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				tr := &Transport{Base: script(status(200)), Retry: Retry{Attempts: -1}, RateLimit: RateLimit{
					Limiter: waitFunc(func(context.Context) error {
						time.Sleep(time.Second)
						return limiter()
					}),
				}}
				done := make(chan any)
				for range 3 {
					go func() {
						defer func() { done <- recover() }()
						if resp, err := tr.RoundTrip(get(t)); err == nil {
							resp.Body.Close()
						}
					}()
				}
				synctest.Wait()
				c := tr.Breaker.circuits.get(originKey(get(t)))
				gates := func() int {
					c.mu.Lock()
					defer c.mu.Unlock()
					return len(c.gates)
				}
				require.Equal(t, 1, gates(), "who waits is to come back if the circuit opens")
				for range 3 {
					<-done
				}
				assert.Zero(t, gates())
				assert.Empty(t, tr.RateLimit.gates.get(key{scheme: "https", host: "api.example.com"}).lines)
			})
		})
	}
}

// Of many queues, all would come each time that one may leave.
func TestATimeToReturnIsKeptForAQueueWhereThereAreOthers(t *testing.T) {
	for queues, keeps := range []bool{1: false, 2: true, 3: true} {
		if queues == 0 {
			continue
		}
		synctest.Test(t, func(t *testing.T) {
			c := new(Breaker).newCircuit()
			for range queues {
				c.waits(newGate(1, 1))
			}
			c.ramp.flow = 40
			c.ramp.start(time.Now())
			var kept time.Time
			_, wait := c.admit(time.Now(), get(t), &kept)
			require.Zero(t, wait)
			_, wait = c.admit(time.Now(), get(t), &kept)
			assert.Positive(t, wait)
			assert.Equal(t, keeps, !kept.IsZero(), "%d", queues)
		})
	}
}
