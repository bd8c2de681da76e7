package sturdy

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/textproto"
	"net/url"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// Each fault is made for real, on loopback, and met through an http.Client.
// What cause finds must be in the client's error and in ours.
func TestFaultGetsTheVerdictOfItsCause(t *testing.T) {
	t.Parallel()
	const yes, no = true, false
	for _, f := range []struct {
		name              string
		given             []condition
		class             Class
		retryable, unsent bool
		cause             func(error) bool
	}{
		// No connection came about.
		{"refused", given(to("http", refusing)), ErrConnection, yes, yes, having[*os.SyscallError]},
		{"dial timeout", given(to("http", silence), slowDial), ErrTimeout, yes, yes, having[*net.OpError]},
		{"no such host", given(named("no-such-host.invalid", nxdomain)), ErrConnection, no, yes, having[*net.DNSError]},
		{"resolver refused", given(named("example.test", closedResolver)), ErrConnection, yes, yes, having[*net.DNSError]},
		{"proxy refused", given(named("example.test", nil), proxy(refusing)), ErrConnection, yes, yes, having[*os.SyscallError]},
		{"proxy 407", given(https, proxy(raw(reads, says("HTTP/1.1 407 Proxy Authentication Required\r\n\r\n"), hangsUp))), ErrConnection, no, no, saying("Proxy Authentication Required")},
		{"proxy 503", given(https, proxy(raw(reads, says("HTTP/1.1 503 Service Unavailable\r\n\r\n"), hangsUp))), ErrConnection, yes, no, saying("Service Unavailable")},

		// The two sides do not agree on TLS.
		{"unknown authority", given(tlsServer), ErrConnection, no, yes, having[*tls.CertificateVerificationError]},
		{"wrong host name", given(tlsServer, trusted, otherName), ErrConnection, no, yes, having[*tls.CertificateVerificationError]},
		{"TLS version", given(tlsServer, trusted, tls13Only), ErrConnection, no, no, having[*net.OpError]},
		{"TLS version of a proxy", given(tlsServer, trusted, tls13Only, asProxy), ErrConnection, no, no, having[*net.OpError]},
		{"https to an http server", given(to("https", httpServer)), ErrConnection, no, yes, being(http.ErrSchemeMismatch)},
		{"handshake reset", given(to("https", raw(readsSome, resets))), ErrConnection, yes, no, having[*net.OpError]},
		{"handshake cut off", given(to("https", raw(readsSome, hangsUp))), ErrConnection, yes, no, being(io.EOF)},
		{"handshake timeout", given(to("https", silence), handshakeTimeout), ErrTimeout, yes, yes, saying("TLS handshake timeout")},

		// The request is not one.
		{"unsupported scheme", given(to("gopher", refusing)), ErrConnection, no, yes, saying("unsupported protocol scheme")},
		{"bad header value", given(to("http", refusing), badHeader), ErrConnection, no, yes, saying("invalid header field value")},

		// The server was reached, and did not answer in full.
		{"closed before any byte", given(h1(reads, hangsUp)), ErrConnection, yes, no, being(io.EOF)},
		{"RST before any byte", given(h1(reads, resets)), ErrConnection, yes, no, having[*os.SyscallError]},
		{"RST in a 1 MiB POST", given(h1(readsSome, resets), post1MiB), ErrConnection, yes, no, having[*net.OpError]},
		{"closed in the headers", given(h1(reads, says(head200+"Content-Le"), hangsUp)), ErrConnection, yes, no, having[textproto.ProtocolError]},
		{"ResponseHeaderTimeout", given(h1(reads, waits), headerTimeout), ErrTimeout, yes, no, being(context.DeadlineExceeded)},
		{"Client.Timeout", given(h1(reads, waits), clientTimeout(soon)), ErrTimeout, yes, no, being(context.DeadlineExceeded)},

		// What it answered is not HTTP.
		{"garbage", given(h1(reads, says("SSH-2.0-x\r\n"), hangsUp)), ErrConnection, no, no, saying("malformed HTTP response")},
		{"garbage that repeats the key", given(h1(reads, says("SSH-2.0-"+canarySecret+"\r\n"), hangsUp)), ErrConnection, no, no, saying("SSH-2.0-" + canarySecret)},
		{"status 1000", given(h1(reads, says("HTTP/1.1 1000 Great\r\n\r\n"), hangsUp)), ErrConnection, no, no, saying("malformed HTTP status code")},
		{"header over 10 MiB", given(h1(reads, saysTooMuch, hangsUp)), ErrConnection, no, no, saying("headers exceeded")},
		{"two Content-Length", given(h1(reads, says(head200+"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello"), hangsUp)), ErrConnection, no, no, saying("multiple Content-Length")},
		// Not to be told from one that was cut.
		{"bad header line", given(h1(reads, says(head200+"broken header\r\n\r\n"), hangsUp)), ErrConnection, yes, no, having[textproto.ProtocolError]},

		// The body broke after a 200.
		{"RST in the body", given(h1(reads, says(halfAnswer), untilRead, resets)), ErrConnection, yes, no, having[*os.SyscallError]},
		{"short body", given(h1(reads, says(halfAnswer), hangsUp)), ErrConnection, yes, no, being(io.ErrUnexpectedEOF)},
		{"stalled body, Client.Timeout", given(h1(reads, says(halfAnswer), waits), clientTimeout(late)), ErrTimeout, yes, no, being(context.DeadlineExceeded)},
		{"truncated chunked", given(h1(reads, says(head200+"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"), hangsUp)), ErrConnection, yes, no, being(io.ErrUnexpectedEOF)},
		{"bad chunk size", given(h1(reads, says(head200+"Transfer-Encoding: chunked\r\n\r\nxyz\r\n"), hangsUp)), ErrConnection, no, no, saying("invalid byte in chunk length")},
		{"truncated gzip", given(h1(reads, says(head200+"Content-Encoding: gzip\r\n\r\n"+zipped("hello")[:12]), hangsUp)), ErrConnection, yes, no, being(io.ErrUnexpectedEOF)},

		// HTTP/2.
		{"h2: REFUSED_STREAM", given(h2(h2Request, h2Reset(h2RefusedStream)), oneConnection), ErrConnection, yes, yes, having[http2Error]},
		{"h2: HTTP_1_1_REQUIRED", given(h2(h2Request, h2Reset(h2HTTP11Required))), ErrConnection, no, yes, having[http2Error]},
		{"h2: INTERNAL_ERROR", given(h2(h2Request, h2Reset(h2InternalError))), ErrConnection, yes, no, having[http2Error]},
		{"h2: ENHANCE_YOUR_CALM", given(h2(h2Request, h2Reset(h2EnhanceYourCalm))), ErrConnection, yes, no, having[http2Error]},
		{"h2: INTERNAL_ERROR in the body", given(h2(h2Request, h2Answer("hello"), untilRead, h2Reset(h2InternalError))), ErrConnection, yes, no, having[http2Error]},
		{"h2: RST in the body", given(h2(h2Request, h2Answer("hello"), untilRead, resets)), ErrConnection, yes, no, having[*os.SyscallError]},
		{"h2: GOAWAY and close, perhaps processed", given(h2(h2Request, h2Leave(1, h2NoError, ""), hangsUp)), ErrConnection, yes, no, saying("GOAWAY")},
		{"h2: GOAWAY ENHANCE_YOUR_CALM and close", given(h2(h2Request, h2Leave(1, h2EnhanceYourCalm, "too_many_pings"), hangsUp)), ErrConnection, yes, no, saying("too_many_pings")},
		{"h2: GOAWAY ENHANCE_YOUR_CALM, not processed", given(h2(h2Request, h2Leave(0, h2EnhanceYourCalm, ""), hangsUp)), ErrConnection, yes, no, saying("GOAWAY")},
		{"h2: GOAWAY in words of another fault", given(h2(h2Request, h2Leave(1, h2NoError, "malformed HTTP response"), hangsUp)), ErrConnection, yes, no, saying("malformed HTTP")},
		{"h2: HTTP/1 server", given(h1(h2Begin, h2Request, says("HTTP/1.1 400 Bad Request\r\n\r\n"), hangsUp), h2c), ErrConnection, no, no, saying("looked like an HTTP/1.1 header")},
	} {
		t.Run(f.name, func(t *testing.T) {
			t.Parallel()
			a := newAsk(t, f.given)
			err := a.fails()
			require.Error(t, err)

			e := Classify(nil, err)
			assert.Equal(t, f.class, e.Class, "class")
			assert.Equal(t, f.retryable, e.Retryable(), "retryable")
			assert.Equal(t, f.unsent, e.unsent, "unsent")
			assert.False(t, e.foreign, "foreign")
			assert.Equal(t, f.class, ClassOf(err), "ClassOf")
			assert.Equal(t, f.class == ErrTimeout, e.Timeout(), "Timeout")
			assert.True(t, f.cause(err), "the client's error does not have the cause: %#v", err)
			assert.True(t, f.cause(e), "the cause cannot be found in %#v", e)
			assertSafeToShow(t, e)
			a.layer.assertJudgedAs(t, e)
		})
	}
}

// What ends with the caller's context says nothing of the server. Some faults
// never come up otherwise: net/http asks again for ever.
func TestEndOfTheCallersContextIsNoFault(t *testing.T) {
	t.Parallel()
	for _, f := range []struct {
		name  string
		given []condition
		class Class // ClassOf tells a deadline from a cancellation
		cause error
	}{
		{"cancelled", given(h1(reads, cancels, waits)), 0, context.Canceled},
		{"cancelled in the body", given(h1(reads, says(halfAnswer), untilRead, cancels, waits)), 0, context.Canceled},
		{"deadline", given(h1(reads, waits), withDeadline(soon)), ErrTimeout, context.DeadlineExceeded},
		{"deadline in the body", given(h1(reads, says(halfAnswer), waits), withDeadline(late)), ErrTimeout, context.DeadlineExceeded},
		{"h2: REFUSED_STREAM always", given(h2(always(h2Request, h2Reset(h2RefusedStream))), withDeadline(soon)), ErrTimeout, context.DeadlineExceeded},
		{"h2: GOAWAY always, not processed", given(h2(h2Request, h2Leave(0, h2NoError, ""), hangsUp), withDeadline(soon)), ErrTimeout, context.DeadlineExceeded},
	} {
		t.Run(f.name, func(t *testing.T) {
			t.Parallel()
			a := newAsk(t, f.given)
			err := a.fails()
			require.ErrorIs(t, err, f.cause)

			e := Classify(nil, err)
			assert.Equal(t, f.class, e.Class, "class")
			assert.Equal(t, f.class != 0, e.Retryable(), "retryable")
			assert.Equal(t, f.class, ClassOf(err), "ClassOf")
			assert.ErrorIs(t, e, f.cause)
			assertSafeToShow(t, e)
			a.layer.assertJudgedAs(t, e)
		})
	}
}

// Within the client, its Timeout is the end of the request's context.
func TestClientTimeoutIsTheCallersDoingToALayer(t *testing.T) {
	t.Parallel()
	a := newAsk(t, given(h1(reads, waits)))
	a.client.Timeout = soon
	_, err := a.do()
	require.Error(t, err)
	assert.Equal(t, ErrTimeout, ClassOf(err))
	require.NotNil(t, a.layer.e)
	assert.Zero(t, a.layer.e.Class)
}

// Some faults cannot be told from an answer, or are one.
func TestWhatIsAnAnswerToTheClientIsOneToUs(t *testing.T) {
	t.Parallel()
	for _, f := range []struct {
		name   string
		given  []condition
		status int
		class  Class
		body   string
	}{
		{"http to an https server", given(tlsServer, inTheClear), 400, ErrBadRequest, "Client sent an HTTP request to an HTTPS server.\n"},
		{"Content-Length too small", given(h1(reads, says(head200+"Connection: close\r\nContent-Length: 3\r\n\r\nhello"), hangsUp)), 200, 0, "hel"},
		{"events cut between two", given(h1(reads, says(head200+"Content-Type: text/event-stream\r\n\r\ndata: hello\n\n"), hangsUp)), 200, 0, "data: hello\n\n"},
		{"status 000", given(h1(reads, says("HTTP/1.1 000 None\r\n\r\n"), hangsUp)), 0, 0, ""},
		{"status 099", given(h1(reads, says("HTTP/1.1 099 Low\r\n\r\n"), hangsUp)), 99, 0, ""},
	} {
		t.Run(f.name, func(t *testing.T) {
			t.Parallel()
			resp, err := newAsk(t, f.given).do()
			require.NoError(t, err)
			assert.Equal(t, f.status, resp.StatusCode)

			if e := Classify(resp, nil); f.class == 0 {
				assert.Nil(t, e)
			} else {
				require.NotNil(t, e)
				assert.Equal(t, f.class, e.Class, "class")
				assert.False(t, e.Retryable(), "retryable")
				assertSafeToShow(t, e)
			}
			body, err := io.ReadAll(resp.Body)
			require.NoError(t, err)
			assert.Equal(t, f.body, string(body))
		})
	}
}

// http.Client puts the URL before what went wrong.
func TestURLDoesNotSwayTheVerdict(t *testing.T) {
	t.Parallel()
	for _, words := range []string{
		"malformed HTTP response", "bad Content-Length", "unsupported transfer encoding", "server response headers exceeded",
		"net/http: TLS handshake timeout", "http2: ", "unsupported protocol scheme",
	} {
		t.Run(words, func(t *testing.T) {
			t.Parallel()
			a := newAsk(t, given(h1(reads, hangsUp)))
			a.query += "&q=" + words // with spaces, as few escape them
			_, err := a.do()
			require.ErrorIs(t, err, io.EOF)
			require.ErrorContains(t, err, words)

			e := Classify(nil, err)
			assert.Equal(t, ErrConnection, e.Class)
			assert.True(t, e.Retryable(), "retryable")
			assert.False(t, e.unsent, "unsent")
		})
	}
}

// net/http finds these faults when it has a connection already.
func TestRequestThatCannotBeWrittenIsNotWorthAnother(t *testing.T) {
	t.Parallel()
	for name, spoil := range map[string]func(*http.Request){
		"control character in the query": func(req *http.Request) { req.URL.RawQuery = "a\x01" },
		"length without a body":          func(req *http.Request) { req.ContentLength = 5 },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a := newAsk(t, given(to("http", silence)))
			req, err := http.NewRequestWithContext(a.ctx, http.MethodPost, a.url.String(), nil)
			require.NoError(t, err)
			spoil(req)
			_, err = a.client.Do(req)
			require.Error(t, err)

			e := Classify(nil, err)
			assert.Equal(t, ErrConnection, e.Class)
			assert.False(t, e.Retryable(), "retryable")
			assert.True(t, e.unsent, "unsent")
		})
	}
}

// Who proxies a request may pass its body on after it was closed.
func TestClosedBodyOfARequestSaysNothingOfTheServer(t *testing.T) {
	t.Parallel()
	assert.Zero(t, ClassOf(http.ErrBodyReadAfterClose))
	assert.False(t, Classify(nil, http.ErrBodyReadAfterClose).unsent, "unsent")
}

// What nobody knows, a base has made up. What the network had a part in must not be
// taken for that.
func TestWhatComesFromTheNetworkIsKnown(t *testing.T) {
	t.Parallel()
	for _, err := range []error{
		// net/http
		errors.New("http: server closed idle connection"),
		errors.New("net/http: cannot rewind body after connection loss"),
		fmt.Errorf("net/http: HTTP/1.x transport connection broken: %w", errors.New("disk")),
		errors.New("net/http: request canceled"),
		errors.New("net/http: request canceled while waiting for connection"),
		errors.New("net/http: timeout awaiting response headers"),
		errors.New("net/http: TLS handshake timeout"),
		errors.New("net/http: Transport failed to read from server: EOF"),
		errors.New("net/http: server response headers exceeded 10 bytes; aborted"),
		errors.New("net/http: Transport.DialContext hook returned (nil, nil)"),
		errors.New("net/http: server replied with more than declared Content-Length; truncated"),
		errors.New("http: CloseIdleConnections called"),
		errors.New("http: persistConn.readLoop exiting"),
		errors.New("http: idle connection timeout"),
		errors.New("http: unexpected EOF reading trailer"),
		errors.New("http: suspiciously long trailer after chunked body"),
		errors.New("http: Transport does not support unencrypted HTTP/2"),
		errors.New("http: message cannot contain multiple Content-Length headers; got [1 2]"),
		fmt.Errorf("readLoopPeekFailLocked: %w", errors.New("short")),
		fmt.Errorf("write error: %w", errors.New("short")),
		errors.New("read limit of 10 bytes exhausted"),
		errors.New("unknown status code"),
		errors.New(`malformed HTTP response "SSH-2.0"`),
		errors.New(`bad trailer key "x"`),
		errors.New(`invalid empty Content-Length ""`),
		errors.New("header line too long"),
		errors.New("chunked encoding contains too much non-data"),
		textproto.ProtocolError("malformed MIME header line: x"),
		errors.New("Bad Gateway"), // a proxy's
		http.ErrSchemeMismatch,
		// HTTP/2
		errors.New("http2: client connection lost"),
		errors.New("http2: client connection force closed via ClientConn.Close"),
		errors.New("http2: Transport received Server's graceful shutdown GOAWAY"),
		errors.New("http2: Transport: cannot retry err [x] after Request.Body was written; define Request.GetBody to avoid this error"),
		errors.New("http2: server sent GOAWAY and closed the connection; LastStreamID=1, ErrCode=NO_ERROR, debug=\"\""),
		errors.New("http2: response body closed"),
		errors.New("http2: timeout awaiting response headers"),
		errors.New("connection error: PROTOCOL_ERROR"),
		errors.New("stream error: stream ID 1; INTERNAL_ERROR; received from peer"),
		errors.New("malformed response from server: missing status pseudo header"),
		// crypto/tls
		errors.New("tls: server selected unsupported protocol version 301"),
		errors.New("tls: received unexpected handshake message of type *tls.finishedMsg"),
		tls.AlertError(40),
		x509.UnknownAuthorityError{},
		// net, and below
		io.EOF, io.ErrUnexpectedEOF, io.ErrClosedPipe, net.ErrClosed, os.ErrDeadlineExceeded,
		syscall.EHOSTUNREACH, &net.OpError{Op: "socks connect", Err: errors.New("general SOCKS server failure")},
		&url.Error{Op: "Get", URL: "https://api.example.com/v1/models", Err: errors.New("x")},
		&os.SyscallError{Syscall: "connect", Err: syscall.ECONNREFUSED},
		net.UnknownNetworkError("x"), &net.AddrError{Err: "missing port"},
		// of which somebody made text
		errors.New("proxy: read tcp 10.0.0.1:5->10.0.0.2:443: connection reset by peer"),
		errors.New(`round trip: Get "https://api.example.com/": EOF`),
		// or wrapped it
		fmt.Errorf("hop: %w", errors.Join(errors.New("x"), io.EOF)),
	} {
		assert.False(t, judge(get(t), nil, err).foreign, "%T: %v", err, err)
	}
	for _, err := range []error{
		errors.New("rate: Wait(n=1) would exceed context deadline"),
		errors.New("circuit breaker is open"),
		fmt.Errorf("sign: %w", errors.New("no credentials")),
		&url.Error{Op: "parse", URL: ":", Err: errors.New("missing protocol scheme")},
		errors.Join(errors.New("a"), errors.New("b")),
		http.ErrBodyReadAfterClose,
		os.ErrNotExist,
	} {
		e := judge(get(t), nil, err)
		assert.True(t, e.foreign, "%T: %v", err, err)
		assert.Equal(t, ErrConnection, e.Class, "%v", err)
		assert.True(t, e.Retryable(), "%v", err)
		assert.False(t, e.unsent, "%v", err)
	}
}

func TestAnErrorIsUnsentOnlyIfAllItsBranchesAre(t *testing.T) {
	t.Parallel()
	dialed := func(err error) error { return &net.OpError{Op: "dial", Net: "tcp", Err: err} }
	refused, unreachable := dialed(syscall.ECONNREFUSED), dialed(syscall.ENETUNREACH)
	name := &net.DNSError{IsTemporary: true}
	circuit := refusal(ErrCircuitOpen, time.Second, errors.New("open"))
	for _, row := range []struct {
		name   string
		err    error
		unsent bool
	}{
		{"a dial", refused, true},
		{"a dial, wrapped", fmt.Errorf("first: %w", refused), true},
		{"two dials", errors.Join(refused, unreachable), true},
		{"two dials in a dial", dialed(errors.Join(syscall.ECONNREFUSED, syscall.ENETUNREACH)), true},
		{"two dials of an exchange of our client's", &url.Error{Op: "Post", Err: errors.Join(refused, unreachable)}, true},
		{"a dial and a lookup", fmt.Errorf("%w; %w", refused, name), true},
		{"a dial and a refusal of ours", errors.Join(refused, circuit), true},
		{"a dial and a reset", errors.Join(refused, errReset), false},
		{"a reset and a dial", errors.Join(errReset, refused), false},
		{"a dial and a reset, wrapped", fmt.Errorf("both: %w", errors.Join(refused, fmt.Errorf("second: %w", errReset))), false},
		{"a dial and a reset in a sentence", fmt.Errorf("%w, then %w", refused, errReset), false},
		{"a dial and who knows", errors.Join(refused, errors.New("x")), false},
		{"branches of branches", errors.Join(errors.Join(refused, unreachable), errors.Join(name, io.EOF)), false},
		{"a refusal of ours and a reset", errors.Join(circuit, errReset), false},
		{"a refused stream and a reset", errors.Join(http2Error{Code: 7}, errReset), false},
		{"a bad header and a reset", errors.Join(errors.New("net/http: invalid header field name"), x509.UnknownAuthorityError{}, errReset), false},
	} {
		assert.Equal(t, row.unsent, judge(post(t, "x"), nil, row.err).unsent, row.name)
	}
	assert.True(t, circuit.unsent, "an error of ours stays as it is")
}

// What is looked for in a cause.

func being(target error) func(error) bool {
	return func(err error) bool { return errors.Is(err, target) }
}

func having[E error](err error) bool {
	_, ok := errors.AsType[E](err)
	return ok
}

// saying finds causes whose type is not exported.
func saying(part string) func(error) bool {
	return func(err error) bool {
		for ; err != nil; err = errors.Unwrap(err) {
			if strings.Contains(err.Error(), part) {
				return true
			}
		}
		return false
	}
}

// canarySecret is in every request, as a credential in its URL and in its header.
const canarySecret = "canary-secret-123"

func assertSafeToShow(t *testing.T, e *Error) {
	t.Helper()
	var logged bytes.Buffer
	slog.New(slog.NewTextHandler(&logged, nil)).Error("failed", "err", e)
	assert.True(t, strings.HasPrefix(e.Error(), "sturdy: "), e.Error())
	assert.NotContains(t, e.Error(), "\n")
	for _, shown := range []string{e.Error(), fmt.Sprintf("%+v", e), logged.String()} {
		assert.NotContains(t, shown, canarySecret)
		assert.NotContains(t, shown, "key=")
		assert.NotContains(t, shown, "://")
	}
}

// An ask is one request on its way into a fault.
type ask struct {
	t         *testing.T
	ctx       context.Context //nolint:containedctx // the request's
	cancel    context.CancelFunc
	method    string
	url       *url.URL
	query     string
	header    http.Header
	body      io.Reader
	client    http.Client
	transport *http.Transport
	layer     *innerLayer
	server    *httptest.Server // if it is one
	seen      chan struct{}    // closed when a part of the response's body was read
}

// A condition is a server or a setting that is part of a fault.
type condition func(*ask)

func given(conditions ...condition) []condition { return conditions }

func newAsk(t *testing.T, given []condition) *ask {
	t.Helper()
	a := &ask{
		t:         t,
		method:    http.MethodGet,
		url:       &url.URL{Scheme: "http", Path: "/"},
		query:     "key=" + canarySecret,
		header:    http.Header{"Authorization": {"Bearer " + canarySecret}},
		transport: &http.Transport{},
		seen:      make(chan struct{}),
	}
	a.ctx, a.cancel = context.WithTimeout(t.Context(), bound)
	t.Cleanup(a.cancel)
	t.Cleanup(a.transport.CloseIdleConnections)
	a.layer = &innerLayer{base: a.transport}
	a.client.Transport = a.layer
	for _, is := range given {
		is(a)
	}
	return a
}

func (a *ask) do() (*http.Response, error) {
	a.url.RawQuery = a.query
	req, err := http.NewRequestWithContext(a.ctx, a.method, "", a.body)
	require.NoError(a.t, err)
	req.URL, req.Header = a.url, a.header
	resp, err := a.client.Do(req)
	if err == nil {
		a.t.Cleanup(func() { resp.Body.Close() })
	}
	return resp, err
}

// fails returns the error of the request, or else of its answer's body.
func (a *ask) fails() error {
	resp, err := a.do()
	if err != nil {
		return err
	}
	_, err = io.Copy(onWrite(sync.OnceFunc(func() { close(a.seen) })), resp.Body)
	return err
}

type onWrite func()

func (f onWrite) Write(p []byte) (int, error) {
	f()
	return len(p), nil
}

// An innerLayer stands between client and transport, where ours stand: the client
// has other words for some errors, and timers of its own.
type innerLayer struct {
	base http.RoundTripper
	e    *Error
	gone bool // the client had given the request up
}

func (l *innerLayer) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := l.base.RoundTrip(req)
	if err != nil {
		l.e, l.gone = judge(req, nil, err), gone(req) != nil
	}
	return resp, err
}

func (l *innerLayer) assertJudgedAs(t *testing.T, e *Error) {
	t.Helper()
	switch {
	case l.e == nil: // the fault is in the body
	case l.gone:
		assert.Zero(t, l.e.Class, "class within the client")
	default:
		assert.Equal(t, e.Class, l.e.Class, "class within the client")
		assert.Equal(t, e.Retryable(), l.e.Retryable(), "retryable within the client")
		assert.Equal(t, e.unsent, l.e.unsent, "unsent within the client")
		assert.False(t, l.e.foreign, "foreign within the client")
	}
	if l.e != nil {
		assertSafeToShow(t, l.e)
	}
}

const (
	soon  = 20 * time.Millisecond  // for what never comes
	late  = 500 * time.Millisecond // for what comes after something that does
	bound = time.Minute            // for what does not fail as it should
)

// Where requests go.

// to sends it to the address of a server that it starts.
func to(scheme string, start func(*ask) string) condition {
	return func(a *ask) { a.url.Scheme, a.url.Host = scheme, start(a) }
}

// named sends it to a host, whose address the resolver is asked for.
func named(host string, resolver func(*ask) string) condition {
	return func(a *ask) {
		a.url.Host = host
		if resolver == nil {
			return
		}
		address := resolver(a)
		dialer := &net.Dialer{Resolver: &net.Resolver{
			PreferGo: true,
			Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
				var d net.Dialer
				return d.DialContext(ctx, "udp", address)
			},
		}}
		a.transport.DialContext = dialer.DialContext
	}
}

func https(a *ask) { a.url.Scheme, a.url.Host = "https", "example.test" }

func proxy(start func(*ask) string) condition {
	return func(a *ask) { a.transport.Proxy = http.ProxyURL(&url.URL{Scheme: "http", Host: start(a)}) }
}

// h1 sends it to a server that does these steps, and no more, for each connection.
func h1(steps ...step) condition { return to("http", raw(steps...)) }

// h2 is h1 for HTTP/2 without TLS.
func h2(steps ...step) condition {
	return func(a *ask) {
		h2c(a)
		h1(append([]step{h2Begin, h2Greet}, steps...)...)(a)
	}
}

func h2c(a *ask) {
	a.transport.Protocols = new(http.Protocols)
	a.transport.Protocols.SetUnencryptedHTTP2(true)
}

// oneConnection does without the pool of connections, which asks again itself
// where it is safe.
func oneConnection(a *ask) {
	conn, err := a.transport.NewClientConn(a.ctx, a.url.Scheme, a.url.Host)
	require.NoError(a.t, err)
	a.t.Cleanup(func() { conn.Close() })
	a.layer.base = conn
}

// tlsServer sends it to a server that nobody trusts, of TLS 1.2.
func tlsServer(a *ask) {
	a.server = httptest.NewUnstartedServer(http.NotFoundHandler())
	a.server.Config.ErrorLog = log.New(io.Discard, "", 0)
	a.server.TLS = &tls.Config{MaxVersion: tls.VersionTLS12}
	a.server.StartTLS()
	a.t.Cleanup(a.server.Close)
	a.url.Scheme, a.url.Host = "https", a.server.Listener.Addr().String()
	a.transport.TLSClientConfig = &tls.Config{MinVersion: tls.VersionTLS12}
}

// asProxy sends it to another server, by way of the one there is.
func asProxy(a *ask) {
	a.transport.Proxy = http.ProxyURL(a.url)
	a.url = &url.URL{Scheme: "http", Host: "example.test", Path: "/"}
}

func trusted(a *ask) {
	roots := x509.NewCertPool()
	roots.AddCert(a.server.Certificate())
	a.transport.TLSClientConfig.RootCAs = roots
}

// Settings.

func otherName(a *ask)        { a.transport.TLSClientConfig.ServerName = "other.test" }
func tls13Only(a *ask)        { a.transport.TLSClientConfig.MinVersion = tls.VersionTLS13 }
func inTheClear(a *ask)       { a.url.Scheme = "http" }
func handshakeTimeout(a *ask) { a.transport.TLSHandshakeTimeout = soon }
func headerTimeout(a *ask)    { a.transport.ResponseHeaderTimeout = soon }
func badHeader(a *ask)        { a.header["Authorization"][0] += "\n" }
func post1MiB(a *ask)         { a.method, a.body = http.MethodPost, bytes.NewReader(make([]byte, 1<<20)) }

// clientTimeout does without the layer. Over a transport that is not net/http's
// own, the client counts the time by two clocks, and the first to end decides
// whether the error is its own or the context's.
func clientTimeout(d time.Duration) condition {
	return func(a *ask) {
		a.client.Timeout = d
		a.client.Transport = a.transport
	}
}

func withDeadline(d time.Duration) condition {
	return func(a *ask) {
		ctx, cancel := context.WithTimeout(a.ctx, d)
		a.t.Cleanup(cancel)
		a.ctx = ctx
	}
}

// slowDial lets a dial last until its time is up.
func slowDial(a *ask) {
	dialer := &net.Dialer{Timeout: soon, ControlContext: func(ctx context.Context, _, _ string, _ syscall.RawConn) error {
		<-ctx.Done()
		return nil
	}}
	a.transport.DialContext = dialer.DialContext
}

// Servers.

// refusing returns an address where nobody listens. It is in use by a client,
// so that nobody else gets it meanwhile.
func refusing(a *ask) string {
	conn, err := net.Dial("tcp", silence(a))
	require.NoError(a.t, err)
	a.t.Cleanup(func() { conn.Close() })
	return conn.LocalAddr().String()
}

func closedResolver(a *ask) string {
	conn, err := net.Dial("udp", nxdomain(a))
	require.NoError(a.t, err)
	a.t.Cleanup(func() { conn.Close() })
	return conn.LocalAddr().String()
}

// nxdomain is a resolver that knows no name.
func nxdomain(a *ask) string {
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	require.NoError(a.t, err)
	var done sync.WaitGroup
	done.Go(func() {
		var msg [1 << 10]byte
		for {
			n, from, err := conn.ReadFrom(msg[:])
			if err != nil {
				return
			}
			msg[2] |= 0x80                  // the question, as a response
			msg[3] = 0x80 | msg[3]&^0xf | 3 // NXDOMAIN
			_, _ = conn.WriteTo(msg[:n], from)
		}
	})
	a.t.Cleanup(func() {
		conn.Close()
		done.Wait()
	})
	return conn.LocalAddr().String()
}

func httpServer(a *ask) string {
	s := httptest.NewServer(http.NotFoundHandler())
	a.t.Cleanup(s.Close)
	return s.Listener.Addr().String()
}

// silence is a server that reads and says nothing.
func silence(a *ask) string { return raw(waits)(a) }

// raw starts a server that does steps for each connection.
func raw(steps ...step) func(*ask) string {
	return func(a *ask) string {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(a.t, err)
		var peers sync.WaitGroup
		peers.Go(func() {
			for {
				conn, err := ln.Accept()
				if err != nil {
					return
				}
				peers.Go(func() {
					defer conn.Close()
					defer context.AfterFunc(a.t.Context(), func() { conn.Close() })()
					p := &peer{TCPConn: conn.(*net.TCPConn), ask: a}
					for _, step := range steps {
						step(p)
					}
				})
			}
		})
		a.t.Cleanup(func() {
			ln.Close()
			peers.Wait()
		})
		return ln.Addr().String()
	}
}

// A peer is the server's end of a connection.
type peer struct {
	*net.TCPConn
	ask    *ask
	stream uint32 // of the last request, in HTTP/2
	left   bool   // no more requests come
}

// A step is something that a peer does. It ignores errors: the next one meets
// them again.
type step func(*peer)

const (
	head200    = "HTTP/1.1 200 OK\r\n"
	halfAnswer = head200 + "Content-Length: 10\r\n\r\nhello"
)

// reads reads the head of a request.
func reads(p *peer) {
	_, _ = http.ReadRequest(bufio.NewReader(p))
}

// readsSome reads what comes first.
func readsSome(p *peer) { _, _ = p.Read(make([]byte, 64<<10)) }

func says(s string) step {
	return func(p *peer) { _, _ = io.WriteString(p, s) }
}

func saysTooMuch(p *peer) {
	says(head200)(p)
	line := "X: " + strings.Repeat("x", 1<<20) + "\r\n"
	for range 11 {
		says(line)(p)
	}
}

// waits waits for the other side to leave.
func waits(p *peer) { _, _ = io.Copy(io.Discard, p) }

// hangsUp ends the connection in good order: unread bytes would make a reset of it.
func hangsUp(p *peer) {
	_ = p.CloseWrite()
	waits(p)
}

func resets(p *peer) {
	_ = p.SetLinger(0)
	p.Close()
}

// untilRead waits until what was said is read: a reset may overtake it.
func untilRead(p *peer) {
	select {
	case <-p.ask.seen:
	case <-p.ask.t.Context().Done():
	}
}

func cancels(p *peer) { p.ask.cancel() }

// always repeats steps for all that is asked on one connection.
func always(steps ...step) step {
	return func(p *peer) {
		for !p.left {
			for _, step := range steps {
				step(p)
			}
		}
	}
}

func zipped(s string) string {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	_, _ = io.WriteString(z, s)
	_ = z.Close()
	return b.String()
}

// The little of HTTP/2 (RFC 9113) that is needed to fail in it.
const (
	h2Data      = 0x0
	h2Headers   = 0x1
	h2RSTStream = 0x3
	h2Settings  = 0x4
	h2GoAway    = 0x7

	h2EndHeaders = 0x4 // a flag

	h2NoError         = 0x0
	h2InternalError   = 0x2
	h2RefusedStream   = 0x7
	h2EnhanceYourCalm = 0xb
	h2HTTP11Required  = 0xd
)

func (p *peer) frame(kind, flags byte, stream uint32, payload []byte) {
	f := binary.BigEndian.AppendUint32(nil, uint32(len(payload))<<8|uint32(kind))
	f = append(f, flags)
	f = binary.BigEndian.AppendUint32(f, stream)
	_, _ = p.Write(append(f, payload...))
}

// h2Begin reads the preface, with which a client says that it speaks HTTP/2.
func h2Begin(p *peer) {
	_, _ = io.ReadFull(p, make([]byte, len("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")))
}

func h2Greet(p *peer) { p.frame(h2Settings, 0, 0, nil) }

// h2Request reads up to the headers of the next request.
func h2Request(p *peer) {
	for {
		var head [9]byte
		if _, err := io.ReadFull(p, head[:]); err != nil {
			p.left = true
			return
		}
		length := binary.BigEndian.Uint32(head[:]) >> 8
		_, _ = io.CopyN(io.Discard, p, int64(length))
		if head[3] == h2Headers {
			p.stream = binary.BigEndian.Uint32(head[5:])
			return
		}
	}
}

// h2Answer begins a response of status 200, without its end.
func h2Answer(body string) step {
	return func(p *peer) {
		const status200 = 0x88 // RFC 7541, appendix A
		p.frame(h2Headers, h2EndHeaders, p.stream, []byte{status200})
		p.frame(h2Data, 0, p.stream, []byte(body))
	}
}

// h2Reset ends the request, and not the connection.
func h2Reset(code uint32) step {
	return func(p *peer) {
		p.frame(h2RSTStream, 0, p.stream, binary.BigEndian.AppendUint32(nil, code))
	}
}

// h2Leave ends the connection: requests after the last were not processed.
func h2Leave(last, code uint32, debug string) step {
	return func(p *peer) {
		payload := binary.BigEndian.AppendUint32(nil, last)
		payload = binary.BigEndian.AppendUint32(payload, code)
		p.frame(h2GoAway, 0, 0, append(payload, debug...))
	}
}
