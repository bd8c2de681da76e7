package sturdy

import (
	"context"
	"errors"
	"io"
	"math"
	"net"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestRetrySendsAgainWhatPassesAndIsSafe(t *testing.T) {
	dialed := &net.OpError{Op: "dial", Net: "tcp", Err: errors.New("refused")}
	for _, row := range []struct {
		name   string
		method string
		step   func(*http.Request) (*http.Response, error)
		header string
		unsafe bool
		sent   int
	}{
		{name: "a success", method: "GET", step: status(200), sent: 1},
		{name: "a redirect", method: "GET", step: status(302), sent: 1},
		{name: "400", method: "GET", step: status(400), sent: 1},
		{name: "401", method: "GET", step: status(401), sent: 1},
		{name: "403", method: "GET", step: status(403), sent: 1},
		{name: "404", method: "GET", step: status(404), sent: 1},
		{name: "408", method: "POST", step: status(408), sent: 3},
		{name: "409", method: "POST", step: status(409), sent: 3},
		{name: "422", method: "GET", step: status(422), sent: 1},
		{name: "429", method: "POST", step: status(429), sent: 3},
		{name: "500", method: "POST", step: status(500), sent: 3},
		{name: "501", method: "GET", step: status(501), sent: 1},
		{name: "502", method: "POST", step: status(502), sent: 3},
		{name: "503", method: "POST", step: status(503), sent: 3},
		{name: "504", method: "POST", step: status(504), sent: 3},
		{name: "505", method: "GET", step: status(505), sent: 1},
		{name: "520 to a POST, which may have been acted on", method: "POST", step: status(520), sent: 1},
		{name: "520 to a GET", method: "GET", step: status(520), sent: 3},
		{name: "529 says that it was not acted on", method: "POST", step: status(529), sent: 3},
		{name: "the server says not to", method: "GET", step: status(503, "X-Should-Retry", "false"), sent: 1},
		{name: "the server says to", method: "POST", step: status(400, "X-Should-Retry", "true"), sent: 3},
		{name: "nothing was written", method: "POST", step: fails(dialed), sent: 3},
		{name: "reset GET", method: "GET", step: fails(errReset), sent: 3},
		{name: "reset PUT", method: "PUT", step: fails(errReset), sent: 3},
		{name: "reset DELETE", method: "DELETE", step: fails(errReset), sent: 3},
		{name: "reset POST", method: "POST", step: fails(errReset), sent: 1},
		{name: "reset PATCH", method: "PATCH", step: fails(errReset), sent: 1},
		{name: "reset POST with a key", method: "POST", header: "Idempotency-Key", step: fails(errReset), sent: 3},
		{name: "reset POST with the other key", method: "POST", header: "X-Idempotency-Key", step: fails(errReset), sent: 3},
		{name: "reset POST, replay allowed", method: "POST", unsafe: true, step: fails(errReset), sent: 3},
		{name: "our own refusal", method: "GET", step: fails(refusal(ErrCircuitOpen, time.Second, errors.New("open"))), sent: 1},
		{name: "no such host", method: "GET", step: fails(&net.DNSError{IsNotFound: true}), sent: 1},
		{name: "no response and no error", method: "GET", step: func(*http.Request) (*http.Response, error) { return nil, nil }, sent: 3},
	} {
		t.Run(row.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				base := script(row.step)
				req := post(t, "body")
				req.Method = row.method
				if row.header != "" {
					req.Header.Set(row.header, "1")
				}
				resp, err := (&Retry{Base: base, Attempts: 3, ReplayUnsafe: row.unsafe}).RoundTrip(req)
				assert.Len(t, base.times(), row.sent)
				assert.NotEqual(t, resp == nil, err == nil, "exactly one of response and error")
				if resp != nil {
					assert.NoError(t, resp.Body.Close())
				}
			})
		})
	}
}

func TestRetryWaitsExactlyAsLongAsTheServerAsks(t *testing.T) {
	for _, row := range []struct {
		name   string
		header []string
		want   time.Duration
	}{
		{"seconds", []string{"Retry-After", "3"}, 3 * time.Second},
		{"fraction", []string{"Retry-After", "1.5"}, 1500 * time.Millisecond},
		{"milliseconds come first", []string{"Retry-After-Ms", "250", "Retry-After", "3"}, 250 * time.Millisecond},
		{"two minutes", []string{"Retry-After", "120"}, 2 * time.Minute},
		{"negative is no hint", []string{"Retry-After", "-5"}, 0},
		{"not a number is no hint", []string{"Retry-After", "NaN"}, 0},
		{"a date, by the server's clock", []string{
			"Date", "Tue, 17 Jun 2025 07:23:10 GMT", "Retry-After", "Tue, 17 Jun 2025 07:23:17 GMT",
		}, 7 * time.Second},
	} {
		t.Run(row.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				base := script(status(503, row.header...), status(200))
				resp, err := (&Retry{Base: base, MinDelay: -1}).RoundTrip(get(t))
				require.NoError(t, err)
				assert.Equal(t, 200, resp.StatusCode)
				assert.Equal(t, []time.Duration{0, row.want}, base.times())
			})
		})
	}
}

func TestRetryNeverUndercutsTheServersWait(t *testing.T) {
	for range 50 {
		synctest.Test(t, func(t *testing.T) {
			base := script(status(429, "Retry-After", "10"), status(200))
			_, err := (&Retry{Base: base}).RoundTrip(get(t))
			require.NoError(t, err)
			assert.GreaterOrEqual(t, base.times()[1], 10*time.Second)
			assert.Less(t, base.times()[1], 10500*time.Millisecond, "the jitter on top is at most the backoff")
		})
	}
}

func TestRetryHandsTheAnswerBackWhereWaitingIsOfNoUse(t *testing.T) {
	long := status(429, "Retry-After", "60")
	for _, row := range []struct {
		name     string
		retry    *Retry
		deadline time.Duration
		step     func(*http.Request) (*http.Response, error)
	}{
		{"the wait would end after the deadline", &Retry{}, 59 * time.Second, long},
		{"the wait would end at the deadline", &Retry{MinDelay: -1}, 60 * time.Second, long},
		{"the wait is longer than MaxRetryAfter", &Retry{MaxRetryAfter: 59 * time.Second}, 0, long},
		{"MaxRetryAfter is off", &Retry{MaxRetryAfter: -1}, 0, status(429, "Retry-After", "1")},
		{"the wait would end after MaxElapsed", &Retry{MaxElapsed: 59 * time.Second}, 0, long},
		{"a wait beyond what a Duration holds", &Retry{}, 0, status(503, "Retry-After", "18446744074")},
		{"a wait of a day", &Retry{}, 0, status(503, "Retry-After", "86400")},
	} {
		t.Run(row.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				base := script(row.step)
				req := get(t)
				if row.deadline != 0 {
					ctx, cancel := context.WithTimeout(t.Context(), row.deadline)
					defer cancel()
					req = req.WithContext(ctx)
				}
				row.retry.Base = base
				resp, err := row.retry.RoundTrip(req)
				require.NoError(t, err)
				assert.Equal(t, []time.Duration{0}, base.times(), "sent once")
				assert.Zero(t, time.Since(base.began), "without a wait")
				e := Classify(resp, nil)
				assert.Positive(t, e.RetryAfter, "the hint is on the error")
				body, err := io.ReadAll(resp.Body)
				require.NoError(t, err)
				assert.Contains(t, string(body), "status", "the body can be read")
			})
		})
	}
}

func TestRetryBacksOffWithFullJitter(t *testing.T) {
	r := &Retry{}
	for n, want := range []time.Duration{1: 500 * time.Millisecond, 2: time.Second, 3: 2 * time.Second, 6: 16 * time.Second, 7: 20 * time.Second} {
		if want != 0 {
			assert.Equal(t, want, r.ceiling(n), "attempt %d", n)
		}
	}
	assert.Equal(t, 20*time.Second, r.ceiling(math.MaxInt32), "no number of attempts overflows")
	assert.Equal(t, 30*time.Second, (&Retry{MinDelay: 30 * time.Second}).ceiling(1), "MinDelay counts more than the default of MaxDelay")
	assert.Zero(t, (&Retry{MinDelay: -1}).ceiling(3))

	low, high := time.Hour, time.Duration(0)
	for range 10_000 {
		d := jitter(time.Second)
		low, high = min(low, d), max(high, d)
	}
	assert.Less(t, low, 10*time.Millisecond)
	assert.Greater(t, high, 990*time.Millisecond)
	assert.Less(t, high, time.Second)
	assert.Zero(t, jitter(0))
}

func TestRetryGivesEachAttemptAFreshBody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var bodies []string
		var seen []io.ReadCloser
		base := &Retry{MinDelay: -1, Attempts: 3, Base: baseFunc(func(req *http.Request) (*http.Response, error) {
			b, err := io.ReadAll(req.Body)
			require.NoError(t, err)
			bodies = append(bodies, string(b))
			seen = append(seen, req.Body)
			require.NoError(t, req.Body.Close())
			return status(503)(req)
		})}
		first := &trackedBody{Reader: strings.NewReader("payload")}
		var more []*trackedBody
		req := post(t, "")
		req.Body = first
		req.GetBody = func() (io.ReadCloser, error) {
			b := &trackedBody{Reader: strings.NewReader("payload")}
			more = append(more, b)
			return b, nil
		}
		resp, err := base.RoundTrip(req)
		require.NoError(t, err)
		assert.Equal(t, 503, resp.StatusCode)
		assert.Equal(t, []string{"payload", "payload", "payload"}, bodies)
		assert.Same(t, first, seen[0], "the first attempt has the caller's own body")
		assert.Same(t, first, req.Body, "and the caller's request is not changed")
		require.Len(t, more, 2, "GetBody is called for further attempts alone")
		for _, b := range append(more, first) {
			assert.Equal(t, 1, b.closes(), "every body is closed once")
		}
	})
}

// baseFunc is a base that sees to the request's body itself.
type baseFunc func(*http.Request) (*http.Response, error)

func (f baseFunc) RoundTrip(req *http.Request) (*http.Response, error) { return f(req) }

func TestRetryReturnsTheAnswerWhereTheBodyCannotBeHadAgain(t *testing.T) {
	for name, getBody := range map[string]func() (io.ReadCloser, error){
		"no GetBody":    nil,
		"GetBody fails": func() (io.ReadCloser, error) { return nil, errors.New("gone") },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				base := script(status(503), status(200))
				req := post(t, "x")
				req.GetBody = getBody
				resp, err := (&Retry{Base: base}).RoundTrip(req)
				require.NoError(t, err)
				assert.Len(t, base.times(), 1)
				assert.Equal(t, 503, resp.StatusCode)
				body, err := io.ReadAll(resp.Body)
				require.NoError(t, err)
				assert.Equal(t, `{"error":{"message":"status 503"}}`, string(body))
			})
		})
	}
}

func TestRetryClosesEveryAnswerThatItDoesNotReturn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var bodies []*trackedBody
		base := rtFunc(func(req *http.Request) (*http.Response, error) {
			resp, err := status(503)(req)
			b := &trackedBody{Reader: resp.Body}
			bodies, resp.Body = append(bodies, b), b
			return resp, err
		})
		resp, err := (&Retry{Base: base, Attempts: 4}).RoundTrip(get(t))
		require.NoError(t, err)
		require.Len(t, bodies, 4)
		for i, b := range bodies[:3] {
			assert.Equal(t, 1, b.closes(), "answer %d", i)
		}
		assert.Zero(t, bodies[3].closes(), "the one that is returned is open")
		_, err = io.ReadAll(resp.Body)
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
		assert.Equal(t, 1, bodies[3].closes())
	})
}

func TestABodyThatComesLateIsStillHeeded(t *testing.T) {
	const quota = `{"error":{"code":"insufficient_quota"}}`
	for name, headers := range map[string][]string{"backing off": nil, "as long as the server asks": {"Retry-After", "5"}} {
		for layer, rt := range map[string]func(http.RoundTripper) http.RoundTripper{
			"Retry": func(base http.RoundTripper) http.RoundTripper {
				return &Retry{Base: base, MinDelay: 10_000 * time.Hour, MaxDelay: 10_000 * time.Hour}
			},
			"Transport": func(base http.RoundTripper) http.RoundTripper {
				return &Transport{Base: base, Retry: Retry{MinDelay: 10_000 * time.Hour, MaxDelay: 10_000 * time.Hour}}
			},
		} {
			t.Run(name+", "+layer, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					base := script(func(req *http.Request) (*http.Response, error) {
						resp, err := status(429, headers...)(req)
						r, w := io.Pipe()
						resp.Body = r
						go func() {
							for _, part := range []string{quota[:10], quota[10:20], quota[20:]} {
								time.Sleep(400 * time.Millisecond)
								_, _ = io.WriteString(w, part)
							}
							w.Close()
						}()
						return resp, err
					})
					resp, err := rt(base).RoundTrip(get(t))
					require.NoError(t, err)
					assert.Len(t, base.times(), 1, "no credit left: sent once")
					assert.Equal(t, 1200*time.Millisecond, time.Since(base.began), "known as soon as it is there")
					assert.Equal(t, ErrQuotaExceeded, Classify(resp, nil).Class)
					body, err := io.ReadAll(resp.Body)
					require.NoError(t, err)
					assert.Equal(t, quota, string(body))
				})
			})
		}
	}
}

func TestRetryDrainsForAMomentOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		stalled := newStalledBody("begin")
		base := script(func(req *http.Request) (*http.Response, error) {
			resp := answer(req, 503, "")
			resp.Body = stalled
			return resp, nil
		}, status(200))
		resp, err := (&Retry{Base: base, MinDelay: -1}).RoundTrip(get(t))
		require.NoError(t, err)
		assert.Equal(t, 200, resp.StatusCode)
		assert.Equal(t, []time.Duration{0, peekTime + drainTime}, base.times())
		assert.True(t, stalled.isClosed())
	})
}

// stalledBody brings some bytes, and then nothing until it is closed.
type stalledBody struct {
	io.Reader
	once sync.Once
	end  chan struct{}
}

func newStalledBody(begin string) *stalledBody {
	return &stalledBody{Reader: strings.NewReader(begin), end: make(chan struct{})}
}

func (b *stalledBody) Read(p []byte) (int, error) {
	if n, _ := b.Reader.Read(p); n > 0 {
		return n, nil
	}
	<-b.end
	return 0, http.ErrBodyReadAfterClose
}

func (b *stalledBody) Close() error {
	b.once.Do(func() { close(b.end) })
	return nil
}

func (b *stalledBody) isClosed() bool {
	select {
	case <-b.end:
		return true
	default:
		return false
	}
}

func TestACancelledContextEndsAWaitAtOnce(t *testing.T) {
	why := errors.New("the user left")
	for _, layers := range []struct {
		name string
		make func(http.RoundTripper) http.RoundTripper
	}{
		{"Retry", func(base http.RoundTripper) http.RoundTripper { return &Retry{Base: base} }},
		{"Transport", func(base http.RoundTripper) http.RoundTripper { return &Transport{Base: base} }},
	} {
		for _, how := range []struct {
			name   string
			cancel func(*http.Request) *http.Request
			check  func(*testing.T, error)
		}{
			{"context", func(req *http.Request) *http.Request {
				ctx, cancel := context.WithCancelCause(req.Context())
				time.AfterFunc(time.Second, func() { cancel(why) })
				return req.WithContext(ctx)
			}, func(t *testing.T, err error) {
				assert.ErrorIs(t, err, context.Canceled)
				assert.ErrorIs(t, err, why)
			}},
			{"Request.Cancel", func(req *http.Request) *http.Request {
				done := make(chan struct{})
				time.AfterFunc(time.Second, func() { close(done) })
				req.Cancel = done
				return req
			}, func(t *testing.T, err error) {
				assert.ErrorIs(t, err, context.Canceled)
			}},
		} {
			t.Run(layers.name+", "+how.name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					base := script(status(429, "Retry-After", "60"))
					rt := layers.make(base)
					resp, err := rt.RoundTrip(how.cancel(get(t)))
					require.Error(t, err)
					assert.Nil(t, resp)
					assert.Equal(t, time.Second, time.Since(base.began), "in the same instant")
					assert.Len(t, base.times(), 1)
					assert.Equal(t, Class(0), Classify(nil, err).Class)
					how.check(t, err)
				})
			})
		}
	}
}

func TestClientTimeoutEndsAWaitAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base := script(hangs)
		client := &http.Client{Transport: &Transport{Base: base}, Timeout: time.Second}
		_, err := client.Do(get(t))
		var timeout net.Error
		require.ErrorAs(t, err, &timeout)
		assert.True(t, timeout.Timeout())
		assert.Equal(t, time.Second, time.Since(base.began))
		assert.Len(t, base.times(), 1)
	})
}

func TestTheCallersDeadlineIsNotRetried(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		base := script(hangs)
		_, err := (&Retry{Base: base}).RoundTrip(get(t).WithContext(ctx))
		assert.Equal(t, context.DeadlineExceeded, err, "passed on as it is")
		assert.Equal(t, time.Second, time.Since(base.began))
		assert.Equal(t, ErrTimeout, ClassOf(err))
	})
}

func TestRetryPassesOnAnErrorThatItDidNotRetry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, err := (&Retry{Base: script(fails(errReset))}).RoundTrip(post(t, "x"))
		assert.Same(t, errReset, err)
	})
}

func TestRetrySaysHowOftenItTried(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client := &http.Client{Transport: &Retry{Base: script(fails(errReset)), Attempts: 3}}
		_, err := client.Do(get(t))
		var e *Error
		require.ErrorAs(t, err, &e)
		assert.Equal(t, ErrConnection, e.Class)
		assert.Equal(t, 3, e.Attempts)
		assert.ErrorIs(t, err, errReset)
		assert.ErrorIs(t, err, ErrConnection)

		client.Transport = &Retry{Base: script(status(503)), Attempts: 3}
		resp, err := client.Do(get(t))
		require.ErrorAs(t, Check(resp, err), &e)
		assert.Equal(t, 3, e.Attempts)
		require.NoError(t, resp.Body.Close())

		client.Timeout = time.Hour // hides the body's type
		resp, err = client.Do(get(t))
		require.ErrorAs(t, Check(resp, err), &e)
		assert.Equal(t, 3, e.Attempts)
		require.NoError(t, resp.Body.Close())
	})
}

func TestTwoRetriesDoNotMultiply(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base := script(status(503))
		inner := &Retry{Base: base, Attempts: 4}
		resp, err := (&Retry{Base: inner, Attempts: 3}).RoundTrip(get(t))
		require.NoError(t, err)
		assert.Equal(t, 503, resp.StatusCode)
		assert.Len(t, base.times(), 3)

		// A later request with the answer's context is a call of its own.
		_, err = inner.RoundTrip(resp.Request)
		require.NoError(t, err)
		assert.Len(t, base.times(), 3+4)
	})
}

func TestRetryKeepsTheAnswerIfItMayNotBeSentAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		refused := refusal(ErrWaitTooLong, time.Minute, errors.New("no"))
		base := script(status(503), fails(refused))
		resp, err := (&Retry{Base: base}).RoundTrip(get(t))
		require.NoError(t, err)
		assert.Equal(t, 503, resp.StatusCode)
		body, err := io.ReadAll(resp.Body)
		require.NoError(t, err)
		assert.Equal(t, `{"error":{"message":"status 503"}}`, string(body))
		assert.Equal(t, 1, Classify(resp, nil).Attempts)

		_, err = (&Retry{Base: script(fails(refused))}).RoundTrip(get(t))
		assert.ErrorIs(t, err, ErrWaitTooLong)
		assert.ErrorIs(t, err, ErrNotSent)
	})
}

func TestAPanicOrGoexitInTheBaseGoesOn(t *testing.T) {
	for name, step := range map[string]func(*http.Request) (*http.Response, error){
		"panic":  func(*http.Request) (*http.Response, error) { panic("base") },
		"Goexit": func(*http.Request) (*http.Response, error) { runtime.Goexit(); return nil, nil },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				rt := &Transport{
					Base: script(step, status(200)), Timeout: Timeout{Header: time.Minute},
					Breaker: Breaker{Failures: 1}, RateLimit: RateLimit{Limit: 1},
				}
				var recovered any
				finished := false
				done := make(chan struct{})
				go func() {
					defer close(done)
					defer func() { recovered = recover() }()
					_, _ = rt.RoundTrip(get(t))
					finished = true
				}()
				<-done
				assert.False(t, finished)
				if name == "panic" {
					assert.Equal(t, "base", recovered)
				}
				resp, err := rt.RoundTrip(get(t))
				require.NoError(t, err, "what was held is released")
				assert.Equal(t, 200, resp.StatusCode)
				require.NoError(t, resp.Body.Close())
			})
		})
	}
}

func TestRetryEventsTellEveryAttempt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var seen observed
		r := &Retry{Base: script(status(503), fails(errReset), status(500)), Attempts: 3, Observe: seen.see}
		resp, err := r.RoundTrip(get(t))
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
		assert.Equal(t, []EventKind{EventRetry, EventRetry, EventGiveUp}, seen.kinds())
		for i, want := range []Class{ErrOverloaded, ErrConnection, ErrInternalServer} {
			assert.Equal(t, want, seen.events[i].Err.Class)
			assert.Equal(t, i+1, seen.events[i].Attempt)
			assert.Equal(t, "api.example.com", seen.events[i].Host)
		}
	})
}

func TestRetryReportsBadSettings(t *testing.T) {
	body := &trackedBody{Reader: strings.NewReader("x")}
	req := post(t, "")
	req.Body = body
	_, err := (&Retry{MinDelay: 2, MaxDelay: 1}).RoundTrip(req)
	assert.ErrorContains(t, err, "Retry.MinDelay")
	assert.Equal(t, 1, body.closes(), "the body is closed though nothing was sent")
}

func TestRetryNeverWritesToAnErrorThatOthersHaveSeen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		shared := &Error{Class: ErrConnection, Err: errReset}
		var logged []*Error
		r := &Retry{Base: rtFunc(fails(shared)), Attempts: 3, Observe: func(_ context.Context, ev Event) {
			logged = append(logged, ev.Err)
		}}
		_, err := r.RoundTrip(get(t))
		var e *Error
		require.ErrorAs(t, err, &e)
		assert.Equal(t, 3, e.Attempts)
		assert.Zero(t, shared.Attempts, "a base may return the same error to everybody")
		require.Len(t, logged, 3)
		assert.Equal(t, []int{1, 2, 3}, []int{logged[0].Attempts, logged[1].Attempts, logged[2].Attempts})
	})
}

func TestMaxElapsedBoundsTheWaitForATurnToo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base := script(status(503), status(200))
		rt := &Transport{Base: base, RateLimit: RateLimit{Limit: 0.1}, Retry: Retry{MaxElapsed: 2 * time.Second, MinDelay: -1}}
		resp, err := rt.RoundTrip(get(t))
		require.NoError(t, err)
		assert.Equal(t, 503, resp.StatusCode, "the answer in hand")
		assert.Zero(t, time.Since(base.began))
	})
}

func TestTheAnswerInHandIsKeptWhateverWrapsIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base := script(status(503))
		rt := &Retry{Base: &Timeout{Header: time.Minute, Base: &Breaker{Failures: 1, Base: base}}}
		resp, err := rt.RoundTrip(get(t))
		require.NoError(t, err)
		assert.Equal(t, 503, resp.StatusCode)
		body, err := io.ReadAll(resp.Body)
		require.NoError(t, err)
		assert.Equal(t, `{"error":{"message":"status 503"}}`, string(body))
	})
}

func TestABodyWhoseCloseHangsDoesNotHoldTheRetry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		base := script(func(req *http.Request) (*http.Response, error) {
			resp, err := status(503)(req)
			resp.Body = slowClose{newStalledBody("x"), release}
			return resp, err
		}, status(200))
		resp, err := (&Retry{Base: base, MinDelay: -1}).RoundTrip(get(t))
		require.NoError(t, err)
		assert.Equal(t, 200, resp.StatusCode)
		assert.Equal(t, []time.Duration{0, peekTime + drainTime}, base.times())
		close(release)
	})
}

type slowClose struct {
	*stalledBody
	release chan struct{}
}

func (b slowClose) Close() error {
	<-b.release
	return b.stalledBody.Close()
}

func TestAHintThatComesWithALateBodyIsHeeded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base := script(func(req *http.Request) (*http.Response, error) {
			resp := answer(req, 429, "")
			r, w := io.Pipe()
			resp.Body = r
			go func() {
				time.Sleep(300 * time.Millisecond)
				_, _ = io.WriteString(w, `{"error":{"message":"Please try again in 20s."}}`)
				w.Close()
			}()
			return resp, nil
		}, status(200))
		resp, err := (&Retry{Base: base, MinDelay: 10_000 * time.Hour, MaxDelay: 10_000 * time.Hour}).RoundTrip(get(t))
		require.NoError(t, err)
		assert.Equal(t, 200, resp.StatusCode)
		assert.GreaterOrEqual(t, base.times()[1], 20*time.Second)
		assert.Less(t, base.times()[1], 23*time.Second)
	})
}

func TestTheCallersOwnRuleDecides(t *testing.T) {
	always := func(d Decision) func(*http.Request, *Error) Decision {
		return func(*http.Request, *Error) Decision { return d }
	}
	for _, row := range []struct {
		name   string
		decide func(*http.Request, *Error) Decision
		step   func(*http.Request) (*http.Response, error)
		sent   int
	}{
		{"Default is Retry's rule: yes", always(Default), status(503), 3},
		{"Default is Retry's rule: no", always(Default), status(404), 1},
		{"Default is Retry's rule: not safe", always(Default), fails(errReset), 1},
		{"anything else is Default", always(77), status(404), 1},
		{"Again where it is not worth it", always(Again), status(404), 3},
		{"Again where the server says not to", always(Again), status(503, "X-Should-Retry", "false"), 3},
		{"Again where it is not safe", always(Again), fails(errReset), 3},
		{"Again where somebody below was cancelled", always(Again), fails(context.Canceled), 3},
		{"Again never outlasts what the server asks for", always(Again), status(404, "Retry-After", "3600"), 1},
		{"Again never comes after our own refusal", always(Again), fails(refusal(ErrCircuitOpen, time.Second, errors.New("open"))), 1},
		{"Stop", always(Stop), status(503), 1},
		{"Stop, though the server says to", always(Stop), status(503, "X-Should-Retry", "true"), 1},
		{"by the error", func(_ *http.Request, e *Error) Decision {
			if e.StatusCode == 404 && e.Attempts == 1 {
				return Again
			}
			return Stop
		}, status(404), 2},
		{"by the request", func(req *http.Request, _ *Error) Decision {
			if req.Method == http.MethodPost && req.URL.Path == "/v1/chat" {
				return Stop
			}
			return Default
		}, status(503), 1},
		{"not asked about a success", always(Again), status(200), 1},
		{"not asked about a redirect", always(Again), status(302), 1},
	} {
		t.Run(row.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				base := script(row.step)
				resp, err := (&Retry{Base: base, Attempts: 3, Decide: row.decide}).RoundTrip(post(t, "x"))
				assert.Len(t, base.times(), row.sent)
				if err == nil {
					assert.NoError(t, resp.Body.Close())
				}
			})
		})
	}
}

func TestTheCallersRuleIsAskedOnlyWhereThereMayBeAnotherAttempt(t *testing.T) {
	for name, row := range map[string]struct {
		most   int // Attempts
		req    func(*http.Request) *http.Request
		step   func(*http.Request) (*http.Response, error)
		asked  []int // the attempts
		status int
	}{
		"not after the last": {most: 3, step: status(404), asked: []int{1, 2}, status: 404},
		"not without a body to send": {req: func(req *http.Request) *http.Request {
			req.GetBody = nil
			return req
		}, step: status(404), status: 404},
		"not when the caller has gone": {req: func(req *http.Request) *http.Request {
			ctx, cancel := context.WithTimeout(req.Context(), time.Second)
			context.AfterFunc(ctx, cancel)
			return req.WithContext(ctx)
		}, step: hangs},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var asked []int
				r := &Retry{Base: script(row.step), Attempts: row.most, Decide: func(_ *http.Request, e *Error) Decision {
					asked = append(asked, e.Attempts)
					return Again
				}}
				req := post(t, "x")
				if row.req != nil {
					req = row.req(req)
				}
				resp, err := r.RoundTrip(req)
				assert.Equal(t, row.asked, asked)
				if row.status == 0 {
					assert.ErrorIs(t, err, context.DeadlineExceeded)
					return
				}
				require.NoError(t, err)
				assert.Equal(t, row.status, resp.StatusCode)
				assert.NoError(t, resp.Body.Close())
			})
		})
	}
}

func TestAPanicInTheCallersRuleClosesTheAnswer(t *testing.T) {
	body := &trackedBody{Reader: strings.NewReader("x")}
	r := &Retry{Decide: func(*http.Request, *Error) Decision { panic("rule") }}
	r.Base = rtFunc(func(req *http.Request) (*http.Response, error) {
		resp := answer(req, 503, "")
		resp.Body = body
		return resp, nil
	})
	assert.PanicsWithValue(t, "rule", func() { _, _ = r.RoundTrip(get(t)) })
	assert.Equal(t, 1, body.closes())
}

func TestTheCallersRuleHearsWhatASlowAnswerSays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base := script(func(req *http.Request) (*http.Response, error) {
			resp := answer(req, 503, "")
			r, w := io.Pipe()
			resp.Body = r
			go func() {
				time.Sleep(time.Second)
				_, _ = io.WriteString(w, `{"error":{"code":"maintenance"}}`)
				w.Close()
			}()
			return resp, nil
		})
		r := &Retry{Base: base, MinDelay: 10_000 * time.Hour, MaxDelay: 10_000 * time.Hour}
		r.Decide = func(_ *http.Request, e *Error) Decision {
			if e.Code == "maintenance" {
				return Stop
			}
			return Default
		}
		resp, err := r.RoundTrip(get(t))
		require.NoError(t, err)
		assert.Equal(t, 503, resp.StatusCode)
		assert.Equal(t, time.Second, time.Since(base.began))
		assert.NoError(t, resp.Body.Close())
	})
}

func TestIdempotencyKeyIsOneForAllAttemptsOfACall(t *testing.T) {
	for _, row := range []struct {
		name   string
		method string
		header http.Header
		off    bool
		made   bool   // the key is one of ours
		want   string // the key, if it is not
		sent   int    // of a call whose connection breaks
	}{
		{name: "a POST", method: "POST", made: true, sent: 3},
		{name: "a PATCH", method: "PATCH", made: true, sent: 3},
		{name: "a method that nobody knows", method: "BREW", made: true, sent: 3},
		{name: "the caller's own stays", method: "POST", header: http.Header{"Idempotency-Key": {"mine"}}, want: "mine", sent: 3},
		{name: "so does the other one", method: "POST", header: http.Header{"X-Idempotency-Key": {"mine"}}, sent: 3},
		{name: "a PUT needs none", method: "PUT", sent: 3},
		{name: "a GET needs none", method: "GET", sent: 3},
		{name: "off", method: "POST", off: true, sent: 1},
		{name: "without headers", method: "POST", header: http.Header{}, made: true, sent: 3},
	} {
		t.Run(row.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var keys []string
				r := &Retry{Attempts: 3, IdempotencyKey: !row.off, Base: rtFunc(func(req *http.Request) (*http.Response, error) {
					keys = append(keys, req.Header.Get("Idempotency-Key"))
					return nil, errReset
				})}
				req := post(t, "x")
				req.Method, req.Header = row.method, row.header
				before := req.Header.Clone()
				_, err := r.RoundTrip(req)
				require.ErrorIs(t, err, errReset)
				require.Len(t, keys, row.sent)
				assert.Equal(t, before, req.Header, "the caller's request is not changed")
				first := keys[0]
				for _, key := range keys {
					assert.Equal(t, first, key)
				}
				if !row.made {
					assert.Equal(t, row.want, first)
					return
				}
				assert.Len(t, first, 26)
				_, err = r.RoundTrip(req)
				require.ErrorIs(t, err, errReset)
				assert.NotEqual(t, first, keys[len(keys)-1], "another call, another key")
			})
		})
	}
}

func TestAnAnswerThatRetryGaveUpOnTellsAnSDKNotToSendItAgain(t *testing.T) {
	const header = "X-Should-Retry"
	tooLong := []string{"Retry-After", "3600"}
	for _, row := range []struct {
		name  string
		retry *Retry
		step  func(*http.Request) (*http.Response, error)
		want  []string
	}{
		{"attempts used up", &Retry{}, status(503), []string{"false"}},
		{"the budget used up", &Retry{Budget: &Budget{Size: 1}}, status(503), []string{"false"}},
		{"a wait that is too long", &Retry{}, status(429, tooLong...), []string{"false"}},
		{"no time left", &Retry{MaxElapsed: time.Nanosecond}, status(500), []string{"false"}},
		{"not worth it: no quota", &Retry{}, func(req *http.Request) (*http.Response, error) {
			return answer(req, 429, `{"error":{"code":"insufficient_quota"}}`), nil
		}, []string{"false"}},
		{"not worth it: 501", &Retry{}, status(501), []string{"false"}},
		{"not safe: 520 to a POST", &Retry{}, status(520), []string{"false"}},
		{"the caller's rule", &Retry{Decide: func(*http.Request, *Error) Decision { return Stop }}, status(503), []string{"false"}},
		{"408", &Retry{}, status(408), []string{"false"}},
		{"409", &Retry{}, status(409), []string{"false"}},
		{"the server said to, five times", &Retry{}, status(400, header, "true"), []string{"false"}},
		{"the server said not to", &Retry{}, status(503, header, "false"), []string{"false"}},
		{"no SDK sends a 404 again", &Retry{}, status(404), nil},
		{"nor a 401", &Retry{}, status(401), nil},
		{"a success is none to send again", &Retry{}, status(200), nil},
		{"nor is a redirect", &Retry{}, status(302), nil},
		{"where Retry is off others may try", &Retry{Attempts: -1}, status(503), nil},
		{"or send once", &Retry{Attempts: 1}, status(503), nil},
	} {
		t.Run(row.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				row.retry.Base = script(row.step)
				resp, err := row.retry.RoundTrip(post(t, "x"))
				require.NoError(t, err)
				assert.Equal(t, row.want, resp.Header.Values(header))
				assert.NoError(t, resp.Body.Close())
			})
		})
	}
}

func TestWhatRetryTellsAnSDKDoesNotChangeTheVerdict(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		shared := http.Header{"Via": {"a"}}
		base := rtFunc(func(req *http.Request) (*http.Response, error) {
			resp := answer(req, 503, "")
			resp.Header = shared
			return resp, nil
		})
		r := &Retry{Base: base, MinDelay: -1, Attempts: 2}
		resp, err := r.RoundTrip(get(t))
		require.NoError(t, err)
		require.Equal(t, "false", resp.Header.Get("X-Should-Retry"))
		assert.Equal(t, http.Header{"Via": {"a"}}, shared, "headers that others may have are not written to")
		assert.True(t, Classify(resp, nil).Retryable())
		assert.NotContains(t, Classify(resp, nil).Report().ResponseHeader, "X-Should-Retry", "the report is of what the server sent")

		other := *resp // somebody between made another answer of it
		other.Header = resp.Header.Clone()
		assert.True(t, Classify(&other, nil).Retryable())

		_, err = (&StatusErrors{Base: r}).RoundTrip(get(t))
		var e *Error
		require.ErrorAs(t, err, &e)
		assert.True(t, e.Retryable())

		// What the server says in answer to a later call is the server's word.
		again := script(status(503, "X-Should-Retry", "false"))
		_, err = (&Retry{Base: again}).RoundTrip(resp.Request)
		require.NoError(t, err)
		assert.Len(t, again.times(), 1)
	})
}

func TestARetryOfAnSDKIsSentOnce(t *testing.T) {
	for count, sent := range map[string]int{"": 3, "0": 3, "1": 1, "2": 1, "-1": 3, "x": 3} {
		synctest.Test(t, func(t *testing.T) {
			base := script(status(503))
			req := post(t, "x")
			req.Header.Set("X-Stainless-Retry-Count", count)
			resp, err := (&Retry{Base: base, Attempts: 3}).RoundTrip(req)
			require.NoError(t, err)
			assert.Len(t, base.times(), sent, "count %q", count)
			assert.Equal(t, sent == 1, resp.Header.Get("X-Should-Retry") == "", "who owns the retries may go on, after count %q", count)
			assert.NoError(t, resp.Body.Close())
		})
	}
}

func TestWithRetryIsAnExceptionForOneCall(t *testing.T) {
	stop := func(*http.Request, *Error) Decision { return Stop }
	reset, down := fails(errReset), status(503)
	for _, row := range []struct {
		name  string
		layer *Retry
		call  *Retry
		step  func(*http.Request) (*http.Response, error)
		times []time.Duration
	}{
		{"none", &Retry{Attempts: 3, MinDelay: -1}, nil, down, make([]time.Duration, 3)},
		{"nothing in it", &Retry{Attempts: 3, MinDelay: -1}, &Retry{}, down, make([]time.Duration, 3)},
		{"fewer attempts", &Retry{Attempts: 3, MinDelay: -1}, &Retry{Attempts: 1}, down, make([]time.Duration, 1)},
		{"none but the first", &Retry{Attempts: 3, MinDelay: -1}, &Retry{Attempts: -1}, down, make([]time.Duration, 1)},
		{"more attempts", &Retry{Attempts: -1, MinDelay: -1}, &Retry{Attempts: 4}, down, make([]time.Duration, 4)},
		{"no delay", &Retry{Attempts: 3, MinDelay: time.Hour, MaxDelay: time.Hour}, &Retry{MinDelay: -1}, down, make([]time.Duration, 3)},
		{"a longer wait", &Retry{Attempts: 2, MinDelay: -1}, &Retry{MaxRetryAfter: time.Hour}, status(503, "Retry-After", "3600"), []time.Duration{0, time.Hour}},
		{"less time", &Retry{MinDelay: -1}, &Retry{MaxElapsed: time.Minute}, status(503, "Retry-After", "60"), make([]time.Duration, 1)},
		{"leave to replay", &Retry{Attempts: 3, MinDelay: -1}, &Retry{ReplayUnsafe: true}, reset, make([]time.Duration, 3)},
		{"leave for all to replay stays", &Retry{Attempts: 3, MinDelay: -1, ReplayUnsafe: true}, &Retry{}, reset, make([]time.Duration, 3)},
		{"a key", &Retry{Attempts: 3, MinDelay: -1}, &Retry{IdempotencyKey: true}, reset, make([]time.Duration, 3)},
		{"a key for all stays", &Retry{Attempts: 3, MinDelay: -1, IdempotencyKey: true}, &Retry{}, reset, make([]time.Duration, 3)},
		{"a rule", &Retry{MinDelay: -1}, &Retry{Decide: stop}, down, make([]time.Duration, 1)},
		{"a rule for all stays", &Retry{MinDelay: -1, Decide: stop}, &Retry{}, down, make([]time.Duration, 1)},
		{"a budget", &Retry{MinDelay: -1}, &Retry{Budget: &Budget{Size: 2}}, down, make([]time.Duration, 3)},
		{"the budget for all stays", &Retry{MinDelay: -1, Budget: &Budget{Size: 2}}, &Retry{}, down, make([]time.Duration, 3)},
	} {
		t.Run(row.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				base := script(row.step)
				row.layer.Base = base
				req := post(t, "x")
				req = req.WithContext(WithRetry(req.Context(), row.call))
				resp, err := row.layer.RoundTrip(req)
				assert.Equal(t, row.times, base.times())
				if err == nil {
					assert.NoError(t, resp.Body.Close())
				}
			})
		})
	}
}

func TestAnExceptionChargesTheBudgetOfTheLayer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base := script(status(503))
		r := &Retry{Base: base, MinDelay: -1}
		req := get(t)
		req = req.WithContext(WithRetry(req.Context(), &Retry{Attempts: budgetSize + 2}))
		for range 2 {
			resp, err := r.RoundTrip(req)
			require.NoError(t, err)
			require.NoError(t, resp.Body.Close())
		}
		assert.Len(t, base.times(), 2+budgetSize)
	})
}

func TestAnExceptionIsTheLastWord(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var layer, call observed
		req := get(t)
		req = req.WithContext(WithRetry(req.Context(), &Retry{Attempts: 1, Observe: call.see}))
		resp, err := (&Retry{Base: script(status(503)), Observe: layer.see}).RoundTrip(req)
		require.NoError(t, err)
		assert.Equal(t, "false", resp.Header.Get("X-Should-Retry"), "an SDK does not send it again either")
		assert.Equal(t, []EventKind{EventGiveUp}, call.kinds())
		assert.Empty(t, layer.kinds())

		req = get(t)
		req = req.WithContext(WithRetry(req.Context(), &Retry{Attempts: 1}))
		_, err = (&Retry{Base: script(status(503)), Observe: layer.see}).RoundTrip(req)
		require.NoError(t, err)
		assert.Equal(t, []EventKind{EventGiveUp}, layer.kinds(), "the layer's watches where the call has none")
	})
}

func TestAnExceptionThatMakesNoSenseIsReported(t *testing.T) {
	for _, row := range []struct {
		retry *Retry
		want  string
	}{
		{&Retry{Base: http.DefaultTransport}, "Retry.Base is set in WithRetry"},
		{&Retry{MinDelay: time.Hour}, "Retry.MinDelay is more than Retry.MaxDelay"},
		{&Retry{Budget: &Budget{Ratio: math.NaN()}}, "Budget.Ratio"},
	} {
		base := script(status(200))
		req := get(t)
		_, err := (&Retry{Base: base, MaxDelay: time.Minute}).RoundTrip(req.WithContext(WithRetry(req.Context(), row.retry)))
		assert.ErrorContains(t, err, row.want)
		assert.ErrorIs(t, err, ErrNotSent)
		assert.Empty(t, base.times())
	}
}
