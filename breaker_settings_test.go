package sturdy

import (
	"crypto/x509"
	"fmt"
	"net/url"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestSettingsAtTheirBoundsAreAllowed(t *testing.T) {
	for name, b := range map[string]*Breaker{
		"all must fail":      {Ratio: 1},
		"always for as long": {OpenFor: time.Second, MaxOpen: time.Second},
		"no MaxOpen":         {OpenFor: time.Minute},
		"no OpenFor":         {MaxOpen: time.Nanosecond},
	} {
		t.Run(name, func(t *testing.T) {
			b.Base = rtFunc(status(200))
			require.NoError(t, sendAll(t, b, 1)[0])
		})
	}
}

// opensAfter returns how many of these requests, one after the other with gaps between
// them, were sent until the circuit opened; 0 if it has not.
func opensAfter(t *testing.T, b *Breaker, gap time.Duration, steps ...reply) int {
	t.Helper()
	b.Base = script(steps...)
	for i := range steps {
		sendAll(t, b, 1)
		if b.State(exampleKey) == StateOpen {
			return i + 1
		}
		time.Sleep(gap)
	}
	return 0
}

func TestWhenTheRatioOpensTheCircuit(t *testing.T) {
	ok, bad := status(200), status(500)
	for name, row := range map[string]struct {
		b     *Breaker
		gap   time.Duration
		steps []reply
		want  int
	}{
		"not before there are 50":      {&Breaker{Failures: -1}, time.Millisecond, repeat(60, bad), 50},
		"at just that ratio":           {&Breaker{Failures: -1, Ratio: 0.5, MinRequests: 4}, 0, []reply{bad, ok, ok, bad, bad}, 4},
		"not below":                    {&Breaker{Failures: -1, Ratio: 0.5, MinRequests: 4}, 0, []reply{bad, ok, ok, ok, bad, bad, ok}, 6},
		"not with a negative ratio":    {&Breaker{Failures: -1, Ratio: -1, MinRequests: 1}, 0, repeat(100, bad), 0},
		"within the window":            {&Breaker{Failures: -1, MinRequests: 5}, 2 * time.Second, repeat(20, bad), 5},
		"not out of the window":        {&Breaker{Failures: -1, MinRequests: 5}, 3 * time.Second, repeat(20, bad), 0},
		"within all of the window":     {&Breaker{Failures: -1, MinRequests: 5}, 2300 * time.Millisecond, repeat(20, bad), 5},
		"not just out of the window":   {&Breaker{Failures: -1, MinRequests: 5}, 2500 * time.Millisecond, repeat(20, bad), 0},
		"not by what succeeded before": {&Breaker{Failures: -1}, time.Millisecond, append(repeat(100, ok), repeat(60, bad)...), 150},
		"within a longer window":       {&Breaker{Failures: -1, MinRequests: 5, Window: time.Minute}, 3 * time.Second, repeat(20, bad), 5},
		"not out of a shorter window":  {&Breaker{Failures: -1, MinRequests: 5, Window: time.Second}, 300 * time.Millisecond, repeat(20, bad), 0},
		"by a number, whatever ratio":  {&Breaker{Failures: 3, MinRequests: 100}, 0, repeat(20, bad), 3},
		"by a number, after a success": {&Breaker{Failures: 3, MinRequests: 100}, 0, []reply{bad, bad, ok, bad, bad, bad}, 6},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { assert.Equal(t, row.want, opensAfter(t, row.b, row.gap, row.steps...)) })
		})
	}
}

func TestWhatSaysNothingOfTheServerEndsNoRunOfFailures(t *testing.T) {
	bad := status(500)
	mistake := fails(&url.Error{Op: "Get", Err: x509.UnknownAuthorityError{}})
	for name, row := range map[string]struct {
		between reply
		want    int
	}{
		"a certificate": {mistake, 4}, "a 429": {status(429), 4}, "a success": {status(200), 0}, "a 501": {status(501), 0}, "a 404": {status(404), 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				assert.Equal(t, row.want, opensAfter(t, &Breaker{Failures: 3}, 0, bad, bad, row.between, bad))
			})
		})
	}
}

func TestThoseWhoWaitedReturnOneByOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base := script(status(200))
		b := &Breaker{Base: base}
		b.Trip(exampleKey, time.Now().Add(10*time.Second))
		for range 100 { // ten in a second
			go func() { _, _ = b.RoundTrip(get(t)) }()
			time.Sleep(100 * time.Millisecond)
		}
		time.Sleep(time.Minute)
		times := base.times()
		require.Len(t, times, 100)
		in := func(from, to time.Duration) (n int) {
			for _, at := range times {
				if at >= 10*time.Second+from && at < 10*time.Second+to {
					n++
				}
			}
			return n
		}
		assert.InDelta(t, 4, in(0, time.Second/2), 1, "half as fast as they came, and faster and faster")
		assert.InDelta(t, 6, in(time.Second/2, time.Second), 1, "up to a tenth more than they came")
		assert.Less(t, times[99], 15*time.Second, "and then as fast as the server takes them")
	})
}

func TestARunThatWasSentBeforeTheFirstFailureWasKnownCountsOnce(t *testing.T) {
	for together, want := range map[bool]State{true: StateClosed, false: StateOpen} {
		t.Run(fmt.Sprint(together), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := &Breaker{Failures: 3, Base: rtFunc(after(time.Second, status(500)))}
				if together {
					sendAll(t, b, 3)
				} else {
					for range 3 {
						sendAll(t, b, 1)
					}
				}
				assert.Equal(t, want, b.State(exampleKey))
			})
		})
	}
}
