package sturdy

import (
	"cmp"
	"math"
	"net/http"
	"net/textproto"
	"slices"
	"strings"
	"time"

	"github.com/sturdyhttp/sturdy/internal/times"

	"github.com/dunglas/httpsfv"
)

// A Bucket is one limit of a server, as the headers of one response describe
// it. A server may have many: of requests and of tokens, by minute and by day.
//
// Zero is not unknown: a Remaining of 0 says that nothing is left, a Reset of 0
// that the wait is over. What the server did not say, or said in words that are
// not understood, is -1.
type Bucket struct {
	// Name is what the server calls the limit: what its header's name has
	// besides "RateLimit", in lower case ("requests", "tokens-minute"), what
	// GitHub calls a resource ("core"), or an IETF policy's name ("burst"). It
	// is empty if the server gave it none.
	Name string

	// Unit is what the limit counts: "requests", "tokens", "input-tokens",
	// "output-tokens", or an IETF policy's unit, such as "content-bytes". It is
	// empty if unknown.
	Unit string

	Limit     int64 // units in a full bucket, 0 or more; -1 if unknown
	Remaining int64 // units left, 0 or more; -1 if unknown

	// Reset is how long after the response there will be units again, 0 or
	// more; -1 if unknown. With most servers the next window begins then. With
	// OpenAI the bucket, which fills little by little, will be full, and the
	// next request need not wait so long.
	Reset time.Duration

	Window time.Duration // the time that Limit is for, a month being 30 days; 0 if unknown
}

// maxLimits is how many limits of a header are read: more than a server has, so
// that one that sends a million of them is soon done with.
const maxLimits = 64

// A header with limits, and a limit's name, may be so long: much longer than a real
// one is, and short enough to cost little.
const (
	maxLimitBytes = 4 << 10
	maxLimitName  = 256
)

// sane reports whether a header's values are of a length that a server means.
func sane(values []string) bool {
	n := 0
	for _, v := range values {
		n += len(v) + 1
	}
	return n <= maxLimitBytes
}

// ParseLimits returns the limits that the headers of a response describe. Those
// of which nothing is known are left out; nil means that there are none.
//
// Now is when the response was made: by its own Date, where it has one, so that
// the clocks of client and server need not agree.
//
// It understands draft-ietf-httpapi-ratelimit-headers-10 and the drafts before
// it, and every header with "RateLimit" and one of "Limit", "Remaining" and
// "Reset" in its name: those of OpenAI, Azure, Anthropic, Groq, Mistral,
// Cerebras, OpenRouter, GitHub, Discord and others. The IETF's policies come
// first, in the server's order, then the other limits, by their headers' names.
func ParseLimits(h http.Header, now time.Time) []Bucket {
	buckets := parseItems(h["Ratelimit-Policy"])
	for _, b := range parseServiceLimits(h["Ratelimit"]) {
		buckets = merge(buckets, b)
	}
	var space [4]headerLimit // on the stack, and enough for most responses
	for _, l := range readLimits(space[:0], h, now) {
		buckets = merge(append(buckets, l.policies...), l.Bucket)
	}
	return buckets
}

// merge adds b to buckets, or to the policy among them whose state it is: that
// of the same name, or, in the drafts before 08, where they have none, of the
// same limit, unless its window is over before b resets.
func merge(buckets []Bucket, b Bucket) []Bucket {
	if !b.known() {
		return buckets
	}
	for i := range buckets {
		p := &buckets[i]
		byName := b.Name != "" && b.Limit < 0
		byLimit := b.Limit == p.Limit && (p.Window == 0 || b.Reset <= p.Window)
		if p.Name == b.Name && p.Remaining < 0 && p.Reset < 0 && (byName || byLimit) {
			p.Remaining, p.Reset = b.Remaining, b.Reset
			return buckets
		}
	}
	return append(buckets, b)
}

func (b Bucket) known() bool { return b.Limit >= 0 || b.Remaining >= 0 || b.Reset >= 0 }

// A headerLimit is a limit that headers describe together: those whose names
// differ in no more than the word that tells what the value is.
type headerLimit struct {
	prefix, name string // of "X-Ratelimit-Limit-Requests": "X-" and "Requests"
	Bucket
	policies []Bucket // that came with its limit
}

// readLimits appends the limits of all headers but the IETF's. Of two headers
// that say the same, the better one sorts last, and counts:
// X-RateLimit-Reset-After needs no clock, and x-rate-limit-reset-tokens is how
// Azure misspells it.
func readLimits(limits []headerLimit, h http.Header, now time.Time) []headerLimit {
	var space [12]string
	keys := space[:0]
	for key, values := range h {
		if len(key) <= maxLimitName && strings.Contains(key, "Rate") && len(values) > 0 && len(values[0]) <= maxLimitBytes {
			if keys = append(keys, key); len(keys) == maxLimits*len(limitWords) {
				break // nobody means so many
			}
		}
	}
	slices.Sort(keys)
	for _, key := range keys {
		prefix, name, word := splitLimitKey(key)
		if word == "" {
			continue
		}
		i := slices.IndexFunc(limits, func(l headerLimit) bool { return l.prefix == prefix && l.name == name })
		if i < 0 {
			i = len(limits)
			if i == maxLimits {
				break
			}
			limits = append(limits, newHeaderLimit(prefix, name))
		}
		limits[i].read(word, textproto.TrimString(h[key][0]), now)
	}
	return limits
}

func newHeaderLimit(prefix, name string) headerLimit {
	lower := strings.ToLower(name)
	counted, window := cutWindow(lower)
	b := Bucket{Name: lower, Unit: unitOf(counted), Limit: -1, Remaining: -1, Reset: -1, Window: window}
	return headerLimit{prefix: prefix, name: name, Bucket: b}
}

// limitWords tell, in a header's name, what its value is. A longer word comes
// before the one that it begins with.
var limitWords = [...]string{"-Limit", "-Remaining", "-Reset-After", "-Reset", "-Resource"}

// splitLimitKey takes the canonical name of a header apart, and returns no word
// if it does not tell of a limit. The word comes before the limit's name with
// OpenAI, and after it with Anthropic.
func splitLimitKey(key string) (prefix, name, word string) {
	prefix, rest, ok := strings.Cut(key, "Ratelimit")
	if !ok {
		prefix, rest, _ = strings.Cut(key, "Rate-Limit")
	}
	for _, word := range limitWords {
		for _, cut := range [...]func(s, word string) (string, bool){strings.CutPrefix, strings.CutSuffix} {
			if name, ok := cut(rest, word); ok && (name == "" || name[0] == '-') {
				return prefix, strings.TrimPrefix(name, "-"), word
			}
		}
	}
	return "", "", ""
}

// read takes in a header's value, unless it is not understood.
func (l *headerLimit) read(word, value string, now time.Time) {
	switch word {
	case "-Limit":
		if n, more := parseLimit(value); n >= 0 {
			l.Limit, l.policies = n, more
		}
	case "-Remaining":
		if n := parseCount(value); n >= 0 {
			l.Remaining = n
		}
	case "-Reset-After", "-Reset":
		if d := parseReset(value, now); d >= 0 {
			l.Reset = d
		}
	case "-Resource":
		l.Name = cmp.Or(value[:min(len(value), maxLimitName)], l.Name)
	}
}

// cutWindow cuts the window, if there is one, off a limit's name: that of
// "requests-day" is a day, that of "unified-5h" 5 hours.
func cutWindow(name string) (counted string, window time.Duration) {
	i := strings.LastIndexByte(name, '-')
	last := name[i+1:]
	window, rest, ok := scanDuration(last)
	if !ok || rest != "" {
		window = timeUnits[last]
	}
	if window == 0 {
		return name, 0
	}
	return name[:max(i, 0)], window
}

// unitOf tells from a limit's name what it counts: requests, if it has none.
func unitOf(counted string) string {
	switch {
	case counted == "" || strings.Contains(counted, "req"):
		return "requests"
	case !strings.Contains(counted, "token"):
		return ""
	case strings.Contains(counted, "input"):
		return "input-tokens"
	case strings.Contains(counted, "output"):
		return "output-tokens"
	}
	return "tokens"
}

// parseLimit reads "100", or "100, 100;w=60, 5000;w=3600": a limit and the
// policies that it is one of, as draft-ietf-httpapi-ratelimit-headers-03 has
// it. A comma without a policy after it can be anything, as in "30,000".
func parseLimit(s string) (limit int64, policies []Bucket) {
	s, list, ok := strings.Cut(s, ",")
	if ok {
		if policies = parseItems([]string{list}); policies == nil {
			return -1, nil
		}
	}
	return parseCount(textproto.TrimString(s)), policies
}

// parseServiceLimits reads the RateLimit field: a list of items, or, in
// draft-ietf-httpapi-ratelimit-headers-07, a dictionary such as "limit=100,
// remaining=50, reset=30".
func parseServiceLimits(values []string) []Bucket {
	if buckets := parseItems(values); buckets != nil || len(values) == 0 || !sane(values) {
		return buckets
	}
	d, err := httpsfv.UnmarshalDictionary(values)
	if err != nil {
		return nil
	}
	get := func(key string) int64 {
		m, _ := d.Get(key)
		item, _ := m.(httpsfv.Item)
		return natural(item.Value)
	}
	return []Bucket{{Unit: "requests", Limit: get("limit"), Remaining: get("remaining"), Reset: seconds(get("reset"))}}
}

// parseItems reads a list (RFC 9651, section 3.1) of policies, from the
// RateLimit-Policy field ("burst";q=100;w=60), or of their states, from the
// RateLimit field ("burst";r=50;t=30): no parameter means one thing here and
// another there. In the drafts before 08 a policy is a number (100;w=60) and
// has no name. A malformed list is ignored, also what is well formed in it.
func parseItems(values []string) (buckets []Bucket) {
	if len(values) == 0 || !sane(values) {
		return nil // and nothing allocated
	}
	list, _ := httpsfv.UnmarshalList(values)
	for _, m := range list {
		item, ok := m.(httpsfv.Item)
		if !ok {
			continue
		}
		get := func(key string) int64 {
			v, _ := item.Params.Get(key)
			return natural(v)
		}
		b := Bucket{
			Unit:      "requests", // the draft's default
			Limit:     get("q"),
			Remaining: get("r"),
			Reset:     seconds(get("t")),
			Window:    max(seconds(get("w")), 0),
		}
		if unit, ok := item.Params.Get("qu"); ok {
			b.Unit, _ = unit.(string)
		}
		switch v := item.Value.(type) {
		case string:
			b.Name = v
		case httpsfv.Token:
			b.Name = string(v)
		case int64:
			if b.Window > 0 {
				b.Limit = natural(v)
			}
		}
		if b.known() && len(buckets) < maxLimits && len(b.Name) <= maxLimitName {
			buckets = append(buckets, b)
		}
	}
	return buckets
}

// natural returns the bare item v if it is an integer of 0 or more, else -1.
func natural(v any) int64 {
	if n, ok := v.(int64); ok && n >= 0 {
		return n
	}
	return -1
}

// seconds returns n seconds, or -1 if n is negative.
func seconds(n int64) time.Duration {
	if n < 0 {
		return -1
	}
	return times.Saturate(float64(n) * float64(time.Second))
}

// parseCount returns -1 for what is not a number.
func parseCount(s string) int64 {
	f, rest, ok := scanNumber(s)
	if !ok || rest != "" {
		return -1
	}
	return int64(times.Saturate(math.Floor(f)))
}

// parseReset reads how long after now a limit resets, and returns -1 for what
// is neither a number, nor a duration such as "6m0s", nor a date of RFC 3339. A
// number tells by its size what it is: the smallest are seconds from now, the
// larger ones seconds since 1970, and the largest milliseconds since 1970.
func parseReset(s string, now time.Time) time.Duration {
	if f, rest, ok := scanNumber(s); ok && rest == "" {
		switch {
		case f > 5e11:
			return until(time.UnixMilli(int64(times.Saturate(f))), now)
		case f > 5e8:
			whole, frac := math.Modf(f)
			return until(time.Unix(int64(whole), int64(frac*1e9)), now)
		}
		return times.Saturate(f * float64(time.Second))
	}
	if d, rest, ok := scanDuration(s); ok && rest == "" {
		return d
	}
	if t, err := time.Parse(time.RFC3339, s); err == nil {
		return until(t, now)
	}
	return -1
}

// until returns the time from now to t, and 0 if t is past.
func until(t, now time.Time) time.Duration { return max(t.Sub(now), 0) }
