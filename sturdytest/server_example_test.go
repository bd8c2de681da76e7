package sturdytest_test

import (
	"bufio"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sturdyhttp/sturdy"
	"github.com/sturdyhttp/sturdy/sturdytest"
)

// A Server is a transport: no socket is opened.
func ExampleServer() {
	srv := &sturdytest.Server{
		Limits:     []sturdytest.Limit{{Rate: 2, Per: time.Minute}},
		Headers:    sturdytest.OpenAI,
		RetryAfter: sturdytest.Seconds,
	}
	client := &http.Client{Transport: srv}
	for range 3 {
		resp, err := client.Get("https://api.example.com/v1/models")
		if err != nil {
			panic(err)
		}
		resp.Body.Close()
		fmt.Println(resp.Status, resp.Header.Get("x-ratelimit-remaining-requests"), resp.Header["Retry-After"])
	}
	// Output:
	// 200 OK 1 []
	// 200 OK 0 []
	// 429 Too Many Requests 0 [30]
}

// A Server is a handler too: with its URL, it tests a client in any language.
func ExampleServer_ServeHTTP() {
	srv := &sturdytest.Server{Outages: []sturdytest.Outage{{To: 100 * time.Millisecond}}}
	ts := httptest.NewServer(srv)
	defer ts.Close()

	client := &http.Client{Transport: &sturdy.Transport{}} // retries
	resp, err := client.Get(ts.URL)
	if err != nil {
		panic(err)
	}
	resp.Body.Close()
	fmt.Println(resp.Status, srv.Stats().Failed > 0)
	// Output:
	// 200 OK true
}

// Stats tell what a client did to the server, in all and by the second.
func ExampleServer_Stats() {
	srv := &sturdytest.Server{Limits: []sturdytest.Limit{{Rate: 5, Per: time.Hour}}}
	client := &http.Client{Transport: srv}
	for range 8 { // a client that does not care
		if resp, err := client.Get("https://api.example.com/v1/models"); err == nil {
			resp.Body.Close()
		}
	}
	stats := srv.Stats()
	fmt.Println(stats.Arrived, "came,", stats.OK, "were answered,", stats.Refused, "were refused")
	// Output:
	// 8 came, 5 were answered, 3 were refused
}

// In a bubble of testing/synctest, five minutes of work take a moment.
func TestBatchIsDoneAtTheRateOfTheServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := &sturdytest.Server{
			Limits:     []sturdytest.Limit{{Rate: 10, Burst: 10}},
			Headers:    sturdytest.OpenAI,
			RetryAfter: sturdytest.Seconds,
			Latency:    sturdytest.Latency{Median: 300 * time.Millisecond, P99: 2 * time.Second},
		}
		client := &http.Client{Transport: &sturdy.Transport{Base: srv}}
		runBatch(client, 16, 3000)
		if stats := srv.Stats(); stats.OK != 3000 || stats.Refused > stats.Arrived/20 {
			t.Errorf("%+v", stats.Counts)
		}
	})
}

// runBatch is the code under test: workers that send requests.
func runBatch(client *http.Client, workers, requests int) {
	var wg sync.WaitGroup
	jobs := make(chan struct{})
	for range workers {
		wg.Go(func() {
			for range jobs {
				if resp, err := client.Get("https://api.example.com/v1/models"); err == nil {
					resp.Body.Close()
				}
			}
		})
	}
	for range requests {
		jobs <- struct{}{}
	}
	close(jobs)
	wg.Wait()
}

// A stream is a step with events. What goes wrong in it is made of its parts.
func ExampleChat_Stream() {
	chat := sturdytest.Chat{Text: "to be or not"}.Stream().Every(20 * time.Millisecond)
	overloaded := sturdytest.SSE("", sturdytest.Overloaded().Body)
	for _, step := range []sturdytest.Step{
		chat,
		chat.First(3).ThenCut(),
		chat.First(3).ThenStall(),
		chat.First(3).Then(overloaded),
		chat.First(-1), // without its [DONE]
	} {
		fmt.Println(step)
	}
	// Output:
	// 200 OK in 7 events
	// 200 OK in 3 events then unexpected EOF
	// 200 OK in 3 events then stall
	// 200 OK in 4 events
	// 200 OK in 6 events
}

// Any stream can be made of events.
func ExampleStream() {
	rt := sturdytest.Script(sturdytest.Stream(
		sturdytest.SSE("ping", `{}`),
		sturdytest.Event{After: time.Millisecond, Data: ": keep-alive\n\n"},
		sturdytest.SSE("error", `{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}`),
	).ThenCut())
	client := &http.Client{Transport: rt}
	resp, err := client.Get("https://api.example.com/v1/messages")
	if err != nil {
		panic(err)
	}
	defer resp.Body.Close()
	sc := bufio.NewScanner(resp.Body)
	for sc.Scan() {
		if strings.TrimSpace(sc.Text()) != "" {
			fmt.Println(sc.Text())
		}
	}
	fmt.Println(sc.Err())
	// Output:
	// event: ping
	// data: {}
	// : keep-alive
	// event: error
	// data: {"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}
	// unexpected EOF
}
