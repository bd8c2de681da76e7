package sturdytest

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// A Player is an [http.RoundTripper] that plays a script, and records what it
// was sent and what became of its answers. [Script] makes one. It is safe for
// concurrent use: requests take their steps in the order of their arrival.
type Player struct {
	steps []Step

	mu       sync.Mutex // guards what follows, and the records of the requests
	next     int        // in steps: the one that the next request takes
	used     int        // of steps[next], which may stand for several
	requests []*Request
}

// Script returns a Player that answers each request with the next of the
// steps. When they are used up, requests fail with an error that says so; end
// the script with [Step.Forever] to have every further request answered.
//
// Script panics if steps follow one that is for ever.
func Script(steps ...Step) *Player {
	p := new(Player)
	for i, s := range steps {
		n, all := s.count()
		if all && i < len(steps)-1 {
			panic(fmt.Sprintf("sturdytest: step %d is for ever, no step can follow", i+1))
		}
		if n > 0 || all {
			p.steps = append(p.steps, s)
		}
	}
	return p
}

// A Request is the record of one request, and of what became of its answer.
type Request struct {
	Method        string
	URL           *url.URL
	Header        http.Header
	ContentLength int64           // as the client declared it; -1 if it did not
	Context       context.Context // its Err tells whether it is done by now
	Time          time.Time       // when the request arrived
	Body          []byte          // what was read of its body
	BodyClosed    bool            // the player closes it exactly once; true if there is none

	Response *Response // nil if none was returned
	Err      error     // what was returned instead
}

// A Response is the record of what a client did with a response. Where there
// is no body, as in an answer to HEAD, it counts as read and closed.
type Response struct {
	Status    int
	BytesRead int64 // of its body
	Ended     bool  // a read of its body returned an error: mostly io.EOF
	Closed    int   // how often its body was closed
	LateReads int   // reads of its body after it was closed
}

// String returns the request and its outcome in one line.
func (r Request) String() string {
	outcome := "no answer"
	switch {
	case r.Response != nil:
		outcome = Step{Status: r.Response.Status}.status()
	case r.Err != nil:
		outcome = r.Err.Error()
	}
	return fmt.Sprintf("%s %s: %s", r.Method, r.url(), outcome)
}

func (r Request) url() string {
	if r.URL == nil {
		return "without URL"
	}
	return r.URL.Redacted()
}

// Requests returns the requests so far, in the order of their arrival. What it
// returns is a snapshot: requests under way do not change it.
func (p *Player) Requests() []Request {
	return p.filter(func(*Request) bool { return true })
}

// Unclosed returns the requests whose response was never closed.
func (p *Player) Unclosed() []Request {
	return p.filter(func(r *Request) bool { return r.Response != nil && r.Response.Closed == 0 })
}

// Unread returns the requests whose response was not read to its end. A
// connection of HTTP/1.1 is lost if such a response is closed.
func (p *Player) Unread() []Request {
	return p.filter(func(r *Request) bool { return r.Response != nil && !r.Response.Ended })
}

func (p *Player) filter(keep func(*Request) bool) []Request {
	p.mu.Lock()
	defer p.mu.Unlock()
	var kept []Request
	for _, r := range p.requests {
		if keep(r) {
			c := *r
			c.Body = slices.Clone(r.Body)
			if r.Response != nil {
				resp := *r.Response
				c.Response = &resp
			}
			kept = append(kept, c)
		}
	}
	return kept
}

// Done fails the test, without stopping it, if a step was not used, if a
// request came when none was left, or if a response was not closed.
func (p *Player) Done(t testing.TB) {
	t.Helper()
	p.mu.Lock()
	unused := p.next < len(p.steps) && p.steps[p.next].extra != forever
	total, got := p.total(), len(p.requests)
	p.mu.Unlock()
	if unused {
		t.Errorf("sturdytest: the script was not played to its end: %v", p)
	}
	if total >= 0 && got > total {
		t.Errorf("sturdytest: %d requests came, the script has only %s", got, plural(total))
	}
	for _, r := range p.Unclosed() {
		t.Errorf("sturdytest: the response was never closed: %v", r)
	}
}

// String returns the steps in one line, with an arrow before the one that the
// next request takes.
func (p *Player) String() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	var parts []string
	for i, s := range p.steps {
		part := s.String()
		n, all := s.count()
		switch {
		case all:
			part += " forever"
		case i == p.next && p.used > 0:
			part += fmt.Sprintf(" (%d of %d used)", p.used, n)
		case n > 1:
			part += fmt.Sprintf(" (%d times)", n)
		}
		if i == p.next {
			part = "--> " + part
		}
		parts = append(parts, part)
	}
	if p.next == len(p.steps) {
		parts = append(parts, "--> end")
	}
	return strings.Join(parts, ", ")
}

// total returns how many requests the script answers, or -1 for any number.
func (p *Player) total() int {
	total := 0
	for _, s := range p.steps {
		n, all := s.count()
		if all {
			return -1
		}
		total += n
	}
	return total
}

// take records req and takes its step. It fails if there is none left.
func (p *Player) take(req *http.Request) (*exchange, error) {
	r := &Request{
		Method:        req.Method,
		URL:           cloneURL(req.URL),
		Header:        req.Header.Clone(),
		ContentLength: req.ContentLength,
		Context:       req.Context(),
		Time:          time.Now(),
	}
	if r.Method == "" {
		r.Method = http.MethodGet
	}
	x := &exchange{req: req, mu: &p.mu, record: r, finished: make(chan struct{})}

	p.mu.Lock()
	p.requests = append(p.requests, r)
	number := len(p.requests)
	left := p.next < len(p.steps)
	if left {
		x.step = p.steps[p.next]
		p.used++
		if n, all := x.step.count(); !all && p.used == n {
			p.next, p.used = p.next+1, 0
		}
	}
	p.mu.Unlock()

	if !left {
		return x, fmt.Errorf("sturdytest: request %d (%s %s): the script has only %s: %v",
			number, r.Method, r.url(), plural(p.total()), p)
	}
	return x, nil
}

func cloneURL(u *url.URL) *url.URL {
	if u == nil {
		return nil
	}
	c := *u
	return &c
}

func plural(steps int) string {
	if steps == 1 {
		return "1 step"
	}
	return fmt.Sprintf("%d steps", steps)
}
