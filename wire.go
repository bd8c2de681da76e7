package sturdy

import (
	"bytes"
	"compress/gzip"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// said is what the body of an error says, whatever shape it came in.
type said struct {
	code, kind, param, message, requestID string

	http      int           // the status that the body names; of several, the outermost
	status    string        // Google's word for a status, such as "RESOURCE_EXHAUSTED"
	reasons   []string      // further codes, beside or below the main one
	quotas    []string      // ids of the quotas that were exceeded
	retryable string        // "true" or "false", where the body says so
	wait      time.Duration // where the body names it; 0 if it does not
}

// An object is any JSON object that an error body may have in it. The shapes of
// all servers are laid over one another: none uses a name for another thing.
type object struct {
	err, errors, message, msg, detail, details, description, title                                 value // what went wrong, in words or in a further object
	code, errorCode, awsType, kind, errorType, atType, param, status, reason, requestID, retryable value
	inner, innerToo, metadata, raw, response, violations, quotaID, quotaLimit, source              value // further in: details, and what an upstream server said
	retryDelay, retryAfter, estimatedTime                                                          value
}

// objectOf reads the members of a JSON object that an error may have.
func objectOf(v value) (o object) {
	for name, member := range v.members() {
		if field := o.field(name); field != nil {
			*field = member
		}
	}
	return o
}

//nolint:gocyclo // a table
func (o *object) field(name []byte) *value {
	switch string(name) {
	case "error": // an object, or a message
		return &o.err
	case "errors":
		return &o.errors
	case "message", "Message": // a text, a list of them, or an object
		return &o.message
	case "msg":
		return &o.msg
	case "detail": // RFC 9457, FastAPI
		return &o.detail
	case "details":
		return &o.details
	case "error_description": // RFC 6749
		return &o.description
	case "title":
		return &o.title
	case "code":
		return &o.code
	case "error_code":
		return &o.errorCode
	case "__type":
		return &o.awsType
	case "type":
		return &o.kind
	case "error_type":
		return &o.errorType
	case "@type":
		return &o.atType
	case "param":
		return &o.param
	case "status":
		return &o.status
	case "reason":
		return &o.reason
	case "request_id":
		return &o.requestID
	case "retryable":
		return &o.retryable
	case "innererror":
		return &o.inner
	case "inner_error":
		return &o.innerToo
	case "metadata":
		return &o.metadata
	case "raw": // what an upstream server said
		return &o.raw
	case "response":
		return &o.response
	case "violations":
		return &o.violations
	case "quotaId":
		return &o.quotaID
	case "quota_limit":
		return &o.quotaLimit
	case "limit_source":
		return &o.source
	case "retryDelay":
		return &o.retryDelay
	case "retry_after":
		return &o.retryAfter
	case "estimated_time":
		return &o.estimatedTime
	}
	return nil
}

// textBytes is how much of a text is read: more than a message needs, and less
// than a hostile server may send.
const textBytes = 8 << 10

// maxDepth is how many objects deep an error may be: a gateway's error, in it
// an upstream server's as text, in it a list of details, in it their members.
const maxDepth = 8

// unpacked returns a body as text, at most peekBytes of it. net/http unpacks
// only what it asked for itself.
func unpacked(h http.Header, body []byte) []byte {
	if !strings.EqualFold(h.Get("Content-Encoding"), "gzip") || !bytes.HasPrefix(body, []byte{0x1f, 0x8b}) {
		return body
	}
	r, err := gzip.NewReader(bytes.NewReader(body))
	if err != nil {
		return nil
	}
	// Cut short or corrupt, what came before is worth reading.
	text := make([]byte, peekBytes)
	n, _ := io.ReadFull(r, text)
	return text[:n]
}

// readBody reads the body of an error of any server, or as much as there is.
func readBody(body []byte) said {
	return readData(firstEvent(bytes.TrimSpace(bytes.TrimPrefix(body, []byte("\ufeff")))))
}

// readData reads the body of an error, or the data of an event that is one.
func readData(data value) (s said) {
	if data.isObject() || data.isList() {
		s.read(data, maxDepth)
	} else {
		s.message = plainText(data)
	}
	return s
}

// read takes up what a JSON value says. What was said before, further in, is
// not overwritten: it is nearer to the cause.
func (s *said) read(v value, depth int) {
	switch {
	case depth == 0:
	case v.isText():
		s.readText(v.text(), depth)
	case v.isList():
		n := 0
		for member := range v.elements() {
			s.read(member, depth-1)
			if n++; n == 16 {
				break // the first that is about an error counts, the others add to it
			}
		}
	case v.isObject():
		o := objectOf(v)
		s.readObject(&o, depth)
	}
}

// readText takes a text as the message. Gateways put the upstream server's
// error into it as JSON.
func (s *said) readText(t string, depth int) {
	if strings.HasPrefix(strings.TrimSpace(t), "{") {
		s.read(value(strings.TrimSpace(t)), depth-1)
	}
	set(&s.message, t)
}

func (s *said) readObject(o *object, depth int) {
	// The cause lies deepest. A "type" of "error" only says that this is one.
	s.read(o.metadata, depth-1)
	s.read(o.raw, depth-1)
	s.read(o.response, depth-1)
	if o.err.isObject() || o.err.isList() || o.message.isObject() {
		s.read(o.err, depth-1)
		if o.message.isObject() {
			s.read(o.message, depth-1)
		}
	}

	if t := o.err.text(); t != "" { // a message, or a code with its description
		if description := o.description.text(); description != "" {
			set(&s.code, t)
			set(&s.message, description)
		}
		s.readText(t, depth)
	}
	if !o.message.isObject() {
		if o.message.isList() {
			set(&s.message, string(o.message))
		}
		s.readText(o.message.text(), depth)
	}

	kind := o.kind.text()
	if kind == "error" || strings.HasPrefix(o.atType.text(), "type.googleapis.com/") {
		kind = ""
	}
	set(&s.code, o.code.text(), o.errorCode.text(), lastOf(o.awsType.text(), '#'))
	if code := o.code.text(); len(code) == 3 && (code[0] == '4' || code[0] == '5') {
		if status, err := strconv.Atoi(code); err == nil {
			s.http = status
		}
	}
	set(&s.kind, kind, o.errorType.text())
	set(&s.param, o.param.text())
	set(&s.status, o.status.text())
	set(&s.requestID, o.requestID.text())
	set(&s.retryable, string(o.retryable))
	set(&s.message, o.detail.text(), o.msg.text(), o.title.text())
	for _, t := range [...]value{o.reason, o.source} {
		if t := t.text(); t != "" {
			s.reasons = append(s.reasons, t)
		}
	}
	for _, t := range [...]value{o.quotaID, o.quotaLimit} {
		if t := t.text(); t != "" {
			s.quotas = append(s.quotas, t)
		}
	}
	s.readWait(o)

	// What is below these adds to what was said, and is no error by itself.
	for _, more := range [...]value{o.details, o.errors, o.detail, o.violations, o.inner, o.innerToo} {
		if more.isObject() || more.isList() {
			s.readMore(more, depth-1)
		}
	}
}

// readMore takes up details: their codes are reasons, their messages count if
// there is no other.
func (s *said) readMore(v value, depth int) {
	var more said
	more.read(v, depth)
	for _, code := range [...]string{more.code, more.kind} {
		if code != "" {
			s.reasons = append(s.reasons, code)
		}
	}
	s.reasons = append(s.reasons, more.reasons...)
	s.quotas = append(s.quotas, more.quotas...)
	set(&s.message, more.message)
	if s.wait == 0 {
		s.wait = more.wait
	}
}

func (s *said) readWait(o *object) {
	if s.wait != 0 {
		return
	}
	if d, ok := protobufDuration(o.retryDelay.text()); ok {
		s.wait = d
		return
	}
	for _, seconds := range [...]value{o.retryAfter, o.estimatedTime} {
		if d, ok := parseWait(seconds.text(), time.Second); ok {
			s.wait = d
			return
		}
	}
}

// set sets an unset field to the first value that is one.
func set(field *string, values ...string) {
	for _, v := range values {
		if *field == "" {
			*field = v
		}
	}
}

// firstEvent returns the data of the first error in a stream of events, or body
// itself if it is no stream. llama.cpp has a field of its own for it.
func firstEvent(body []byte) []byte {
	if !bytes.HasPrefix(body, []byte("data:")) && !bytes.HasPrefix(body, []byte("event:")) &&
		!bytes.HasPrefix(body, []byte("error:")) && !bytes.HasPrefix(body, []byte(":")) {
		return body
	}
	for line := range bytes.Lines(body) {
		for _, field := range [...]string{"data:", "error:"} {
			if value, ok := bytes.CutPrefix(line, []byte(field)); ok {
				return bytes.TrimSpace(value)
			}
		}
	}
	return nil
}

// plainText makes a message of a body that is not JSON: of a page of HTML, its
// title.
func plainText(body []byte) string {
	page := cutText(string(body[:min(len(body), textBytes+1)]), textBytes)
	lower := lowerASCII(page)
	from := strings.Index(lower, "<title>")
	if from < 0 && !strings.HasPrefix(lower, "<!doctype html") && !strings.HasPrefix(lower, "<html") {
		return page
	}
	if from < 0 {
		return ""
	}
	from += len("<title>")
	title, _, ok := strings.Cut(lower[from:], "</title>")
	if !ok {
		return ""
	}
	return strings.TrimSpace(page[from : from+len(title)])
}

// lowerASCII returns s with its ASCII letters in lower case. Unlike that of
// strings.ToLower, every byte stays where it is, also where s is not UTF-8.
func lowerASCII(s string) string {
	b := []byte(s)
	for i, c := range b {
		if 'A' <= c && c <= 'Z' {
			b[i] = c + 'a' - 'A'
		}
	}
	return string(b)
}

// beforeAny returns s up to the first of any of these characters.
func beforeAny(s, chars string) string {
	if i := strings.IndexAny(s, chars); i >= 0 {
		return s[:i]
	}
	return s
}

// lastOf returns what follows the last sep in s: s itself without one.
func lastOf(s string, sep byte) string { return s[strings.LastIndexByte(s, sep)+1:] }
