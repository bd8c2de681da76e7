package sturdytest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing/synctest"
	"time"
)

// roundTripper is a base made of a function, which sees to the request's body
// itself.
type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(req *http.Request) (*http.Response, error) { return f(req) }

// reading is a base made of a function that need not see to the request's body.
func reading(f func(*http.Request) (*http.Response, error)) roundTripper {
	return func(req *http.Request) (*http.Response, error) {
		if req.Body != nil {
			_, _ = io.Copy(io.Discard, req.Body)
			req.Body.Close()
		}
		return f(req)
	}
}

// respond returns a response with a body of unknown length.
func respond(req *http.Request, status int, body io.ReadCloser) *http.Response {
	return &http.Response{
		Status: Step{Status: status}.status(), StatusCode: status, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: http.Header{}, Body: body, ContentLength: -1, Request: req,
	}
}

func text(s string) io.ReadCloser { return io.NopCloser(strings.NewReader(s)) }

// statuses are those that a layer may have ideas about, and some that do not
// exist.
var statuses = []int{
	200, 201, 204, 206, 299, 300, 301, 302, 303, 304, 307, 308, 400, 401, 402, 403, 404, 405, 407, 408, 409, 410, 412, 413, 417,
	418, 421, 422, 423, 424, 425, 426, 428, 429, 431, 451, 499, 500, 501, 502, 503, 504, 505, 507, 511, 520, 529, 599, 99, 600, 999,
}

// statusIsNoError lets a layer send again, and looks for the last answer.
func statusIsNoError(c *check) {
	for _, status := range statuses {
		for _, k := range kinds {
			var n atomic.Int32
			o := send(c.layer(reading(func(req *http.Request) (*http.Response, error) {
				return respond(req, status, text(fmt.Sprintf("answer %d", n.Add(1)))), nil
			})), k.request().Request)
			name := fmt.Sprintf("%d to a %s", status, k.name)
			if o.resp == nil {
				c.errorf("%s: it returns the error %v", name, o.err)
				continue
			}
			b, err := io.ReadAll(o.resp.Body)
			o.resp.Body.Close()
			if want := fmt.Sprintf("answer %d", n.Load()); o.resp.StatusCode != status || string(b) != want || err != nil {
				c.errorf("%s: it returns a %d, %q, %v instead of %q", name, o.resp.StatusCode, b, err, want)
			}
		}
	}
}

func redirectNotFollowed(c *check) {
	for _, status := range []int{301, 302, 303, 307, 308} {
		p := Script(Status(status).With("Location", "/elsewhere").Forever())
		o := send(c.layer(p), newRequest(http.MethodGet, "").Request)
		if o.resp == nil || o.resp.StatusCode != status || o.resp.Header.Get("Location") != "/elsewhere" {
			c.errorf("%d: it returns %s", status, o)
		}
		for _, r := range p.Requests() {
			if r.URL.Path == "/elsewhere" {
				c.errorf("%d: it sends a request to the Location", status)
			}
		}
	}
}

func cookiesUntouched(c *check) {
	p := Script(OK("{}").With("Set-Cookie", "a=1; Path=/").With("Set-Cookie", "b=2").Forever())
	rt := c.layer(p)
	for range 2 {
		o := send(rt, newRequest(http.MethodGet, "").Request)
		if o.resp == nil || len(o.resp.Header["Set-Cookie"]) != 2 {
			c.errorf("Set-Cookie does not reach the caller: it returns %s", o)
			return
		}
		readAll(o.resp.Body)
	}
	for _, r := range p.Requests() {
		if cookie := r.Header["Cookie"]; cookie != nil {
			c.errorf("it sends the cookies %q", cookie)
		}
	}
}

// String returns what came of RoundTrip in a few words.
func (o outcome) String() string {
	switch {
	case o.thrown != nil:
		return fmt.Sprintf("a panic: %v", o.thrown)
	case o.exited:
		return "runtime.Goexit"
	case o.err != nil:
		return fmt.Sprintf("the error %v", o.err)
	case o.resp == nil:
		return "nothing"
	}
	return fmt.Sprintf("a %d %v", o.resp.StatusCode, o.resp.Header)
}

// responseIntact looks at bodies that a layer may read ahead in, and at how they
// end.
func responseIntact(c *check) {
	for _, status := range []int{200, 400, 503} {
		for _, s := range []struct {
			name string
			step Step
		}{
			{"a short body", Step{Body: "short"}},
			{"a long body", Step{Body: long}},
			{"a trickling body", Step{Body: "0123456789"}.Trickle(100 * time.Millisecond)},
			{"a body that is cut short", Step{Body: long, BodyErr: io.ErrUnexpectedEOF}},
			{"a body that ends with an error", Step{Body: "short", BodyErr: errBase}},
			{"a body that is an error", Step{Body: "", BodyErr: errBase}},
		} {
			step := s.step.With("X-One", "1").With("X-One", "2")
			step.Status = status
			name := fmt.Sprintf("%d with %s", status, s.name)
			want, _ := Script(step).RoundTrip(newRequest(http.MethodGet, "").Request)
			o := send(c.layer(Script(step.Forever())), newRequest(http.MethodGet, "").Request)
			if o.resp == nil {
				if status == 200 {
					c.errorf("%s: it returns %s", name, o)
				}
				continue // the rule about statuses is another
			}
			compareResponses(c, name, want, o.resp)
		}
	}
}

// compareResponses reads both bodies, and compares all that a caller can see.
func compareResponses(c *check, name string, want, got *http.Response) {
	wantBody, wantErr := io.ReadAll(want.Body)
	want.Body.Close()
	gotBody, gotErr := io.ReadAll(got.Body)
	got.Body.Close()
	if !bytes.Equal(wantBody, gotBody) {
		c.errorf("%s: the body has %d bytes, %.60q, instead of %d, %.60q", name, len(gotBody), gotBody, len(wantBody), wantBody)
	}
	if (wantErr == nil) != (gotErr == nil) || wantErr != nil && gotErr.Error() != wantErr.Error() && !errors.Is(gotErr, wantErr) {
		c.errorf("%s: the body ends with %v instead of %v", name, gotErr, wantErr)
	}
	header := got.Header.Clone()
	maps.DeleteFunc(header, func(name string, _ []string) bool {
		_, theirs := want.Header[name]
		return !theirs // a layer may add to what the server says
	})
	for _, f := range []struct {
		name      string
		want, got any
	}{
		{"Status", want.Status, got.Status},
		{"StatusCode", want.StatusCode, got.StatusCode},
		{"Proto", want.Proto, got.Proto},
		{"ProtoMajor", want.ProtoMajor, got.ProtoMajor},
		{"ProtoMinor", want.ProtoMinor, got.ProtoMinor},
		{"Header", want.Header, header},
		{"ContentLength", want.ContentLength, got.ContentLength},
		{"TransferEncoding", want.TransferEncoding, got.TransferEncoding},
		{"Close", want.Close, got.Close},
		{"Uncompressed", want.Uncompressed, got.Uncompressed},
		{"Trailer", want.Trailer, got.Trailer},
		{"TLS != nil", want.TLS != nil, got.TLS != nil},
		{"Request != nil", want.Request != nil, got.Request != nil},
	} {
		if w, g := fmt.Sprint(f.want), fmt.Sprint(f.got); w != g {
			c.errorf("%s: %s is %s instead of %s", name, f.name, g, w)
		}
	}
}

const chunks = 30 // of a stream: one a second

// responseStreams has each chunk written only when the last one was read.
func responseStreams(c *check) {
	for _, status := range []int{200, 400} {
		r, w := io.Pipe()
		rt := c.layer(reading(func(req *http.Request) (*http.Response, error) {
			context.AfterFunc(req.Context(), func() { w.CloseWithError(context.Cause(req.Context())) })
			resp := respond(req, status, r)
			resp.Header.Set("Content-Type", "text/event-stream")
			return resp, nil
		}))
		limit := time.AfterFunc(time.Hour, func() { w.CloseWithError(errors.New("an hour is over")) })
		ctx, cancel := context.WithCancel(context.Background())
		o := send(rt, newRequest(http.MethodPost, payload).WithContext(ctx))
		if o.resp == nil {
			if status == 200 {
				c.errorf("it returns %s", o)
			}
			cancel()
			limit.Stop()
			continue // the rule about statuses is another
		}
		got := make([]byte, 5)
		for i := range chunks {
			want := fmt.Sprintf("%05d", i)
			go func() { _, _ = io.WriteString(w, want) }()
			began := time.Now()
			if _, err := io.ReadFull(o.resp.Body, got); err != nil || string(got) != want || time.Since(began) > time.Minute {
				c.errorf("%d: chunk %d comes as %q, %v after %v", status, i+1, got, err, time.Since(began))
				break
			}
			time.Sleep(time.Second)
		}
		w.Close()
		readAll(o.resp.Body)
		cancel()
		limit.Stop()
	}
}

// requestStreams has each chunk written only when the base has the last one.
func requestStreams(c *check) {
	r, w := io.Pipe()
	arrived := make(chan string)
	rt := c.layer(roundTripper(func(req *http.Request) (*http.Response, error) {
		defer req.Body.Close()
		buf := make([]byte, 5)
		for range chunks {
			if _, err := io.ReadFull(req.Body, buf); err != nil {
				return nil, err
			}
			arrived <- string(buf)
		}
		return respond(req, 200, text("")), nil
	}))
	req := newUpload(http.MethodPost, payload).Request
	req.Body = r
	go func() {
		defer w.Close()
		for i := range chunks {
			want := fmt.Sprintf("%05d", i)
			_, _ = io.WriteString(w, want)
			select {
			case got := <-arrived:
				if got != want {
					c.errorf("chunk %d arrives as %q", i+1, got)
				}
			case <-time.After(time.Minute):
				c.errorf("chunk %d was written, but does not arrive before the next one", i+1)
				return
			}
		}
	}()
	if o := send(rt, req); o.resp != nil {
		readAll(o.resp.Body)
	} else {
		c.errorf("it returns %s", o)
	}
}

// earlyAnswer has a base that reads the request's body while the caller has the
// answer already. An answer that a layer may send again for comes first: the
// bodies must not be mixed up.
func earlyAnswer(c *check) {
	for _, first := range []int{200, 503} {
		var mu sync.Mutex
		var uploads []string
		var n atomic.Int32
		rt := c.layer(roundTripper(func(req *http.Request) (*http.Response, error) {
			r, w := io.Pipe()
			go func() { // as a server that takes in what it has refused
				defer w.Close()
				defer req.Body.Close()
				var got []byte
				one := make([]byte, 1)
				for {
					time.Sleep(50 * time.Millisecond)
					_, err := io.ReadFull(req.Body, one)
					if err != nil {
						break
					}
					got = append(got, one...)
				}
				mu.Lock()
				defer mu.Unlock()
				uploads = append(uploads, string(got))
			}()
			if n.Add(1) == 1 {
				return respond(req, first, r), nil
			}
			return respond(req, 200, r), nil
		}))
		o := send(rt, newRequest(http.MethodPut, payload).Request)
		if o.resp == nil {
			if first == 200 {
				c.errorf("it returns %s", o)
			}
			continue
		}
		readAll(o.resp.Body)
		synctest.Wait()
		mu.Lock()
		for _, got := range uploads {
			if got != payload {
				c.errorf("an early %d: the base could read only %q of %q", first, got, payload)
			}
		}
		mu.Unlock()
	}
}

type readWriteCloser struct {
	io.Reader
	io.Writer
	io.Closer
}

func writerOf101(c *check) {
	var written bytes.Buffer
	rt := c.layer(reading(func(req *http.Request) (*http.Response, error) {
		resp := respond(req, http.StatusSwitchingProtocols, readWriteCloser{strings.NewReader("hello"), &written, io.NopCloser(nil)})
		resp.Header.Set("Upgrade", "echo")
		resp.Header.Set("Connection", "Upgrade")
		return resp, nil
	}))
	req := newRequest(http.MethodGet, "").Request
	req.Header.Set("Upgrade", "echo")
	req.Header.Set("Connection", "Upgrade")
	o := send(rt, req)
	if o.resp == nil {
		c.errorf("it returns %s", o)
		return
	}
	defer o.resp.Body.Close()
	w, ok := o.resp.Body.(io.Writer)
	if !ok {
		c.errorf("its body, a %T, is no io.Writer any more", o.resp.Body)
		return
	}
	_, _ = io.WriteString(w, "ping")
	if b, err := io.ReadAll(o.resp.Body); written.String() != "ping" || string(b) != "hello" || err != nil {
		c.errorf("%q was written instead of \"ping\", and %q, %v read instead of \"hello\"", &written, b, err)
	}
}

// Ways that a caller ends a request, and the error that http.Transport returns
// then.
var endings = []struct {
	name    string
	end     func(*http.Request) (*http.Request, func())
	want    error // nil for any
	timeout bool
}{
	{"a cancelled context", endByCancel, context.Canceled, false},
	{"a context cancelled with a cause", endByCause, errLeft, false},
	{"a deadline", endByDeadline, context.DeadlineExceeded, true},
	{"a deadline with a cause", endByDeadlineCause, errLeft, false},
	{"Request.Cancel", endByChannel, nil, false},
}

// soon is how long a request may go on after its end.
const soon = time.Second

// cancellation looks at requests that end while something is awaited: the base,
// or whatever a layer waits for after an answer that invites to wait.
func cancellation(c *check) {
	for _, wait := range []struct {
		name  string
		steps []Step
	}{
		{"while the base hangs", []Step{Hang().Forever()}},
		{"after a 503", []Step{Status(503).With("Retry-After", "60"), Hang().Forever()}},
		{"after a 429", []Step{RateLimited(time.Minute), Hang().Forever()}},
		{"after an error", []Step{ConnRefused().Times(20), Hang().Forever()}},
	} {
		for _, ending := range endings {
			for _, k := range kinds {
				name := fmt.Sprintf("%s, %s, %s", ending.name, wait.name, k.name)
				req, stop := ending.end(k.request().Request)
				o := send(c.layer(Script(wait.steps...)), req)
				if o.took > ends+soon {
					c.errorf("%s: it returns %v late", name, o.took-ends)
				}
				if o.took >= ends && o.resp == nil {
					isEnd(c, name, o.err, ending.want, ending.timeout)
				}
				if o.resp != nil {
					readAll(o.resp.Body)
				}
				stop()
			}
		}
	}
}

func isEnd(c *check, name string, err, want error, timeout bool) {
	if want != nil && !errors.Is(err, want) {
		c.errorf("%s: it returns %q, without %q", name, fmt.Sprint(err), want)
	}
	// http.Client asks the error itself, not those that it wraps.
	if e := (&url.Error{Err: err}); timeout && !e.Timeout() {
		c.errorf("%s: it returns %q, whose Timeout is not true", name, fmt.Sprint(err))
	}
}

func cancelledBefore(c *check) {
	for _, k := range kinds {
		p := Script(OK("{}").Forever())
		rt := c.layer(p)
		req, _ := endBefore(k.request().Request)
		o := send(rt, req)
		if o.err == nil || !errors.Is(o.err, errLeft) {
			c.errorf("%s: it returns %s instead of %v", k.name, o, errLeft)
		}
		if o.took > soon {
			c.errorf("%s: it returns after %v", k.name, o.took)
		}
	}
}

// cancelledBody looks at requests that end while the response's body is read:
// what came must not look like all of it.
func cancelledBody(c *check) {
	for _, ending := range endings {
		for _, k := range kinds {
			name := ending.name + ", " + k.name
			req, stop := ending.end(k.request().Request)
			o := send(c.layer(Script(OK("first").ThenStall().Forever())), req)
			if o.resp == nil {
				c.errorf("%s: it returns %s", name, o)
				continue
			}
			began := time.Now()
			b, err := io.ReadAll(o.resp.Body)
			switch took := o.took + time.Since(began); {
			case string(b) != "first" || err == nil:
				c.errorf("%s: the body ends as %q, %v", name, b, err)
			case took > ends+soon:
				c.errorf("%s: the body ends %v late", name, took-ends)
			default:
				isEnd(c, name, err, ending.want, false)
			}
			o.resp.Body.Close()
			stop()
		}
	}
}

// closeEndsRead closes a body from another goroutine, as callers do who give up
// a stream.
func closeEndsRead(c *check) {
	o := send(c.layer(Script(OK("first").ThenStall().Forever())), newRequest(http.MethodGet, "").Request)
	if o.resp == nil {
		c.errorf("it returns %s", o)
		return
	}
	began := time.Now()
	time.AfterFunc(ends, func() { o.resp.Body.Close() })
	limit := time.AfterFunc(time.Hour, func() { c.errorf("the read goes on") })
	defer limit.Stop()
	if b, err := io.ReadAll(o.resp.Body); string(b) != "first" || err == nil || time.Since(began) > ends+soon {
		c.errorf("the body ends as %q, %v, %v after it was closed", b, err, time.Since(began)-ends)
	}
}

// hostileBase has a base that breaks the contract itself. What a layer returns
// then is open, but that an error remains one, and a body what it is.
func hostileBase(c *check) {
	for _, status := range []int{200, 503} {
		for _, hostile := range []struct {
			name string
			base roundTripper
		}{
			{"neither response nor error", func(*http.Request) (*http.Response, error) { return nil, nil }}, //nolint:nilnil // that is hostile
			{"response and error", func(req *http.Request) (*http.Response, error) {
				return respond(req, status, text("body")), errBase
			}},
			{"error and a response without a body", func(req *http.Request) (*http.Response, error) {
				return respond(req, status, nil), errBase
			}},
			{"no body", func(req *http.Request) (*http.Response, error) { return respond(req, status, nil), nil }},
			{"no request", func(*http.Request) (*http.Response, error) { return respond(nil, status, text("body")), nil }},
			{"no header", func(req *http.Request) (*http.Response, error) {
				resp := respond(req, status, text("body"))
				resp.Header = nil
				return resp, nil
			}},
			{"empty reads", func(req *http.Request) (*http.Response, error) {
				return respond(req, status, io.NopCloser(&oddReader{empty: 50})), nil
			}},
			{"end of file with the last bytes", func(req *http.Request) (*http.Response, error) {
				return respond(req, status, io.NopCloser(&oddReader{last: io.EOF})), nil
			}},
			{"an error with the last bytes", func(req *http.Request) (*http.Response, error) {
				return respond(req, status, io.NopCloser(&oddReader{last: errBase})), nil
			}},
			{"a body that panics", func(req *http.Request) (*http.Response, error) {
				return respond(req, status, io.NopCloser(readerFunc(func([]byte) (int, error) { panic(errBase) }))), nil
			}},
			{"a body that fails to close", func(req *http.Request) (*http.Response, error) {
				return respond(req, status, failingCloser{strings.NewReader("body")}), nil
			}},
		} {
			name := fmt.Sprintf("%d, %s", status, hostile.name)
			o := send(c.layer(reading(hostile.base)), newRequest(http.MethodPut, payload).Request)
			is, err := hostile.base(newRequest(http.MethodPut, "").Request)
			switch {
			case o.thrown == errBase: // it read the body that panics
			case o.thrown != nil || o.exited || o.took >= time.Hour:
				c.errorf("%s: it comes to %s, after %v", name, o, o.took)
			case err != nil && !errors.Is(o.err, err):
				c.errorf("%s: it returns %s, without the base's error", name, o)
			case o.resp != nil && o.resp.Body != nil && is != nil && is.Body != nil:
				b, err := readGuarded(o.resp.Body)
				if !errors.Is(err, errBase) && (string(b) != "body" || err != nil) {
					c.errorf("%s: the body reads as %q, %v", name, b, err)
				}
			}
		}
	}
}

// readGuarded reads the body, and returns the base's panic as an error.
func readGuarded(body io.ReadCloser) (b []byte, err error) {
	defer body.Close()
	defer func() {
		if v := recover(); v == errBase {
			err = errBase
		} else if v != nil {
			panic(v)
		}
	}()
	return io.ReadAll(body)
}

// An oddReader reads "body", in a way that io.Reader allows but few expect.
type oddReader struct {
	empty int   // reads that bring nothing
	last  error // comes with the last bytes
	done  bool
}

func (r *oddReader) Read(p []byte) (int, error) {
	switch {
	case r.done:
		return 0, io.EOF
	case r.empty > 0:
		r.empty--
		return 0, nil
	}
	r.done = true
	return copy(p, "body"), r.last
}

type failingCloser struct{ io.Reader }

func (failingCloser) Close() error { return errBase }

// usableAfter lets a layer meet what may leave something behind in it, and then
// wants an ordinary request to succeed.
func usableAfter(c *check) {
	for _, s := range []struct {
		name string
		step Step
		end  func(*http.Request) (*http.Request, func())
		read func(io.ReadCloser)
	}{
		{"panics", Panic(errBase), nil, readAll},
		{"runtime.Goexit", Goexit(), nil, readAll},
		{"errors", Step{Err: errBase}, nil, readAll},
		{"failures", Status(503), nil, readAll},
		{"refusals", RateLimited(time.Second), nil, readAll},
		{"cancellations", Hang(), endByCancel, readAll},
		{"deadlines", Hang(), endByDeadline, readAll},
		{"streams that were closed early", OK(long), nil, closeEarly},
		{"streams that were cancelled", OK("{").ThenStall(), endByCancel, readAll},
	} {
		var healthy atomic.Bool
		bad, good := Script(s.step.Forever()), Script(OK("{}").Forever())
		rt := c.layer(roundTripper(func(req *http.Request) (*http.Response, error) {
			if healthy.Load() {
				return good.RoundTrip(req)
			}
			return bad.RoundTrip(req)
		}))
		for range 20 {
			req, stop := newRequest(http.MethodPost, payload).Request, func() {}
			if s.end != nil {
				req, stop = s.end(req)
			}
			if o := send(rt, req); o.resp != nil {
				s.read(o.resp.Body)
			}
			stop()
		}
		healthy.Store(true)
		time.Sleep(time.Hour) // a circuit may have opened
		ctx, cancel := context.WithTimeout(context.Background(), time.Hour)
		o := send(rt, newRequest(http.MethodPost, payload).WithContext(ctx))
		if o.resp == nil || o.resp.StatusCode != 200 {
			c.errorf("after 20 %s, and an hour, it returns %s", s.name, o)
		} else {
			readAll(o.resp.Body)
		}
		cancel()
	}
}

// concurrentUse gives each request an answer of its own.
func concurrentUse(c *check) {
	rt := c.layer(roundTripper(func(req *http.Request) (*http.Response, error) {
		var body []byte
		if req.Body != nil {
			body, _ = io.ReadAll(req.Body)
			req.Body.Close()
		}
		runtime.Gosched()
		return respond(req, 200, text(req.Header.Get("X-Id")+string(body))), nil
	}))
	var wg sync.WaitGroup
	for i := range 50 {
		wg.Go(func() {
			for j := range 4 {
				id := fmt.Sprint(i, " ", j, " ")
				body := strings.Repeat("b", j)
				req := newRequest(http.MethodPost, body).Request
				req.Header.Set("X-Id", id)
				o := send(rt, req)
				if o.resp == nil {
					c.errorf("it returns %s", o)
					return
				}
				b, err := io.ReadAll(o.resp.Body)
				o.resp.Body.Close()
				if string(b) != id+body || err != nil {
					c.errorf("a request gets %q, %v instead of %q", b, err, id+body)
				}
			}
		})
	}
	wg.Wait()
}

// noGoroutineLeft plays the scenes again and again, with the same layer, and a
// context that does not end. A layer may have a goroutine of its own, but not
// one for each request.
func noGoroutineLeft(c *check) {
	buf := make([]byte, 1<<20)
	for _, s := range scenes {
		p := Script(s.steps...)
		rt := c.layer(p)
		endless, finish := context.WithCancel(context.Background())
		round := func() int {
			for _, k := range kinds {
				req := k.request().WithContext(endless)
				stop := func() {}
				if s.end != nil {
					req, stop = s.end(req)
				}
				if o := send(rt, req); o.resp != nil && o.resp.Body != nil {
					if s.read != nil {
						s.read(o.resp.Body)
					} else {
						readAll(o.resp.Body)
					}
				}
				stop()
			}
			time.Sleep(time.Hour)
			synctest.Wait()
			return len(bubbled(buf))
		}
		round()
		if before, after := round(), round(); after > before {
			all := bubbled(buf)
			c.errorf("%s: %d requests left %d, such as\n%s", s.name, len(kinds), after-before, all[len(all)-1])
		}
		finish()
	}
}

// bubbled returns the stacks of the goroutines in the bubble.
func bubbled(buf []byte) []string {
	stacks := strings.Split(string(buf[:runtime.Stack(buf, true)]), "\n\n")
	// The first is that of the caller: "goroutine 7 [running, synctest bubble 3]:".
	_, bubble, ok := strings.Cut(strings.SplitN(stacks[0], "]", 2)[0], ", synctest ")
	if !ok {
		return nil
	}
	var in []string
	for _, s := range stacks {
		if head, _, _ := strings.Cut(s, "\n"); strings.Contains(head, ", synctest "+bubble+"]") || strings.Contains(head, ", synctest "+bubble+",") {
			in = append(in, s)
		}
	}
	return in
}

// idleBase counts the calls of CloseIdleConnections.
type idleBase struct {
	http.RoundTripper
	closed atomic.Int32
}

func (b *idleBase) CloseIdleConnections() { b.closed.Add(1) }

func idleConnectionsClosed(c *check) {
	b := &idleBase{RoundTripper: Script(OK("{}").Forever())}
	(&http.Client{Transport: c.layer(b)}).CloseIdleConnections()
	if n := b.closed.Load(); n != 1 {
		c.errorf("http.Client.CloseIdleConnections reaches the base %d times", n)
	}
	// One without the method must do too.
	(&http.Client{Transport: c.layer(b.RoundTripper)}).CloseIdleConnections()
}
