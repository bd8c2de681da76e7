package sturdy

import (
	"bytes"
	"encoding/json"
	"iter"
	"slices"
	"strings"
)

// A value is a JSON value as it stands in a body, or the beginning of one.
//
// The bodies of errors are cut short, mended by gateways, and hostile. What
// there is of them is worth reading, which encoding/json does not do; and none
// may cost more than its own length. So a value is split where its brackets and
// quotes say, without a copy, and nothing is an error: what makes no sense is
// no member, no element and no text.
type value []byte

func (v value) isObject() bool { return len(v) > 0 && v[0] == '{' }
func (v value) isList() bool   { return len(v) > 0 && v[0] == '[' }
func (v value) isText() bool   { return len(v) > 0 && v[0] == '"' }

// members are those of an object, with their names as they are written.
func (v value) members() iter.Seq2[[]byte, value] {
	return func(yield func([]byte, value) bool) {
		for rest := v[1:]; ; {
			rest = bytes.TrimLeft(rest, ", \t\r\n")
			if !rest.isText() {
				return
			}
			name := rest[:rest.end()]
			rest = bytes.TrimLeft(rest[len(name):], " \t\r\n")
			if len(rest) == 0 || rest[0] != ':' {
				return
			}
			rest = bytes.TrimLeft(rest[1:], " \t\r\n")
			member := rest[:rest.end()]
			rest = rest[len(member):]
			if !yield(name[1:len(name)-1], member) {
				return
			}
		}
	}
}

// member is the first of an object that has this name; nil if none has, or if v
// is no object.
func member(v value, name string) value {
	if v.isObject() {
		for n, m := range v.members() {
			if string(n) == name {
				return m
			}
		}
	}
	return nil
}

// hasValue reports whether anything in v has a member of this name that says
// something: neither null nor an empty string, nor null as a string.
func hasValue(v value, name string) bool {
	key := []byte(`"` + name + `"`)
	for {
		_, after, ok := bytes.Cut(v, key)
		if !ok {
			return false
		}
		v = bytes.TrimLeft(after, ": \t\r\n")
		switch string(v[:v.end()]) {
		case "", "null", `""`, `"null"`:
		default:
			return true
		}
	}
}

// elements are those of a list.
func (v value) elements() iter.Seq[value] {
	return func(yield func(value) bool) {
		for rest := v[1:]; ; {
			rest = bytes.TrimLeft(rest, ", \t\r\n")
			if len(rest) == 0 || rest[0] == ']' || rest[0] == '}' {
				return
			}
			element := rest[:rest.end()]
			rest = rest[len(element):]
			if !yield(element) {
				return
			}
		}
	}
}

// end returns where the value ends that v begins with: at the end of v, if it
// is cut short.
func (v value) end() int {
	depth, inString := 0, false
	for i := 0; i < len(v); i++ {
		switch c := v[i]; {
		case inString && c == '\\':
			i++
		case c == '"':
			if inString = !inString; !inString && depth == 0 {
				return i + 1
			}
		case inString:
		case c == '{' || c == '[':
			depth++
		case depth == 0 && strings.IndexByte(",]} \t\r\n", c) >= 0:
			return max(i, 1)
		case c == '}' || c == ']':
			if depth--; depth == 0 {
				return i + 1
			}
		}
	}
	return len(v)
}

// text returns what a string says, a number as it is written, and nothing for
// any other value. Of a string, it is at most textBytes.
func (v value) text() string {
	switch {
	case len(v) == 0:
		return ""
	case v[0] == '-' || '0' <= v[0] && v[0] <= '9':
		return capped(string(v[:min(len(v), textBytes)]), textBytes)
	case v[0] != '"':
		return ""
	}
	inner := v[1:]
	if n := len(inner); n > 0 && inner[n-1] == '"' && v.end() == len(v) {
		inner = inner[:n-1]
	}
	if len(inner) > textBytes {
		inner = inner[:len(cutText(string(inner[:textBytes+1]), textBytes))]
	}
	if bytes.IndexByte(inner, '\\') < 0 {
		return strings.ToValidUTF8(string(inner), "")
	}
	// Where it is cut, half an escape, or two, may be left at its end.
	for cut := range min(len(inner), len(`\ud83d\ude0`)) + 1 {
		var s string
		if json.Unmarshal(quoted(inner[:len(inner)-cut]), &s) == nil {
			return s
		}
	}
	return strings.ToValidUTF8(string(inner), "") // a control character, most likely
}

// quoted returns a string's inside as a string again.
func quoted(inner []byte) []byte {
	return slices.Concat([]byte{'"'}, inner, []byte{'"'})
}
