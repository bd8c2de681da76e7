package sturdy

import (
	"errors"
	"io"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// How much of a body is looked at or thrown away, and for how long. A server
// that dribbles must cost neither memory nor time.
const (
	peekBytes  = 64 << 10
	peekTime   = 250 * time.Millisecond
	drainBytes = 16 << 10
	drainTime  = 50 * time.Millisecond
)

func hasBody(req *http.Request) bool { return req.Body != nil && req.Body != http.NoBody }

// closeBody closes the body of a request that is not sent, as the contract of
// http.RoundTripper wants it.
func closeBody(req *http.Request) {
	if req.Body != nil {
		req.Body.Close()
	}
}

// replayable reports whether req's body can be had once more.
func replayable(req *http.Request) bool {
	if b, ok := req.Body.(*replayBody); ok {
		b.of.mu.Lock()
		defer b.of.mu.Unlock()
		return b.of.sound()
	}
	return !hasBody(req) || req.GetBody != nil
}

// fresh returns a copy of req with a fresh body. Nobody may rewind the last
// one: a server that answers early leaves a transport still reading it.
func fresh(req *http.Request) (*http.Request, error) {
	next := req.WithContext(req.Context())
	if !hasBody(req) {
		return next, nil
	}
	if b, ok := req.Body.(*replayBody); ok {
		next.Body = b.of.next()
		return next, nil
	}
	body, err := req.GetBody()
	if err != nil {
		return nil, err
	}
	if body == nil {
		return nil, errors.New("sturdy: Request.GetBody returned nothing")
	}
	next.Body = body
	if !idempotent(req) {
		noteReads(next)
	}
	return next, nil
}

// A peeked body may be read ahead of its reader, who gets every byte of it still.
type peeked struct {
	body   io.ReadCloser
	enough func(ahead []byte) bool // nothing more need be read ahead; nil means never
	closed atomic.Bool
	done   <-chan struct{} // closed when nothing reads ahead any more; nil if nothing ever did
	shut   chan struct{}   // closed when the body is; nil if nothing ever read ahead

	mu     sync.Mutex
	ahead  []byte // what was read ahead
	err    error  // what ended the body, if that was seen
	stop   bool   // enough
	thrown any    // the value of a panic in body.Read

	off    int  // how much of ahead the reader has
	direct bool // it has all of that, and reads on by itself

	verdict *verdict // what travels with the answer; or nil
}

// readBefore returns a body of which all was read ahead.
func readBefore(all []byte) *peeked {
	return &peeked{body: http.NoBody, done: closedChan(), shut: make(chan struct{}), ahead: all, err: io.EOF}
}

// peek returns a body that reads as body does, after it has read ahead for at
// most peekTime and peekBytes. The read that is under way when time is up goes
// on, in a goroutine that ends with it: at the latest when the body is closed.
func peek(req *http.Request, body io.ReadCloser) *peeked {
	p, ok := body.(*peeked)
	if !ok {
		p = &peeked{body: body}
	}
	p.await(req, peekTime)
	return p
}

// await reads ahead for at most d.
func (p *peeked) await(req *http.Request, d time.Duration) {
	p.resume()
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-p.done:
	case <-t.C:
	case <-req.Context().Done():
	case <-cancelled(req):
	}
	p.mu.Lock()
	p.stop = true
	p.mu.Unlock()
}

// resume reads ahead, unless somebody does, or all was read that may be.
func (p *peeked) resume() {
	p.mu.Lock()
	p.stop = false
	p.mu.Unlock()
	if p.done != nil {
		select {
		case <-p.done:
		default:
			return
		}
		if !p.late() {
			return
		}
	}
	done := make(chan struct{})
	p.done, p.direct = done, false
	if p.shut == nil {
		p.shut = make(chan struct{})
	}
	go p.readAhead(done)
}

func (p *peeked) readAhead(done chan<- struct{}) {
	defer close(done)
	defer func() {
		// The panic belongs to whoever reads the body.
		if v := recover(); v != nil {
			p.mu.Lock()
			p.thrown = v
			p.mu.Unlock()
		}
	}()
	buf := make([]byte, 1<<10)
	for {
		n, err := p.body.Read(buf[:min(len(buf), peekBytes-len(p.ahead))])
		got := buf[:n] // panics here, without the lock, if n is nonsense
		p.mu.Lock()
		if len(p.ahead)+n > cap(p.ahead) {
			p.ahead = slices.Grow(p.ahead, max(n, min(3*cap(p.ahead), peekBytes-len(p.ahead))))
		}
		p.ahead = append(p.ahead, got...)
		p.err = err
		stop := p.stop || err != nil || len(p.ahead) >= peekBytes || p.enough != nil && p.enough(p.ahead)
		p.mu.Unlock()
		if stop {
			return
		}
	}
}

// bytes returns what was read ahead, and whether that is the whole body.
func (p *peeked) bytes() (ahead []byte, whole bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.ahead, p.err == io.EOF //nolint:errorlint // a Reader returns io.EOF itself
}

// failure returns the error that ended the body before its time, if that was
// seen.
func (p *peeked) failure() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.err == io.EOF { //nolint:errorlint // a Reader returns io.EOF itself
		return nil
	}
	return p.err
}

// late reports whether more may come than was read ahead in time.
func (p *peeked) late() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.err == nil && p.thrown == nil && len(p.ahead) < peekBytes
}

// more waits at most for d until more of the body than was read ahead may be
// there, and reports whether it is.
func (p *peeked) more(req *http.Request, d time.Duration) bool {
	if d <= 0 {
		return false
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-p.done:
		return true
	case <-t.C:
	case <-req.Context().Done():
	case <-cancelled(req):
	}
	return false
}

// Read returns what was read ahead as soon as it is there, and after that what
// the read that is under way brings.
func (p *peeked) Read(b []byte) (int, error) {
	if p.closed.Load() {
		return 0, http.ErrBodyReadAfterClose
	}
	if p.done == nil || p.direct {
		return p.body.Read(b)
	}
	if n, ok := p.take(b); ok {
		return n, nil
	}
	select {
	case <-p.done:
	case <-p.shut:
		return 0, http.ErrBodyReadAfterClose
	}
	n, ok := p.take(b)
	switch {
	case ok:
		return n, nil
	case p.thrown != nil:
		panic(p.thrown)
	case p.err != nil:
		return 0, p.err
	}
	p.direct = true
	return p.body.Read(b)
}

// take copies to b what was read ahead and the reader does not have yet, and
// reports whether there is any.
func (p *peeked) take(b []byte) (n int, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.off == len(p.ahead) {
		return 0, false
	}
	n = copy(b, p.ahead[p.off:])
	p.off += n
	return n, true
}

// Close does not wait for long for a read that is under way, though the body's Close
// may: that of an answer which net/http unpacks waits for the read of gzip's header.
func (p *peeked) Close() error {
	first := !p.closed.Swap(true)
	if p.done == nil {
		return p.body.Close()
	}
	if first {
		close(p.shut)
	}
	select {
	case <-p.done:
		return p.body.Close()
	default:
	}
	closed := make(chan error, 1)
	go func() {
		defer func() { _ = recover() }() // as long as it is read, a panic is nobody's
		closed <- p.body.Close()
	}()
	t := time.NewTimer(drainTime)
	defer t.Stop()
	select {
	case err := <-closed:
		return err
	case <-t.C:
		return nil
	}
}

// discard gives up the answer with this body: it reads the little that is left,
// so that the connection can be used again, and closes it. It returns at once;
// the channel is closed when the body is, or when drainTime is over.
func discard(body io.ReadCloser) <-chan struct{} {
	if p, ok := body.(*peeked); ok {
		if _, whole := p.bytes(); whole {
			p.Close()
			return closedChan()
		}
	}
	done := make(chan struct{})
	tell := sync.OnceFunc(func() { close(done) })
	end := sync.OnceFunc(func() {
		// A body that panics is no worse than one that ends: nobody reads it.
		defer func() { _ = recover() }()
		body.Close()
	})
	timer := time.AfterFunc(drainTime, func() {
		tell() // whatever Close does
		end()
	})
	go func() {
		defer func() { _ = recover() }()
		defer tell()
		defer end()
		defer timer.Stop()
		_, _ = io.CopyN(io.Discard, body, drainBytes)
	}()
	return done
}

func closedChan() <-chan struct{} {
	c := make(chan struct{})
	close(c)
	return c
}

// onEnd returns body with f called once, when it ends: with nil at its end of
// file or when it is closed, and with the error that reading it met before.
// What a read returns because the body was closed is no such error. The body of
// a 101 keeps its io.Writer, and any body its io.WriterTo.
func onEnd(body io.ReadCloser, f func(error)) io.ReadCloser {
	h := &hooked{ReadCloser: body, f: f}
	w, isWriter := body.(io.Writer)
	_, isWriterTo := body.(io.WriterTo)
	switch {
	case isWriter && isWriterTo:
		return struct {
			hookedWriterTo
			io.Writer
		}{hookedWriterTo{h}, w}
	case isWriter:
		return struct {
			*hooked
			io.Writer
		}{h, w}
	case isWriterTo:
		return hookedWriterTo{h}
	}
	return h
}

type hooked struct {
	io.ReadCloser
	f      func(error)
	closed atomic.Bool
	once   sync.Once
}

func (h *hooked) end(err error) { h.once.Do(func() { h.f(err) }) }

func (h *hooked) Read(p []byte) (int, error) {
	n, err := h.ReadCloser.Read(p)
	if err != nil {
		h.broke(err)
	}
	return n, err
}

// broke tells of the error that the body ended with, unless it was closed: then
// Close does.
func (h *hooked) broke(err error) {
	switch {
	case err == io.EOF: //nolint:errorlint // a Reader returns io.EOF itself
		h.end(nil)
	case !h.closed.Load():
		h.end(err)
	}
}

func (h *hooked) Close() error {
	h.closed.Store(true)
	defer h.end(nil)
	return h.ReadCloser.Close()
}

type hookedWriterTo struct{ *hooked }

func (h hookedWriterTo) WriteTo(w io.Writer) (int64, error) {
	to := &writerThatFails{Writer: w}
	n, err := h.ReadCloser.(io.WriterTo).WriteTo(to) //nolint:forcetypeassert // onEnd has asked
	switch {
	case err == nil:
		h.end(nil)
	case !to.failed:
		h.broke(err)
	}
	return n, err
}

// writerThatFails tells whether an error is its own, and not of the body that is
// written to it.
type writerThatFails struct {
	io.Writer
	failed bool
}

func (w *writerThatFails) Write(p []byte) (int, error) {
	n, err := w.Writer.Write(p)
	w.failed = w.failed || err != nil || n < len(p)
	return n, err
}
