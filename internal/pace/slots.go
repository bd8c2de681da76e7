package pace

import "time"

// slots finds out whether a server limits how many requests it works on at once, and
// how many these are. Then one is refused if more are out than when any was taken, and
// always at the same number. With a limit of a rate, and by chance, it happens now with
// more out and now with fewer.
//
// Where it is so, as many are out as the server takes, and no pace holds them: it would
// be too low for answers that come fast, and too high for slow ones. Now and then one
// more is tried.
type slots struct {
	state slotState
	edge  int    // refusals came when so many were out
	agree int    // in a row there
	taken [2]int // the most that were out when two were taken: of the newest, and of those before
	top   int    // the same, when one was, of the newest: it may have been on its way for long
	seen  int    // of the newest

	most    int     // that are out, once limited
	wrong   int     // refusals with no more than that out
	errors  int     // how often it turned out to be something else
	raised  bool    // the last look was taken, and no more is known of it
	full    float64 // taken with that many out, since the last look
	patient float64 // how many that must be before the next
	again   time.Time

	sent, heard time.Time // when the first of the latest refusals left, and the last of them came
}

// A slotState is what is known of a limit in flight.
type slotState uint8

const (
	slotsUnknown slotState = iota
	slotsLimited           // most may be out
	slotsLooking           // and one more is, to see whether it is taken
)

const (
	slotsAgree   = 2    // refusals at the same number that are enough; twice as many after each error
	slotsWrong   = 2    // refusals below it that are too many
	slotsFuzzy   = 32   // numbers that differ by a part of so much are the same: answers are on their way
	slotsWindow  = 50   // requests that taken looks back, at least
	slotsLook    = 64   // requests taken before a look, at least; twice as many after one that was in vain
	slotsBack    = 8    // part of that after one that was not
	slotsRarely  = 4096 // the same, at most
	slotsCost    = 20   // a look is not sooner than so many times the pause that the last refusal cost
	slotsDoubled = 10   // times, at most
)

// limited reports whether s holds requests instead of the pace.
func (s *slots) limited() bool { return s.state != slotsUnknown }

// room reports whether one more may leave at now, when so many are out.
func (s *slots) room(out int, now time.Time) bool {
	return out < s.most ||
		out == s.most && s.state == slotsLimited && s.full >= s.patient && !now.Before(s.again)
}

// left notes that one leaves, with which so many are out.
func (s *slots) left(out int) {
	if s.state == slotsLimited && out > s.most {
		s.state, s.full = slotsLooking, 0
	}
}

// passed notes that one was taken that left at sent, when so many were out.
func (s *slots) passed(out int, sent time.Time) {
	if sent.Before(s.heard) && !sent.Before(s.sent) {
		s.lost(out) // of those that were out, some had been refused
		return
	}
	if s.seen++; s.seen >= slotsWindow {
		s.seen, s.taken[1], s.taken[0], s.top = 0, s.taken[0], 0, 0
	}
	s.taken[0] = max(s.taken[0], min(out, s.top))
	s.top = max(s.top, out)
	switch {
	case s.state == slotsLooking && out > s.most:
		s.state, s.most, s.patient = slotsLimited, out, max(s.patient/slotsBack, slotsLook)
		s.raised = true
	case s.limited() && out == s.most:
		if s.full++; s.full == slotsLook {
			s.wrong, s.raised = 0, false
		}
	}
}

// lost notes that what became of one says nothing: it was not answered, or never sent. If
// that was the look, there will be another.
func (s *slots) lost(out int) {
	if s.state == slotsLooking && out > s.most {
		s.state = slotsLimited
	}
}

// refused notes that one was refused that left at sent, when so many were out, and that
// none leaves before resume. It is news unless it left before an earlier one was known.
func (s *slots) refused(out int, sent, now, resume time.Time, news bool) {
	if s.heard = now; !news {
		return
	}
	s.sent, s.again = sent, resume.Add(slotsCost*resume.Sub(now))
	switch most := max(s.taken[0], s.taken[1]); {
	case s.state == slotsLooking: // by whichever of those that left together
		s.state, s.patient = slotsLimited, min(2*s.patient, slotsRarely)
	case s.state == slotsLimited:
		s.doubt(out)
	case most == 0 || out < most:
		s.agree = 0
	case out > most:
		s.consider(out, most)
	}
}

// consider takes in a refusal with more out than the most when one was taken.
func (s *slots) consider(out, most int) {
	if near := out / slotsFuzzy; out < s.edge-near || out > s.edge+near {
		s.edge, s.agree = out, 0
	}
	if s.agree++; s.agree >= slotsAgree<<min(s.errors, slotsDoubled) {
		s.state, s.most, s.wrong, s.full, s.patient, s.raised = slotsLimited, most, 0, 0, slotsLook, false
	}
}

// doubt takes in a refusal with no more out than are known to be taken.
func (s *slots) doubt(out int) {
	s.full = 0
	if s.raised && out >= s.most {
		// The look was taken because another had just ended.
		s.raised, s.most, s.patient = false, s.most-1, min(2*slotsBack*s.patient, slotsRarely)
		return
	}
	if s.wrong++; s.wrong >= slotsWrong || out == 1 {
		s.state, s.agree = slotsUnknown, 0
		s.errors++
		return
	}
	s.most = out - 1
}

// forget forgets what was not used for long, at now.
func (s *slots) forget(now, used time.Time) {
	if s.limited() && now.Sub(used) > Forget {
		*s = slots{}
	}
}
