// Package times has what package time lacks: durations of seconds that never wrap
// around. It knows nothing of requests and limits.
package times

import (
	"math"
	"time"
)

// Saturate makes a duration of ns nanoseconds, the longest one if they are too many.
func Saturate(ns float64) time.Duration {
	if ns >= math.MaxInt64 {
		return math.MaxInt64
	}
	return time.Duration(math.Round(ns))
}

// Seconds makes a duration of seconds, the longest one if they are too many.
func Seconds(s float64) time.Duration { return Saturate(s * float64(time.Second)) }

// CeilSeconds makes a duration of seconds that is never too short, and never zero.
func CeilSeconds(s float64) time.Duration {
	return max(Saturate(math.Ceil(s*float64(time.Second))), 1)
}

// Later returns the later of two times.
func Later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
