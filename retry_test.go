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
		unread bool // the base does not read the body
		sent   int
	}{
		{name: "a success", method: "GET", step: status(200), sent: 1},
		{name: "a redirect", method: "GET", step: status(302), sent: 1},
		{name: "400", method: "GET", step: status(400), sent: 1},
		{name: "401", method: "GET", step: status(401), sent: 1},
		{name: "403", method: "GET", step: status(403), sent: 1},
		{name: "404", method: "GET", step: status(404), sent: 1},
		{name: "408", method: "POST", step: status(408), sent: 3},
		{name: "409", method: "GET", step: status(409), sent: 1},
		{name: "409 with a time", method: "POST", step: status(409, "Retry-After", "1"), sent: 3},
		{name: "409 with a time of nothing", method: "POST", step: status(409, "Retry-After", "0"), sent: 3},
		{name: "409 that says so", method: "POST", step: status(409, "X-Should-Retry", "true"), sent: 3},
		{name: "409 of Stripe's that says so", method: "POST", step: status(409, "Stripe-Should-Retry", "true"), sent: 3},
		{name: "500 of Stripe's that says no", method: "GET", step: status(500, "Stripe-Should-Retry", "false"), sent: 1},
		{name: "409 that passes", method: "POST", step: telling(409, `{"error":{"code":"lock_timeout"}}`), sent: 3},
		{name: "409 that stays", method: "POST", step: telling(409, `{"error":{"message":"duplicate email, try another"}}`), sent: 1},
		{name: "400 with words", method: "GET", step: telling(400, `{"error":{"message":"the server is busy"}}`), sent: 1},
		{name: "403 with words", method: "GET", step: telling(403, `{"error":{"message":"model is overloaded"}}`), sent: 1},
		{name: "404 with words", method: "GET", step: telling(404, `{"error":{"message":"server is overloaded"}}`), sent: 1},
		{name: "422 with words", method: "GET", step: telling(422, `{"error":{"message":"is currently loading"}}`), sent: 1},
		{name: "403 of GitHub's", method: "GET", step: telling(403, `{"message":"You have exceeded a secondary rate limit."}`), sent: 3},
		{name: "400 with a time", method: "GET", step: telling(400, `{"error":{"message":"server is busy, try again in 1s"}}`), sent: 3},
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
		{name: "nothing was written", method: "POST", step: fails(dialed), unread: true, sent: 3},
		{name: "nothing was written, after the body was read", method: "POST", step: fails(dialed), sent: 1},
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
				r := &Retry{Base: base, Attempts: 3, ReplayUnsafe: row.unsafe}
				if row.unread {
					r.Base = baseFunc(func(req *http.Request) (*http.Response, error) {
						closeBody(req)
						sent := *req
						sent.Body = nil
						return base.RoundTrip(&sent)
					})
				}
				resp, err := r.RoundTrip(req)
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
	const never = -1 // there is no second attempt
	date := []string{"Date", "Tue, 17 Jun 2025 07:23:10 GMT", "Retry-After"}
	for _, row := range []struct {
		name   string
		header []string
		want   time.Duration
		asked  time.Duration // as the error has it, if there is no second attempt
	}{
		{name: "seconds", header: []string{"Retry-After", "3"}, want: 3 * time.Second},
		{name: "fraction", header: []string{"Retry-After", "1.5"}, want: 1500 * time.Millisecond},
		{name: "milliseconds come first", header: []string{"Retry-After-Ms", "250", "Retry-After", "3"}, want: 250 * time.Millisecond},
		{name: "two minutes", header: []string{"Retry-After", "120"}, want: 2 * time.Minute},
		{name: "longer than two minutes", header: []string{"Retry-After", "120.001"}, want: never, asked: 120_001 * time.Millisecond},
		{name: "just what a Duration holds", header: []string{"Retry-After", "9223372036"}, want: never, asked: 9_223_372_036 * time.Second},
		{name: "just more", header: []string{"Retry-After", "9223372037"}, want: never, asked: math.MaxInt64},
		{name: "twice as much", header: []string{"Retry-After", "18446744074"}, want: never, asked: math.MaxInt64},
		{name: "more than a float64 holds", header: []string{"Retry-After", strings.Repeat("9", 400)}, want: never, asked: math.MaxInt64},
		{name: "negative is no hint", header: []string{"Retry-After", "-5"}},
		{name: "not a number is no hint", header: []string{"Retry-After", "NaN"}},
		{name: "an exponent is no hint", header: []string{"Retry-After", "1e400"}},
		{name: "infinity is no hint", header: []string{"Retry-After", "Inf"}},
		{name: "nothing is no hint", header: []string{"Retry-After", ""}},
		{name: "zero is no hint", header: []string{"Retry-After", "0"}},
		{name: "a date, by the server's clock", header: append(date, "Tue, 17 Jun 2025 07:23:17 GMT"), want: 7 * time.Second},
		{name: "a date as in RFC 850", header: append(date, "Tuesday, 17-Jun-25 07:23:17 GMT"), want: 7 * time.Second},
		{name: "a date as of asctime", header: append(date, "Tue Jun 17 07:23:17 2025"), want: 7 * time.Second},
		{name: "a date by our clock", header: []string{"Retry-After", "Sat, 01 Jan 2000 00:00:09 GMT"}, want: 9 * time.Second},
		{name: "a date in the past is no hint", header: append(date, "Tue, 17 Jun 2025 07:23:09 GMT")},
		{name: "a date far off", header: append(date, "Tue, 17 Jun 2026 07:23:10 GMT"), want: never, asked: 365 * 24 * time.Hour},
	} {
		t.Run(row.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				base := script(status(503, row.header...), status(200))
				resp, err := (&Retry{Base: base, MinDelay: -1}).RoundTrip(get(t))
				require.NoError(t, err)
				if row.want == never {
					assert.Equal(t, []time.Duration{0}, base.times())
					assert.Zero(t, time.Since(base.began))
					assert.Equal(t, 503, resp.StatusCode)
					assert.Equal(t, row.asked, Classify(resp, nil).RetryAfter)
					return
				}
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
		{"the wait is longer than two minutes", &Retry{}, time.Hour, status(429, "Retry-After", "121")},
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
			require.NotNil(t, req.GetBody, "net/http may need another one below us")
			require.NoError(t, req.Body.Close())
			return status(503)(req)
		})}
		first := &trackedBody{Reader: strings.NewReader("payload")}
		var more []*trackedBody
		req := post(t, "")
		req.Method = http.MethodPut
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
				req.GetBody, req.ContentLength = getBody, -1
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
		synctest.Wait()
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
		rt := &Retry{Base: &Timeout{Header: time.Minute, Idle: time.Minute, Base: &Breaker{Failures: 1, MaxWait: -1, Base: base}}}
		resp, err := rt.RoundTrip(get(t))
		require.NoError(t, err)
		assert.Equal(t, 503, resp.StatusCode)
		body, err := io.ReadAll(resp.Body)
		require.NoError(t, err)
		assert.Equal(t, `{"error":{"message":"status 503"}}`, string(body))
	})
}

func TestAnAnswerThatIsNotAllInHandIsNotHandedBackAfterItWasGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base := script(func(req *http.Request) (*http.Response, error) {
			resp, err := status(503)(req)
			resp.Body = newStalledBody("x")
			return resp, err
		})
		_, err := (&Retry{Base: &Breaker{Failures: 1, MaxWait: -1, Base: base}}).RoundTrip(get(t))
		require.ErrorIs(t, err, ErrCircuitOpen)
		assert.Len(t, base.times(), 1)
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

func TestOnEveryWayOutAllBodiesAreClosed(t *testing.T) {
	cancelled := errors.New("cancelled by the test")
	for _, row := range []struct {
		name   string
		retry  *Retry
		step   func(*http.Request) (*http.Response, error)
		cancel time.Duration
		sent   int
	}{
		{name: "a success", retry: &Retry{}, step: status(200), sent: 1},
		{name: "attempts used up", retry: &Retry{Attempts: 3}, step: status(503), sent: 3},
		{name: "errors", retry: &Retry{Attempts: 3, ReplayUnsafe: true}, step: fails(errReset), sent: 3},
		{name: "not worth it", retry: &Retry{}, step: status(404), sent: 1},
		{name: "the budget used up", retry: &Retry{Budget: &Budget{Size: 1}}, step: status(503), sent: 2},
		{name: "cancelled during a wait", retry: &Retry{}, step: status(503, "Retry-After", "60"), cancel: time.Second, sent: 1},
		{name: "cancelled during the second attempt", retry: &Retry{MinDelay: -1, Decide: func(*http.Request, *Error) Decision {
			return Again
		}}, step: after(time.Second, status(503)), cancel: 1500 * time.Millisecond, sent: 2},
		{name: "the base panics", retry: &Retry{}, step: func(*http.Request) (*http.Response, error) { panic("base") }, sent: 1},
		{name: "a hook panics", retry: &Retry{Observe: func(context.Context, Event) { panic("hook") }}, step: status(503), sent: 1},
		{name: "a rule panics", retry: &Retry{Decide: func(*http.Request, *Error) Decision { panic("rule") }}, step: status(503), sent: 1},
	} {
		t.Run(row.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var requests, answers []*trackedBody
				sent := 0
				row.retry.Base = rtFunc(func(req *http.Request) (*http.Response, error) {
					sent++
					resp, err := row.step(req)
					if err == nil {
						b := &trackedBody{Reader: resp.Body}
						answers, resp.Body = append(answers, b), b
					}
					return resp, err
				})
				req := post(t, "")
				req.GetBody = func() (io.ReadCloser, error) {
					requests = append(requests, &trackedBody{Reader: strings.NewReader("x")})
					return requests[len(requests)-1], nil
				}
				req.Body, _ = req.GetBody()
				ctx, cancel := context.WithCancelCause(req.Context())
				defer cancel(nil)
				if row.cancel > 0 {
					time.AfterFunc(row.cancel, func() { cancel(cancelled) })
				}
				defer func() {
					_ = recover()
					synctest.Wait()
					assert.Equal(t, row.sent, sent)
					for i, b := range requests {
						assert.Equal(t, 1, b.closes(), "request body %d of %d", i, len(requests))
					}
					for i, b := range answers {
						assert.Equal(t, 1, b.closes(), "response body %d of %d", i, len(answers))
					}
				}()
				resp, err := row.retry.RoundTrip(req.WithContext(ctx))
				assert.NotEqual(t, resp == nil, err == nil, "exactly one of response and error")
				if row.cancel > 0 {
					assert.ErrorIs(t, err, cancelled)
				}
				if err == nil {
					assert.NoError(t, resp.Body.Close())
				}
			})
		})
	}
}

func TestRetryHandsOverTheBodyOfASuccessItself(t *testing.T) {
	for _, code := range []int{101, 200} {
		body := &trackedBody{Reader: strings.NewReader("x")} // at 101, an io.Writer too
		resp, err := (&Retry{Base: rtFunc(func(req *http.Request) (*http.Response, error) {
			resp := answer(req, code, "")
			resp.Body = body
			return resp, nil
		})}).RoundTrip(get(t))
		require.NoError(t, err)
		assert.Same(t, body, resp.Body)
	}
}

func TestRetryLeavesTheConnectionsOfOthersAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base := &idleCounter{steps: script(fails(errReset))}
		rt := &Transport{Base: base, Retry: Retry{MinDelay: -1}, Breaker: Breaker{Failures: -1, Ratio: -1}}
		_, err := rt.RoundTrip(get(t))
		require.ErrorIs(t, err, errReset)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		_, err = rt.RoundTrip(get(t).WithContext(ctx))
		require.Error(t, err)
		assert.Zero(t, base.closed)
		rt.CloseIdleConnections()
		assert.Equal(t, 1, base.closed, "but for who asks for it")
	})
}

type idleCounter struct {
	*steps
	closed int
}

func (c *idleCounter) CloseIdleConnections() { c.closed++ }

func TestTheBackoffIsNotBoundedByTheTimeOfAnAttempt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base := script(status(503, "Retry-After", "5"), hangs, status(200))
		rt := &Retry{MinDelay: -1, Base: &Timeout{Header: 2 * time.Second, Base: base}}
		resp, err := rt.RoundTrip(get(t))
		require.NoError(t, err)
		assert.Equal(t, 200, resp.StatusCode)
		assert.Equal(t, []time.Duration{0, 5 * time.Second, 7 * time.Second}, base.times())
	})
}

func TestADiscardedAnswerIsDrainedWhileTheBackoffRuns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		body := newStalledBody("begin")
		base := script(func(req *http.Request) (*http.Response, error) {
			resp := answer(req, 503, "")
			resp.Header.Set("Retry-After", "1")
			resp.Body = body
			return resp, nil
		}, status(200))
		const sent = peekTime + time.Second
		time.AfterFunc(sent-drainTime-1, func() { assert.False(t, body.isClosed(), "more of it may come") })
		_, err := (&Retry{Base: base, MinDelay: -1}).RoundTrip(get(t))
		require.NoError(t, err)
		assert.Equal(t, []time.Duration{0, sent}, base.times(), "it costs no time of its own")
		synctest.Wait()
		assert.True(t, body.isClosed())
	})
}

func TestTheHistoryIsOnTheFinalError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base := script(status(503, "Retry-After", "2", "X-Request-Id", "one"), fails(errReset), status(429, "Retry-After", "3"), fails(errReset))
		var seen observed
		_, err := (&Retry{Base: base, Attempts: 4, MinDelay: -1, Observe: seen.see}).RoundTrip(get(t))
		var e *Error
		require.ErrorAs(t, err, &e)
		began := time.Now().Add(-5 * time.Second)
		want := []Attempt{
			{Number: 1, Time: began, Class: "overloaded", StatusCode: 503, RequestID: "one", Wait: 2 * time.Second},
			{Number: 2, Time: began.Add(2 * time.Second), Class: "connection", Cause: errReset.Error()},
			{Number: 3, Time: began.Add(2 * time.Second), Class: "rate_limit", StatusCode: 429, Wait: 3 * time.Second},
			{Number: 4, Time: began.Add(5 * time.Second), Class: "connection", Cause: errReset.Error()},
		}
		assert.Equal(t, want, e.Report().Attempts)
		require.Len(t, seen.events, 4)
		for i, ev := range seen.events {
			assert.Equal(t, i+1, ev.Attempt)
			assert.Equal(t, want[i].Class, ev.Err.Class.String())
			assert.Equal(t, want[i].Wait, ev.Wait)
			assert.Equal(t, i+1, ev.Err.Attempts)
		}
	})
}
