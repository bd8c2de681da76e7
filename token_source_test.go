package sturdy

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// A retrieveError is what a token source returns, as golang.org/x/oauth2 has it.
type retrieveError struct {
	Response *http.Response
	Body     []byte
}

func (e *retrieveError) Error() string { return "oauth2: cannot fetch token: " + e.Response.Status }

// An identityError is the same, as azidentity has it.
type identityError struct{ RawResponse *http.Response }

func (identityError) Error() string { return "identity: no token" }

const tokenURL = "https://login.example.com/token"

func tokenAnswer(code int, headers ...string) *http.Response {
	req := &http.Request{Method: http.MethodPost, URL: &url.URL{Scheme: "https", Host: "login.example.com", Path: "/token"}}
	resp, _ := status(code, headers...)(req)
	resp.Status = fmt.Sprintf("%d", code)
	return resp
}

// A tokenSource fails to get a token as it is told, and closes the body unread as
// oauth2.Transport does, until nothing is left to fail with.
type tokenSource struct {
	base  http.RoundTripper
	fails []error
	asked int
}

func (s *tokenSource) RoundTrip(req *http.Request) (*http.Response, error) {
	s.asked++
	if n := s.asked - 1; n < len(s.fails) {
		if req.Body != nil {
			req.Body.Close()
		}
		return nil, s.fails[n]
	}
	return s.base.RoundTrip(req)
}

func TestARefusedTokenIsAskedForOnce(t *testing.T) {
	for name, err := range map[string]error{
		"400":              &retrieveError{Response: tokenAnswer(400)},
		"401":              &retrieveError{Response: tokenAnswer(401)},
		"403, wrapped":     fmt.Errorf("token: %w", &retrieveError{Response: tokenAnswer(403)}),
		"404":              &retrieveError{Response: tokenAnswer(404)},
		"200 with error":   &retrieveError{Response: tokenAnswer(200)},
		"another's field":  identityError{RawResponse: tokenAnswer(401)},
		"of many":          errors.Join(errors.New("no environment"), identityError{tokenAnswer(401)}),
		"without request":  &retrieveError{Response: &http.Response{StatusCode: 400}},
		"within a fetch":   &url.Error{Op: "Post", URL: tokenURL, Err: &retrieveError{Response: tokenAnswer(400)}},
		"with cause ahead": fmt.Errorf("%w: %w", errReset, &retrieveError{Response: tokenAnswer(400)}),
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				api := script(status(200))
				source := &tokenSource{base: api}
				for range 20 {
					source.fails = append(source.fails, err)
				}
				var seen observed
				rt := &Transport{Base: source, Breaker: Breaker{Observe: seen.see}}
				for range 20 {
					_, got := rt.RoundTrip(post(t, "x"))
					require.True(t, got == err, "the very error: %#v", got)
				}
				assert.Equal(t, 20, source.asked, "once for a call")
				assert.Empty(t, api.times())
				assert.NotContains(t, seen.kinds(), EventOpen)
				e := judge(post(t, "x"), nil, err)
				assert.Equal(t, ErrAuthentication, e.Class)
				assert.False(t, e.Retryable())
				assert.Zero(t, e.StatusCode, "it is not the answer of the server")

				client := &http.Client{Transport: &tokenSource{base: api, fails: []error{err}}}
				_, got := client.Do(post(t, "x"))
				assert.Equal(t, ErrAuthentication, ClassOf(got))
				assert.ErrorIs(t, Check(nil, got), ErrAuthentication)
			})
		})
	}
}

func TestATokenThatCouldNotBeFetchedLeavesTheRequestUnsent(t *testing.T) {
	fetch := func(err error) error { return &url.Error{Op: "Post", URL: tokenURL, Err: err} }
	for name, row := range map[string]struct {
		err   error
		class Class
		wait  time.Duration
	}{
		"503":                   {&retrieveError{Response: tokenAnswer(503)}, ErrConnection, 0},
		"500":                   {&retrieveError{Response: tokenAnswer(500)}, ErrConnection, 0},
		"408":                   {&retrieveError{Response: tokenAnswer(408)}, ErrConnection, 0},
		"429":                   {&retrieveError{Response: tokenAnswer(429)}, ErrConnection, 0},
		"429 that names a time": {&retrieveError{Response: tokenAnswer(429, "Retry-After", "3")}, ErrConnection, 3 * time.Second},
		"refused":               {fetch(&net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}), ErrConnection, 0},
		"reset":                 {fetch(errReset), ErrConnection, 0},
		"cut":                   {fetch(io.EOF), ErrConnection, 0},
		"timeout":               {fetch(&net.OpError{Op: "read", Err: timeoutError{}}), ErrTimeout, 0},
		"of two addresses":      {fetch(errors.Join(&net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}, errReset)), ErrConnection, 0},
		"after another failure": {errors.Join(&net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}, fetch(errReset)), ErrConnection, 0},
		"by layers of ours":     {fetch(&Error{Class: ErrOverloaded, StatusCode: 503}), ErrOverloaded, 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				api := script(status(200))
				source := &tokenSource{base: api, fails: []error{row.err}}
				resp, err := (&Transport{Base: source}).RoundTrip(post(t, "x"))
				require.NoError(t, err)
				assert.Equal(t, 200, resp.StatusCode)
				assert.Len(t, api.times(), 1)
				assert.GreaterOrEqual(t, api.times()[0], row.wait)

				e := judge(post(t, "x"), nil, row.err)
				assert.Equal(t, row.class, e.Class)
				assert.True(t, e.unsent, "unsent")

				source = &tokenSource{base: api}
				for range 100 {
					source.fails = append(source.fails, row.err)
				}
				var seen observed
				rt := &Transport{Base: source, Breaker: Breaker{Observe: seen.see}}
				for range 20 {
					_, err = rt.RoundTrip(get(t))
					require.True(t, err == row.err, "the very error: %#v", err)
				}
				assert.NotContains(t, seen.kinds(), EventOpen)
			})
		})
	}
}

func TestAFailureOfTheRequestItselfIsNoTokens(t *testing.T) {
	t.Parallel()
	req := post(t, "x")
	own := func(err error) error { return &url.Error{Op: "Post", URL: req.URL.String() + "?page=2", Err: err} }
	answered, err := status(401)(req)
	require.NoError(t, err)
	for name, err := range map[string]error{
		"a reset":                     own(errReset),
		"a reset without its URL":     &url.Error{Op: "Post", Err: errReset},
		"its answer":                  &retrieveError{Response: answered},
		"a token's, and then its own": errors.Join(errReset, own(io.EOF)),
	} {
		e := judge(req, nil, err)
		assert.Equal(t, ErrConnection, e.Class, name)
		assert.False(t, e.unsent, name)
		assert.False(t, e.foreign, name)
	}
	// Of two failures, one may be the request's.
	e := judge(req, nil, errors.Join(&retrieveError{Response: tokenAnswer(503)}, own(io.EOF)))
	assert.False(t, e.unsent)

	// Without a request, nobody knows whose answer it is: an SDK has such errors, too.
	assert.Zero(t, ClassOf(&retrieveError{Response: answered}))

	// A client below may have followed a redirect.
	empty := newRequest(t, http.MethodPost, "https://api.example.com/v1/chat", http.NoBody)
	assert.False(t, judge(empty, nil, &url.Error{Op: "Get", URL: "https://elsewhere.example.com/", Err: io.EOF}).unsent)
}

type timeoutError struct{}

func (timeoutError) Error() string   { return "i/o timeout" }
func (timeoutError) Timeout() bool   { return true }
func (timeoutError) Temporary() bool { return true }
