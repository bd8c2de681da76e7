package sturdytest

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"os"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// A Step is what one request meets. Its fields hold the answer, or the error
// in its stead; its methods return a copy that differs in how the answer comes.
// The zero value is an empty 200.
//
// A body that comes at once and to a plain end has its length declared, any
// other has not.
// A Content-Length in Header is sent as it stands: where it is too large, the
// body ends with [io.ErrUnexpectedEOF], and where it is too small, early.
type Step struct {
	Status  int         // of the response; zero means 200
	Header  http.Header // of the response
	Body    string      // of the response
	Events  []Event     // of the response's body, after Body
	BodyErr error       // what reading the body ends with; nil means io.EOF
	Err     error       // returned instead of a response, if not nil

	delay   time.Duration // before the answer
	trickle time.Duration // before each byte of Body
	early   bool          // the answer does not wait for the request's body
	stall   bool          // after Body nothing comes, not even its end
	endless bool          // after Body comes Body
	extra   int           // requests that this step answers, less one; forever means all

	do   func(*http.Request) error // instead of an answer
	name string                    // of do
}

const forever = math.MaxInt

// Status returns a step that answers with a status code. From 400 on its body
// is an error in JSON, in the shape of OpenAI's API, that says no more than the
// code does: its type and code are null. Below 400 there is no body.
func Status(code int) Step {
	if code < 400 {
		return Step{Status: code}
	}
	return apiError(code, "", "", cmp.Or(http.StatusText(code), "Status "+strconv.Itoa(code)))
}

// OK returns a step that answers 200 with a body, which is said to be JSON.
func OK(body string) Step {
	return Step{Status: 200, Header: jsonHeader(), Body: body}
}

// RateLimited returns a step that answers 429 with the code
// rate_limit_exceeded, and asks to wait for d: in Retry-After, rounded up to a
// whole second, and where d is not whole seconds in retry-after-ms too, rounded
// up to a whole millisecond. If d is not positive, the answer does not say how
// long to wait.
func RateLimited(d time.Duration) Step {
	if d <= 0 {
		return apiError(429, "requests", "rate_limit_exceeded", "You are sending requests too fast.")
	}
	s := apiError(429, "requests", "rate_limit_exceeded",
		fmt.Sprintf("You are sending requests too fast. Please try again in %v.", d))
	s = s.With("Retry-After", ceil(d, time.Second))
	if d%time.Second != 0 {
		s = s.With("Retry-After-Ms", ceil(d, time.Millisecond))
	}
	return s
}

// QuotaExceeded returns a step that answers 429 with the code
// insufficient_quota: the 429 that waiting does not cure.
func QuotaExceeded() Step {
	return apiError(429, "insufficient_quota", "insufficient_quota", "The credit of this account is used up.")
}

// Overloaded returns a step that answers 503 with the code
// server_is_overloaded, and does not say how long to wait.
func Overloaded() Step {
	return apiError(503, "service_unavailable_error", "server_is_overloaded", "The server has too much to do.")
}

// MalformedJSON returns a step that answers with a status code and a body that
// is said to be JSON and breaks off in the middle. As a message of HTTP it is
// whole: see [Step.ThenCut] for one that is not.
func MalformedJSON(code int) Step {
	return Step{Status: code, Header: jsonHeader(), Body: `{"error": {"message": "breaks o`}
}

// ConnRefused returns a step that fails as dialling a closed port does: the
// request's body is not read, and the error wraps [syscall.ECONNREFUSED].
func ConnRefused() Step {
	return Step{early: true, Err: &net.OpError{
		Op: "dial", Net: "tcp", Addr: serverAddr(),
		Err: os.NewSyscallError("connect", syscall.ECONNREFUSED),
	}}
}

// ConnReset returns a step that takes the request and breaks the connection
// before a byte of the answer: the error wraps [syscall.ECONNRESET].
func ConnReset() Step { return Step{Err: resetError()} }

// Hang returns a step that takes the request and never answers: it ends with
// the request's context. Without a way to cancel it, it does not end.
func Hang() Step {
	return Step{name: "hang", do: func(req *http.Request) error {
		_, err := await[struct{}](req, nil)
		return err
	}}
}

// Panic returns a step that takes the request and panics with v.
func Panic(v any) Step {
	return Step{name: fmt.Sprintf("panic(%v)", v), do: func(*http.Request) error { panic(v) }}
}

// Goexit returns a step that takes the request and calls [runtime.Goexit], as
// [testing.T.FailNow] does.
func Goexit() Step {
	return Step{name: "runtime.Goexit", do: func(*http.Request) error {
		runtime.Goexit()
		return nil
	}}
}

// With returns s with one more response header. The key's old values stay.
func (s Step) With(key, value string) Step {
	s.Header = s.Header.Clone() // s shares it with the step it is a copy of
	if s.Header == nil {
		s.Header = make(http.Header)
	}
	s.Header.Add(key, value)
	return s
}

// After returns s with the answer, or the error, coming d after the request
// has been read.
func (s Step) After(d time.Duration) Step { s.delay = d; return s }

// Early returns s with an answer that does not wait for the request's body. As
// the writer of net/http does, a goroutine goes on to read the body while the
// client has the answer already, at 4 KiB a millisecond, and closes it at its
// end, when the request's context is done, or 50ms after the response's body
// was read or closed. A step that gives no response reads nothing.
func (s Step) Early() Step { s.early = true; return s }

// Trickle returns s with a body that comes a byte at a time, each d after the
// last one was read.
func (s Step) Trickle(d time.Duration) Step { s.trickle = d; return s }

// Endless returns s with a body that comes again and again, spaces if it is
// empty.
func (s Step) Endless() Step { s.endless = true; return s }

// ThenStall returns s with a body that does not end: after its last byte
// nothing comes, until it is closed or the request's context is done.
func (s Step) ThenStall() Step { s.stall = true; return s }

// ThenCut returns s with a body that is cut short: after its last byte comes
// [io.ErrUnexpectedEOF].
func (s Step) ThenCut() Step { s.BodyErr = io.ErrUnexpectedEOF; return s }

// ThenReset returns s with a body that is broken off by the server: after its
// last byte comes an error that wraps [syscall.ECONNRESET].
func (s Step) ThenReset() Step { s.BodyErr = resetError(); return s }

// Times returns a step that stands for n steps like s. Zero steps are none: s
// is left out. Times panics if n is negative.
func (s Step) Times(n int) Step {
	if n < 0 {
		panic("sturdytest: Times of a negative number")
	}
	s.extra = n - 1
	return s
}

// Forever returns a step that stands for any number of steps like s, none
// too. It can only be the last of a script.
func (s Step) Forever() Step { s.extra = forever; return s }

// String describes the step in a few words, such as "503 Service Unavailable
// after 2s".
func (s Step) String() string {
	var b strings.Builder
	switch {
	case s.do != nil:
		b.WriteString(s.name)
	case s.Err != nil:
		b.WriteString(s.Err.Error())
	default:
		b.WriteString(s.status())
	}
	if s.delay > 0 {
		fmt.Fprintf(&b, " after %v", s.delay)
	}
	for _, how := range []struct {
		word string
		is   bool
	}{
		{" early", s.early && s.answers()},
		{" in " + strconv.Itoa(len(s.Events)) + " events", len(s.Events) > 0},
		{" trickling", s.trickle > 0},
		{" endless", s.endless},
		{" then stall", s.stall},
	} {
		if how.is {
			b.WriteString(how.word)
		}
	}
	if s.BodyErr != nil {
		fmt.Fprintf(&b, " then %v", s.BodyErr)
	}
	return b.String()
}

// count returns how many requests the step answers, and whether that is all
// that come.
func (s Step) count() (n int, all bool) {
	if s.extra == forever {
		return 0, true
	}
	return s.extra + 1, false
}

// answers reports whether the step gives a response.
func (s Step) answers() bool { return s.do == nil && s.Err == nil }

// status is the status line without its protocol. Servers that send a code of
// their own leave its text empty.
func (s Step) status() string {
	code := cmp.Or(s.Status, 200)
	return strings.TrimSpace(fmt.Sprintf("%03d %s", code, http.StatusText(code)))
}

// apiError is an error as OpenAI's API sends it.
func apiError(status int, typ, code, message string) Step {
	null := func(s string) *string {
		if s == "" {
			return nil
		}
		return &s
	}
	var body struct {
		Error struct {
			Message string  `json:"message"`
			Type    *string `json:"type"`
			Param   *string `json:"param"`
			Code    *string `json:"code"`
		} `json:"error"`
	}
	body.Error.Message, body.Error.Type, body.Error.Code = message, null(typ), null(code)
	b, _ := json.Marshal(body) // strings always can
	return Step{Status: status, Header: jsonHeader(), Body: string(b)}
}

// jsonStep is an answer with a body in JSON.
func jsonStep(status int, body string) Step {
	return Step{Status: status, Header: jsonHeader(), Body: body}
}

// quote returns s as a string of JSON.
func quote(s string) string {
	b, _ := json.Marshal(s) // strings always can
	return string(b)
}

func jsonHeader() http.Header { return http.Header{"Content-Type": {"application/json"}} }

// ceil returns d in whole units, rounded up.
func ceil(d, unit time.Duration) string {
	n := d / unit
	if d%unit > 0 {
		n++
	}
	return strconv.FormatInt(int64(n), 10)
}

// resetError is the error of a read from a connection that the peer reset.
func resetError() error {
	return &net.OpError{
		Op: "read", Net: "tcp", Source: clientAddr(), Addr: serverAddr(),
		Err: os.NewSyscallError("read", syscall.ECONNRESET),
	}
}

// The addresses in errors are those that RFC 5737 keeps for examples.
func clientAddr() net.Addr { return &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 50000} }
func serverAddr() net.Addr { return &net.TCPAddr{IP: net.IPv4(192, 0, 2, 80), Port: 443} }
