package sturdytest_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/sturdyhttp/sturdy/sturdytest"
)

// shape is what a client can tell of a response and its body.
type shape struct {
	Status           string
	Proto            string
	Header           http.Header
	ContentLength    int64
	TransferEncoding []string
	NoBody           bool
	Body             string
	LastRead         int   // of the read that brought the end
	BodyErr          error // of that read
	AfterEnd         error
	AfterClose       string
}

func shapeOf(t *testing.T, rt http.RoundTripper, method, url string) shape {
	t.Helper()
	req, err := http.NewRequest(method, url, nil)
	require.NoError(t, err)
	req.Header.Set("Accept-Encoding", "identity")
	resp, err := rt.RoundTrip(req)
	require.NoError(t, err)
	require.NotNil(t, resp.Header)
	require.NotNil(t, resp.Body)
	assert.Same(t, req, resp.Request)
	resp.Header.Del("Date")
	s := shape{
		Status:           resp.Status,
		Proto:            resp.Proto,
		Header:           resp.Header,
		ContentLength:    resp.ContentLength,
		TransferEncoding: resp.TransferEncoding,
		NoBody:           resp.Body == http.NoBody,
	}
	buf := make([]byte, 64)
	for s.BodyErr == nil {
		s.LastRead, s.BodyErr = resp.Body.Read(buf)
		s.Body += string(buf[:s.LastRead])
	}
	_, s.AfterEnd = resp.Body.Read(buf)
	assert.NoError(t, resp.Body.Close())
	if _, err = resp.Body.Read(buf); err != nil {
		s.AfterClose = err.Error()
	}
	return s
}

func TestResponseIsLikeThatOfHTTPTransport(t *testing.T) {
	transport := new(http.Transport)
	defer transport.CloseIdleConnections()
	text := http.Header{"Content-Type": {"text/plain"}}
	for _, tc := range []struct {
		name   string
		method string
		step   sturdytest.Step
		serve  func(http.ResponseWriter)
	}{
		{"with body", "GET", sturdytest.Step{Body: "hello", Header: text}, func(w http.ResponseWriter) {
			io.WriteString(w, "hello")
		}},
		{"without body", "GET", sturdytest.Step{Status: 503, Header: text}, func(w http.ResponseWriter) {
			w.WriteHeader(503)
		}},
		{"204", "GET", sturdytest.Step{Status: 204, Header: text}, func(w http.ResponseWriter) {
			w.WriteHeader(204)
		}},
		{"304", "GET", sturdytest.Step{Status: 304, Body: "not sent"}, func(w http.ResponseWriter) {
			w.WriteHeader(304)
		}},
		{"HEAD", "HEAD", sturdytest.Step{Body: "hello", Header: text}, func(w http.ResponseWriter) {
			w.Header().Set("Content-Length", "5")
		}},
		{"of unknown length", "GET", sturdytest.Step{Body: "hello", BodyErr: io.EOF, Header: text}, func(w http.ResponseWriter) {
			io.WriteString(w, "hello")
			w.(http.Flusher).Flush()
			time.Sleep(10 * time.Millisecond) // so that the end comes alone
		}},
		{"cut short", "GET", sturdytest.Step{Body: "hello", Header: text}.ThenCut(), func(w http.ResponseWriter) {
			io.WriteString(w, "hello")
			w.(http.Flusher).Flush()
			panic(http.ErrAbortHandler)
		}},
		{"shorter than declared", "GET", sturdytest.Step{Body: "hello", Header: text}.With("Content-Length", "9"), func(w http.ResponseWriter) {
			w.Header().Set("Content-Length", "9")
			io.WriteString(w, "hello")
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Type", "text/plain")
				tc.serve(w)
			}))
			defer server.Close()
			want := shapeOf(t, transport, tc.method, server.URL)
			assert.Equal(t, want, shapeOf(t, sturdytest.Script(tc.step), tc.method, server.URL))
		})
	}
}

func TestBodyLongerThanDeclaredEndsEarly(t *testing.T) {
	s := shapeOf(t, sturdytest.Script(sturdytest.OK("hello").With("Content-Length", "3")), "GET", apiURL)
	assert.Equal(t, "hel", s.Body)
	assert.Equal(t, io.EOF, s.BodyErr)
}

func TestErrorsAreThoseOfHTTPTransport(t *testing.T) {
	transport := new(http.Transport)
	defer transport.CloseIdleConnections()
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		<-r.Context().Done()
	}))
	defer server.Close()
	canceled, cancel := context.WithCancelCause(t.Context())
	cancel(errors.New("because"))
	stop := make(chan struct{})
	for name, spoil := range map[string]func(*http.Request) *http.Request{
		"body too short": func(r *http.Request) *http.Request { r.ContentLength = 9; return r },
		"body too long":  func(r *http.Request) *http.Request { r.ContentLength = 2; return r },
		"no body":        func(r *http.Request) *http.Request { r.Body = nil; return r },
		"no URL":         func(r *http.Request) *http.Request { r.URL = nil; return r },
		"no header":      func(r *http.Request) *http.Request { r.Header = nil; return r },
		"canceled":       func(r *http.Request) *http.Request { return r.WithContext(canceled) },
		"canceled later": func(r *http.Request) *http.Request {
			ctx, cancel := context.WithCancelCause(t.Context())
			time.AfterFunc(10*time.Millisecond, func() { cancel(errors.New("because")) })
			return r.WithContext(ctx)
		},
		"Cancel": func(r *http.Request) *http.Request {
			r.Cancel = stop
			time.AfterFunc(10*time.Millisecond, func() { close(stop) })
			return r
		},
	} {
		t.Run(name, func(t *testing.T) {
			send := func(rt http.RoundTripper) error {
				req, err := http.NewRequest("POST", server.URL, strings.NewReader("hello"))
				require.NoError(t, err)
				req.GetBody = nil
				_, err = rt.RoundTrip(spoil(req))
				require.Error(t, err)
				return err
			}
			stop = make(chan struct{})
			want := send(transport)
			for strings.Contains(want.Error(), "use of closed network connection") {
				want = send(transport) // the one that reads was faster than the one that writes
			}
			stop = make(chan struct{})
			got := send(sturdytest.Script(sturdytest.Hang()))
			assert.Equal(t, want.Error(), got.Error())
		})
	}
}
