package sturdy

import (
	"bytes"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
)

// A Report is what a support desk asks for: who was asked what, and what came
// of it. Secrets are removed: of headers that are not known to be plain, of the
// URL's query and of its user, the values are "[redacted]". It can be written
// as text with WriteTo, as JSON with encoding/json, and logged with log/slog. What
// looks like a key in the URL's path is removed, too.
type Report struct {
	Time           time.Time   `json:"time"` // when it failed, in the local time zone
	Class          string      `json:"class"`
	Method         string      `json:"method,omitempty"`
	URL            string      `json:"url,omitempty"`
	Model          string      `json:"model,omitempty"` // from the request's body, where that is JSON
	StatusCode     int         `json:"status,omitempty"`
	Code           string      `json:"code,omitempty"`
	Type           string      `json:"type,omitempty"`
	Param          string      `json:"param,omitempty"`
	Message        string      `json:"message,omitempty"`
	Cause          string      `json:"cause,omitempty"` // of a request that got no answer
	RequestID      string      `json:"request_id,omitempty"`
	Sent           int         `json:"sent"`               // how many times
	Attempts       []Attempt   `json:"attempts,omitempty"` // of these; if they are more than 17, the first 8 and the last 9
	RequestHeader  http.Header `json:"request_header,omitempty"`
	ResponseHeader http.Header `json:"response_header,omitempty"`
	RequestBody    string      `json:"request_body,omitempty"` // empty unless AddBody was called

	origin func() *http.Request // for AddBody; a function, for what shows fields by reflection
}

// An Attempt is one sending of a request that failed, and what it met.
type Attempt struct {
	Number     int           `json:"number"` // 1 for the first
	Time       time.Time     `json:"time"`   // when it failed
	Class      string        `json:"class"`
	StatusCode int           `json:"status,omitempty"`
	Code       string        `json:"code,omitempty"`
	Cause      string        `json:"cause,omitempty"`
	RequestID  string        `json:"request_id,omitempty"`
	Wait       time.Duration `json:"wait,omitempty"` // before the next attempt, in nanoseconds
}

// reportBody is how much of a request's body is read for its model, or shown.
const reportBody = 64 << 10

// Report returns what is known of the failed request. It reads the request: call
// it before that is changed.
func (e *Error) Report() *Report {
	r := &Report{
		Time: e.Time, Class: e.Class.String(), StatusCode: e.StatusCode, Code: e.Code, Type: e.Type, Param: e.Param,
		Message: e.Message, Cause: e.causeText(), RequestID: e.RequestID, Sent: e.Attempts,
	}
	r.Attempts = append(r.Attempts, e.history...)
	if n := len(e.history); n == 0 && e.Attempts > 0 || n > 0 && e.history[n-1].Number < e.Attempts {
		r.Attempts = append(r.Attempts, e.attempt())
	}
	if req := e.request(); req != nil {
		secrets := secretsOf(req)
		r.origin = originOf(req)
		r.Method = req.Method
		r.URL = withoutQuery(req.URL, secrets)
		r.Model = serverText(modelOf(req, reportBody), secrets)
		r.RequestHeader = plainHeader(req.Header, secrets)
	}
	r.ResponseHeader = e.header.Clone()
	return r
}

// attempt is the error as a line of the history.
func (e *Error) attempt() Attempt {
	return Attempt{
		Number: e.Attempts, Time: e.Time, Class: e.Class.String(), StatusCode: e.StatusCode, Code: e.Code,
		Cause: oneLine(e.causeText(), maxMessage), RequestID: e.RequestID,
	}
}

// AddBody adds the request's body to the report, at most 64 KiB of it, and
// returns the report. Credentials in it are removed where they are known or
// look like one, but nothing else: a body holds what its caller wrote. It does
// nothing if the body cannot be had again.
func (r *Report) AddBody() *Report {
	if r.origin != nil {
		req := r.origin()
		// What is beyond the end tells whether the end is in a secret.
		body := bodyOf(req, reportBody+maxMessage)
		shown := withoutSecrets(withoutFields(string(bytes.ToValidUTF8(body, []byte("\ufffd")))), secretsOf(req))
		r.RequestBody = capped(shown, reportBody)
	}
	return r
}

// WriteTo writes the report as text, a line for each thing that is known.
func (r *Report) WriteTo(w io.Writer) (int64, error) {
	var b bytes.Buffer
	line := func(name, value string) {
		if value != "" {
			fmt.Fprintf(&b, "%-12s %s\n", name, oneLine(value, reportBody))
		}
	}
	line("time", r.Time.Format(time.RFC3339Nano))
	line("class", r.Class)
	line("request", strings.TrimSpace(r.Method+" "+r.URL))
	line("model", r.Model)
	if r.StatusCode != 0 {
		line("status", fmt.Sprint(r.StatusCode, " ", http.StatusText(r.StatusCode)))
	}
	line("code", r.Code)
	line("type", r.Type)
	line("param", r.Param)
	line("message", r.Message)
	line("cause", r.Cause)
	line("request id", r.RequestID)
	line("sent", howOften(r.Sent))
	for _, a := range r.Attempts {
		line(fmt.Sprintf("  attempt %d", a.Number), a.String())
	}
	writeHeader(&b, "request header", r.RequestHeader)
	writeHeader(&b, "response header", r.ResponseHeader)
	if r.RequestBody != "" {
		b.WriteString("request body\n" + r.RequestBody + "\n")
	}
	return b.WriteTo(w)
}

// String returns the report as WriteTo writes it.
func (r *Report) String() string {
	var b strings.Builder
	_, _ = r.WriteTo(&b)
	return b.String()
}

// LogValue returns the report as a group.
func (r *Report) LogValue() slog.Value {
	attrs := []slog.Attr{slog.Time("time", r.Time), slog.String("class", r.Class)}
	for _, f := range [...]struct{ name, value string }{
		{"method", r.Method}, {"url", r.URL}, {"model", r.Model}, {"code", r.Code}, {"type", r.Type}, {"param", r.Param},
		{"message", r.Message}, {"cause", r.Cause}, {"request_id", r.RequestID}, {"request_body", r.RequestBody},
	} {
		if f.value != "" {
			attrs = append(attrs, slog.String(f.name, f.value))
		}
	}
	if r.StatusCode != 0 {
		attrs = append(attrs, slog.Int("status", r.StatusCode))
	}
	attrs = append(attrs, slog.Any("attempts", r.Attempts))
	attrs = append(attrs, slog.Any("request_header", r.RequestHeader), slog.Any("response_header", r.ResponseHeader))
	return slog.GroupValue(attrs...)
}

// String returns the attempt in one line.
func (a Attempt) String() string {
	what := a.Time.Format("15:04:05.000") + " " + a.Class
	if a.StatusCode != 0 {
		what += fmt.Sprintf(" (%d)", a.StatusCode)
	}
	parts := []string{what, a.Code, a.Cause, a.RequestID}
	if a.Wait > 0 {
		parts = append(parts, "then waited "+a.Wait.Round(time.Millisecond).String())
	}
	return strings.Join(slices.DeleteFunc(parts, func(s string) bool { return s == "" }), ", ")
}

func howOften(n int) string {
	switch n {
	case 0:
		return "not at all"
	case 1:
		return "once"
	}
	return fmt.Sprint(n, " times")
}

func writeHeader(b *bytes.Buffer, title string, h http.Header) {
	if len(h) == 0 {
		return
	}
	b.WriteString(title + "\n")
	names := make([]string, 0, len(h))
	for name := range h {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		for _, value := range h[name] {
			fmt.Fprintf(b, "  %s: %s\n", oneLine(name, maxMessage), oneLine(value, maxMessage))
		}
	}
}

// withoutQuery returns u for display: without its user, and with the names of
// its query's parameters alone.
func withoutQuery(u *url.URL, secrets []secret) string {
	if u == nil {
		return ""
	}
	var query []string
	for part := range strings.SplitSeq(u.RawQuery, "&") {
		switch name, _, ok := strings.Cut(part, "="); {
		case ok:
			query = append(query, name+"="+redacted)
		case name != "": // no name, perhaps: "?secret"
			query = append(query, redacted)
		}
	}
	shown := url.URL{Scheme: u.Scheme, Host: u.Host, Opaque: u.Opaque}
	text := shown.String()
	if u.Opaque == "" {
		text += scrubPath(u.EscapedPath())
	}
	if len(query) > 0 {
		text += "?" + strings.Join(query, "&")
	}
	return withoutSecrets(text, secrets)
}

// plainHeader returns h with the values of all but plain headers replaced, and
// secrets taken out of those, too.
func plainHeader(h http.Header, secrets []secret) http.Header {
	if h == nil {
		return nil
	}
	plain := make(http.Header, len(h))
	for name, values := range h {
		shown := make([]string, len(values))
		for i, value := range values {
			shown[i] = redacted
			if isPlainHeader(name) {
				shown[i] = serverText(value, secrets)
			}
		}
		plain[withoutSecrets(capped(name, maxMessage), secrets)] = shown
	}
	return plain
}

// bodyOf returns the beginning of a request's body, where it can be had again.
func bodyOf(req *http.Request, limit int64) []byte {
	if !hasBody(req) || req.GetBody == nil {
		return nil
	}
	body, err := req.GetBody()
	if err != nil {
		return nil
	}
	defer body.Close()
	data, _ := io.ReadAll(io.LimitReader(body, limit)) // what there is, is shown
	return data
}
