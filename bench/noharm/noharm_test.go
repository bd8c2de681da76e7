package noharm

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"unicode/utf8"
)

// A table collects what the clients did, a row for each scenario.
type table struct {
	mu   sync.Mutex
	rows map[string][]string // by name
}

func (tab *table) add(name string, all []*outcome, verdict string) {
	row := []string{name}
	for _, o := range all {
		row = append(row, o.String())
	}
	tab.mu.Lock()
	defer tab.mu.Unlock()
	if tab.rows == nil {
		tab.rows = make(map[string][]string)
	}
	tab.rows[name] = append(row, verdict)
}

// print logs the rows that there are, in the order of names.
func (tab *table) print(t *testing.T, names []string) {
	head := []string{"lost/calls, requests, slowest call"}
	for _, c := range clients {
		head = append(head, c.name)
	}
	rows := [][]string{append(head, "")}
	for _, name := range names {
		if row := tab.rows[name]; row != nil {
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

func TestZeroValueLosesNoCallThatAnotherBringsHome(t *testing.T) {
	var tab table
	var names []string
	t.Run("rows", func(t *testing.T) {
		for _, s := range rows() {
			names = append(names, s.name)
			t.Run(s.name, func(t *testing.T) {
				t.Parallel()
				all := s.run(t)
				wrong := s.verdict(all)
				tab.add(s.name, all, wrong)
				if wrong != "" {
					t.Errorf("the zero value %s", wrong)
				}
			})
		}
	})
	tab.print(t, names)
}
