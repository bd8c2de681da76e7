package pace

import "time"

// A Limit is one limit of a server, as the headers of one answer tell of it.
type Limit struct {
	Name string // as the server calls it
	Unit string // that it counts

	Limit     int64         // units in a full bucket; -1 if unknown
	Remaining int64         // units left; -1 if unknown
	Reset     time.Duration // until there are units again, or until the bucket is full; -1 if unknown

	Window time.Duration // the time that Limit is for; 0 if unknown
}

// meterable reports whether l can be followed: it counts what is known of a
// request, and says how much is left, and when there is more.
func (l Limit) meterable() bool {
	return l.Remaining >= 0 && (l.Reset >= 0 || l.Window > 0) &&
		(l.Unit == "requests" || l.Unit == "tokens" || l.Unit == "input-tokens" || l.Unit == "output-tokens")
}
