package sturdy

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/http"
	"net/textproto"
	"net/url"
	"reflect"
	"slices"
	"strings"
	"syscall"
	"time"
)

// causes judge the errors of a request that got no answer, the most telling
// first. What none of them knows is a timeout if it says so, and a broken
// connection otherwise: both may have reached the server.
var causes = [...]func(error) (cause, bool){
	certificate,
	handshake,
	lookup,
	dial,
	http2Stream,
	wrongRequest,
	wrongAnswer,
}

// certificate: the server is not who it should be. It will not be next time.
func certificate(err error) (cause, bool) {
	var (
		verification *tls.CertificateVerificationError
		authority    x509.UnknownAuthorityError
		hostname     x509.HostnameError
		invalid      x509.CertificateInvalidError
		roots        x509.SystemRootsError
		hello        *tls.ECHRejectionError
	)
	ok := errors.As(err, &verification) || errors.As(err, &authority) || errors.As(err, &hostname) ||
		errors.As(err, &invalid) || errors.As(err, &roots) || errors.As(err, &hello)
	return cause{ErrConnection, againNever, true}, ok
}

// handshake: the two sides do not agree on TLS, or one of them does not speak
// it at all.
func handshake(err error) (cause, bool) {
	var record tls.RecordHeaderError
	if errors.As(err, &record) || errors.Is(err, http.ErrSchemeMismatch) {
		return cause{ErrConnection, againNever, true}, true
	}
	// crypto/tls reports an alert as an operation of net's, and net/http one of
	// a proxy's within another. In TLS 1.3 one may come after the request was
	// written.
	for op, ok := errors.AsType[*net.OpError](err); ok; op, ok = errors.AsType[*net.OpError](op.Err) {
		if op.Op == "remote error" || op.Op == "local error" {
			return cause{ErrConnection, againNever, false}, true
		}
	}
	if strings.HasSuffix(err.Error(), "net/http: TLS handshake timeout") { // an unexported type
		return cause{ErrTimeout, againByClass, true}, true
	}
	return cause{}, false
}

// lookup: a name that does not exist is a mistake, a resolver that does not
// answer is an outage.
func lookup(err error) (cause, bool) {
	dns, ok := errors.AsType[*net.DNSError](err)
	if !ok {
		return cause{}, false
	}
	v := cause{ErrConnection, againByClass, true}
	switch {
	case dns.IsNotFound:
		v.again = againNever
	case dns.IsTimeout:
		v.class = ErrTimeout
	}
	return v, true
}

// dial: no connection, so nothing was sent.
func dial(err error) (cause, bool) {
	if _, ok := errors.AsType[*net.AddrError](err); ok {
		return cause{ErrConnection, againNever, true}, true
	}
	op, ok := errors.AsType[*net.OpError](err)
	if !ok || !dials(op) {
		return cause{}, false
	}
	if op.Timeout() {
		return cause{ErrTimeout, againByClass, true}, true
	}
	return cause{ErrConnection, againByClass, true}, true
}

func dials(op *net.OpError) bool {
	return op.Op == "dial" || op.Op == "proxyconnect" || op.Op == "socks connect"
}

// http2Error is what errors.As can take the stream errors of net/http for: they
// fit any struct with these fields.
type http2Error struct {
	StreamID uint32
	Code     uint32 // RFC 9113, section 7
	Cause    error
}

func (http2Error) Error() string { return "http2: stream error" }

func http2Stream(err error) (cause, bool) {
	stream, ok := errors.AsType[http2Error](err)
	if !ok {
		return cause{}, false
	}
	const refusedStream, http11Required = 0x7, 0xd
	switch stream.Code {
	case refusedStream: // "prior to any application processing being performed"
		return cause{ErrConnection, againByClass, true}, true
	case http11Required:
		return cause{ErrConnection, againNever, true}, true
	}
	return cause{class: ErrConnection}, true
}

// wrongRequest: net/http does not send it, or a proxy does not let it pass.
// These errors are plain text in net/http.
func wrongRequest(err error) (cause, bool) {
	text := innermost(err).Error()
	for _, prefix := range [...]string{
		"unsupported protocol scheme", "http: nil Request.", "http: no Host in request URL", "http: Request.",
		"net/http: invalid ", "net/http: can't write ", "invalid URL", "proxy: unknown scheme",
		"http: invalid Host ", "http: invalid header ", "http: invalid trailer ", "http: invalid method ",
	} {
		if strings.HasPrefix(text, prefix) {
			return cause{ErrConnection, againNever, true}, true
		}
	}
	status, ok := proxyStatus(err)
	v := cause{class: ErrConnection} // perhaps not a proxy, so perhaps sent
	if status < 500 && status != http.StatusTooManyRequests {
		v.again = againNever
	}
	return v, ok
}

// proxyStatus returns the status with which a proxy refused to CONNECT: to
// net/http that is an error of these words. Another base may use them too.
func proxyStatus(err error) (status int, ok bool) {
	text := innermost(err).Error()
	for status := 400; status < 600; status++ {
		if text != "" && text == http.StatusText(status) {
			return status, true
		}
	}
	return 0, false
}

// wrongAnswer: what came back is not HTTP, and will not be next time. An answer
// that was cut in its headers looks much the same to net/http, but has a type.
func wrongAnswer(err error) (cause, bool) {
	if _, ok := errors.AsType[textproto.ProtocolError](err); ok {
		return cause{class: ErrConnection}, true
	}
	// How the innermost text begins: http.Client puts the URL before it, and a
	// GOAWAY ends with the server's own words.
	text := innermost(err).Error()
	for _, prefix := range [...]string{
		"malformed HTTP ", "net/http: server response headers exceeded", "http: message cannot contain multiple Content-Length headers",
		"http2: frame too large", "unsupported transfer encoding", "bad Content-Length",
		"invalid byte in chunk length", "empty hex number for chunk length", "http chunk length too large",
		"http: ContentLength=", // of the request, and its body is longer or shorter
		"malformed chunked encoding", "chunked line ends with bare LF", "invalid CR in chunked line",
	} {
		if strings.HasPrefix(text, prefix) {
			return cause{ErrConnection, againNever, false}, true
		}
	}
	return cause{}, false
}

// fromTransport reports whether err is of a kind that only a connection has.
func fromTransport(err error) bool {
	if u, ok := errors.AsType[*url.Error](err); ok {
		return u.Op != "parse"
	}
	if _, ok := errors.AsType[net.Error](err); ok {
		return true
	}
	for _, known := range [...]error{syscall.ECONNRESET, syscall.ECONNABORTED, syscall.EPIPE, net.ErrClosed} {
		if errors.Is(err, known) {
			return true
		}
	}
	return strings.HasPrefix(innermost(err).Error(), "http2: ")
}

// met reports whether the network had a part in err. What nobody knows, a base has
// made up by itself, such as a limiter or a signer, or a dial function of the user's.
func met(err error) bool {
	return inTree(err, func(err error) bool {
		switch err { //nolint:errorlint // walks the tree
		case io.EOF, io.ErrUnexpectedEOF, io.ErrClosedPipe, io.ErrNoProgress, io.ErrShortWrite:
			return true
		case http.ErrBodyReadAfterClose: // the request's
			return false
		}
		return typeOfNetwork(err) || textOfNetwork(err.Error()) || answerIn(err) != nil
	})
}

// typeOfNetwork reports whether err's type is of a package that sends requests.
func typeOfNetwork(err error) bool {
	t := reflect.TypeOf(err)
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if t == reflect.TypeFor[url.Error]() {
		return fromTransport(err)
	}
	switch path := t.PkgPath(); path {
	case "net", "net/http", "net/textproto", "crypto/tls", "crypto/x509", "syscall", "os", "internal/poll", "compress/flate":
		return true
	default:
		return strings.HasPrefix(path, "net/http/internal") || strings.Contains(path, "golang.org/x/net/") ||
			strings.HasPrefix(path, "github.com/quic-go/quic-go")
	}
}

// textOfNetwork knows the errors that net/http and what it stands on have no type
// for, and those of the system where somebody made mere text of them.
func textOfNetwork(text string) bool {
	for _, prefix := range [...]string{
		"net/http: ", "http: ", "http2: ", "tls: ", "crypto/tls: ", "x509: ", "gzip: ", "bufio: ", "socks ",
		"connection error: ", "stream error: ", "readLoopPeekFailLocked: ", "CloseWrite: ", "write error: ", "read limit of ",
		"malformed HTTP ", "malformed response from server: ", "malformed MIME ", "bad trailer key", "invalid Trailer key",
		"invalid empty Content-Length", "suspiciously long trailer", "header line too long", "chunked encoding ",
		"header list too large", "1xx informational response", "unknown status code", "connection closed", "connection is unavailable",
	} {
		if strings.HasPrefix(text, prefix) {
			return true
		}
	}
	for _, part := range [...]string{
		"connection reset", "connection refused", "broken pipe", "i/o timeout", "use of closed network connection",
		"no such host", "network is unreachable", "no route to host", "connection timed out", "unexpected EOF",
	} {
		if strings.Contains(text, part) {
			return true
		}
	}
	return strings.HasSuffix(text, ": EOF")
}

// unsentInAll reports whether all that went wrong went wrong before anything was
// sent: an error may have branches, of which one was a dial, and another met a server.
// A part for which told is true did.
func unsentInAll(err error, told func(error) bool) bool {
	for err != nil && !told(err) {
		switch u := err.(type) { //nolint:errorlint // walks the tree
		case *Error:
			return u.unsent
		case *net.DNSError, *tls.CertificateVerificationError:
			return true // whatever the cause is
		case *net.OpError:
			if dials(u) {
				return true
			}
			err = u.Err
		case interface{ Unwrap() error }:
			err = u.Unwrap()
		case interface{ Unwrap() []error }:
			return !slices.ContainsFunc(u.Unwrap(), func(err error) bool { return err != nil && !unsent(err, told) })
		default:
			return true
		}
	}
	return true
}

// unsent reports whether err says that nothing was sent.
func unsent(err error, told func(error) bool) bool {
	if _, ok := errors.AsType[*Error](err); ok || inTree(err, told) {
		return unsentInAll(err, told)
	}
	v, _ := judgeCause(err)
	return v.unsent
}

func nothing(error) bool { return false }

// elsewhere judges an error of another request than req that was made on its way,
// such as for a token: the server of req has not seen it. The request of a client's
// error, where req is nil, is that of the outermost url.Error.
func elsewhere(req *http.Request, err error) (v cause, wait time.Duration, ok bool) {
	own := ownURL(req, err)
	if own == nil {
		return cause{}, 0, false
	}
	if resp := otherAnswer(own, err); resp != nil {
		unsent := unsentInAll(err, func(err error) bool { return answerIn(err) == resp })
		switch status := resp.StatusCode; {
		case status >= 500, status == http.StatusRequestTimeout, status == http.StatusTooManyRequests:
			wait, _ = retryAfter(resp.Header, time.Now())
			return cause{ErrConnection, againByClass, unsent}, wait, true
		}
		return cause{ErrAuthentication, againNever, unsent}, 0, true
	}
	other := otherFetch(own, err)
	if other == nil {
		return cause{}, 0, false
	}
	if e, ok := errors.AsType[*Error](other); ok { // its requests have layers of ours
		v, wait = cause{class: e.Class, again: e.again}, e.RetryAfter
		if e.Class == 0 || e.Class.kindOf(ErrNotSent) {
			return cause{}, 0, false
		}
	} else if v, _ = judgeCause(other.Err); v.class == 0 {
		v.class = ErrConnection
	}
	// A client below that has followed a redirect fails with another URL, too. With
	// a body that was not read, nothing was sent before.
	v.unsent = req != nil && hasBody(req) &&
		unsentInAll(err, func(err error) bool { return err == error(other) }) //nolint:errorlint // the part itself
	return v, wait, true
}

func ownURL(req *http.Request, err error) *url.URL {
	if req != nil {
		return req.URL
	}
	if outer, ok := errors.AsType[*url.Error](err); ok {
		own, _ := url.Parse(outer.URL)
		return own
	}
	return nil
}

// otherAnswer returns the answer to another request that is in err, such as in an
// oauth2.RetrieveError.
func otherAnswer(own *url.URL, err error) (resp *http.Response) {
	inTree(err, func(err error) bool {
		r := answerIn(err)
		if r == nil || r.Request != nil && !elsewhereThan(own, r.Request.URL) {
			return false
		}
		resp = r
		return true
	})
	return resp
}

// otherFetch returns the error of another request that is in err.
func otherFetch(own *url.URL, err error) (other *url.Error) {
	inTree(err, func(err error) bool {
		u, ok := err.(*url.Error) //nolint:errorlint // walks the tree
		if !ok || u.Op == "parse" {
			return false
		}
		if to, err := url.Parse(u.URL); err != nil || !elsewhereThan(own, to) {
			return false
		}
		other = u
		return true
	})
	return other
}

func elsewhereThan(own, other *url.URL) bool {
	return other != nil && other.Host != "" &&
		(other.Scheme != own.Scheme || !strings.EqualFold(other.Host, own.Host) || other.Path != own.Path)
}

// answerIn returns the answer that err itself carries, as the errors of token
// sources do in one of these fields.
func answerIn(err error) *http.Response {
	v := reflect.ValueOf(err)
	if v.Kind() == reflect.Pointer {
		v = v.Elem()
	}
	if v.Kind() != reflect.Struct {
		return nil
	}
	for _, name := range [...]string{"Response", "RawResponse"} {
		field, ok := v.Type().FieldByName(name)
		if !ok || field.Type != reflect.TypeFor[*http.Response]() {
			continue
		}
		if f, err := v.FieldByIndexErr(field.Index); err == nil && f.CanInterface() {
			if resp, ok := reflect.TypeAssert[*http.Response](f); ok && resp != nil {
				return resp
			}
		}
	}
	return nil
}

func innermost(err error) error {
	for {
		next := errors.Unwrap(err)
		if next == nil {
			return err
		}
		err = next
	}
}
