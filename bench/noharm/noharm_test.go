package noharm

import (
	"flag"
	"fmt"
	"strings"
	"sync"
	"testing"
	"unicode/utf8"
)

var seeds = flag.Int("seeds", 1, "how many tables of random scenarios TestSweep tries")

func TestZeroValueLosesNoCallThatAnotherBringsHome(t *testing.T) {
	tab := &table{}
	t.Run("rows", func(t *testing.T) {
		for _, s := range rows() {
			tab.check(t, s)
		}
	})
	tab.log(t)
}

// check runs a scenario beside others, and adds its row.
func (tab *table) check(t *testing.T, s scenario) {
	row := tab.reserve(s.name)
	t.Run(s.name, func(t *testing.T) {
		t.Parallel()
		all := s.run(t)
		wrong := s.verdict(all)
		tab.fill(row, all, wrong)
		if wrong != "" {
			t.Errorf("the zero value %s", wrong)
		}
	})
}

func TestSweep(t *testing.T) {
	tab := &table{}
	for seed := range *seeds {
		sums := make([]*outcome, len(clients))
		for i := range sums {
			sums[i] = &outcome{lost: make(map[int]bool)}
		}
		summary := tab.reserve(fmt.Sprintf("all of seed %d", seed))
		var mu sync.Mutex
		t.Run(fmt.Sprintf("seed %d", seed), func(t *testing.T) {
			for _, s := range sweep(uint64(seed)) {
				row := tab.reserve(s.name)
				t.Run(s.name, func(t *testing.T) {
					t.Parallel()
					all := s.run(t)
					mu.Lock()
					for i, o := range all {
						sums[i].add(o)
					}
					mu.Unlock()
					if wrong := s.verdict(all); wrong != "" {
						tab.fill(row, all, wrong)
						t.Errorf("the zero value %s", wrong)
					}
				})
			}
		})
		tab.fill(summary, sums, "")
	}
	tab.log(t)
}

// add adds the counts of another.
func (o *outcome) add(other *outcome) {
	for range other.lost {
		o.lost[len(o.lost)] = true
	}
	o.calls += other.calls
	o.sent += other.sent
	o.hung += other.hung
	o.slowest = max(o.slowest, other.slowest)
}

// A table shows what the clients did.
type table struct {
	mu   sync.Mutex
	rows [][]string
}

// reserve keeps a place for a row, and returns its number.
func (tab *table) reserve(name string) int {
	tab.mu.Lock()
	defer tab.mu.Unlock()
	tab.rows = append(tab.rows, []string{name})
	return len(tab.rows) - 1
}

func (tab *table) fill(row int, all []*outcome, verdict string) {
	tab.mu.Lock()
	defer tab.mu.Unlock()
	for _, o := range all {
		tab.rows[row] = append(tab.rows[row], o.String())
	}
	tab.rows[row] = append(tab.rows[row], verdict)
}

// log prints the rows that are filled.
func (tab *table) log(t *testing.T) {
	head := []string{"lost/calls, requests, slowest call"}
	for _, c := range clients {
		head = append(head, c.name)
	}
	rows := [][]string{append(head, "the zero value")}
	for _, row := range tab.rows {
		if len(row) > 1 {
			rows = append(rows, row)
		}
	}
	width := make([]int, len(rows[0]))
	for _, row := range rows {
		for i, cell := range row {
			width[i] = max(width[i], utf8.RuneCountInString(cell))
		}
	}
	var b strings.Builder
	for i, row := range rows {
		b.WriteString("\n|")
		for i, cell := range row {
			fmt.Fprintf(&b, " %-*s |", width[i], cell)
		}
		if i == 0 {
			b.WriteString("\n|")
			for _, w := range width {
				b.WriteString(" " + strings.Repeat("-", w) + " |")
			}
		}
	}
	t.Log(b.String())
}
