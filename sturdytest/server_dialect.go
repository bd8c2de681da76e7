package sturdytest

import (
	"cmp"
	"fmt"
	"math"
	"net/http"
	"strconv"
	"time"
)

// A Dialect is how an API tells of its limits, and the shape of its errors. Of
// two limits with the same unit, the headers tell of the first; those of the
// IETF tell of both.
type Dialect uint8

const (
	_ Dialect = iota // no headers, and errors like OpenAI's

	// OpenAI has x-ratelimit-{limit,remaining,reset}-{requests,tokens}. The
	// reset is the time until the bucket is full, such as 6m0s.
	OpenAI

	// Anthropic has anthropic-ratelimit-{requests,tokens,input-tokens,output-tokens}-{limit,remaining,reset}.
	// The reset is the moment when the bucket is full, in RFC 3339.
	Anthropic

	// Azure has OpenAI's headers with the reset in whole seconds. Its 429 has
	// but one of them, which it misspells: x-rate-limit-reset-tokens.
	Azure

	// IETF has the RateLimit-Policy and RateLimit fields of
	// draft-ietf-httpapi-ratelimit-headers-10, and its problem type.
	IETF

	// GitHub has x-ratelimit-{limit,remaining,used,reset,resource}, of requests
	// only. The reset is in seconds since 1970. It refuses with a 403.
	GitHub
)

// A RetryAfter is how a refusal tells how long to wait. It does not tell if
// waiting does not help.
type RetryAfter uint8

// How to tell it. Zero is not at all.
const (
	_            RetryAfter = iota
	Seconds                 // Retry-After, rounded up
	Milliseconds            // retry-after-ms, rounded up, beside Retry-After in seconds
	Date                    // Retry-After as a date, rounded up to a second
)

func (r RetryAfter) tell(h http.Header, wait time.Duration, now time.Time) {
	if wait == never {
		return
	}
	switch r {
	case Milliseconds:
		h.Set("retry-after-ms", ceil(wait, time.Millisecond))
		h.Set("Retry-After", ceil(wait, time.Second))
	case Seconds:
		h.Set("Retry-After", ceil(wait, time.Second))
	case Date:
		h.Set("Retry-After", httpDate(now.Add(wait+time.Second-1)))
	}
}

// tell writes the headers of an answer. A nil no is no refusal.
func (d Dialect) tell(h http.Header, gauges []*gauge, no *refusal, lie float64, c *call, now time.Duration) {
	switch d {
	case OpenAI, Azure:
		h.Set("x-request-id", c.id("req_"))
	case Anthropic:
		h.Set("request-id", c.id("req_"))
		if no != nil {
			h.Set("x-should-retry", strconv.FormatBool(no.wait != never))
		}
	}
	if d == Azure && no != nil {
		if !no.Hidden && no.wait != never {
			h.Set("x-rate-limit-reset-"+no.Unit.String(), ceil(no.wait, time.Second))
		}
		return
	}
	for _, g := range gauges {
		if !g.Hidden && within(now, g.From, g.To) {
			d.tellLimit(h, g, cmp.Or(lie, 1), c.time, now)
		}
	}
}

// tellLimit writes what the headers say of one limit.
func (d Dialect) tellLimit(h http.Header, g *gauge, lie float64, at time.Time, now time.Duration) {
	unit, reset := g.Unit.String(), g.reset(now)
	limit, left := scale(g.size(), lie), scale(g.left(now), lie)
	set := func(pattern, reset string) {
		if key := fmt.Sprintf(pattern, "limit"); h.Get(key) == "" {
			h.Set(key, strconv.Itoa(limit))
			h.Set(fmt.Sprintf(pattern, "remaining"), strconv.Itoa(left))
			h.Set(fmt.Sprintf(pattern, "reset"), reset)
		}
	}
	switch d {
	case OpenAI:
		set("x-ratelimit-%s-"+unit, ceilTo(reset, time.Millisecond).String())
	case Azure:
		set("x-ratelimit-%s-"+unit, ceil(reset, time.Second))
	case Anthropic:
		set("anthropic-ratelimit-"+unit+"-%s", at.Add(reset).UTC().Format(time.RFC3339))
	case IETF:
		q := max(int(g.Rate), 1)
		w := time.Duration(float64(q) * g.interval())
		policy := fmt.Sprintf("%q;q=%d;w=%s", g.name(), scale(q, lie), ceil(w, time.Second))
		if g.Unit != Requests {
			policy += fmt.Sprintf(";qu=%q", unit)
		}
		join(h, "RateLimit-Policy", policy)
		join(h, "RateLimit", fmt.Sprintf("%q;r=%d;t=%s", g.name(), left, ceil(reset, time.Second)))
	case GitHub:
		if g.Unit == Requests && h.Get("x-ratelimit-limit") == "" {
			set("x-ratelimit-%s", strconv.FormatInt(at.Add(reset+time.Second-1).Unix(), 10))
			h.Set("x-ratelimit-used", strconv.Itoa(limit-left))
			h.Set("x-ratelimit-resource", "core")
		}
	}
}

// join adds an item to a field that is a list.
func join(h http.Header, key, item string) {
	if old := h.Get(key); old != "" {
		item = old + ", " + item
	}
	h.Set(key, item)
}

func scale(n int, lie float64) int { return int(math.Floor(float64(n) * lie)) }

// ceilTo returns d rounded up to whole units. It requires that d is not
// negative.
func ceilTo(d, unit time.Duration) time.Duration {
	if part := d % unit; part > 0 {
		d += unit - part
	}
	return d
}

// periods are what APIs call the usual times: as a word, and in an abbreviation.
var periods = map[time.Duration][2]string{
	time.Second:    {"sec", "S"},
	time.Minute:    {"min", "M"},
	time.Hour:      {"hour", "H"},
	24 * time.Hour: {"day", "D"},
}

// name is what the IETF's fields and its problem type call the limit.
func (l *Limit) name() string {
	return l.Unit.String() + "-per-" + cmp.Or(periods[l.per()][0], l.per().String())
}

// title is what OpenAI's errors call the limit, such as "tokens per min (TPM)".
func (l *Limit) title() string {
	unit := l.Unit.String()
	p, ok := periods[l.per()]
	if !ok {
		return fmt.Sprintf("%s per %v", unit, l.per())
	}
	return fmt.Sprintf("%s per %s (%cP%s)", unit, p[0], unit[0]-'a'+'A', p[1])
}

// refuse returns the step of a request that is not within the limits.
func (d Dialect) refuse(no *refusal, c *call) Step {
	switch d {
	case Anthropic:
		return jsonStep(429, fmt.Sprintf(`{"type":"error","error":{"type":"rate_limit_error","message":%s},"request_id":%q}`,
			quote(fmt.Sprintf("This request would exceed the rate limit for your organization of %v %s per %s. Please try again later.",
				no.Rate, no.Unit, cmp.Or(periods[no.per()][0], no.per().String()))), c.id("req_")))
	case Azure:
		return azureRefusal(no)
	case IETF:
		s := jsonStep(429, fmt.Sprintf(`{"type":"https://iana.org/assignments/http-problem-types#quota-exceeded",`+
			`"title":"Request cannot be satisfied as assigned quota has been exceeded","status":429,"violated-policies":[%q]}`, no.name()))
		s.Header.Set("Content-Type", "application/problem+json")
		return s
	case GitHub:
		message := "API rate limit exceeded."
		if no.Hidden {
			message = "You have exceeded a secondary rate limit. Please wait a few minutes before you try again."
		}
		return jsonStep(403, fmt.Sprintf(`{"message":%q,"documentation_url":"https://docs.github.com/rest/rate-limit"}`, message))
	}
	return openAIRefusal(no, c)
}

func openAIRefusal(no *refusal, c *call) Step {
	unit := "requests"
	if no.Unit != Requests {
		unit = "tokens"
	}
	subject := fmt.Sprintf("for %s in organization org-sturdytest on %s", c.modelName(), no.title())
	if no.wait == never {
		return apiError(429, unit, "rate_limit_exceeded", fmt.Sprintf("Request too large %s: Limit %d, Requested %d. "+
			"The input or output tokens must be reduced in order to run successfully.", subject, no.size(), no.asked))
	}
	return apiError(429, unit, "rate_limit_exceeded", fmt.Sprintf("Rate limit reached %s: Limit %d, Used %d, Requested %d. "+
		"Please try again in %v.", subject, no.size(), no.used, no.asked, max(no.wait.Round(time.Millisecond), time.Millisecond)))
}

func azureRefusal(no *refusal) Step {
	what := "call"
	if no.Unit != Requests {
		what = "token"
	}
	message := fmt.Sprintf("Requests to the ChatCompletions_Create Operation under Azure OpenAI API version 2024-10-21 "+
		"have exceeded %s rate limit of your current OpenAI S0 pricing tier.", what)
	if no.wait != never {
		message += fmt.Sprintf(" Please retry after %s seconds.", ceil(no.wait, time.Second))
	}
	return jsonStep(429, fmt.Sprintf(`{"error":{"code":"429","message":%q}}`, message))
}

// overloaded returns what the API answers when it has too much to do.
func (d Dialect) overloaded() Step {
	if d == Anthropic {
		return jsonStep(529, `{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}`)
	}
	return Overloaded()
}

// reply returns the step of a request that is within the limits.
func (d Dialect) reply(chat Chat, c *call) Step {
	chat.call = c
	chat.Usage = chat.Usage || c.usage
	switch {
	case d == Anthropic && c.stream:
		return chat.MessageStream()
	case d == Anthropic:
		return chat.Message()
	case c.stream:
		return chat.Stream()
	}
	return chat.Completion()
}
