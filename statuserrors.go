package sturdy

import "net/http"

// StatusErrors is a layer that turns an answer of 400 or more into an error, so
// that http.Client.Do itself returns an *[Error] and nobody can forget to ask.
// It belongs outermost: the layers of this package, and others, expect answers.
//
// That breaks the contract of http.RoundTripper on purpose, and costs what the
// contract gives: the response is gone, its headers and the rest of its body
// with it, but for what the Error has of them. An SDK on top no longer sees its
// own errors, and may take these for broken connections and send again.
//
// The zero value is ready to use.
//
//	client := &http.Client{Transport: &sturdy.StatusErrors{
//		Base: &sturdy.Transport{},
//	}}
type StatusErrors struct {
	Base http.RoundTripper // sends the requests; nil means http.DefaultTransport

	idle idleCloser
}

// RoundTrip sends req, and returns an *Error for a status of 400 or more.
func (s *StatusErrors) RoundTrip(req *http.Request) (*http.Response, error) {
	return enter(s, req, s.roundTrip)
}

func (s *StatusErrors) roundTrip(req *http.Request) (*http.Response, error) {
	resp, err := send(baseOf(s.Base), req)
	if err != nil {
		return nil, err
	}
	if e := judge(req, resp, nil); e != nil {
		<-discard(resp.Body)
		return nil, e
	}
	answerTo(req, req, resp)
	return resp, nil
}

// CloseIdleConnections closes those of Base.
func (s *StatusErrors) CloseIdleConnections() { s.idle.closeIdle(s.Base) }
