package sturdy

import (
	"cmp"
	"context"
	crand "crypto/rand"
	"errors"
	"maps"
	"math"
	"math/rand/v2"
	"net/http"
	"slices"
	"strconv"
	"time"
)

// Retry is a layer that sends a request again if that is worth it and safe.
//
// It is worth it if the failure is one that passes: see [Error.Retryable]. It
// is safe if the server cannot have acted on the last attempt, because nothing
// of it was written, nor its body read, or if acting twice does no harm: the
// method is idempotent (GET, HEAD, OPTIONS, TRACE, PUT, DELETE), or the request
// has an Idempotency-Key or X-Idempotency-Key header. An answer of 408, 429, 500,
// 502, 503 or 504, and any that says that the server is overloaded, says itself
// that the request may be sent again, whatever its method. A 409 is sent again only
// if the answer says so, by a header, a time or a code that passes. Decide may know
// better.
//
// Every attempt sends the whole body: the request's GetBody gives it again. A
// body without GetBody is copied while it is sent, if its ContentLength is known
// and not more than ReplayBody; any other is sent once.
//
// Between two attempts it waits as long as the server asks for, or else a
// random part of a delay that doubles each time (exponential backoff with full
// jitter). After a 429 that names no time, or a 503 that a RateLimit in the same Transport
// takes for a limit's, it waits a second or two, twice as long
// the next time, and so on. Where the server seems to be down, because nothing that
// was sent since has succeeded, the attempts are spread over the time that the call
// has, at most a minute, or 30 seconds without a deadline; a success of another call
// ends the wait. A set MinDelay leaves both out, a set MaxDelay bounds them. A wait
// that would not end before the caller's deadline is not begun, and without one no
// wait that the server asks for once they are two minutes in all.
// What all calls together may send again is bounded by a [Budget]: a server
// that is down gets hardly more than the calls themselves.
//
// The caller sees the last answer as it came, but for one header, whatever its
// status. If no answer came, it sees the base's own error after one attempt, and
// an *[Error] around it after more. An error that does not come from the network is
// never wrapped, nor is a cancelled context; a deadline that ends a call after an
// attempt has failed comes as an [ErrTimeout] that tells of the attempts.
//
// Retries have one owner. Within another Retry it sends once; only if a layer
// between them rewrites the URL, they do not know of each other. What an SDK
// sends again, and says so with X-Stainless-Retry-Count, it sends once, too. And
// a failure that an SDK would send again for its status, 408, 409, 429, or 500
// and above, comes with X-Should-Retry: false, which many heed. With Attempts of
// 1 it leaves that to others.
//
// The zero value is ready to use.
//
//	client := &http.Client{Transport: &sturdy.Retry{
//		Attempts:   3,
//		MaxElapsed: time.Minute,
//	}}
type Retry struct {
	Base           http.RoundTripper                    // sends the requests; nil means http.DefaultTransport
	Attempts       int                                  // in all; zero means 5, negative means 1
	MinDelay       time.Duration                        // the first delay, before jitter; zero means 500ms, and longer for a server that is down; negative means none but the server's
	MaxDelay       time.Duration                        // the longest delay, before jitter; zero or negative means 20s, and longer for a server that is down
	MaxRetryAfter  time.Duration                        // a server that asks for more is not waited for; zero means 2m, negative means that none is
	MaxElapsed     time.Duration                        // no attempt begins later than this after the first; zero or negative means the context's deadline alone
	ReplayUnsafe   bool                                 // send POST and PATCH again even where the server may have acted on the last one
	ReplayBody     int                                  // bytes of a body without GetBody that are kept to send it again, copied as they are sent; a longer one is sent once; zero means 64 KiB, negative means none
	IdempotencyKey bool                                 // give a POST or PATCH without an Idempotency-Key one, the same for all its attempts: for servers that heed it
	Decide         func(*http.Request, *Error) Decision // the caller's own rule for a failed attempt; nil means Default
	Budget         *Budget                              // bounds the retries of all calls together; nil means one of this layer's own
	Observe        func(context.Context, Event)         // is told of retries and of giving up; nil means nobody watches

	own  Budget
	idle idleCloser
}

// A Decision is what Retry.Decide says of an attempt that failed. It is asked
// only where there may be another: Attempts are left, the body can be had again,
// and the caller still waits. If more of a slow answer has come, it is asked
// once more.
type Decision uint8

// The decisions. What bounds attempts and waits, the Budget too, bounds them
// whatever is decided.
const (
	Default Decision = iota // as Retry would have it
	Again                   // send it again, be it worth it and safe or not
	Stop                    // hand it back
)

// WithRetry returns a context whose requests are sent again as r says: an
// exception for one call, which reaches it through an SDK, too. Fields that are
// zero are as in the Retry that the request meets; Base is not used. To send one
// call once, and to let nobody above send it again:
//
//	ctx = sturdy.WithRetry(ctx, &sturdy.Retry{Attempts: 1})
func WithRetry(ctx context.Context, r *Retry) context.Context {
	return context.WithValue(ctx, retryKey{}, r)
}

type retryKey struct{}

// RoundTrip sends req, again where that is worth it and safe.
func (r *Retry) RoundTrip(req *http.Request) (*http.Response, error) {
	return enter(r, req, r.roundTrip)
}

func (r *Retry) roundTrip(req *http.Request) (*http.Response, error) {
	return r.send(req, baseOf(r.Base), nil)
}

// CloseIdleConnections closes those of Base.
func (r *Retry) CloseIdleConnections() { r.idle.closeIdle(r.Base) }

func (r *Retry) send(req *http.Request, next http.RoundTripper, watch func(context.Context, Event)) (*http.Response, error) {
	r, owner, err := r.with(req.Context())
	if err != nil {
		closeBody(req)
		return nil, err
	}
	if callOf(req) != nil || retriedAbove(req) {
		resp, err := send(next, req)
		answerTo(req, req, resp)
		return resp, err
	}
	c := &call{Context: req.Context(), began: time.Now(), method: req.Method, url: req.URL, patience: max(maxHold, r.MaxRetryAfter)}
	if r.MaxElapsed > 0 {
		c.latest = c.began.Add(r.MaxElapsed)
	}
	defer c.over.Store(true)

	s := series{Retry: r, call: c, owner: owner, below: next, watch: watchers{r.Observe, watch}, attempt: r.first(req, c), sent: c.began}
	defer s.release()
	for n := 1; ; n++ {
		c.attempt.Add(1)
		s.send(n)
		wait, again := s.another()
		if !again {
			return s.handBack(req)
		}
		drained := s.giveUp(wait)
		if err := s.rest(req, wait); err != nil {
			return nil, s.ended(err, n)
		}
		<-drained
		s.attempt, s.following = s.following, nil
		s.sent, c.paced = time.Now(), false
	}
}

// retryMarks are how SDKs say that a request is a retry of theirs: with a number
// after these words, in these headers, that is at least so much.
var retryMarks = [...]struct {
	header, before string
	least          int64
}{
	{"X-Stainless-Retry-Count", "", 1},              // those that are made with Stainless, OpenAI's and Anthropic's among them
	{"Amz-Sdk-Request", "attempt=", 2},              // AWS's
	{"X-Goog-Api-Client", "gccl-attempt-count/", 2}, // Google's for Cloud Storage
	{"Retry-Attempt", "", 1},                        // Kiota's, Microsoft Graph's among them
}

// retriedAbove reports whether req is a retry of an SDK's.
func retriedAbove(req *http.Request) bool {
	for _, mark := range retryMarks {
		if v := req.Header[mark.header]; len(v) > 0 {
			if n, ok := numberAfter(v[0], mark.before); ok && n >= mark.least {
				return true
			}
		}
	}
	return false
}

// first returns req as it is sent for the first time.
func (r *Retry) first(req *http.Request, c *call) *http.Request {
	attempt := req.WithContext(c)
	if r.keeps(req) {
		keepBody(attempt)
	}
	if r.IdempotencyKey && !idempotent(req) {
		attempt.Header = make(http.Header, len(req.Header)+1)
		maps.Copy(attempt.Header, req.Header)
		attempt.Header.Set("Idempotency-Key", crand.Text())
	}
	if req.GetBody != nil && !idempotent(attempt) && !r.ReplayUnsafe && r.attempts() > 1 {
		noteReads(attempt)
	}
	return attempt
}

// keeps reports whether req's body is kept to be sent again.
func (r *Retry) keeps(req *http.Request) bool {
	return req.GetBody == nil && hasBody(req) && r.attempts() > 1 &&
		0 < req.ContentLength && req.ContentLength <= int64(cmp.Or(r.ReplayBody, replayBytes))
}

// with returns r, or the settings for requests with ctx, and whether there is
// to be one owner of the retries.
func (r *Retry) with(ctx context.Context) (_ *Retry, owner bool, _ error) {
	o, _ := ctx.Value(retryKey{}).(*Retry)
	if o == nil {
		return r, r.attempts() > 1, r.check()
	}
	if o.Base != nil {
		return r, false, misconfigured("Retry.Base is set in WithRetry, but is not used")
	}
	merged := &Retry{
		Attempts:       cmp.Or(o.Attempts, r.Attempts),
		MinDelay:       cmp.Or(o.MinDelay, r.MinDelay),
		MaxDelay:       cmp.Or(o.MaxDelay, r.MaxDelay),
		MaxRetryAfter:  cmp.Or(o.MaxRetryAfter, r.MaxRetryAfter),
		MaxElapsed:     cmp.Or(o.MaxElapsed, r.MaxElapsed),
		ReplayUnsafe:   o.ReplayUnsafe || r.ReplayUnsafe,
		ReplayBody:     cmp.Or(o.ReplayBody, r.ReplayBody),
		IdempotencyKey: o.IdempotencyKey || r.IdempotencyKey,
		Decide:         o.Decide,
		Budget:         cmp.Or(o.Budget, r.budget()),
		Observe:        o.Observe,
	}
	if merged.Decide == nil {
		merged.Decide = r.Decide
	}
	if merged.Observe == nil {
		merged.Observe = r.Observe
	}
	return merged, true, merged.check()
}

func (r *Retry) check() error {
	if r.MinDelay > 0 && r.MaxDelay > 0 && r.MinDelay > r.MaxDelay {
		return misconfigured("Retry.MinDelay is more than Retry.MaxDelay: %v, %v", r.MinDelay, r.MaxDelay)
	}
	return r.budget().check()
}

func (r *Retry) budget() *Budget {
	if r.Budget != nil {
		return r.Budget
	}
	return &r.own
}

// A series is the attempts of one call, and what is held between them.
type series struct {
	*Retry
	call  *call
	owner bool // nobody above is to send again
	below http.RoundTripper
	watch watchers

	attempt   *http.Request    // the one that is sent
	sent      time.Time        // when it was
	following *http.Request    // the one after it, while nobody has it
	in, last  result           // in hand, and given up before
	history   []Attempt        // those before the one in hand
	account   *entry[*account] // of the Budget; nil until it is needed
	paid      bool             // the attempt was paid for, and it is not known yet what came of it
	back      <-chan struct{}  // closed when the server works again; nil if the wait is not for that
}

// A result is what became of one attempt: a response or an error, and the
// verdict on it, nil for a success.
type result struct {
	resp *http.Response
	err  error
	e    *Error
}

// release lets go of what is still held, also after a panic.
func (s *series) release() {
	if s.in.resp != nil {
		s.in.resp.Body.Close()
	}
	if s.following != nil {
		closeBody(s.following)
	}
	if b, ok := s.attempt.Body.(*replayBody); ok {
		b.of.finish()
	}
	if s.paid {
		s.account.state.payBack()
	}
	if s.account != nil {
		s.budget().close(s.account)
	}
}

// open returns the account that the call's retries are paid from.
func (s *series) open() *account {
	if s.account == nil {
		s.account = s.budget().open(s.attempt)
	}
	return s.account.state
}

// send makes the nth attempt.
func (s *series) send(n int) {
	s.in.resp, s.in.err = send(s.below, s.attempt)
	s.in.e = judge(s.attempt, s.in.resp, s.in.err)
	e := s.in.e
	if s.paid && paidBack(e) {
		s.open().payBack()
	}
	s.paid = false
	switch {
	case e == nil:
		s.open().succeeded(s.sent, s.budget().earn())
	case outcome(e) == nil:
		s.open().succeeded(s.sent, 0)
	}
	if e != nil {
		s.in.own(n, s.history)
	}
}

// paidBack reports whether a retry that came to this is paid back. An answer for
// good shows that the server works. The end of the caller's patience shows nothing.
func paidBack(e *Error) bool {
	return e == nil || e.Class.kindOf(ErrNotSent) || e.Class != 0 && (!e.Retryable() || outcome(e) != errFailed) //nolint:errorlint // the value itself
}

// another decides whether another attempt follows, and how long after. It
// leaves in hand what the caller gets if none does.
func (s *series) another() (wait time.Duration, again bool) {
	e := s.in.e
	if e == nil {
		return 0, false
	}
	if e.Class.kindOf(ErrNotSent) {
		e.Attempts--
		if s.last.whole() {
			s.in = s.last // our own layers will not send it again: the answer stands
		}
		return 0, false
	}
	wait, again = s.next(s.attempt, e)
	if again && s.in.resp != nil {
		s.in.hold(s.attempt)
		began := time.Now()
		wait, again = s.reconsider(s.attempt, &s.in, wait)
		s.stall(s.in.e, began)
	}
	if again {
		wait = s.sitOut(wait)
	}
	switch {
	case again && !s.pay():
		s.watch.see(s.attempt, Event{Kind: EventBudget, Err: s.in.e})
		return 0, false
	case !again:
		if s.in.e.Retryable() {
			s.watch.see(s.attempt, Event{Kind: EventGiveUp, Err: s.in.e})
		}
		return 0, false
	}
	var err error
	s.following, err = fresh(s.attempt)
	return wait, err == nil // the answer says more than that its request cannot be repeated
}

// sitOut returns how long to wait before the next attempt: for wait, or longer
// where the server seems to be down, because nothing that was sent since this
// attempt has succeeded. Then the attempts that are left are spread over the time that the call
// has, further and further apart.
func (s *series) sitOut(wait time.Duration) time.Duration {
	s.back = nil
	e := s.in.e
	if outcome(e) != errFailed && !e.foreign || e.RetryAfter > 0 || s.MinDelay != 0 { //nolint:errorlint // the value itself
		return wait
	}
	longer := s.spread(e.Attempts)
	if s.MaxDelay > 0 {
		longer = min(longer, s.MaxDelay)
	}
	if longer > wait {
		if s.back = s.open().silent(s.sent); s.back != nil {
			return longer
		}
	}
	return wait
}

// spread is how long to wait after the nth attempt if the server seems to be down:
// a part of the time that the call has left. The first attempts follow fast, as most
// failures are soon over, and the last comes late. With the defaults that is, some
// 0.3, 3, 9 and 26 seconds after the first, and if the deadline is sooner, nearer
// to each other.
func (s *series) spread(n int) time.Duration {
	parts := [...]float64{0, 0.1, 0.25, 0.85}
	left := s.attempts() - n // the last has the last part, also where there are many; few have the first parts
	part := min(parts[min(n, len(parts))-1], parts[max(len(parts)-left, 0)])
	most := maxOpenWait
	if left == 1 {
		most *= 2
	}
	lasts := maxOpenWait - time.Since(s.call.began)
	if deadline, ok := deadlineOf(s.attempt); ok {
		lasts = time.Until(deadline)
	}
	longest := time.Duration(part * float64(min(lasts, most)))
	return longest - jitter(longest/10)
}

// rest waits for wait, or until the server works again and a backoff after that.
func (s *series) rest(req *http.Request, wait time.Duration) error {
	began := time.Now()
	defer s.stall(s.last.e, began)
	if s.back == nil {
		return sleep(req, wait)
	}
	t := time.NewTimer(wait)
	defer t.Stop()
	for s.back != nil {
		select {
		case <-t.C:
		case <-req.Context().Done():
		case <-cancelled(req):
		case <-s.back:
			if s.back = s.open().silent(s.sent); s.back == nil { // others have waited for it, too
				return sleep(req, min(wait-time.Since(began), jitter(s.ceiling(s.last.e.Attempts))))
			}
			continue
		}
		break
	}
	return gone(req)
}

// stall counts the time since began, if it was waited because a server that works
// asked for it.
func (s *series) stall(e *Error, began time.Time) {
	if e.RetryAfter > 0 || e.limited() {
		s.call.stalled += time.Since(began)
	}
}

// pay pays for a retry, unless it is free, and reports whether it may be made.
func (s *series) pay() (ok bool) {
	if s.in.e.limited() || s.in.e.foreign || s.call.paced {
		return true
	}
	paid, free := s.open().pay(s.sent)
	s.paid = paid
	return paid || free
}

// giveUp lets go of what is in hand, for another attempt after wait. The
// channel is closed when the connection can be used again.
func (s *series) giveUp(wait time.Duration) <-chan struct{} {
	e := s.in.e
	s.watch.see(s.attempt, Event{Kind: EventRetry, Wait: wait, Err: e})
	a := e.attempt()
	a.Wait = max(wait, time.Until(e.notBefore))
	s.history = remembered(s.history, a)
	s.last, s.in.resp = s.in, nil
	return s.last.giveUp()
}

// remembered returns history with one more attempt. Of very many it keeps the first and
// the last few. Errors that have it already keep what they have.
func remembered(history []Attempt, a Attempt) []Attempt {
	if len(history) == 2*fewAttempts {
		history = slices.Concat(history[:fewAttempts], history[fewAttempts+1:])
	}
	return append(history, a)
}

const fewAttempts = 8

// handBack returns what is in hand as the caller, who sent req, gets it.
func (s *series) handBack(req *http.Request) (*http.Response, error) {
	if s.in.e != nil && s.in.resp != nil && s.owner {
		s.in.forbid()
	}
	if e := s.in.e; e != nil && e.Class == 0 && len(s.history) > 0 {
		s.in.err = s.ended(s.in.err, e.Attempts)
	}
	resp := s.in.resp
	s.in.resp = nil
	answerTo(req, s.attempt, resp)
	return resp, s.in.final()
}

// ended returns the end of the caller's context as the caller gets it after so many
// attempts: a deadline as a timeout, with what is known of them.
func (s *series) ended(err error, attempts int) error {
	if !errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	last := s.last.e
	text := causeText(err, secretsOf(s.attempt))
	e := &Error{
		Class: ErrTimeout, Attempts: attempts, Time: time.Now(), Err: shownCause(err, text), cause: text + ", before that " + last.Class.phrase(),
		origin: originOf(s.attempt), history: s.history,
	}
	if last.StatusCode != 0 {
		e.cause += " (" + strconv.Itoa(last.StatusCode) + ")"
	}
	return e
}

// next decides whether another attempt follows the one that failed with e, and
// how long to wait for it.
func (r *Retry) next(req *http.Request, e *Error) (wait time.Duration, again bool) {
	if e.Attempts >= r.attempts() || !replayable(req) || !r.wanted(req, e) {
		return 0, false
	}
	switch named := e.RetryAfter > 0; {
	case named && e.RetryAfter > cmp.Or(r.MaxRetryAfter, 2*time.Minute):
		return 0, false
	case named:
		// Never less than the server asks for, and a little more, lest all who
		// were told the same come back together.
		wait = saturated(e.RetryAfter, jitter(min(r.ceiling(e.Attempts), e.RetryAfter/10)))
		if e.Attempts > 1 && !e.alone && !r.firm(e) {
			wait = max(wait, r.crowdBackoff(req, e))
		}
	default:
		wait = r.backoff(req, e)
	}
	ready, c := wait, callOf(req)
	switch {
	case e.notBefore.IsZero() || !e.limited(): // nobody paces those who come back
	case r.backsOff(e) && c != nil:
		c.backed = time.Now().Add(wait)
	default:
		// RateLimit holds the request, in its place among the others. Until the
		// body has come it may yet be one that nobody should wait for.
		ready = time.Until(e.notBefore)
		if !e.hasty {
			wait = 0
		}
	}
	invented := e.RetryAfter == 0 && wait >= ready && (!e.limited() || r.MinDelay != 0 || r.MaxDelay != 0)
	return wait, inTime(req, ready, !invented)
}

// firm reports whether the time that the server named is to be kept to though it was
// too short before. What a message names, and what an overloaded server names in
// less than a second, is the time for one, and all who heard it come back.
func (r *Retry) firm(e *Error) bool {
	_, header := retryAfter(e.header, e.Time)
	return header && (e.Class == ErrRateLimit || e.RetryAfter >= time.Second)
}

// backsOff reports whether a refused request backs off by itself, though RateLimit
// holds all that have its key: it is alone, and the server or the settings say for
// how long.
func (r *Retry) backsOff(e *Error) bool {
	return e.alone && (e.RetryAfter > 0 || r.MinDelay != 0 || r.MaxDelay != 0 || saysNoWait(e.header))
}

// inTime reports whether the caller still waits for an attempt that begins after
// wait. Without a deadline, what was asked of them is too much after two minutes in
// all, or MaxRetryAfter if that is longer.
func inTime(req *http.Request, wait time.Duration, asked bool) bool {
	if deadline, ok := deadlineOf(req); ok {
		return wait < time.Until(deadline)
	}
	c := callOf(req)
	return c == nil || !asked || c.stalled+wait <= c.patience
}

func (r *Retry) attempts() int { return max(cmp.Or(r.Attempts, 5), 1) }

// wanted reports whether to send req again, if that is possible.
func (r *Retry) wanted(req *http.Request, e *Error) bool {
	if r.Decide != nil && gone(req) == nil {
		switch r.Decide(req, e) {
		case Again:
			return true
		case Stop:
			return false
		}
	}
	return e.Retryable() && r.safe(req, e)
}

// reconsider uses the wait before the next attempt to read on in an answer that
// was judged by its status, because its body had not come in time: a 429 may
// turn out to be one that waiting does not cure. It returns what is left of the
// wait, and whether the new verdict is still to send the request again.
func (r *Retry) reconsider(req *http.Request, in *result, wait time.Duration) (left time.Duration, again bool) {
	began := time.Now()
	again = true
	for again && in.e.hasty {
		ready := max(wait-time.Since(began), time.Until(in.e.notBefore))
		p, ok := in.resp.Body.(*peeked)
		if !ok || !p.more(req, ready-drainTime) { // what is left is for giving it up
			break
		}
		old := in.e
		in.e = judgeAnew(req, in.resp)
		in.e.Attempts, in.e.history, in.e.notBefore, in.e.limit = old.Attempts, old.history, old.notBefore, old.limit
		if in.e.RetryAfter != old.RetryAfter || !in.e.Retryable() || r.Decide != nil || !in.e.notBefore.IsZero() {
			wait, again = r.next(req, in.e)
		}
	}
	return max(wait-time.Since(began), 0), again
}

// safe reports whether sending req again does no harm, whatever the server made
// of it the last time.
func (r *Retry) safe(req *http.Request, e *Error) bool {
	if r.ReplayUnsafe || idempotent(req) || e.unsent && unread(req) {
		return true
	}
	switch e.StatusCode {
	case 0:
		return false
	case http.StatusRequestTimeout, http.StatusTooManyRequests, http.StatusInternalServerError,
		http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return true
	}
	return e.again == againYes || e.Class == ErrRateLimit || e.Class == ErrOverloaded
}

// idempotent reports whether req may be acted on twice: by its method, or by
// the header that net/http asks for too.
func idempotent(req *http.Request) bool {
	switch req.Method {
	case "", http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodTrace, http.MethodPut, http.MethodDelete:
		return true
	}
	_, key := req.Header["Idempotency-Key"]
	_, xkey := req.Header["X-Idempotency-Key"]
	return key || xkey
}

// backoff is how long to wait before the next attempt, if the server names no
// time.
func (r *Retry) backoff(req *http.Request, e *Error) time.Duration {
	if e.limited() && !saysNoWait(e.header) {
		return r.crowdBackoff(req, e)
	}
	return fitting(req, jitter(r.ceiling(e.Attempts)))
}

// crowdBackoff is backoff where many may be refused together, until there is room
// again: no less than a plain loop waits.
func (r *Retry) crowdBackoff(req *http.Request, e *Error) time.Duration {
	if r.MinDelay != 0 || r.MaxDelay != 0 {
		return fitting(req, jitter(r.ceiling(e.Attempts)))
	}
	wait := min(time.Second<<min(e.Attempts-1, 10), 20*time.Second)
	return fitting(req, wait+jitter(wait))
}

// fitting shortens a wait that nobody asked for, so that there is time for another
// attempt before the deadline.
func fitting(req *http.Request, wait time.Duration) time.Duration {
	if deadline, ok := deadlineOf(req); ok {
		if left := time.Until(deadline); wait >= left && left >= fewest {
			wait = left/2 + jitter(left/3)
		}
	}
	return wait
}

// fewest is the least time before the deadline for which one more attempt is worth
// its while.
const fewest = 100 * time.Millisecond

// ceiling is the most that is waited after the nth attempt, if the server names
// no time.
func (r *Retry) ceiling(n int) time.Duration {
	if r.MinDelay < 0 {
		return 0
	}
	longest := r.MaxDelay
	if longest <= 0 {
		longest = max(20*time.Second, r.MinDelay)
	}
	// In floating point, so that no number of attempts overflows.
	d := float64(cmp.Or(r.MinDelay, 500*time.Millisecond)) * math.Exp2(float64(n-1))
	if d >= float64(longest) {
		return longest
	}
	return time.Duration(d)
}

// jitter returns a random part of d. With the whole range ("full jitter"),
// clients that failed together come back apart, and send least in all:
// https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/
func jitter(d time.Duration) time.Duration {
	if d <= 0 {
		return 0
	}
	return rand.N(d) //nolint:gosec // spreads load, guards nothing
}

func saturated(a, b time.Duration) time.Duration {
	if a > math.MaxInt64-b {
		return math.MaxInt64
	}
	return a + b
}

// own makes the verdict Retry's own, before it writes to it: others may have
// seen it, or a base may return the same for every request.
func (l *result) own(n int, history []Attempt) {
	e := *l.e
	e.Attempts, e.history = n, history
	l.e = &e
	if l.resp != nil {
		if v := verdictOf(l.resp); v != nil {
			v.err = l.e
		}
	} else if _, ok := l.err.(*Error); ok { //nolint:errorlint // the value itself
		l.err = l.e
	}
}

// hold sees to it that the response's body remains in hand, also where a layer
// between wraps what the classifier has read ahead.
func (l *result) hold(req *http.Request) {
	if _, ok := l.resp.Body.(*peeked); !ok && l.resp.Body != http.NoBody {
		l.resp.Body = peek(req, l.resp.Body)
	}
}

// giveUp lets go of an attempt's response: the channel is closed when its
// connection can be used again. What was read of it remains in hand, if that
// is all of it.
func (l *result) giveUp() <-chan struct{} {
	if l.resp == nil || l.resp.Body == http.NoBody {
		return closedChan()
	}
	body := l.resp.Body
	if p, ok := body.(*peeked); ok {
		if ahead, whole := p.bytes(); whole {
			kept := readBefore(ahead)
			kept.verdict = verdictIn(body)
			l.resp.Body = kept
			return discard(body)
		}
	}
	l.resp.Body = nil
	return discard(body)
}

// whole reports whether the result can still be handed back after giveUp.
func (l *result) whole() bool {
	return l.e != nil && (l.err != nil || l.resp != nil && l.resp.Body != nil)
}

// forbid tells an SDK above, which would judge by the status alone, not to send
// the request again: those that are made with Stainless look for that header
// first.
func (l *result) forbid() {
	switch status := l.resp.StatusCode; {
	case status == http.StatusRequestTimeout, status == http.StatusConflict, status == http.StatusTooManyRequests, status >= 500:
	case l.resp.Header.Get(shouldRetry) == "true":
	default:
		return // it would not
	}
	header := make(http.Header, len(l.resp.Header)+1)
	maps.Copy(header, l.resp.Header) // a base may give the same to everybody
	header.Set(shouldRetry, "false")
	if header.Get(stripeShouldRetry) != "" {
		header.Set(stripeShouldRetry, "false")
	}
	l.resp.Header = header
	if v := verdictOf(l.resp); v != nil {
		v.forbidden = true
	}
}

// final is the error as the caller of RoundTrip gets it.
func (l *result) final() error {
	if l.err == nil || l.e.Attempts <= 1 || l.e.Class == 0 || l.e.foreign {
		return l.err
	}
	if _, ok := errors.AsType[*Error](l.err); ok {
		return l.err
	}
	return l.e
}
