package sturdy

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"slices"
	"sync"
)

// replayBytes is how much of a body without GetBody is kept by default.
const replayBytes = 64 << 10

// A recording is a request's body that can be had only once, kept while it is sent
// so that further attempts can send it too. It is never read ahead: only when an
// attempt asks for bytes that none has had yet is the source read, by one read
// at a time. So a pipe may be written to slowly, and nothing is read before a
// server that is asked with Expect: 100-continue wants it.
//
// An attempt that was given up may still be sending, to a server that answered
// early. What it reads is not lost: the next one has it too.
type recording struct {
	source io.ReadCloser
	size   int // of the body, as the request has it

	mu      sync.Mutex
	moved   sync.Cond // something below has changed
	kept    []byte
	reading bool  // of the source
	err     error // what the source ended with
	thrown  any   // the value of a panic in source.Read
	attempt int   // the latest
	asked   int   // the latest that was read
	open    int   // bodies of the latest attempt that are not closed
	last    bool  // there will be no other
	closed  bool  // the source is
}

// keepBody has the body of req, an attempt, kept for the next.
func keepBody(req *http.Request) {
	r := &recording{source: req.Body, size: int(req.ContentLength)}
	r.moved.L = &r.mu
	req.Body, req.GetBody = r.next(), r.again
}

// next returns the body for another attempt.
func (r *recording) next() io.ReadCloser {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.attempt++
	r.open = 1
	return &replayBody{of: r, attempt: r.attempt}
}

var errStillSent = errors.New("sturdy: the body is still being sent, and cannot be had again")

// again is GetBody, for a transport that sends an attempt once more by itself.
// Such a one has closed the body that it had. Until then others who ask, such as
// those who count tokens, would read ahead.
func (r *recording) again() (io.ReadCloser, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case !r.sound():
		return nil, errors.New("sturdy: the body cannot be had again: it could not be read to its end")
	case r.err != nil:
		return io.NopCloser(bytes.NewReader(r.kept)), nil
	case r.last || r.open > 0:
		return nil, errStillSent
	}
	r.open++
	return &replayBody{of: r, attempt: r.attempt}, nil
}

// sound reports whether the source is, as far as it was read, the body that the
// request promises. It is called with the lock.
func (r *recording) sound() bool {
	return r.thrown == nil && (r.err == nil || r.err == io.EOF && len(r.kept) == r.size) //nolint:errorlint // a Reader returns io.EOF itself
}

// unread reports whether nothing of the latest attempt's body was read.
func (r *recording) unread() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.asked < r.attempt
}

// finish says that there will be no other attempt: the source is closed with the
// last body.
func (r *recording) finish() {
	r.mu.Lock()
	r.last = true
	_ = r.unlock() // nobody asks
}

// unlock gives the lock back, and closes the source if nobody needs it.
func (r *recording) unlock() error {
	due := r.last && r.open == 0 && !r.closed
	r.closed = r.closed || due
	r.mu.Unlock()
	if due {
		return r.source.Close()
	}
	return nil
}

// read has the source read, of which n bytes are wanted. It is called with the
// lock. The goroutine ends with the read, at the latest when the source is
// closed: the transport has to get its own back as soon as it closes the body,
// for which HTTP/2 waits, while the source remains open for the next attempt.
func (r *recording) read(n int) {
	if r.closed {
		r.err = http.ErrBodyReadAfterClose
		return
	}
	n = min(n, r.size+1-len(r.kept)) // one more than there may be shows that there are too many
	r.kept = slices.Grow(r.kept, n)
	r.reading = true
	end := len(r.kept) + n
	go r.fill(r.kept[len(r.kept):end:end])
}

func (r *recording) fill(room []byte) {
	n, err := 0, errors.New("sturdy: the request's body has ended the goroutine that read it")
	defer func() {
		thrown := recover() // belongs to whoever reads the body
		r.mu.Lock()
		defer r.mu.Unlock()
		r.kept = r.kept[:len(r.kept)+n]
		if len(r.kept) > r.size {
			err = io.EOF
		}
		r.err, r.thrown = err, thrown
		r.reading = false
		r.moved.Broadcast()
	}()
	got, end := r.source.Read(room)
	n, err = len(room[:got]), end // panics here if got is nonsense
}

// A replayBody is the body of one attempt.
type replayBody struct {
	of      *recording
	attempt int
	off     int // how much the attempt has
	closed  bool
}

func (b *replayBody) Read(p []byte) (int, error) {
	r := b.of
	r.mu.Lock()
	defer r.mu.Unlock()
	r.asked = max(r.asked, b.attempt)
	for asked := false; !b.closed; {
		switch {
		case b.off < len(r.kept):
			n := copy(p, r.kept[b.off:])
			b.off += n
			return n, nil
		case r.thrown != nil:
			panic(r.thrown)
		case r.err != nil:
			return 0, r.err
		case r.reading:
			r.moved.Wait()
		case asked || len(p) == 0:
			return 0, nil // as the source did
		default:
			r.read(len(p))
			asked = true
		}
	}
	return 0, http.ErrBodyReadAfterClose
}

func (b *replayBody) Close() error {
	r := b.of
	r.mu.Lock()
	if !b.closed {
		b.closed = true
		if b.attempt == r.attempt {
			r.open--
		}
		r.moved.Broadcast()
	}
	return r.unlock()
}
