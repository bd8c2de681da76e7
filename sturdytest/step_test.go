package sturdytest_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/sturdyhttp/sturdy/sturdytest"
)

func play(t *testing.T, step sturdytest.Step) (*http.Response, error) {
	t.Helper()
	return roundTrip(t, sturdytest.Script(step))
}

func playBody(t *testing.T, step sturdytest.Step) (string, error) {
	t.Helper()
	resp, err := play(t, step)
	require.NoError(t, err)
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return string(b), err
}

// apiError is what OpenAI's SDKs read of an error.
type apiError struct {
	Error struct {
		Message string
		Type    *string
		Param   *string
		Code    *string
	}
}

func TestErrorsHaveTheShapeOfOpenAIs(t *testing.T) {
	str := func(s string) *string { return &s }
	for _, tc := range []struct {
		step      sturdytest.Step
		status    int
		typ, code *string
	}{
		{sturdytest.Status(401), 401, nil, nil},
		{sturdytest.Status(503), 503, nil, nil},
		{sturdytest.Status(529), 529, nil, nil},
		{sturdytest.RateLimited(time.Second), 429, str("requests"), str("rate_limit_exceeded")},
		{sturdytest.RateLimited(0), 429, str("requests"), str("rate_limit_exceeded")},
		{sturdytest.QuotaExceeded(), 429, str("insufficient_quota"), str("insufficient_quota")},
		{sturdytest.Overloaded(), 503, str("service_unavailable_error"), str("server_is_overloaded")},
	} {
		resp, err := play(t, tc.step)
		require.NoError(t, err)
		assert.Equal(t, tc.status, resp.StatusCode)
		assert.Equal(t, "application/json", resp.Header.Get("Content-Type"))
		var e apiError
		require.NoError(t, json.NewDecoder(resp.Body).Decode(&e))
		resp.Body.Close()
		assert.NotEmpty(t, e.Error.Message)
		assert.Equal(t, tc.typ, e.Error.Type)
		assert.Equal(t, tc.code, e.Error.Code)
		assert.Nil(t, e.Error.Param)
	}
}

func TestRateLimitedAsksToWaitRoundedUp(t *testing.T) {
	for _, tc := range []struct {
		d           time.Duration
		seconds, ms []string
	}{
		{2 * time.Second, []string{"2"}, nil},
		{time.Hour, []string{"3600"}, nil},
		{1500 * time.Millisecond, []string{"2"}, []string{"1500"}},
		{20 * time.Millisecond, []string{"1"}, []string{"20"}},
		{time.Microsecond, []string{"1"}, []string{"1"}},
		{0, nil, nil},
		{-time.Second, nil, nil},
	} {
		resp, err := play(t, sturdytest.RateLimited(tc.d))
		require.NoError(t, err)
		resp.Body.Close()
		assert.Equal(t, tc.seconds, resp.Header.Values("Retry-After"), tc.d)
		assert.Equal(t, tc.ms, resp.Header.Values("retry-after-ms"), tc.d)
	}
}

func TestMalformedJSONIsWholeAsHTTPAndBrokenAsJSON(t *testing.T) {
	resp, err := play(t, sturdytest.MalformedJSON(500))
	require.NoError(t, err)
	defer resp.Body.Close()
	assert.Equal(t, 500, resp.StatusCode)
	b, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	assert.EqualValues(t, len(b), resp.ContentLength)
	assert.False(t, json.Valid(b))
}

func TestConnRefusedIsADialErrorAndReadsNothing(t *testing.T) {
	req, up := newRequest(t, t.Context(), "hello")
	resp, err := sturdytest.Script(sturdytest.ConnRefused()).RoundTrip(req)
	assert.Nil(t, resp)
	assertSyscall(t, err, "dial", "connect", syscall.ECONNREFUSED)
	read, _, closed, _ := up.state()
	assert.Zero(t, read)
	assert.Equal(t, 1, closed)
}

func TestConnResetIsAReadErrorAfterTheBodyWasSent(t *testing.T) {
	req, up := newRequest(t, t.Context(), "hello")
	resp, err := sturdytest.Script(sturdytest.ConnReset()).RoundTrip(req)
	assert.Nil(t, resp)
	assertSyscall(t, err, "read", "read", syscall.ECONNRESET)
	read, _, closed, _ := up.state()
	assert.Equal(t, 5, read)
	assert.Equal(t, 1, closed)
}

func assertSyscall(t *testing.T, err error, op, call string, errno syscall.Errno) {
	t.Helper()
	oe, ok := err.(*net.OpError)
	require.True(t, ok, "%T", err)
	assert.Equal(t, op, oe.Op)
	se, ok := oe.Err.(*os.SyscallError)
	require.True(t, ok, "%T", oe.Err)
	assert.Equal(t, call, se.Syscall)
	assert.Equal(t, errno, se.Err)
	assert.ErrorIs(t, err, errno)
}

func TestErrIsReturnedAsItIs(t *testing.T) {
	resp, err := play(t, sturdytest.Step{Err: io.EOF})
	assert.Nil(t, resp)
	assert.Equal(t, io.EOF, err)
}

func TestErrEarlyReadsNothing(t *testing.T) {
	req, up := newRequest(t, t.Context(), "hello")
	_, err := sturdytest.Script(sturdytest.ConnReset().Early()).RoundTrip(req)
	assert.ErrorIs(t, err, syscall.ECONNRESET)
	read, _, closed, _ := up.state()
	assert.Zero(t, read)
	assert.Equal(t, 1, closed)
}

func TestPanicReachesTheCallerAndTheBodyIsClosed(t *testing.T) {
	for _, step := range []sturdytest.Step{sturdytest.Panic("boom"), sturdytest.Panic("boom").Early()} {
		req, up := newRequest(t, t.Context(), "hello")
		rt := sturdytest.Script(step, sturdytest.OK(""))
		assert.PanicsWithValue(t, "boom", func() { rt.RoundTrip(req) })
		_, _, closed, _ := up.state()
		assert.Equal(t, 1, closed)
		assert.Equal(t, "POST https://api.example.com/v1/chat: no answer", rt.Requests()[0].String())
		assert.Equal(t, 200, statusOf(t, rt), "the player goes on")
	}
}

func TestGoexitEndsTheGoroutineAndTheBodyIsClosed(t *testing.T) {
	req, up := newRequest(t, t.Context(), "hello")
	rt := sturdytest.Script(sturdytest.Goexit())
	returned := false
	var wg sync.WaitGroup
	wg.Go(func() {
		rt.RoundTrip(req)
		returned = true
	})
	wg.Wait()
	assert.False(t, returned)
	_, _, closed, _ := up.state()
	assert.Equal(t, 1, closed)
}

func TestAfterDelaysTheHeaders(t *testing.T) {
	for _, step := range []sturdytest.Step{
		sturdytest.OK("").After(7 * time.Second),
		sturdytest.OK("").After(7 * time.Second).Early(),
		sturdytest.ConnRefused().After(7 * time.Second),
	} {
		synctest.Test(t, func(t *testing.T) {
			start := time.Now()
			play(t, step)
			assert.Equal(t, 7*time.Second, time.Since(start))
		})
	}
}

func TestThenCutEndsWithUnexpectedEOF(t *testing.T) {
	got, err := playBody(t, sturdytest.OK(`{"id":`).ThenCut())
	assert.Equal(t, `{"id":`, got)
	assert.Equal(t, io.ErrUnexpectedEOF, err)
}

func TestThenResetEndsWithAReset(t *testing.T) {
	got, err := playBody(t, sturdytest.OK(`{"id":`).ThenReset())
	assert.Equal(t, `{"id":`, got)
	assertSyscall(t, err, "read", "read", syscall.ECONNRESET)
}

func TestBodyErrIsWhatTheBodyEndsWith(t *testing.T) {
	broken := errors.New("corrupt")
	resp, err := play(t, sturdytest.Step{Body: "some", BodyErr: broken})
	require.NoError(t, err)
	defer resp.Body.Close()
	got, err := io.ReadAll(resp.Body)
	assert.Equal(t, "some", string(got))
	assert.Equal(t, broken, err)
	_, err = resp.Body.Read(make([]byte, 1))
	assert.Equal(t, broken, err, "an error stays")
}

func TestThenStallEndsWhenClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rt := sturdytest.Script(sturdytest.Status(503).ThenStall())
		resp, err := roundTrip(t, rt)
		require.NoError(t, err)
		time.AfterFunc(time.Hour, func() { resp.Body.Close() })
		start := time.Now()
		got, err := io.ReadAll(resp.Body)
		assert.EqualError(t, err, "http: read on closed response body")
		assert.True(t, json.Valid(got))
		assert.Equal(t, time.Hour, time.Since(start))
		assert.Len(t, rt.Unread(), 1)
		assert.Zero(t, rt.Requests()[0].Response.LateReads, "the read had begun before")
	})
}

func TestStalledAndTricklingBodiesEndWithTheRequest(t *testing.T) {
	cause := errors.New("enough")
	for _, step := range []sturdytest.Step{
		sturdytest.OK("").ThenStall(),
		sturdytest.OK("some").Trickle(time.Hour),
		sturdytest.OK("some").Endless().Trickle(time.Second),
	} {
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithCancelCause(t.Context())
			req, _ := newRequest(t, ctx, "hello")
			resp, err := sturdytest.Script(step).RoundTrip(req)
			require.NoError(t, err)
			defer resp.Body.Close()
			time.AfterFunc(1500*time.Millisecond, func() { cancel(cause) })
			start := time.Now()
			_, err = io.Copy(io.Discard, resp.Body)
			assert.Equal(t, cause, err)
			assert.Equal(t, 1500*time.Millisecond, time.Since(start))
		})
		synctest.Test(t, func(t *testing.T) {
			stop := make(chan struct{})
			req, _ := newRequest(t, t.Context(), "hello")
			req.Cancel = stop
			resp, err := sturdytest.Script(step).RoundTrip(req)
			require.NoError(t, err)
			defer resp.Body.Close()
			time.AfterFunc(1500*time.Millisecond, func() { close(stop) })
			_, err = io.Copy(io.Discard, resp.Body)
			assert.EqualError(t, err, "net/http: request canceled")
		})
	}
}

func TestTrickleBringsAByteAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		got, err := playBody(t, sturdytest.OK("12345").Trickle(time.Second))
		require.NoError(t, err)
		assert.Equal(t, "12345", got)
		assert.Equal(t, 5*time.Second, time.Since(start))
	})
}

func TestEndlessBodyComesAgainAndAgain(t *testing.T) {
	for body, want := range map[string]string{"abc": "abcabcabca", "": strings.Repeat(" ", 10)} {
		resp, err := play(t, sturdytest.OK(body).Endless())
		require.NoError(t, err)
		got := make([]byte, 10)
		_, err = io.ReadFull(resp.Body, got)
		require.NoError(t, err)
		assert.Equal(t, want, string(got))
		n, err := io.CopyN(io.Discard, resp.Body, 1<<20)
		assert.NoError(t, err)
		assert.EqualValues(t, 1<<20, n)
		resp.Body.Close()
	}
}

func TestMethodsLeaveTheStepAsItWas(t *testing.T) {
	s := sturdytest.OK("body")
	s.With("X-Test", "1").After(time.Hour).Times(7)
	s.Early().Endless().Trickle(time.Hour)
	s.ThenCut()
	assert.Equal(t, sturdytest.OK("body"), s)
}

func TestResponsesShareNoHeader(t *testing.T) {
	rt := sturdytest.Script(sturdytest.Step{Header: http.Header{"x-lower": {"1"}}}.Times(2))
	for range 2 {
		resp, err := roundTrip(t, rt)
		require.NoError(t, err)
		assert.Equal(t, "1", resp.Header.Get("X-Lower"), "keys are as a client sees them")
		resp.Header.Set("X-Lower", "changed")
	}
}

func TestStepStringSaysWhatItDoes(t *testing.T) {
	for want, step := range map[string]sturdytest.Step{
		"200 OK":                                 {},
		"529":                                    sturdytest.Status(529),
		"503 Service Unavailable after 2s early": sturdytest.Status(503).After(2 * time.Second).Early(),
		"200 OK trickling endless":               sturdytest.OK("").Endless().Trickle(1),
		"200 OK then stall":                      sturdytest.OK("").ThenStall(),
		"200 OK then unexpected EOF":             sturdytest.OK("").ThenCut(),
		"hang":                                   sturdytest.Hang(),
		"panic(boom)":                            sturdytest.Panic("boom"),
		"runtime.Goexit":                         sturdytest.Goexit(),
		"EOF":                                    {Err: io.EOF},
		"dial tcp 192.0.2.80:443: connect: connection refused": sturdytest.ConnRefused(),
	} {
		assert.Equal(t, want, step.String())
	}
}
