// Command mutate tells how many small mistakes in a file the tests of its package
// find. It makes the mistakes, called mutants, one at a time: it negates a
// condition, moves a boundary, leaves out a statement, and so on. A mutant that
// makes a test fail, or run for too long, is killed; any other survives, and shows
// what no test looks at.
//
//	go run . -dir ../.. -list survivors.txt gate.go retry.go
//
// All mutants are compiled into one test binary, and chosen by an environment
// variable: so a mutant costs a run of the tests that reach it, and no compilation.
//
// The list has the survivors that are known, with a reason for each. The command
// fails if any other survives, or if fewer are killed than -least says.
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

func main() {
	var o options
	flag.StringVar(&o.dir, "dir", ".", "the folder of the package")
	flag.StringVar(&o.list, "list", "", "the file with the known survivors")
	flag.StringVar(&o.only, "only", "", "make only the mutants whose function, text or change contains this, or those that a file names: @file")
	flag.StringVar(&o.tests, "run", ".", "the tests that are run")
	flag.StringVar(&o.skip, "skip", "^TestSim", "tests that are not run")
	flag.IntVar(&o.workers, "j", 1, "how many mutants are tried at once")
	flag.DurationVar(&o.slow, "slow", 500*time.Millisecond, "a test that takes longer is run only for what no other reaches")
	flag.Float64Var(&o.least, "least", 85, "the percentage that must be killed")
	flag.Parse()
	o.files = flag.Args()
	if err := o.run(os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "mutate:", err)
		os.Exit(1)
	}
}

type options struct {
	dir, list, only, tests, skip string
	files                        []string
	workers                      int
	slow                         time.Duration
	least                        float64
}

func (o *options) run(out io.Writer) error {
	if len(o.files) == 0 {
		return errors.New("no files")
	}
	dir, err := filepath.Abs(o.dir)
	if err != nil {
		return err
	}
	began := time.Now()
	p, err := load(dir)
	if err != nil {
		return err
	}
	tmp, err := os.MkdirTemp("", "mutate")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	var all []*mutant
	overlay := map[string]string{filepath.Join(dir, "zz_mutate.go"): helper(p.name)}
	for _, file := range o.files {
		text, mutants, err := p.instrument(file, len(all))
		if err != nil {
			return err
		}
		overlay[filepath.Join(dir, file)] = text
		all = append(all, mutants...)
	}
	binary, err := build(dir, tmp, overlay)
	if err != nil {
		return err
	}
	chosen, err := o.chosen()
	if err != nil {
		return err
	}
	known, err := readList(o.list)
	if err != nil {
		return err
	}
	r := &runner{options: *o, dir: dir, tmp: tmp, binary: binary, all: slices.DeleteFunc(all, func(m *mutant) bool { return !chosen(m.key()) })}
	if err := r.reach(); err != nil {
		return err
	}
	r.tryAll()
	return report(out, o, r.all, known, time.Since(began))
}

// chosen returns which mutants are tried.
func (o *options) chosen() (func(key string) bool, error) {
	file, ok := strings.CutPrefix(o.only, "@")
	if !ok {
		return func(key string) bool { return strings.Contains(key, o.only) }, nil
	}
	text, err := os.ReadFile(file)
	keys := strings.Split(string(text), "\n")
	return func(key string) bool { return slices.Contains(keys, key) }, err
}

// build compiles the tests of the package in dir, with these files in the place
// of those that are there.
func build(dir, tmp string, overlay map[string]string) (binary string, err error) {
	var replace []string
	for path, text := range overlay {
		instrumented := filepath.Join(tmp, filepath.Base(path))
		if err := os.WriteFile(instrumented, []byte(text), 0o600); err != nil {
			return "", err
		}
		replace = append(replace, fmt.Sprintf("%q: %q", path, instrumented))
	}
	config := filepath.Join(tmp, "overlay.json")
	if err := os.WriteFile(config, []byte(`{"Replace": {`+strings.Join(replace, ", ")+`}}`), 0o600); err != nil {
		return "", err
	}
	binary = filepath.Join(tmp, "mutants.test")
	cmd := exec.Command("go", "test", "-c", "-vet=off", "-overlay", config, "-o", binary, ".")
	cmd.Dir = dir
	if output, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("the mutants do not compile: %w\n%s", err, output)
	}
	return binary, nil
}
