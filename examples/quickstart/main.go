// Quickstart shows what one line does for a program that calls an API:
//
//	client := &http.Client{Transport: &sturdy.Transport{}}
//
// It starts a server on this machine that misbehaves as APIs do: it limits the
// rate, is overloaded for a while, and breaks connections. Some of the keys
// that it is sent are wrong, or have no credit left. It gets 200 calls from 16
// goroutines, first through a bare http.Client, then through a sturdy one.
package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sturdyhttp/sturdy"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	screen := newScreen(os.Stdout)
	bare, firm, err := compare(ctx, usual, screen)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "quickstart:", err)
		os.Exit(1)
	}
	screen.table(bare, firm)
	screen.explain(firm)
	if wrong := firm.wrong(); len(wrong) > 0 {
		fmt.Fprintf(os.Stderr, "\nquickstart: through sturdy this should not happen:\n%s\n", strings.Join(wrong, "\n"))
		os.Exit(1)
	}
}

// compare makes the same calls through two clients, to a fresh server each.
func compare(ctx context.Context, s script, show *screen) (bare, firm *outcome, err error) {
	bareClient := &http.Client{}
	sturdyClient := &http.Client{Transport: &sturdy.Transport{}} // that is all

	bare, err = makeCalls(ctx, "bare", bareClient, s, show)
	if err != nil {
		return nil, nil, err
	}
	firm, err = makeCalls(ctx, "sturdy", sturdyClient, s, show)
	return bare, firm, err
}

// ask makes one call. It knows nothing of retries, limits and outages. As it has
// a deadline, it waits while the server is down, instead of failing at once.
func ask(ctx context.Context, client *http.Client, url string, c call) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, strings.NewReader(question))
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer "+c.key)
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Idempotency-Key", c.id) // or else a POST whose connection broke is not sent again

	resp, err := client.Do(req)
	if err == nil {
		defer resp.Body.Close()
	}
	if err := sturdy.Check(resp, err); err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, resp.Body)
	return err
}

// makeCalls makes the calls of s, as many at a time as there are goroutines.
func makeCalls(ctx context.Context, name string, client *http.Client, s script, show *screen) (*outcome, error) {
	server, err := startServer(s)
	if err != nil {
		return nil, err
	}
	defer server.close()

	calls := s.calls()
	errs := make([]error, len(calls))
	began := time.Now()
	var begun, done atomic.Int64
	stop := show.progress(func() string {
		return fmt.Sprintf("%-6s %4.1f s  %3d of %d calls done, %3d requests on the wire",
			name, time.Since(began).Seconds(), done.Load(), len(calls), server.tally().requests)
	})
	var wg sync.WaitGroup
	for range s.goroutines {
		wg.Go(func() {
			for i := begun.Add(1) - 1; int(i) < len(calls) && ctx.Err() == nil; i = begun.Add(1) - 1 {
				errs[i] = ask(ctx, client, server.url, calls[i])
				done.Add(1)
			}
		})
	}
	wg.Wait()
	took := time.Since(began)
	stop()
	return &outcome{name, calls, errs, server.tally(), took}, context.Cause(ctx)
}
