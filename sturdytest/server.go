package sturdytest

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"math/rand/v2"
	"net"
	"net/http"
	"sync"
	"syscall"
	"time"
)

// A Server is a model of an API: it limits its clients, tells them so in the
// headers that they know from elsewhere, takes its time, and at times it is
// down. It is an [http.RoundTripper], to be the Base of the client under test,
// and an [http.Handler], for [net/http/httptest]. As a RoundTripper it opens no
// socket and waits on timers: in a [testing/synctest] bubble, an hour of
// traffic takes a moment. Several clients may share a Server, as the processes
// of a fleet do.
//
// What is within the limits is answered with a chat completion, and what is not
// with an error in the shape of the API that Headers names. The zero Server
// answers 200 to everything, at once.
//
//	srv := &sturdytest.Server{
//		Limits:     []sturdytest.Limit{{Rate: 10, Burst: 20}},
//		Headers:    sturdytest.OpenAI,
//		RetryAfter: sturdytest.Seconds,
//	}
//	client := &http.Client{Transport: &sturdy.Transport{Base: srv}}
//
// What a Server does follows from its settings, Seed among them, and from what
// comes when. If no two requests come at the same instant, a run in a bubble is
// the same each time.
//
// Settings are not changed after the first request. One that makes no sense is
// reported by every request: as an error, or by a handler as a 500.
type Server struct {
	Limits     []Limit    // a request must be within all of them; nil means that there are none
	Headers    Dialect    // how answers tell of the limits; zero means not at all
	RetryAfter RetryAfter // how refusals tell how long to wait; zero means not at all
	Lie        float64    // how many times too large limit and remaining are in headers; zero means 1

	// Key tells whose limits a request counts against: requests with the same
	// key share them. Most APIs go by the credential:
	//
	//	func(r *http.Request) string { return r.Header.Get("Authorization") }
	//
	// Nil means that all requests share them.
	Key func(*http.Request) string

	Outages []Outage // a request is answered by the first that hits it; nil means that there are none
	Latency Latency  // of the answers to what is within the limits; zero means none

	// Refusal is the latency of the answers to what is not within the limits.
	// Zero means none: for a client that asks again at once, no time passes in
	// a bubble then.
	Refusal Latency

	// Capacity is how many requests the server answers in its usual time. If n
	// are in flight, and n is more, Latency is n/Capacity times as long. Zero
	// means any number.
	Capacity int

	// Chat is the answer to what is within the limits: as a stream of events
	// if the request's body is JSON and says "stream": true.
	Chat Chat

	// Reply makes the answer, in place of Chat. The body of its request can be
	// read. Nil means Chat.
	Reply func(*http.Request) Step

	Seed  uint64    // of all that is random
	Start time.Time // what outages, windows and Stats are counted from; zero means the first request

	checked sync.Once
	invalid error // what is wrong with the settings

	mu     sync.Mutex // guards what follows
	random *rand.Rand
	keys   map[string][]*gauge
	stats  Stats
}

// An Outage is a time in which a server does not do its work. Requests that it
// hits are not counted against the limits.
type Outage struct {
	From, To time.Duration // since the server's start; a To of zero means for ever
	Share    float64       // of the requests that it hits, up to 1; zero means 1

	// Answer is what the requests get. A step can be slow to come, and it need
	// not be an answer: [Step.After], [Hang], [ConnReset]. Without a status it
	// is what the API sends when it is overloaded: a 529 if it is Anthropic's,
	// otherwise a 503.
	Answer Step
}

// RoundTrip answers req. It treats the request as [Player.RoundTrip] does: the
// body is read and closed, and waits end with the context.
func (s *Server) RoundTrip(req *http.Request) (resp *http.Response, err error) {
	v := newVisit(s, req)
	defer func() { v.leave(resp) }() // also when a step panics
	if err := s.check(); err != nil {
		return nil, err
	}
	v.arrive()
	if err := v.send(); err != nil {
		return nil, err
	}
	if !v.down {
		v.serve()
	}
	resp, err = v.answer()
	if resp != nil {
		maps.Copy(resp.Header, v.header)
		resp.Header.Set("Date", httpDate(time.Now()))
	}
	return resp, err
}

// ServeHTTP answers r. Each part of a body is flushed when it is due. Where a
// step has an error instead of an answer, or at its end, the connection is
// broken: by a reset if that is the error and the protocol is HTTP/1.1.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if err := s.check(); err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	resp, err := s.RoundTrip(r)
	if err != nil {
		hangUp(w, err)
		return
	}
	defer resp.Body.Close()
	maps.Copy(w.Header(), resp.Header)
	w.WriteHeader(resp.StatusCode)
	if err := copyFlushed(w, resp.Body); err != nil {
		hangUp(w, err)
	}
}

// copyFlushed copies body to w and flushes each part as it comes.
func copyFlushed(w http.ResponseWriter, body io.Reader) error {
	rc := http.NewResponseController(w)
	buf := make([]byte, chunk)
	for {
		n, err := body.Read(buf)
		if n > 0 {
			if _, err := w.Write(buf[:n]); err != nil {
				return err
			}
			if err := rc.Flush(); err != nil {
				return err
			}
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// hangUp breaks the connection in the way of err. It returns only if it has
// taken the connection from net/http.
func hangUp(w http.ResponseWriter, err error) {
	if errors.Is(err, syscall.ECONNRESET) {
		if conn, _, err := http.NewResponseController(w).Hijack(); err == nil {
			if c, ok := conn.(*tls.Conn); ok {
				conn = c.NetConn() // closed without a word of TLS
			}
			if c, ok := conn.(*net.TCPConn); ok {
				_ = c.SetLinger(0) // closing it resets it then
			}
			conn.Close()
			return
		}
	}
	panic(http.ErrAbortHandler)
}

// A visit is one request's way through a Server.
type visit struct {
	exchange
	s *Server

	number int         // of the request, from 1; zero if it was not counted
	down   bool        // an outage answers it
	over   bool        // it is not within the limits
	header http.Header // of the answer, besides that of its step
}

func newVisit(s *Server, req *http.Request) *visit {
	v := &visit{s: s}
	v.exchange = exchange{
		req: req, mu: new(sync.Mutex), record: new(Request), finished: make(chan struct{}),
		onFinish: v.finishes, onClose: v.closes,
	}
	return v
}

// arrive counts the request, and finds out whether an outage hits it.
func (v *visit) arrive() {
	s := v.s
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.now()
	s.stats.InFlight++
	s.stats.MaxInFlight = max(s.stats.MaxInFlight, s.stats.InFlight)
	s.stats.count(now, func(c *Counts) { c.Arrived++ })
	v.number = s.stats.Arrived
	for i := range s.Outages {
		if o := &s.Outages[i]; o.hits(now, s.random) {
			v.down = true
			v.step = o.answer(s.Headers)
			return
		}
	}
}

// serve holds the request, of which the body has been read, against the
// limits, and gives it its step.
func (v *visit) serve() {
	s := v.s
	var key string
	if s.Key != nil {
		key = s.Key(v.req)
	}
	c := parseCall(v.record.Body)
	no, delay := v.charge(key, c)
	switch {
	case no != nil:
		v.over = true
		v.step = s.Headers.refuse(no, c)
	case s.Reply != nil:
		req := v.req.WithContext(v.req.Context()) // a copy
		req.Body = io.NopCloser(bytes.NewReader(v.record.Body))
		v.step = s.Reply(req)
	default:
		v.step = s.Headers.reply(s.Chat, c)
	}
	v.step.delay += delay
}

// charge charges the request to the limits of its key. It returns how long the
// answer takes, and why the request is refused if it is.
func (v *visit) charge(key string, c *call) (no *refusal, delay time.Duration) {
	s := v.s
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.now()
	c.number, c.time = v.number, s.stats.Start.Add(now)
	gauges := s.gauges(key)
	no = charge(gauges, c, now)

	v.header = make(http.Header)
	s.Headers.tell(v.header, gauges, no, s.Lie, c, now)
	if no != nil {
		s.RetryAfter.tell(v.header, no.wait, c.time)
		return no, s.Refusal.draw(s.random)
	}
	s.stats.count(now, func(total *Counts) { total.Tokens += c.input + c.output })
	delay = s.Latency.draw(s.random)
	if n := s.stats.InFlight; s.Capacity > 0 && n > s.Capacity {
		delay = delay * time.Duration(n) / time.Duration(s.Capacity)
	}
	return nil, delay
}

// leave counts what became of the request. A nil resp is none.
func (v *visit) leave(resp *http.Response) {
	if resp == nil {
		v.closeBody()
		defer v.finish()
	}
	if v.number == 0 {
		return
	}
	s := v.s
	s.mu.Lock()
	defer s.mu.Unlock()
	if resp != nil && resp.Body != http.NoBody {
		s.stats.Unclosed++
	}
	s.stats.count(s.now(), func(c *Counts) {
		switch {
		case resp == nil && ended(v.req) != nil:
			c.Gone++
		case v.over:
			c.Refused++
		case resp != nil && resp.StatusCode < 400:
			c.OK++
		default:
			c.Failed++
		}
	})
}

// finishes is called once, when nobody wants more of the answer.
func (v *visit) finishes() {
	if v.number > 0 {
		v.s.mu.Lock()
		defer v.s.mu.Unlock()
		v.s.stats.InFlight--
	}
}

// closes is called once, when the answer's body is closed.
func (v *visit) closes() {
	v.s.mu.Lock()
	defer v.s.mu.Unlock()
	v.s.stats.Unclosed--
}

// check returns what is wrong with the settings.
func (s *Server) check() error {
	s.checked.Do(func() {
		for i, l := range s.Limits {
			s.mustf(l.Rate > 0 && !math.IsInf(l.Rate, 1), "Limits[%d].Rate must be positive, it is %v", i, l.Rate)
			s.mustf(l.Per >= 0, "Limits[%d].Per is negative: %v", i, l.Per)
			s.mustf(l.Burst >= 0, "Limits[%d].Burst is negative: %d", i, l.Burst)
			s.mustf(l.Unit <= OutputTokens, "Limits[%d].Unit is unknown: %d", i, l.Unit)
			s.mustf(l.To == 0 || l.To > l.From, "Limits[%d].To must be after From, it is %v", i, l.To)
		}
		for i, o := range s.Outages {
			s.mustf(o.Share >= 0 && o.Share <= 1, "Outages[%d].Share must be from 0 to 1, it is %v", i, o.Share)
			s.mustf(o.To == 0 || o.To > o.From, "Outages[%d].To must be after From, it is %v", i, o.To)
		}
		for name, l := range map[string]Latency{"Latency": s.Latency, "Refusal": s.Refusal} {
			s.mustf(l.Median >= 0, "%s.Median is negative: %v", name, l.Median)
			s.mustf(l.P99 == 0 || l.P99 >= l.Median && l.Median > 0, "%s.P99 must be at least Median, it is %v", name, l.P99)
		}
		s.mustf(s.Headers <= GitHub, "Headers is unknown: %d", s.Headers)
		s.mustf(s.RetryAfter <= Date, "RetryAfter is unknown: %d", s.RetryAfter)
		s.mustf(s.Lie >= 0, "Lie is negative: %v", s.Lie)
		s.mustf(s.Capacity >= 0, "Capacity is negative: %d", s.Capacity)
	})
	return s.invalid
}

func (s *Server) mustf(ok bool, format string, args ...any) {
	if !ok && s.invalid == nil {
		s.invalid = fmt.Errorf("sturdytest: Server."+format, args...)
	}
}

// now returns the time since the start. It requires that mu is held.
func (s *Server) now() time.Duration {
	now := time.Now()
	if s.random == nil {
		s.random = rand.New(rand.NewPCG(s.Seed, 0)) //nolint:gosec // to be the same for the same seed
		s.keys = make(map[string][]*gauge)
		s.stats.Start = s.Start
		if s.Start.IsZero() {
			s.stats.Start = now
		}
	}
	return now.Sub(s.stats.Start)
}

// gauges returns the levels of the limits for a key. It requires that mu is
// held.
func (s *Server) gauges(key string) []*gauge {
	gauges, ok := s.keys[key]
	if !ok {
		for i := range s.Limits {
			gauges = append(gauges, newGauge(&s.Limits[i]))
		}
		s.keys[key] = gauges
	}
	return gauges
}

// A Latency is how long answers take. It is a log-normal distribution, as
// latencies mostly are.
type Latency struct {
	Median time.Duration // half of the answers take longer
	P99    time.Duration // one of a hundred takes longer; zero means that all take Median
}

// z99 is the 99th percentile of the standard normal distribution.
const z99 = 2.3263478740408408

func (l Latency) draw(random *rand.Rand) time.Duration {
	if l.P99 == 0 {
		return l.Median
	}
	sigma := math.Log(float64(l.P99)/float64(l.Median)) / z99
	return time.Duration(float64(l.Median) * math.Exp(sigma*random.NormFloat64()))
}

// hits reports whether a request at now is hit by the outage.
func (o *Outage) hits(now time.Duration, random *rand.Rand) bool {
	return within(now, o.From, o.To) && (o.Share == 0 || random.Float64() < o.Share)
}

// answer returns the outage's Answer, with what it leaves out.
func (o *Outage) answer(d Dialect) Step {
	s := o.Answer
	if s.Status != 0 {
		return s
	}
	usual := d.overloaded()
	s.Status = usual.Status
	if s.Body == "" {
		s.Body = usual.Body
		for key, values := range usual.Header {
			s = s.With(key, values[0])
		}
	}
	return s
}

// within reports whether now is in the time that begins at from and, unless to
// is zero, ends before to.
func within(now, from, to time.Duration) bool {
	return now >= from && (to == 0 || now < to)
}

func httpDate(t time.Time) string { return t.UTC().Format(http.TimeFormat) }
