package sturdytest

import (
	"cmp"
	"errors"
	"io"
	"net/http"
	"strconv"
	"sync"
	"time"
)

// errReadOnClosed is net/http's, which does not export it.
var errReadOnClosed = errors.New("http: read on closed response body")

// respond makes the response of the step as http.Transport would make it.
func (x *exchange) respond() *http.Response {
	s := &x.step
	if s.endless && len(s.Events) == 0 {
		s.Body = cmp.Or(s.Body, " ")
	}
	resp := &http.Response{
		Status:     s.status(),
		StatusCode: cmp.Or(s.Status, 200),
		Proto:      "HTTP/1.1",
		ProtoMajor: 1,
		ProtoMinor: 1,
		Header:     canonical(s.Header),
		Body:       http.NoBody,
		Request:    x.req,
	}
	frame(resp, s)
	record := &Response{Status: resp.StatusCode, Ended: true, Closed: 1}
	if resp.ContentLength != 0 && x.req.Method != http.MethodHead {
		record.Ended, record.Closed = false, 0
		resp.Body = &body{x: x, part: s.Body, due: time.Now(), left: resp.ContentLength, closed: make(chan struct{})}
	} else {
		x.finish()
	}
	x.note(func(r *Request) { r.Response = record })
	return resp
}

// canonical returns a copy of h with the keys in the form that a client sees.
func canonical(h http.Header) http.Header {
	c := make(http.Header)
	for key, values := range h {
		for _, v := range values {
			c.Add(key, v)
		}
	}
	return c
}

// frame sets how long the body is said to be. One that does not come to its
// end has no length, unless the step's header tells one.
func frame(resp *http.Response, s *Step) {
	declared, err := strconv.ParseInt(resp.Header.Get("Content-Length"), 10, 63)
	switch {
	case resp.StatusCode/100 == 1 || resp.StatusCode == 204 || resp.StatusCode == 304:
		resp.ContentLength = 0
	case err == nil && declared >= 0:
		resp.ContentLength = declared
	case s.endless || s.stall || s.BodyErr != nil || s.Events != nil:
		resp.ContentLength = -1
		resp.TransferEncoding = []string{"chunked"}
	default:
		resp.ContentLength = int64(len(s.Body))
		resp.Header.Set("Content-Length", strconv.Itoa(len(s.Body)))
	}
}

// A body is the body of a response. Only one goroutine reads it at a time;
// closing it is safe at any time.
type body struct {
	x    *exchange
	part string    // what is left of the step's Body, or of the last event that was due
	next int       // in the step's Events
	due  time.Time // of the last event
	left int64     // of the length that was declared; negative if none was
	err  error     // what reading it ended with

	closeOnce sync.Once
	closed    chan struct{}
}

// Read reads what the step has. Like that of net/http it gives io.EOF together
// with the last bytes if the length was declared.
func (b *body) Read(p []byte) (n int, err error) {
	select {
	case <-b.closed:
		b.note(func(r *Response) { r.LateReads++ })
		return 0, errReadOnClosed
	default:
	}
	if b.err != nil || len(p) == 0 {
		return 0, b.err
	}
	n, b.err = b.read(p)
	b.note(func(r *Response) {
		r.BytesRead += int64(n)
		r.Ended = b.err != nil && b.err != errReadOnClosed //nolint:errorlint // the value itself
	})
	if b.err != nil {
		b.x.finish()
	}
	return n, b.err
}

func (b *body) read(p []byte) (int, error) {
	s := &b.x.step
	if err := ended(b.x.req); err != nil {
		return 0, err
	}
	for b.part == "" {
		if err := b.advance(); err != nil {
			return 0, err
		}
	}
	if s.trickle > 0 {
		if err := b.sleep(s.trickle); err != nil {
			return 0, err
		}
		p = p[:1]
	}
	if b.left >= 0 {
		p = p[:min(int64(len(p)), b.left)]
	}
	n := copy(p, b.part)
	b.part = b.part[n:]
	for s.endless && len(s.Events) == 0 && n < len(p) {
		k := copy(p[n:], s.Body)
		b.part = s.Body[k:]
		n += k
	}
	if b.left > 0 {
		b.left -= int64(n)
		if b.left == 0 {
			return n, io.EOF
		}
	}
	return n, nil
}

// advance goes on to the next event when it is due, or to the body's end. An
// event is not late because the one before it was read late.
func (b *body) advance() error {
	s := &b.x.step
	switch {
	case b.next < len(s.Events):
		e := s.Events[b.next]
		b.due = b.due.Add(e.After)
		if err := b.sleep(time.Until(b.due)); err != nil {
			return err
		}
		b.part = e.Data
		b.next++
	case s.endless:
		b.part, b.next = s.Body, 0
	case s.stall:
		return b.wait(nil)
	default:
		return b.end()
	}
	return nil
}

// sleep waits for d, unless the body is closed or the request ends before.
func (b *body) sleep(d time.Duration) error {
	if d <= 0 {
		return nil
	}
	t := time.NewTimer(d)
	defer t.Stop()
	return b.wait(t.C)
}

// end returns what the body ends with after its last byte.
func (b *body) end() error {
	err := cmp.Or(b.x.step.BodyErr, io.EOF)
	if err == io.EOF && b.left > 0 { //nolint:errorlint // a Reader returns io.EOF itself
		return io.ErrUnexpectedEOF
	}
	return err
}

// wait returns nil when c brings something, and otherwise why nothing more
// comes. A nil c never brings anything.
func (b *body) wait(c <-chan time.Time) error {
	select {
	case <-c:
		return ended(b.x.req)
	case <-b.closed:
		return errReadOnClosed
	case <-b.x.req.Context().Done():
	case <-b.x.req.Cancel:
	}
	return ended(b.x.req)
}

// Close ends a read that is under way.
func (b *body) Close() error {
	b.note(func(r *Response) { r.Closed++ })
	b.closeOnce.Do(func() {
		close(b.closed)
		if b.x.onClose != nil {
			b.x.onClose()
		}
	})
	b.x.finish()
	return nil
}

func (b *body) note(f func(*Response)) { b.x.note(func(r *Request) { f(r.Response) }) }
