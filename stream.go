package sturdy

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"time"
)

// Stream is a layer that finds the errors that come after a 200. It passes the
// bytes of server-sent events (text/event-stream) and of lines of JSON (NDJSON)
// on as they come, and understands them as they pass.
//
// An event that is an error, in any of the shapes that APIs have for it, ends
// the body: the Read that follows its bytes returns an *[Error] with its class.
// A stream that ends without its last event returns an [ErrConnection] that
// wraps io.ErrUnexpectedEOF instead of a clean end; so does, with its own cause,
// one whose connection breaks. The last event is demanded of those streams that
// are known to have one: [DONE] of a chat completion, response.completed or
// response.incomplete of OpenAI's responses, message_stop of Anthropic, "done"
// of Ollama, a finishReason of Gemini. Any other stream ends when it ends, but
// for one in which nothing came, in answer to a POST. A body that is compressed
// is not looked into.
//
// Below a [Retry] an error that comes before any content is judged like that of
// an answer, and may be retried: Retry and the other layers above wait for the
// first event with content, up to FirstEvent, before they hand the answer on.
// So does [Check]. They also look at what a body of JSON begins with, as some
// APIs send errors as whole bodies under a 200.
//
// Of an event, at most 1 MiB is held and looked at. The zero value is ready to
// use. It belongs below the layers that are to learn of its errors:
//
//	client := &http.Client{Transport: &sturdy.Transport{
//		Base:    &sturdy.Stream{},
//		Timeout: sturdy.Timeout{Idle: time.Minute},
//	}}
type Stream struct {
	Base       http.RoundTripper            // sends the requests; nil means http.DefaultTransport
	FirstEvent time.Duration                // for which the layers above, or Check, wait for content; zero means 10s, negative means that they do not ask
	NoDone     bool                         // the server sends no [DONE]: a finish_reason ends its chat completions
	Observe    func(context.Context, Event) // is told of streams that fail; nil means nobody watches

	idle idleCloser
}

// RoundTrip sends req, and watches the body of the answer if it is a stream.
func (s *Stream) RoundTrip(req *http.Request) (*http.Response, error) {
	return enter(s, req, s.roundTrip)
}

func (s *Stream) roundTrip(req *http.Request) (*http.Response, error) {
	resp, err := send(baseOf(s.Base), req)
	if err != nil {
		return nil, err
	}
	f := formatOf(resp)
	if f == 0 {
		answerTo(req, req, resp)
		return resp, nil
	}
	o := &opening{exchange: exchangeOf(req, resp), wait: cmp.Or(s.FirstEvent, 10*time.Second)}
	if o.whole = f == formatJSON; !o.whole {
		o.stream = &streamBody{ReadCloser: resp.Body, exchange: o.exchange, events: events{format: f}, noDone: s.NoDone, observe: s.Observe}
		resp.Body = o.stream
	}
	if o.wait > 0 {
		carry(resp, &verdict{resp: resp, opening: o, sent: o.sent})
	}
	answerTo(req, req, resp)
	return resp, nil
}

// CloseIdleConnections closes those of Base.
func (s *Stream) CloseIdleConnections() { s.idle.closeIdle(s.Base) }

// An opening is what the body of a 200 begins with: of a stream, all that comes
// before its content. An answer that fails in it has failed.
type opening struct {
	*exchange
	stream *streamBody // nil for a body that is one JSON value
	head   jsonHead    // of such a body
	wait   time.Duration
}

// judge reads ahead in resp's body, until it is clear what it is.
func (o *opening) judge(req *http.Request, resp *http.Response) *Error {
	p := &peeked{body: resp.Body, enough: o.over}
	resp.Body = p
	p.await(orEmpty(req), o.wait)
	if o.stream == nil {
		return o.judgeJSON(p.bytes())
	}
	// Whatever has ended the stream is what its reader will see: a layer between
	// may have, such as Timeout.
	e, _ := errors.AsType[*Error](p.failure())
	if e == nil || o.stream.begun {
		return nil
	}
	return e
}

// over reports whether a body that begins with ahead is past its opening.
func (o *opening) over(ahead []byte) bool {
	if o.stream != nil {
		return o.stream.begun
	}
	o.head.look(ahead)
	return !o.head.likeError()
}

// judgeJSON judges a body that is one JSON value.
func (o *opening) judgeJSON(body []byte, whole bool) *Error {
	v := value(bytes.TrimSpace(body))
	if !whole || !beginsLikeError(v) {
		return nil
	}
	if v.isList() {
		for v = range v.elements() {
			break
		}
	}
	if !isError(event{data: v}) {
		return nil
	}
	s := readData(v)
	e := o.says(s)
	if e.Class == ErrInternalServer && s.http == 0 && member(v, "error").isText() {
		return nil // words that nobody knows may be no failure: OAuth has some for a client that is to wait
	}
	return e
}

// beginsLikeError reports whether a body of JSON that begins so may be an error.
func beginsLikeError(body []byte) bool {
	var h jsonHead
	h.look(body)
	return h.likeError()
}

// A jsonHead is what a body of JSON begins with, without blanks. It looks at each byte
// once, however few of them come at a time.
type jsonHead struct {
	seen  int // of the body
	bytes [len(typeError)]byte
	n     int
}

const typeError = `{"type":"error"`

func (h *jsonHead) look(body []byte) {
	for ; h.seen < len(body) && h.n < len(h.bytes); h.seen++ {
		c := body[h.seen]
		if strings.IndexByte(" \t\r\n[", c) >= 0 {
			continue // some come as a list
		}
		h.bytes[h.n] = c
		h.n++
	}
}

// likeError reports whether it may be that of an error.
func (h *jsonHead) likeError() bool {
	return slices.ContainsFunc([]string{`{"error":`, typeError}, func(s string) bool {
		n := min(len(s), h.n)
		return s[:n] == string(h.bytes[:n])
	})
}

// A streamBody is the body of a stream, whose events it sees as they pass.
type streamBody struct {
	io.ReadCloser
	*exchange
	observe func(context.Context, Event)
	noDone  bool
	closed  atomic.Bool

	// Of the reader.
	events  events
	dialect *dialect // nil if it is not known
	seen    int      // how many events were asked for it
	begun   bool     // there was content
	whole   bool     // there was the last event
	same    []byte   // what events begin with that do not speak of an error
	err     error    // what the body ended with
}

func (b *streamBody) Read(p []byte) (int, error) {
	if b.err != nil {
		return 0, b.err
	}
	n, err := b.ReadCloser.Read(p)
	if n = b.pass(p[:n]); b.err != nil {
		return n, nil //nolint:nilerr // the next Read returns it
	}
	if err != nil {
		b.err = b.end(err)
	}
	return n, b.err
}

func (b *streamBody) Close() error {
	b.closed.Store(true)
	return b.ReadCloser.Close()
}

// pass sees the events that end in p. If one is an error, the body ends with it,
// after n bytes.
func (b *streamBody) pass(p []byte) (n int) {
	for n < len(p) && b.err == nil {
		taken, ev := b.events.next(p[n:])
		n += taken
		b.err = b.see(ev)
	}
	return n
}

// see takes note of an event. If it is an error, it returns that.
func (b *streamBody) see(ev event) error {
	if ev.data == nil {
		return nil
	}
	if b.mayBeError(ev) && isError(ev) {
		return b.failed(b.says(readData(ev.data)))
	}
	if b.dialect == nil && b.seen < dialectEvents {
		b.seen++
		b.dialect = dialectOf(ev)
	}
	if b.dialect != nil && !b.whole {
		b.whole = b.dialect.ends(ev) || b.noDone && hasValue(ev.data, "finish_reason")
	}
	b.begun = b.begun || !isPreamble(ev)
	return nil
}

// mayBeError reports whether an event speaks of an error, as few do. Those of a
// stream begin alike, so that little of one is new.
func (b *streamBody) mayBeError(ev event) bool {
	if ev.name != nil {
		return true
	}
	if !bytes.HasPrefix(ev.data, b.same) {
		b.same = commonPrefix(ev.data, b.same)
	}
	word := []byte(`"error"`)
	if bytes.Contains(ev.data[max(len(b.same)-len(word), 0):], word) {
		return true
	}
	if b.same == nil {
		b.same = bytes.Clone(ev.data[:min(len(ev.data), 512)])
	}
	return false
}

// end returns what the stream ends with, if its body ends with err.
func (b *streamBody) end(err error) error {
	switch {
	case b.closed.Load():
		return err
	case err == io.EOF: //nolint:errorlint // a Reader returns io.EOF itself
		if e := b.see(b.events.rest()); e != nil {
			return e
		}
		if b.isWhole() {
			return io.EOF
		}
		return b.failed(b.broke(ErrConnection, errCut))
	}
	e, anew := judgeNoAnswer(b.req, err)
	if e.Class == 0 || !anew {
		return err // the caller's own doing, or told already
	}
	broken := b.broke(e.Class, err)
	broken.again = e.again
	return b.failed(broken)
}

// isWhole reports whether the stream may end here. One that is asked for with a
// POST is the answer to it, and cannot be nothing at all.
func (b *streamBody) isWhole() bool {
	if b.dialect == nil {
		return b.events.begun || b.events.format != formatSSE || b.req.Method != http.MethodPost
	}
	return b.whole
}

// failed has the body end with e, whatever those do who are told of it.
func (b *streamBody) failed(e *Error) error {
	b.err = e
	watchers{b.observe}.see(b.req, Event{Kind: EventBroken, Attempt: e.Attempts, Err: e})
	return e
}

var errCut = fmt.Errorf("sturdy: the stream ended before its last event: %w", io.ErrUnexpectedEOF)

// A dialect is how the streams of an API look.
type dialect struct {
	begins func(event) bool // an event that only this dialect has
	ends   func(event) bool // the last event, or one without which the answer is not whole
}

// dialectEvents is how many events a stream has to show its dialect. Streams of
// unknown events cost less afterwards.
const dialectEvents = 16

var dialects = [...]dialect{
	{ // OpenAI's chat completions and all that are modelled on them, its assistants
		begins: func(ev event) bool {
			return member(ev.data, "choices").isList() || bytes.HasPrefix(ev.name, []byte("thread."))
		},
		ends: func(ev event) bool { return string(ev.data) == "[DONE]" },
	},
	{ // OpenAI's responses
		begins: func(ev event) bool { return bytes.HasPrefix(kind(ev), []byte("response.")) },
		ends: func(ev event) bool {
			return slices.Contains([]string{"response.completed", "response.incomplete", "response.failed", "response.cancelled"}, string(kind(ev)))
		},
	},
	{ // Anthropic's messages
		begins: func(ev event) bool { return string(kind(ev)) == "message_start" },
		ends:   func(ev event) bool { return string(kind(ev)) == "message_stop" },
	},
	{ // Ollama
		begins: func(ev event) bool { return member(ev.data, "done") != nil && member(ev.data, "model") != nil },
		ends: func(ev event) bool {
			return bytes.Contains(ev.data, []byte("true")) && string(member(ev.data, "done")) == "true"
		},
	},
	{ // Gemini
		begins: func(ev event) bool { return member(ev.data, "candidates").isList() },
		ends:   func(ev event) bool { return hasValue(ev.data, "finishReason") },
	},
}

func dialectOf(ev event) *dialect {
	for i := range dialects {
		if d := &dialects[i]; d.begins(ev) {
			return d
		}
	}
	return nil
}

// isError reports whether an event says that the stream has failed. Most events
// have no such word in them.
func isError(ev event) bool {
	if string(ev.name) == "error" || string(ev.name) == "response.failed" {
		return true
	}
	if !bytes.Contains(ev.data, []byte(`"error"`)) || !ev.data.isObject() {
		return false
	}
	switch t := member(ev.data, "type").text(); t {
	case "error", "response.failed":
		return true
	}
	switch e := member(ev.data, "error"); string(e) {
	case "", "null", "false", "0", `""`:
		return false
	default:
		return len(bytes.Trim(e, "{}[] \t\r\n")) > 0
	}
}

// isPreamble reports whether an event comes before any content. A model that is
// overloaded often says so only after it.
func isPreamble(ev event) bool {
	switch string(kind(ev)) {
	case "response.created", "response.queued", "response.in_progress", "message_start", "ping":
		return true
	}
	choices := member(ev.data, "choices")
	if !choices.isList() {
		return false
	}
	for choice := range choices.elements() {
		if !choice.isObject() || member(choice, "delta") == nil || hasValue(choice, "finish_reason") {
			return false
		}
		for name, part := range member(choice, "delta").members() {
			if string(name) != "role" && string(part) != `""` && string(part) != "null" {
				return false
			}
		}
	}
	return true
}

func commonPrefix(a, b []byte) []byte {
	n := 0
	for n < min(len(a), len(b)) && a[n] == b[n] {
		n++
	}
	return b[:n]
}

// kind is what an event is called: by its field, or in its data.
func kind(ev event) []byte {
	if ev.name != nil {
		return ev.name
	}
	return bytes.Trim(member(ev.data, "type"), `"`)
}
