package sturdy

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const exampleKey = "https://api.example.com"

func TestACircuitIsOpenedAndClosedByHand(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base := script(status(200))
		b := &Breaker{Base: base}
		assert.Equal(t, StateClosed, b.State(exampleKey), "nobody has used it")
		assert.Empty(t, b.Circuits())

		until := time.Now().Add(time.Hour)
		b.Trip(exampleKey, until)
		assert.Equal(t, []Circuit{{exampleKey, StateOpen, until}}, b.Circuits())
		_, err := b.RoundTrip(get(t))
		require.ErrorIs(t, err, ErrCircuitOpen)
		assert.Equal(t, time.Hour, err.(*Error).RetryAfter)

		time.Sleep(time.Hour)
		assert.Equal(t, StateHalfOpen, b.State(exampleKey))
		require.NoError(t, sendAll(t, b, 1)[0], "the probe")
		assert.Equal(t, StateClosed, b.State(exampleKey))

		b.Trip(exampleKey, time.Now().Add(time.Hour))
		b.Reset(exampleKey)
		assert.Equal(t, StateClosed, b.State(exampleKey))
		require.NoError(t, sendAll(t, b, 1)[0])
		b.Reset("https://unknown.example.com")
		assert.Len(t, b.Circuits(), 1)
	})
}

func TestACircuitThatIsResetHasForgottenItsFailures(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &Breaker{Base: script(status(500)), Failures: 3}
		sendAll(t, b, 1)
		sendAll(t, b, 1)
		b.Reset(exampleKey)
		sendAll(t, b, 1)
		sendAll(t, b, 1)
		assert.Equal(t, StateClosed, b.State(exampleKey))
		sendAll(t, b, 1)
		assert.Equal(t, StateOpen, b.State(exampleKey))
	})
}

func TestThoseWhoWaitLeaveWhenACircuitIsReset(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base := script(status(200))
		b := &Breaker{Base: base, MaxWait: 24 * time.Hour, Key: func(*http.Request) string { return "mine" }}
		b.Trip("mine", time.Now().Add(time.Hour))
		go func() {
			time.Sleep(time.Minute)
			b.Reset("mine")
		}()
		require.NoError(t, sendAll(t, b, 1)[0])
		assert.Equal(t, time.Minute, time.Since(base.began))
	})
}

func TestARefusalMayBeAnAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base := script(status(503))
		for name, rt := range map[string]http.RoundTripper{
			"Breaker":   &Breaker{Base: base, Failures: 1, MaxWait: -1, Answer: true},
			"Transport": &Transport{Base: base, Breaker: Breaker{Failures: 1, MaxWait: -1, Answer: true}, Retry: Retry{Attempts: -1}},
		} {
			sendAll(t, rt, 1)
			sent := len(base.times())
			resp, err := rt.RoundTrip(get(t))
			require.NoError(t, err, name)
			assert.Len(t, base.times(), sent, "nothing was sent")
			assert.Equal(t, 503, resp.StatusCode)
			assert.Equal(t, "false", resp.Header.Get("X-Should-Retry"))
			assert.Equal(t, "2", resp.Header.Get("Retry-After"), "whole seconds, rounded up")
			body, err := io.ReadAll(resp.Body)
			require.NoError(t, err)
			assert.EqualValues(t, len(body), resp.ContentLength)
			var said struct {
				Error struct{ Message, Type, Code string }
			}
			require.NoError(t, json.Unmarshal(body, &said))
			assert.Contains(t, said.Error.Message, "sturdy: circuit open")
			assert.Equal(t, "circuit_open", said.Error.Code)
			assert.False(t, Check(resp, nil).(*Error).Retryable(), "an SDK that obeys headers does not ask again")
		}
	})
}

func TestTheRatioOpensTheCircuitOnceThereIsEnoughToJudgeBy(t *testing.T) {
	for name, row := range map[string]struct {
		ratio    float64
		ok, fail int // in this order, again and again
		opens    int // after so many requests; 0 for never
	}{
		"nine of ten fail":         {0, 1, 9, 50},
		"eight of ten fail":        {0, 1, 4, 0},
		"half fail":                {0.5, 1, 1, 50},
		"half fail, and it is off": {-1, 1, 1, 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := 0
				b := &Breaker{Failures: -1, Ratio: row.ratio, MaxWait: -1, Base: rtFunc(func(req *http.Request) (*http.Response, error) {
					n++
					if n%(row.ok+row.fail) < row.fail {
						return status(500)(req)
					}
					return status(200)(req)
				})}
				for range 200 {
					sendAll(t, b, 1)
				}
				if row.opens == 0 {
					assert.Equal(t, 200, n)
				} else {
					assert.InDelta(t, row.opens, n, 2, "the successes before the first failure are not counted, and a success opens nothing")
				}
			})
		})
	}
}

func TestFailuresThatTakeLongerThanTheWindowCount(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &Breaker{Base: script(after(30*time.Second, fails(io.ErrUnexpectedEOF))), Failures: 5}
		for range 5 {
			assert.Equal(t, StateClosed, b.State(exampleKey))
			sendAll(t, b, 1)
		}
		assert.Equal(t, StateOpen, b.State(exampleKey))
	})
}

func TestBodiesThatBreakOpenTheCircuit(t *testing.T) {
	for name, row := range map[string]struct {
		end   error
		opens bool
	}{
		"cut short":         {io.ErrUnexpectedEOF, true},
		"read to their end": {io.EOF, false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := &Breaker{Failures: 5, Base: rtFunc(func(req *http.Request) (*http.Response, error) {
					resp := answer(req, 200, "")
					resp.Body = io.NopCloser(endsWith{row.end})
					return resp, nil
				})}
				for range 5 {
					assert.Equal(t, StateClosed, b.State(exampleKey))
					resp, err := b.RoundTrip(get(t))
					require.NoError(t, err)
					_, _ = io.ReadAll(resp.Body)
					require.NoError(t, resp.Body.Close())
				}
				assert.Equal(t, row.opens, b.State(exampleKey) == StateOpen)
			})
		})
	}
}

type endsWith struct{ err error }

func (e endsWith) Read([]byte) (int, error) { return 0, e.err }

func TestTheOpenPeriodIsNeverShorterThanItShouldBe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		different := make(map[time.Duration]bool)
		for range 100 {
			b := &Breaker{Base: script(status(500)), Failures: 1}
			began := time.Now()
			sendAll(t, b, 1)
			d := b.Circuits()[0].Until.Sub(began)
			assert.GreaterOrEqual(t, d, time.Second)
			assert.LessOrEqual(t, d, 1100*time.Millisecond)
			different[d] = true
		}
		assert.Greater(t, len(different), 50, "clients that failed together come back apart")
	})
}

func TestARequestOnBehalfOfTheProbePasses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rt := &Transport{Breaker: Breaker{Failures: 1, MaxWait: -1}, Retry: Retry{Attempts: -1}}
		n := 0
		rt.Base = rtFunc(func(req *http.Request) (*http.Response, error) {
			if n++; n == 1 {
				return status(500)(req)
			}
			if req.URL.Path != "/token" { // needs a token of the same host first
				token := newRequest(t, http.MethodPost, exampleKey+"/token", nil).WithContext(req.Context())
				if _, err := rt.RoundTrip(token); err != nil {
					return nil, err
				}
			}
			return status(200)(req)
		})
		sendAll(t, rt, 1)
		time.Sleep(2 * time.Second)
		began := time.Now()
		resp, err := rt.RoundTrip(get(t))
		require.NoError(t, err)
		assert.Equal(t, 200, resp.StatusCode)
		assert.Less(t, time.Since(began), time.Second, "but for the cold start, at once")
		assert.Equal(t, StateClosed, rt.Breaker.State(exampleKey))
	})
}

func TestBreakerReportsBadSettings(t *testing.T) {
	for field, b := range map[string]*Breaker{
		"Breaker.Ratio":   {Ratio: 1.5},
		"Breaker.OpenFor": {OpenFor: time.Minute, MaxOpen: time.Second},
	} {
		b.Base = script(status(200))
		_, err := b.RoundTrip(get(t))
		assert.ErrorContains(t, err, field)
	}
}

func TestStreamsThatStallOpenTheCircuit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rt := &Transport{
			Base: rtFunc(func(req *http.Request) (*http.Response, error) {
				resp := answer(req, 200, "")
				r, w := io.Pipe()
				context.AfterFunc(req.Context(), func() { w.CloseWithError(req.Context().Err()) })
				resp.Body = r
				return resp, nil
			}),
			Timeout: Timeout{Idle: 10 * time.Second},
			Breaker: Breaker{Failures: 3},
		}
		for range 3 {
			assert.Equal(t, StateClosed, rt.Breaker.State(exampleKey))
			resp, err := rt.RoundTrip(get(t))
			require.NoError(t, err)
			_, err = io.ReadAll(resp.Body)
			require.ErrorIs(t, err, ErrTimeout)
			require.NoError(t, resp.Body.Close())
		}
		assert.Equal(t, StateOpen, rt.Breaker.State(exampleKey))
	})
}

func TestCallersWhoCloseAStreamEarlyOpenNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &Breaker{Failures: 1, Base: rtFunc(func(req *http.Request) (*http.Response, error) {
			resp := answer(req, 200, "")
			resp.Body, _ = io.Pipe()
			return resp, nil
		})}
		for range 5 {
			resp, err := b.RoundTrip(get(t))
			require.NoError(t, err)
			go resp.Body.Close()
			_, _ = io.ReadAll(resp.Body)
		}
		assert.Equal(t, StateClosed, b.State(exampleKey))
	})
}
