package sturdy

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"io"
	"math"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

// A State is what a circuit does with requests.
type State uint8

// The states of a circuit.
const (
	StateClosed   State = iota // it lets them pass
	StateOpen                  // it holds or refuses them
	StateHalfOpen              // it lets one of them pass, as a probe
)

// String returns "closed", "open" or "half_open", as a metric's label.
func (s State) String() string {
	switch s {
	case StateClosed:
		return "closed"
	case StateOpen:
		return "open"
	case StateHalfOpen:
		return "half_open"
	}
	return "state_" + strconv.Itoa(int(s))
}

// A Circuit is what a [Breaker] knows of one key.
type Circuit struct {
	Key   string // as Key returned it, or such as "https://api.example.com"
	State State
	Until time.Time // nobody is let in before; zero if the circuit is closed
}

// Circuits returns what is known of each key now, those that were used last at
// the end, and behind them those beyond MaxKeys that are in use. Those that were
// closed and idle for long may be missing.
func (b *Breaker) Circuits() []Circuit {
	now := time.Now()
	var all []Circuit
	b.circuits.each(func(k key, c *circuit) {
		state, until := c.state(now)
		all = append(all, Circuit{k.String(), state, until})
	})
	return all
}

// State returns the state of a circuit. One that nobody has used is closed.
func (b *Breaker) State(key string) State {
	c := b.circuits.get(b.keyNamed(key))
	if c == nil {
		return StateClosed
	}
	state, _ := c.state(time.Now())
	return state
}

// Trip opens a circuit by hand, for a maintenance that was announced perhaps:
// nobody is let in until then. After that, a probe tells whether it closes.
func (b *Breaker) Trip(key string, until time.Time) {
	// However many keys there are, this one was asked for.
	entry, _ := b.circuits.useWithin(b.keyNamed(key), keeping[*circuit]{most: cmp.Or(b.MaxKeys, maxCircuits), fresh: b.newCircuit, must: true})
	defer b.circuits.release(entry)
	entry.state.trip(until)
}

// Reset closes a circuit by hand, and forgets what it has counted.
func (b *Breaker) Reset(key string) {
	if c := b.circuits.get(b.keyNamed(key)); c != nil {
		c.reset()
	}
}

// keyNamed returns the key that is shown as name.
func (b *Breaker) keyNamed(name string) key {
	if b.Key != nil {
		return key{name: name}
	}
	u, err := url.Parse(name)
	if err != nil {
		return key{name: name}
	}
	return originKey(&http.Request{URL: u})
}

// answer makes a response of a refusal, if that is wanted.
func (b *Breaker) answer(req *http.Request, resp *http.Response, err error) (*http.Response, error) {
	if err == nil || !b.Answer {
		return resp, err
	}
	e, ok := errors.AsType[*Error](err)
	if !ok || e.Class != ErrCircuitOpen {
		return resp, err
	}
	type problem struct {
		Message string  `json:"message"`
		Type    string  `json:"type"`
		Param   *string `json:"param"`
		Code    string  `json:"code"`
	}
	body, err := json.Marshal(map[string]problem{
		"error": {Message: e.Error(), Type: "service_unavailable", Code: e.Class.String()},
	})
	if err != nil {
		return nil, err
	}
	const code = http.StatusServiceUnavailable
	return &http.Response{
		Status:     strconv.Itoa(code) + " " + http.StatusText(code),
		StatusCode: code,
		Proto:      "HTTP/1.1",
		ProtoMajor: 1,
		ProtoMinor: 1,
		Header: http.Header{
			"Content-Type": {"application/json"},
			"Retry-After":  {strconv.FormatFloat(math.Ceil(e.RetryAfter.Seconds()), 'f', 0, 64)},
			shouldRetry:    {"false"},
		},
		Body:          io.NopCloser(bytes.NewReader(body)),
		ContentLength: int64(len(body)),
		Request:       req,
	}, nil
}
