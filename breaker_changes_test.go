package sturdy

import (
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestWhileAProbeIsOutARefusalSaysWhenThereMayBeAnother(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &Breaker{Base: script(after(time.Hour, status(200))), MaxWait: -1, OpenFor: time.Second, MaxOpen: 5 * time.Second}
		b.Trip(exampleKey, time.Now().Add(10*time.Second))
		time.Sleep(10 * time.Second)
		go sendAll(t, b, 1)
		time.Sleep(time.Second)
		var e *Error
		require.ErrorAs(t, sendAll(t, b, 1)[0], &e)
		assert.Equal(t, ErrCircuitOpen, e.Class)
		assert.Equal(t, 4*time.Second, e.RetryAfter)
		time.Sleep(2 * time.Hour)
	})
}

func TestACircuitThatWasOpenedByHandOpensNoMoreThanOthersAfterThat(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &Breaker{Base: script(status(200), status(200), status(500))}
		b.Trip(exampleKey, time.Now().Add(time.Second))
		require.NoError(t, sendAll(t, b, 1)[0])
		sendAll(t, b, 1)
		sendAll(t, b, 1)
		assert.Equal(t, StateClosed, b.State(exampleKey))
	})
}

func TestACircuitThatIsResetHasForgottenItsRatio(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &Breaker{Base: script(status(500)), Failures: -1, MinRequests: 4}
		for range 3 {
			sendAll(t, b, 1)
		}
		b.Reset(exampleKey)
		sendAll(t, b, 1)
		assert.Equal(t, StateClosed, b.State(exampleKey))
	})
}

func TestHowManyBodiesInARowThatBreakOpenTheCircuit(t *testing.T) {
	bad := func(req *http.Request) (*http.Response, error) {
		resp := answer(req, 200, "")
		resp.Body = io.NopCloser(io.MultiReader(strings.NewReader("x"), iotest.ErrReader(errReset)))
		return resp, nil
	}
	for name, row := range map[string]struct {
		steps []reply
		open  bool
	}{
		"one":                   {[]reply{bad}, false},
		"two":                   {[]reply{bad, bad}, true},
		"one, a whole one, one": {[]reply{bad, status(200), bad}, false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := &Breaker{Base: script(row.steps...), Failures: 2}
				for range row.steps {
					resp, err := b.RoundTrip(get(t))
					require.NoError(t, err)
					_, _ = io.Copy(io.Discard, resp.Body)
					resp.Body.Close()
				}
				assert.Equal(t, row.open, b.State(exampleKey) == StateOpen)
			})
		})
	}
}

func TestARefusalSaysWhatOpenedTheCircuit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &Breaker{Base: script(status(503)), Failures: 1, MaxWait: -1}
		sendAll(t, b, 1)
		require.ErrorContains(t, sendAll(t, b, 1)[0], "the last of its failures: "+ErrOverloaded.phrase())
		b.Reset(exampleKey)
		b.Trip(exampleKey, time.Now().Add(time.Minute))
		require.ErrorContains(t, sendAll(t, b, 1)[0], "its circuit was opened by hand")
	})
}

func TestNoMatterHowOftenAProbeFailsTheCircuitStaysOpenForMaxOpen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base := script(status(500))
		b := &Breaker{Base: base, Failures: 1, OpenFor: time.Second, MaxOpen: 5 * time.Second}
		for range 100 {
			sendAll(t, b, 1)
		}
		times := base.times()
		for i, want := range []time.Duration{time.Second, 2 * time.Second, 4 * time.Second} {
			assert.InDelta(t, want, times[i+1]-times[i], float64(want/10))
		}
		for i := 4; i < len(times); i++ {
			assert.InDelta(t, 5*time.Second, times[i]-times[i-1], float64(time.Second/2))
		}
	})
}

func TestWithoutABreakerTheBudgetPaysForRetries(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base := script(status(500))
		r := &Retry{Base: &RateLimit{Base: base}, Budget: &Budget{Size: 1}, MinDelay: time.Millisecond}
		for range 20 {
			resp, err := r.RoundTrip(get(t))
			require.NoError(t, err)
			resp.Body.Close()
		}
		assert.Less(t, len(base.times()), 50)
	})
}

func TestARetryWithinARetryHandsBackWhatItGets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		failure := errors.New("failure")
		base := script(fails(failure))
		_, err := (&Retry{Attempts: -1, Base: &Retry{Base: base}}).RoundTrip(get(t))
		require.ErrorIs(t, err, failure)
		assert.Len(t, base.times(), 1)
	})
}

func TestAnIdempotencyKeyIsAddedToTheOtherHeaders(t *testing.T) {
	var sent http.Header
	r := &Retry{IdempotencyKey: true, Base: rtFunc(func(req *http.Request) (*http.Response, error) {
		sent = req.Header
		return status(200)(req)
	})}
	req := post(t, "x")
	req.Header.Set("Authorization", "Bearer x")
	_, err := r.RoundTrip(req)
	require.NoError(t, err)
	assert.Equal(t, "Bearer x", sent.Get("Authorization"))
	assert.NotEmpty(t, sent.Get("Idempotency-Key"))
	assert.Empty(t, req.Header.Get("Idempotency-Key"))
}
