package sturdy_test

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/sturdyhttp/sturdy"
)

// These tests run the whole stack through http.Client against real servers. What
// is asserted of time is asserted in a bubble of testing/synctest, where a server
// listens on pipes: elsewhere it depends on what else the machine does.

const (
	asked = 50 * time.Millisecond // for which the servers here ask
	guard = time.Minute           // after which what has not happened never will
)

// A protocol is the major version of HTTP.
type protocol int

func overBoth(t *testing.T, test func(*testing.T, protocol)) {
	for _, p := range [...]protocol{1, 2} {
		t.Run(fmt.Sprintf("HTTP-%d", p), func(t *testing.T) {
			t.Parallel()
			test(t, p)
		})
	}
}

// A realServer is a server on loopback, with what reached it.
type realServer struct {
	t     *testing.T
	proto protocol
	url   string
	base  *http.Transport // has connections to no other server

	dials, opened, closed atomic.Int32

	mu       sync.Mutex
	arrivals []arrival
}

type arrival struct {
	at         time.Time
	credential string
	call       string // that it is an attempt of
}

func (p protocol) serve(t *testing.T, handler http.HandlerFunc) *realServer {
	t.Helper()
	return p.start(t, handler, nil)
}

// serveInBubble starts a server on pipes, for a bubble of testing/synctest.
func (p protocol) serveInBubble(t *testing.T, handler http.HandlerFunc) *realServer {
	t.Helper()
	return p.start(t, handler, &pipes{conns: make(chan net.Conn), closed: make(chan struct{})})
}

func (p protocol) start(t *testing.T, handler http.HandlerFunc, on *pipes) *realServer {
	t.Helper()
	s := &realServer{t: t, proto: p}
	ts := s.prepare(handler)
	if on != nil {
		_ = ts.Listener.Close()
		ts.Listener = on
	}
	if p == 2 {
		ts.StartTLS()
	} else {
		ts.Start()
	}
	s.url = ts.URL
	s.base, _ = ts.Client().Transport.(*http.Transport)
	dial := s.base.DialContext
	if on != nil {
		dial = on.dial
	}
	s.base.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
		s.dials.Add(1)
		return dial(ctx, network, addr)
	}
	t.Cleanup(func() {
		s.base.CloseIdleConnections()
		ts.Close()
	})
	return s
}

func (s *realServer) prepare(handler http.HandlerFunc) *httptest.Server {
	ts := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		assert.EqualValues(s.t, s.proto, r.ProtoMajor)
		s.mu.Lock()
		s.arrivals = append(s.arrivals, arrival{time.Now(), r.Header.Get("Authorization"), r.Header.Get("X-Call")})
		s.mu.Unlock()
		handler(w, r)
	}))
	ts.EnableHTTP2 = s.proto == 2
	ts.Config.HTTP2 = &http.HTTP2Config{MaxConcurrentStreams: 1000} // so that one connection is enough
	ts.Config.ErrorLog = log.New(io.Discard, "", 0)
	ts.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		switch state {
		case http.StateNew:
			s.opened.Add(1)
		case http.StateClosed:
			s.closed.Add(1)
		}
	}
	return ts
}

// pipes are a listener whose connections are pipes.
type pipes struct {
	conns  chan net.Conn
	closed chan struct{}
	close  sync.Once
}

func (l *pipes) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	ours, theirs := net.Pipe()
	select {
	case l.conns <- theirs:
		return ours, nil
	case <-l.closed:
		return nil, net.ErrClosed
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (l *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *pipes) Close() error {
	l.close.Do(func() { close(l.closed) })
	return nil
}

func (l *pipes) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 1} }

func (s *realServer) seen() []arrival {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]arrival(nil), s.arrivals...)
}

func (s *realServer) client(tr *sturdy.Transport) *http.Client {
	tr.Base = s.base
	tr.Retry.MinDelay = cmp.Or(tr.Retry.MinDelay, time.Millisecond)
	return &http.Client{Transport: tr}
}

// counted counts what the stack sends, also of what never arrives.
type counted struct {
	*http.Transport
	sent atomic.Int32
}

func (c *counted) RoundTrip(req *http.Request) (*http.Response, error) {
	c.sent.Add(1)
	return c.Transport.RoundTrip(req)
}

// request makes a request whose body, if it has one, can be had again. The
// headers are pairs of a name and a value.
func (s *realServer) request(method, body string, headers ...string) *http.Request {
	var r io.Reader
	if body != "" {
		r = strings.NewReader(body)
	}
	req, err := http.NewRequestWithContext(s.t.Context(), method, s.url, r)
	require.NoError(s.t, err)
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	return req
}

// An outcome is what Client.Do returned, and what Check made of it.
type outcome struct {
	resp    *http.Response // its body is read already
	body    string
	err     error
	failure error
}

func (s *realServer) do(c *http.Client, req *http.Request) outcome {
	var o outcome
	o.resp, o.err = c.Do(req)
	o.failure = sturdy.Check(o.resp, o.err)
	if o.err != nil {
		assert.Nil(s.t, o.resp)
		return o
	}
	defer o.resp.Body.Close()
	assert.EqualValues(s.t, s.proto, o.resp.ProtoMajor)
	body, err := io.ReadAll(o.resp.Body)
	assert.NoError(s.t, err)
	o.body = string(body)
	return o
}

func (o outcome) status() int {
	if o.resp == nil {
		return 0
	}
	return o.resp.StatusCode
}

// What servers do.

func answer(status int, body string, headers ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		for i := 0; i < len(headers); i += 2 {
			w.Header().Set(headers[i], headers[i+1])
		}
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	}
}

var fine = answer(http.StatusOK, "fine")

// resetting breaks the connection in HTTP/1.1, and the stream in HTTP/2.
func resetting(w http.ResponseWriter, r *http.Request) {
	_, _ = io.Copy(io.Discard, r.Body)
	if r.ProtoMajor == 2 {
		panic(http.ErrAbortHandler)
	}
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		panic(err)
	}
	if tcp, ok := conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
	_ = conn.Close()
}

// hanging answers nothing until the client has gone.
func hanging(_ http.ResponseWriter, r *http.Request) {
	_, _ = io.Copy(io.Discard, r.Body)
	<-r.Context().Done()
}

// inTurn answers each request with the next step, and what follows with the
// last one.
func inTurn(steps ...http.HandlerFunc) http.HandlerFunc {
	var n atomic.Int64
	return func(w http.ResponseWriter, r *http.Request) {
		steps[min(int(n.Add(1)), len(steps))-1](w, r)
	}
}

// said is an error body as OpenAI's servers write it.
func said(message, kind, code string) string {
	return fmt.Sprintf(`{"error":{"message":%q,"type":%q,"param":null,"code":%q}}`, message, kind, code)
}

const (
	rateLimited = `{"error":{"message":"Rate limit reached for requests","type":"requests","param":null,"code":"rate_limit_exceeded"}}`
	noQuota     = `{"error":{"message":"You exceeded your current quota, please check your plan and billing details.",` +
		`"type":"insufficient_quota","param":null,"code":"insufficient_quota"}}`
	noKey = `{"error":{"message":"Incorrect API key provided: sk-ab***yz.","type":"invalid_request_error","param":null,"code":"invalid_api_key"}}`
)

// onPause closes c at the first pause.
func onPause(c chan struct{}) func(context.Context, sturdy.Event) {
	var once sync.Once
	return func(_ context.Context, ev sturdy.Event) {
		if ev.Kind == sturdy.EventPause {
			once.Do(func() { close(c) })
		}
	}
}

func await(t *testing.T, c <-chan struct{}) {
	t.Helper()
	select {
	case <-c:
	case <-time.After(guard):
		require.FailNow(t, "it does not happen")
	}
}
