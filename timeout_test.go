package sturdy

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestTimeoutGivesUpAnAttemptWithoutHeaders(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base := script(hangs)
		var seen observed
		_, err := (&Timeout{Base: base, Header: 3 * time.Second, Observe: seen.see}).RoundTrip(get(t))
		assert.Equal(t, 3*time.Second, time.Since(base.began))
		var e *Error
		require.ErrorAs(t, err, &e)
		assert.Equal(t, ErrTimeout, e.Class)
		assert.True(t, e.Timeout())
		assert.True(t, e.Retryable())
		assert.ErrorIs(t, err, ErrConnection, "a timeout is a kind of it")
		assert.NotErrorIs(t, err, context.Canceled, "the caller cancelled nothing")
		assert.Equal(t, "sturdy: timed out: no response headers in time: 3s", err.Error())
		assert.Equal(t, []EventKind{EventTimeout}, seen.kinds())
	})
}

func TestATimedOutAttemptIsRetriedWithTheWholeTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base := script(hangs, after(2*time.Second, status(200)))
		rt := &Transport{Base: base, Timeout: Timeout{Header: 3 * time.Second}, Retry: Retry{MinDelay: -1}}
		resp, err := rt.RoundTrip(get(t))
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
		assert.Equal(t, []time.Duration{0, 3 * time.Second}, base.times())
		assert.Equal(t, 5*time.Second, time.Since(base.began))

		base = script(hangs)
		rt = &Transport{Base: base, Timeout: Timeout{Header: 3 * time.Second}}
		_, err = rt.RoundTrip(post(t, "x"))
		assert.ErrorIs(t, err, ErrTimeout)
		assert.Len(t, base.times(), 1, "a POST may have been acted on")
	})
}

func TestTheCallersOwnEndIsNotATimeoutOfTheAttempt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		why := errors.New("shutdown")
		ctx, cancel := context.WithCancelCause(t.Context())
		time.AfterFunc(time.Second, func() { cancel(why) })
		_, err := (&Timeout{Base: rtFunc(hangs), Header: time.Minute}).RoundTrip(get(t).WithContext(ctx))
		assert.ErrorIs(t, err, context.Canceled)
		assert.ErrorIs(t, err, why)
		assert.NotErrorIs(t, err, ErrTimeout)
	})
}

func TestTimeoutNeverEndsABodyThatFlows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var ctx context.Context
		body := &trackedBody{Reader: io.MultiReader(strings.NewReader("one"), strings.NewReader("two"))}
		rt := &Timeout{Header: time.Second, Base: rtFunc(func(req *http.Request) (*http.Response, error) {
			ctx = req.Context()
			resp := answer(req, 200, "")
			resp.Body = body
			return resp, nil
		})}
		resp, err := rt.RoundTrip(get(t))
		require.NoError(t, err)
		time.Sleep(time.Hour)
		require.NoError(t, ctx.Err(), "the body's context lasts as long as the body")
		got, err := io.ReadAll(resp.Body)
		require.NoError(t, err)
		assert.Equal(t, "onetwo", string(got))
		assert.Error(t, ctx.Err(), "and no longer")
		require.NoError(t, resp.Body.Close())
		assert.Equal(t, 1, body.closes())
	})
}

func TestTimeoutKeepsTheWriterOfAnUpgradedConnection(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Connection", "Upgrade")
		w.Header().Set("Upgrade", "echo")
		w.WriteHeader(http.StatusSwitchingProtocols)
		conn, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer conn.Close()
		line, _ := rw.ReadString('\n')
		_, _ = rw.WriteString("echo " + line)
		_ = rw.Flush()
	}))
	defer server.Close()
	base := &http.Transport{}
	defer base.CloseIdleConnections()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, server.URL, http.NoBody)
	require.NoError(t, err)
	req.Header.Set("Connection", "Upgrade")
	req.Header.Set("Upgrade", "echo")
	resp, err := (&Transport{Base: base, Timeout: Timeout{Header: time.Minute}}).RoundTrip(req)
	require.NoError(t, err)
	defer resp.Body.Close()
	require.Equal(t, http.StatusSwitchingProtocols, resp.StatusCode)
	w, ok := resp.Body.(io.Writer)
	require.True(t, ok)
	_, err = io.WriteString(w, "hello\n")
	require.NoError(t, err)
	got, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	assert.Equal(t, "echo hello\n", string(got))
}

func TestTimeoutOffIsNotInTheWay(t *testing.T) {
	var passed *http.Request
	rt := &Timeout{Base: rtFunc(func(req *http.Request) (*http.Response, error) {
		passed = req
		return status(200)(req)
	})}
	req := get(t)
	resp, err := rt.RoundTrip(req)
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	assert.Same(t, req, passed)
}
