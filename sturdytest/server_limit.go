package sturdytest

import (
	"cmp"
	"encoding/json"
	"math"
	"strconv"
	"time"
)

// A Limit is how much of something a server takes from its clients.
//
//	{Rate: 10, Burst: 20}                                        20 at once, then 10 a second
//	{Rate: 500, Per: time.Minute}                                500 at once, then one each 120ms: OpenAI's RPM
//	{Rate: 30000, Per: time.Minute, Unit: sturdytest.Tokens}     OpenAI's TPM
//	{Rate: 600, Per: time.Minute, Window: true}                  600, and the next when the minute is over
//	{Rate: 10, Window: true, Hidden: true}                       beside it: no more than 10 in a second
//	{Rate: 50, To: time.Minute}, {Rate: 25, From: time.Minute}   after a minute, half of what it was
//
// A limit is a bucket that is full at From and refilled all the time, or, if
// Window is set, a count that starts anew in each window.
type Limit struct {
	Rate  float64       // units in a time of Per; must be positive
	Per   time.Duration // zero means a second
	Burst int           // units in a full bucket; zero means Rate, rounded down, and at least 1
	Unit  Unit          // what is counted; zero means requests

	Window        bool // count in windows of Per, the first of which begins at From; Burst has no meaning then
	ChargeRefused bool // also charge what is refused, by this limit or another
	Hidden        bool // do not tell of it in headers

	From, To time.Duration // when it is in force, since the server's start; a To of zero means for ever
}

// A Unit is what a Limit counts.
//
// Tokens are charged before the answer, as OpenAI does: as many as the request
// could use, and none is given back. A request's input is estimated as one
// token for four bytes of its body. Its output is max_completion_tokens, or
// max_tokens, or max_output_tokens, times n; [Cookbook] takes 15 for what is
// not told.
//
// [Cookbook]: https://github.com/openai/openai-cookbook/blob/main/examples/api_request_parallel_processor.py
type Unit uint8

// What a Limit counts.
const (
	Requests     Unit = iota
	Tokens            // input and output together
	InputTokens       // as Anthropic counts them
	OutputTokens      // as Anthropic counts them
)

// String returns the unit's name, as headers have it.
func (u Unit) String() string {
	return [...]string{"requests", "tokens", "input-tokens", "output-tokens"}[u]
}

const defaultOutput = 15

// A call is what a request says in its body to a model.
type call struct {
	model         string
	input, output int  // tokens, estimated
	limit         int  // of tokens in the answer; zero means none
	stream, usage bool // as events; with their usage

	number int       // of the request, from 1
	time   time.Time // of its arrival
}

// parseCall reads the body of a request. One that is not a JSON object is no
// more than its length.
func parseCall(body []byte) *call {
	c := &call{input: (len(body) + 3) / 4}
	var r struct {
		Model               string `json:"model"`
		N                   int    `json:"n"`
		MaxTokens           int    `json:"max_tokens"`
		MaxCompletionTokens int    `json:"max_completion_tokens"`
		MaxOutputTokens     int    `json:"max_output_tokens"`
		Stream              bool   `json:"stream"`
		StreamOptions       struct {
			IncludeUsage bool `json:"include_usage"`
		} `json:"stream_options"`
	}
	if len(body) == 0 || json.Unmarshal(body, &r) != nil {
		return c
	}
	c.model, c.stream, c.usage = r.Model, r.Stream, r.StreamOptions.IncludeUsage
	c.limit = max(cmp.Or(r.MaxCompletionTokens, r.MaxTokens, r.MaxOutputTokens), 0)
	c.output = cmp.Or(c.limit, defaultOutput) * max(r.N, 1)
	return c
}

// id returns the id of an answer, of which there is one with each prefix.
func (c *call) id(prefix string) string { return prefix + strconv.Itoa(c.number) }

func (c *call) modelName() string { return cmp.Or(c.model, "gpt-4o") }

// units returns how much the call is charged.
func (c *call) units(u Unit) int {
	switch u {
	case Tokens:
		return c.input + c.output
	case InputTokens:
		return c.input
	case OutputTokens:
		return c.output
	}
	return 1
}

func (l *Limit) per() time.Duration { return cmp.Or(l.Per, time.Second) }

// size returns how many units there are at most at one time.
func (l *Limit) size() int {
	if l.Burst > 0 && !l.Window {
		return l.Burst
	}
	return int(max(l.Rate, 1))
}

// interval returns in what time one unit comes back, in nanoseconds.
func (l *Limit) interval() float64 { return float64(l.per()) / l.Rate }

// never is the wait of what cannot pass at all.
const never time.Duration = math.MaxInt64

// A gauge is the level of a limit, for one key. Its times are nanoseconds since
// the server's start.
type gauge struct {
	*Limit
	full float64       // when the bucket will be, or was, full: the virtual scheduling algorithm of ITU-T I.371
	used int           // in the window
	end  time.Duration // of the window
}

func newGauge(l *Limit) *gauge {
	return &gauge{Limit: l, full: float64(l.From), end: l.From + l.per()}
}

// roll begins a new window, if the last is over.
func (g *gauge) roll(now time.Duration) {
	if now >= g.end {
		g.used = 0
		g.end = now + g.per() - (now-g.end)%g.per()
	}
}

// wait returns after what time n units will be there: zero if they are, and
// never if there are never so many.
func (g *gauge) wait(n int, now time.Duration) time.Duration {
	switch {
	case n > g.size():
		return never
	case !g.Window:
		// Rounded down: a clock has no parts of a nanosecond.
		due := max(g.full, float64(now)) + float64(n-g.size())*g.interval()
		return max(time.Duration(due)-now, 0)
	case g.used+n > g.size():
		return g.end - now
	}
	return 0
}

// charge takes n units, or as many as are there.
func (g *gauge) charge(n int, now time.Duration) {
	if g.Window {
		g.used = min(g.used+n, g.size())
		return
	}
	if g.wait(n, now) > 0 { // then none is left
		g.full, n = float64(now), g.size()
	}
	g.full = max(g.full, float64(now)) + float64(n)*g.interval()
}

// left returns how many whole units are there.
func (g *gauge) left(now time.Duration) int {
	if g.Window {
		return g.size() - g.used
	}
	missing := max(g.full-float64(now), 0) / g.interval()
	return g.size() - int(math.Ceil(missing-1e-6)) // what rounding has added
}

// reset returns the time until the bucket is full or the window over.
func (g *gauge) reset(now time.Duration) time.Duration {
	if g.Window {
		return g.end - now
	}
	return max(time.Duration(g.full)-now, 0)
}

// A refusal is why a request does not pass.
type refusal struct {
	*gauge
	used, asked int           // units
	wait        time.Duration // until it would pass; never is possible
}

// charge charges a call to the limits that are in force, if it is within all
// of them. If it is not, the refusal is that of the longest wait.
func charge(gauges []*gauge, c *call, now time.Duration) (no *refusal) {
	for _, g := range gauges {
		if !within(now, g.From, g.To) {
			continue
		}
		g.roll(now)
		n := c.units(g.Unit)
		wait := g.wait(n, now)
		if wait > 0 && (no == nil || wait > no.wait) {
			no = &refusal{gauge: g, used: g.size() - g.left(now), asked: n, wait: wait}
		}
	}
	for _, g := range gauges {
		if within(now, g.From, g.To) && (no == nil || g.ChargeRefused) {
			g.charge(c.units(g.Unit), now)
		}
	}
	return no
}
