package sturdytest_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
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

// overHTTP runs a test against a Server behind HTTP/1.1 and behind HTTP/2.
func overHTTP(t *testing.T, settings func() *sturdytest.Server, f func(t *testing.T, s *sturdytest.Server, url string, client *http.Client)) {
	for _, proto := range []string{"HTTP/1.1", "HTTP/2.0"} {
		t.Run(proto, func(t *testing.T) {
			s := settings()
			url, client := start(t, s, proto, nil)
			f(t, s, url, client)
		})
	}
}

// overHTTPInBubble is overHTTP over pipes in virtual time.
func overHTTPInBubble(t *testing.T, settings func() *sturdytest.Server, f func(t *testing.T, s *sturdytest.Server, url string, client *http.Client)) {
	for _, proto := range []string{"HTTP/1.1", "HTTP/2.0"} {
		t.Run(proto, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := settings()
				url, client := start(t, s, proto, &pipes{conns: make(chan net.Conn), closed: make(chan struct{})})
				f(t, s, url, client)
			})
		})
	}
}

// start starts a server on loopback, or on pipes.
func start(t *testing.T, h http.Handler, proto string, on *pipes) (url string, client *http.Client) {
	t.Helper()
	server := httptest.NewUnstartedServer(h)
	if on != nil {
		_ = server.Listener.Close()
		server.Listener = on
	}
	if proto == "HTTP/2.0" {
		server.EnableHTTP2 = true
		server.StartTLS()
	} else {
		server.Start()
	}
	client = server.Client()
	if on != nil {
		client.Transport.(*http.Transport).DialContext = on.dial
	}
	t.Cleanup(func() {
		client.CloseIdleConnections()
		server.Close()
	})
	return server.URL, client
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

func send(t *testing.T, client *http.Client, url, body string) (*http.Response, string, error) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url, strings.NewReader(body))
	require.NoError(t, err)
	resp, err := client.Do(req)
	if err != nil {
		return nil, "", err
	}
	defer resp.Body.Close()
	got, err := io.ReadAll(resp.Body)
	return resp, string(got), err
}

func eventually(t *testing.T, why string, f func() bool) {
	t.Helper()
	require.Eventually(t, f, time.Minute, time.Millisecond, why)
}

func TestHandlerAnswersAsTheRoundTripperDoes(t *testing.T) {
	settings := func() *sturdytest.Server {
		return &sturdytest.Server{
			Limits:     []sturdytest.Limit{{Rate: 2, Per: time.Hour, Window: true}, {Rate: 1000, Per: time.Hour, Window: true, Unit: sturdytest.Tokens}},
			Headers:    sturdytest.IETF,
			RetryAfter: sturdytest.Milliseconds,
		}
	}
	overHTTP(t, settings, func(t *testing.T, s *sturdytest.Server, url string, client *http.Client) {
		same := settings()
		for _, body := range []string{tellMe, `{"stream":true}`, tellMe} {
			want, wantBody := post(t, same, body)
			resp, got, err := send(t, client, url, body)
			require.NoError(t, err)
			assert.Equal(t, want.StatusCode, resp.StatusCode)
			for _, h := range []http.Header{want.Header, resp.Header} {
				assert.NotEmpty(t, h.Get("Date"))
				for _, clock := range []string{"Date", "Ratelimit", "Retry-After", "Retry-After-Ms"} {
					h.Del(clock)
				}
			}
			assert.Equal(t, want.Header, resp.Header)
			if resp.StatusCode == 200 {
				wantBody, got = withoutCreated(wantBody), withoutCreated(got)
			}
			assert.Equal(t, wantBody, got)
		}
		assert.Equal(t, same.Stats().Counts, s.Stats().Counts)
		eventually(t, "all is closed", func() bool { return s.Stats().Unclosed == 0 })
	})
}

// withoutCreated blanks out the time in a body.
func withoutCreated(body string) string {
	before, rest, _ := strings.Cut(body, `"created":`)
	if i := strings.IndexByte(rest, ','); i >= 0 {
		return before + withoutCreated(rest[i:])
	}
	return before + rest
}

// What a stalled stream has sent is with the client, not in a buffer.
func TestHandlerFlushesEachEventWhenItIsDue(t *testing.T) {
	const gap = 20 * time.Millisecond
	settings := func() *sturdytest.Server {
		return &sturdytest.Server{Reply: func(*http.Request) sturdytest.Step { return abc.Every(gap).ThenStall() }}
	}
	overHTTPInBubble(t, settings, func(t *testing.T, s *sturdytest.Server, url string, client *http.Client) {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url, strings.NewReader("hello"))
		require.NoError(t, err)
		start := time.Now()
		resp, err := client.Do(req)
		require.NoError(t, err)
		for i, want := range []string{"a", "b", "c"} {
			got := make([]byte, 1)
			_, err := io.ReadFull(resp.Body, got)
			require.NoError(t, err)
			assert.Equal(t, want, string(got))
			assert.Equal(t, time.Duration(i+1)*gap, time.Since(start))
		}
		assert.Equal(t, 1, s.Stats().InFlight)
		require.NoError(t, resp.Body.Close())
		synctest.Wait()
		assert.Zero(t, s.Stats().InFlight)
	})
}

func TestHandlerBreaksStreamsAsTold(t *testing.T) {
	for _, tc := range []struct {
		name string
		step sturdytest.Step
		want func(t *testing.T, proto string, err error)
	}{
		{"whole", abc, func(t *testing.T, _ string, err error) { assert.NoError(t, err) }},
		{"cut", abc.ThenCut(), func(t *testing.T, proto string, err error) {
			if proto == "HTTP/1.1" {
				assert.Equal(t, io.ErrUnexpectedEOF, err)
			} else {
				assert.ErrorContains(t, err, "INTERNAL_ERROR")
			}
		}},
		{"reset", abc.ThenReset(), func(t *testing.T, proto string, err error) {
			if proto == "HTTP/1.1" {
				assert.ErrorIs(t, err, syscall.ECONNRESET)
			} else {
				assert.ErrorContains(t, err, "INTERNAL_ERROR")
			}
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			for _, proto := range []string{"HTTP/1.1", "HTTP/2.0"} {
				t.Run(proto, func(t *testing.T) {
					s := &sturdytest.Server{Reply: func(*http.Request) sturdytest.Step { return tc.step }}
					read := make(chan struct{}) // so that a reset does not overtake the events
					url, client := start(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
						s.ServeHTTP(&patientWriter{w, read}, r)
					}), proto, nil)
					req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url, strings.NewReader("hello"))
					require.NoError(t, err)
					resp, err := client.Do(req)
					require.NoError(t, err)
					defer resp.Body.Close()
					assert.Equal(t, 200, resp.StatusCode)
					var got [3]byte
					_, err = io.ReadFull(resp.Body, got[:])
					require.NoError(t, err)
					assert.Equal(t, "abc", string(got[:]))
					close(read)
					rest, err := io.ReadAll(resp.Body)
					assert.Empty(t, rest)
					tc.want(t, resp.Proto, err)
					eventually(t, "nothing is in flight", func() bool { return s.Stats().InFlight == 0 && s.Stats().Unclosed == 0 })
				})
			}
		})
	}
}

// A patientWriter gives its connection away only when all has been read.
type patientWriter struct {
	http.ResponseWriter
	read <-chan struct{}
}

func (w *patientWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func (w *patientWriter) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	if r, ok := w.ResponseWriter.(http.Hijacker); ok {
		<-w.read
		return r.Hijack()
	}
	return nil, nil, http.ErrNotSupported
}

func TestHandlerBreaksConnectionsInsteadOfAnAnswer(t *testing.T) {
	for _, step := range []sturdytest.Step{sturdytest.ConnReset(), sturdytest.ConnRefused(), {Err: io.EOF}} {
		t.Run(step.String(), func(t *testing.T) {
			settings := func() *sturdytest.Server {
				return &sturdytest.Server{Outages: []sturdytest.Outage{{Answer: step}}}
			}
			overHTTP(t, settings, func(t *testing.T, s *sturdytest.Server, url string, client *http.Client) {
				_, _, err := send(t, client, url, "hello")
				require.Error(t, err)
				if errors.Is(step.Err, syscall.ECONNRESET) && strings.HasPrefix(url, "http:") {
					assert.ErrorIs(t, err, syscall.ECONNRESET)
				}
				eventually(t, "it failed", func() bool { return s.Stats().Failed > 0 && s.Stats().InFlight == 0 })
			})
		})
	}
}

func TestHandlerSeesThatTheClientLeaves(t *testing.T) {
	for _, step := range []sturdytest.Step{sturdytest.Hang(), sturdytest.OK(`{`).ThenStall(), abc.ThenStall()} {
		t.Run(step.String(), func(t *testing.T) {
			settings := func() *sturdytest.Server {
				return &sturdytest.Server{Outages: []sturdytest.Outage{{Answer: step}}}
			}
			overHTTPInBubble(t, settings, func(t *testing.T, s *sturdytest.Server, url string, client *http.Client) {
				ctx, cancel := context.WithCancel(t.Context())
				time.AfterFunc(time.Minute, cancel)
				req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, strings.NewReader("hello"))
				require.NoError(t, err)
				resp, err := client.Do(req)
				if err == nil {
					_, err = io.Copy(io.Discard, resp.Body)
					resp.Body.Close()
				}
				assert.ErrorIs(t, err, context.Canceled)
				synctest.Wait()
				assert.Equal(t, 1, s.Stats().Arrived)
				assert.Zero(t, s.Stats().InFlight)
			})
		})
	}
}

// A resetting server resets TLS over HTTP/1.1 too, by closing what is below it.
func TestHandlerEndsATLSConnection(t *testing.T) {
	s := &sturdytest.Server{Outages: []sturdytest.Outage{{Answer: sturdytest.ConnReset()}}}
	server := httptest.NewTLSServer(s)
	defer server.Close()
	client := server.Client()
	client.Transport.(*http.Transport).TLSNextProto = map[string]func(string, *tls.Conn) http.RoundTripper{}
	defer client.CloseIdleConnections()
	_, _, err := send(t, client, server.URL, "hello")
	require.Error(t, err)
	assert.ErrorIs(t, err, syscall.ECONNRESET)
	var oe *net.OpError
	assert.ErrorAs(t, err, &oe)
}

func TestHandlerAnswersEarlyAndReadsOn(t *testing.T) {
	settings := func() *sturdytest.Server {
		return &sturdytest.Server{Outages: []sturdytest.Outage{{Answer: sturdytest.Status(503).Early()}}}
	}
	overHTTP(t, settings, func(t *testing.T, s *sturdytest.Server, url string, client *http.Client) {
		resp, _, err := send(t, client, url, strings.Repeat("x", 1<<20))
		if err == nil { // over HTTP/1.1 the client may still be writing when the server closes
			assert.Equal(t, 503, resp.StatusCode)
		}
		eventually(t, "nothing is in flight", func() bool { return s.Stats().Arrived > 0 && s.Stats().InFlight == 0 })
	})
}

func TestHandlerReportsSettingsThatMakeNoSense(t *testing.T) {
	overHTTP(t, func() *sturdytest.Server { return &sturdytest.Server{Lie: -1} }, func(t *testing.T, s *sturdytest.Server, url string, client *http.Client) {
		resp, body, err := send(t, client, url, "")
		require.NoError(t, err)
		assert.Equal(t, 500, resp.StatusCode)
		assert.Equal(t, "sturdytest: Server.Lie is negative: -1\n", body)
	})
}

func TestHandlerCountsAllOfManyAtOnce(t *testing.T) {
	settings := func() *sturdytest.Server {
		return &sturdytest.Server{Limits: []sturdytest.Limit{{Rate: 100, Per: time.Hour, Window: true}}}
	}
	overHTTP(t, settings, func(t *testing.T, s *sturdytest.Server, url string, client *http.Client) {
		var wg sync.WaitGroup
		for range 20 {
			wg.Go(func() {
				for range 10 {
					_, _, err := send(t, client, url, tellMe)
					assert.NoError(t, err)
				}
			})
		}
		wg.Wait()
		assert.Equal(t, sturdytest.Counts{Arrived: 200, OK: 100, Refused: 100, Tokens: 100 * (9 + 15)}, s.Stats().Counts)
	})
}
