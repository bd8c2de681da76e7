package sturdytest_test

import (
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/sturdyhttp/sturdy/sturdytest"
)

func ExampleScript() {
	rt := sturdytest.Script(
		sturdytest.RateLimited(2*time.Second),
		sturdytest.OK(`{"ok":true}`),
	)
	client := &http.Client{Transport: rt}
	for range 3 {
		resp, err := client.Get("https://api.example.com/v1/models")
		if err != nil {
			fmt.Println(err)
			continue
		}
		body, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		fmt.Println(resp.Status, resp.Header["Retry-After"], len(body) > 0)
	}
	// Output:
	// 429 Too Many Requests [2] true
	// 200 OK [] true
	// Get "https://api.example.com/v1/models": sturdytest: request 3 (GET https://api.example.com/v1/models): the script has only 2 steps: 429 Too Many Requests, 200 OK, --> end
}

func ExamplePlayer_Requests() {
	rt := sturdytest.Script(sturdytest.Status(401), sturdytest.ConnRefused())
	client := &http.Client{Transport: rt}
	for range 2 {
		if resp, err := client.Get("https://api.example.com/v1/models"); err == nil {
			resp.Body.Close()
		}
	}
	for _, r := range rt.Requests() {
		fmt.Println(r)
	}
	// Output:
	// GET https://api.example.com/v1/models: 401 Unauthorized
	// GET https://api.example.com/v1/models: dial tcp 192.0.2.80:443: connect: connection refused
}

func ExamplePlayer_Unclosed() {
	rt := sturdytest.Script(sturdytest.Status(503), sturdytest.OK(`{}`))
	client := &http.Client{Transport: rt}
	for range 2 { // a retry loop that forgets what it gave up
		resp, err := client.Get("https://api.example.com/v1/models")
		if err == nil && resp.StatusCode == 200 {
			resp.Body.Close()
		}
	}
	fmt.Println(rt.Unclosed())
	// Output:
	// [GET https://api.example.com/v1/models: 503 Service Unavailable]
}

func ExamplePlayer_String() {
	rt := sturdytest.Script(sturdytest.Status(503), sturdytest.ConnReset().Times(2), sturdytest.OK(`{}`).Forever())
	client := &http.Client{Transport: rt}
	for range 2 {
		if resp, err := client.Get("https://api.example.com/v1/models"); err == nil {
			resp.Body.Close()
		}
	}
	fmt.Println(rt)
	// Output:
	// 503 Service Unavailable, --> read tcp 192.0.2.1:50000->192.0.2.80:443: read: connection reset by peer (1 of 2 used), 200 OK forever
}

// Whatever has no function of its own is written as a literal, and methods say
// how it comes.
func ExampleStep() {
	for _, step := range []sturdytest.Step{
		{Status: 418, Body: "short and stout"},
		{Err: io.EOF},
		sturdytest.Step{Body: "data: {"}.After(time.Second).ThenCut(),
		sturdytest.Status(503).ThenStall(),
	} {
		fmt.Println(step)
	}
	// Output:
	// 418 I'm a teapot
	// EOF
	// 200 OK after 1s then unexpected EOF
	// 503 Service Unavailable then stall
}
