package sturdy

import (
	"context"
	"errors"
	"io"
	"math"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// These tests are about who decides on a retry: Retry, its caller, an SDK above
// or a Retry below.

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
			req.GetBody, req.ContentLength = nil, -1
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

func TestAnAnswerThatRetryGaveUpOnTellsTheSDKOfStripeToo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		resp, err := (&Retry{Base: script(status(503, "Stripe-Should-Retry", "true"))}).RoundTrip(get(t))
		require.NoError(t, err)
		assert.Equal(t, "false", resp.Header.Get("Stripe-Should-Retry"))
	})
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

func TestTheAnswerToARetryOfAnSDKIsOneToItsRequest(t *testing.T) {
	req := get(t)
	req.Header.Set("X-Stainless-Retry-Count", "1")
	resp, err := (&Retry{Base: rtFunc(func(req *http.Request) (*http.Response, error) {
		return status(200)(req.Clone(req.Context())) // as a base that adds a credential does
	})}).RoundTrip(req)
	require.NoError(t, err)
	assert.Same(t, req, resp.Request)
}

// A base may keep the context of what it sends.
func TestARequestWithTheContextOfACallThatIsOverIsACallOfItsOwn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var kept context.Context
		base := script(func(req *http.Request) (*http.Response, error) {
			kept = req.Context()
			return status(200)(req)
		}, status(503), status(200))
		r := &Retry{Base: base}
		require.NoError(t, sendAll(t, r, 1)[0])
		resp, err := r.RoundTrip(get(t).WithContext(kept))
		require.NoError(t, err)
		assert.Equal(t, 200, resp.StatusCode)
		assert.Len(t, base.times(), 3)
	})
}

func TestWhereNothingIsSentAgainTheBaseGetsTheBodyItself(t *testing.T) {
	req := newRequest(t, http.MethodPost, exampleKey, io.NopCloser(strings.NewReader("x")))
	req.GetBody = func() (io.ReadCloser, error) { return http.NoBody, nil }
	_, err := (&Retry{Attempts: 1, Base: bareFunc(func(attempt *http.Request) (*http.Response, error) {
		assert.True(t, req.Body == attempt.Body, "%T", attempt.Body)
		return answer(attempt, 200, ""), nil
	})}).RoundTrip(req)
	require.NoError(t, err)
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
