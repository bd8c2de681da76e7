package sturdy

import (
	"net/http"
	"net/textproto"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/sturdyhttp/sturdy/internal/times"
)

// exhaustedReset returns how long it takes, as far as is known, until no bucket
// is empty.
func exhaustedReset(buckets []Bucket) (d time.Duration, ok bool) {
	for _, b := range buckets {
		if b.Remaining == 0 {
			d = max(d, b.Reset)
		}
	}
	return d, d > 0
}

// retryAfter returns how long the server asked to wait: the first wait that is
// found in Azure's headers, which are in milliseconds, and in Retry-After. A
// wait of no time is none. One that no Duration can hold is math.MaxInt64.
func retryAfter(h http.Header, now time.Time) (d time.Duration, ok bool) {
	get := func(key string) string { return textproto.TrimString(h.Get(key)) }
	for _, key := range [...]string{"Retry-After-Ms", "X-Ms-Retry-After-Ms"} {
		if d, ok := parseWait(get(key), time.Millisecond); ok {
			return d, true
		}
	}
	if d, ok := parseWait(get("Retry-After"), time.Second); ok {
		return d, true
	}
	if t, ok := parseHTTPDate(get("Retry-After")); ok {
		if date, ok := parseHTTPDate(get("Date")); ok {
			now = date // of the same clock
		}
		d = until(t, now)
	}
	return d, d > 0
}

// saysNoWait reports whether the server named a wait of no time.
func saysNoWait(h http.Header) bool {
	for _, key := range [...]string{"Retry-After-Ms", "X-Ms-Retry-After-Ms", "Retry-After"} {
		if f, rest, ok := scanNumber(textproto.TrimString(h.Get(key))); ok && rest == "" && f == 0 {
			return true
		}
	}
	return false
}

// parseWait reads how many units to wait: more than none.
func parseWait(s string, unit time.Duration) (time.Duration, bool) {
	f, rest, ok := scanNumber(s)
	d := times.Saturate(f * float64(unit))
	if !ok || rest != "" || d == 0 {
		return 0, false
	}
	return d, true
}

// parseHTTPDate reads a date in any of the three forms of RFC 9110, section
// 5.6.7, and forgives "UTC" for "GMT". Unlike http.ParseTime it does not take
// any other zone for GMT.
func parseHTTPDate(s string) (t time.Time, ok bool) {
	if s == "" {
		return t, false
	}
	if local, ok := strings.CutSuffix(s, " UTC"); ok {
		s = local + " GMT"
	}
	for _, layout := range [...]string{http.TimeFormat, "Monday, 02-Jan-06 15:04:05 GMT", time.ANSIC} {
		if t, err := time.Parse(layout, s); err == nil {
			return t, true
		}
	}
	return t, false
}

// retryAfterText returns the wait that a message asks for in words, such as
// "Please try again in 1m0.36s".
func retryAfterText(message string) (time.Duration, bool) {
	message = strings.ToLower(message)
	for _, phrase := range [...]string{"try again in ", "try again after ", "retry in ", "retry after ", "please wait ", "must wait ", "wait for "} {
		before, rest, ok := strings.Cut(message, phrase)
		for ; ok; before, rest, ok = strings.Cut(rest, phrase) {
			last, _ := utf8.DecodeLastRuneInString(before)
			d, after, ok := scanDuration(rest)
			// Neither "entry in 5s" nor "retry in 5s6".
			if ok && d > 0 && !unicode.IsLetter(last) && strings.IndexAny(after, "_0123456789") != 0 {
				return d, true
			}
		}
	}
	return 0, false
}

// protobufDuration reads a google.protobuf.Duration as JSON has it, such as
// "47.434392449s". Zero is no wait.
func protobufDuration(s string) (time.Duration, bool) {
	n, ok := strings.CutSuffix(s, "s")
	if !ok {
		return 0, false
	}
	return parseWait(n, time.Second)
}

// timeUnits are the units of time in headers, their names and messages.
var timeUnits = map[string]time.Duration{
	"µs": time.Microsecond, // U+00B5, as time.Duration has it
	"ms": time.Millisecond, "millisecond": time.Millisecond, "milliseconds": time.Millisecond,
	"s": time.Second, "second": time.Second, "seconds": time.Second,
	"m": time.Minute, "minute": time.Minute, "minutes": time.Minute,
	"h": time.Hour, "hour": time.Hour, "hours": time.Hour,
	"d": 24 * time.Hour, "day": 24 * time.Hour, "days": 24 * time.Hour,
	"month": 30 * 24 * time.Hour,
}

// scanDuration reads the duration that s begins with, such as "1m0.36s" or "1
// hour 5 minutes", and returns what comes after it.
func scanDuration(s string) (d time.Duration, rest string, ok bool) {
	total := 0.
	for {
		f, after, isNumber := scanNumber(strings.TrimLeft(s, " "))
		after = strings.TrimLeft(after, " ")
		rest := strings.TrimLeftFunc(after, unicode.IsLetter)
		unit := timeUnits[after[:len(after)-len(rest)]]
		if !isNumber || unit == 0 {
			return times.Saturate(total), s, ok
		}
		total += f * float64(unit)
		s, ok = rest, true
	}
}

// scanNumber reads the decimal number that s begins with, and returns what
// comes after it. There are digits in it and perhaps one point between them,
// but no sign, no exponent and nothing else that strconv.ParseFloat takes.
func scanNumber(s string) (f float64, rest string, ok bool) {
	const digits = "0123456789"
	rest = strings.TrimLeft(s, digits)
	if rest == s {
		return 0, s, false
	}
	if frac, ok := strings.CutPrefix(rest, "."); ok {
		if after := strings.TrimLeft(frac, digits); after != frac {
			rest = after
		}
	}
	f, _ = strconv.ParseFloat(s[:len(s)-len(rest)], 64) // too large a number is +Inf
	return f, rest, true
}
