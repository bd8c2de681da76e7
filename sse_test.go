package sturdy

import (
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// An sseEvent is an event as a test writes it.
type sseEvent struct{ name, data string }

// split returns the events of parts, and after how many bytes each ended.
func split(f format, parts ...[]byte) (all []sseEvent, ends []int) {
	s := events{format: f}
	at := 0
	for _, p := range parts {
		for len(p) > 0 {
			n, ev := s.next(p)
			at, p = at+n, p[n:]
			if ev.data != nil {
				all, ends = append(all, sseEvent{string(ev.name), string(ev.data)}), append(ends, at)
			}
		}
	}
	if ev := s.rest(); ev.data != nil {
		all, ends = append(all, sseEvent{string(ev.name), string(ev.data)}), append(ends, at)
	}
	return all, ends
}

func TestEventsAreSplitAsTheStandardSays(t *testing.T) {
	for name, row := range map[string]struct {
		body string
		want []sseEvent
	}{
		"one":                        {"data: a\n\n", []sseEvent{{"", "a"}}},
		"two":                        {"data: a\n\ndata: b\n\n", []sseEvent{{"", "a"}, {"", "b"}}},
		"a name":                     {"event: x\ndata: a\n\n", []sseEvent{{"x", "a"}}},
		"a name after the data":      {"data: a\nevent: x\n\n", []sseEvent{{"x", "a"}}},
		"the last name":              {"event: x\nevent: y\ndata: a\n\n", []sseEvent{{"y", "a"}}},
		"a name is of one event":     {"event: x\n\ndata: a\n\n", []sseEvent{{"", "a"}}},
		"no blank after the colon":   {"data:a\n\n", []sseEvent{{"", "a"}}},
		"two blanks after the colon": {"data:  a\n\n", []sseEvent{{"", " a"}}},
		"several lines of data":      {"data: a\ndata: b\ndata: c\n\n", []sseEvent{{"", "a\nb\nc"}}},
		"several lines, twice":       {"data: a\ndata: b\n\ndata: c\ndata: d\n\n", []sseEvent{{"", "a\nb"}, {"", "c\nd"}}},
		"a colon in the data":        {"data: {\"a\":1}\n\n", []sseEvent{{"", `{"a":1}`}}},
		"comments":                   {": hi\n\ndata: a\n: ho\n\n:\n\n", []sseEvent{{"", "a"}}},
		"other fields":               {"id: 7\nretry: 100\nfoo: bar\nbaz\ndata: a\n\n", []sseEvent{{"", "a"}}},
		"no data":                    {"event: x\n\ndata:\n\ndata\n\n", nil},
		"more blank lines":           {"\n\n\ndata: a\n\n\n\ndata: b\n\n", []sseEvent{{"", "a"}, {"", "b"}}},
		"CR LF":                      {"event: x\r\ndata: a\r\n\r\ndata: b\r\n\r\n", []sseEvent{{"x", "a"}, {"", "b"}}},
		"CR":                         {"event: x\rdata: a\r\rdata: b\r\r", []sseEvent{{"x", "a"}, {"", "b"}}},
		"CR within a line":           {"data: a\rdata: b\n\n", []sseEvent{{"", "a\nb"}}},
		"mixed":                      {"data: a\r\ndata: b\n\r\ndata: c\r\r\ndata: d\n\r", []sseEvent{{"", "a\nb"}, {"", "c"}, {"", "d"}}},
		"a byte order mark":          {"\ufeffdata: a\n\ndata: b\n\n", []sseEvent{{"", "a"}, {"", "b"}}},
		"an end without blank line":  {"data: a\n\ndata: b\n", []sseEvent{{"", "a"}, {"", "b"}}},
		"an end within a line":       {"data: a\n\ndata: b", []sseEvent{{"", "a"}, {"", "b"}}},
		"llama.cpp's field":          {"error: {}\n\n", []sseEvent{{"error", "{}"}}},
		"nothing":                    {"", nil},
	} {
		t.Run(name, func(t *testing.T) {
			for at := range len(row.body) + 1 {
				got, _ := split(formatSSE, []byte(row.body[:at]), []byte(row.body[at:]))
				assert.Equal(t, row.want, got, at)
			}
			single, _ := split(formatSSE, byteByByte([]byte(row.body))...)
			assert.Equal(t, row.want, single, "byte by byte")
		})
	}
}

func TestLinesAreEvents(t *testing.T) {
	for name, row := range map[string]struct {
		f    format
		body string
		want []sseEvent
	}{
		"lines":                {formatLines, "{\"a\":1}\n{\"b\":2}\r\n", []sseEvent{{"", `{"a":1}`}, {"", `{"b":2}`}}},
		"blank lines":          {formatLines, "\n\n1\n \n2", []sseEvent{{"", "1"}, {"", "2"}}},
		"record separators":    {formatLines, "\x1e{}\n\x1e[]\n", []sseEvent{{"", "{}"}, {"", "[]"}}},
		"a byte order mark":    {formatLines, "\ufeff{}\n", []sseEvent{{"", "{}"}}},
		"one value":            {formatJSON, " {\n\n\"a\":\n\n1}\n\n", []sseEvent{{"", "{\n\n\"a\":\n\n1}"}}},
		"nothing":              {formatLines, " \n", nil},
		"nothing, as one JSON": {formatJSON, " \n", nil},
	} {
		t.Run(name, func(t *testing.T) {
			whole, _ := split(row.f, []byte(row.body))
			assert.Equal(t, row.want, whole)
			single, _ := split(row.f, byteByByte([]byte(row.body))...)
			assert.Equal(t, row.want, single, "byte by byte")
		})
	}
}

func TestAnEventEndsWithItsBlankLine(t *testing.T) {
	_, ends := split(formatSSE, []byte("data: a\n\ndata: b\r\n\r\n\ndata: c"))
	assert.Equal(t, []int{len("data: a\n\n"), len("data: a\n\ndata: b\r\n\r\n"), len("data: a\n\ndata: b\r\n\r\n\ndata: c")}, ends)
	_, ends = split(formatSSE, []byte("data: b\r\n\r"), []byte("\ndata: c\n\n"))
	assert.Equal(t, []int{len("data: b\r\n\r\n"), len("data: b\r\n\r\ndata: c\n\n")}, ends, "an LF that comes later belongs to its CR")
}

func TestOfALongEventTheBeginningIsHeld(t *testing.T) {
	long := "data: " + strings.Repeat("x", 3*maxEvent) + "\n\n"
	body := []byte(long + "data: next\n\n")
	want := []sseEvent{{"", strings.Repeat("x", maxEvent-len("data: "))}, {"", "next"}}
	got, ends := split(formatSSE, body)
	require.Equal(t, want, got)
	assert.Equal(t, []int{len(long), len(body)}, ends)
	s := events{format: formatSSE}
	for p := range slices.Chunk(body[:len(long)-1], 1000) {
		n, ev := s.next(p)
		require.Equal(t, len(p), n)
		require.Nil(t, ev.data)
		require.LessOrEqual(t, len(s.held), maxEvent)
	}
	_, ev := s.next(body[len(long)-1:])
	assert.Len(t, ev.data, maxEvent-len("data: "))
	_, ev = s.next([]byte("data: next\n\n"))
	assert.Equal(t, "next", string(ev.data))
}

func byteByByte(b []byte) (parts [][]byte) {
	for i := range b {
		parts = append(parts, b[i:i+1])
	}
	return parts
}

// FuzzEvents compares the splitter, in two parts and byte by byte, with one that
// has the whole body at once and takes the standard at its word.
func FuzzEvents(f *testing.F) {
	for _, body := range []string{
		"data: a\n\ndata: b\r\n\r\ndata: c\r\r", ": x\nevent: e\ndata:\ndata:\n\n", "\ufeffdata: a\n\n\r\n\r", "error: x\n\nerror:\ndata\n\n",
	} {
		for at := range body {
			f.Add([]byte(body), at)
		}
	}
	for _, page := range pages() {
		f.Add([]byte(page), len(page)/2)
	}
	lineEnd := regexp.MustCompile("\r\n|\r|\n")
	f.Fuzz(func(t *testing.T, body []byte, at int) {
		var want []sseEvent
		var ev sseEvent
		lines := 0
		end := func() {
			if ev.data = strings.TrimSuffix(ev.data, "\n"); lines > 0 && ev.data != "" {
				want = append(want, ev)
			}
			ev, lines = sseEvent{}, 0
		}
		for _, line := range lineEnd.Split(strings.TrimPrefix(string(body), "\ufeff"), -1) {
			field, content, _ := strings.Cut(line, ":")
			content = strings.TrimPrefix(content, " ")
			switch {
			case line == "":
				end()
			case field == "data":
				ev.data, lines = ev.data+content+"\n", lines+1
			case field == "event":
				ev.name = content
			case field == "error":
				ev.name, ev.data, lines = "error", content+"\n", 1
			}
		}
		end()
		at = min(max(at, 0), len(body))
		got, ends := split(formatSSE, body[:at], body[at:])
		assert.Equal(t, want, got)
		single, singleEnds := split(formatSSE, byteByByte(body)...)
		assert.Equal(t, want, single, "byte by byte")
		assert.Equal(t, ends, singleEnds)
	})
}

func TestFormatOfAnAnswer(t *testing.T) {
	for name, row := range map[string]struct {
		status int
		media  string
		coding string
		want   format
	}{
		"server-sent events": {200, "text/event-stream", "", formatSSE},
		"with a charset":     {200, "Text/Event-Stream; charset=utf-8", "", formatSSE},
		"NDJSON":             {200, "application/x-ndjson", "", formatLines},
		"JSON lines":         {200, "application/jsonl", "", formatLines},
		"JSON text sequence": {200, "application/json-seq", "", formatLines},
		"JSON":               {201, "application/json; charset=utf-8", "", formatJSON},
		"not compressed":     {200, "text/event-stream", "identity", formatSSE},
		"compressed":         {200, "text/event-stream", "gzip", 0},
		"text":               {200, "text/plain", "", 0},
		"no type":            {200, "", "", 0},
		"an error":           {400, "text/event-stream", "", 0},
		"an upgrade":         {101, "text/event-stream", "", 0},
		"a redirect":         {302, "application/json", "", 0},
	} {
		resp := &http.Response{StatusCode: row.status, Header: http.Header{}, Body: newStalledBody("")}
		resp.Header.Set("Content-Type", row.media)
		if row.coding != "" {
			resp.Header.Set("Content-Encoding", row.coding)
		}
		assert.Equal(t, row.want, formatOf(resp), name)
	}
}
