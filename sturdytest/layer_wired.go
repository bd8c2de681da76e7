package sturdytest

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"net/textproto"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// A wire is a protocol on a real socket.
type wire struct {
	name  string
	major int
	tls   bool
}

var wires = []wire{{"HTTP/1.1", 1, false}, {"HTTP/1.1 over TLS", 1, true}, {"HTTP/2", 2, true}, {"HTTP/2 without TLS", 2, false}}

// An origin is a server, and a transport that has connections to no other.
type origin struct {
	url   string
	base  *http.Transport
	conns atomic.Int32 // made so far
	ctx   context.Context
	close func()
}

func (w wire) serve(c *check, handler http.HandlerFunc) *origin {
	o := new(origin)
	ts := httptest.NewUnstartedServer(handler)
	ts.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	ts.Config.ConnState = func(_ net.Conn, s http.ConnState) {
		if s == http.StateNew {
			o.conns.Add(1)
		}
	}
	if w.tls {
		ts.EnableHTTP2 = w.major == 2
		ts.StartTLS()
		o.base, _ = ts.Client().Transport.(*http.Transport)
	} else {
		protocols := new(http.Protocols)
		protocols.SetHTTP1(w.major == 1)
		protocols.SetUnencryptedHTTP2(w.major == 2)
		ts.Config.Protocols = protocols
		ts.Start()
		o.base = &http.Transport{Protocols: protocols}
	}
	o.url = ts.URL
	o.base.ExpectContinueTimeout = c.patience
	ctx, cancel := context.WithTimeout(context.Background(), c.patience/2)
	o.ctx = ctx
	o.close = func() {
		cancel()
		o.base.CloseIdleConnections()
		ts.CloseClientConnections()
		ts.Close()
	}
	return o
}

func (o *origin) request(method string, body io.Reader) *http.Request {
	req, err := http.NewRequestWithContext(o.ctx, method, o.url+"/a%2Fb/c?y=2&x=1;z", body)
	if err != nil {
		panic(err)
	}
	return req
}

// fetch sends req, and tells if there is no response. Its body has to be closed.
func (c *check) fetch(what string, rt http.RoundTripper, req *http.Request) *http.Response {
	o := send(rt, req)
	if o.resp == nil || o.err != nil {
		c.errorf("%s: it returns %s", what, o)
		return nil
	}
	return o.resp
}

// A sight is what a server sees of a request.
type sight struct {
	Method, URI, Host, Body string
	ContentLength           int64
	TransferEncoding        []string
	Header, Trailer         http.Header
}

func see(r *http.Request) sight {
	b, err := io.ReadAll(r.Body)
	if err != nil {
		b = append(b, err.Error()...)
	}
	return sight{r.Method, r.RequestURI, r.Host, string(b), r.ContentLength, r.TransferEncoding, r.Header, r.Trailer}
}

// differences returns what is not as want is. A layer may add headers.
func (s sight) differences(want sight) (all []string) {
	for name, values := range want.Header {
		if got := s.Header[name]; !slices.Equal(got, values) {
			all = append(all, fmt.Sprintf("the header %s is %q instead of %q", name, got, values))
		}
	}
	s.Header, want.Header = nil, nil
	if got, want := fmt.Sprintf("%.200v", s), fmt.Sprintf("%.200v", want); got != want {
		all = append(all, fmt.Sprintf("%s instead of %s", got, want))
	}
	return all
}

// exchanges are ways to ask and to answer.
var exchanges = []struct {
	name    string
	request func(*origin) *http.Request
	answer  func(http.ResponseWriter)
}{
	{"GET", func(o *origin) *http.Request { return o.request(http.MethodGet, nil) }, func(w http.ResponseWriter) {
		_, _ = io.WriteString(w, "fine")
	}},
	{"a header of several values", func(o *origin) *http.Request {
		req := o.request(http.MethodGet, http.NoBody)
		req.Header = http.Header{"X-Two": {"1", "2"}, "User-Agent": {""}, "Cookie": {"a=1", "b=2"}}
		req.Host = "other.example.com"
		return req
	}, func(w http.ResponseWriter) {
		w.Header()["X-Two"] = []string{"1", "2"}
		w.Header()["Set-Cookie"] = []string{"a=1", "b=2"}
	}},
	{"no method", func(o *origin) *http.Request { return o.request("", nil) }, func(http.ResponseWriter) {}},
	{"HEAD", func(o *origin) *http.Request { return o.request(http.MethodHead, nil) }, func(w http.ResponseWriter) {
		w.Header().Set("Content-Length", "1000")
	}},
	{"a body of known length, a 204", func(o *origin) *http.Request {
		return o.request(http.MethodPost, strings.NewReader(payload))
	}, func(w http.ResponseWriter) { w.WriteHeader(204) }},
	{"a body of unknown length, a stream", func(o *origin) *http.Request {
		return o.request(http.MethodPost, io.NopCloser(strings.NewReader(payload)))
	}, func(w http.ResponseWriter) {
		for range 3 {
			_, _ = io.WriteString(w, "chunk")
			_ = http.NewResponseController(w).Flush()
		}
	}},
	{"a compressed answer", func(o *origin) *http.Request { return o.request(http.MethodGet, nil) }, func(w http.ResponseWriter) {
		w.Header().Set("Content-Encoding", "gzip")
		z := gzip.NewWriter(w)
		_, _ = io.WriteString(z, strings.Repeat("fine ", 100))
		_ = z.Close()
	}},
	{"a 304", func(o *origin) *http.Request { return o.request(http.MethodGet, nil) }, func(w http.ResponseWriter) {
		w.Header().Set("Etag", `"1"`)
		w.WriteHeader(304)
	}},
	{"an empty answer that closes the connection", func(o *origin) *http.Request {
		req := o.request(http.MethodGet, nil)
		req.Close = true
		return req
	}, func(w http.ResponseWriter) { w.Header().Set("Connection", "close") }},
}

// transparent compares what server and caller see with what they see without
// the layer.
func transparent(c *check, w wire) {
	seen := make(chan sight, 100)
	o := w.serve(c, func(rw http.ResponseWriter, r *http.Request) {
		i, _ := strconv.Atoi(r.Header.Get("X-Exchange"))
		seen <- see(r)
		rw.Header().Set("Date", "Mon, 02 Jan 2006 15:04:05 GMT")
		exchanges[i].answer(rw)
	})
	defer o.close()
	for i, e := range exchanges {
		fetch := func(rt http.RoundTripper) *http.Response {
			req := e.request(o)
			req.Header.Set("X-Exchange", strconv.Itoa(i))
			return c.fetch(e.name, rt, req)
		}
		want, got := fetch(o.base), fetch(c.layer(o.base))
		if want == nil || got == nil {
			return
		}
		compareResponses(c, e.name, want, got)
		wanted := <-seen
		for _, d := range (<-seen).differences(wanted) {
			c.errorf("%s: the server sees %s", e.name, d)
		}
	}
}

// requestTrailers sets a trailer at the body's end, as callers do who sum it up.
func requestTrailers(c *check, w wire) {
	seen := make(chan sight, 1)
	o := w.serve(c, func(_ http.ResponseWriter, r *http.Request) { seen <- see(r) })
	defer o.close()
	req := o.request(http.MethodPost, nil)
	req.Trailer = http.Header{"X-Sum": nil}
	req.ContentLength = -1
	req.Body = io.NopCloser(io.MultiReader(strings.NewReader(payload), readerFunc(func([]byte) (int, error) {
		req.Trailer.Set("X-Sum", "1234")
		return 0, io.EOF
	})))
	if resp := c.fetch("with a trailer", c.layer(o.base), req); resp != nil {
		readAll(resp.Body)
		if s := <-seen; s.Trailer.Get("X-Sum") != "1234" || s.Body != payload {
			c.errorf("the server sees the body %q and the trailers %v", s.Body, s.Trailer)
		}
	}
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

// responseTrailers has a server that announces them, and one that does not.
func responseTrailers(c *check, w wire) {
	for _, announced := range []bool{true, false} {
		o := w.serve(c, func(rw http.ResponseWriter, _ *http.Request) {
			key := http.TrailerPrefix + "X-Sum"
			if announced {
				key = "X-Sum"
				rw.Header().Set("Trailer", key)
			}
			_, _ = io.WriteString(rw, "fine")
			_ = http.NewResponseController(rw).Flush()
			rw.Header().Set(key, "1234")
		})
		if resp := c.fetch("with trailers", c.layer(o.base), o.request(http.MethodGet, nil)); resp != nil {
			readAll(resp.Body)
			if resp.Trailer.Get("X-Sum") != "1234" {
				c.errorf("the server sends X-Sum, announced: %t; the response has the trailers %v", announced, resp.Trailer)
			}
		}
		o.close()
	}
}

func informational(c *check, w wire) {
	o := w.serve(c, func(rw http.ResponseWriter, _ *http.Request) {
		for _, link := range []string{"</a.css>", "</b.css>"} {
			rw.Header().Set("Link", link)
			rw.WriteHeader(http.StatusEarlyHints)
		}
		rw.WriteHeader(http.StatusNotFound)
	})
	defer o.close()
	var got []string
	ctx := httptrace.WithClientTrace(o.ctx, &httptrace.ClientTrace{
		Got1xxResponse: func(code int, h textproto.MIMEHeader) error {
			got = append(got, fmt.Sprint(code, " ", h.Get("Link")))
			return nil
		},
	})
	req := o.request(http.MethodPost, strings.NewReader(payload)).WithContext(ctx)
	if out := send(c.layer(o.base), req); out.resp != nil { // the rule about statuses is another
		readAll(out.resp.Body)
	}
	if want := []string{"103 </a.css>", "103 </b.css>"}; !slices.Equal(got, want) {
		c.errorf("Got1xxResponse is called for %q instead of %q", got, want)
	}
}

// traceHooks compares which hooks are called, each time with a new connection.
func traceHooks(c *check, w wire) {
	without := tracedHooks(c, w, func(base http.RoundTripper) http.RoundTripper { return base })
	if got := tracedHooks(c, w, c.layer); !slices.Equal(got, without) {
		c.errorf("the hooks %v are called instead of %v", got, without)
	}
}

func tracedHooks(c *check, w wire, layer func(http.RoundTripper) http.RoundTripper) []string {
	o := w.serve(c, func(_ http.ResponseWriter, r *http.Request) { see(r) })
	defer o.close()
	var mu sync.Mutex
	var hooks []string
	wrote := make(chan struct{}) // with HTTP/2 perhaps after the answer
	written := sync.OnceFunc(func() { close(wrote) })
	note := func(name string) {
		mu.Lock()
		defer mu.Unlock()
		hooks = append(hooks, name)
	}
	ctx := httptrace.WithClientTrace(o.ctx, &httptrace.ClientTrace{
		GetConn:              func(string) { note("GetConn") },
		GotConn:              func(httptrace.GotConnInfo) { note("GotConn") },
		ConnectDone:          func(string, string, error) { note("ConnectDone") },
		WroteHeaders:         func() { note("WroteHeaders") },
		WroteRequest:         func(httptrace.WroteRequestInfo) { note("WroteRequest"); written() },
		GotFirstResponseByte: func() { note("GotFirstResponseByte") },
	})
	req := o.request(http.MethodPost, strings.NewReader(payload)).WithContext(ctx)
	if resp := c.fetch("traced", layer(o.base), req); resp != nil {
		readAll(resp.Body)
		select {
		case <-wrote:
		case <-o.ctx.Done():
		}
	}
	mu.Lock()
	defer mu.Unlock()
	slices.Sort(hooks)
	return slices.Compact(hooks) // HTTP/2 calls some of them twice, at times
}

// expectContinue has a server that wants the body, and one that does not.
func expectContinue(c *check, w wire) {
	for _, status := range []int{http.StatusOK, http.StatusExpectationFailed} {
		seen := make(chan sight, 1)
		o := w.serve(c, func(rw http.ResponseWriter, r *http.Request) {
			if status == http.StatusOK {
				seen <- see(r)
			}
			rw.WriteHeader(status)
		})
		var continued atomic.Int32
		ctx := httptrace.WithClientTrace(o.ctx, &httptrace.ClientTrace{Got100Continue: func() { continued.Add(1) }})
		req := o.request(http.MethodPost, nil).WithContext(ctx)
		req.Header.Set("Expect", "100-continue")
		req.ContentLength = int64(len(payload))
		var read atomic.Bool
		body := strings.NewReader(payload)
		req.Body = io.NopCloser(readerFunc(func(p []byte) (int, error) {
			read.Store(true)
			return body.Read(p)
		}))
		got := send(c.layer(o.base), req)
		if got.resp != nil {
			readAll(got.resp.Body)
		}
		switch {
		case status == http.StatusExpectationFailed:
			if read.Load() {
				c.errorf("the body is read, though the server answers %d to the headers", status)
			}
		case got.resp == nil || got.resp.StatusCode != status || (<-seen).Body != payload || continued.Load() != 1:
			c.errorf("it returns %s, with %d calls of Got100Continue", got, continued.Load())
		}
		o.close()
	}
}

// fullDuplex sends each line when the answer to the last one has come.
func fullDuplex(c *check, w wire) {
	o := w.serve(c, func(rw http.ResponseWriter, r *http.Request) {
		rc := http.NewResponseController(rw)
		_ = rc.EnableFullDuplex()
		rw.WriteHeader(200)
		_ = rc.Flush()
		lines := bufio.NewScanner(r.Body)
		for lines.Scan() {
			_, _ = fmt.Fprintf(rw, "echo %s\n", lines.Text())
			_ = rc.Flush()
		}
	})
	defer o.close()
	r, pipe := io.Pipe()
	defer pipe.Close()
	resp := c.fetch("full duplex", c.layer(o.base), o.request(http.MethodPost, r))
	if resp == nil {
		return
	}
	defer resp.Body.Close()
	lines := bufio.NewReader(resp.Body)
	for i := range 3 {
		_, _ = fmt.Fprintln(pipe, i)
		if line, err := lines.ReadString('\n'); line != fmt.Sprintf("echo %d\n", i) {
			c.errorf("line %d comes back as %q, %v", i+1, line, err)
			return
		}
	}
	pipe.Close()
	if b, err := io.ReadAll(lines); len(b) > 0 || err != nil {
		c.errorf("after the last line comes %q, %v", b, err)
	}
}

func upgrade(c *check, w wire) {
	if w.major != 1 {
		return // has no such thing
	}
	o := w.serve(c, func(rw http.ResponseWriter, _ *http.Request) {
		conn, buf, err := http.NewResponseController(rw).Hijack()
		if err != nil {
			panic(err)
		}
		defer conn.Close()
		_, _ = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
		_, _ = io.CopyN(conn, buf, 4)
	})
	defer o.close()
	req := o.request(http.MethodGet, nil)
	req.Header.Set("Connection", "Upgrade")
	req.Header.Set("Upgrade", "echo")
	resp := c.fetch("upgrade", c.layer(o.base), req)
	if resp == nil {
		return
	}
	defer resp.Body.Close()
	conn, ok := resp.Body.(io.ReadWriteCloser)
	if !ok || resp.StatusCode != http.StatusSwitchingProtocols {
		c.errorf("it returns a %d, whose body is a %T", resp.StatusCode, resp.Body)
		return
	}
	_, _ = io.WriteString(conn, "ping")
	if b, err := io.ReadAll(conn); string(b) != "ping" {
		c.errorf("ping comes back as %q, %v", b, err)
	}
}

// endReachesServer gives up a request in all ways, and waits until the server
// has heard of it.
func endReachesServer(c *check, w wire) {
	for _, way := range []struct {
		name string
		hang bool // the server sends nothing
		end  func(body io.Closer, cancel func())
	}{
		{"a context that ends before the answer", true, nil},
		{"a context that ends in the body", false, func(_ io.Closer, cancel func()) { cancel() }},
		{"a body that is closed early", false, func(body io.Closer, _ func()) { body.Close() }},
	} {
		came, gone := make(chan struct{}), make(chan struct{})
		o := w.serve(c, func(rw http.ResponseWriter, r *http.Request) {
			defer close(gone)
			_, _ = io.WriteString(rw, "stream")
			if !way.hang {
				_ = http.NewResponseController(rw).Flush()
			}
			close(came)
			<-r.Context().Done()
			panic(http.ErrAbortHandler) // an ordinary end might still reach the caller
		})
		ctx, cancel := context.WithCancelCause(o.ctx)
		leave := func() { cancel(errLeft) }
		if way.hang {
			go func() { <-came; leave() }()
		}
		out := send(c.layer(o.base), o.request(http.MethodGet, nil).WithContext(ctx))
		switch {
		case way.hang:
			// http.Transport returns the cause, but that of HTTP/2 the context's error.
			if !errors.Is(out.err, errLeft) && !errors.Is(out.err, context.Canceled) {
				c.errorf("%s: it returns %s", way.name, out)
			}
		case out.resp == nil:
			c.errorf("%s: it returns %s", way.name, out)
		default:
			_, _ = io.ReadFull(out.resp.Body, make([]byte, 6))
			way.end(out.resp.Body, leave)
			if b, err := io.ReadAll(out.resp.Body); len(b) > 0 || err == nil {
				c.errorf("%s: the body goes on with %q, %v", way.name, b, err)
			}
			out.resp.Body.Close()
		}
		select {
		case <-gone:
		case <-o.ctx.Done():
			c.errorf("%s: the server does not hear of it", way.name)
		}
		leave()
		o.close()
	}
}

// connectionReused asks one after the other, and closes what it gets.
func connectionReused(c *check, w wire) {
	o := w.serve(c, func(rw http.ResponseWriter, r *http.Request) {
		see(r)
		status, _ := strconv.Atoi(r.Header.Get("X-Status"))
		rw.WriteHeader(status)
		if status != http.StatusNoContent {
			_, _ = io.WriteString(rw, `{"error":{"message":"no"}}`)
		}
	})
	defer o.close()
	rt := c.layer(o.base)
	ask := func(status int) (made int32) {
		before := o.conns.Load()
		req := o.request(http.MethodPost, strings.NewReader(payload))
		req.Header.Set("X-Status", strconv.Itoa(status))
		if out := send(rt, req); out.resp != nil {
			readAll(out.resp.Body)
		}
		return o.conns.Load() - before
	}
	for range 10 { // http.Transport may make two connections of HTTP/2 at first
		if ask(200) == 0 {
			break
		}
	}
	for _, status := range []int{200, 404, 401, 204, 422, 200, 400, 404} {
		if ask(status) != 0 {
			c.errorf("a %d after others needs a new connection", status)
		}
	}
}

// largeBodies sends and receives side by side.
func largeBodies(c *check, w wire) {
	o := w.serve(c, func(rw http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		_, _ = rw.Write(b)
	})
	defer o.close()
	rt := c.layer(o.base)
	var wg sync.WaitGroup
	for _, letter := range []byte("abcd") {
		wg.Go(func() {
			body := bytes.Repeat([]byte{letter, '\n'}, 50_000) // more than a window of HTTP/2
			resp := c.fetch("large bodies", rt, o.request(http.MethodPost, bytes.NewReader(body)))
			if resp == nil {
				return
			}
			b, err := io.ReadAll(resp.Body)
			resp.Body.Close()
			if !bytes.Equal(b, body) || err != nil {
				c.errorf("%d bytes come back as %d, %v", len(body), len(b), err)
			}
		})
	}
	wg.Wait()
}

// earlyAnswerOnWire has a server that answers before it has read a body which
// does not end. Only HTTP/2 lets a client see that for sure.
func earlyAnswerOnWire(c *check, w wire) {
	if w.major != 2 {
		return
	}
	o := w.serve(c, func(rw http.ResponseWriter, _ *http.Request) { rw.WriteHeader(http.StatusNotFound) })
	defer o.close()
	r, pipe := io.Pipe()
	defer pipe.Close()
	closed := make(chan struct{})
	req := o.request(http.MethodPost, struct {
		io.Reader
		io.Closer
	}{r, closerFunc(func() error { close(closed); return r.Close() })})
	began := time.Now()
	if out := send(c.layer(o.base), req); out.resp != nil {
		readAll(out.resp.Body)
	} else if o.ctx.Err() != nil {
		c.errorf("it returns %s after %v", out, time.Since(began))
	}
	select {
	case <-closed:
	case <-o.ctx.Done():
		c.errorf("the request's body is not closed")
	}
}

type closerFunc func() error

func (f closerFunc) Close() error { return f() }
