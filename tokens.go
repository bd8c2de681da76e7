package sturdy

import (
	"bytes"
	"io"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/sturdyhttp/sturdy/internal/times"
)

// EstimateTokens is a Cost for [RateLimit] that estimates how many tokens a
// request to a language model will be charged: a token for each four bytes of
// its body, which are the input, and max_completion_tokens, max_tokens or
// max_output_tokens, times n, which are the output. So do the servers that
// charge a request before they answer it. Where the body says nothing of the
// output, or the server charges what was really used, RateLimit learns by how
// much the estimate is wrong: of its Tokens for each model, from what the answers
// say was used, and of the server's limits from how what remains of them falls.
//
// It reads the body with Request.GetBody; where there is none, it goes by
// ContentLength.
func EstimateTokens(req *http.Request) int {
	body := jsonBody(req, maxEvent)
	if body == nil {
		return int((max(req.ContentLength, 0) + 3) / 4)
	}
	input := (len(body) + 3) / 4
	output := 0
	for _, name := range [...]string{"max_completion_tokens", "max_tokens", "max_output_tokens"} {
		if output = number(member(body, name)); output > 0 {
			break
		}
	}
	return input + output*max(number(member(body, "n")), 1)
}

// maxUnits keeps an estimate, and what it is multiplied with, a sane number.
const maxUnits = 1 << 30

// number returns what a JSON number says, from 0 up; 0 for what is none.
func number(v value) int {
	n, err := strconv.Atoi(v.text())
	if err != nil || n < 0 {
		return 0
	}
	return min(n, maxUnits)
}

// jsonBody returns a request's body, or its beginning, if it can be had again
// and is an object.
func jsonBody(req *http.Request, limit int64) value {
	b := value(bytes.TrimLeft(bodyOf(req, limit), " \t\r\n"))
	if !b.isObject() {
		return nil
	}
	return b
}

// HostKey is a Key for [RateLimit], of requests that share a limit if they go
// to the same host, whosever they are.
func HostKey(req *http.Request) string { return originKey(req).String() }

// HeaderKey returns a Key for [RateLimit], of requests that share a limit if
// they go to the same host and have the same value in this header, such as
// OpenAI-Organization.
func HeaderKey(name string) func(*http.Request) string {
	return func(req *http.Request) string { return HostKey(req) + " " + req.Header.Get(name) }
}

// ModelKey is a Key for [RateLimit], of requests that share a limit if they go
// to the same host and their JSON body names the same model.
func ModelKey(req *http.Request) string {
	return HostKey(req) + " " + modelOf(req, maxEvent)
}

// modelOf returns the model that a request's JSON body asks for, if that is among
// so many first bytes.
func modelOf(req *http.Request, limit int64) string {
	return capped(member(jsonBody(req, limit), "model").text(), 256)
}

// An allowance is the caller's limit of tokens: a bucket with a minute's worth. As what
// a request uses is known only after it, the level may be below zero. A nil one has no
// limit.
type allowance struct {
	rate  float64 // tokens per second
	level float64 // tokens, at
	since time.Time
}

// A limit of tokens is by the minute.
const allowanceSeconds = 60

func newAllowance(perSecond float64, now time.Time) *allowance {
	return &allowance{perSecond, perSecond * allowanceSeconds, now}
}

// at brings the level up to now.
func (a *allowance) at(now time.Time) float64 {
	if d := now.Sub(a.since); d > 0 {
		a.level, a.since = min(a.level+d.Seconds()*a.rate, a.rate*allowanceSeconds), now
	}
	return a.level
}

// full reports whether all of it is there.
func (a *allowance) full(now time.Time) bool {
	return a == nil || a.at(now) >= a.rate*allowanceSeconds
}

// wait is how long after now there will be n tokens. What costs more than all has to
// wait until all are there.
func (a *allowance) wait(now time.Time, n float64) time.Duration { return a.turnIn(now, 0, n) }

// turnIn is wait with so many ahead that cost as much.
func (a *allowance) turnIn(now time.Time, ahead int, n float64) time.Duration {
	if a == nil {
		return 0
	}
	missing := float64(ahead+1)*min(n, a.rate*allowanceSeconds) - a.level - max(now.Sub(a.since).Seconds(), 0)*a.rate
	if missing <= 0 {
		return 0
	}
	return times.CeilSeconds(missing / a.rate)
}

// spend takes n tokens.
func (a *allowance) spend(now time.Time, n float64) {
	if a != nil {
		a.level = a.at(now) - n
	}
}

// Prices are what requests use of the caller's tokens, as far as answers tell:
// those of each model, and where it is not known, those of all together.
type prices struct {
	estimated bool // by Cost
	all       price
	models    map[string]*price
}

// priceWeight is that of one request's news in what is learned of prices.
const priceWeight = 0.1

// maxModels bounds how many are known, as their names are the caller's.
const maxModels = 64

// cost is what a request of so many units will use.
func (p *prices) cost(model string, units float64) float64 {
	of := p.models[model]
	if of == nil {
		of = &p.all
	}
	if of.n == 0 && p.estimated {
		return units
	}
	return of.cost(units)
}

// learn takes in what a request of so many units has used.
func (p *prices) learn(model string, units, used float64) {
	p.all.learn(units, used, p.estimated)
	of := p.models[model]
	if of == nil {
		if model == "" || len(p.models) == maxModels {
			return
		}
		if p.models == nil {
			p.models = make(map[string]*price)
		}
		of = new(price)
		p.models[model] = of
	}
	of.learn(units, used, p.estimated)
}

// A price is the straight line that is nearest to what requests used, by their
// units: an answer need not be longer where more was sent, or allowed. Its
// moments are exponentially weighted.
type price struct {
	n             float64 // requests
	units, used   float64 // of a request, on average
	spread, slant float64 // variance of units, and covariance with used
}

// learn takes in what a request of so many units has used. The first weighs no
// more than the estimate, if units are one.
func (p *price) learn(units, used float64, estimated bool) {
	if p.n == 0 && estimated {
		p.n, p.units, p.used = 1, units, units
	}
	p.n++
	w := max(1/p.n, priceWeight)
	dx, dy := units-p.units, used-p.used
	p.units += w * dx
	p.used += w * dy
	p.spread = (1 - w) * (p.spread + w*dx*dx)
	p.slant = (1 - w) * (p.slant + w*dx*dy)
}

// cost is what a request of so many units will use.
func (p *price) cost(units float64) float64 {
	if p.units == 0 {
		return p.used
	}
	// As long as requests are few, or alike, what they use is taken to be in
	// proportion to their units.
	few := p.units * p.units / min(p.n*p.n, 1/priceWeight/priceWeight)
	slope := (p.slant + few*p.used/p.units) / (p.spread + few)
	return max(p.used+slope*(units-p.units), 0)
}

// A usageMeter finds, in the bytes of an answer that pass it by, how many
// tokens the server says were used: in the last "usage" of them, be it of a
// JSON body or of a stream's last event. It keeps no more than the end of what
// has passed.
type usageMeter struct {
	mu                   sync.Mutex // a body may be closed while it is read
	total, input, output int

	tail [usageTail]byte
	kept int
}

const usageTail = 64 // more than a member's name and its number have

// pass looks at the next bytes.
func (u *usageMeter) pass(p []byte) {
	if len(p) == 0 {
		return
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	// What begins in the last bytes of what passed before.
	seam := append(u.tail[:u.kept:u.kept], p[:min(len(p), usageTail)]...)
	u.scan(seam)
	if len(p) > usageTail {
		u.scan(p)
	}
	all := p
	if len(p) < usageTail {
		all = seam
	}
	u.kept = copy(u.tail[:], all[max(len(all)-usageTail, 0):])
}

func (u *usageMeter) scan(p []byte) {
	for {
		i := bytes.Index(p, []byte(`_tokens"`))
		if i < 0 {
			return
		}
		name, rest := p[:i], p[i+len(`_tokens"`):]
		p = rest
		rest = bytes.TrimLeft(rest, ": ")
		digits := len(rest) - len(bytes.TrimLeft(rest, "0123456789"))
		if digits == 0 || digits == len(rest) {
			continue // it is no number, or goes on
		}
		n := number(value(rest[:digits]))
		switch {
		case bytes.HasSuffix(name, []byte(`"total`)):
			u.total = n
		case bytes.HasSuffix(name, []byte(`"input`)), bytes.HasSuffix(name, []byte(`"prompt`)):
			u.input = n
		case bytes.HasSuffix(name, []byte(`"output`)), bytes.HasSuffix(name, []byte(`"completion`)):
			u.output = n
		}
	}
}

// used is how many tokens were used; 0 if nothing says so.
func (u *usageMeter) used() int {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.total > 0 {
		return u.total
	}
	return u.input + u.output
}

// A metered body shows what is read of it to a usageMeter.
type metered struct {
	io.ReadCloser
	usage *usageMeter
}

func (m *metered) Read(p []byte) (int, error) {
	n, err := m.ReadCloser.Read(p)
	m.usage.pass(p[:max(min(n, len(p)), 0)])
	return n, err
}
