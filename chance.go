package sturdy

import "math"

// A chance tells failures that come by chance from an outage, by how often requests
// fail while the server works: the share of the failures before the latest ones in
// a row. Of the past it remembers some hundred requests.
type chance struct{ failed, all float64 }

const (
	chanceKeep   = 0.99 // of what is remembered, at each request
	chanceDoubt  = 2    // successes that are taken for granted
	chanceSigmas = 1.5
	chanceMost   = 100 // failures in a row that are enough in any case
)

// ended notes that so many failures in a row ended with a success, when so many
// requests had been sent.
func (c *chance) ended(run, sent int) {
	if c.failed == 0 {
		if run == 0 {
			return
		}
		c.all = min(float64(sent), 1/(1-chanceKeep)) // until now all succeeded
	}
	n := float64(run + 1)
	keep := math.Pow(chanceKeep, n)
	c.failed, c.all = c.failed*keep+n-1, c.all*keep+n
}

// longest is how many failures in a row come by chance so rarely; 0 if none have
// come by chance so far.
func (c *chance) longest(rarely float64) int {
	if c.failed < 0.01 {
		return 0
	}
	share := c.failed / (c.all + chanceDoubt)
	share += chanceSigmas * math.Sqrt(share*(1-share)/(c.all+chanceDoubt)) // it may as well be so many
	return int(min(math.Log(rarely)/math.Log(share), chanceMost))
}
