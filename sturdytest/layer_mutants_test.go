package sturdytest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/cookiejar"
	"sync"
	"sync/atomic"
	"time"
)

// A mutant is a layer with one fault.
type mutant struct {
	base http.RoundTripper
	do   func(base http.RoundTripper, req *http.Request) (*http.Response, error)
}

func (m *mutant) RoundTrip(req *http.Request) (*http.Response, error) { return m.do(m.base, req) }

func (m *mutant) CloseIdleConnections() {
	if c, ok := m.base.(interface{ CloseIdleConnections() }); ok {
		c.CloseIdleConnections()
	}
}

func mutate(do func(http.RoundTripper, *http.Request) (*http.Response, error)) func(http.RoundTripper) http.RoundTripper {
	return func(base http.RoundTripper) http.RoundTripper { return &mutant{base, do} }
}

// after makes a fault of what is done to a response.
func after(change func(*http.Request, *http.Response) (*http.Response, error)) func(http.RoundTripper) http.RoundTripper {
	return mutate(func(base http.RoundTripper, req *http.Request) (*http.Response, error) {
		resp, err := base.RoundTrip(req)
		if err != nil || resp == nil || resp.Body == nil {
			return resp, err
		}
		return change(req, resp)
	})
}

// before makes a fault of what is done to a copy of the request.
func before(change func(*http.Request)) func(http.RoundTripper) http.RoundTripper {
	return mutate(func(base http.RoundTripper, req *http.Request) (*http.Response, error) {
		sent := req.WithContext(req.Context())
		sent.Header = req.Header.Clone()
		change(sent)
		return base.RoundTrip(sent)
	})
}

// inBody makes a fault of what is done to a response's body.
func inBody(wrap func(io.ReadCloser) io.ReadCloser) func(http.RoundTripper) http.RoundTripper {
	return after(func(_ *http.Request, resp *http.Response) (*http.Response, error) {
		if resp.StatusCode != http.StatusSwitchingProtocols {
			resp.Body = wrap(resp.Body)
		}
		return resp, nil
	})
}

type readCloser struct {
	io.Reader
	io.Closer
}

// resend is a retry of a 503, which does right all that its fault does not
// replace.
type resend struct {
	discard func(*http.Response)
	rewind  func(*http.Request) (*http.Request, bool)
	wait    func(*http.Request) error
	give    func(first, last *http.Response) (*http.Response, error)
}

func (r resend) over(base http.RoundTripper) http.RoundTripper {
	if r.discard == nil {
		r.discard = func(resp *http.Response) {
			_, _ = io.CopyN(io.Discard, resp.Body, 1<<10)
			resp.Body.Close()
		}
	}
	if r.rewind == nil {
		r.rewind = func(req *http.Request) (*http.Request, bool) {
			if req.Body == nil {
				return req, true
			}
			if req.GetBody == nil {
				return nil, false
			}
			body, err := req.GetBody()
			req = req.WithContext(req.Context())
			req.Body = body
			return req, err == nil
		}
	}
	if r.give == nil {
		r.give = func(_, last *http.Response) (*http.Response, error) { return last, nil }
	}
	return mutate(func(base http.RoundTripper, req *http.Request) (*http.Response, error) {
		first, err := base.RoundTrip(req)
		if err != nil || first == nil || first.StatusCode != 503 || first.Body == nil {
			return first, err
		}
		next, ok := r.rewind(req)
		if !ok {
			return r.give(nil, first)
		}
		r.discard(first)
		if r.wait != nil {
			if err := r.wait(req); err != nil {
				if next.Body != nil {
					next.Body.Close()
				}
				return nil, err
			}
		}
		last, err := base.RoundTrip(next)
		if err != nil || last == nil || last.Body == nil {
			return last, err
		}
		return r.give(first, last)
	})(base)
}

// deafContext hides all values but those of the scenes.
type deafContext struct{ context.Context }

func (d deafContext) Value(key any) any {
	if _, ok := key.(contextKey); ok {
		return d.Context.Value(key)
	}
	return nil
}

type blockingBody struct {
	io.ReadCloser
	reading chan struct{}
}

func (b *blockingBody) Read(p []byte) (int, error) {
	b.reading <- struct{}{}
	defer func() { <-b.reading }()
	return b.ReadCloser.Read(p)
}

func (b *blockingBody) Close() error {
	b.reading <- struct{}{}
	defer func() { <-b.reading }()
	return b.ReadCloser.Close()
}

type quietBody struct{ io.ReadCloser }

func (b quietBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err != nil {
		err = io.EOF
	}
	return n, err
}

// unforwarded has no CloseIdleConnections.
type unforwarded struct{ base http.RoundTripper }

func (u unforwarded) RoundTrip(req *http.Request) (*http.Response, error) {
	return u.base.RoundTrip(req)
}

func hasBody(req *http.Request) bool { return req.Body != nil && req.Body != http.NoBody }

// A mutantOf a rule is a layer that breaks it, first of all.
type mutantOf struct {
	fault string
	rule  string
	layer func(http.RoundTripper) http.RoundTripper
}

var mutants = []mutantOf{
	{"it sets a header of the caller's", "request-unchanged", mutate(func(base http.RoundTripper, req *http.Request) (*http.Response, error) {
		req.Header.Set("X-Added", "1")
		return base.RoundTrip(req)
	})},
	{"it rewrites the URL for a while", "request-unchanged", mutate(func(base http.RoundTripper, req *http.Request) (*http.Response, error) {
		path := req.URL.Path
		req.URL.Path += "/more"
		defer func() { req.URL.Path = path }()
		return base.RoundTrip(req)
	})},
	{"it replaces the body of the caller's request", "request-unchanged", mutate(func(base http.RoundTripper, req *http.Request) (*http.Response, error) {
		if hasBody(req) {
			req.Body = readCloser{req.Body, req.Body}
		}
		return base.RoundTrip(req)
	})},
	{"it closes the request's body once more", "request-body-closed", mutate(func(base http.RoundTripper, req *http.Request) (*http.Response, error) {
		resp, err := base.RoundTrip(req)
		if req.Body != nil {
			req.Body.Close()
		}
		return resp, err
	})},
	{"it refuses without closing the body", "request-body-closed", mutate(func(base http.RoundTripper, req *http.Request) (*http.Response, error) {
		if req.Context().Err() != nil {
			return nil, context.Cause(req.Context())
		}
		return base.RoundTrip(req)
	})},
	{"it never closes the body that it has read", "request-body-closed", before(func(req *http.Request) {
		if hasBody(req) {
			b, _ := io.ReadAll(req.Body)
			req.Body = io.NopCloser(bytes.NewReader(b))
		}
	})},
	{"it leaves a body of GetBody open", "request-body-closed", before(func(req *http.Request) {
		if req.GetBody != nil {
			_, _ = req.GetBody()
		}
	})},
	{"it reads the rest of the body after the base", "request-body-not-read-late", mutate(func(base http.RoundTripper, req *http.Request) (*http.Response, error) {
		resp, err := base.RoundTrip(req)
		if hasBody(req) {
			_, _ = io.Copy(io.Discard, req.Body)
		}
		return resp, err
	})},
	{"it sends again without the body", "request-body-whole", resend{rewind: func(req *http.Request) (*http.Request, bool) {
		req = req.WithContext(req.Context())
		req.Body = nil
		req.ContentLength = 0
		return req, true
	}}.over},
	{"it sends the same body again", "request-body-not-read-late", resend{rewind: func(req *http.Request) (*http.Request, bool) {
		return req, true
	}}.over},
	{"it drops GetBody", "request-body-replayable", before(func(req *http.Request) { req.GetBody = nil })},
	{"its GetBody gives what has been read", "request-body-replayable", before(func(req *http.Request) {
		body := req.Body
		if req.GetBody != nil {
			req.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(io.LimitReader(body, 0)), nil }
		}
	})},
	{"it has a context of its own", "context-passed-on", mutate(func(base http.RoundTripper, req *http.Request) (*http.Response, error) {
		return base.RoundTrip(req.WithContext(context.Background()))
	})},
	{"it hides the deadline", "context-passed-on", mutate(func(base http.RoundTripper, req *http.Request) (*http.Response, error) {
		ctx, cancel := context.WithCancelCause(context.WithoutCancel(req.Context()))
		context.AfterFunc(req.Context(), func() { cancel(context.Cause(req.Context())) })
		return base.RoundTrip(req.WithContext(ctx))
	})},
	{"it outlives the deadline", "returns", mutate(func(base http.RoundTripper, req *http.Request) (*http.Response, error) {
		return base.RoundTrip(req.WithContext(context.WithoutCancel(req.Context())))
	})},
	{"it never ends its context", "context-released", mutate(func(base http.RoundTripper, req *http.Request) (*http.Response, error) {
		ctx, cancel := context.WithCancel(req.Context())
		context.AfterFunc(req.Context(), cancel)
		return base.RoundTrip(req.WithContext(ctx))
	})},
	{"it returns a response and an error", "response-or-error", after(func(_ *http.Request, resp *http.Response) (*http.Response, error) {
		if resp.StatusCode >= 400 {
			return resp, errors.New("an error status")
		}
		return resp, nil
	})},
	{"it returns neither", "response-or-error", after(func(_ *http.Request, resp *http.Response) (*http.Response, error) {
		if resp.StatusCode == http.StatusNoContent {
			return nil, nil
		}
		return resp, nil
	})},
	{"it returns no body", "response-or-error", after(func(_ *http.Request, resp *http.Response) (*http.Response, error) {
		if resp.StatusCode == http.StatusNoContent {
			resp.Body = nil
		}
		return resp, nil
	})},
	{"it shows a request whose context it has ended", "response-request", mutate(func(base http.RoundTripper, req *http.Request) (*http.Response, error) {
		ctx, cancel := context.WithCancel(req.Context())
		resp, err := base.RoundTrip(req.WithContext(ctx))
		if err != nil || resp == nil || resp.Body == nil {
			cancel()
			return resp, err
		}
		body := resp.Body
		resp.Body = readCloser{body, closerFunc(func() error { defer cancel(); return body.Close() })}
		return resp, nil
	})},
	{"it forgets the request", "response-request", after(func(_ *http.Request, resp *http.Response) (*http.Response, error) {
		resp.Request = nil
		return resp, nil
	})},
	{"it keeps the text of an error only", "error-kept", mutate(func(base http.RoundTripper, req *http.Request) (*http.Response, error) {
		resp, err := base.RoundTrip(req)
		if err != nil && req.Context().Err() == nil {
			err = fmt.Errorf("giving up: %v", err)
		}
		return resp, err
	})},
	{"it leaves an answer open that it gives up", "responses-closed", resend{discard: func(*http.Response) {}}.over},
	{"its Close does nothing", "responses-closed", inBody(func(body io.ReadCloser) io.ReadCloser { return io.NopCloser(body) })},
	{"it closes what it gives up unread", "short-answers-drained", resend{discard: func(resp *http.Response) { resp.Body.Close() }}.over},
	{"it drains what it gives up for ever", "returns", resend{discard: func(resp *http.Response) {
		_, _ = io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
	}}.over},
	{"it makes an error of a panic", "panic-passed-on", mutate(func(base http.RoundTripper, req *http.Request) (resp *http.Response, err error) {
		defer func() {
			if v := recover(); v != nil {
				err = fmt.Errorf("panic: %v", v)
			}
		}()
		return base.RoundTrip(req)
	})},
	{"it calls the base in a goroutine", "panic-passed-on", mutate(func(base http.RoundTripper, req *http.Request) (resp *http.Response, err error) {
		done := make(chan struct{})
		var thrown any
		go func() {
			defer close(done)
			defer func() { thrown = recover() }()
			err = errors.New("the base ended its goroutine")
			resp, err = base.RoundTrip(req)
		}()
		<-done
		if thrown != nil {
			panic(thrown)
		}
		return resp, err
	})},
	{"it closes idle connections after a failure", "idle-connections-left-alone", func(base http.RoundTripper) http.RoundTripper {
		m := &mutant{base: base}
		m.do = func(base http.RoundTripper, req *http.Request) (*http.Response, error) {
			resp, err := base.RoundTrip(req)
			if err != nil {
				m.CloseIdleConnections()
			}
			return resp, err
		}
		return m
	}},

	{"it makes an error of a status", "status-is-no-error", after(func(_ *http.Request, resp *http.Response) (*http.Response, error) {
		if resp.StatusCode >= 500 {
			_, _ = io.CopyN(io.Discard, resp.Body, 1<<10)
			resp.Body.Close()
			return nil, errors.New(resp.Status)
		}
		return resp, nil
	})},
	{"it makes an error of having tried in vain", "status-is-no-error", resend{give: func(_, last *http.Response) (*http.Response, error) {
		if last.StatusCode == 503 {
			_, _ = io.CopyN(io.Discard, last.Body, 1<<10)
			last.Body.Close()
			return nil, errors.New("giving up after 2 attempts")
		}
		return last, nil
	}}.over},
	{"it returns the first answer instead of the last", "status-is-no-error", resend{give: func(first, last *http.Response) (*http.Response, error) {
		if first == nil {
			return last, nil
		}
		last.Body.Close()
		return first, nil
	}}.over},
	{"it makes an error of a body that cannot be had again", "status-is-no-error", resend{give: func(first, last *http.Response) (*http.Response, error) {
		if first == nil {
			last.Body.Close()
			return nil, errors.New("the body cannot be sent again")
		}
		return last, nil
	}}.over},
	{"it returns a status of its own", "status-is-no-error", after(func(_ *http.Request, resp *http.Response) (*http.Response, error) {
		resp.StatusCode = max(resp.StatusCode, 200)
		return resp, nil
	})},
	{"it is an http.Client, which follows redirects", "redirect-not-followed", mutate(func(base http.RoundTripper, req *http.Request) (*http.Response, error) {
		return (&http.Client{Transport: base}).Do(req)
	})},
	{"it keeps cookies", "cookies-untouched", func(base http.RoundTripper) http.RoundTripper {
		jar, _ := cookiejar.New(nil)
		return mutate(func(base http.RoundTripper, req *http.Request) (*http.Response, error) {
			for _, c := range jar.Cookies(req.URL) {
				req = req.Clone(req.Context())
				req.AddCookie(c)
			}
			resp, err := base.RoundTrip(req)
			if resp != nil {
				jar.SetCookies(req.URL, resp.Cookies())
			}
			return resp, err
		})(base)
	}},
	{"it eats cookies", "cookies-untouched", after(func(_ *http.Request, resp *http.Response) (*http.Response, error) {
		if resp.Header.Get("Set-Cookie") != "" {
			resp.Header.Set("Set-Cookie", "")
		}
		return resp, nil
	})},
	{"it cuts a body off", "response-intact", inBody(func(body io.ReadCloser) io.ReadCloser {
		return readCloser{io.LimitReader(body, 64<<10), body}
	})},
	{"it steals from the body to look at it", "response-intact", after(func(_ *http.Request, resp *http.Response) (*http.Response, error) {
		if resp.StatusCode == 400 {
			_, _ = io.CopyN(io.Discard, resp.Body, 2)
		}
		return resp, nil
	})},
	{"it hides how a body ended", "response-intact", inBody(func(body io.ReadCloser) io.ReadCloser { return quietBody{body} })},
	{"it ends the attempt's context when it returns", "response-intact", mutate(func(base http.RoundTripper, req *http.Request) (*http.Response, error) {
		ctx, cancel := context.WithCancel(req.Context())
		defer cancel()
		return base.RoundTrip(req.WithContext(ctx))
	})},
	{"it reads a response to its end first", "response-streams", after(func(_ *http.Request, resp *http.Response) (*http.Response, error) {
		b, err := io.ReadAll(resp.Body)
		if err != nil {
			return resp, nil
		}
		resp.Body = readCloser{bytes.NewReader(b), resp.Body}
		return resp, nil
	})},
	{"its time limit goes on into the body", "response-streams", mutate(func(base http.RoundTripper, req *http.Request) (*http.Response, error) {
		ctx, cancel := context.WithTimeout(req.Context(), 10*time.Second)
		context.AfterFunc(ctx, cancel)
		return base.RoundTrip(req.WithContext(ctx))
	})},
	{"it reads a request to its end first", "request-streams", before(func(req *http.Request) {
		if hasBody(req) {
			b, _ := io.ReadAll(req.Body)
			req.Body = readCloser{bytes.NewReader(b), req.Body}
		}
	})},
	{"it closes the request's body when it returns", "early-answer", mutate(func(base http.RoundTripper, req *http.Request) (*http.Response, error) {
		body := req.Body
		var once sync.Once
		if hasBody(req) {
			req = req.WithContext(req.Context())
			req.Body = readCloser{body, closerFunc(func() error { once.Do(func() { body.Close() }); return nil })}
			defer req.Body.Close()
		}
		return base.RoundTrip(req)
	})},
	{"it wraps every body", "writer-of-101", after(func(_ *http.Request, resp *http.Response) (*http.Response, error) {
		resp.Body = readCloser{resp.Body, resp.Body}
		return resp, nil
	})},
	{"it sleeps through the end of the context", "cancellation", resend{wait: func(req *http.Request) error {
		time.Sleep(20 * time.Second)
		return context.Cause(req.Context())
	}}.over},
	{"it sleeps through Request.Cancel", "cancellation", resend{wait: func(req *http.Request) error {
		select {
		case <-time.After(20 * time.Second):
		case <-req.Context().Done():
		}
		return context.Cause(req.Context())
	}}.over},
	{"it waits, and loses the context's error", "cancellation", resend{wait: func(req *http.Request) error {
		select {
		case <-time.After(20 * time.Second):
			return nil
		case <-req.Context().Done():
		case <-req.Cancel:
		}
		return errors.New("request canceled")
	}}.over},
	{"it waits, and loses the cause", "cancellation", resend{wait: func(req *http.Request) error {
		select {
		case <-time.After(20 * time.Second):
			return nil
		case <-req.Context().Done():
			return req.Context().Err()
		case <-req.Cancel:
			return errCanceled
		}
	}}.over},
	{"it hides that an error is a timeout", "cancellation", mutate(func(base http.RoundTripper, req *http.Request) (*http.Response, error) {
		resp, err := base.RoundTrip(req)
		if err != nil {
			err = fmt.Errorf("the base: %w", err)
		}
		return resp, err
	})},
	{"it has an error of its own for an ended context", "cancelled-before", mutate(func(base http.RoundTripper, req *http.Request) (*http.Response, error) {
		if req.Context().Err() != nil {
			if req.Body != nil {
				req.Body.Close()
			}
			return nil, errors.New("too late")
		}
		return base.RoundTrip(req)
	})},
	{"it makes the end of a context the end of the body", "cancelled-body", after(func(req *http.Request, resp *http.Response) (*http.Response, error) {
		body := resp.Body
		resp.Body = readCloser{readerFunc(func(p []byte) (int, error) {
			n, err := body.Read(p)
			if req.Context().Err() != nil {
				err = io.EOF
			}
			return n, err
		}), body}
		return resp, nil
	})},
	{"its Close waits for a read", "close-ends-read", inBody(func(body io.ReadCloser) io.ReadCloser {
		return &blockingBody{body, make(chan struct{}, 1)}
	})},
	{"it trusts the base to return a response", "hostile-base", mutate(func(base http.RoundTripper, req *http.Request) (*http.Response, error) {
		resp, err := base.RoundTrip(req)
		if err == nil {
			resp.Uncompressed = resp.StatusCode == 0 || resp.Uncompressed
		}
		return resp, err
	})},
	{"it trusts the base to return a body", "hostile-base", mutate(func(base http.RoundTripper, req *http.Request) (*http.Response, error) {
		resp, err := base.RoundTrip(req)
		if err == nil && resp != nil && resp.StatusCode == 503 {
			b, _ := io.ReadAll(io.LimitReader(resp.Body, 1))
			resp.Body = readCloser{io.MultiReader(bytes.NewReader(b), resp.Body), resp.Body}
		}
		return resp, err
	})},
	{"it forgets an error that comes with a response", "hostile-base", mutate(func(base http.RoundTripper, req *http.Request) (*http.Response, error) {
		if resp, err := base.RoundTrip(req); resp == nil {
			return nil, err
		} else { //nolint:revive // err is not meant to be seen
			return resp, nil
		}
	})},
	{"it loses a slot with each panic", "usable-after-failures", func(base http.RoundTripper) http.RoundTripper {
		slots := make(chan struct{}, 10)
		return mutate(func(base http.RoundTripper, req *http.Request) (*http.Response, error) {
			select {
			case slots <- struct{}{}:
			default:
				if req.Body != nil {
					req.Body.Close()
				}
				return nil, errors.New("full")
			}
			resp, err := base.RoundTrip(req)
			<-slots
			return resp, err
		})(base)
	}},
	{"it opens, and never tries again", "usable-after-failures", func(base http.RoundTripper) http.RoundTripper {
		var failures atomic.Int32
		return mutate(func(base http.RoundTripper, req *http.Request) (*http.Response, error) {
			if failures.Load() > 10 {
				if req.Body != nil {
					req.Body.Close()
				}
				return nil, errors.New("open")
			}
			resp, err := base.RoundTrip(req)
			if err != nil {
				failures.Add(1)
			}
			return resp, err
		})(base)
	}},
	{"it never gives up a lock", "usable-after-failures", func(base http.RoundTripper) http.RoundTripper {
		lock := make(chan struct{}, 1)
		return mutate(func(base http.RoundTripper, req *http.Request) (*http.Response, error) {
			lock <- struct{}{}
			resp, err := base.RoundTrip(req)
			if err == nil {
				<-lock
			}
			return resp, err
		})(base)
	}},
	{"it mixes up requests", "concurrent-use", func(base http.RoundTripper) http.RoundTripper {
		var last atomic.Pointer[http.Request]
		return mutate(func(base http.RoundTripper, req *http.Request) (*http.Response, error) {
			if hasBody(req) {
				return base.RoundTrip(req)
			}
			last.Store(req)
			time.Sleep(time.Microsecond)
			return base.RoundTrip(last.Load())
		})(base)
	}},
	{"it leaves a goroutine behind", "no-goroutine-left", mutate(func(base http.RoundTripper, req *http.Request) (*http.Response, error) {
		go func() { <-req.Context().Done() }()
		return base.RoundTrip(req)
	})},
	{"it has no CloseIdleConnections", "idle-connections-closed", func(base http.RoundTripper) http.RoundTripper { return unforwarded{base} }},

	{"it asks for compression itself", "transparent", before(func(req *http.Request) { req.Header.Set("Accept-Encoding", "gzip") })},
	{"it keeps one value of each header", "transparent", before(func(req *http.Request) {
		for name, values := range req.Header {
			req.Header[name] = values[:1]
		}
	})},
	{"it forgets the length of a body", "transparent", before(func(req *http.Request) {
		if hasBody(req) {
			req.ContentLength = -1
		}
	})},
	{"it forgets the host", "transparent", before(func(req *http.Request) { req.Host = "" })},
	{"it unescapes the path", "transparent", before(func(req *http.Request) {
		u := *req.URL
		u.RawPath = ""
		req.URL = &u
	})},
	{"it clones the request, the trailers too", "request-trailers", mutate(func(base http.RoundTripper, req *http.Request) (*http.Response, error) {
		return base.RoundTrip(req.Clone(req.Context()))
	})},
	{"it copies the response", "response-trailers", after(func(_ *http.Request, resp *http.Response) (*http.Response, error) {
		c := *resp
		return &c, nil
	})},
	{"it hides the hooks for 1xx", "informational-responses", mutate(func(base http.RoundTripper, req *http.Request) (*http.Response, error) {
		return base.RoundTrip(req.WithContext(deafContext{req.Context()}))
	})},
	{"it hides the hooks", "trace-hooks", mutate(func(base http.RoundTripper, req *http.Request) (*http.Response, error) {
		return base.RoundTrip(req.WithContext(deafContext{req.Context()}))
	})},
	{"it looks into the body first", "expect-continue", before(func(req *http.Request) {
		if hasBody(req) {
			first := make([]byte, 1)
			n, _ := req.Body.Read(first)
			req.Body = readCloser{io.MultiReader(bytes.NewReader(first[:n]), req.Body), req.Body}
		}
	})},
	{"it waits until all is sent", "full-duplex", mutate(func(base http.RoundTripper, req *http.Request) (*http.Response, error) {
		sent := make(chan struct{})
		ctx := req.Context()
		if hasBody(req) {
			body, once := req.Body, sync.Once{}
			req = req.WithContext(ctx)
			req.Body = readCloser{body, closerFunc(func() error { once.Do(func() { close(sent) }); return body.Close() })}
		} else {
			close(sent)
		}
		resp, err := base.RoundTrip(req)
		select {
		case <-sent:
		case <-ctx.Done():
		}
		return resp, err
	})},
	{"it waits for a body that does not end", "early-answer-on-wire", before(func(req *http.Request) {
		if hasBody(req) {
			var b bytes.Buffer
			done := make(chan struct{})
			go func() { defer close(done); _, _ = io.Copy(&b, req.Body) }()
			select {
			case <-done:
			case <-req.Context().Done():
			}
			req.Body.Close()
			<-done
			req.Body = io.NopCloser(&b)
		}
	})},
	{"it wraps the body of an upgrade", "upgrade", after(func(_ *http.Request, resp *http.Response) (*http.Response, error) {
		if resp.StatusCode == http.StatusSwitchingProtocols {
			resp.Body = readCloser{resp.Body, resp.Body}
		}
		return resp, nil
	})},
	{"it keeps a stream alive that nobody wants", "end-reaches-server", inBody(func(body io.ReadCloser) io.ReadCloser {
		return readCloser{body, closerFunc(func() error {
			go io.Copy(io.Discard, body)
			return nil
		})}
	})},
	{"it wants a connection for each request", "connection-reused", before(func(req *http.Request) { req.Close = true })},
	{"it has room for a little", "large-bodies", inBody(func(body io.ReadCloser) io.ReadCloser {
		return readCloser{io.LimitReader(body, 99_999), body}
	})},
}
