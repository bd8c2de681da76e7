package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// run makes mutants of a package with one file and one test, and returns the report.
func run(t *testing.T, source, test, list string) (string, error) {
	t.Helper()
	dir := t.TempDir()
	for name, text := range map[string]string{
		"go.mod": "module example.test/m\n\ngo 1.26\n", "m.go": "package m\n\n" + source,
		"m_test.go": "package m\n\nimport \"testing\"\n\n" + test, "list": list,
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	o := options{dir: dir, list: filepath.Join(dir, "list"), tests: ".", skip: "^$", slow: time.Minute, workers: 1, files: []string{"m.go"}, least: 1}
	var out strings.Builder
	err := o.run(&out)
	return out.String(), err
}

const source = `
import "sync"

const most = 3

type counter struct {
	mu sync.Mutex
	n  int
	ch chan int
}

func (c *counter) add(n int, twice bool) (bool, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i := 0; i < n; i++ {
		if twice && n > 1 || n == 7 {
			c.n += 2
			continue
		}
		c.n++
	}
	switch {
	case c.n < most:
		return false, nil
	}
	select {
	case c.ch <- c.n - 1:
	default:
	}
	return max(c.n, 1) > 0, nil
}

func never() int { return 1 }
`

func TestAMutantThatNoTestLooksForSurvives(t *testing.T) {
	out, err := run(t, source, `
func TestAdd(t *testing.T) {
	c := counter{ch: make(chan int, 1)}
	if ok, _ := c.add(2, true); !ok || c.n != 4 || <-c.ch != 3 {
		t.Fatal(c.n)
	}
}
`, "")
	if err == nil || !strings.Contains(err.Error(), "are not listed") {
		t.Errorf("got %v", err)
	}
	for _, survives := range []string{"never: return 1 -> return (1 + 1)\tNOT LISTED, no test reaches it", "never: return 1 -> return 0", "(*counter).add: c.n++ -> c.n--"} {
		if !strings.Contains(out, survives) {
			t.Errorf("no word of %q in\n%s", survives, out)
		}
	}
	for _, dies := range []string{"c.n += 2 -> c.n -= 2", "c.n += 2 -> nothing", "continue -> nothing", "i < n -> i <= n", "c.n - 1 -> c.n + 1", "c.n < most -> c.n >= most", "c.n - 1 -> c.n - (1 + 1)"} {
		if strings.Contains(out, dies) {
			t.Errorf("%q survives:\n%s", dies, out)
		}
	}
	if strings.Contains(out, "Lock") {
		t.Errorf("a lock is left out:\n%s", out)
	}
}

func TestTheListGivesReasonsAndIsUpToDate(t *testing.T) {
	const f = "func f(a int) bool { return a > 1 }\n"
	const strict = "func TestF(t *testing.T) {\n\tif f(0) || !f(5) {\n\t\tt.Fail()\n\t}\n}\n"
	const boundary = "m.go: f: a > 1 -> a >= 1\tnobody asks\n"
	if out, err := run(t, f, strict, boundary); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	if out, err := run(t, f, strict, boundary+"m.go: f: a > 1 -> a <= 1\tit dies\n"); err != nil || !strings.Contains(out, "no survivor this time") {
		t.Errorf("%v\n%s", err, out)
	}
	if _, err := run(t, f, strict, "m.go: f: a > 1 -> a >= 1\n"); err == nil {
		t.Error("a survivor needs a reason")
	}
}
