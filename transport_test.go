package sturdy_test

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/sturdyhttp/sturdy"
)

// These tests run the whole stack through http.Client against real servers. The
// time in them is real: where a server asks for time it asks for little, and
// what is asserted of a wait is that it was not shorter.

const (
	asked  = 50 * time.Millisecond // for which the servers here ask
	atOnce = 5 * time.Second       // far below every wait that must not happen, and enough for a busy machine
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
	s := &realServer{t: t, proto: p}
	ts := s.prepare(handler)
	if p == 2 {
		ts.StartTLS()
	} else {
		ts.Start()
	}
	s.url = ts.URL
	s.base, _ = ts.Client().Transport.(*http.Transport)
	dial := s.base.DialContext
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

func TestTheZeroTransportMakesAClientSturdy(t *testing.T) {
	s := protocol(1).serve(t, inTurn(
		answer(http.StatusServiceUnavailable, "overloaded", "Retry-After-Ms", "50"),
		fine,
	))
	client := &http.Client{Transport: &sturdy.Transport{}}
	t.Cleanup(client.CloseIdleConnections)

	o := s.do(client, s.request(http.MethodPost, "body"))
	require.NoError(t, o.failure)
	assert.Equal(t, "fine", o.body)
	assert.Len(t, s.seen(), 2)
}

func TestEachAnswerHasItsClassAndIsSentAgainOnlyWhereThatHelps(t *testing.T) {
	t.Parallel()
	const invalid = "invalid_request_error"
	rows := []struct {
		name    string
		status  int
		body    string
		headers []string
		class   sturdy.Class
		kindOf  sturdy.Class
		again   bool
		wait    time.Duration // before each further attempt, at least
	}{
		{name: "invalid authentication", status: 401, body: said("Invalid Authentication", invalid, ""), class: sturdy.ErrAuthentication},
		{name: "incorrect API key", status: 401, body: noKey, class: sturdy.ErrAuthentication},
		{
			name: "no member of an organization", status: 401, class: sturdy.ErrAuthentication,
			body: said("You must be a member of an organization to use the API", invalid, "no_organization"),
		},
		{
			name: "rate limit", status: 429, body: rateLimited, headers: []string{"Retry-After-Ms", "50"},
			class: sturdy.ErrRateLimit, again: true, wait: asked,
		},
		{name: "rate limit without a time", status: 429, body: rateLimited, class: sturdy.ErrRateLimit, again: true},
		{name: "no quota", status: 429, body: noQuota, class: sturdy.ErrQuotaExceeded, kindOf: sturdy.ErrRateLimit},
		{
			name: "no quota although it names a time", status: 429, body: noQuota, headers: []string{"Retry-After-Ms", "50"},
			class: sturdy.ErrQuotaExceeded, kindOf: sturdy.ErrRateLimit,
		},
		{
			name: "billing not active", status: 429, class: sturdy.ErrQuotaExceeded, kindOf: sturdy.ErrRateLimit,
			body: said("Your account is not active, please check your billing details on our website.", "billing_not_active", "billing_not_active"),
		},
		{
			name: "server error", status: 500, class: sturdy.ErrInternalServer, again: true,
			body: said("The server had an error while processing your request", "server_error", ""),
		},
		{name: "bad gateway", status: 502, body: "<html><title>502 Bad Gateway</title></html>", class: sturdy.ErrInternalServer, again: true},
		{
			name: "overloaded", status: 503, class: sturdy.ErrOverloaded, kindOf: sturdy.ErrInternalServer, again: true,
			body: said("The engine is currently overloaded, please try again later", "server_error", ""),
		},
		{
			name: "overloaded with a time", status: 503, body: "busy", headers: []string{"Retry-After-Ms", "50"},
			class: sturdy.ErrOverloaded, kindOf: sturdy.ErrInternalServer, again: true, wait: asked,
		},
		{name: "gateway timeout", status: 504, class: sturdy.ErrTimeout, kindOf: sturdy.ErrConnection, again: true},
		{name: "bad request", status: 400, body: said("Invalid value", invalid, "invalid_value"), class: sturdy.ErrBadRequest},
		{name: "forbidden", status: 403, body: said("Not for you", invalid, ""), class: sturdy.ErrPermissionDenied},
		{name: "not found", status: 404, body: said("No such model", invalid, "model_not_found"), class: sturdy.ErrNotFound},
		{name: "request timeout", status: 408, class: sturdy.ErrTimeout, kindOf: sturdy.ErrConnection, again: true},
		{name: "conflict", status: 409, body: said("Try again", invalid, ""), class: sturdy.ErrConflict, again: true},
		{name: "unprocessable", status: 422, body: said("Cannot do that", invalid, ""), class: sturdy.ErrUnprocessable},
	}
	overBoth(t, func(t *testing.T, p protocol) {
		for _, row := range rows {
			for _, method := range [...]string{http.MethodGet, http.MethodPost} {
				t.Run(fmt.Sprintf("%d %s to %s", row.status, row.name, method), func(t *testing.T) {
					fails := answer(row.status, row.body, row.headers...)
					var body string
					if method == http.MethodPost {
						body = "body"
					}

					s := p.serve(t, fails)
					o := s.do(s.client(&sturdy.Transport{Retry: sturdy.Retry{Attempts: 3}}), s.request(method, body))
					require.NoError(t, o.err, "a status is no error of Client.Do")
					assert.Equal(t, row.status, o.status())
					assert.Equal(t, row.body, o.body)
					require.ErrorIs(t, o.failure, row.class)
					assert.Equal(t, row.class, sturdy.ClassOf(o.failure))
					if row.kindOf != 0 {
						require.ErrorIs(t, o.failure, row.kindOf)
					}
					var e *sturdy.Error
					require.ErrorAs(t, o.failure, &e)
					assert.Equal(t, row.again, e.Retryable())
					if !row.again {
						assert.Equal(t, 1, e.Attempts)
						assert.Len(t, s.seen(), 1, "sent exactly once")
						return
					}
					assert.Equal(t, 3, e.Attempts)
					assertApart(t, s.seen(), 3, row.wait)

					s = p.serve(t, inTurn(fails, fails, fine))
					o = s.do(s.client(&sturdy.Transport{}), s.request(method, body))
					require.NoError(t, o.failure)
					assert.Equal(t, "fine", o.body)
					assertApart(t, s.seen(), 3, row.wait)
				})
			}
		}
	})
}

// assertApart asserts that n requests came, at least wait apart.
func assertApart(t *testing.T, seen []arrival, n int, wait time.Duration) {
	t.Helper()
	require.Len(t, seen, n)
	for i := range seen[1:] {
		assert.GreaterOrEqual(t, seen[i+1].at.Sub(seen[i].at), wait)
	}
}

func TestAfterA429NobodyWithThatKeyIsSentBeforeTheTimeAskedFor(t *testing.T) {
	t.Parallel()
	const pause = 300 * time.Millisecond
	overBoth(t, func(t *testing.T, p protocol) {
		s := p.serve(t, inTurn(answer(429, rateLimited, "Retry-After-Ms", "300"), fine))
		paused := make(chan struct{})
		client := s.client(&sturdy.Transport{Observe: onPause(paused)})
		var callers sync.WaitGroup
		call := func() {
			o := s.do(client, s.request(http.MethodPost, "body", "Authorization", "Bearer key"))
			assert.NoError(t, o.failure)
			assert.Equal(t, "fine", o.body)
		}
		callers.Go(call)
		await(t, paused)
		for range 8 {
			callers.Go(call)
		}
		callers.Wait()
		seen := s.seen()
		require.Len(t, seen, 10)
		for _, a := range seen[1:] {
			assert.GreaterOrEqual(t, a.at.Sub(seen[0].at), pause)
		}
	})
}

func TestAfterA429TheOthersAreSentAtOnce(t *testing.T) {
	t.Parallel()
	overBoth(t, func(t *testing.T, p protocol) {
		s := p.serve(t, func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("Authorization") == "Bearer held" {
				answer(429, rateLimited, "Retry-After", "100")(w, r)
				return
			}
			fine(w, r)
		})
		paused := make(chan struct{})
		client := s.client(&sturdy.Transport{Observe: onPause(paused)})
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		var held, free sync.WaitGroup
		wait := func() {
			o := s.do(client, s.request(http.MethodPost, "body", "Authorization", "Bearer held").WithContext(ctx))
			assert.ErrorIs(t, o.err, context.Canceled)
		}
		held.Go(wait)
		await(t, paused)
		for i := range 8 {
			held.Go(wait)
			free.Go(func() {
				// One has another key, one is without.
				o := s.do(client, s.request(http.MethodPost, "body", "Authorization", []string{"Bearer free", ""}[i%2]))
				assert.NoError(t, o.failure)
			})
		}
		free.Wait() // for 100 seconds, if they were held too
		cancel()
		held.Wait()
		for _, a := range s.seen()[1:] {
			assert.NotEqual(t, "Bearer held", a.credential)
		}
		assert.Len(t, s.seen(), 9)
	})
}

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
	case <-time.After(atOnce):
		require.FailNow(t, "it does not happen")
	}
}

func TestABurstOfFailuresOpensTheCircuitAndTheServerIsLeftAlone(t *testing.T) {
	t.Parallel()
	overBoth(t, func(t *testing.T, p protocol) {
		for _, status := range [...]int{500, 503} {
			t.Run(fmt.Sprint(status), func(t *testing.T) {
				s := p.serve(t, answer(status, "down"))
				client := s.client(&sturdy.Transport{Breaker: sturdy.Breaker{OpenFor: time.Hour}})
				for range 2 { // of five attempts each
					o := s.do(client, s.request(http.MethodPost, "body"))
					require.NoError(t, o.err)
					assert.Equal(t, status, o.status())
				}
				require.Len(t, s.seen(), 10)

				began := time.Now()
				o := s.do(client, s.request(http.MethodPost, "body"))
				assert.Less(t, time.Since(began), atOnce)
				require.ErrorIs(t, o.err, sturdy.ErrCircuitOpen)
				require.ErrorIs(t, o.err, sturdy.ErrNotSent)
				var e *sturdy.Error
				require.ErrorAs(t, o.err, &e)
				assert.Zero(t, e.Attempts)
				assert.InDelta(t, time.Hour, e.RetryAfter, float64(time.Minute))
				assert.Len(t, s.seen(), 10, "the server sees nothing of it")
			})
		}
	})
}

func TestConcurrentFailuresOpenTheCircuitAndNobodyGetsAnythingElse(t *testing.T) {
	t.Parallel()
	overBoth(t, func(t *testing.T, p protocol) {
		s := p.serve(t, answer(503, "down"))
		client := s.client(&sturdy.Transport{Breaker: sturdy.Breaker{OpenFor: time.Hour}})
		var wg sync.WaitGroup
		for range 20 {
			wg.Go(func() {
				o := s.do(client, s.request(http.MethodPost, "body"))
				if o.err != nil {
					assert.ErrorIs(t, o.err, sturdy.ErrCircuitOpen)
					return
				}
				assert.ErrorIs(t, o.failure, sturdy.ErrOverloaded)
				assert.Equal(t, "down", o.body)
			})
		}
		wg.Wait()
		n := len(s.seen())
		assert.GreaterOrEqual(t, n, 10)
		assert.Less(t, n, 30, "10 that open the circuit, and those that were under way")
		o := s.do(client, s.request(http.MethodGet, ""))
		require.ErrorIs(t, o.err, sturdy.ErrCircuitOpen)
		assert.Len(t, s.seen(), n)
	})
}

func TestTheAnswerInHandStandsWhereTheNextAttemptIsRefused(t *testing.T) {
	t.Parallel()
	overBoth(t, func(t *testing.T, p protocol) {
		for name, row := range map[string]struct{ method, body string }{
			"with a body":    {http.MethodPost, "down"},
			"without a body": {http.MethodPost, ""},
			"to HEAD":        {http.MethodHead, ""},
		} {
			t.Run(name, func(t *testing.T) {
				s := p.serve(t, answer(500, row.body))
				client := s.client(&sturdy.Transport{Breaker: sturdy.Breaker{Failures: 1, OpenFor: time.Hour}})
				o := s.do(client, s.request(row.method, "body"))
				require.NoError(t, o.err)
				assert.Equal(t, 500, o.status())
				assert.Equal(t, row.body, o.body)
				require.ErrorIs(t, o.failure, sturdy.ErrInternalServer)
				assert.Len(t, s.seen(), 1)
			})
		}
	})
}

func TestARequestWithADeadlineWaitsUntilTheCircuitCloses(t *testing.T) {
	t.Parallel()
	overBoth(t, func(t *testing.T, p protocol) {
		down := answer(500, "down")
		s := p.serve(t, inTurn(down, down, fine))
		client := s.client(&sturdy.Transport{Breaker: sturdy.Breaker{Failures: 2, OpenFor: asked}})
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		o := s.do(client, s.request(http.MethodPost, "body").WithContext(ctx))
		require.NoError(t, o.failure)
		seen := s.seen()
		require.Len(t, seen, 3)
		assert.GreaterOrEqual(t, seen[2].at.Sub(seen[1].at), asked)
	})
}

func TestWhatIsNoFailureOfTheServerNeverOpensTheCircuit(t *testing.T) {
	t.Parallel()
	overBoth(t, func(t *testing.T, p protocol) {
		for name, handler := range map[string]http.HandlerFunc{
			"401":          answer(401, noKey),
			"404":          answer(404, ""),
			"429":          answer(429, rateLimited),
			"429 no quota": answer(429, noQuota),
		} {
			t.Run(name, func(t *testing.T) {
				s := p.serve(t, handler)
				client := s.client(&sturdy.Transport{Retry: sturdy.Retry{Attempts: -1}})
				for range 12 {
					require.NoError(t, s.do(client, s.request(http.MethodGet, "")).err)
				}
				assert.Len(t, s.seen(), 12)
			})
		}
	})
}

// refuse lets the next n dials go to a port where nobody listens.
func (s *realServer) refuse(n int32) {
	dial := s.base.DialContext
	s.base.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
		if s.dials.Load() < n {
			addr = "127.0.0.1:1"
		}
		return dial(ctx, network, addr)
	}
}

func TestARefusedConnectionIsTriedAgainForAnyMethod(t *testing.T) {
	t.Parallel()
	overBoth(t, func(t *testing.T, p protocol) {
		for _, method := range [...]string{http.MethodGet, http.MethodPost, http.MethodPatch} {
			t.Run(method, func(t *testing.T) {
				s := p.serve(t, fine)
				s.refuse(2)
				o := s.do(s.client(&sturdy.Transport{}), s.request(method, "body"))
				require.NoError(t, o.failure)
				assert.EqualValues(t, 3, s.dials.Load())
				assert.Len(t, s.seen(), 1)
			})
		}
		t.Run("until the attempts are used up", func(t *testing.T) {
			s := p.serve(t, fine)
			s.refuse(1000)
			o := s.do(s.client(&sturdy.Transport{Retry: sturdy.Retry{Attempts: 3}}), s.request(http.MethodPost, "body"))
			require.ErrorIs(t, o.err, sturdy.ErrConnection)
			require.NotErrorIs(t, o.err, sturdy.ErrTimeout)
			require.ErrorIs(t, o.err, syscall.ECONNREFUSED)
			var e *sturdy.Error
			require.ErrorAs(t, o.err, &e)
			assert.Equal(t, 3, e.Attempts)
			assert.EqualValues(t, 3, s.dials.Load())
			assert.Empty(t, s.seen())
		})
	})
}

func TestAResetIsTriedAgainOnlyWhereThatIsSafe(t *testing.T) {
	t.Parallel()
	rows := []struct {
		name    string
		method  string
		headers []string
		unsafe  bool
		again   bool
	}{
		{name: "GET", method: http.MethodGet, again: true},
		{name: "PUT", method: http.MethodPut, again: true},
		{name: "DELETE", method: http.MethodDelete, again: true},
		{name: "POST with Idempotency-Key", method: http.MethodPost, headers: []string{"Idempotency-Key", "k"}, again: true},
		{name: "POST with X-Idempotency-Key", method: http.MethodPost, headers: []string{"X-Idempotency-Key", "k"}, again: true},
		{name: "POST with ReplayUnsafe", method: http.MethodPost, unsafe: true, again: true},
		{name: "PATCH with ReplayUnsafe", method: http.MethodPatch, unsafe: true, again: true},
		{name: "plain POST", method: http.MethodPost},
		{name: "plain PATCH", method: http.MethodPatch},
	}
	overBoth(t, func(t *testing.T, p protocol) {
		for _, row := range rows {
			t.Run(row.name, func(t *testing.T) {
				s := p.serve(t, inTurn(resetting, resetting, fine))
				client := s.client(&sturdy.Transport{Retry: sturdy.Retry{ReplayUnsafe: row.unsafe}})
				o := s.do(client, s.request(row.method, "body", row.headers...))
				if row.again {
					require.NoError(t, o.failure)
					assert.Len(t, s.seen(), 3)
					return
				}
				require.Error(t, o.err)
				require.ErrorIs(t, o.failure, sturdy.ErrConnection)
				require.NotErrorIs(t, o.failure, sturdy.ErrTimeout)
				assert.Len(t, s.seen(), 1)
				assert.NotErrorAs(t, o.err, new(*sturdy.Error), "what was sent once comes as it is")
				if p == 1 {
					require.ErrorIs(t, o.err, syscall.ECONNRESET)
				}
			})
		}
	})
}

// noSuchName is a DNS server that knows no name. It counts the questions for
// the address of nowhere.invalid.
func noSuchName(t *testing.T) (r *net.Resolver, asked *atomic.Int32) {
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	require.NoError(t, err)
	asked = new(atomic.Int32)
	done := make(chan struct{})
	go func() {
		defer close(done)
		msg := make([]byte, 1500)
		for {
			n, from, err := conn.ReadFrom(msg)
			if err != nil {
				return
			}
			if bytes.Contains(msg[:n], []byte("\x07nowhere\x07invalid\x00\x00\x01")) {
				asked.Add(1)
			}
			msg[2] |= 0x80 // it is an answer
			msg[3] = 0x83  // NXDOMAIN
			_, _ = conn.WriteTo(msg[:n], from)
		}
	}()
	t.Cleanup(func() {
		_ = conn.Close()
		<-done
	})
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "udp", conn.LocalAddr().String())
	}}, asked
}

func TestANameThatDoesNotExistIsNeverTriedAgain(t *testing.T) {
	t.Parallel()
	overBoth(t, func(t *testing.T, p protocol) {
		for _, method := range [...]string{http.MethodGet, http.MethodPost} {
			t.Run(method, func(t *testing.T) {
				s := p.serve(t, fine)
				resolver, asked := noSuchName(t)
				s.base.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
					s.dials.Add(1)
					return (&net.Dialer{Resolver: resolver}).DialContext(ctx, network, addr)
				}
				req := s.request(method, "body", "Idempotency-Key", "k")
				req.URL.Host = "nowhere.invalid.:" + req.URL.Port()
				o := s.do(s.client(&sturdy.Transport{}), req)
				require.ErrorIs(t, o.failure, sturdy.ErrConnection)
				var dns *net.DNSError
				require.ErrorAs(t, o.err, &dns)
				assert.True(t, dns.IsNotFound)
				assert.EqualValues(t, 1, s.dials.Load())
				assert.EqualValues(t, 1, asked.Load())
			})
		}
	})
}

func TestABadCertificateIsNeverTriedAgain(t *testing.T) {
	t.Parallel()
	overBoth(t, func(t *testing.T, p protocol) {
		for _, method := range [...]string{http.MethodGet, http.MethodPost} {
			t.Run(method, func(t *testing.T) {
				s := &realServer{t: t, proto: p, base: &http.Transport{ForceAttemptHTTP2: p == 2}} // trusts no test server
				ts := s.prepare(fine)
				ts.StartTLS()
				t.Cleanup(ts.Close)
				s.url = ts.URL
				o := s.do(s.client(&sturdy.Transport{}), s.request(method, "body", "Idempotency-Key", "k"))
				require.ErrorIs(t, o.failure, sturdy.ErrConnection)
				var unknown x509.UnknownAuthorityError
				require.ErrorAs(t, o.err, &unknown)
				assert.EqualValues(t, 1, s.opened.Load())
				assert.Empty(t, s.seen())
			})
		}
	})
}

func TestAnAttemptWithoutHeadersInTimeIsTriedAgainOnlyWhereThatIsSafe(t *testing.T) {
	t.Parallel()
	overBoth(t, func(t *testing.T, p protocol) {
		timeout := sturdy.Timeout{Header: 50 * time.Millisecond}
		t.Run("GET", func(t *testing.T) {
			s := p.serve(t, inTurn(hanging, fine))
			o := s.do(s.client(&sturdy.Transport{Timeout: timeout}), s.request(http.MethodGet, ""))
			require.NoError(t, o.failure)
			assert.Equal(t, "fine", o.body)
		})
		for _, row := range []struct {
			name, method string
			headers      []string
			times        int
		}{
			{"GET to the end", http.MethodGet, nil, 3},
			{"POST with Idempotency-Key to the end", http.MethodPost, []string{"Idempotency-Key", "k"}, 3},
			{"plain POST", http.MethodPost, nil, 1},
		} {
			t.Run(row.name, func(t *testing.T) {
				s := p.serve(t, hanging)
				base := &counted{Transport: s.base}
				tr := &sturdy.Transport{Base: base, Timeout: timeout, Retry: sturdy.Retry{Attempts: 3, MinDelay: time.Millisecond}}
				o := s.do(&http.Client{Transport: tr}, s.request(row.method, "body", row.headers...))
				require.ErrorIs(t, o.err, sturdy.ErrTimeout)
				require.ErrorIs(t, o.err, sturdy.ErrConnection)
				require.NotErrorIs(t, o.err, context.DeadlineExceeded, "that would be the caller's")
				require.NotErrorIs(t, o.err, context.Canceled, "that would be the caller's")
				assertTimeout(t, o.err, true)
				var e *sturdy.Error
				require.ErrorAs(t, o.err, &e)
				assert.Equal(t, row.times, e.Attempts)
				assert.EqualValues(t, row.times, base.sent.Load())
				assert.LessOrEqual(t, len(s.seen()), row.times)
			})
		}
	})
}

func assertTimeout(t *testing.T, err error, want bool) {
	t.Helper()
	var u *url.Error
	require.ErrorAs(t, err, &u)
	assert.Equal(t, want, u.Timeout())
}

func TestTheCallersOwnDeadlineIsNeverFollowedByAnotherAttempt(t *testing.T) {
	t.Parallel()
	overBoth(t, func(t *testing.T, p protocol) {
		for name, header := range map[string]time.Duration{"without Timeout": 0, "with Timeout": time.Minute} {
			t.Run(name, func(t *testing.T) {
				s := p.serve(t, hanging)
				ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
				defer cancel()
				base := &counted{Transport: s.base}
				client := &http.Client{Transport: &sturdy.Transport{Base: base, Timeout: sturdy.Timeout{Header: header}}}
				o := s.do(client, s.request(http.MethodGet, "").WithContext(ctx))
				require.ErrorIs(t, o.err, context.DeadlineExceeded)
				assertTimeout(t, o.err, true)
				assert.NotErrorAs(t, o.err, new(*sturdy.Error), "the end of the caller's context is not wrapped")
				assert.EqualValues(t, 1, base.sent.Load())
			})
		}
	})
}

func TestWhereTheBodyCannotBeHadAgainTheAnswerComesAsItIs(t *testing.T) {
	t.Parallel()
	overBoth(t, func(t *testing.T, p protocol) {
		s := p.serve(t, inTurn(answer(503, "try again later", "X-Which", "first"), fine))
		req := s.request(http.MethodPost, "")
		req.Body = io.NopCloser(strings.NewReader("only once"))
		req.ContentLength = -1
		o := s.do(s.client(&sturdy.Transport{}), req)
		require.NoError(t, o.err)
		require.ErrorIs(t, o.failure, sturdy.ErrOverloaded)
		assert.Equal(t, "try again later", o.body)
		assert.Equal(t, "first", o.resp.Header.Get("X-Which"))
		assert.Len(t, s.seen(), 1)
	})
}

func TestEveryAttemptSendsTheWholeBody(t *testing.T) {
	t.Parallel()
	body := strings.Repeat("0123456789abcdef", 1<<16)
	sum := sha256.Sum256([]byte(body))
	want := hex.EncodeToString(sum[:])
	overBoth(t, func(t *testing.T, p protocol) {
		var mu sync.Mutex
		var sums []string
		hashing := func(status int) http.HandlerFunc {
			return func(w http.ResponseWriter, r *http.Request) {
				h := sha256.New()
				n, err := io.Copy(h, r.Body)
				assert.NoError(t, err)
				assert.EqualValues(t, len(body), n)
				assert.EqualValues(t, len(body), r.ContentLength)
				mu.Lock()
				sums = append(sums, hex.EncodeToString(h.Sum(nil)))
				mu.Unlock()
				w.WriteHeader(status)
			}
		}
		early := func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(503) }

		t.Run("after answers to all of it", func(t *testing.T) {
			sums = nil
			s := p.serve(t, inTurn(hashing(503), hashing(500), hashing(200)))
			o := s.do(s.client(&sturdy.Transport{}), s.request(http.MethodPost, body))
			require.NoError(t, o.failure)
			assert.Equal(t, []string{want, want, want}, sums)
		})
		t.Run("after answers before its end", func(t *testing.T) {
			sums = nil
			s := p.serve(t, inTurn(early, early, hashing(200)))
			o := s.do(s.client(&sturdy.Transport{}), s.request(http.MethodPut, body))
			require.NoError(t, o.failure)
			assert.Equal(t, []string{want}, sums)
			assert.Len(t, s.seen(), 3)
		})
	})
}

func TestTheLastAnswerComesByteForByte(t *testing.T) {
	t.Parallel()
	overBoth(t, func(t *testing.T, p protocol) {
		for name, size := range map[string]int{"short": 200, "longer than is looked at": 300 << 10} {
			t.Run(name, func(t *testing.T) {
				text := func(n int) string { return strings.Repeat(fmt.Sprintf("\x00\xff%d\r\n", n), size/5) }
				var n atomic.Int64
				s := p.serve(t, func(w http.ResponseWriter, _ *http.Request) {
					i := min(int(n.Add(1)), 3)
					w.Header()["X-Which"] = []string{fmt.Sprint(i), "b"}
					w.Header().Set("Date", "none")
					w.Header().Set("Content-Type", "application/x-bytes")
					w.Header().Set("Trailer", "X-After")
					w.WriteHeader(503)
					_, _ = io.WriteString(w, text(i))
					w.Header().Set("X-After", fmt.Sprint(i))
				})
				client := s.client(&sturdy.Transport{Retry: sturdy.Retry{Attempts: 3}})
				o := s.do(client, s.request(http.MethodPost, "body"))
				require.NoError(t, o.err)
				assert.Len(t, s.seen(), 3)
				assert.Equal(t, 503, o.status())
				assert.Equal(t, []string{"3", "b"}, o.resp.Header["X-Which"])
				assert.Equal(t, http.Header{"X-After": {"3"}}, o.resp.Trailer)
				assert.True(t, text(3) == o.body, "%d bytes", len(o.body))

				without := s.do(&http.Client{Transport: s.base}, s.request(http.MethodPost, "body"))
				require.NoError(t, without.err)
				assert.Equal(t, without.resp.Header, o.resp.Header)
				assert.Equal(t, without.resp.Trailer, o.resp.Trailer)
				assert.Equal(t, without.resp.Status, o.resp.Status)
				assert.Equal(t, without.resp.Proto, o.resp.Proto)
				assert.Equal(t, without.resp.ContentLength, o.resp.ContentLength)
				assert.Equal(t, without.resp.TransferEncoding, o.resp.TransferEncoding)
				assert.Equal(t, without.resp.Uncompressed, o.resp.Uncompressed)
				assert.Equal(t, without.resp.TLS != nil, o.resp.TLS != nil)
			})
		}
	})
}

func TestARedirectIsTheClientsToFollow(t *testing.T) {
	t.Parallel()
	overBoth(t, func(t *testing.T, p protocol) {
		s := p.serve(t, func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/" {
				http.Redirect(w, r, "/there", http.StatusFound)
				return
			}
			fine(w, r)
		})
		client := s.client(&sturdy.Transport{})
		resp, err := client.Transport.RoundTrip(s.request(http.MethodGet, ""))
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
		assert.Equal(t, http.StatusFound, resp.StatusCode)
		assert.Equal(t, "/there", resp.Header.Get("Location"))
		assert.Len(t, s.seen(), 1)

		var asked []string
		client.CheckRedirect = func(req *http.Request, via []*http.Request) error {
			assert.Len(t, via, 1)
			asked = append(asked, req.URL.Path)
			return nil
		}
		o := s.do(client, s.request(http.MethodGet, ""))
		require.NoError(t, o.failure)
		assert.Equal(t, "fine", o.body)
		assert.Equal(t, []string{"/there"}, asked)
		assert.Len(t, s.seen(), 3)
	})
}

func TestRetriesUseTheConnectionsThatAreThere(t *testing.T) {
	t.Parallel()
	const callers, calls = 4, 100
	body := strings.Repeat("overloaded ", 1000)
	overBoth(t, func(t *testing.T, p protocol) {
		var met sync.Map                   // how often a call was answered
		var together sync.WaitGroup        // until each caller has its own connection
		if together.Add(callers); p == 2 { // or the first one has it for all
			together.Add(1 - callers)
		}
		var came atomic.Int32
		s := p.serve(t, func(w http.ResponseWriter, r *http.Request) {
			if int(came.Add(1)) <= callers && p == 1 {
				together.Done()
				together.Wait()
			}
			n, _ := met.LoadOrStore(r.Header.Get("X-Call"), new(atomic.Int32))
			if n, _ := n.(*atomic.Int32); n.Add(1) <= 2 {
				answer(503, body)(w, r)
				return
			}
			fine(w, r)
		})
		s.base.MaxIdleConnsPerHost = callers
		client := s.client(&sturdy.Transport{})
		call := func(id string) {
			o := s.do(client, s.request(http.MethodPost, "body", "X-Call", id))
			assert.NoError(t, o.failure)
		}
		if p == 2 {
			call("to connect")
		}
		var wg sync.WaitGroup
		for i := range callers {
			wg.Go(func() {
				for j := range calls / callers {
					call(fmt.Sprint(i, "-", j))
				}
			})
		}
		wg.Wait()
		want := callers
		if p == 2 {
			want = 1
			assert.Len(t, s.seen(), 3*(calls+1))
		} else {
			assert.Len(t, s.seen(), 3*calls)
		}
		t.Logf("%d requests over %d connections", len(s.seen()), s.opened.Load())
		assert.EqualValues(t, want, s.opened.Load())
	})
}

func TestAWaitEndsWithItsRequest(t *testing.T) {
	t.Parallel()
	why := errors.New("the user left")
	ends := []struct {
		name  string
		by    func(*http.Request) (_ *http.Request, end func())
		cause error
	}{
		{"a context", func(req *http.Request) (*http.Request, func()) {
			ctx, cancel := context.WithCancel(req.Context())
			return req.WithContext(ctx), cancel
		}, nil},
		{"a context with a cause", func(req *http.Request) (*http.Request, func()) {
			ctx, cancel := context.WithCancelCause(req.Context())
			return req.WithContext(ctx), func() { cancel(why) }
		}, why},
		{"Request.Cancel", func(req *http.Request) (*http.Request, func()) {
			c := make(chan struct{})
			req.Cancel = c
			return req, func() { close(c) }
		}, nil},
	}
	// In each of these the only request that is sent is followed by a wait
	// whose end is far away.
	waits := []struct {
		name      string
		answer    http.HandlerFunc
		transport func() *sturdy.Transport
	}{
		{"a pause", answer(429, rateLimited, "Retry-After", "3600"), func() *sturdy.Transport {
			return &sturdy.Transport{
				Retry:     sturdy.Retry{MaxRetryAfter: 24 * time.Hour},
				RateLimit: sturdy.RateLimit{MaxWait: 24 * time.Hour},
			}
		}},
		{"a backoff", answer(500, "down"), func() *sturdy.Transport {
			return &sturdy.Transport{Retry: sturdy.Retry{MinDelay: 1e6 * time.Hour, MaxDelay: 1e6 * time.Hour}}
		}},
		{"an open circuit", answer(500, "down"), func() *sturdy.Transport {
			return &sturdy.Transport{Breaker: sturdy.Breaker{Failures: 1, OpenFor: time.Hour, MaxWait: 24 * time.Hour}}
		}},
	}
	overBoth(t, func(t *testing.T, p protocol) {
		for _, wait := range waits {
			for _, end := range ends {
				t.Run(wait.name+" with "+end.name, func(t *testing.T) {
					came := make(chan struct{}, 10)
					s := p.serve(t, func(w http.ResponseWriter, r *http.Request) {
						came <- struct{}{}
						wait.answer(w, r)
					})
					client := s.client(wait.transport())
					req, cancel := end.by(s.request(http.MethodPost, "body"))
					ended := make(chan time.Time, 1)
					go func() {
						<-came
						<-time.After(asked) // by then it waits
						ended <- time.Now()
						cancel()
					}()
					o := s.do(client, req)
					require.Len(t, s.seen(), 1)
					assert.Less(t, time.Since(<-ended), atOnce)
					require.ErrorIs(t, o.err, context.Canceled)
					require.NotErrorIs(t, o.err, context.DeadlineExceeded)
					if end.cause != nil {
						require.ErrorIs(t, o.err, end.cause)
					}
					assertTimeout(t, o.err, false)
					assert.Zero(t, sturdy.ClassOf(o.failure), "it says nothing of the server")
					assert.NotErrorAs(t, o.err, new(*sturdy.Error), "the end of the caller's context is not wrapped")
				})
			}
		}
	})
}

// stuck is a Limiter that lets nobody through.
type stuck struct{}

func (stuck) WaitN(ctx context.Context, _ int) error {
	<-ctx.Done()
	return ctx.Err()
}

func TestAWaitWithoutAKnownEndEndsWithTheDeadline(t *testing.T) {
	t.Parallel()
	overBoth(t, func(t *testing.T, p protocol) {
		for name, limit := range map[string]func(*http.Client, *http.Request) (*http.Request, context.CancelFunc){
			"of http.Client.Timeout": func(c *http.Client, req *http.Request) (*http.Request, context.CancelFunc) {
				c.Timeout = asked
				return req, func() {}
			},
			"of the context": func(_ *http.Client, req *http.Request) (*http.Request, context.CancelFunc) {
				ctx, cancel := context.WithTimeout(req.Context(), asked)
				return req.WithContext(ctx), cancel
			},
		} {
			t.Run(name, func(t *testing.T) {
				s := p.serve(t, fine)
				client := s.client(&sturdy.Transport{RateLimit: sturdy.RateLimit{Limiter: stuck{}}})
				req, cancel := limit(client, s.request(http.MethodPost, "body"))
				defer cancel()
				began := time.Now()
				o := s.do(client, req)
				assert.GreaterOrEqual(t, time.Since(began), asked)
				assert.Less(t, time.Since(began), atOnce)
				require.ErrorIs(t, o.err, context.DeadlineExceeded)
				assertTimeout(t, o.err, true)
				assert.Empty(t, s.seen())
			})
		}
	})
}

func TestAWaitPastTheDeadlineIsNotBegun(t *testing.T) {
	t.Parallel()
	overBoth(t, func(t *testing.T, p protocol) {
		for name, limit := range map[string]func(*http.Client, *http.Request) (*http.Request, context.CancelFunc){
			"of http.Client.Timeout": func(c *http.Client, req *http.Request) (*http.Request, context.CancelFunc) {
				c.Timeout = 10 * time.Minute
				return req, func() {}
			},
			"of the context": func(_ *http.Client, req *http.Request) (*http.Request, context.CancelFunc) {
				ctx, cancel := context.WithTimeout(req.Context(), 10*time.Minute)
				return req.WithContext(ctx), cancel
			},
		} {
			t.Run(name, func(t *testing.T) {
				s := p.serve(t, answer(429, rateLimited, "Retry-After", "3600"))
				client := s.client(&sturdy.Transport{Retry: sturdy.Retry{MaxRetryAfter: 24 * time.Hour}})
				began := time.Now()

				req, cancel := limit(client, s.request(http.MethodPost, "body"))
				defer cancel()
				o := s.do(client, req)
				require.NoError(t, o.err)
				assert.Equal(t, 429, o.status())
				assert.JSONEq(t, rateLimited, o.body, "the answer in hand")
				var e *sturdy.Error
				require.ErrorAs(t, o.failure, &e)
				assert.Equal(t, time.Hour, e.RetryAfter)

				req, cancel = limit(client, s.request(http.MethodPost, "body"))
				defer cancel()
				o = s.do(client, req)
				require.ErrorIs(t, o.err, sturdy.ErrWaitTooLong)
				require.ErrorIs(t, o.err, sturdy.ErrNotSent)
				require.ErrorIs(t, o.err, context.DeadlineExceeded)
				assertTimeout(t, o.err, true)
				require.ErrorAs(t, o.err, &e)
				assert.Zero(t, e.Attempts)
				assert.InDelta(t, time.Hour, e.RetryAfter, float64(time.Minute))

				assert.Less(t, time.Since(began), atOnce)
				assert.Len(t, s.seen(), 1)
			})
		}
	})
}

func TestACancelledRequestDoesNotCountForTheCircuit(t *testing.T) {
	t.Parallel()
	overBoth(t, func(t *testing.T, p protocol) {
		var mu sync.Mutex
		var cancel context.CancelFunc
		s := p.serve(t, func(w http.ResponseWriter, r *http.Request) {
			mu.Lock()
			leave := cancel
			mu.Unlock()
			leave()
			hanging(w, r)
		})
		client := s.client(&sturdy.Transport{Breaker: sturdy.Breaker{Failures: 1, OpenFor: time.Hour}})
		for range 3 {
			ctx, leave := context.WithCancel(t.Context())
			mu.Lock()
			cancel = leave
			mu.Unlock()
			o := s.do(client, s.request(http.MethodGet, "").WithContext(ctx))
			require.ErrorIs(t, o.err, context.Canceled)
			assert.Zero(t, sturdy.ClassOf(o.failure))
		}
		assert.Len(t, s.seen(), 3)
	})
}

func TestTheKindsOfAnErrorAreFoundThroughWhatTheClientReturns(t *testing.T) {
	rows := []struct {
		name      string
		handler   http.HandlerFunc
		transport *sturdy.Transport
		before    int // requests that lead up to it
		is, isNot []error
	}{
		{
			"connection", resetting, &sturdy.Transport{Retry: sturdy.Retry{Attempts: 2, ReplayUnsafe: true}}, 0,
			[]error{sturdy.ErrConnection}, []error{sturdy.ErrTimeout, sturdy.ErrNotSent},
		},
		{
			"timeout", hanging, &sturdy.Transport{Timeout: sturdy.Timeout{Header: 20 * time.Millisecond}}, 0,
			[]error{sturdy.ErrTimeout, sturdy.ErrConnection}, []error{sturdy.ErrNotSent, context.DeadlineExceeded},
		},
		{
			"circuit open", answer(500, ""), &sturdy.Transport{
				Retry: sturdy.Retry{Attempts: -1}, Breaker: sturdy.Breaker{Failures: 1, OpenFor: time.Hour},
			}, 1,
			[]error{sturdy.ErrCircuitOpen, sturdy.ErrNotSent}, []error{sturdy.ErrWaitTooLong, sturdy.ErrConnection, sturdy.ErrInternalServer},
		},
		{
			"wait too long", fine, &sturdy.Transport{RateLimit: sturdy.RateLimit{Limit: 0.001, MaxWait: time.Second}}, 1,
			[]error{sturdy.ErrWaitTooLong, sturdy.ErrNotSent}, []error{sturdy.ErrCircuitOpen, sturdy.ErrRateLimit, context.DeadlineExceeded},
		},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			s := protocol(1).serve(t, row.handler)
			client := s.client(row.transport)
			for range row.before {
				require.NoError(t, s.do(client, s.request(http.MethodPost, "body")).err)
			}
			o := s.do(client, s.request(http.MethodPost, "body"))
			var u *url.Error
			require.ErrorAs(t, o.err, &u)
			var e *sturdy.Error
			require.ErrorAs(t, o.err, &e)
			assert.Equal(t, row.is[0], e.Class)
			assert.Equal(t, row.is[0], sturdy.ClassOf(o.err))
			assert.Same(t, e, o.failure, "Check finds what is there")
			for _, target := range row.is {
				require.ErrorIs(t, o.err, target)
			}
			for _, target := range row.isNot {
				require.NotErrorIs(t, o.err, target)
			}
		})
	}
}

func TestTheCallersRequestIsNeverChanged(t *testing.T) {
	t.Parallel()
	overBoth(t, func(t *testing.T, p protocol) {
		s := p.serve(t, inTurn(answer(503, ""), resetting, answer(409, ""), fine))
		req := s.request(http.MethodPost, "body", "Idempotency-Key", "k", "Authorization", "Bearer secret")
		body := &struct{ io.ReadCloser }{req.Body}
		req.Body = body
		header, target, before := req.Header.Clone(), *req.URL, *req
		getBody := 0
		get := req.GetBody
		req.GetBody = func() (io.ReadCloser, error) {
			getBody++
			return get()
		}
		o := s.do(s.client(&sturdy.Transport{Timeout: sturdy.Timeout{Header: time.Minute}}), req)
		require.NoError(t, o.failure)
		require.Len(t, s.seen(), 4)

		assert.Equal(t, header, req.Header)
		assert.Equal(t, target, *req.URL)
		assert.Same(t, before.URL, req.URL)
		assert.Same(t, body, req.Body)
		assert.Equal(t, 3, getBody, "once for each further attempt")
		assert.Equal(t, before.Context(), req.Context())
		assert.Equal(t, before.Host, req.Host)
		assert.Equal(t, before.Method, req.Method)
		assert.Equal(t, before.ContentLength, req.ContentLength)
		assert.Nil(t, req.TransferEncoding)
		assert.Nil(t, req.Trailer)
	})
}

func TestCloseIdleConnectionsReachesTheBase(t *testing.T) {
	t.Parallel()
	overBoth(t, func(t *testing.T, p protocol) {
		s := p.serve(t, fine)
		client := s.client(&sturdy.Transport{})
		require.NoError(t, s.do(client, s.request(http.MethodGet, "")).failure)
		require.EqualValues(t, 1, s.opened.Load())
		require.Zero(t, s.closed.Load())
		// In HTTP/2 a connection is idle a moment after the answer's last byte.
		require.Eventually(t, func() bool {
			client.CloseIdleConnections()
			return s.closed.Load() == 1
		}, atOnce, time.Millisecond)
		require.NoError(t, s.do(client, s.request(http.MethodGet, "")).failure)
		assert.EqualValues(t, 2, s.opened.Load())
	})
}

func TestOfManyConcurrentCallsNoneIsLost(t *testing.T) {
	t.Parallel()
	const calls = 500
	// echo sends back the body, by which a caller knows its own answer.
	echo := func(w http.ResponseWriter, r *http.Request) { _, _ = io.Copy(w, r.Body) }
	type steps []http.HandlerFunc
	kinds := []struct {
		steps   steps // each is taken once, and the last one's answer is the caller's
		class   sturdy.Class
		headers []string
	}{
		{steps: steps{echo}},
		{steps: steps{answer(503, "busy"), answer(500, "down"), echo}},
		{steps: steps{answer(429, rateLimited, "Retry-After-Ms", "20"), echo}},
		{steps: steps{answer(401, noKey)}, class: sturdy.ErrAuthentication},
		{steps: steps{answer(429, noQuota)}, class: sturdy.ErrQuotaExceeded},
		{steps: steps{answer(404, "")}, class: sturdy.ErrNotFound},
		{steps: steps{answer(409, ""), echo}},
		{steps: steps{resetting, echo}, headers: []string{"Idempotency-Key", "k"}},
		{steps: steps{resetting}, class: sturdy.ErrConnection},
		{steps: steps{hanging}}, // its caller leaves
	}
	overBoth(t, func(t *testing.T, p protocol) {
		type caller struct {
			handler http.HandlerFunc
			ctx     context.Context // the handler ends it
			leave   context.CancelFunc
		}
		callers := make(map[string]caller, calls)
		want := 1
		for i := range calls {
			kind := kinds[i%len(kinds)]
			ctx, leave := context.WithCancel(t.Context())
			callers[fmt.Sprint(i)] = caller{inTurn(kind.steps...), ctx, leave}
			want += len(kind.steps)
		}
		callers["to connect"] = caller{handler: echo, ctx: t.Context()}
		s := p.serve(t, func(w http.ResponseWriter, r *http.Request) {
			c := callers[r.Header.Get("X-Call")]
			if n, err := strconv.Atoi(r.Header.Get("X-Call")); err == nil && n%len(kinds) == len(kinds)-1 {
				c.leave()
			}
			c.handler(w, r)
		})
		if p == 1 {
			s.base.MaxConnsPerHost, s.base.MaxIdleConnsPerHost = 50, 50
		}
		// With so many failures on purpose the circuit would open.
		client := s.client(&sturdy.Transport{Breaker: sturdy.Breaker{Failures: -1}})
		call := func(id string, headers ...string) outcome {
			// Each has a key of its own: a pause is for one of them.
			req := s.request(http.MethodPost, id, append(headers, "X-Call", id, "Authorization", "Bearer "+id)...)
			return s.do(client, req.WithContext(callers[id].ctx))
		}
		require.NoError(t, call("to connect").failure)

		var wg sync.WaitGroup
		for i := range calls {
			wg.Go(func() {
				kind, id := kinds[i%len(kinds)], fmt.Sprint(i)
				switch o := call(id, kind.headers...); {
				case i%len(kinds) == len(kinds)-1:
					assert.ErrorIs(t, o.err, context.Canceled, id)
				case kind.class != 0:
					assert.ErrorIs(t, o.failure, kind.class, id)
				default:
					assert.NoError(t, o.failure, id)
					assert.Equal(t, id, o.body)
				}
			})
		}
		wg.Wait()

		sent := map[string]int{}
		for _, a := range s.seen() {
			sent[a.call]++
		}
		for i := range calls {
			assert.Equal(t, len(kinds[i%len(kinds)].steps), sent[fmt.Sprint(i)], "call %d", i)
		}
		assert.Equal(t, want, len(s.seen())) //nolint:testifylint // too many to print
		t.Logf("%d requests over %d connections", len(s.seen()), s.opened.Load())
	})
}
