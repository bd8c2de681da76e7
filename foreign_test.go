package sturdy

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// A limiterError is what a base makes up without touching the network.
type limiterError struct{ key string }

func (e *limiterError) Error() string { return "limiter: no room for " + e.key }

func TestAnErrorThatABaseMakesUpReachesTheCallerAsItIs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		made := &limiterError{"k"}
		base := script(fails(made))
		rt := &Transport{Base: base, Retry: Retry{MinDelay: time.Millisecond}}
		for range 30 {
			_, err := rt.RoundTrip(get(t))
			assert.Same(t, made, err, "not even wrapped, and no circuit opens")
		}
		assert.Len(t, base.times(), 30*5, "a plain retry loop repeats it, too")
		assert.ErrorIs(t, Classify(nil, made), ErrConnection)
	})
}

func TestErrorsOfTheTransportAreNotMadeUp(t *testing.T) {
	dial := &net.OpError{Op: "dial", Net: "tcp", Err: syscall.ECONNREFUSED}
	for _, err := range []error{
		io.EOF, io.ErrUnexpectedEOF, errReset, dial, &url.Error{Op: "Get", URL: "https://api.example.com/v1/models", Err: io.EOF},
		errors.New("http: server closed idle connection"), errors.New("net/http: HTTP/1.x transport connection broken: EOF"),
		errors.New("net/http: Transport failed to read from server: EOF"), errors.New("http2: client connection lost"),
		errors.New("http2: server sent GOAWAY and closed the connection"), errors.New("http2: Transport received Server's graceful shutdown GOAWAY"),
		errors.New("net/http: timeout awaiting response headers"), errors.New("tls: use of closed connection"),
		errors.New("http2: no cached connection was available"), errors.New("socks connect tcp 1.2.3.4:1080->h:443: EOF"),
		errors.New(`malformed HTTP status code "x"`), errors.New("http: can't write HTTP request on broken connection"),
	} {
		e := judgeError(get(t), fmt.Errorf("base: %w", err))
		assert.False(t, e.foreign, "%v", err)
	}
	for _, err := range []error{errors.New("signer: no key"), &limiterError{}, errors.New("rate: Wait(n=1) would exceed context deadline")} {
		assert.True(t, judgeError(get(t), err).foreign, "%v", err)
	}
}

func TestAnAnswerThatRepeatingDoesNotCureIsNoOutage(t *testing.T) {
	for name, step := range map[string]func(*http.Request) (*http.Response, error){
		"501": status(501), "505": status(505), "508": status(508), "510": status(510), "said": status(500, "X-Should-Retry", "false"),
	} {
		synctest.Test(t, func(t *testing.T) {
			base := script(step)
			rt := &Transport{Base: base, Breaker: Breaker{MaxWait: -1}}
			for range 30 {
				require.NotErrorIs(t, sendAll(t, rt, 1)[0], ErrCircuitOpen, name)
			}
			assert.Len(t, base.times(), 30, "and is not repeated")
		})
	}
}

// tokenFailed is a base whose token source was answered with that status.
func tokenFailed(status int) func(*http.Request) (*http.Response, error) {
	token, err := http.NewRequest(http.MethodPost, "https://login.example.com/token", strings.NewReader("x"))
	if err != nil {
		panic(err)
	}
	return func(*http.Request) (*http.Response, error) {
		resp := answer(token, status, `{"error":"x"}`)
		return nil, fmt.Errorf("token: %w", &retrieveError{Response: resp})
	}
}

func TestATokenThatMetAnOutageLeftTheRequestUnsent(t *testing.T) {
	for name, step := range map[string]func(*http.Request) (*http.Response, error){
		"503": tokenFailed(503), "429": tokenFailed(429),
		"a broken connection": fails(&url.Error{Op: "Post", URL: "https://login.example.com/token", Err: errReset}),
	} {
		synctest.Test(t, func(t *testing.T) {
			n := 0
			base := baseFunc(func(req *http.Request) (*http.Response, error) { // which asks for a token before it sends anything
				if n++; n < 3 {
					return step(req)
				}
				return status(200)(req)
			})
			resp, err := (&Transport{Base: base}).RoundTrip(post(t, "x"))
			require.NoError(t, err, name)
			assert.Equal(t, 200, resp.StatusCode)
			assert.Equal(t, 3, n)
		})
	}
}

func TestUnsentIsWhatEveryBranchSays(t *testing.T) {
	dial := &net.OpError{Op: "dial", Net: "tcp", Err: syscall.ECONNREFUSED}
	for _, row := range []struct {
		err    error
		unsent bool
	}{
		{dial, true},
		{errors.Join(dial, dial), true},
		{fmt.Errorf("all failed: %w", errors.Join(dial, &net.DNSError{IsTemporary: true})), true},
		{errors.Join(dial, errReset), false},
		{errors.Join(errReset, dial), false},
		{fmt.Errorf("%w, then %w", io.ErrUnexpectedEOF, dial), false},
		{errors.Join(dial, errors.New("odd")), false},
	} {
		assert.Equal(t, row.unsent, judgeError(post(t, "x"), row.err).unsent, "%v", row.err)
	}
}

// An SDK's error has the answer to the very request in it.
func TestAnErrorThatHasItsOwnAnswerIsNoTokens(t *testing.T) {
	assert.Zero(t, ClassOf(&retrieveError{Response: answer(get(t), 404, "")}))
	own := &url.Error{Op: "Get", URL: get(t).URL.String(), Err: &retrieveError{Response: answer(get(t), 404, "")}}
	assert.NotEqual(t, ErrAuthentication, ClassOf(own))
}

// A client below may have sent a POST, and failed where it was redirected to.
func TestAPOSTThatWasRedirectedBelowIsNotSentAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base := script(fails(&url.Error{Op: "Get", URL: "https://elsewhere.example.com/", Err: errReset}))
		for _, req := range []*http.Request{post(t, "x"), newRequest(t, http.MethodPost, "https://api.example.com/v1/chat", http.NoBody)} {
			before := len(base.times())
			_, err := (&Transport{Base: base}).RoundTrip(req)
			require.Error(t, err)
			assert.Len(t, base.times(), before+1)
		}
	})
}
