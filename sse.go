package sturdy

import (
	"bytes"
	"mime"
	"net/http"
	"strings"
)

// A format is how the events stand in a body.
type format uint8

const (
	formatSSE   format = iota + 1 // server-sent events: fields, each on its line, and a blank line
	formatLines                   // a JSON value a line
	formatJSON                    // one JSON value: the body is one event
)

// formatOf returns the format of a successful answer's body. It is 0 if there
// is none that can be read, such as one that is compressed.
func formatOf(resp *http.Response) format {
	if resp.StatusCode < 200 || 299 < resp.StatusCode {
		return 0
	}
	if coding := resp.Header.Get("Content-Encoding"); coding != "" && !strings.EqualFold(coding, "identity") {
		return 0
	}
	media, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	switch media {
	case "text/event-stream":
		return formatSSE
	case "application/x-ndjson", "application/ndjson", "application/jsonl", "application/x-jsonlines", "application/jsonlines",
		"application/json-seq", "application/stream+json", "application/x-json-stream":
		return formatLines
	case "application/json":
		return formatJSON
	}
	return 0
}

// maxEvent is how many bytes of an event are held, and looked at.
const maxEvent = 1 << 20

// events splits the bytes of a stream, as they pass in parts of any size, into
// events: see [https://html.spec.whatwg.org/multipage/server-sent-events.html#parsing-an-event-stream]
// and, for lines, RFC 7464 and https://github.com/ndjson/ndjson-spec. It holds
// no more than an event that has begun. One that lies in a part as a whole is
// not copied.
type events struct {
	format format

	held  []byte // the beginning of an event
	begun bool   // bytes have come
	line  bool   // bytes of a line have come that has not ended
	cr    bool   // the last of them is a CR: an LF may belong to it
	join  []byte // data of several lines
}

// An event is one of a stream. Its bytes are those of the stream: they are good
// until the next call.
type event struct {
	name []byte // nil if it has none
	data value  // never empty; the beginning, if the event is longer than maxEvent
}

// next takes bytes from p, until an event with data has ended: it returns how
// many they are, and the event. If none ends in p, all of p is taken, and the
// event's data is nil.
func (s *events) next(p []byte) (n int, ev event) {
	if n, ev = s.plain(p); n > 0 {
		return n, ev
	}
	for n < len(p) {
		end, ended := s.end(p[n:])
		part := p[n : n+end]
		n += end
		if !ended {
			s.hold(part)
			break
		}
		if len(s.held) > 0 {
			s.hold(part)
			part = s.held
		}
		ev = s.parse(part[:min(len(part), maxEvent)])
		s.held = s.held[:0]
		if ev.data != nil {
			break
		}
	}
	return n, ev
}

// plain takes the event that p begins with, if it is of the form that nearly all
// have: one line of data. It takes none if there is more to it.
func (s *events) plain(p []byte) (n int, ev event) {
	const field = "data: "
	if s.format != formatSSE || len(s.held) > 0 || !bytes.HasPrefix(p, []byte(field)) {
		return 0, ev
	}
	lf := lineEnd(p)
	if lf <= len(field) || lf+1 >= min(len(p), maxEvent) || p[lf] != '\n' || p[lf+1] != '\n' {
		return 0, ev
	}
	s.begun = true
	return lf + 2, event{data: p[len(field):lf]}
}

// rest returns the event that the end of the body has ended. Its data is nil if
// there is none.
func (s *events) rest() (ev event) {
	if len(s.held) > 0 {
		ev = s.parse(s.held)
	}
	s.held = nil
	return ev
}

func (s *events) hold(part []byte) {
	s.held = append(s.held, part[:min(len(part), maxEvent-len(s.held))]...)
}

// end returns how many bytes of p belong to the event that has begun, and
// whether it ends with them.
func (s *events) end(p []byte) (n int, ended bool) {
	switch s.format {
	case formatSSE:
		return s.endOfFields(p)
	case formatLines:
		if i := bytes.IndexByte(p, '\n'); i >= 0 {
			return i + 1, true
		}
	}
	return len(p), false
}

// endOfFields looks for a blank line. A line ends with LF, CR LF or CR.
func (s *events) endOfFields(p []byte) (n int, ended bool) {
	if s.cr {
		s.cr = false
		if p[0] == '\n' {
			n = 1
		}
		if !s.line {
			return n, true
		}
		s.line = false
	}
	for n < len(p) {
		length := lineEnd(p[n:])
		if length < 0 {
			s.line = true
			return len(p), false
		}
		end := n + length + 1
		if p[end-1] == '\r' {
			if end == len(p) {
				s.line, s.cr = s.line || length > 0, true
				return len(p), false
			}
			if p[end] == '\n' {
				end++
			}
		}
		n = end
		if !s.line && length == 0 {
			return n, true
		}
		s.line = false
	}
	return n, false
}

// parse reads an event that is there as a whole.
func (s *events) parse(raw []byte) (ev event) {
	if !s.begun {
		s.begun = true
		raw = bytes.TrimPrefix(raw, []byte("\ufeff"))
	}
	if s.format != formatSSE {
		const space = " \t\r\n\x1e" // RFC 7464 has a record separator before each value
		if raw = bytes.Trim(raw, space); len(raw) > 0 {
			ev.data = raw
		}
		return ev
	}
	lines := 0 // of data
	for len(raw) > 0 {
		var line []byte
		line, raw = cutLine(raw)
		field, content, _ := bytes.Cut(line, []byte(":"))
		content = bytes.TrimPrefix(content, []byte(" "))
		switch string(field) {
		case "event":
			ev.name = content
		case "error": // llama.cpp had a field of its own for it
			ev.name, ev.data, lines = field, content, 1
		case "data":
			if lines++; lines == 1 {
				ev.data = content
				break
			}
			if lines == 2 {
				s.join = append(s.join[:0], ev.data...)
			}
			s.join = append(append(s.join, '\n'), content...)
			ev.data = s.join
		}
	}
	if len(ev.data) == 0 {
		return event{}
	}
	return ev
}

// cutLine cuts a line off b, and what ends it.
func cutLine(b []byte) (line, rest []byte) {
	i := lineEnd(b)
	if i < 0 {
		return b, nil
	}
	end := i + 1
	if b[i] == '\r' && end < len(b) && b[end] == '\n' {
		end++
	}
	return b[:i], b[end:]
}

// lineEnd returns the index of the first CR or LF in b, or -1. It looks no more than
// about twice as far as that is, so that lines which end with the one do not cost a
// search of all the rest for the other.
func lineEnd(b []byte) int {
	for from, size := 0, 512; from < len(b); from, size = from+size, 2*size {
		part := b[from:min(from+size, len(b))]
		i := bytes.IndexByte(part, '\n')
		if i >= 0 {
			part = part[:i]
		}
		if cr := bytes.IndexByte(part, '\r'); cr >= 0 {
			i = cr
		}
		if i >= 0 {
			return from + i
		}
	}
	return -1
}
