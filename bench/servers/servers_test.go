package servers

import (
	"flag"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
)

var (
	lasts   = flag.Duration("for", 5*time.Second, "how long the callers of a row call")
	others  = flag.Duration("others", 0, "how long they do with Retry alone and with a bare client; 0 for the zero value alone")
	callers = flag.String("callers", "16", "how many callers, separated by commas")
	only    = flag.String("only", "", "only limits with this in their names")
	all     = flag.Bool("all", false, "also the limits that are not held to anything yet")
	explain = flag.Bool("explain", false, "tell what the layers did, and what was on the wire in each second")
)

// A row is a limit and so many callers.
type row struct {
	*limit
	callers  int
	outcomes [len(clients)]*outcome
}

func TestZeroValueLosesNoCallToRealServers(t *testing.T) {
	var rows []*row
	for i := range limits {
		l := &limits[i]
		if !strings.Contains(l.name, *only) || !l.held() && !*all {
			continue
		}
		find(t, l.program)
		for s := range strings.SplitSeq(*callers, ",") {
			n, err := strconv.Atoi(s)
			if err != nil {
				t.Fatal(err)
			}
			rows = append(rows, &row{limit: l, callers: n})
		}
	}
	t.Run("rows", func(t *testing.T) {
		for _, r := range rows {
			t.Run(fmt.Sprintf("%s, callers: %d", r.name, r.callers), func(t *testing.T) {
				t.Parallel()
				o := r.run(t, zeroValue, *lasts)
				r.outcomes[zeroValue] = o
				assert.NotZero(t, o.calls)
				assert.Zero(t, o.inside, "requests within a pause that the server asked for")
				if r.held() {
					assert.Zero(t, o.lost, "calls lost")
				}
				if *others > 0 {
					r.outcomes[knowing] = r.run(t, knowing, *lasts)
				}
			})
		}
	})
	// A bare client sends all that the machine can, so each of those that are left has that for itself.
	for _, r := range rows {
		for client := range clients {
			if r.outcomes[client] == nil && *others > 0 {
				t.Run(fmt.Sprintf("%s, callers: %d, %s", r.name, r.callers, clients[client].name), func(t *testing.T) {
					r.outcomes[client] = r.run(t, client, *others)
				})
			}
		}
	}
	t.Log(table(rows))
}

// table shows what the clients did.
func table(rows []*row) string {
	var b strings.Builder
	b.WriteString("\n| goodput, calls lost, requests refused, p99 | callers | taken a second |")
	for client, c := range clients {
		if client == zeroValue || *others > 0 {
			fmt.Fprintf(&b, " %s |", c.name)
		}
	}
	fmt.Fprintf(&b, "\n| --- |%s", strings.Repeat(" ---: |", strings.Count(b.String(), "|")-2))
	for _, r := range rows {
		fmt.Fprintf(&b, "\n| %s | %d | %.1f |", r.name, r.callers, r.allows(r.callers, *lasts)/lasts.Seconds())
		for _, o := range r.outcomes {
			if o != nil {
				b.WriteString(" " + o.cell(r) + " |")
			}
		}
	}
	return b.String()
}

// cell returns an outcome as a cell of a row.
func (o *outcome) cell(r *row) string {
	slices.Sort(o.took)
	return fmt.Sprintf("%.1f %%, %d of %d, %.2f %%, %v",
		100*float64(o.inTime)/r.allows(r.callers, o.lasts), o.lost, o.calls,
		100*float64(o.refused)/float64(max(o.sent, 1)), quantile(o.took, 0.99).Round(time.Millisecond))
}

func quantile(sorted []time.Duration, q float64) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[min(int(q*float64(len(sorted))), len(sorted)-1)]
}
