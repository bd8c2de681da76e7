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
	"os"
	"reflect"
	"slices"
	"strings"
	"syscall"
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

// unsentInAll reports whether every branch of an error that joins several says that
// nothing was written.
func unsentInAll(err error) bool {
	for ; err != nil; err = errors.Unwrap(err) {
		all, ok := err.(interface{ Unwrap() []error })
		if !ok {
			continue
		}
		for _, branch := range all.Unwrap() {
			if v, known := judgeCause(branch); !known || !v.unsent {
				return false
			}
		}
	}
	return true
}

// judgeOther judges an error that is not of req, but of a request that the base made
// for it, such as for a token. Either there is an answer in it, as in the errors of
// golang.org/x/oauth2 and of Azure's identity SDK, or an http.Client has put another
// URL around it. What became of req itself is known by whether its body was read: a
// client below that has followed a redirect fails with another URL, too.
func judgeOther(req *http.Request, err error) (cause, bool) {
	own := ownURL(req, err)
	if own == nil {
		return cause{}, false
	}
	if resp := answerIn(err); resp != nil && (resp.Request == nil || !sameTarget(own, resp.Request.URL)) {
		switch status := resp.StatusCode; {
		case status >= 500, status == http.StatusTooManyRequests, status == http.StatusRequestTimeout:
			return cause{class: ErrConnection, unsent: true}, true
		}
		return cause{ErrAuthentication, againNever, true}, true
	}
	of := otherURL(own, err)
	if of == nil {
		return cause{}, false
	}
	v, known := judgeCause(of.Err)
	if !known {
		v.class = ErrConnection
	}
	v.unsent = req != nil && hasBody(req)
	return v, true
}

// ownURL is that of req, or of the request that http.Client's error is of.
func ownURL(req *http.Request, err error) *url.URL {
	if req != nil {
		return req.URL
	}
	if outer, ok := errors.AsType[*url.Error](err); ok {
		u, _ := url.Parse(outer.URL)
		return u
	}
	return nil
}

// otherURL returns an error in err of a request to somewhere else, or nil.
func otherURL(own *url.URL, err error) (other *url.Error) {
	inTree(err, func(err error) bool {
		of, ok := err.(*url.Error) //nolint:errorlint // walks the tree
		if !ok || of.Op == "parse" {
			return false
		}
		if u, bad := url.Parse(of.URL); bad == nil && u.Host != "" && !sameTarget(own, u) {
			other = of
		}
		return other != nil
	})
	return other
}

func sameTarget(a, b *url.URL) bool {
	return b == nil || a.Scheme == b.Scheme && strings.EqualFold(a.Host, b.Host) && a.Path == b.Path
}

// answerIn returns the answer that an error has in it as a field, or nil.
func answerIn(err error) (resp *http.Response) {
	inTree(err, func(err error) bool {
		v := reflect.Indirect(reflect.ValueOf(err))
		if v.Kind() != reflect.Struct {
			return false
		}
		for _, name := range [...]string{"Response", "RawResponse"} {
			f, ok := v.Type().FieldByName(name)
			if !ok || !f.IsExported() || len(f.Index) != 1 {
				continue
			}
			if r, ok := reflect.TypeAssert[*http.Response](v.FieldByIndex(f.Index)); ok && r != nil {
				resp = r
			}
		}
		return resp != nil
	})
	return resp
}

// likeTransport reports whether an error that is not known otherwise is the end of a
// connection, or has a type or a text as those of a transport have.
func likeTransport(err error) bool {
	return inTree(err, func(err error) bool {
		switch err { //nolint:errorlint // walks the tree
		case io.EOF, io.ErrUnexpectedEOF, io.ErrClosedPipe, io.ErrNoProgress, io.ErrShortWrite, os.ErrDeadlineExceeded:
			return true
		}
		t := reflect.TypeOf(err)
		if t.Kind() == reflect.Pointer {
			t = t.Elem()
		}
		text := err.Error()
		return t != reflect.TypeFor[url.Error]() && slices.ContainsFunc(transportPackages, func(path string) bool { return strings.HasPrefix(t.PkgPath(), path) }) ||
			slices.ContainsFunc(transportTexts, func(prefix string) bool { return strings.HasPrefix(text, prefix) }) ||
			slices.ContainsFunc(connectionTexts, func(part string) bool { return strings.Contains(text, part) })
	})
}

var (
	// transportPackages are where the errors of transports have their types.
	transportPackages = []string{"net", "crypto/", "syscall", "internal/poll", "golang.org/x/net/", "github.com/quic-go/"}

	// transportTexts are how those of net/http begin that have none.
	transportTexts = []string{
		"net/http: ", "http: ", "http2: ", "tls: ", "x509: ", "bufio: ", "socks ", "proxyconnect ", "malformed ",
		"stream error: ", "connection error: ", "suspiciously long trailer", "header line too long", "EOF",
	}

	// connectionTexts are what errors have in them of which somebody has made text.
	connectionTexts = []string{
		"connection reset", "connection refused", "broken pipe", "i/o timeout", "use of closed network connection",
		"no such host", "network is unreachable", "no route to host", "unexpected EOF", ": EOF",
	}
)

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
	if !ok || op.Op != "dial" && op.Op != "proxyconnect" && op.Op != "socks connect" {
		return cause{}, false
	}
	if op.Timeout() {
		return cause{ErrTimeout, againByClass, true}, true
	}
	return cause{ErrConnection, againByClass, true}, true
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

func innermost(err error) error {
	for {
		next := errors.Unwrap(err)
		if next == nil {
			return err
		}
		err = next
	}
}
