package sturdytest

import (
	"context"
	"errors"
	"io"
	"slices"
	"strings"
	"time"
)

// rules is the contract. Those of the first part are looked at on every path
// through the layer, those of the second need a situation of their own, and
// those of the third a real server.
var rules = []rule{
	{name: returns, text: "RoundTrip must return, and must not wait for a slow body", judge: roundTripReturns},
	{name: "request-unchanged", text: "RoundTrip must not change the request, not even for a while", judge: requestUnchanged},
	{name: "request-body-closed", text: "the request's body, and every one from GetBody, must be closed exactly once, also if nothing was sent", judge: requestBodyClosed},
	{name: "request-body-not-read-late", text: "the request's body must not be read after it was closed", judge: requestBodyNotReadLate},
	{name: "request-body-whole", text: "whatever is sent again must be sent with the whole body", judge: requestBodyWhole},
	{name: "request-body-replayable", text: "a request with GetBody must keep one that gives the same body", judge: requestBodyReplayable},
	{name: "context-passed-on", text: "the request's context, with its values and its deadline, must reach the base", judge: contextPassedOn},
	{name: "context-released", text: "a context that the layer made must be ended when the request is over", judge: contextReleased},
	{name: "response-or-error", text: "RoundTrip must return either a response or an error", judge: responseOrError},
	{name: "response-request", text: "Response.Request must be there, with a context that ends no sooner than the caller's", judge: responseRequest},
	{name: "error-kept", text: "an error must keep that of the base, for errors.Is and errors.As", judge: errorKept},
	{name: "responses-closed", text: "the body of every response must be closed: by the layer, if the caller does not get it", judge: responsesClosed},
	{name: "short-answers-drained", text: "a short answer that is given up must be read to its end, or HTTP/1.1 loses the connection", judge: shortAnswersDrained},
	{name: "panic-passed-on", text: "a panic and a runtime.Goexit of the base must go on upward", judge: panicPassedOn},
	{name: "idle-connections-left-alone", text: "a layer must not close idle connections, which others use too, unless told to", judge: idleConnectionsLeft},

	{name: "status-is-no-error", text: "an answer is never an error, whatever its status: the last one that came must be returned as it is", alone: statusIsNoError},
	{name: "redirect-not-followed", text: "a redirect is the client's to follow", alone: redirectNotFollowed},
	{name: "cookies-untouched", text: "cookies are the client's", alone: cookiesUntouched},
	{name: "response-intact", text: "the response must be the base's, its body byte for byte to the same end", alone: responseIntact},
	{name: "response-streams", text: "what the base has of the response's body must reach the caller without waiting for more, for as long as it flows", alone: responseStreams},
	{name: "request-streams", text: "what the caller has of the request's body must reach the base without waiting for more", alone: requestStreams},
	{name: "early-answer", text: "the request's body is the base's until it closes it, also after an answer", alone: earlyAnswer},
	{name: "writer-of-101", text: "the body of a 101 must remain an io.Writer", alone: writerOf101},
	{name: "cancellation", text: "RoundTrip must return when the request's context ends, with its cause, or when Request.Cancel does", alone: cancellation},
	{name: "cancelled-before", text: "a request whose context has ended must fail with its cause", alone: cancelledBefore},
	{name: "cancelled-body", text: "a response's body must end with the request's context, by an error that is its cause", alone: cancelledBody},
	{name: "close-ends-read", text: "closing a response's body must end a read of it that is under way", alone: closeEndsRead},
	{name: "hostile-base", text: "whatever the base returns, RoundTrip must not panic, and an error must remain one", alone: hostileBase},
	{name: "usable-after-failures", text: "whatever became of some requests, others must get through later", alone: usableAfter},
	{name: "concurrent-use", text: "RoundTrip must be safe for concurrent use", alone: concurrentUse},
	{name: "no-goroutine-left", text: "no goroutine may outlive its request", alone: noGoroutineLeft},
	{name: "idle-connections-closed", text: "CloseIdleConnections must be passed on to the base, if that has it", alone: idleConnectionsClosed},

	{name: "transparent", text: "server and caller must see what they see without the layer, but for headers that it adds", wired: transparent},
	{name: "request-trailers", text: "trailers that the caller sets while the body is read must be sent", wired: requestTrailers},
	{name: "response-trailers", text: "trailers must be in the response when its body has been read", wired: responseTrailers},
	{name: "informational-responses", text: "the caller must be told of 1xx responses", wired: informational},
	{name: "trace-hooks", text: "the hooks of net/http/httptrace must be called as without the layer", wired: traceHooks},
	{name: "expect-continue", text: "with Expect: 100-continue the body must not be read before the server wants it", wired: expectContinue},
	{name: "full-duplex", text: "request and response must flow at the same time", wired: fullDuplex},
	{name: "upgrade", text: "a connection that was upgraded must be the caller's", wired: upgrade},
	{name: "early-answer-on-wire", text: "an answer must not wait for a request's body that does not end, and that must be closed", wired: earlyAnswerOnWire},
	{name: "end-reaches-server", text: "the server must hear of a request or a response that is given up", wired: endReachesServer},
	{name: "connection-reused", text: "a connection must be used again after whatever answer", wired: connectionReused},
	{name: "large-bodies", text: "large bodies must come through side by side", wired: largeBodies},
}

// returns is the rule that scenes break which cannot be played to their end.
const returns = "returns"

func roundTripReturns(c *check, p *played) {
	if p.took >= time.Hour {
		c.errorf("%s: it took %v", p.name, p.took)
	}
}

func requestUnchanged(c *check, p *played) {
	changed := slices.Concat(p.early, p.req.changes())
	slices.Sort(changed)
	for _, change := range slices.Compact(changed) {
		c.errorf("%s: it changed %s", p.name, change)
	}
}

func requestBodyClosed(c *check, p *played) {
	for i, b := range p.req.all() {
		if closed, _ := b.counts(); closed != 1 {
			c.errorf("%s: body %d of %d was closed %d times", p.name, i+1, len(p.req.all()), closed)
		}
	}
}

func requestBodyNotReadLate(c *check, p *played) {
	for i, b := range p.req.all() {
		if _, late := b.counts(); late != 0 {
			c.errorf("%s: body %d of %d was read %d times after it was closed", p.name, i+1, len(p.req.all()), late)
		}
	}
}

// requestBodyWhole looks at the requests whose body the base has read.
func requestBodyWhole(c *check, p *played) {
	if len(p.req.all()) == 0 {
		return
	}
	for i, r := range p.base.Requests() {
		if p.scene.steps[min(i, len(p.scene.steps)-1)].early || ended(p.req.Request) != nil && len(r.Body) == 0 {
			continue // the base need not read it all
		}
		if string(r.Body) != payload {
			c.errorf("%s: attempt %d was sent with the body %q instead of %q", p.name, i+1, r.Body, payload)
		}
	}
}

func requestBodyReplayable(c *check, p *played) {
	if p.req.GetBody == nil || p.req.gone {
		return
	}
	for i, sent := range p.passed {
		if sent.GetBody == nil {
			c.errorf("%s: attempt %d has no GetBody: net/http cannot send it again after a GOAWAY", p.name, i+1)
			continue
		}
		body, err := sent.GetBody()
		if err != nil {
			c.errorf("%s: GetBody of attempt %d: %v", p.name, i+1, err)
			continue
		}
		if b, err := io.ReadAll(body); err != nil || string(b) != payload {
			c.errorf("%s: GetBody of attempt %d gives %q, %v instead of %q", p.name, i+1, b, err, payload)
		}
		body.Close()
	}
}

func contextPassedOn(c *check, p *played) {
	deadline, bounded := p.req.Context().Deadline()
	for i, sent := range p.passed {
		ctx := sent.Context()
		if ctx.Value(contextKey{}) != "a value" {
			c.errorf("%s: attempt %d has lost the values of its context", p.name, i+1)
		}
		if d, ok := ctx.Deadline(); bounded && (!ok || d.After(deadline)) {
			c.errorf("%s: attempt %d has lost its deadline", p.name, i+1)
		}
	}
}

// contextReleased finds contexts that the parent still holds on to.
func contextReleased(c *check, p *played) {
	if p.thrown != nil || p.exited {
		return // not worse than what happened
	}
	for i, sent := range p.passed {
		if ctx := sent.Context(); ctx.Done() != p.req.Context().Done() && ctx.Err() == nil {
			c.errorf("%s: the context of attempt %d is never ended", p.name, i+1)
		}
	}
}

func responseOrError(c *check, p *played) {
	switch {
	case p.thrown != nil || p.exited:
	case p.resp != nil && p.err != nil:
		c.errorf("%s: it returns a %d and the error %v", p.name, p.resp.StatusCode, p.err)
	case p.resp == nil && p.err == nil:
		c.errorf("%s: it returns neither", p.name)
	case p.resp != nil && p.resp.Body == nil:
		c.errorf("%s: it returns a %d whose Body is nil", p.name, p.resp.StatusCode)
	}
}

// responseRequest looks at it when the body has been read and closed, as the
// caller may do, too.
func responseRequest(c *check, p *played) {
	switch {
	case p.resp == nil || ended(p.req.Request) != nil:
	case p.resp.Request == nil:
		c.errorf("%s: it is nil", p.name)
	case p.resp.Request.Context().Err() != nil:
		c.errorf("%s: its context has ended: %v", p.name, context.Cause(p.resp.Request.Context()))
	case p.resp.Request.Context().Value(contextKey{}) != "a value":
		c.errorf("%s: its context has lost its values", p.name)
	}
}

// errorKept looks at the scenes that end with an error of the base. A layer may
// refuse to send before it comes to that.
func errorKept(c *check, p *played) {
	requests := p.base.Requests()
	if p.err == nil || len(requests) == 0 {
		return
	}
	err := requests[len(requests)-1].Err
	if err == nil || errors.Is(p.err, err) {
		return
	}
	c.errorf("%s: it returns %q, without the base's %q", p.name, p.err, err)
}

func responsesClosed(c *check, p *played) {
	for _, r := range p.base.Unclosed() {
		c.errorf("%s: not closed: %v", p.name, r)
	}
	if p.resp == nil || p.scene.read != nil {
		return
	}
	requests := p.base.Requests()
	if len(requests) == 0 {
		return
	}
	if r := requests[len(requests)-1].Response; r != nil && r.LateReads > 0 {
		c.errorf("%s: its body was closed before the caller could read it", p.name)
	}
}

func shortAnswersDrained(c *check, p *played) {
	if p.thrown != nil || p.exited || p.resp != nil && p.scene.read != nil || ended(p.req.Request) != nil {
		return // there are worse things than a lost connection
	}
	for i, r := range p.base.Requests() {
		s := p.scene.steps[min(i, len(p.scene.steps)-1)]
		if r.Response != nil && !r.Response.Ended && len(s.Body) < 1024 && s.trickle == 0 {
			c.errorf("%s: answer %d, of %d bytes, was closed after %d", p.name, i+1, len(s.Body), r.Response.BytesRead)
		}
	}
}

func panicPassedOn(c *check, p *played) {
	var want any
	exit := false
	for _, s := range p.scene.steps[:min(len(p.scene.steps), len(p.base.Requests()))] {
		switch {
		case strings.HasPrefix(s.name, "panic"):
			want = errBase
		case s.do != nil && s.name != Hang().name:
			exit = true
		}
	}
	if p.thrown != want {
		c.errorf("%s: it panics with %v instead of %v", p.name, p.thrown, want)
	}
	if p.exited != exit {
		c.errorf("%s: runtime.Goexit: %t instead of %t", p.name, p.exited, exit)
	}
}

func idleConnectionsLeft(c *check, p *played) {
	p.base.mu.Lock()
	defer p.base.mu.Unlock()
	if p.base.idle > 0 {
		c.errorf("%s: it closes them", p.name)
	}
}
