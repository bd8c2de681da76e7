// Package sturdytest provides failures to order, for unit tests of code that
// calls a rate-limited HTTP API.
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
// # What is like net/http, and what is not
//
// Towards the client, a scripted answer is like one of [http.Transport].
// Request bodies are read to their end and closed, or read late and partly
// where the server answers early. A request whose body is shorter or longer
// than its ContentLength fails. Waits end with the request's context, and
// response bodies do too.
//
// There is no connection: no [net/http/httptrace] hook is called, Expect:
// 100-continue does not wait, nothing is compressed, and a request that failed
// is not sent again behind the client's back.
package sturdytest
