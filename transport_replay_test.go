package sturdy_test

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
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

// An upload is a body of which net/http knows nothing but how to read it.
type upload struct {
	io.Reader
	close  func() error
	closed chan struct{}
	closes atomic.Int32
}

func newUpload(r io.Reader) *upload {
	u := &upload{Reader: r, closed: make(chan struct{}), close: func() error { return nil }}
	if c, ok := r.(io.Closer); ok {
		u.close = c.Close
	}
	return u
}

func (u *upload) Close() error {
	if u.closes.Add(1) == 1 {
		close(u.closed)
	}
	return u.close()
}

// sends returns a request with this body, which can be had only once.
func (s *realServer) sends(method string, body io.ReadCloser, length int) *http.Request {
	req := s.request(method, "")
	req.Body, req.ContentLength = body, int64(length)
	return req
}

// keeping answers with status when it has read the whole body, which it keeps.
func keeping(got *[]string, status int) http.HandlerFunc {
	var mu sync.Mutex
	return func(w http.ResponseWriter, r *http.Request) {
		b, err := io.ReadAll(r.Body)
		if err != nil {
			panic(http.ErrAbortHandler)
		}
		mu.Lock()
		defer mu.Unlock()
		*got = append(*got, string(b))
		w.WriteHeader(status)
	}
}

// early answers before it has read the body.
func early(status int) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if r.ProtoMajor == 1 {
			_ = http.NewResponseController(w).EnableFullDuplex()
		}
		w.WriteHeader(status)
	}
}

// dropping breaks the connection, or the stream, before it has read the body.
func dropping(w http.ResponseWriter, r *http.Request) {
	r.Body = http.NoBody
	resetting(w, r)
}

func TestABodyWithoutGetBodyIsSentAgain(t *testing.T) {
	t.Parallel()
	body := strings.Repeat("0123456789abcdef", 4<<10)
	overBoth(t, func(t *testing.T, p protocol) {
		for name, row := range map[string]struct {
			method string
			first  http.HandlerFunc
		}{
			"after a 503":            {http.MethodPost, answer(503, "")},
			"after an early 503":     {http.MethodPut, early(503)},
			"after an early 429":     {http.MethodPut, early(429)},
			"after a reset":          {http.MethodPut, resetting},
			"after a reset, unread":  {http.MethodPut, dropping},
			"after a 503, with flow": {http.MethodPost, answer(503, strings.Repeat("x", 100<<10))},
		} {
			t.Run(name, func(t *testing.T) {
				var got []string
				s := p.serve(t, inTurn(row.first, keeping(&got, 200)))
				u := newUpload(strings.NewReader(body))
				o := s.do(s.client(&sturdy.Transport{}), s.sends(row.method, u, len(body)))
				require.NoError(t, o.failure)
				require.Len(t, got, 1)
				assert.True(t, body == got[0], "%d bytes", len(got[0]))
				await(t, u.closed)
				assert.EqualValues(t, 1, u.closes.Load())
			})
		}
		t.Run("by many at once", func(t *testing.T) {
			var n atomic.Int64
			s := p.serve(t, func(w http.ResponseWriter, r *http.Request) {
				if n.Add(1)%2 == 0 {
					w.WriteHeader(503)
					return
				}
				b, err := io.ReadAll(r.Body)
				assert.NoError(t, err)
				_, _ = w.Write(b)
			})
			c := s.client(&sturdy.Transport{Retry: sturdy.Retry{Attempts: 100, Budget: &sturdy.Budget{Size: -1}}, Breaker: sturdy.Breaker{Failures: -1, Ratio: -1}})
			var calls sync.WaitGroup
			for i := range 100 {
				calls.Go(func() {
					body := strings.Repeat(string(rune('a'+i%26)), 1000+i)
					u := newUpload(strings.NewReader(body))
					o := s.do(c, s.sends(http.MethodPut, u, len(body)))
					assert.NoError(t, o.failure)
					assert.True(t, body == o.body, "%d bytes of %d", len(o.body), len(body))
					assert.EqualValues(t, 1, u.closes.Load())
				})
			}
			calls.Wait()
		})
	})
}

func TestABodyThatIsLongerThanIsKeptIsSentOnce(t *testing.T) {
	t.Parallel()
	overBoth(t, func(t *testing.T, p protocol) {
		s := p.serve(t, inTurn(answer(503, "first"), fine))
		u := newUpload(bytes.NewReader(make([]byte, 64<<10+1)))
		o := s.do(s.client(&sturdy.Transport{}), s.sends(http.MethodPut, u, 64<<10+1))
		require.NoError(t, o.err)
		assert.Equal(t, "first", o.body)
		assert.Len(t, s.seen(), 1)
	})
}

func TestAPipeIsSentAsItIsWritten(t *testing.T) {
	t.Parallel()
	overBoth(t, func(t *testing.T, p protocol) {
		var got []string
		wanted := make(chan struct{}, 1)
		s := p.serve(t, inTurn(early(503), func(w http.ResponseWriter, r *http.Request) {
			wanted <- struct{}{}
			first := make([]byte, 5)
			_, err := io.ReadFull(r.Body, first)
			assert.NoError(t, err)
			wanted <- struct{}{}
			rest, err := io.ReadAll(r.Body)
			assert.NoError(t, err)
			got = append(got, string(first)+string(rest))
		}))
		pr, pw := io.Pipe()
		go func() {
			for _, part := range []string{"first", "second"} { // each only when the second attempt waits for it
				<-wanted
				_, _ = io.WriteString(pw, part)
			}
			pw.Close()
		}()
		u := newUpload(pr)
		o := s.do(s.client(&sturdy.Transport{}), s.sends(http.MethodPost, u, len("firstsecond")))
		require.NoError(t, o.failure)
		assert.Equal(t, []string{"firstsecond"}, got)
		await(t, u.closed)
	})
}

func TestWithExpectContinueABodyIsReadWhenItIsWanted(t *testing.T) {
	t.Parallel()
	overBoth(t, func(t *testing.T, p protocol) {
		var got []string
		s := p.serve(t, inTurn(early(503), keeping(&got, 200)))
		var reads atomic.Int32
		body := strings.NewReader("wanted")
		u := newUpload(readerFunc(func(p []byte) (int, error) {
			reads.Add(1)
			assert.Len(t, s.seen(), 2, "read for the server that wants it")
			return body.Read(p)
		}))
		s.base.ExpectContinueTimeout = time.Hour
		req := s.sends(http.MethodPost, u, len("wanted"))
		req.Header.Set("Expect", "100-continue")
		o := s.do(s.client(&sturdy.Transport{}), req)
		require.NoError(t, o.failure)
		assert.Equal(t, []string{"wanted"}, got)
		assert.NotZero(t, reads.Load())
	})
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

func TestABodyThatNeverComesHoldsNobody(t *testing.T) {
	t.Parallel()
	overBoth(t, func(t *testing.T, p protocol) {
		for name, row := range map[string]struct {
			server http.HandlerFunc
			sent   int
			status int
		}{
			"when the connection breaks": {dropping, 3, 0},
			"when it is too large":       {early(413), 1, 413},
			"when it is refused":         {early(503), 3, 503},
		} {
			t.Run(name, func(t *testing.T) {
				if p == 1 && row.status == 0 {
					t.Skip("net/http itself waits for the body here")
				}
				s := p.serve(t, row.server)
				pr, pw := io.Pipe()
				defer pw.Close()
				u := newUpload(pr)
				o := s.do(s.client(&sturdy.Transport{Retry: sturdy.Retry{Attempts: 3}}), s.sends(http.MethodPut, u, 10))
				assert.Equal(t, row.status, o.status())
				require.Error(t, o.failure)
				assert.Len(t, s.seen(), row.sent)
				if p == 1 {
					pw.Close() // net/http closes the body when its read of it is over
				}
				await(t, u.closed)
				assert.EqualValues(t, 1, u.closes.Load())
			})
		}
	})
}

// resending is a base that sends again by itself, and cannot connect then.
type resending struct{ *http.Transport }

func (r resending) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := r.Transport.RoundTrip(req)
	if err != nil {
		return nil, &net.OpError{Op: "dial", Net: "tcp", Err: syscall.ECONNREFUSED}
	}
	return resp, nil
}

func TestAPostThatABaseHasSentBeforeIsNotSentAgain(t *testing.T) {
	t.Parallel()
	overBoth(t, func(t *testing.T, p protocol) {
		s := p.serve(t, resetting)
		for name, body := range map[string]io.Reader{
			"in memory":         strings.NewReader("once"),
			"with GetBody":      newUpload(strings.NewReader("once")),
			"of unknown length": struct{ io.Reader }{strings.NewReader("once")},
			"kept":              newUpload(strings.NewReader("once")),
		} {
			req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.url, body)
			require.NoError(t, err)
			switch name {
			case "with GetBody":
				req.ContentLength = 4
				req.GetBody = func() (io.ReadCloser, error) { return newUpload(strings.NewReader("once")), nil }
			case "kept":
				req.ContentLength = 4
			}
			before := len(s.seen())
			o := s.do(&http.Client{Transport: &sturdy.Transport{Base: resending{s.base}}}, req)
			require.ErrorIs(t, o.err, syscall.ECONNREFUSED)
			assert.Len(t, s.seen(), before+1, name)
		}
	})
}

func TestAPostThatCouldNotConnectIsSentAgain(t *testing.T) {
	t.Parallel()
	overBoth(t, func(t *testing.T, p protocol) {
		for name, body := range map[string]func() io.ReadCloser{
			"in memory":    func() io.ReadCloser { return io.NopCloser(strings.NewReader("body")) },
			"with GetBody": func() io.ReadCloser { return newUpload(strings.NewReader("body")) },
			"kept":         nil,
		} {
			var got []string
			s := p.serve(t, keeping(&got, 200))
			dial := s.base.DialContext
			var dials atomic.Int32
			s.base.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
				if dials.Add(1) == 1 {
					return nil, &net.OpError{Op: "dial", Net: "tcp", Err: syscall.ECONNREFUSED}
				}
				return dial(ctx, network, addr)
			}
			req := s.sends(http.MethodPost, newUpload(strings.NewReader("body")), 4)
			if body != nil {
				req.Body = body()
				req.GetBody = func() (io.ReadCloser, error) { return body(), nil }
			}
			o := s.do(s.client(&sturdy.Transport{}), req)
			require.NoError(t, o.failure, name)
			assert.Equal(t, []string{"body"}, got, name)
		}
	})
}

// counting counts what is written to a connection.
type counting struct {
	net.Conn
	writes *atomic.Int32
}

func (c counting) Write(p []byte) (int, error) {
	c.writes.Add(1)
	return c.Conn.Write(p)
}

func TestAPostInMemoryIsSentInOnePiece(t *testing.T) {
	t.Parallel()
	s := protocol(1).serve(t, fine)
	dial := s.base.DialContext
	var writes atomic.Int32
	s.base.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := dial(ctx, network, addr)
		return counting{conn, &writes}, err
	}
	o := s.do(s.client(&sturdy.Transport{}), s.request(http.MethodPost, "body"))
	require.NoError(t, o.failure)
	assert.EqualValues(t, 1, writes.Load())
}
