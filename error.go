package sturdy

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"reflect"
	"strconv"
	"strings"
	"time"
)

// A Class says what kind of failure a call met. It is itself an error, so that
// it serves errors.Is, and an integer, so that it serves switch:
//
//	switch sturdy.ClassOf(err) {
//	case sturdy.ErrQuotaExceeded: // waiting will not help
//	case sturdy.ErrRateLimit:
//	}
//
// Some classes are kinds of another: errors.Is(err, ErrRateLimit) is true of an
// ErrQuotaExceeded too. The comments below name the parent. There is no
// constant for zero: it stands for "no failure", and for failures that are the
// caller's own doing, such as a cancelled context.
type Class uint8

// The classes.
const (
	ErrConnection       Class = iota + 1 // the server could not be reached, or the connection broke
	ErrTimeout                           // no answer in time; an ErrConnection
	ErrBadRequest                        // the request is wrong as it stands
	ErrContextLength                     // more text than the model takes; an ErrBadRequest
	ErrContentFilter                     // refused for what it says; an ErrBadRequest
	ErrRequestTooLarge                   // larger than the server, or its limit, ever takes; an ErrBadRequest
	ErrAuthentication                    // the credential is missing, wrong or revoked, or no token is given for it
	ErrPermissionDenied                  // the credential is good, but not for this
	ErrNotFound                          // no such thing
	ErrConflict                          // it contradicts the state of something; passes only if the answer says so
	ErrUnprocessable                     // well formed, but its content is not accepted
	ErrRateLimit                         // too fast; waiting cures it
	ErrQuotaExceeded                     // credit or allowance is used up; an ErrRateLimit that waiting does not cure
	ErrInternalServer                    // the server failed
	ErrOverloaded                        // the server has too much to do; an ErrInternalServer
	ErrNotSent                           // refused before it was sent: the server saw nothing
	ErrCircuitOpen                       // refused by Breaker; an ErrNotSent
	ErrWaitTooLong                       // refused by RateLimit, its turn would come too late; an ErrNotSent
)

// classes holds what is known of each Class: its name as a metric's label, its
// name in a sentence, and the class that it is a kind of.
var classes = [...]struct {
	label, phrase string
	parent        Class
}{
	0:                   {"none", "not classified", 0},
	ErrConnection:       {"connection", "connection failed", 0},
	ErrTimeout:          {"timeout", "timed out", ErrConnection},
	ErrBadRequest:       {"bad_request", "bad request", 0},
	ErrContextLength:    {"context_length", "context length exceeded", ErrBadRequest},
	ErrContentFilter:    {"content_filter", "stopped by a content filter", ErrBadRequest},
	ErrRequestTooLarge:  {"request_too_large", "request too large", ErrBadRequest},
	ErrAuthentication:   {"authentication", "authentication failed", 0},
	ErrPermissionDenied: {"permission_denied", "permission denied", 0},
	ErrNotFound:         {"not_found", "not found", 0},
	ErrConflict:         {"conflict", "conflict", 0},
	ErrUnprocessable:    {"unprocessable", "unprocessable request", 0},
	ErrRateLimit:        {"rate_limit", "rate limit reached", 0},
	ErrQuotaExceeded:    {"quota_exceeded", "quota exceeded", ErrRateLimit},
	ErrInternalServer:   {"internal_server", "internal server error", 0},
	ErrOverloaded:       {"overloaded", "server overloaded", ErrInternalServer},
	ErrNotSent:          {"not_sent", "not sent", 0},
	ErrCircuitOpen:      {"circuit_open", "circuit open", ErrNotSent},
	ErrWaitTooLong:      {"wait_too_long", "wait too long", ErrNotSent},
}

// Error returns the class in words, such as "sturdy: rate limit reached".
func (c Class) Error() string { return "sturdy: " + c.phrase() }

// String returns the class's name in snake case, such as "rate_limit": a label
// for metrics and logs. It is "none" for zero.
func (c Class) String() string {
	if int(c) >= len(classes) {
		return "class(" + strconv.Itoa(int(c)) + ")"
	}
	return classes[c].label
}

// Is reports whether target is c or a class that c is a kind of.
func (c Class) Is(target error) bool {
	t, ok := target.(Class)
	return ok && c.kindOf(t)
}

func (c Class) kindOf(t Class) bool {
	for ; c != 0 && int(c) < len(classes); c = classes[c].parent {
		if c == t {
			return true
		}
	}
	return false
}

func (c Class) phrase() string {
	if int(c) >= len(classes) {
		return c.String()
	}
	return classes[c].phrase
}

// An Error is a failed call: its class, and what is known of it. Find it in
// what http.Client returned with errors.As, or make it of an answer with
// [Check].
//
// Its fields hold no credential: where the server repeated one in its message,
// it is replaced by "[redacted]". Nor does anything that prints it, by value or by
// pointer: package fmt with any verb, log/slog, encoding/json, and what shows
// fields by reflection, such as a failed assertion. A cause that may hold one,
// such as a url.Error, is wrapped in an error without for that: find it with
// errors.Is and errors.As, not with a type assertion. What errors.As finds is
// the cause as it was, secrets and all.
//
// http.Client wraps it in a url.Error of its own, which shows the query: print
// what [Check] returns instead.
//
// In JSON it is an object with the members "time", "class" (as Class.String
// has it), "status", "code", "type", "param", "message", "cause", "request_id",
// "attempts" and "retry_after" (in nanoseconds). All but the first two are left
// out where they are zero or empty.
//
//nolint:recvcheck // an error by pointer; what prints it does so by value, too
type Error struct {
	Class      Class         // 0 if the failure is the caller's own doing
	StatusCode int           // 0 if there was no response
	Code       string        // the server's code, such as "insufficient_quota"
	Type       string        // the server's type, such as "invalid_request_error"
	Param      string        // the request's parameter that the server objects to
	Message    string        // the server's words, at most 1 KiB
	RequestID  string        // for the server's support desk; empty if it sent none
	RetryAfter time.Duration // how long the server asked to wait, or until the circuit or the turn comes; 0 if unknown
	Attempts   int           // how many times the request was sent; 0 if it was not
	Time       time.Time     // when it failed
	Err        error         // the cause, for errors.As; nil for an answer

	cause     string    // Err's text without secrets; set with Err
	again     again     // what the evidence says of sending it again
	hasty     bool      // judged before the body had come
	unsent    bool      // the server can not have seen the request
	notBefore time.Time // RateLimit has taken charge of the wait, until then at least
	alone     bool      // and holds nobody else
	limit     bool      // it is a limit's refusal, or may be, though it does not say so
	foreign   bool      // it says nothing of the server: a base made it up, or it is of another request

	// For Report. What shows fields by reflection does not look into a function.
	origin  func() *http.Request // nil if unknown
	header  http.Header          // of the response, as it may be shown
	history []Attempt            // those before the last
}

// originOf keeps req where reflection does not find it.
func originOf(req *http.Request) func() *http.Request {
	if req == nil {
		return nil
	}
	return func() *http.Request { return req }
}

// request is the one that failed; nil if it is not known.
func (e *Error) request() *http.Request {
	if e.origin == nil {
		return nil
	}
	return e.origin()
}

// A hiddenError is a cause that has, or may have, a secret in its fields. Its
// text has none.
type hiddenError struct {
	text  string
	cause func() error // where reflection does not find it
}

func (h *hiddenError) Error() string { return h.text }
func (h *hiddenError) Unwrap() error { return h.cause() }

// shownCause returns err as an Error may have it. With text, what err says
// without secrets, it is hidden unless all that is in it is known to be harmless:
// to hide it costs those who compare Err itself.
func shownCause(err error, text string) error {
	if err == nil || text == err.Error() && !inTree(err, mayHold) {
		return err
	}
	return &hiddenError{text: text, cause: func() error { return err }}
}

// mayHold reports whether err itself, besides its text, may hold a secret: a
// struct of somebody's may have a request in it.
func mayHold(err error) bool {
	switch err.(type) { //nolint:errorlint // walks the tree
	case *Error, *hiddenError, *cancellation:
		return false
	case *url.Error:
		return true
	}
	t := reflect.TypeOf(err)
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	switch t.PkgPath() {
	case "errors", "fmt", "context", "io":
		return false
	}
	switch t.Kind() {
	case reflect.Struct:
		return t.NumField() > 0 && !typeOfNetwork(err)
	case reflect.String, reflect.Slice, reflect.Array, reflect.Map, reflect.Interface:
		return !typeOfNetwork(err)
	}
	return false
}

// again is what the evidence of a failure, beyond its class, says of sending
// the request again.
type again uint8

const (
	againByClass again = iota // nothing: the class decides
	againNever                // the same request will fail again
	againYes                  // the server says that it may be sent again
)

// Error returns one line. It has no credential, no URL and no control
// character in it.
func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString("sturdy: ")
	// The class of a caller's own doing says less than its cause.
	if e.Class != 0 || e.Err == nil {
		b.WriteString(e.Class.phrase())
	}
	if e.StatusCode != 0 {
		b.WriteString(" (")
		b.WriteString(strconv.Itoa(e.StatusCode))
		if e.Type != "" && e.Type != e.Code {
			b.WriteString(" " + oneLine(e.Type, 64))
		}
		if e.Code != "" && e.Code != strconv.Itoa(e.StatusCode) {
			b.WriteString(" " + oneLine(e.Code, 64))
		}
		b.WriteString(")")
	}
	if e.Message != "" {
		b.WriteString(": " + oneLine(e.Message, maxMessage))
	}
	if cause := e.causeText(); cause != "" {
		if b.Len() > len("sturdy: ") {
			b.WriteString(": ")
		}
		b.WriteString(oneLine(strings.TrimPrefix(cause, "sturdy: "), maxMessage))
	}
	if e.RetryAfter > 0 {
		b.WriteString("; retry after " + e.RetryAfter.Round(time.Millisecond).String())
	}
	if e.Attempts > 1 {
		b.WriteString("; sent " + strconv.Itoa(e.Attempts) + " times")
	}
	return b.String()
}

// causeText is the text of Err without secrets. An Error that somebody else
// made has no request to tell which strings are secret: only what looks like
// a credential is removed then.
func (e *Error) causeText() string {
	if e.Err == nil || e.cause != "" {
		return e.cause
	}
	return causeText(e.Err, nil)
}

// Is reports whether target is the error's class, or one that it is a kind of.
func (e *Error) Is(target error) bool { return e.Class.Is(target) }

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// Timeout reports whether time ran out: an ErrTimeout, or a cause that says so.
func (e *Error) Timeout() bool {
	var t interface{ Timeout() bool }
	return e.Class == ErrTimeout || errors.As(e.Err, &t) && t.Timeout()
}

// Temporary reports the same as [Error.Retryable]: packages written for
// net.Error ask it by this name.
func (e *Error) Temporary() bool { return e.Retryable() }

// Retryable reports whether sending the same request again later may help. It
// does not say that it is safe: a request whose connection broke may have been
// acted on.
func (e *Error) Retryable() bool {
	switch e.again {
	case againNever:
		return false
	case againYes:
		return true
	}
	switch e.Class {
	case ErrConnection, ErrTimeout, ErrRateLimit, ErrInternalServer, ErrOverloaded,
		ErrNotSent, ErrCircuitOpen, ErrWaitTooLong:
		return true
	}
	return false
}

// limited reports whether the server refused what was over a limit.
func (e *Error) limited() bool { return e.Class == ErrRateLimit || e.limit }

// Format prints the error as Error has it, and as a Go value for %#v.
func (e Error) Format(f fmt.State, verb rune) {
	if verb != 'v' || !f.Flag('#') {
		fmt.Fprintf(f, fmt.FormatString(f, verb), e.Error())
		return
	}
	var b strings.Builder
	b.WriteString("sturdy.Error{Class:" + e.Class.String())
	for _, field := range [...]struct {
		name  string
		value any
	}{
		{"StatusCode", e.StatusCode}, {"Code", e.Code}, {"Type", e.Type}, {"Param", e.Param}, {"Message", e.Message},
		{"RequestID", e.RequestID}, {"RetryAfter", e.RetryAfter}, {"Attempts", e.Attempts}, {"Err", e.causeText()},
	} {
		if !reflect.ValueOf(field.value).IsZero() {
			fmt.Fprintf(&b, ", %s:%#v", field.name, field.value)
		}
	}
	_, _ = io.WriteString(f, b.String()+"}")
}

// MarshalJSON returns the error's fields as an object, without secrets.
func (e Error) MarshalJSON() ([]byte, error) {
	return json.Marshal(struct {
		Time       time.Time     `json:"time"`
		Class      string        `json:"class"`
		StatusCode int           `json:"status,omitempty"`
		Code       string        `json:"code,omitempty"`
		Type       string        `json:"type,omitempty"`
		Param      string        `json:"param,omitempty"`
		Message    string        `json:"message,omitempty"`
		Cause      string        `json:"cause,omitempty"`
		RequestID  string        `json:"request_id,omitempty"`
		Attempts   int           `json:"attempts,omitempty"`
		RetryAfter time.Duration `json:"retry_after,omitempty"`
	}{e.Time, e.Class.String(), e.StatusCode, e.Code, e.Type, e.Param, e.Message, e.causeText(), e.RequestID, e.Attempts, e.RetryAfter})
}

// LogValue returns the error's fields as a group, without secrets.
func (e Error) LogValue() slog.Value {
	attrs := make([]slog.Attr, 0, 10)
	attrs = append(attrs, slog.String("class", e.Class.String()))
	if e.StatusCode != 0 {
		attrs = append(attrs, slog.Int("status", e.StatusCode))
	}
	for _, f := range [...]struct{ key, value string }{
		{"code", e.Code}, {"type", e.Type}, {"param", e.Param}, {"message", e.Message},
		{"request_id", e.RequestID}, {"cause", e.causeText()},
	} {
		if f.value != "" {
			attrs = append(attrs, slog.String(f.key, oneLine(f.value, maxMessage)))
		}
	}
	if e.RetryAfter != 0 {
		attrs = append(attrs, slog.Duration("retry_after", e.RetryAfter))
	}
	if e.Attempts != 0 {
		attrs = append(attrs, slog.Int("attempts", e.Attempts))
	}
	return slog.GroupValue(attrs...)
}

// misconfigured is the Error of a request that is not sent because a setting
// makes no sense.
func misconfigured(format string, args ...any) *Error {
	return &Error{Class: ErrNotSent, Time: time.Now(), Err: fmt.Errorf("sturdy: "+format, args...), again: againNever, unsent: true}
}

// refusal is the Error of a request that was not sent because of one of our
// own layers, which says why in cause. It may be sent after wait.
func refusal(c Class, wait time.Duration, cause error) *Error {
	e := &Error{Class: c, RetryAfter: wait, Time: time.Now(), Err: cause, unsent: true}
	if errors.Unwrap(cause) != nil { // somebody else's, such as a Limiter's
		e.cause = causeText(cause, nil)
		e.Err = shownCause(cause, e.cause)
	}
	return e
}
