package sturdytest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"reflect"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// A scene is a situation that a layer has to come through, in virtual time.
type scene struct {
	name  string
	steps []Step                                      // of the base
	end   func(*http.Request) (*http.Request, func()) // how the caller ends the request; nil means not at all
	read  func(io.ReadCloser)                         // what the caller does with the response's body; nil means it is read to its end and closed
}

var (
	errBase = &baseError{"the base's own error"}
	errLeft = errors.New("the user left")
)

// baseError is an error that a caller finds with errors.As.
type baseError struct{ text string }

func (e *baseError) Error() string { return e.text }

// long is more than a layer should keep, or read to its end for nobody.
var long = strings.Repeat("0123456789\r\n\x00\xff", 1<<14)

// scenes are all ways through a layer: the rules about what holds on every path
// look at each of them.
var scenes = []scene{
	{name: "an answer", steps: []Step{OK("{}").Forever()}},
	{name: "an answer without a body", steps: []Step{Status(204).Forever()}},
	{name: "an early answer", steps: []Step{OK("{}").Early().Forever()}},
	{name: "an answer that trickles", steps: []Step{OK("0123456789").Trickle(time.Second).Forever()}},
	{name: "an answer that is cut short", steps: []Step{OK("0123456789").ThenCut().Forever()}},
	{name: "an answer that is closed unread", steps: []Step{OK(long).Forever()}, read: closeUnread},
	{name: "an answer that is closed early", steps: []Step{OK(long).Forever()}, read: closeEarly},
	{name: "a refused request", steps: []Step{Status(400).Forever()}},
	{name: "an error", steps: []Step{{Err: errBase}, OK("{}").Forever()}},
	{name: "nothing but errors", steps: []Step{Step{Err: errBase}.Forever()}},
	{name: "a refused connection, then an answer", steps: []Step{ConnRefused(), OK("{}").Forever()}},
	{name: "a reset connection, then an answer", steps: []Step{ConnReset(), OK("{}").Forever()}},
	{name: "a 503, then an answer", steps: []Step{Status(503), OK("{}").Forever()}},
	{name: "a 503 with a long body, then an answer", steps: []Step{{Status: 503, Body: long}, OK("{}").Forever()}},
	{name: "a 503 that dribbles, then an answer", steps: []Step{Step{Status: 503, Body: long[:4000]}.Trickle(time.Second), OK("{}").Forever()}, read: closeEarly},
	{name: "a 503 that is cut short, then an answer", steps: []Step{Status(503).ThenCut(), OK("{}").Forever()}},
	{name: "an early 503, then an answer", steps: []Step{Status(503).Early(), OK("{}").Forever()}},
	{name: "a 503, then an error", steps: []Step{Status(503), Step{Err: errBase}.Forever()}},
	{name: "nothing but 503", steps: []Step{Status(503).Forever()}},
	{name: "a 429, then an answer", steps: []Step{RateLimited(time.Second), OK("{}").Forever()}},
	{name: "nothing but 429", steps: []Step{RateLimited(time.Second).Forever()}},
	{name: "a context that is done before", steps: []Step{OK("{}").Forever()}, end: endBefore},
	{name: "a context that ends before the answer", steps: []Step{Hang().Forever()}, end: endByCancel},
	{name: "a deadline before the answer", steps: []Step{Hang().Forever()}, end: endByDeadline},
	{name: "a Request.Cancel before the answer", steps: []Step{Hang().Forever()}, end: endByChannel},
	{name: "a context that ends while there is something to wait for", steps: []Step{RateLimited(time.Hour).Forever()}, end: endByCancel},
	{name: "a Request.Cancel while there is something to wait for", steps: []Step{RateLimited(time.Hour).Forever()}, end: endByChannel},
	{name: "a context that ends in the body", steps: []Step{OK("{").ThenStall().Forever()}, end: endByCancel},
	{name: "a panic", steps: []Step{Panic(errBase).Forever()}},
	{name: "a panic after a 503", steps: []Step{Status(503), Panic(errBase).Forever()}},
	{name: "a runtime.Goexit", steps: []Step{Goexit().Forever()}},
	{name: "a runtime.Goexit after a 503", steps: []Step{Status(503), Goexit().Forever()}},
}

// ends is when a caller gives up in a scene: before the time limits that a
// layer may have.
const ends = time.Second

func endBefore(req *http.Request) (*http.Request, func()) {
	ctx, cancel := context.WithCancelCause(req.Context())
	cancel(errLeft)
	return req.WithContext(ctx), func() {}
}

func endByCancel(req *http.Request) (*http.Request, func()) {
	ctx, cancel := context.WithCancel(req.Context())
	t := time.AfterFunc(ends, cancel)
	return req.WithContext(ctx), func() { t.Stop(); cancel() }
}

func endByCause(req *http.Request) (*http.Request, func()) {
	ctx, cancel := context.WithCancelCause(req.Context())
	t := time.AfterFunc(ends, func() { cancel(errLeft) })
	return req.WithContext(ctx), func() { t.Stop(); cancel(nil) }
}

func endByDeadline(req *http.Request) (*http.Request, func()) {
	ctx, cancel := context.WithTimeout(req.Context(), ends)
	return req.WithContext(ctx), cancel
}

func endByDeadlineCause(req *http.Request) (*http.Request, func()) {
	ctx, cancel := context.WithTimeoutCause(req.Context(), ends, errLeft)
	return req.WithContext(ctx), cancel
}

func endByChannel(req *http.Request) (*http.Request, func()) {
	c := make(chan struct{})
	t := time.AfterFunc(ends, func() { close(c) })
	req.Cancel = c
	return req, func() { t.Stop() }
}

func readAll(body io.ReadCloser) {
	_, _ = io.Copy(io.Discard, body)
	body.Close()
}

func closeUnread(body io.ReadCloser) { body.Close() }

func closeEarly(body io.ReadCloser) {
	_, _ = io.ReadFull(body, make([]byte, 3))
	body.Close()
}

// kinds are the requests that a scene is played with.
var kinds = []struct {
	name    string
	request func() *tracked
}{
	{"GET", func() *tracked { return newRequest(http.MethodGet, "") }},
	{"POST", func() *tracked { return newRequest(http.MethodPost, payload) }},
	{"POST without GetBody", func() *tracked { return newUpload(http.MethodPost, payload) }},
	{"PUT", func() *tracked { return newRequest(http.MethodPut, payload) }},
	{"PUT whose GetBody fails", func() *tracked {
		r := newRequest(http.MethodPut, payload)
		r.GetBody = func() (io.ReadCloser, error) { return nil, errors.New("the body is gone") }
		r.gone = true
		return r
	}},
	{"PUT without GetBody", func() *tracked { return newUpload(http.MethodPut, payload) }},
	{"POST of known length without GetBody", func() *tracked { return ofKnownLength(newUpload(http.MethodPost, payload)) }},
	{"PUT of known length without GetBody", func() *tracked { return ofKnownLength(newUpload(http.MethodPut, payload)) }},
}

func ofKnownLength(r *tracked) *tracked {
	r.ContentLength = int64(len(payload))
	return r
}

const (
	apiHost = "https://api.example.com"
	payload = "the whole body of the request"
)

// A tracked request is one whose caller notes what happens to it.
type tracked struct {
	*http.Request
	shallow *http.Request // what it was: the same pointers
	deep    *http.Request // what it was: the same values
	gone    bool          // the body cannot be had again, though there is a GetBody

	mu     sync.Mutex
	bodies []*sentBody // the first, and those of GetBody
}

type contextKey struct{}

// newRequest returns a request whose body, if it has one, can be had again.
func newRequest(method, body string) *tracked {
	r := newUpload(method, body)
	if body != "" {
		r.ContentLength = int64(len(body))
		r.GetBody = func() (io.ReadCloser, error) { return r.newBody(body), nil }
	}
	return r
}

// newUpload returns a request whose body can be had only once.
func newUpload(method, body string) *tracked {
	ctx := context.WithValue(context.Background(), contextKey{}, "a value")
	req, err := http.NewRequestWithContext(ctx, method, apiHost+"/v1/things?b=2&a=1#part", nil)
	if err != nil {
		panic(err)
	}
	req.Header = http.Header{"Accept": {"text/plain", "text/html"}, "x-lower": {"kept"}, "Authorization": {"Bearer secret"}}
	req.Trailer = http.Header{}
	r := &tracked{Request: req}
	if body != "" {
		req.Body = r.newBody(body)
		req.ContentLength = -1
	} else {
		req.Trailer = nil
	}
	return r
}

func (r *tracked) newBody(body string) *sentBody {
	b := &sentBody{r: strings.NewReader(body)}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.bodies = append(r.bodies, b)
	return b
}

// all returns the bodies so far.
func (r *tracked) all() []*sentBody {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]*sentBody(nil), r.bodies...)
}

// freeze takes down what the request is, before it is sent.
func (r *tracked) freeze() {
	shallow := *r.Request
	r.shallow, r.deep = &shallow, r.Clone(r.Context())
}

// changes returns what is different from when the request was frozen.
func (r *tracked) changes() (changed []string) {
	if r.Context() != r.shallow.Context() {
		changed = append(changed, "its context")
	}
	was, copied, is := reflect.ValueOf(*r.shallow), reflect.ValueOf(*r.deep), reflect.ValueOf(*r.Request)
	for i := range is.NumField() {
		field := is.Type().Field(i)
		if !field.IsExported() {
			continue
		}
		var same bool
		switch a, b := was.Field(i), is.Field(i); field.Type.Kind() {
		case reflect.Func:
			same = a.Pointer() == b.Pointer()
		case reflect.Map, reflect.Pointer, reflect.Slice:
			same = a.Pointer() == b.Pointer() && reflect.DeepEqual(copied.Field(i).Interface(), b.Interface())
		default:
			same = a.Equal(b)
		}
		if !same {
			changed = append(changed, fmt.Sprintf("%s, from %v to %v", field.Name, copied.Field(i), is.Field(i)))
		}
	}
	return changed
}

// A sentBody is a request's body that counts what is done to it.
type sentBody struct {
	mu     sync.Mutex
	r      io.Reader
	closed int
	late   int // reads after Close
}

func (b *sentBody) Read(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed > 0 {
		b.late++
		return 0, errReadOnClosed
	}
	return b.r.Read(p)
}

func (b *sentBody) Close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed++
	return nil
}

func (b *sentBody) counts() (closed, late int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.closed, b.late
}

// A base is a Player that looks at the requests too, as they arrive.
type base struct {
	*Player
	look func(*http.Request)
	idle int // calls of CloseIdleConnections
}

func (b *base) RoundTrip(req *http.Request) (*http.Response, error) {
	b.look(req)
	return b.Player.RoundTrip(req)
}

func (b *base) CloseIdleConnections() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.idle++
}

// An outcome is what one call of RoundTrip came to.
type outcome struct {
	resp   *http.Response
	err    error
	thrown any  // the value of a panic
	exited bool // by runtime.Goexit
	took   time.Duration
}

// send calls RoundTrip in a goroutine of its own, which may end in any way.
func send(rt http.RoundTripper, req *http.Request) outcome {
	var o outcome
	done := make(chan struct{})
	began := time.Now()
	go func() {
		defer close(done)
		returned := false
		defer func() {
			o.thrown = recover()
			o.exited = !returned && o.thrown == nil
			o.took = time.Since(began)
		}()
		o.resp, o.err = rt.RoundTrip(req) //nolint:bodyclose // the rules do
		returned = true
	}()
	<-done
	return o
}

// A played scene is what came of it.
type played struct {
	scene  scene
	name   string // of the scene and the kind of request
	req    *tracked
	base   *base
	early  []string // changes of the request that the base saw
	passed []*http.Request
	outcome
	body []byte // of the response, as far as it was read
}

// play plays every scene with every kind of request, each in a bubble of its
// own, and has the rules judge it.
func (c *contract) play(t *testing.T) {
	c.judged = make(map[string]*check)
	for _, r := range rules {
		c.judged[r.name] = &check{contract: c}
	}
	for _, s := range scenes {
		for _, k := range kinds {
			name := s.name + ", " + k.name
			for _, broken := range c.run(t, true, func(*check) {
				p := s.play(c.layer, k.request(), name)
				for _, r := range rules {
					if r.judge != nil {
						r.judge(c.judged[r.name], p)
					}
				}
			}) {
				c.judged[returns].errorf("%s: %s", name, broken)
			}
		}
	}
}

// play plays the scene, until whatever the layer has begun is over.
func (s scene) play(layer func(http.RoundTripper) http.RoundTripper, req *tracked, name string) *played {
	p := &played{scene: s, name: name, req: req, base: &base{Player: Script(s.steps...)}}
	stop := func() {}
	if s.end != nil {
		req.Request, stop = s.end(req.Request)
	}
	defer stop()
	req.freeze()
	p.base.look = func(sent *http.Request) {
		p.base.mu.Lock()
		defer p.base.mu.Unlock()
		p.early = append(p.early, req.changes()...)
		p.passed = append(p.passed, sent)
	}
	p.outcome = send(layer(p.base), req.Request)
	if p.resp != nil && p.resp.Body != nil {
		var seen bytes.Buffer
		read := s.read
		if read == nil {
			read = readAll
		}
		read(struct {
			io.Reader
			io.Closer
		}{io.TeeReader(p.resp.Body, &seen), p.resp.Body})
		p.body = seen.Bytes()
	}
	time.Sleep(time.Minute)
	synctest.Wait()
	return p
}
