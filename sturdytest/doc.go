// Package sturdytest provides failures to order, for unit tests of code that
// calls a rate-limited HTTP API: [Script] for what happens to single requests,
// and [Server] for what happens to many.
//
// [Script] makes an [http.RoundTripper] that answers each request with the next
// step of a script and records what it was sent:
//
//	func TestSurvivesRateLimit(t *testing.T) {
//		synctest.Test(t, func(t *testing.T) {
//			rt := sturdytest.Script(
//				sturdytest.Status(503),
//				sturdytest.RateLimited(2*time.Second),
//				sturdytest.OK(`{}`),
//			)
//			client := &http.Client{Transport: &sturdy.Transport{Base: rt}}
//			resp, err := client.Get("https://api.example.com/v1/models")
//			if err != nil {
//				t.Fatal(err)
//			}
//			resp.Body.Close()
//			rt.Done(t) // every step was used, every response closed
//		})
//	}
//
// No socket is opened, and whatever waits does so on timers: inside a
// [testing/synctest] bubble, as above, an hour of waiting takes no time.
//
// # Steps
//
// A [Step] is a value: a struct with the answer, or the error, in its fields.
// The functions of this package make the usual ones, methods say how the
// answer comes, and what is missing is written as a literal:
//
//	sturdytest.Status(503).With("Retry-After", "1").Times(3)
//	sturdytest.OK(`{"id":`).ThenReset()
//	sturdytest.RateLimited(time.Second).After(200 * time.Millisecond)
//	sturdytest.Step{Status: 418, Body: "short and stout"}
//	sturdytest.Step{Err: io.EOF} // the server closed the connection without an answer
//
// # Streams
//
// A body can come in events, each in its time. [Stream] makes a step of any
// events, a [Chat] makes those of the usual APIs, and what goes wrong is made of
// the parts:
//
//	chat := sturdytest.Chat{}.Stream().Every(50 * time.Millisecond)
//	chat.First(3).ThenStall()
//	chat.First(3).ThenCut()
//	chat.First(3).Then(sturdytest.SSE("", sturdytest.Overloaded().Body)) // an error in the middle
//	chat.First(-1)                                                       // no [DONE]
//
// # A model of an API
//
// A [Server] has limits, outages and latency, and answers by what comes. Like a
// script it is an [http.RoundTripper]:
//
//	func TestBatchKeepsToTheLimit(t *testing.T) {
//		synctest.Test(t, func(t *testing.T) {
//			srv := &sturdytest.Server{
//				Limits:     []sturdytest.Limit{{Rate: 10, Burst: 10}},
//				Headers:    sturdytest.OpenAI,
//				RetryAfter: sturdytest.Seconds,
//				Latency:    sturdytest.Latency{Median: 300 * time.Millisecond, P99: 2 * time.Second},
//			}
//			client := &http.Client{Transport: &sturdy.Transport{Base: srv}}
//			runBatch(client, 3000) // the code under test: five minutes of work
//			if stats := srv.Stats(); stats.OK != 3000 || stats.Refused > 100 {
//				t.Errorf("%+v", stats.Counts)
//			}
//		})
//	}
//
// It is an [http.Handler] as well, for clients that cannot be given a
// transport, or where sockets matter:
//
//	ts := httptest.NewServer(srv)
//	defer ts.Close()
//
// # What is like net/http, and what is not
//
// Towards the client, the answers of both are like those of [http.Transport].
// Request bodies are read to their end and closed, or read late and partly
// where the server answers early. A request whose body is shorter or longer
// than its ContentLength fails. Waits end with the request's context, and
// response bodies do too.
//
// There is no connection: no [net/http/httptrace] hook is called, Expect:
// 100-continue does not wait, nothing is compressed, and a request that failed
// is not sent again behind the client's back.
package sturdytest
