package sturdytest

import (
	"slices"
	"time"
)

// Counts is what a [Server] counted. What is in flight is in Arrived alone.
type Counts struct {
	Arrived int // requests
	OK      int // answers with a status below 400
	Refused int // answers to what was not within the limits
	Failed  int // other answers, broken connections and panics
	Gone    int // requests that the client gave up before the answer
	Tokens  int // charged to what was within the limits
}

// Stats is what a [Server] counted, in all and in each second.
type Stats struct {
	Counts
	Start       time.Time // of the server
	InFlight    int       // requests whose answer was not read to its end, nor closed
	MaxInFlight int
	Unclosed    int      // answers whose body was not closed
	Seconds     []Second // without those in which nothing happened
}

// A Second is what a [Server] counted in one second: what arrived in it, and
// what was answered in it.
type Second struct {
	At time.Duration // its begin, since the server's start
	Counts
}

// Stats returns what the server has counted so far.
func (s *Server) Stats() Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	stats := s.stats
	stats.Seconds = slices.Clone(stats.Seconds)
	return stats
}

// count counts something that happens now: in all, and in its second.
func (s *Stats) count(now time.Duration, f func(*Counts)) {
	at := now.Truncate(time.Second)
	if n := len(s.Seconds); n == 0 || s.Seconds[n-1].At < at {
		s.Seconds = append(s.Seconds, Second{At: at})
	}
	f(&s.Counts)
	f(&s.Seconds[len(s.Seconds)-1].Counts)
}
