package sturdy

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"io"
	"math"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
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
	Error       json.RawMessage `json:"error"` // an object, or a message
	Errors      json.RawMessage `json:"errors"`
	Message     json.RawMessage `json:"message"` // a text, a list of them, or an object
	Msg         json.RawMessage `json:"msg"`
	Detail      json.RawMessage `json:"detail"` // RFC 9457, FastAPI
	Details     json.RawMessage `json:"details"`
	Description json.RawMessage `json:"error_description"` // RFC 6749
	Title       json.RawMessage `json:"title"`

	Code      json.RawMessage `json:"code"`
	ErrorCode json.RawMessage `json:"error_code"`
	AWSType   json.RawMessage `json:"__type"`
	Type      json.RawMessage `json:"type"`
	ErrorType json.RawMessage `json:"error_type"`
	AtType    json.RawMessage `json:"@type"`
	Param     json.RawMessage `json:"param"`
	Status    json.RawMessage `json:"status"`
	Reason    json.RawMessage `json:"reason"`
	RequestID json.RawMessage `json:"request_id"`
	Retryable json.RawMessage `json:"retryable"`

	Inner      json.RawMessage `json:"innererror"`
	InnerToo   json.RawMessage `json:"inner_error"`
	Metadata   json.RawMessage `json:"metadata"`
	Raw        json.RawMessage `json:"raw"` // what an upstream server said
	Response   json.RawMessage `json:"response"`
	Violations json.RawMessage `json:"violations"`
	QuotaID    json.RawMessage `json:"quotaId"`
	QuotaLimit json.RawMessage `json:"quota_limit"`
	Source     json.RawMessage `json:"limit_source"`

	RetryDelay    json.RawMessage `json:"retryDelay"`
	RetryAfter    json.RawMessage `json:"retry_after"`
	EstimatedTime json.RawMessage `json:"estimated_time"`
}

// What of a body that is cut short is read, and what of a text in it: that
// bounds the memory that a verdict takes.
const (
	cutBytes  = 24 << 10
	textBytes = 8 << 10
)

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
	var s said
	body = bytes.TrimSpace(bytes.TrimPrefix(body, []byte("\ufeff")))
	body = firstEvent(body)
	if len(body) == 0 {
		return s
	}
	if body[0] != '{' && body[0] != '[' {
		s.message = plainText(body)
		return s
	}
	if !s.read(body, maxDepth) {
		s.read(completed(body[:min(len(body), cutBytes)]), maxDepth)
	}
	return s
}

// read takes up what a JSON value says, and reports whether it is JSON. What
// was said before, further in, is not overwritten: it is nearer to the cause.
func (s *said) read(value json.RawMessage, depth int) bool {
	value = bytes.TrimSpace(value)
	if len(value) == 0 || depth == 0 {
		return true
	}
	switch value[0] {
	case '"':
		s.readText(text(value), depth)
	case '[':
		return s.readList(value, depth)
	case '{':
		var o object
		if json.Unmarshal(value, &o) != nil {
			return false
		}
		s.readObject(&o, depth)
	}
	return true
}

// readText takes a text as the message. Gateways put the upstream server's
// error into it as JSON.
func (s *said) readText(t string, depth int) {
	if trimmed := strings.TrimSpace(t); strings.HasPrefix(trimmed, "{") && json.Valid([]byte(trimmed)) {
		s.read(json.RawMessage(trimmed), depth-1)
	}
	set(&s.message, t)
}

// readList takes the first member that is about an error, and of the others
// what they add.
func (s *said) readList(list json.RawMessage, depth int) bool {
	rest := list[1:]
	for range 16 {
		rest = bytes.TrimLeft(rest, ", \t\r\n")
		if len(rest) == 0 || rest[0] == ']' {
			return true
		}
		member := rest[:endOfValue(rest)]
		if !s.read(member, depth-1) {
			return false
		}
		rest = rest[len(member):]
	}
	return true
}

// endOfValue returns where the JSON value ends that b begins with: at the end
// of b, if it is cut short.
func endOfValue(b []byte) int {
	depth, inString := 0, false
	for i := 0; i < len(b); i++ {
		switch c := b[i]; {
		case inString && c == '\\':
			i++
		case c == '"':
			inString = !inString
		case inString:
		case c == '{' || c == '[':
			depth++
		case depth == 0 && (c == ',' || c == ']' || c == '}'):
			return i
		case c == '}' || c == ']':
			if depth--; depth == 0 {
				return i + 1
			}
		}
	}
	return len(b)
}

func (s *said) readObject(o *object, depth int) {
	// The cause lies deepest. A "type" of "error" only says that this is one.
	s.read(o.Metadata, depth-1)
	s.read(o.Raw, depth-1)
	s.read(o.Response, depth-1)
	if isObject(o.Error) || isList(o.Error) || isObject(o.Message) {
		s.read(o.Error, depth-1)
		if isObject(o.Message) {
			s.read(o.Message, depth-1)
		}
	}

	if t := text(o.Error); t != "" { // a message, or a code with its description
		if description := text(o.Description); description != "" {
			set(&s.code, t)
			set(&s.message, description)
		}
		s.readText(t, depth)
	}
	if !isObject(o.Message) {
		if isList(o.Message) {
			set(&s.message, string(o.Message))
		}
		s.readText(text(o.Message), depth)
	}

	kind := text(o.Type)
	if kind == "error" || strings.HasPrefix(text(o.AtType), "type.googleapis.com/") {
		kind = ""
	}
	set(&s.code, text(o.Code), text(o.ErrorCode), lastOf(text(o.AWSType), '#'))
	if code, err := strconv.Atoi(text(o.Code)); err == nil && 400 <= code && code < 600 {
		s.http = code
	}
	set(&s.kind, kind, text(o.ErrorType))
	set(&s.param, text(o.Param))
	set(&s.status, text(o.Status))
	set(&s.requestID, text(o.RequestID))
	set(&s.retryable, string(o.Retryable))
	set(&s.message, text(o.Detail), text(o.Msg), text(o.Title))
	for _, t := range [...]json.RawMessage{o.Reason, o.Source} {
		if t := text(t); t != "" {
			s.reasons = append(s.reasons, t)
		}
	}
	for _, t := range [...]json.RawMessage{o.QuotaID, o.QuotaLimit} {
		if t := text(t); t != "" {
			s.quotas = append(s.quotas, t)
		}
	}
	s.readWait(o)

	// What is below these adds to what was said, and is no error by itself.
	for _, more := range [...]json.RawMessage{o.Details, o.Errors, o.Detail, o.Violations, o.Inner, o.InnerToo} {
		if isObject(more) || isList(more) {
			s.readMore(more, depth-1)
		}
	}
}

// readMore takes up details: their codes are reasons, their messages count if
// there is no other.
func (s *said) readMore(value json.RawMessage, depth int) {
	var more said
	more.read(value, depth)
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
	if d, ok := protobufDuration(text(o.RetryDelay)); ok {
		s.wait = d
		return
	}
	for _, seconds := range [...]json.RawMessage{o.RetryAfter, o.EstimatedTime} {
		if d, ok := seconds64(text(seconds)); ok {
			s.wait = d
			return
		}
	}
}

// seconds64 reads a number of seconds, as JSON writes it.
func seconds64(s string) (time.Duration, bool) {
	f, err := strconv.ParseFloat(s, 64)
	if err != nil || !(f > 0) || math.IsInf(f, 0) || strings.ContainsAny(s, "xX_nNpP+") {
		return 0, false
	}
	if f >= float64(math.MaxInt64)/float64(time.Second) {
		return math.MaxInt64, true
	}
	return time.Duration(f * float64(time.Second)), true
}

// set sets an unset field to the first value that is one.
func set(field *string, values ...string) {
	for _, v := range values {
		if *field == "" {
			*field = v
		}
	}
}

// text returns a JSON string's value, a number as it is written, and nothing
// for anything else.
func text(value json.RawMessage) string {
	if len(value) == 0 {
		return ""
	}
	switch c := value[0]; {
	case c == '"':
		if plain := value[1 : len(value)-1]; bytes.IndexByte(plain, '\\') < 0 && utf8.Valid(plain) {
			return capped(string(plain[:min(len(plain), textBytes)]), textBytes)
		}
		var s string
		if json.Unmarshal(value, &s) != nil {
			return ""
		}
		return s
	case c == '-', '0' <= c && c <= '9':
		return string(value)
	}
	return ""
}

func isObject(value json.RawMessage) bool { return len(value) > 0 && value[0] == '{' }
func isList(value json.RawMessage) bool   { return len(value) > 0 && value[0] == '[' }

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

// completed makes JSON of a body that was cut short: it closes what is open,
// after the last place where that is possible. It returns nil if there is none.
func completed(body []byte) []byte {
	type place struct {
		end  int    // of what is kept
		open []byte // brackets to close, the innermost last
	}
	var open []byte
	var last place
	inString := false
	for i := 0; i < len(body); i++ {
		switch c := body[i]; {
		case inString && c == '\\':
			i++
		case c == '"':
			inString = !inString
		case inString:
		case c == '{':
			open = append(open, '}')
		case c == '[':
			open = append(open, ']')
		case c == '}' || c == ']':
			if len(open) == 0 {
				return nil
			}
			if open = open[:len(open)-1]; len(open) == 0 {
				return firstValue(body[:i+1])
			}
		case c == ',':
			last = place{i, bytes.Clone(open)}
		}
		if len(open) > 64 {
			return nil
		}
	}
	closing := func(kept []byte, open []byte) []byte {
		whole := append(make([]byte, 0, len(kept)+len(open)), kept...)
		for _, bracket := range slices.Backward(open) {
			whole = append(whole, bracket)
		}
		if json.Valid(whole) {
			return whole
		}
		return nil
	}
	kept := body
	if inString {
		// Half of an escape or of a character is no text.
		if i := bytes.LastIndexByte(kept, '\\'); i >= 0 && i > len(kept)-6 {
			kept = kept[:i]
		}
		for len(kept) > 0 && !utf8.RuneStart(kept[len(kept)-1]) {
			kept = kept[:len(kept)-1]
		}
		if len(kept) > 0 && kept[len(kept)-1] >= utf8.RuneSelf {
			kept = kept[:len(kept)-1]
		}
		open = append(open, '"')
	}
	if whole := closing(kept, open); whole != nil {
		return whole
	}
	return closing(body[:last.end], last.open)
}

// firstValue returns the JSON value that body begins with, of several.
func firstValue(body []byte) []byte {
	if json.Valid(body) {
		return body
	}
	return nil
}

// plainText makes a message of a body that is not JSON: of a page of HTML, its
// title.
func plainText(body []byte) string {
	page := string(body[:min(len(body), textBytes)])
	lower := strings.ToLower(page)
	if strings.HasPrefix(lower, "<!doctype html") || strings.HasPrefix(lower, "<html") || strings.Contains(lower, "<title>") {
		_, title, _ := strings.Cut(lower, "<title>")
		title, _, ok := strings.Cut(title, "</title>")
		if !ok {
			return ""
		}
		at := strings.Index(lower, "<title>") + len("<title>")
		return strings.TrimSpace(page[at : at+len(title)])
	}
	return capped(page, 4*maxMessage)
}

// cutAny cuts s before the first of any of these characters.
func cutAny(s, chars string) (before, after string, found bool) {
	if i := strings.IndexAny(s, chars); i >= 0 {
		return s[:i], s[i+1:], true
	}
	return s, "", false
}

// lastOf returns what follows the last sep in s: s itself without one.
func lastOf(s string, sep byte) string { return s[strings.LastIndexByte(s, sep)+1:] }
