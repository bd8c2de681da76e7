package sturdy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// TestMain fails the run if a test leaves a goroutine behind.
func TestMain(m *testing.M) {
	code := m.Run()
	http.DefaultClient.CloseIdleConnections()
	if code == 0 {
		deadline := time.Now().Add(time.Minute)
		for runtime.NumGoroutine() > 2 && time.Now().Before(deadline) {
			runtime.Gosched()
		}
		if n := runtime.NumGoroutine(); n > 2 {
			stacks := make([]byte, 1<<20)
			fmt.Printf("%d goroutines are left:\n%s\n", n, stacks[:runtime.Stack(stacks, true)])
			code = 1
		}
	}
	os.Exit(code)
}

// rtFunc is a base made of a function. The function need not care for the
// request's body: it is read and closed first, as a transport does.
type rtFunc func(*http.Request) (*http.Response, error)

func (f rtFunc) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.Body != nil {
		_, _ = io.Copy(io.Discard, req.Body)
		req.Body.Close()
	}
	return f(req)
}

// steps is a base that answers by a script, the last step for ever, and notes
// when it was asked.
type steps struct {
	mu    sync.Mutex
	steps []func(*http.Request) (*http.Response, error)
	sent  []time.Duration
	began time.Time
}

func script(all ...func(*http.Request) (*http.Response, error)) *steps {
	return &steps{steps: all, began: time.Now()}
}

func (s *steps) RoundTrip(req *http.Request) (*http.Response, error) {
	s.mu.Lock()
	step := s.steps[min(len(s.sent), len(s.steps)-1)]
	s.sent = append(s.sent, time.Since(s.began))
	s.mu.Unlock()
	return rtFunc(step).RoundTrip(req)
}

func (s *steps) times() []time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]time.Duration(nil), s.sent...)
}

// wholeSeconds are times without the jitter of less than a second.
func wholeSeconds(times []time.Duration) []time.Duration {
	whole := make([]time.Duration, len(times))
	for i, t := range times {
		whole[i] = t.Truncate(time.Second)
	}
	return whole
}

// status is a step that answers with a status and headers, given in pairs.
func status(code int, headers ...string) func(*http.Request) (*http.Response, error) {
	return func(req *http.Request) (*http.Response, error) {
		resp := answer(req, code, fmt.Sprintf(`{"error":{"message":"status %d"}}`, code))
		for i := 0; i < len(headers); i += 2 {
			resp.Header.Set(headers[i], headers[i+1])
		}
		return resp, nil
	}
}

func answer(req *http.Request, code int, body string) *http.Response {
	return &http.Response{
		StatusCode: code, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Header: http.Header{},
		Body: io.NopCloser(strings.NewReader(body)), ContentLength: int64(len(body)), Request: req,
	}
}

// fails is a step that returns an error.
func fails(err error) func(*http.Request) (*http.Response, error) {
	return func(*http.Request) (*http.Response, error) { return nil, err }
}

// hangs is a step that answers nothing until the request is cancelled.
func hangs(req *http.Request) (*http.Response, error) {
	select {
	case <-req.Context().Done():
		return nil, context.Cause(req.Context())
	case <-cancelled(req):
		return nil, errors.New("net/http: request canceled")
	}
}

// after is a step that takes its time.
func after(d time.Duration, step func(*http.Request) (*http.Response, error)) func(*http.Request) (*http.Response, error) {
	return func(req *http.Request) (*http.Response, error) {
		if err := sleep(req, d); err != nil {
			return nil, err
		}
		return step(req)
	}
}

var errReset = fmt.Errorf("read tcp: %w", syscall.ECONNRESET)

func get(t testing.TB) *http.Request {
	return newRequest(t, http.MethodGet, "https://api.example.com/v1/models", http.NoBody)
}

func post(t testing.TB, body string) *http.Request {
	return newRequest(t, http.MethodPost, "https://api.example.com/v1/chat", strings.NewReader(body))
}

func newRequest(t testing.TB, method, url string, body io.Reader) *http.Request {
	req, err := http.NewRequestWithContext(t.Context(), method, url, body)
	if err != nil {
		panic(err)
	}
	return req
}

// trackedBody is a request or response body that counts what is done to it.
type trackedBody struct {
	io.Reader
	mu     sync.Mutex
	closed int
}

func (b *trackedBody) Close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed++
	return nil
}

func (b *trackedBody) closes() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.closed
}

// observed collects events.
type observed struct {
	mu     sync.Mutex
	events []Event
}

func (o *observed) see(_ context.Context, ev Event) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.events = append(o.events, ev)
}

func (o *observed) kinds() []EventKind {
	o.mu.Lock()
	defer o.mu.Unlock()
	kinds := make([]EventKind, len(o.events))
	for i, ev := range o.events {
		kinds[i] = ev.Kind
	}
	return kinds
}

// telling is a step that answers with a status and a body.
func telling(code int, body string) func(*http.Request) (*http.Response, error) {
	return func(req *http.Request) (*http.Response, error) { return answer(req, code, body), nil }
}
