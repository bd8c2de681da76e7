package sturdy

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/time/rate"
)

func TestAGateIsIdleIfANewOneWouldDoTheSame(t *testing.T) {
	for name, row := range map[string]struct {
		state func(g *gate, now time.Time)
		after time.Duration // it is idle; zero for never
	}{
		"somebody waits": {func(g *gate, now time.Time) { g.insert(newTurn(get(t), now, wish{})) }, 0},
		"one is out":     {func(g *gate, now time.Time) { g.pace.Leave(now, 1) }, 0},
		"its own limit":  {func(g *gate, now time.Time) { g.own.AllowN(now, 3) }, 1500 * time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				g := newGate(2, 5)
				require.True(t, g.idle())
				row.state(g, time.Now())
				if row.after == 0 {
					time.Sleep(24 * time.Hour)
					assert.False(t, g.idle())
					return
				}
				time.Sleep(row.after - 1)
				assert.Equal(t, row.after == 1, g.idle())
				time.Sleep(time.Nanosecond)
				assert.True(t, g.idle())
			})
		})
	}
}

func TestALineThatNobodyIsInIsNotAskedLater(t *testing.T) {
	g := newGate(rate.Inf, 1)
	one := newTurn(get(t), time.Now(), wish{circuit: (&Breaker{}).newCircuit()})
	g.insert(one)
	one.line.put(&g.shut, time.Now().Add(time.Hour))
	g.remove(one)
	assert.Empty(t, g.shut)
	assert.Empty(t, g.open)
}

func TestWhatComesBackMakesRoomForTheNext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGate(1, 1)
		first, _, err := g.enter(get(t), wish{units: 1})
		require.NoError(t, err)
		_, next, err := g.enter(get(t), wish{units: 1})
		require.NoError(t, err)
		time.Sleep(100 * time.Millisecond)
		g.takeBack(&first)
		select {
		case <-next.ready:
		default:
			t.Error("it waits for a token, though one was given back")
		}
		next.timer.Stop()
	})
}
