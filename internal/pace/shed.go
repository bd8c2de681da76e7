package pace

import (
	"math"
	"slices"
	"time"

	"github.com/sturdyhttp/sturdy/internal/times"
)

// A shed finds out what a server means that answers 503: that the request was over a
// limit, as nginx does by default, that it is down, or that one of its replicas is bad.
// A 429 would say so.
//
// What is sent between a limit's refusals is taken, now one and then one. In an outage
// nothing is. By chance it is too, so that alone is a suspicion. Then requests leave at
// half of the rate at which they were taken, until it is clear whether fewer are refused:
// that cures what a limit or an overload refuses, and changes nothing of what fails by
// chance. It takes some ten answers where most are refused, and is not repeated, if it was
// in vain, before twice as many are.
//
// Where few are refused a trial would take long. But a limit's refusals also agree with
// each other, on a rate, or on how many are out at once, and those by chance do not.
type shed struct {
	state    shedState
	mistaken int       // trials in vain, and limits that were none
	last     time.Time // when an answer was last heard

	// Since the first refusal, of those that left when it was known.
	since   time.Time     // zero if there was none
	active  time.Duration // of the time since, without gaps
	known   float64       // the number of the last that had left by then
	refused float64
	taken   int
	changes int       // from refused to taken
	newest  time.Time // when the newest of those that were taken left
	upTo    float64   // its number
	early   []float64 // the numbers of those refused that left later: refusals are heard sooner
	cut     float64   // the number of the last that had left at the newest refusal that was news

	edge    edge
	slots   int      // how many may be out at once, if that is the limit; else 0
	finding *finding // of the refusals that agree; nil if there are none
	agree   int      // how many they are, after the first

	// The trial, and what is held against a limit that was found.
	share float64 // of refusals before it
	rate  float64 // requests per second that leave
	least float64 // with which it began
	most  float64 // up to which it goes while none is refused; 0 once one was
	from  float64 // the number of the last that left before it
	score float64 // the logarithm of how much likelier it is that it cures
	next  time.Time
	until time.Time
}

// A shedState is what is held of a server's 503s.
type shedState uint8

const (
	shedUnknown   shedState = iota // not enough is known, or they were cleared of being a limit's
	shedSuspected                  // the trial is on
	shedLimit                      // a limit refuses
)

const (
	shedFew     = 8                      // refusals before a trial; twice as many each time that it was in vain
	shedTaken   = 4                      // that many were taken among them, at least
	shedShare   = 0.25                   // of refusals, at least: fewer cost hardly a call
	shedRow     = 32                     // refusals in a row that are no limit's
	shedLeast   = 200 * time.Millisecond // in which the rate is measured, at least
	shedGap     = 100 * time.Millisecond // that counts of the time between two answers
	shedPauses  = 0.8                    // of the rate with pauses between, that a trial begins with, at most
	shedSlowest = 1.                     // request per second in a trial
	shedGrowth  = 1.1                    // of its rate, with each that is taken
	shedLasts   = 20 * time.Second       // a trial, at most
	shedChosen  = 1.5                    // times as large the share looks, as a trial begins when it is large
	shedCures   = 5.                     // times fewer are refused, if it does
	shedSure    = 5.                     // nats for a limit
	shedNot     = 3.                     // and against it
	shedWrong   = 8.                     // against a limit that was found
	shedFits    = 5                      // refusals that agree on the rate; two more each time that it was in vain
	shedLong    = 8                      // requests between them, at least
	shedSlower  = 0.8                    // of the rate at which the latest left, at most
	shedRare    = 0.1                    // of refusals with such a limit that are as many as by chance
	shedDark    = 3 * time.Second        // in which a limit takes one
)

// limit reports whether 503s are a limit's.
func (s *shed) limit() bool { return s.state == shedLimit }

// clear notes that it is no limit.
func (s *shed) clear() { *s = shed{mistaken: s.mistaken + 1, last: s.last, cut: s.cut} }

// wait is how long after now the next may leave in a trial; 0 if there is none.
func (s *shed) wait(now time.Time) time.Duration {
	if s.state != shedSuspected || now.After(s.until) {
		return 0
	}
	return max(s.next.Sub(now), 0)
}

// leave notes that one leaves at now.
func (s *shed) leave(now time.Time) {
	if s.state == shedSuspected {
		s.next = times.Later(s.next, now).Add(times.Seconds(1 / s.rate))
	}
}

// An answered request is one that was taken or answered 503.
type answered struct {
	n    float64   // its number
	out  int       // how many were out when it left
	sent time.Time // when it left
	now  time.Time
	left float64 // how many have left by now
	pace float64 // requests a second that may leave; 0 if nothing was inferred
}

// heard brings s up to the time of an answer.
func (s *shed) heard(a answered) {
	if s.state == shedSuspected && a.now.After(s.until) {
		s.clear()
	}
	if !s.last.IsZero() && a.now.Sub(s.last) > Forget {
		*s = shed{cut: s.cut}
	}
	s.last = a.now
}

// took takes in that one was taken.
func (s *shed) took(a answered) {
	s.heard(a)
	switch s.state {
	case shedUnknown:
		s.edge.took(a)
		if s.since.IsZero() || a.n <= s.known {
			return
		}
		s.taken++
		if a.n > s.upTo {
			s.active += min(max(a.sent.Sub(s.newest), 0), shedGap)
			s.newest, s.upTo = times.Later(s.newest, a.sent), a.n
		}
		later := slices.DeleteFunc(s.early, func(n float64) bool { return n < a.n })
		if n := len(s.early) - len(later); n > 0 {
			s.early = later
			s.refused += float64(n)
			s.changes++
		}
		if s.notRefused() > (s.refused+shedTaken)/shedShare {
			s.begin()
		} else {
			s.suspect(a)
		}
	case shedSuspected, shedLimit:
		if a.n > s.from {
			s.rate = max(s.rate, min(s.rate*shedGrowth, s.most))
			s.weigh(math.Log((1 - s.share/shedCures) / (1 - s.share)))
		}
	}
}

// busy takes in that one was answered 503.
func (s *shed) busy(a answered, l *ledger) {
	s.heard(a)
	news := a.n > s.cut // those that were out together are refused together
	if news {
		s.cut = a.left
	}
	switch s.state {
	case shedUnknown:
		switch {
		case news && s.fits(a, l):
			s.state, s.share, s.from, s.score = shedLimit, shedRare, a.left, 0
		case s.since.IsZero():
			s.since, s.newest, s.known, s.upTo = a.now, a.now, a.left, a.left
		case a.n > s.known:
			if s.early = append(s.early, a.n); len(s.early) > shedRow {
				s.begin()
			}
		}
	case shedSuspected:
		if a.n > s.from {
			if s.rate > s.least {
				s.rate, s.from = s.least, a.left
			}
			s.most = 0
			s.weigh(-math.Log(shedCures))
		}
	case shedLimit:
		if news && a.n > s.from {
			by := -math.Log(shedCures)
			if a.pace > 0 && a.pace < s.least {
				by *= 2 // it was cured at that rate
			}
			s.weigh(by)
		}
	}
}

// begin counts anew.
func (s *shed) begin() {
	s.since, s.refused, s.taken, s.changes, s.early, s.active = time.Time{}, 0, 0, 0, s.early[:0], 0
}

// notRefused is how many were not, of those that left no later than the newest that was
// taken. Not all of them are answered: the answer to one that is taken takes longer.
func (s *shed) notRefused() float64 { return s.upTo - s.known - s.refused }

// suspect begins a trial, if what was seen may be a limit's.
func (s *shed) suspect(a answered) {
	taken, lasts := s.notRefused(), s.newest.Sub(s.since)
	share := s.refused / (s.refused + taken)
	if s.refused < float64(int(shedFew)<<min(s.mistaken, 10)) || min(s.taken, s.changes) < shedTaken || share < shedShare || lasts < shedLeast {
		return
	}
	s.state, s.score, s.from = shedSuspected, 0, a.left
	s.share = share / shedChosen
	s.most = taken / s.active.Seconds() / 2
	s.least = max(min(s.most, shedPauses*taken/lasts.Seconds()), shedSlowest)
	s.rate = s.least
	s.next, s.until = a.now, a.now.Add(shedLasts)
}

// weigh takes in an answer in a trial, or under a limit.
func (s *shed) weigh(by float64) {
	s.score += by
	if s.state == shedLimit {
		if s.score = min(s.score, 0); s.score < -shedWrong {
			s.clear()
		}
		return
	}
	switch {
	case s.score >= shedSure:
		s.state, s.score, s.most = shedLimit, 0, 0
	case s.score <= -shedNot:
		s.clear()
	}
}

// fits reports whether the refusals so far are as only a limit has them. Without a ledger
// it looks at how many are out alone.
func (s *shed) fits(a answered, l *ledger) bool {
	if s.edge.refused(a, s.mistaken) {
		s.slots = s.edge.most
		return true
	}
	if l == nil {
		return false
	}
	l.turn()
	seen := l.witness(a.sent, a.n, a.now.Sub(a.sent)/paceJitter)
	fast := l.recent(a.n, shedLong)
	for i, r := range seen {
		if r.hi > shedSlower*fast {
			seen[i] = rates{} // a limit just there would fit any refusals
		}
	}
	seen = seen.some()
	if s.finding != nil && seen != nil {
		s.finding = s.finding.and(seen)
	}
	switch {
	case s.finding == nil || seen == nil:
		s.finding, s.agree = seen, 0
	case l.before(a.n) >= shedLong:
		s.agree++
	}
	return s.agree >= shedFits+2*s.mistaken
}

// An edge is how many are out when one is refused, and none was taken with as many out.
type edge struct {
	most  int // that were out when one was taken, of the latest, and in those before
	out   int // refusals came with so many out; 0 if none did
	agree int
	sent  time.Time // when the last of them left
	heard bool      // one that left later was taken
}

const edgeAgree = 6 // refusals at the edge; two more each time that it was in vain

// took takes in that one was taken.
func (e *edge) took(a answered) {
	if e.out > 0 && a.out >= e.out {
		*e = edge{}
	}
	if e.out > 0 && a.sent.After(e.sent) {
		e.most, e.heard = max(e.most, a.out), true
	}
}

// refused takes in that one was refused, and reports whether that are enough.
func (e *edge) refused(a answered, mistaken int) bool {
	switch near := a.out / slotsFuzzy; {
	case e.out == 0 || a.out < e.out-near || a.out > e.out+near:
		*e = edge{out: a.out, sent: a.sent}
	case e.heard: // else what left with it may yet be taken
		e.agree, e.sent, e.heard = e.agree+1, a.sent, false
		e.out = min(e.out, a.out)
	}
	return e.agree >= edgeAgree+2*mistaken && e.most > 0
}
