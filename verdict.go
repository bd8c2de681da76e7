package sturdy

import (
	"io"
	"net/http"
	"reflect"
)

// A verdict travels in the body of the answer that it is of, so that the body is
// read once however many layers ask, and whatever they wrap it in.
type verdict struct {
	resp    *http.Response // the answer; nil as long as it is not judged
	err     *Error         // nil for a success
	opening *opening       // of a body under a 200 that nobody has asked about yet; or nil

	sent      *http.Request // by the base: it may have added a credential to what it was given
	forbidden bool          // X-Should-Retry is not the server's word, but Retry's to an SDK
}

// carry has v travel with resp.
func carry(resp *http.Response, v *verdict) {
	p, ok := resp.Body.(*peeked)
	switch {
	case ok:
	case resp.Body == nil:
		return // an answer that somebody else made
	case resp.Body == http.NoBody:
		p = readBefore(nil)
	default:
		p = &peeked{body: resp.Body}
	}
	p.verdict = v
	resp.Body = p
}

// verdictOf returns the verdict that travels with resp, or nil. Somebody
// between two layers may have made another answer of it.
func verdictOf(resp *http.Response) *verdict {
	v := anyVerdictIn(resp.Body)
	if v == nil || v.resp != resp || v.err == nil || v.err.StatusCode != resp.StatusCode {
		return nil
	}
	return v
}

// verdictIn returns the verdict that travels in body, or nil.
func verdictIn(body io.ReadCloser) *verdict {
	for {
		if p, ok := body.(*peeked); ok && p.verdict != nil {
			return p.verdict
		}
		w, ok := body.(interface{ within() io.ReadCloser })
		if !ok {
			return nil
		}
		body = w.within()
	}
}

// Our bodies that wrap another.
func (p *peeked) within() io.ReadCloser     { return p.body }
func (h *hooked) within() io.ReadCloser     { return h.ReadCloser }
func (m *metered) within() io.ReadCloser    { return m.ReadCloser }
func (b *idleBody) within() io.ReadCloser   { return b.ReadCloser }
func (b *streamBody) within() io.ReadCloser { return b.ReadCloser }

// anyVerdictIn is verdictIn for a body that somebody else may have wrapped:
// http.Client does, if it has a Timeout. But for a success on its way up, there
// is time to look.
func anyVerdictIn(body io.ReadCloser) *verdict {
	if v := verdictIn(body); v != nil || body == nil || body == http.NoBody {
		return v
	}
	return verdictWithin(reflect.ValueOf(body), 4)
}

// verdictWithin looks for our bodies in the fields of a foreign one, and of those
// that it wraps, so many deep.
func verdictWithin(v reflect.Value, depth int) *verdict {
	if v.Kind() == reflect.Pointer {
		v = v.Elem()
	}
	if v.Kind() != reflect.Struct || depth == 0 {
		return nil
	}
	for _, f := range v.Fields() {
		if f.Kind() != reflect.Interface || !f.Type().Implements(reflect.TypeFor[io.ReadCloser]()) {
			continue
		}
		found, ours := ourVerdict(f.Elem())
		if !ours {
			found = verdictWithin(f.Elem(), depth-1)
		}
		if found != nil {
			return found
		}
	}
	return nil
}

// ourVerdict returns the verdict in body if that is of ours. A field that is not
// exported cannot be had, but where it points to can.
func ourVerdict(body reflect.Value) (v *verdict, ours bool) {
	if body.Kind() != reflect.Pointer {
		return nil, false
	}
	switch body.Type() {
	case reflect.TypeFor[*peeked](), reflect.TypeFor[*hooked]():
		b, ok := reflect.TypeAssert[io.ReadCloser](reflect.NewAt(body.Type().Elem(), body.UnsafePointer()))
		return verdictIn(b), ok
	}
	return nil, false
}

// requestSent is the request that resp is the answer to, as the base sent it.
func requestSent(resp *http.Response) *http.Request {
	if v := anyVerdictIn(resp.Body); v != nil && v.sent != nil {
		return v.sent
	}
	return resp.Request
}

// answerTo makes resp the answer to req, the request that a layer was given: its
// caller is to see no other. The layer has passed sent on. If the base has sent
// another in its place, that is kept where secrets may have to be told by it.
func answerTo(req, sent *http.Request, resp *http.Response) {
	if resp == nil {
		return // there is an error instead
	}
	switch resp.Request {
	case req:
		return
	case sent, nil:
	default:
		keepSent(resp)
	}
	resp.Request = req
}

func keepSent(resp *http.Response) {
	if resp.StatusCode < 400 && formatOf(resp) == 0 {
		return // nothing will be said of it
	}
	v := anyVerdictIn(resp.Body)
	if v == nil {
		v = new(verdict)
		carry(resp, v)
	}
	if v.sent == nil {
		v.sent = resp.Request
	}
}
