package pace

import "iter"

// outcomes puts what became of requests into the order in which they left: a refusal is
// known sooner than a success.
type outcomes struct {
	next  float64 // the number of the first that is not known
	known int     // how many after it are
	ring  [outcomesKept]outcome
}

// An outcome is what became of a request.
type outcome uint8

const (
	outcomeKnown   outcome = 1 << iota // set in all that are known
	outcomeRefused                     // by a limit, or by chance
	outcomeNothing                     // neither taken nor refused
	outcomeFirst                       // of its group
)

const (
	outcomesKept   = 256 // requests whose order is known
	outcomesBehind = 32  // later ones that are known: then one is not waited for
)

func (o *outcomes) at(nth float64) *outcome { return &o.ring[int(nth)%outcomesKept] }

// left notes that the nth left, as the first of its group perhaps. If there are too many,
// the oldest are forgotten.
func (o *outcomes) left(nth float64, first outcome) {
	for ; nth >= o.next+outcomesKept; o.next++ {
		if *o.at(o.next)&outcomeKnown != 0 {
			o.known--
		}
		*o.at(o.next) = 0
	}
	*o.at(nth) = first
}

// became notes what became of the nth, and yields those whose turn it is now.
func (o *outcomes) became(nth float64, what outcome) iter.Seq[outcome] {
	return func(yield func(outcome) bool) {
		if nth < o.next {
			return
		}
		*o.at(nth) |= what | outcomeKnown
		for o.known++; o.known > 0; o.known-- {
			this := *o.at(o.next)
			if this&outcomeKnown == 0 {
				if o.known <= outcomesBehind {
					return
				}
				this |= outcomeNothing
				o.known++
			}
			*o.at(o.next) = 0
			o.next++
			if !yield(this) {
				return
			}
		}
	}
}
