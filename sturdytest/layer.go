package sturdytest

import (
	"fmt"
	"net/http"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// patience is the real time that a rule gets before it is said to hang. Most
// need a few milliseconds.
const patience = 30 * time.Second

// TestLayer tests that a layer, an [http.RoundTripper] around another one,
// keeps the contract of http.RoundTripper. It calls layer for a new one on top
// of each base that it tests with, and runs one subtest for each rule: see the
// package comment for what they are.
//
// A layer may wait, refuse what it has not sent yet, and send again what failed:
// the rules hold for every layer that does so correctly. One that it breaks on
// purpose is an exception, by the name of its subtest. An exception for a rule
// that holds fails the test, so that none outlives its reason.
//
//	func TestLayer(t *testing.T) {
//		sturdytest.TestLayer(t, func(base http.RoundTripper) http.RoundTripper {
//			return &mine.Layer{Base: base}
//		})
//	}
func TestLayer(t *testing.T, layer func(base http.RoundTripper) http.RoundTripper, except ...string) {
	t.Helper()
	for _, name := range except {
		if !slices.ContainsFunc(rules, func(r rule) bool { return r.name == name }) {
			t.Errorf("sturdytest: there is no rule %q to except", name)
		}
	}
	c := &contract{layer: layer, patience: patience}
	for _, r := range rules {
		t.Run(r.name, func(t *testing.T) {
			t.Helper()
			broken := c.breaches(t, r)
			switch excepted := slices.Contains(except, r.name); {
			case excepted && broken == nil:
				t.Errorf("the exception is stale, this holds: %s", r.text)
			case excepted:
				t.Skipf("excepted: %s\nbroken: %s", r.text, broken[0])
			case broken != nil:
				t.Errorf("%s\nbroken: %s", r.text, strings.Join(broken, "\nbroken: "))
			}
		})
	}
}

// A rule is one part of the contract. One of its functions is not nil.
type rule struct {
	name  string                // of its subtest
	text  string                // the rule itself
	judge func(*check, *played) // is asked after each scene, in its bubble
	alone func(*check)          // has a bubble of testing/synctest for itself
	wired func(*check, wire)    // works on sockets, in real time
}

// A contract is all rules, and a layer that has to keep them.
type contract struct {
	layer    func(base http.RoundTripper) http.RoundTripper
	patience time.Duration
	scenes   sync.Once
	judged   map[string]*check // by the name of the rule
}

// breaches returns how the layer breaks the rule, or nil.
func (c *contract) breaches(t *testing.T, r rule) []string {
	switch {
	case r.judge != nil:
		c.scenes.Do(func() { c.play(t) })
		return c.judged[r.name].told()
	case r.alone != nil:
		return c.run(t, true, r.alone)
	}
	var broken []string
	for _, w := range wires {
		for _, b := range c.run(t, false, func(k *check) { r.wired(k, w) }) {
			broken = append(broken, w.name+": "+b)
		}
	}
	return broken
}

// run runs f, and returns what it tells of. What a layer may do to its goroutine
// is told too.
func (c *contract) run(t *testing.T, bubble bool, f func(*check)) []string {
	k := &check{contract: c}
	done := make(chan struct{})
	go func() {
		defer close(done)
		if bubble {
			k.inBubble(t, f)
		} else {
			k.guard(f)
		}
	}()
	select {
	case <-done:
	case <-time.After(c.patience):
		k.errorf("it hangs: %v were not enough", c.patience)
	}
	return k.told()
}

// A check is one run of a rule.
type check struct {
	*contract

	mu       sync.Mutex
	broken   []string // what happened instead of what the rule wants
	finished bool
}

// most is how many breaches of one rule are told: they are mostly the same.
const most = 5

func (c *check) errorf(format string, args ...any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.broken) < most {
		c.broken = append(c.broken, fmt.Sprintf(format, args...))
	}
}

func (c *check) told() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.broken)
}

// inBubble runs f in virtual time. Goroutines that are left over make the bubble
// panic: that is for the rule about them to judge.
func (c *check) inBubble(t *testing.T, f func(*check)) {
	defer func() {
		v := recover()
		c.mu.Lock()
		finished := c.finished
		c.mu.Unlock()
		if v != nil && !finished {
			c.errorf("it hangs: %v", v)
		}
	}()
	synctest.Test(t, func(*testing.T) { c.guard(f) })
}

// guard runs f, and makes failures of what the layer does to its goroutine.
func (c *check) guard(f func(*check)) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer func() {
			v := recover()
			c.mu.Lock()
			finished := c.finished
			c.mu.Unlock()
			switch {
			case v != nil:
				c.errorf("it panics: %v\n%s", v, debug.Stack())
			case !finished:
				c.errorf("it ends the goroutine that called it: runtime.Goexit")
			}
		}()
		f(c)
		c.mu.Lock()
		c.finished = true
		c.mu.Unlock()
	}()
	<-done
}
