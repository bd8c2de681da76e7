package sturdy

import (
	"bytes"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// plainBody is a body that net/http knows nothing of.
type plainBody struct{ io.Reader }

func (plainBody) Close() error { return nil }

func TestAPostIsUnsentOnlyIfItsBodyWasNotRead(t *testing.T) {
	dialed := &net.OpError{Op: "dial", Net: "tcp", Err: errors.New("refused")}
	const text = "payload"
	replayed := func(req *http.Request, body func() io.ReadCloser) {
		req.GetBody = func() (io.ReadCloser, error) { return body(), nil }
		req.Body, _ = req.GetBody()
	}
	for name, request := range map[string]func(*testing.T) *http.Request{
		"bytes.Reader": func(t *testing.T) *http.Request {
			return newRequest(t, http.MethodPost, "https://api.example.com", bytes.NewReader([]byte(text)))
		},
		"bytes.Buffer": func(t *testing.T) *http.Request {
			return newRequest(t, http.MethodPost, "https://api.example.com", bytes.NewBufferString(text))
		},
		"strings.Reader": func(t *testing.T) *http.Request { return post(t, text) },
		"strings.Reader of unknown length": func(t *testing.T) *http.Request {
			req := post(t, text)
			req.ContentLength = -1
			return req
		},
		"with GetBody": func(t *testing.T) *http.Request {
			req := post(t, text)
			replayed(req, func() io.ReadCloser { return plainBody{strings.NewReader(text)} })
			return req
		},
		"with GetBody, in a NopCloser": func(t *testing.T) *http.Request {
			req := post(t, text)
			replayed(req, func() io.ReadCloser { return io.NopCloser(plainBody{strings.NewReader(text)}) })
			return req
		},
		"with GetBody, first in memory": func(t *testing.T) *http.Request {
			req := post(t, text)
			req.GetBody = func() (io.ReadCloser, error) { return plainBody{strings.NewReader(text)}, nil }
			return req
		},
		"without GetBody": func(t *testing.T) *http.Request {
			req := post(t, text)
			req.Body, req.GetBody = plainBody{strings.NewReader(text)}, nil
			return req
		},
	} {
		for _, row := range []struct {
			name string
			read []int // bytes, of each attempt's body
			sent int
		}{
			{"not read", []int{0, 0, 0}, 3},
			{"a byte was read", []int{1}, 1},
			{"all was read", []int{len(text) + 1}, 1},
			{"a byte was read of the second attempt's", []int{0, 1}, 2},
			{"all was read of the third attempt's", []int{0, 0, len(text) + 1}, 3},
		} {
			t.Run(name+", "+row.name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					sent := 0
					r := &Retry{Attempts: 4, Base: baseFunc(func(req *http.Request) (*http.Response, error) {
						if sent == len(row.read) {
							closeBody(req)
							return status(200)(req)
						}
						_, _ = io.ReadFull(req.Body, make([]byte, row.read[sent]))
						closeBody(req)
						sent++
						return nil, dialed
					})}
					resp, err := r.RoundTrip(request(t))
					assert.Equal(t, row.sent, sent)
					if row.read[len(row.read)-1] > 0 {
						require.ErrorIs(t, err, dialed)
						return
					}
					require.NoError(t, err)
					assert.Equal(t, 200, resp.StatusCode)
				})
			})
		}
	}
}

func TestWhetherABodyIsReadMattersOnlyWhereActingTwiceDoesHarm(t *testing.T) {
	dialed := &net.OpError{Op: "dial", Net: "tcp", Err: errors.New("refused")}
	for name, row := range map[string]struct {
		change func(*http.Request)
		retry  *Retry
	}{
		"PUT":           {change: func(req *http.Request) { req.Method = http.MethodPut }},
		"a key":         {change: func(req *http.Request) { req.Header.Set("Idempotency-Key", "1") }},
		"a key of ours": {retry: &Retry{IdempotencyKey: true}},
		"ReplayUnsafe":  {retry: &Retry{ReplayUnsafe: true}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				body := plainBody{strings.NewReader("x")}
				req := post(t, "x")
				req.Body = body
				if row.change != nil {
					row.change(req)
				}
				r := row.retry
				if r == nil {
					r = new(Retry)
				}
				first := true
				r.Base = baseFunc(func(req *http.Request) (*http.Response, error) {
					if first {
						assert.Equal(t, body, req.Body, "it is not wrapped")
					}
					_, _ = io.Copy(io.Discard, req.Body)
					closeBody(req)
					if first {
						first = false
						return nil, dialed
					}
					return status(200)(req)
				})
				resp, err := r.RoundTrip(req)
				require.NoError(t, err)
				assert.Equal(t, 200, resp.StatusCode)
			})
		})
	}
}

func TestABodyInMemoryIsSentAsItIs(t *testing.T) {
	for name, body := range map[string]io.Reader{
		"bytes.Reader":   bytes.NewReader([]byte("x")),
		"bytes.Buffer":   bytes.NewBufferString("x"),
		"strings.Reader": strings.NewReader("x"),
	} {
		req := newRequest(t, http.MethodPost, "https://api.example.com", body)
		r := &Retry{Base: baseFunc(func(sent *http.Request) (*http.Response, error) {
			assert.Equal(t, req.Body, sent.Body, name)
			return rtFunc(status(200)).RoundTrip(sent)
		})}
		_, err := r.RoundTrip(req)
		require.NoError(t, err)
	}
}

func TestAPostCostsNoMoreAllocationsThanAGet(t *testing.T) {
	count := func(req *http.Request) float64 {
		r := &Retry{Base: okBase{}}
		return testing.AllocsPerRun(1000, func() {
			if _, err := r.RoundTrip(req); err != nil {
				t.Fatal(err)
			}
		})
	}
	assert.Equal(t, count(get(t)), count(post(t, "x")))
}
