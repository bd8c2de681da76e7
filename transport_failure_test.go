package sturdy_test

import (
	"bytes"
	"context"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/sturdyhttp/sturdy"
)

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
			synctest.Test(t, func(t *testing.T) {
				s := p.serveInBubble(t, inTurn(hanging, fine))
				o := s.do(s.client(&sturdy.Transport{Timeout: timeout}), s.request(http.MethodGet, ""))
				require.NoError(t, o.failure)
				assert.Equal(t, "fine", o.body)
				assert.Len(t, s.seen(), 2)
			})
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
				synctest.Test(t, func(t *testing.T) {
					s := p.serveInBubble(t, hanging)
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
					assert.Len(t, s.seen(), row.times)
				})
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
				synctest.Test(t, func(t *testing.T) {
					s := p.serveInBubble(t, hanging)
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
			})
		}
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

func TestOfAThousandCallsToAServerThatResetsEveryThirdConnectionNoneIsLostOrSentTwice(t *testing.T) {
	t.Parallel()
	const calls = 1000
	type connKey struct{}
	var conns atomic.Int64
	var resets atomic.Int32
	s := &realServer{t: t, proto: 1}
	ts := s.prepare(func(w http.ResponseWriter, r *http.Request) {
		if n, _ := r.Context().Value(connKey{}).(int64); n%3 == 0 {
			resets.Add(1)
			resetting(w, r)
			return
		}
		body, _ := io.ReadAll(r.Body)
		_, _ = w.Write(body)
	})
	ts.Config.ConnContext = func(ctx context.Context, _ net.Conn) context.Context {
		return context.WithValue(ctx, connKey{}, conns.Add(1))
	}
	ts.Start()
	t.Cleanup(ts.Close)
	s.url, s.base = ts.URL, &http.Transport{MaxConnsPerHost: 200, MaxIdleConnsPerHost: 2} // so that there are always new ones
	client := s.client(&sturdy.Transport{
		Retry:   sturdy.Retry{Attempts: 50, Budget: &sturdy.Budget{Size: -1}},
		Breaker: sturdy.Breaker{Failures: -1, Ratio: -1},
	})
	kinds := []struct {
		method, key string
		safe        bool
	}{{"PUT", "", true}, {"POST", "", false}, {"POST", "k", true}, {"PATCH", "", false}}

	outcomes := make([]outcome, calls)
	var wg sync.WaitGroup
	for i := range calls {
		wg.Go(func() {
			kind, id := kinds[i%len(kinds)], fmt.Sprint(i)
			headers := []string{"X-Call", id}
			if kind.key != "" {
				headers = append(headers, "Idempotency-Key", kind.key+id)
			}
			outcomes[i] = s.do(client, s.request(kind.method, strings.Repeat(id, 1000), headers...))
		})
	}
	wg.Wait()

	arrived := map[string]int{}
	for _, a := range s.seen() {
		arrived[a.call]++
	}
	failed := 0
	for i, o := range outcomes {
		kind, id := kinds[i%len(kinds)], fmt.Sprint(i)
		switch {
		case o.failure == nil:
			assert.True(t, strings.Repeat(id, 1000) == o.body, "call %d got its own answer", i)
		case kind.safe:
			assert.NoError(t, o.failure, "call %d", i)
		default:
			failed++
			assert.ErrorIs(t, o.failure, sturdy.ErrConnection)
		}
		if !kind.safe {
			assert.Equal(t, 1, arrived[id], "call %d", i)
		}
	}
	assert.Positive(t, failed)
	assert.Greater(t, len(s.seen()), calls)
	t.Logf("%d requests over %d connections, %d calls not safe to repeat", len(s.seen()), s.opened.Load(), failed)

	assert.Eventually(t, func() bool {
		s.base.CloseIdleConnections()
		return s.opened.Load() == s.closed.Load()+resets.Load()
	}, guard, 10*time.Millisecond, "no connection is left")
}

func TestWhatReachedTheCallerIsNeverSentAgain(t *testing.T) {
	t.Parallel()
	overBoth(t, func(t *testing.T, p protocol) {
		s := p.serve(t, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "100")
			_, _ = io.WriteString(w, "the beginning")
			_ = http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		})
		resp, err := s.client(&sturdy.Transport{}).Do(s.request(http.MethodGet, ""))
		require.NoError(t, err)
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		require.Error(t, err)
		assert.Equal(t, "the beginning", string(body))
		assert.Len(t, s.seen(), 1)
	})
}

func TestAnAnswerHasItsRequestAndItsHistory(t *testing.T) {
	t.Parallel()
	overBoth(t, func(t *testing.T, p protocol) {
		for name, handler := range map[string]http.HandlerFunc{
			"with a body": answer(503, "busy"),
			"without":     answer(503, ""),
		} {
			t.Run(name, func(t *testing.T) {
				s := p.serve(t, handler)
				req := s.request(http.MethodPost, "x")
				client := s.client(&sturdy.Transport{Timeout: sturdy.Timeout{Header: time.Minute, Idle: time.Minute}})
				resp, err := client.Transport.RoundTrip(req)
				require.NoError(t, err)
				assert.Same(t, req, resp.Request)
				require.NoError(t, resp.Body.Close())
				require.NoError(t, resp.Request.Context().Err())

				client.Timeout = time.Minute
				o := s.do(client, s.request(http.MethodPost, "x"))
				var e *sturdy.Error
				require.ErrorAs(t, o.failure, &e)
				assert.Equal(t, 5, e.Attempts)
				assert.Len(t, e.Report().Attempts, 5)
				assert.Len(t, s.seen(), 10)
			})
		}
		t.Run("a success", func(t *testing.T) {
			s := p.serve(t, fine)
			req := s.request(http.MethodGet, "")
			resp, err := s.client(&sturdy.Transport{Timeout: sturdy.Timeout{Header: time.Minute}}).Transport.RoundTrip(req)
			require.NoError(t, err)
			assert.Same(t, req, resp.Request)
			_, err = io.Copy(io.Discard, resp.Body)
			require.NoError(t, err)
			require.NoError(t, resp.Body.Close())
			assert.NoError(t, resp.Request.Context().Err())
		})
	})
}
