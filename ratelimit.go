package sturdy

import (
	"context"
	"math"
	"net/http"
	"net/textproto"
	"slices"
	"time"

	"github.com/sturdyhttp/sturdy/internal/pace"

	"golang.org/x/time/rate"
)

// RateLimit is a layer that sends requests as fast as the server allows, and no
// faster. Those that share a key, by default a host and a credential, leave in
// the order of their arrival; one that is sent again keeps its place. [WithPriority] and
// [WithTenant] change that order, and who has less time left than answers mostly take
// yields to who has enough.
//
// What the server allows need not be known. Where its headers tell of limits,
// in any dialect that [ParseLimits] knows, they are followed up and down, and an
// exhausted one is waited out; headers that have stopped for a minute, and for 20
// answers, are forgotten. Where there are none, or not of all, the rate is
// inferred from what the server took and refused. Until anything is known, the
// first requests leave one by one, then faster and faster, and soon as they
// come. A server that refuses only when more are out than it ever took is held to have
// a limit in flight: then as many are out as it takes, and no rate holds them. One that
// refuses by chance, whatever the rate, is told from a limit by an experiment: for some
// dozen requests, they leave more slowly and in groups. Then what is refused
// holds nobody else.
// Limit, Burst and Tokens are a ceiling over all that is learned.
//
// If the server answers one request with 429, or a few in a row with 503 and a
// Retry-After, nobody with that key is sent before the time that it asks for, with
// a 503 for a minute at most, and afterwards they leave one by one. As long as it
// refuses all, one at a time finds out whether it still does, less and less often: at
// the latest each 20 seconds, or each 2.5 if many wait. A caller who is alone is held to
// what the server names, or to Retry's settings, and not to what is inferred.
//
// Some servers answer 503 to what is over a limit, as nginx does by default. That is
// inferred if their 503s come among successes, and slowing down to half for a moment
// cures them, or if they come always at the same rate, or with the same number out. Then
// they count as 429s do, for the other layers of a [Transport] too, until slowing down
// does not help any more or nothing is taken for some seconds. The class of their errors
// is [ErrOverloaded] as before.
//
// Headers are believed as far as the answers bear them out: one that says that
// nothing is left holds the others up for a second, until one request has seen
// whether it is true. How fast there is more is also counted, from what is left: a
// reset in whole seconds says little of a limit of many a second, and a minute's limit
// may be enforced by the second. What a cache has kept says nothing.
//
// A request whose turn would come after its deadline, or after MaxWait, is
// refused at once with an [ErrWaitTooLong], if that is certain: by a Limit of the
// caller's, the server's own word, or headers that have proved true. RetryAfter says
// when its turn would have been. Without a deadline and MaxWait, a request is refused
// after two minutes in all in which nothing moved.
//
// MaxKeys are kept, at some 5 KiB each. For a new one, one makes room that is idle: it
// holds nobody up, and its bucket is full. If all are in use, an [EventKeys] says so,
// once a minute, and a new key is held to Limit and Tokens together with all others
// for which there is no room, in a bucket that they share; without Limit and
// Tokens, what is known of it is forgotten when none of its requests is out.
//
// The zero value has no limit of its own, and learns the server's.
//
//	client := &http.Client{Transport: &sturdy.RateLimit{
//		Limit: 50, // requests per second
//		Burst: 10,
//	}}
type RateLimit struct {
	Base    http.RoundTripper            // sends the requests; nil means http.DefaultTransport
	Limit   rate.Limit                   // requests per second for each key, a ceiling; zero or negative means none
	Burst   int                          // requests that may leave at once; zero or negative means 1
	Tokens  rate.Limit                   // units of Cost per second for each key, a ceiling, with a burst of a minute's worth; zero or negative means none
	Cost    func(*http.Request) int      // the units that a request will use, such as EstimateTokens; nil means as many as requests used before
	Limiter Limiter                      // instead of Limit and Burst: a *rate.Limiter, for all keys together; nil means none
	MaxWait time.Duration                // a turn further away is refused; zero or negative means the context's deadline alone, and 2m without one while nothing moves
	Fixed   bool                         // learn nothing, neither from headers nor from refusals: wait as told, no more; false means learn
	Key     func(*http.Request) string   // requests with one key share one bucket; nil means scheme, host and credentials, see Keys in the package's comment
	MaxKeys int                          // keys that are kept, see above; zero means 4096, negative means any number
	Observe func(context.Context, Event) // is told of pauses, waits and refusals; nil means nobody watches

	gates   keyed[*gate]
	callers callers
	idle    idleCloser
}

// RoundTrip sends req when its turn has come.
func (l *RateLimit) RoundTrip(req *http.Request) (*http.Response, error) {
	return enter(l, req, l.roundTrip)
}

func (l *RateLimit) roundTrip(req *http.Request) (*http.Response, error) {
	resp, err := gated(req, baseOf(l.Base), l, nil, nil)
	answerTo(req, req, resp)
	return resp, err
}

// CloseIdleConnections closes those of Base.
func (l *RateLimit) CloseIdleConnections() { l.idle.closeIdle(l.Base) }

func (l *RateLimit) check() error {
	switch {
	case math.IsNaN(float64(l.Limit)):
		return misconfigured("RateLimit.Limit is not a number")
	case l.Limiter != nil && (l.Limit > 0 || l.Burst > 0):
		return misconfigured("RateLimit.Limiter is set, and so is Limit or Burst")
	case math.IsNaN(float64(l.Tokens)):
		return misconfigured("RateLimit.Tokens is not a number")
	case l.Burst > 0 && l.Limit == 0:
		return misconfigured("RateLimit.Burst is set without RateLimit.Limit")
	}
	return nil
}

func (l *RateLimit) keyOf(req *http.Request) key {
	if l.Key != nil {
		return key{name: l.Key(req)}
	}
	k := originKey(req)
	k.credential = l.callers.of(req)
	return k
}

func (l *RateLimit) newGate() *gate {
	limit := l.Limit
	if limit <= 0 {
		limit = rate.Inf
	}
	g := newGate(limit, max(l.Burst, 1))
	g.pace.Fixed = l.Fixed
	g.pace.Bounded = g.pace.Bounded || l.Limiter != nil
	if l.Tokens > 0 && l.Tokens != rate.Inf {
		// Limits of tokens are by the minute.
		g.tokens = newAllowance(float64(l.Tokens), time.Now())
		g.prices = &prices{estimated: l.Cost != nil}
	}
	return g
}

// gateOf returns the gate of req's key, and whether it should be reported that
// there is no room for that.
func (l *RateLimit) gateOf(req *http.Request) (*entry[*gate], bool) {
	how := keeping[*gate]{most: l.MaxKeys, fresh: l.ownGate}
	if l.limits() {
		how.shared = l.sharedGate
	}
	return l.gates.useWithin(l.keyOf(req), how)
}

// limits reports whether the caller has set a limit for each key.
func (l *RateLimit) limits() bool {
	return l.Limit > 0 && l.Limit != rate.Inf || l.Tokens > 0 && l.Tokens != rate.Inf
}

// ownGate returns the gate of a new key. It may be one that has shared a bucket so
// far: its own is no fuller than that, lest the key have both of them.
func (l *RateLimit) ownGate() *gate {
	g := l.newGate()
	if e := l.gates.shared; e != nil {
		g.spendLike(e.state, time.Now())
	}
	return g
}

// sharedGate returns the gate of the keys for which there is no room. They have
// nothing in common but the caller's limit. So nothing is learned there: what the server
// tells one of them, a pause above all, says nothing of the others.
func (l *RateLimit) sharedGate() *gate {
	g := l.newGate()
	g.pace.Fixed = true
	return g
}

// spendLike takes from the buckets of a new gate what is missing in those of other.
func (g *gate) spendLike(other *gate, now time.Time) {
	other.mu.Lock()
	defer other.mu.Unlock()
	if g.own != nil {
		missing := float64(g.burst) - other.own.TokensAt(now)
		g.own.AllowN(now, min(int(math.Ceil(missing)), g.burst))
	}
	if g.tokens != nil {
		g.tokens.level = min(g.tokens.level, other.tokens.at(now))
	}
}

// asksToWait reports whether an answer is about everybody with its key.
func asksToWait(e *Error) bool {
	return e.StatusCode != 0 && (e.Class == ErrRateLimit || e.Class == ErrOverloaded && e.RetryAfter > 0)
}

// refusedByLimit reports whether an answer is that of a limit, and not of a server that
// has too much to do: some answer 503 to both, and tell by their headers which it is.
func refusedByLimit(e *Error, buckets []Bucket) bool {
	return e.Class == ErrRateLimit || e.Class == ErrOverloaded &&
		slices.ContainsFunc(buckets, func(b Bucket) bool { return b.Remaining == 0 })
}

// learn takes in what became of a request.
func (l *RateLimit) learn(p *passage, resp *http.Response, e *Error) {
	if resp == nil {
		p.gate.landed(&p.pass) // says nothing of a limit
		return
	}
	now := time.Now()
	if p.limited.shared {
		p.gate.taken(&p.pass, e == nil, now, nil)
		return
	}
	var told []Bucket
	if !l.Fixed {
		told = limitsOf(resp, now)
	}
	defer p.news()
	if e == nil && fromCache(resp.Header) {
		p.gate.landed(&p.pass) // the server has not seen it
		return
	}
	limited := e != nil && refusedByLimit(e, told)
	if e != nil && e.Class == ErrOverloaded {
		sheds, doubt := p.gate.sheds(&p.pass, now)
		limited = limited || sheds
		e.limit = limited || doubt
	}
	if e != nil && e.Class == ErrOverloaded && !limited {
		p.gate.hearBusy(&p.pass, now, told)
		told = nil
	}
	if e == nil || !limited && !asksToWait(e) {
		p.gate.taken(&p.pass, e == nil, now, told)
		return
	}
	pause := min(e.RetryAfter, pace.MaxPause)
	if e.Class == ErrOverloaded {
		pause = min(pause, maxOpenHint) // then somebody looks
	}
	if !limited && !p.gate.overloaded() {
		p.gate.landed(&p.pass)
		return
	}
	v := p.gate.refused(&p.pass, pause, limited, told)
	e.notBefore, e.alone = v.Until, v.Alone
	if v.News && pause > 0 {
		p.notes = append(p.notes, note{true, Event{Kind: EventPause, Wait: pause, Err: e}})
	}
}

// fromCache reports whether an answer is not the server's, but was kept by a cache: by
// one of the caller's, or, with an age (RFC 9111, section 5.1), on the way.
func fromCache(h http.Header) bool {
	return h.Get("X-From-Cache") != "" || parseCount(textproto.TrimString(h.Get("Age"))) > 0
}

// limitsOf returns the limits that an answer tells of. What a cache has kept tells of
// what was.
func limitsOf(resp *http.Response, now time.Time) []Bucket {
	if fromCache(resp.Header) {
		return nil
	}
	if date, ok := parseHTTPDate(resp.Header.Get("Date")); ok {
		now = date
	}
	return ParseLimits(resp.Header, now)
}

// units is what a request will use.
func (l *RateLimit) units(req *http.Request) float64 {
	if l.Cost == nil {
		return 1
	}
	return float64(min(max(l.Cost(req), 0), maxUnits))
}

// Reset forgets what was learned of a key, and lets its requests go: a pause, limits
// that headers told of, and those inferred from refusals. The key is as Limits
// shows it.
func (l *RateLimit) Reset(name string) {
	l.gates.each(func(k key, g *gate) {
		if k.String() == name {
			g.reset()
		}
	})
}

// A LimitState is what a [RateLimit] knows of one key.
type LimitState struct {
	Key       string     // as Key returned it, or such as "https://api.example.com#1f2e3d4c", with a fingerprint of the credential; "(all others)" for those that share a bucket, see MaxKeys
	Rate      rate.Limit // requests per second that may leave now; rate.Inf if no limit is known
	Burst     float64    // requests that the server takes at once, as far as is known
	Source    string     // of Rate and Burst: "setting", "headers" or "refusals"; empty if no limit is known
	Remaining float64    // units left in the tightest limit that headers tell of; -1 if they tell of none
	Paused    time.Time  // nobody leaves before; zero if nobody is held
	Waiting   int        // requests in the queue
	InFlight  int        // requests that were sent and not answered
}

// Limits returns what is known of each key now, those that were used last at
// the end. Behind them are those beyond MaxKeys: each that is in use, or one for all.
func (l *RateLimit) Limits() []LimitState {
	var all []LimitState
	l.gates.each(func(k key, g *gate) {
		s := g.state(time.Now())
		s.Key = k.String()
		all = append(all, s)
	})
	return all
}
