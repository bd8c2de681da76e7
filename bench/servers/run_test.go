package servers

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sturdyhttp/sturdy"
)

// The clients that are compared, in the order of the table.
const (
	zeroValue = iota
	retryAlone
	bareClient
	knowing
)

var clients = [...]struct {
	name string
	over func(base http.RoundTripper, l *limit) http.RoundTripper
}{
	zeroValue:  {"zero value", func(base http.RoundTripper, _ *limit) http.RoundTripper { return &sturdy.Transport{Base: base} }},
	retryAlone: {"Retry alone", func(base http.RoundTripper, _ *limit) http.RoundTripper { return &sturdy.Retry{Base: base} }},
	bareClient: {"bare", func(base http.RoundTripper, _ *limit) http.RoundTripper { return base }},
	knowing: {"who knows the limit", func(base http.RoundTripper, l *limit) http.RoundTripper {
		return &knower{base: base, limit: l, slots: make(chan struct{}, max(l.slots, 1))}
	}},
}

// A knower keeps to the limit that it was told of: what it does not reach, the programs
// and the machine cost.
type knower struct {
	*limit

	base  http.RoundTripper
	slots chan struct{}

	mu   sync.Mutex
	next time.Time
}

func (k *knower) RoundTrip(req *http.Request) (*http.Response, error) {
	if k.limit.slots == 0 {
		// One after the other, and a little slower, since requests may catch up on their way.
		k.mu.Lock()
		now := time.Now()
		if k.next.Before(now) {
			k.next = now
		}
		wait := k.next.Sub(now)
		k.next = k.next.Add(time.Duration(float64(time.Second) / (0.98 * float64(k.rate))))
		k.mu.Unlock()
		time.Sleep(wait)
		return k.base.RoundTrip(req)
	}
	k.slots <- struct{}{}
	defer func() { <-k.slots }()
	resp, err := k.base.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	// The server has done with a request when it has sent all of the answer.
	body, err := io.ReadAll(resp.Body)
	resp.Body = io.NopCloser(bytes.NewReader(body))
	return resp, err
}

// An outcome is what became of one client's calls.
type outcome struct {
	lasts         time.Duration
	calls, lost   int
	inTime        int // calls that came home before the time was over
	sent, refused int // requests
	inside        int // requests within a pause
	took          []time.Duration
}

// run lets callers call over a client, to a server of their own.
func (r *row) run(t *testing.T, client int, lasts time.Duration) *outcome {
	backend := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		time.Sleep(r.latency)
		_, _ = io.WriteString(w, "{}")
	}))
	t.Cleanup(backend.Close)
	url := "http://" + r.start(t, strings.TrimPrefix(backend.URL, "http://"))

	o := &outcome{lasts: lasts}
	b := &base{Transport: &http.Transport{MaxIdleConnsPerHost: r.callers}, status: r.status}
	defer b.CloseIdleConnections()
	rt := clients[client].over(b, r.limit)
	start, journal := time.Now(), func() string { return "" }
	if own, ok := rt.(*sturdy.Transport); ok && *explain {
		journal = keep(own, b, start, lasts)
	}
	c := &http.Client{Transport: rt}
	var mu sync.Mutex
	var wg sync.WaitGroup
	for range r.callers {
		wg.Go(func() {
			for time.Since(start) < lasts {
				began := time.Now()
				ok := comesHome(t.Context(), c, url)
				ended := time.Now()
				mu.Lock()
				o.calls++
				switch {
				case !ok:
					o.lost++
				case ended.Sub(start) <= lasts:
					o.inTime++
				}
				o.took = append(o.took, ended.Sub(began))
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	if s := journal(); s != "" {
		t.Logf("%s, callers: %d: %s", r.name, r.callers, s)
	}
	o.sent, o.refused, o.inside = b.sent, b.refused, b.inside
	return o
}

// comesHome reports whether a call gets its answer, with all of its body.
func comesHome(ctx context.Context, c *http.Client, url string) bool {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		panic(err)
	}
	resp, err := c.Do(req)
	if err != nil {
		return false
	}
	defer resp.Body.Close()
	_, err = io.Copy(io.Discard, resp.Body)
	return err == nil && resp.StatusCode < 400
}

// A base sends requests, and counts them.
type base struct {
	*http.Transport

	status int // of a refusal

	mu            sync.Mutex
	sent, refused int
	inside        int       // requests within a pause, see below
	half, until   time.Time // the second half of the last pause
}

// RoundTrip sends req. A request that left the layers before a pause was known may be
// held up for a moment before it comes here, where many processes share a processor: what
// counts are requests in the second half of a pause.
func (b *base) RoundTrip(req *http.Request) (*http.Response, error) {
	now := time.Now()
	b.mu.Lock()
	b.sent++
	if now.After(b.half) && now.Before(b.until) {
		b.inside++
	}
	b.mu.Unlock()
	resp, err := b.Transport.RoundTrip(req)
	if err != nil || resp.StatusCode != b.status {
		return resp, err
	}
	now = time.Now()
	b.mu.Lock()
	defer b.mu.Unlock()
	b.refused++
	if n, err := strconv.Atoi(resp.Header.Get("Retry-After")); err == nil {
		pause := time.Duration(n) * time.Second
		if until := now.Add(pause); until.After(b.until) {
			// A pause that goes on has its half already.
			if now.After(b.until) {
				b.half = now.Add(pause / 2)
			}
			b.until = until
		}
	}
	return resp, nil
}

// keep makes a client keep a journal: the events of its layers, but for those of single
// requests, and each second what was on the wire and what is known of the limit.
func keep(own *sturdy.Transport, b *base, start time.Time, lasts time.Duration) (journal func() string) {
	var mu sync.Mutex
	var out strings.Builder
	kinds := map[sturdy.EventKind]int{}
	note := func(format string, args ...any) {
		fmt.Fprintf(&out, "\n%7.3f ", time.Since(start).Seconds())
		fmt.Fprintf(&out, format, args...)
	}
	own.Observe = func(_ context.Context, ev sturdy.Event) {
		mu.Lock()
		defer mu.Unlock()
		kinds[ev.Kind]++
		switch ev.Kind {
		case sturdy.EventQueue, sturdy.EventWait, sturdy.EventRetry:
		default:
			note("%s attempt %d wait %v rate %.4g: %v", ev.Kind, ev.Attempt, ev.Wait.Round(time.Millisecond), float64(ev.Rate), ev.Err)
		}
	}
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		tick := time.NewTicker(time.Second)
		defer tick.Stop()
		sent, refused := 0, 0
		for {
			select {
			case <-stop:
				return
			case <-tick.C:
			}
			b.mu.Lock()
			dSent, dRefused := b.sent-sent, b.refused-refused
			sent, refused = b.sent, b.refused
			b.mu.Unlock()
			states := own.RateLimit.Limits()
			mu.Lock()
			note("sent %d, of which refused %d", dSent, dRefused)
			for _, s := range states {
				fmt.Fprintf(&out, "; %s: rate %.4g burst %.0f by %s, waiting %d, in flight %d", s.Key, float64(s.Rate), s.Burst, s.Source, s.Waiting, s.InFlight)
			}
			mu.Unlock()
		}
	}()
	return func() string {
		close(stop)
		<-stopped
		mu.Lock()
		defer mu.Unlock()
		return fmt.Sprintf("%v%s", kinds, out.String())
	}
}
