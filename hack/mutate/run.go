package main

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// A fate is what became of a mutant.
type fate uint8

const (
	survived fate = iota
	killed
	hung
	unreached
)

// A test is a top-level test, fuzz test or example.
type test struct {
	name  string
	took  time.Duration
	kills map[string]int // by function
	slow  bool
}

// A runner runs the tests with each mutant.
type runner struct {
	options

	dir, tmp, binary string
	all              []*mutant

	mu sync.Mutex // guards kills
}

// command runs these tests in a process that cannot take all of the memory. It
// returns how much of a processor they took, which does not depend on what else
// the machine does.
func (r *runner) command(timeout time.Duration, tests []string, env ...string) (output []byte, took time.Duration, timedOut bool, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, "sh", "-c", `ulimit -v 8000000; exec "$0" "$@"`, r.binary,
		"-test.short", "-test.failfast", "-test.v", "-test.run", "^("+strings.Join(tests, "|")+")$")
	cmd.Dir = r.dir
	cmd.Env = append(os.Environ(), append(env, "GOMAXPROCS=1", "GOMEMLIMIT=2GiB")...)
	var b bytes.Buffer
	cmd.Stdout, cmd.Stderr = &b, &b
	cmd.WaitDelay = time.Second
	err = cmd.Run()
	if s := cmd.ProcessState; s != nil {
		took = s.UserTime() + s.SystemTime()
	}
	return b.Bytes(), took, ctx.Err() != nil, err
}

// each calls f for each of the numbers below n, as many at once as there are workers.
func (r *runner) each(n int, f func(i int)) {
	var next atomic.Int64
	var wg sync.WaitGroup
	for range r.workers {
		wg.Go(func() {
			for i := int(next.Add(1)) - 1; i < n; i = int(next.Add(1)) - 1 {
				f(i)
			}
		})
	}
	wg.Wait()
}

// reach finds out which tests reach which mutants, and how long they take. A test
// that fails without a mutant is left out.
func (r *runner) reach() error {
	cmd := exec.Command(r.binary, "-test.list", r.tests)
	cmd.Dir = r.dir
	listed, err := cmd.Output()
	if err != nil {
		return err
	}
	skip, err := regexp.Compile(r.skip)
	if err != nil {
		return err
	}
	names := slices.DeleteFunc(strings.Fields(string(listed)), func(name string) bool {
		return skip.MatchString(name) || strings.HasPrefix(name, "Benchmark")
	})
	byID := make(map[int]*mutant, len(r.all))
	for _, m := range r.all {
		byID[m.id] = m
	}
	var mu sync.Mutex
	r.each(len(names), func(i int) {
		file := filepath.Join(r.tmp, "reached-"+names[i])
		output, took, _, err := r.command(time.Minute, names[i:i+1], "MUTANTS_REACHED="+file)
		t := &test{name: names[i], took: max(took, time.Millisecond), kills: make(map[string]int)}
		t.slow = t.took > r.slow
		mu.Lock()
		defer mu.Unlock()
		if err != nil {
			fmt.Fprintf(os.Stderr, "left out, as it fails without a mutant: %s\n%.2000s\n", t.name, output)
			return
		}
		reached, _ := os.ReadFile(file)
		for line := range strings.Lines(string(reached)) {
			if id, err := strconv.Atoi(strings.TrimSpace(line)); err == nil && byID[id] != nil {
				byID[id].tests = append(byID[id].tests, t)
			}
		}
	})
	return nil
}

func (r *runner) tryAll() {
	var done atomic.Int64
	r.each(len(r.all), func(i int) {
		m := r.all[i]
		if m.fate = r.try(m); m.fate == survived || m.fate == unreached {
			fmt.Fprintf(os.Stderr, "survives: %s:%d: %s\n", m.file, m.line, m.key())
		}
		if n := done.Add(1); n%50 == 0 {
			fmt.Fprintf(os.Stderr, "%d of %d\n", n, len(r.all))
		}
	})
}

var failed = regexp.MustCompile(`(?m)^--- FAIL: (\w+)`)

// try runs the tests that reach a mutant until one fails: first those that take
// little time and have killed most, in groups that take twice as long each time.
func (r *runner) try(m *mutant) fate {
	tests := slices.Clone(m.tests)
	if fast := slices.DeleteFunc(slices.Clone(tests), func(t *test) bool { return t.slow }); len(fast) > 0 {
		tests = fast
	}
	if len(tests) == 0 {
		return unreached
	}
	r.mu.Lock()
	worth := make(map[*test]float64, len(tests))
	for _, t := range tests {
		worth[t] = float64(1+t.kills[""]+20*t.kills[m.file+m.within]) / t.took.Seconds()
	}
	r.mu.Unlock()
	slices.SortFunc(tests, func(a, b *test) int {
		return cmp.Or(cmp.Compare(worth[b], worth[a]), cmp.Compare(a.name, b.name))
	})
	byName := make(map[string]*test, len(tests))
	for bound := 250 * time.Millisecond; len(tests) > 0; bound *= 2 {
		var group []string
		took := time.Duration(0)
		for len(tests) > 0 && (took == 0 || took+tests[0].took <= bound) {
			group, took = append(group, tests[0].name), took+tests[0].took
			byName[tests[0].name] = tests[0]
			tests = tests[1:]
		}
		output, _, timedOut, err := r.command(10*took+5*time.Second, group, "MUTANT="+strconv.Itoa(m.id))
		if err == nil {
			continue
		}
		fate, by := killed, ""
		if found := failed.FindSubmatch(output); found != nil {
			by = string(found[1])
		}
		if timedOut {
			fate = hung
		}
		if t := byName[by]; t != nil {
			r.mu.Lock()
			t.kills[""]++
			t.kills[m.file+m.within]++
			r.mu.Unlock()
		}
		return fate
	}
	return survived
}

// readList reads the known survivors: lines of a key, a tab, and a reason.
func readList(path string) (map[string]string, error) {
	known := make(map[string]string)
	if path == "" {
		return known, nil
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		key, reason, ok := strings.Cut(line, "\t")
		if !ok {
			return nil, fmt.Errorf("%s: a survivor without a reason: %s", path, line)
		}
		known[key] = strings.TrimSpace(reason)
	}
	return known, nil
}

// report prints what became of the mutants, and fails if that is not enough.
func report(out io.Writer, o *options, all []*mutant, known map[string]string, took time.Duration) error {
	var news int
	stale := make(map[string]bool)
	for key := range known {
		file, _, _ := strings.Cut(key, ":")
		if o.only == "" && slices.Contains(o.files, file) {
			stale[key] = true
		}
	}
	for _, m := range all {
		if m.fate == survived || m.fate == unreached {
			delete(stale, m.key())
			reason, listed := known[m.key()]
			if !listed {
				news++
				reason = map[fate]string{survived: "NOT LISTED", unreached: "NOT LISTED, no test reaches it"}[m.fate]
			}
			fmt.Fprintf(out, "%s:%d: %s\t%s\n", m.file, m.line, m.key(), reason)
		}
	}
	for _, key := range slices.Sorted(mapKeys(stale)) {
		fmt.Fprintf(out, "no survivor this time, take it off the list if that is no chance: %s\n", key)
	}
	fmt.Fprintf(out, "\n%-12s %7s %7s %7s %9s\n", "file", "mutants", "killed", "of them hung", "percent")
	sum := func(name string, is func(*mutant) bool) (percent float64) {
		var n, dead, hangs int
		for _, m := range all {
			if is(m) {
				n++
				if m.fate == killed || m.fate == hung {
					dead++
				}
				if m.fate == hung {
					hangs++
				}
			}
		}
		percent = 100 * float64(dead) / float64(max(n, 1))
		fmt.Fprintf(out, "%-12s %7d %7d %12d %8.1f%%\n", name, n, dead, hangs, percent)
		return percent
	}
	for _, file := range o.files {
		sum(file, func(m *mutant) bool { return m.file == file })
	}
	percent := sum("all", func(*mutant) bool { return true })
	fmt.Fprintf(out, "in %v\n", took.Round(time.Second))
	switch {
	case percent < o.least:
		return fmt.Errorf("%.1f%% are killed, and %v%% should be", percent, o.least)
	case news > 0:
		return fmt.Errorf("%d survivors are not listed", news)
	}
	return nil
}

func mapKeys[V any](m map[string]V) func(yield func(string) bool) {
	return func(yield func(string) bool) {
		for key := range m {
			if !yield(key) {
				return
			}
		}
	}
}
