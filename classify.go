package sturdy

import (
	"cmp"
	"context"
	"errors"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"
)

// Classify tells what went wrong in what a RoundTripper or http.Client
// returned: evidence in, verdict out. It returns nil for a success, that is for
// a status below 400 without an error. Where [Stream] is below, an answer whose
// body begins with an error is none either, whatever its status; it says how
// long Classify waits for that beginning.
//
// To judge an answer it reads ahead in its body, at most 64 KiB and 250 ms, and
// puts back what it read: the body can still be read from its first byte.
// What came of a body that is longer or slower is judged as far as it came,
// and the rest by the status.
//
// A cancelled context of the caller's has class 0: it says nothing of the server.
// One whose deadline is over is an ErrTimeout, as is what http.Client.Timeout ends.
// A token that a base could not get, because it was refused, is an ErrAuthentication.
func Classify(resp *http.Response, err error) *Error {
	if resp == nil && err == nil {
		return nil
	}
	var req *http.Request
	if resp != nil {
		req = resp.Request
	}
	if err == nil && resp.StatusCode < 400 {
		return judgeOpening(req, resp, anyVerdictIn(resp.Body))
	}
	e := judge(req, resp, err)
	if e != nil && e.Class == 0 && errors.Is(err, context.DeadlineExceeded) {
		timeout := *e
		timeout.Class = ErrTimeout
		return &timeout
	}
	return e
}

// Check is [Classify] with an error as its result, nil for a success. It is
// meant for what http.Client.Do returned:
//
//	resp, err := client.Do(req)
//	if err := sturdy.Check(resp, err); err != nil {
//		…
//	}
//
// The body remains to be closed where resp is not nil.
func Check(resp *http.Response, err error) error {
	if e := Classify(resp, err); e != nil {
		return e
	}
	return nil
}

// ClassOf returns the class of any error in err's chain: of an [Error] or a
// [Class], and of errors of the packages net, crypto/tls, net/http and context
// too. It is 0 if there is none, and for context.Canceled.
func ClassOf(err error) Class {
	if err == nil {
		return 0
	}
	if e, ok := errors.AsType[*Error](err); ok && e.Class != 0 {
		return e.Class
	}
	if c, ok := errors.AsType[Class](err); ok {
		return c
	}
	switch {
	case errors.Is(err, context.Canceled):
		return 0
	case errors.Is(err, context.DeadlineExceeded):
		return ErrTimeout
	}
	v, _, other := elsewhere(nil, err)
	if !other {
		v, _ = judgeCause(err)
	}
	return v.class
}

// judge is Classify for the layers, which know the request. A success costs a
// few comparisons.
func judge(req *http.Request, resp *http.Response, err error) *Error {
	if err != nil {
		e, anew := judgeNoAnswer(req, err)
		if anew {
			e.Err = shownCause(err, e.cause)
		}
		return e
	}
	if resp.StatusCode < 400 {
		return judgeOpening(req, resp, verdictIn(resp.Body))
	}
	if v := verdictOf(resp); v != nil {
		return v.err
	}
	return judgeAnew(req, resp)
}

// judgeAnew judges an answer whatever the verdict was before.
func judgeAnew(req *http.Request, resp *http.Response) *Error {
	v := &verdict{resp: resp, sent: requestSent(resp)}
	if old := anyVerdictIn(resp.Body); old != nil {
		v.forbidden = old.forbidden
	}
	v.err = judgeAnswer(req, resp)
	carry(resp, v)
	return v.err
}

// judgeOpening judges an answer that is a success by its status. Only if Stream
// is below, there is more to ask: it marks the answers to look into.
func judgeOpening(req *http.Request, resp *http.Response, v *verdict) *Error {
	if v == nil || v.resp != resp {
		return nil
	}
	if o := v.opening; o != nil {
		v.opening = nil
		v.err = o.judge(req, resp)
		carry(resp, v)
	}
	return v.err
}

func judgeAnswer(req *http.Request, resp *http.Response) *Error {
	var body said
	hasty := false
	if resp.Body != nil && resp.Body != http.NoBody {
		p := peek(orEmpty(req), resp.Body)
		resp.Body = p
		ahead, _ := p.bytes()
		hasty = p.late()
		body = readBody(unpacked(resp.Header, ahead))
	}
	e := exchangeOf(req, resp).says(body)
	e.hasty = hasty
	return e
}

// An exchange is what an Error has of a request and its response. It is noted
// while the request is under way, which may be over when the body fails.
type exchange struct {
	req, sent *http.Request
	status    int
	header    http.Header
	attempts  int
	whole     bool // the body is one JSON value, not a stream
}

func exchangeOf(req *http.Request, resp *http.Response) *exchange {
	return &exchange{req: req, sent: requestSent(resp), status: resp.StatusCode, header: serverHeader(resp), attempts: attemptOf(orEmpty(req))}
}

// says is the Error of an answer whose body, or an event of it, says what went
// wrong.
func (x *exchange) says(body said) *Error {
	ev := newEvidence(x.status, x.header, body)
	secrets := x.secrets()
	shown := func(s string) string { return serverText(s, secrets) }
	now := time.Now()
	e := &Error{
		Class:      ev.class(),
		StatusCode: x.status,
		Code:       shown(ev.code),
		Type:       shown(ev.kind),
		Param:      shown(ev.param),
		Message:    shown(ev.message),
		RequestID:  shownID(x.header, ev.requestID, secrets),
		Attempts:   x.attempts,
		Time:       now,
		origin:     originOf(x.req),
		header:     plainHeader(x.header, secrets),
	}
	e.again = ev.again(e.Class)
	switch {
	case x.status >= 400:
	case x.whole && !ev.says(e.Class) && ev.wait == 0 && ev.http == 0: // such as JSON-RPC's errors, which are answers
		e.again = againNever
	case e.again == againByClass && e.Retryable():
		e.again = againYes // it is the server that says so, as it does with a status
	}
	e.RetryAfter = ev.retryAfter(e.Class, now)
	return e
}

// serverHeader returns the headers of resp without the one that is Retry's.
func serverHeader(resp *http.Response) http.Header {
	if v := anyVerdictIn(resp.Body); v == nil || !v.forbidden {
		return resp.Header
	}
	header := resp.Header.Clone()
	header.Del(shouldRetry)
	header.Del(stripeShouldRetry)
	return header
}

// broke is the Error of an answer whose body ended before its time.
func (x *exchange) broke(c Class, cause error) *Error {
	secrets := x.secrets()
	text := causeText(cause, secrets)
	return &Error{
		Class:      c,
		StatusCode: x.status,
		RequestID:  shownID(x.header, "", secrets),
		Attempts:   x.attempts,
		Time:       time.Now(),
		Err:        shownCause(cause, text),
		cause:      text,
		origin:     originOf(x.req),
		header:     plainHeader(x.header, secrets),
	}
}

// secrets are those of the request, and those that a base may have added.
func (x *exchange) secrets() []secret {
	secrets := secretsOf(x.req)
	if x.sent != x.req {
		secrets = append(secrets, secretsOf(x.sent)...)
	}
	return secrets
}

func orEmpty(req *http.Request) *http.Request {
	if req == nil {
		return &http.Request{}
	}
	return req
}

// requestID is what the support desk of a server asks for: a header of these,
// the most specific first, or what the body says.
func requestID(h http.Header, fromBody string) string {
	for _, name := range [...]string{
		"X-Request-Id", "Request-Id", "Apim-Request-Id", "X-Amzn-Requestid", "X-Ms-Client-Request-Id", "X-Github-Request-Id",
	} {
		if id := h.Get(name); id != "" {
			return id
		}
	}
	return cmp.Or(fromBody, h.Get("Cf-Ray"))
}

// shownID is requestID without secrets, and cut only then: nobody recognises half
// of one.
func shownID(h http.Header, fromBody string, secrets []secret) string {
	return capped(serverText(requestID(h, fromBody), secrets), 256)
}

// judgeError is judge for a request that got no answer, with err itself as the
// cause.
func judgeError(req *http.Request, err error) *Error {
	e, _ := judgeNoAnswer(req, err)
	return e
}

// judgeNoAnswer reports with an Error whether it is made anew, or is in err.
func judgeNoAnswer(req *http.Request, err error) (e *Error, anew bool) {
	v, wait, other := elsewhere(req, err)
	ended := req != nil && gone(req) != nil && endOfContext(err) // by the caller, whatever somebody made of it
	if e, ok := errors.AsType[*Error](err); ok && !ended && !other {
		if e.unsent && !unsentInAll(err, nothing) {
			sent := *e
			sent.unsent = false
			return &sent, false
		}
		return e, false
	}
	e = &Error{Time: time.Now(), Err: err, cause: causeText(err, secretsOf(req)), origin: originOf(req)}
	if req != nil {
		e.Attempts = attemptOf(req)
		if gone(req) != nil {
			return e, true
		}
	}
	// The end of a context is its owner's doing. If the caller's has not ended,
	// a deadline was the base's own: a timeout like any other.
	if endOfContext(err) && (req == nil || !errors.Is(err, context.DeadlineExceeded)) {
		return e, true
	}
	known := other
	if !other {
		v, known = judgeCause(err)
	}
	if !known {
		// It came from a RoundTripper, so the request failed on its way.
		v.class = ErrConnection
	}
	e.Class, e.again, e.unsent, e.RetryAfter = v.class, v.again, v.unsent, wait
	e.foreign = other || !known && !met(err)
	return e, true
}

// endOfContext reports whether err is the end of somebody's context, as it is:
// errors of net and net/http only resemble context.DeadlineExceeded.
func endOfContext(err error) bool {
	return inTree(err, func(err error) bool {
		return err == context.Canceled || err == context.DeadlineExceeded //nolint:errorlint // asks for the same values
	})
}

// inTree reports whether f is true of err, or of anything that it wraps.
func inTree(err error, f func(error) bool) bool {
	if err == nil {
		return false
	}
	if f(err) {
		return true
	}
	switch u := err.(type) { //nolint:errorlint // walks the tree
	case interface{ Unwrap() error }:
		return inTree(u.Unwrap(), f)
	case interface{ Unwrap() []error }:
		return slices.ContainsFunc(u.Unwrap(), func(err error) bool { return inTree(err, f) })
	}
	return false
}

// evidence is what an answer says of itself.
type evidence struct {
	said
	status int
	header http.Header

	words string   // the message in lower case
	codes []string // the codes, types and reasons in lower case
}

func newEvidence(status int, header http.Header, body said) *evidence {
	ev := &evidence{said: body, status: status, header: header}
	if status < 400 && body.http != 0 {
		ev.status = body.http // an error in a stream, or under a 200
	}
	if ev.code == "" {
		// Amazon's: "ThrottlingException:http://internal.amazon.com/…".
		ev.code = beforeAny(header.Get("X-Amzn-Errortype"), ":,")
	}
	if ev.wait == 0 {
		ev.wait, _ = retryAfterText(ev.message)
	}
	ev.words = strings.ToLower(ev.message)
	ev.codes = make([]string, 0, 3+len(ev.reasons))
	for _, code := range append([]string{ev.code, ev.kind, ev.said.status}, ev.reasons...) {
		if code != "" {
			ev.codes = append(ev.codes, strings.ToLower(code))
		}
	}
	return ev
}

// retryAfter is how long the server asked to wait.
func (ev *evidence) retryAfter(c Class, now time.Time) time.Duration {
	if d, ok := retryAfter(ev.header, now); ok {
		return d
	}
	if ev.wait > 0 {
		return ev.wait
	}
	if c != ErrRateLimit {
		return 0
	}
	if date, ok := parseHTTPDate(ev.header.Get("Date")); ok {
		now = date
	}
	buckets := ParseLimits(ev.header, now)
	if d, ok := exhaustedReset(buckets); ok {
		return d
	}
	// A limit that resets at a time, on an answer that says it was reached, is
	// taken for empty unless the server says otherwise.
	var d time.Duration
	for _, b := range buckets {
		if b.Remaining < 0 {
			d = max(d, b.Reset)
		}
	}
	return d
}

// shouldRetry is the header in which a server says whether a request may be sent
// again, "true" or "false".
const shouldRetry = "X-Should-Retry"

// stripeShouldRetry is Stripe's name for it: https://docs.stripe.com/error-low-level.
const stripeShouldRetry = "Stripe-Should-Retry"

// again is what else than the class says whether the same request may succeed
// later.
func (ev *evidence) again(c Class) again {
	switch cmp.Or(ev.header.Get(shouldRetry), ev.header.Get(stripeShouldRetry), ev.retryable) {
	case "false":
		return againNever
	case "true":
		switch c {
		case ErrQuotaExceeded, ErrAuthentication, ErrPermissionDenied: // a person has to act first
			return againByClass
		}
		return againYes
	}
	switch ev.status {
	case 499, // the server believes that the caller has left
		http.StatusNotImplemented, http.StatusHTTPVersionNotSupported, http.StatusLoopDetected, http.StatusNotExtended:
		return againNever
	case http.StatusConflict: // most are of a state that stays, such as a name that is taken
		if ev.names() || slices.ContainsFunc(ev.codes, func(code string) bool { return passingConflicts[code] }) {
			return againYes
		}
		return againNever
	case http.StatusRequestTimeout, http.StatusTooEarly, http.StatusFailedDependency, http.StatusTooManyRequests:
		return againByClass
	}
	if 400 <= ev.status && ev.status < 500 && !ev.names() && !ev.says(c) && !ev.githubLimit() {
		return againNever // words alone, in an answer that says that the request is wrong
	}
	return againByClass
}

// names reports whether the answer names a time to wait.
func (ev *evidence) names() bool {
	_, ok := retryAfter(ev.header, time.Now())
	return ok || ev.wait > 0 || saysNoWait(ev.header)
}

// githubLimit reports whether the answer is GitHub's for a rate limit:
// https://docs.github.com/en/rest/using-the-rest-api/rate-limits-for-the-rest-api.
func (ev *evidence) githubLimit() bool {
	return ev.status == http.StatusForbidden && ev.has("secondary rate limit", "rate limit exceeded")
}

// A cause is the verdict on an error of the transport's.
type cause struct {
	class  Class
	again  again
	unsent bool // nothing was written
}

// judgeCause judges an error by its type, and by its text only where net/http
// has no type that can be asked for. It reports whether it knows the error.
func judgeCause(err error) (cause, bool) {
	for _, know := range causes {
		if v, ok := know(err); ok {
			v.unsent = v.unsent && unsentInAll(err, nothing)
			return v, true
		}
	}
	var t interface{ Timeout() bool }
	if errors.As(err, &t) && t.Timeout() {
		return cause{class: ErrTimeout}, true
	}
	known := errors.Is(err, io.ErrUnexpectedEOF) || fromTransport(err)
	if !known {
		return cause{}, false
	}
	return cause{class: ErrConnection}, true
}
