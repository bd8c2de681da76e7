package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/sturdyhttp/sturdy"
)

// An outcome is what became of all calls.
type outcome struct {
	name  string
	calls []call
	errs  []error // of each call
	seen  tally   // by the server
	took  time.Duration
}

// ended counts the calls that ended with class c: 0 is success.
func (o *outcome) ended(c sturdy.Class) int {
	n := 0
	for _, err := range o.errs {
		if sturdy.ClassOf(err) == c && (c != 0 || err == nil) {
			n++
		}
	}
	return n
}

// hopeless counts the calls that cannot succeed, and once those of them that
// were sent exactly once.
func (o *outcome) hopeless() (all, once int) {
	for _, c := range o.calls {
		if c.key != goodKey {
			all++
			if o.seen.sent[c.id] == 1 {
				once++
			}
		}
	}
	return all, once
}

// wrong tells of the calls that did not end as they should: well, or with the
// right error after being sent exactly once.
func (o *outcome) wrong() []string {
	want := map[string]sturdy.Class{wrongKey: sturdy.ErrAuthentication, brokeKey: sturdy.ErrQuotaExceeded}
	var wrong []string
	for i, c := range o.calls {
		err, sent := o.errs[i], o.seen.sent[c.id]
		switch {
		case c.key == goodKey && err != nil:
			wrong = append(wrong, fmt.Sprintf("%s failed: %v", c.id, err))
		case c.key != goodKey && (sturdy.ClassOf(err) != want[c.key] || sent != 1):
			wrong = append(wrong, fmt.Sprintf("%s should fail with %v, sent once; sent %d times: %v", c.id, want[c.key], sent, err))
		}
	}
	return wrong
}

// A screen is where the program shows what it does.
type screen struct {
	io.Writer
	terminal bool
}

func newScreen(f *os.File) *screen {
	info, err := f.Stat()
	return &screen{f, err == nil && info.Mode()&os.ModeCharDevice != 0}
}

// progress shows line, again and again, until stop is called.
func (s *screen) progress(line func() string) (stop func()) {
	every, format := time.Second, "%s\n"
	if s.terminal {
		every, format = 100*time.Millisecond, "\r%s" // the line does not get shorter
	}
	tick := time.NewTicker(every)
	enough, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			select {
			case <-tick.C:
				fmt.Fprintf(s, format, line())
			case <-enough:
				fmt.Fprintf(s, format, line())
				return
			}
		}
	}()
	return func() {
		tick.Stop()
		close(enough)
		<-stopped
		if s.terminal {
			fmt.Fprintln(s)
		}
	}
}

func (s *screen) table(bare, firm *outcome) {
	row := func(title, format string, of func(*outcome) any) {
		fmt.Fprintf(s, "%-32s "+format+" "+format+"\n", title, of(bare), of(firm))
	}
	count := func(title string, of func(*outcome) int) {
		row(title, "%8d", func(o *outcome) any { return of(o) })
	}
	fmt.Fprintln(s)
	row("", "%8s", func(o *outcome) any { return o.name })
	count("succeeded", func(o *outcome) int { return o.ended(0) })
	for c := sturdy.ErrConnection; c <= sturdy.ErrWaitTooLong; c++ {
		if bare.ended(c)+firm.ended(c) > 0 {
			count("failed: "+c.String(), func(o *outcome) int { return o.ended(c) })
		}
	}
	count("requests on the wire", func(o *outcome) int { return o.seen.requests })
	count("  refused by the rate limit", func(o *outcome) int { return o.seen.limited })
	row("  hopeless calls sent once", "%8s", func(o *outcome) any {
		all, once := o.hopeless()
		return fmt.Sprintf("%d of %d", once, all)
	})
	row("seconds", "%8.1f", func(o *outcome) any { return o.took.Seconds() })
}

// explain shows one failure, and what it means.
func (s *screen) explain(o *outcome) {
	for _, err := range o.errs {
		var e *sturdy.Error
		if errors.As(err, &e) {
			advice := e.Advice("en")
			fmt.Fprintf(s, "\nOne of the failures:\n%v\n%s\n%s\n", e, advice.Cause, advice.Remedy)
			return
		}
	}
}
