package grid

import (
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// A model is a server of a run. It is an http.RoundTripper.
type model struct {
	*Server
	start time.Time

	mu      sync.Mutex
	random  *rand.Rand
	gauges  []gauge
	arrived int
	refused int // because of a limit, or as if
	taken   int
}

// A gauge counts against one limit. Times are since the server's start.
type gauge interface {
	// next is when a request may be taken; now if it may at once.
	next(now time.Duration) time.Duration
	charge(now, ends time.Duration, refused bool)
	// told is what headers say: what is left, of how many, and when there is all.
	told(now time.Duration) (left, of float64, reset time.Duration)
}

func newModel(s *Spec) *model {
	m := &model{Server: &s.Server, start: time.Now(), random: rand.New(rand.NewPCG(s.Seed, 77))}
	for i := range s.Server.Limits {
		l := &s.Server.Limits[i]
		switch l.Kind {
		case Bucket:
			m.gauges = append(m.gauges, &bucket{Limit: l, level: float64(l.Burst)})
		case Fixed, Aligned:
			m.gauges = append(m.gauges, &window{Limit: l})
		case Sliding:
			m.gauges = append(m.gauges, &sliding{Limit: l})
		case Slots:
			m.gauges = append(m.gauges, &slots{Limit: l})
		}
	}
	return m
}

// A verdict is how the server decides on a request when it arrives.
type verdict struct {
	status  int // zero for a reset
	header  http.Header
	latency time.Duration
}

// next is when a request would be taken, but for noise.
func (m *model) next(now time.Duration) time.Duration {
	at := now
	for {
		before := at
		if ends, down := m.down(at); down {
			at = ends
		}
		for _, g := range m.gauges {
			at = max(at, g.next(at))
		}
		if at == before {
			return at
		}
	}
}

// down reports whether an outage is on, and until when.
func (m *model) down(now time.Duration) (ends time.Duration, down bool) {
	o := m.Outage
	if o == nil || now < o.From {
		return 0, false
	}
	began := o.From
	if o.Every > 0 {
		began = now - (now-o.From)%o.Every
	}
	return began + o.For, now < began+o.For
}

// decide takes a request that arrives now.
func (m *model) decide(now time.Duration) verdict {
	m.arrived++
	v := verdict{status: 200, header: http.Header{}, latency: m.takes()}
	quick := v.latency / 5
	if _, down := m.down(now); down {
		v.status, v.latency = m.Outage.Status, quick
		m.retryAfter(&v, m.Outage.RetryAfter)
		if v.status == 429 {
			m.refused++
		}
		return v
	}
	if m.Noise != nil && m.random.Float64() < m.Noise.Share {
		v.status, v.latency = m.Noise.Status, quick
		m.retryAfter(&v, m.Noise.RetryAfter)
		return v
	}
	at := now
	for _, g := range m.gauges {
		at = max(at, g.next(now))
	}
	if at > now {
		v.status, v.latency = m.Status, quick
		m.wait(&v, at-now)
		m.refused++
	} else {
		m.taken++
	}
	for i, g := range m.gauges {
		if at == now || m.Limits[i].Charged {
			g.charge(now, now+v.latency, at > now)
		}
	}
	m.tell(&v, now)
	return v
}

// takes is how long a request takes.
func (m *model) takes() time.Duration {
	return time.Duration(float64(m.Latency.Median) * math.Exp(m.Latency.Sigma*m.random.NormFloat64()))
}

func (m *model) retryAfter(v *verdict, seconds int) {
	if seconds > 0 {
		v.header.Set("Retry-After", strconv.Itoa(seconds))
	}
}

// wait says in how long there is room.
func (m *model) wait(v *verdict, d time.Duration) {
	seconds := int(math.Ceil(d.Seconds()))
	switch m.RetryAfter {
	case InSeconds:
		v.header.Set("Retry-After", strconv.Itoa(seconds))
	case InMillis:
		v.header.Set("Retry-After-Ms", strconv.Itoa(int(math.Ceil(d.Seconds()*1000))))
	case TooShort:
		v.header.Set("Retry-After", strconv.Itoa(int(d.Seconds()/2)))
	case TooLong:
		v.header.Set("Retry-After", strconv.Itoa(5*seconds))
	case Zero:
		v.header.Set("Retry-After", "0")
	}
}

// tell says what is left, in headers.
func (m *model) tell(v *verdict, now time.Duration) {
	if m.Headers == "" {
		return
	}
	i := slices.IndexFunc(m.Limits, func(l Limit) bool { return !l.Hidden })
	left, of, reset := m.gauges[i].told(now)
	l := &m.Limits[i]
	switch m.Headers {
	case Minute:
		if l.Kind == Bucket {
			missing := of - left
			of = math.Ceil(l.Rate * 60)
			left = max(of-missing, 0)
		}
		m.openAI(v, left, of, reset.Round(time.Millisecond).String())
	case OpenAI:
		m.openAI(v, left, of, reset.Round(time.Millisecond).String())
	case Lying:
		m.openAI(v, 2*left, 2*of, reset.Round(time.Millisecond).String())
	case Seconds:
		m.openAI(v, left, of, strconv.Itoa(int(math.Ceil(reset.Seconds())))+"s")
	case Epoch:
		at := m.start.Add(now + reset)
		v.header.Set("X-RateLimit-Limit", number(of))
		v.header.Set("X-RateLimit-Remaining", number(left))
		v.header.Set("X-RateLimit-Reset", strconv.FormatInt(at.Add(time.Second-1).Unix(), 10))
	case IETF:
		per := math.Ceil(max(l.Per.Seconds(), of/l.Rate))
		v.header.Set("RateLimit-Policy", fmt.Sprintf(`"default";q=%s;w=%s`, number(of), number(per)))
		v.header.Set("RateLimit", fmt.Sprintf(`"default";r=%s;t=%s`, number(left), number(math.Ceil(reset.Seconds()))))
	}
}

func (m *model) openAI(v *verdict, left, of float64, reset string) {
	v.header.Set("X-Ratelimit-Limit-Requests", number(of))
	v.header.Set("X-Ratelimit-Remaining-Requests", number(left))
	v.header.Set("X-Ratelimit-Reset-Requests", reset)
}

func number(x float64) string { return strconv.FormatFloat(math.Floor(x), 'f', 0, 64) }

// RoundTrip answers req.
func (m *model) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.Body != nil {
		_, _ = io.Copy(io.Discard, req.Body)
		req.Body.Close()
	}
	m.mu.Lock()
	v := m.decide(time.Since(m.start))
	m.mu.Unlock()
	return v.answer(req)
}

func (v *verdict) answer(req *http.Request) (*http.Response, error) {
	if v.latency > 0 {
		timer := time.NewTimer(v.latency)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-req.Context().Done():
			return nil, req.Context().Err()
		}
	}
	body := `{"ok":true}`
	switch v.status {
	case 0:
		return nil, syscall.ECONNRESET
	case 429:
		body = `{"error":{"message":"Rate limit reached","type":"requests","code":"rate_limit_exceeded"}}`
	case 500, 503:
		body = `{"error":{"message":"The server had an error","type":"server_error"}}`
	}
	v.header.Set("Content-Type", "application/json")
	v.header.Set("Date", time.Now().UTC().Format(http.TimeFormat))
	return &http.Response{
		StatusCode: v.status, Status: fmt.Sprintf("%d %s", v.status, http.StatusText(v.status)),
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Header: v.header,
		Body: io.NopCloser(strings.NewReader(body)), ContentLength: int64(len(body)), Request: req,
	}, nil
}

type bucket struct {
	*Limit
	level float64
	at    time.Duration
}

// rate is the rate at now.
func (b *bucket) rate(now time.Duration) float64 {
	r := b.Rate
	for i, at := range b.Changes {
		if now >= at {
			r = b.Rate * b.Factors[i]
		}
	}
	return r
}

func (b *bucket) fill(now time.Duration) {
	if now > b.at {
		b.level = min(b.level+(now-b.at).Seconds()*b.rate(now), float64(b.Burst))
		b.at = now
	}
}

func (b *bucket) next(now time.Duration) time.Duration {
	// By what it is now: of a time to come nothing is kept.
	level := min(b.level+max(now-b.at, 0).Seconds()*b.rate(now), float64(b.Burst))
	if level >= 1-1e-9 {
		return now
	}
	return now + time.Duration(math.Ceil((1-level)/b.rate(now)*1e9))
}

func (b *bucket) charge(now, _ time.Duration, refused bool) {
	b.fill(now)
	if refused {
		b.level = 0
		return
	}
	b.level--
}

func (b *bucket) told(now time.Duration) (left, of float64, reset time.Duration) {
	b.fill(now)
	missing := float64(b.Burst) - b.level
	return b.level, float64(b.Burst), time.Duration(missing / b.rate(now) * 1e9)
}

type window struct {
	*Limit
	used float64
	ends time.Duration
}

func (w *window) size() float64 { return math.Max(1, math.Round(w.Rate*w.Per.Seconds())) }

func (w *window) next(now time.Duration) time.Duration {
	if now >= w.ends || w.used < w.size() {
		return now
	}
	return w.ends
}

func (w *window) charge(now, _ time.Duration, _ bool) {
	if now >= w.ends {
		w.used, w.ends = 0, now+w.Per
		if w.Kind == Aligned {
			w.ends = now - now%w.Per + w.Per
		}
	}
	w.used = min(w.used+1, w.size())
}

func (w *window) told(now time.Duration) (left, of float64, reset time.Duration) {
	if now >= w.ends {
		return w.size(), w.size(), 0
	}
	return w.size() - w.used, w.size(), w.ends - now
}

type sliding struct {
	*Limit
	times []time.Duration
}

func (s *sliding) size() int { return max(1, int(math.Round(s.Rate*s.Per.Seconds()))) }

func (s *sliding) next(now time.Duration) time.Duration {
	if len(s.times) < s.size() {
		return now
	}
	return max(now, s.times[len(s.times)-s.size()]+s.Per)
}

func (s *sliding) charge(now, _ time.Duration, _ bool) {
	s.times = append(s.times, now)
	if n := len(s.times); n > 4*s.size()+1000 {
		s.times = slices.Clone(s.times[n-s.size():])
	}
}

func (s *sliding) told(now time.Duration) (left, of float64, reset time.Duration) {
	n := 0
	for i := len(s.times) - 1; i >= 0 && s.times[i] > now-s.Per && n < s.size(); i-- {
		n++
		reset = s.times[i] + s.Per - now
	}
	return float64(s.size() - n), float64(s.size()), reset
}

type slots struct {
	*Limit
	ends []time.Duration
}

func (s *slots) drop(now time.Duration) {
	s.ends = slices.DeleteFunc(s.ends, func(end time.Duration) bool { return end <= now })
}

func (s *slots) next(now time.Duration) time.Duration {
	s.drop(now)
	if len(s.ends) < int(s.Rate) {
		return now
	}
	return slices.Min(s.ends)
}

func (s *slots) charge(_, ends time.Duration, _ bool) { s.ends = append(s.ends, ends) }

func (s *slots) told(time.Duration) (left, of float64, reset time.Duration) { return 0, 0, 0 }
