package grid

import (
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"time"
)

// A Spec is a server and its callers. It is all that a run depends on.
type Spec struct {
	Seed    uint64
	Server  Server
	Callers Callers
}

// A Server is what the server does, and what it says.
type Server struct {
	Limits     []Limit
	Headers    Headers    `json:",omitempty"`
	RetryAfter RetryAfter `json:",omitempty"`
	Status     int        // of what is over a limit
	Noise      *Noise     `json:",omitempty"`
	Outage     *Outage    `json:",omitempty"`
	Latency    Latency
}

// A Kind is how a limit counts.
type Kind string

// The kinds of limits.
const (
	Bucket  Kind = "bucket"  // a token bucket
	Fixed   Kind = "fixed"   // so many in each window from the first request on
	Aligned Kind = "aligned" // so many in each window of the clock
	Sliding Kind = "sliding" // so many in any window
	Slots   Kind = "slots"   // so many at once
)

// A Limit is one limit of a server.
type Limit struct {
	Kind    Kind
	Rate    float64         // requests per second; of slots, how many
	Burst   int             `json:",omitempty"` // of a bucket
	Per     time.Duration   `json:",omitempty"` // of a window
	Charged bool            `json:",omitempty"` // what is refused counts too
	Hidden  bool            `json:",omitempty"` // no header tells of it
	Changes []time.Duration `json:",omitempty"` // when the rate becomes Factors' next
	Factors []float64       `json:",omitempty"` // of Rate
}

// Headers are how answers tell of the first limit that is not hidden.
type Headers string

// The dialects of headers.
const (
	OpenAI  Headers = "openai"  // x-ratelimit-*, a reset such as 12ms, the bucket's own size
	Minute  Headers = "minute"  // the same, but a minute's worth is told, over a smaller bucket
	Seconds Headers = "seconds" // a reset in whole seconds
	Epoch   Headers = "epoch"   // a reset that is a time, in seconds
	IETF    Headers = "ietf"    // RateLimit and RateLimit-Policy
	Lying   Headers = "lying"   // twice as much is told as there is
)

// A RetryAfter is what a refusal says of how long to wait.
type RetryAfter string

// What a refusal may say.
const (
	InSeconds RetryAfter = "s"     // until there is room, rounded up
	InMillis  RetryAfter = "ms"    // the same, by Retry-After-Ms
	TooShort  RetryAfter = "short" // half of it, rounded down
	TooLong   RetryAfter = "long"  // five times as long
	Zero      RetryAfter = "0"
)

// Noise answers some requests by chance, whatever the limits say.
type Noise struct {
	Share      float64
	Status     int
	RetryAfter int // seconds; zero for no header
}

// An Outage is when all requests fail.
type Outage struct {
	From, For, Every time.Duration // again after Every; zero for once
	Status           int           // zero for a reset
	RetryAfter       int           // seconds; zero for no header
}

// A Latency is log-normal. What is refused takes a fifth of the median.
type Latency struct {
	Median time.Duration
	Sigma  float64
}

// Callers are who calls.
type Callers struct {
	Workers  int           // who send one call after the other; in an open loop, no limit
	Calls    int           // of all together
	Gap      time.Duration `json:",omitempty"` // from one call to the next in an open loop; zero for a closed one
	Deadline time.Duration `json:",omitempty"` // of each call; zero for none
}

// Draw returns what a seed gives.
func Draw(seed uint64) *Spec {
	r := rand.New(rand.NewPCG(seed, 0x9e3779b97f4a7c15))
	s := &Spec{Seed: seed}
	perSecond := round(logUniform(r, 0.5, 1000))
	s.Server.Latency = Latency{
		Median: time.Duration(logUniform(r, 5e6, 2e9)).Round(time.Millisecond),
		Sigma:  pick(r, 0, 0.1, 0.3, 0.3, 1.2),
	}
	s.limits(r, perSecond)
	s.says(r, perSecond)
	s.calls(r, perSecond)
	expected := time.Duration(float64(s.Callers.Calls) / perSecond * float64(time.Second))
	s.trouble(r, expected)
	return s
}

func (s *Spec) limits(r *rand.Rand, perSecond float64) {
	l := Limit{Rate: perSecond, Charged: r.IntN(4) == 0}
	switch r.IntN(10) {
	case 0, 1, 2, 3:
		l.Kind = Bucket
		l.Burst = max(1, int(pick(r, 1, 1, 2, perSecond/10, perSecond, 10*perSecond, 60*perSecond)))
		l.Burst = min(l.Burst, 5000)
	case 4, 5, 6:
		l.Kind = pick(r, Fixed, Aligned, Sliding)
		l.Per = pick(r, time.Second, 10*time.Second, time.Minute)
		for perSecond*l.Per.Seconds() < 1 {
			l.Per *= 10
		}
		for perSecond*l.Per.Seconds() > 5000 {
			l.Per /= 10
		}
	case 7, 8:
		l.Kind, l.Charged = Slots, false
		l.Rate = float64(pick(r, 1, 2, 4, 8, 8, 16, 50))
	default:
		return
	}
	s.Server.Limits = append(s.Server.Limits, l)
}

func (s *Spec) says(r *rand.Rand, perSecond float64) {
	s.Server.Status = pick(r, 429, 429, 429, 503)
	s.Server.RetryAfter = pick(r, "", "", InSeconds, InSeconds, InMillis, TooShort, TooLong, Zero)
	if len(s.Server.Limits) == 0 {
		return
	}
	if l := s.Server.Limits[0]; l.Kind == Slots || r.IntN(2) == 0 {
		return
	}
	s.Server.Headers = pick(r, OpenAI, OpenAI, Minute, Seconds, Epoch, IETF, Lying)
	if r.IntN(5) == 0 {
		s.Server.Limits = append(s.Server.Limits, Limit{
			Kind: Bucket, Rate: round(perSecond * (0.4 + 0.4*r.Float64())), Burst: max(1, int(perSecond/5)), Hidden: true,
		})
	}
}

func (s *Spec) calls(r *rand.Rand, perSecond float64) {
	c := &s.Callers
	most := s.most()
	c.Workers = pick(r, 1, 1, 4, 16, 16, 64, 64, 256, 1000)
	// As many as the server or the workers can do in some time, within bounds that
	// keep a run short.
	most = min(most, float64(c.Workers)/(s.Server.Latency.Median.Seconds()+0.001))
	lasts := logUniform(r, 20, 300)
	c.Calls = int(min(max(most*lasts, 60), 4000))
	if r.IntN(3) == 0 {
		c.Gap = time.Duration(float64(time.Second) / (min(perSecond, s.most()) * pick(r, 0.5, 0.8, 0.95, 1.2)))
		c.Calls = int(min(max(min(perSecond, s.most())*lasts, 60), 4000))
		c.Workers = 0
	}
	c.Deadline = pick(r, 0, 0, 0, 10*time.Second, 30*time.Second, time.Minute, time.Hour)
	if c.Gap > 0 {
		c.Deadline = pick(r, 10*time.Second, 30*time.Second, time.Minute)
	}
}

// most is how many requests a second the server takes.
func (s *Spec) most() float64 {
	most := 2000.
	for _, l := range s.Server.Limits {
		perSecond := l.Rate
		if l.Kind == Slots {
			perSecond = l.Rate / (s.Server.Latency.Median.Seconds() * math.Exp(s.Server.Latency.Sigma*s.Server.Latency.Sigma/2))
		}
		most = min(most, perSecond)
	}
	return most
}

func (s *Spec) trouble(r *rand.Rand, expected time.Duration) {
	switch r.IntN(10) {
	case 0, 1:
		s.Server.Noise = &Noise{Share: pick(r, 0.01, 0.05, 0.2), Status: pick(r, 429, 429, 500, 503), RetryAfter: pick(r, 0, 0, 1)}
	case 2, 3, 4:
		o := &Outage{Status: pick(r, 429, 429, 500, 503, 503, 0), RetryAfter: pick(r, 0, 0, 2)}
		if o.Status == 0 || o.Status == 500 {
			o.RetryAfter = 0
		}
		o.From = time.Duration((0.1 + 0.5*r.Float64()) * float64(expected)).Round(10 * time.Millisecond)
		o.For = time.Duration(logUniform(r, 0.3e9, 20e9)).Round(10 * time.Millisecond)
		if r.IntN(3) == 0 {
			o.Every = time.Duration(float64(o.For) * (2 + 4*r.Float64())).Round(10 * time.Millisecond)
		}
		s.Server.Outage = o
	case 5:
		if len(s.Server.Limits) > 0 && s.Server.Limits[0].Kind == Bucket {
			l := &s.Server.Limits[0]
			l.Changes = []time.Duration{expected / 3, 2 * expected / 3}
			l.Factors = []float64{pick(r, 0.3, 0.5, 2, 4), 1}
		}
	}
}

// Cause is what the summary files a spec under: what makes it hard.
func (s *Spec) Cause() string {
	v := &s.Server
	switch {
	case v.Noise != nil:
		return fmt.Sprintf("%d %% of %ds at random", int(math.Round(100*v.Noise.Share)), v.Noise.Status)
	case v.Outage != nil && v.Outage.Status == 429:
		return "outage of 429s"
	case v.Outage != nil:
		return "outage, other"
	case len(v.Limits) == 0:
		return "no limit"
	case len(v.Limits) > 1:
		return "hidden limit under the told one"
	case v.Limits[0].Changes != nil:
		return "rate that changes"
	case v.Headers != "":
		return "headers: " + string(v.Headers)
	}
	l := v.Limits[0]
	switch {
	case l.Kind == Bucket && l.Burst <= 2:
		return "silent bucket, burst 1 or 2"
	case l.Kind == Bucket:
		return "silent bucket"
	case l.Kind == Slots:
		return "slots"
	}
	return "silent window of " + strings.TrimSuffix(l.Per.String(), "0s")
}

func pick[T any](r *rand.Rand, from ...T) T { return from[r.IntN(len(from))] }

func logUniform(r *rand.Rand, from, to float64) float64 {
	return from * math.Pow(to/from, r.Float64())
}

// round rounds to two digits.
func round(x float64) float64 {
	unit := math.Pow(10, math.Floor(math.Log10(x))-1)
	return math.Round(x/unit) * unit
}
