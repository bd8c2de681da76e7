package grid

import (
	"math"
	"net/http"
	"sync"
	"time"

	"github.com/failsafe-go/failsafe-go/failsafehttp"
	"github.com/hashicorp/go-retryablehttp"

	"github.com/sturdyhttp/sturdy"
)

// A Client is a way to send requests, over the server of a run.
type Client struct {
	Name string
	over func(m *model) http.RoundTripper
}

// The clients that are compared.
var (
	Oracle    = Client{"oracle", func(m *model) http.RoundTripper { return &oracle{model: m, turn: make(chan struct{}, 1)} }}
	ZeroValue = Client{"zero value", func(m *model) http.RoundTripper { return &sturdy.Transport{Base: m} }}
	Retry     = Client{"Retry alone", func(m *model) http.RoundTripper { return &sturdy.Retry{Base: m} }}
	Bare      = Client{"bare", func(m *model) http.RoundTripper { return m }}
	HashiCorp = Client{"go-retryablehttp", func(m *model) http.RoundTripper {
		c := retryablehttp.NewClient()
		c.HTTPClient.Transport = m
		c.Logger = nil
		return c.StandardClient().Transport
	}}
	// Failsafe has as many attempts as the others, and go-retryablehttp's delays, with some
	// jitter; by default it has three attempts, and no delay but the server's.
	Failsafe = Client{"failsafe-go", func(m *model) http.RoundTripper {
		return failsafehttp.NewRoundTripper(m, failsafehttp.NewRetryPolicyBuilder().
			WithMaxAttempts(5).WithBackoff(time.Second, 30*time.Second).WithJitterFactor(0.25).ReturnLastFailure().Build())
	}}
	Cubic = Client{"cubic", func(m *model) http.RoundTripper { return &sturdy.Retry{Base: &cubic{base: m}} }}
)

// An oracle sees the state of the server, and sends when that will take a request. What
// fails by chance it sends again at once.
type oracle struct {
	*model

	turn chan struct{} // who is first has it
}

func (o *oracle) RoundTrip(req *http.Request) (*http.Response, error) {
	for {
		v, err := o.enter(req)
		if err != nil {
			return nil, err
		}
		resp, err := v.answer(req)
		if err != nil && req.Context().Err() != nil || err == nil && resp.StatusCode == http.StatusOK {
			return resp, err
		}
	}
}

func (o *oracle) enter(req *http.Request) (verdict, error) {
	select {
	case o.turn <- struct{}{}:
	case <-req.Context().Done():
		return verdict{}, req.Context().Err()
	}
	defer func() { <-o.turn }()
	for {
		o.mu.Lock()
		now := time.Since(o.start)
		at := o.next(now)
		if at <= now {
			v := o.decide(now)
			o.mu.Unlock()
			return v, nil
		}
		o.mu.Unlock()
		timer := time.NewTimer(at - now)
		select {
		case <-timer.C:
		case <-req.Context().Done():
			timer.Stop()
			return verdict{}, req.Context().Err()
		}
	}
}

// A cubic paces as TCP CUBIC and the AWS SDKs' adaptive mode do: from the first refusal
// on, by a rate that falls to 0.7 of itself at each and grows by the cube of the time
// since.
type cubic struct {
	base http.RoundTripper

	mu       sync.Mutex
	enabled  bool
	rate     float64
	wmax     float64
	k        float64
	since    time.Time
	next     time.Time
	measured float64
	bucket   time.Time
	count    float64
}

const (
	cubicBeta  = 0.7
	cubicScale = 0.4
	cubicLeast = 0.5
	cubicBin   = 500 * time.Millisecond
)

func (c *cubic) RoundTrip(req *http.Request) (*http.Response, error) {
	if d := c.reserve(); d > 0 {
		timer := time.NewTimer(d)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-req.Context().Done():
			return nil, req.Context().Err()
		}
	}
	resp, err := c.base.RoundTrip(req)
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	c.measure(now)
	if err == nil && (resp.StatusCode == 429 || resp.StatusCode == 503) {
		rate := c.measured
		if c.enabled {
			rate = min(rate, c.rate)
		}
		c.wmax, c.since, c.enabled = rate, now, true
		c.k = math.Cbrt(c.wmax * (1 - cubicBeta) / cubicScale)
		c.rate = cubicBeta * rate
	} else {
		c.rate = cubicScale*math.Pow(now.Sub(c.since).Seconds()-c.k, 3) + c.wmax
	}
	c.rate = max(min(c.rate, 2*c.measured), cubicLeast)
	return resp, err
}

// reserve is how long a request waits for its token.
func (c *cubic) reserve() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.enabled {
		return 0
	}
	now := time.Now()
	if c.next.Before(now) {
		c.next = now
	}
	d := c.next.Sub(now)
	c.next = c.next.Add(time.Duration(float64(time.Second) / c.rate))
	return d
}

func (c *cubic) measure(now time.Time) {
	c.count++
	if c.bucket.IsZero() {
		c.bucket = now
	}
	if d := now.Sub(c.bucket); d >= cubicBin {
		c.measured = 0.8*c.count/d.Seconds() + 0.2*c.measured
		c.count, c.bucket = 0, now
	}
}
