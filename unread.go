package sturdy

import (
	"bytes"
	"io"
	"net/http"
	"reflect"
	"strings"
	"sync/atomic"
)

// A notedBody notes whether it was read.
type notedBody struct {
	io.ReadCloser
	read atomic.Bool
}

func (b *notedBody) Read(p []byte) (int, error) {
	b.read.Store(true)
	return b.ReadCloser.Read(p)
}

// noteReads has it noted whether the body of req, an attempt, is read. One that
// shows how much is left of it stays as it is: net/http knows such readers, and
// sends them in fewer packets.
func noteReads(req *http.Request) {
	if _, kept := req.Body.(*replayBody); !kept && hasBody(req) && !allLeft(req) {
		req.Body = &notedBody{ReadCloser: req.Body}
	}
}

// unread reports whether nothing of an attempt's body was read. Of one that was
// read, an error that says that nothing was sent may tell half of the story: a
// base that sends again by itself, and could not connect the second time.
func unread(req *http.Request) bool {
	switch b := req.Body.(type) {
	case *replayBody:
		return b.of.unread()
	case *notedBody:
		return !b.read.Load()
	}
	return !hasBody(req) || allLeft(req)
}

// allLeft reports whether req's body is one in memory of which nothing was read.
func allLeft(req *http.Request) bool {
	left, ok := inMemory(req.Body)
	return ok && int64(left) == req.ContentLength
}

var (
	nopCloserType         = reflect.TypeOf(io.NopCloser(nil))
	nopCloserWriterToType = reflect.TypeOf(io.NopCloser(struct {
		io.Reader
		io.WriterTo
	}{}))
)

// inMemory returns how many bytes are left in a body of those that
// http.NewRequest knows the length of, and puts in an io.NopCloser.
func inMemory(body any) (left int, ok bool) {
	if t := reflect.TypeOf(body); t == nopCloserType || t == nopCloserWriterToType {
		body = reflect.ValueOf(body).Field(0).Interface()
	}
	switch r := body.(type) {
	case *bytes.Reader:
		return r.Len(), true
	case *bytes.Buffer:
		return r.Len(), true
	case *strings.Reader:
		return r.Len(), true
	}
	return 0, false
}
