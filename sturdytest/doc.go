// Package sturdytest provides failures to order, for unit tests of code that
// calls a rate-limited HTTP API: [Script] for what happens to single requests,
// and [Server] for what happens to many; and [TestLayer], a test of any HTTP
// middleware for clients.
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
//
// # The contract of a layer
//
// [TestLayer] tests any layer, an [http.RoundTripper] around another one, in
// the manner of [testing/slogtest]:
//
//	func TestLayer(t *testing.T) {
//		sturdytest.TestLayer(t, func(base http.RoundTripper) http.RoundTripper {
//			return &mine.Layer{Base: base}
//		})
//	}
//
// Its rules are what http.RoundTripper documents, and what else a layer must do
// to be unnoticed. A layer may add headers, wait, refuse what was not
// sent yet, and send again what failed. Most rules are checked in virtual time:
// a layer that waits for minutes makes no test slow.
//
// On every path through a layer, that is after answers, failures, refusals,
// panics and cancellations of many kinds:
//
//   - returns: RoundTrip must return, and must not wait for a slow body
//   - request-unchanged: RoundTrip must not change the request, not even for a
//     while
//   - request-body-closed: the request's body, and every one from GetBody, must
//     be closed exactly once, also if nothing was sent
//   - request-body-not-read-late: the request's body must not be read after it
//     was closed
//   - request-body-whole: whatever is sent again must be sent with the whole
//     body
//   - request-body-replayable: a request with GetBody must keep one that gives
//     the same body
//   - context-passed-on: the request's context, with its values and its
//     deadline, must reach the base
//   - context-released: a context that the layer made must be ended when the
//     request is over
//   - response-or-error: RoundTrip must return either a response or an error
//   - response-request: Response.Request must be there, with a context that
//     ends no sooner than the caller's
//   - error-kept: an error must keep that of the base, for errors.Is and
//     errors.As
//   - responses-closed: the body of every response must be closed: by the
//     layer, if the caller does not get it
//   - short-answers-drained: a short answer that is given up must be read to
//     its end, or HTTP/1.1 loses the connection
//   - panic-passed-on: a panic and a runtime.Goexit of the base must go on
//     upward
//   - idle-connections-left-alone: a layer must not close idle connections,
//     which others use too, unless told to
//
// In a situation of their own:
//
//   - status-is-no-error: an answer is never an error, whatever its status: the
//     last one that came must be returned as it is
//   - redirect-not-followed: a redirect is the client's to follow
//   - cookies-untouched: cookies are the client's
//   - response-intact: the response must be the base's, its body byte for byte
//     to the same end
//   - response-streams: what the base has of the response's body must reach the
//     caller without waiting for more, for as long as it flows
//   - request-streams: what the caller has of the request's body must reach the
//     base without waiting for more
//   - early-answer: the request's body is the base's until it closes it, also
//     after an answer
//   - writer-of-101: the body of a 101 must remain an io.Writer
//   - cancellation: RoundTrip must return when the request's context ends, with
//     its cause, or when Request.Cancel does
//   - cancelled-before: a request whose context has ended must fail with its
//     cause
//   - cancelled-body: a response's body must end with the request's context, by
//     an error that is its cause
//   - close-ends-read: closing a response's body must end a read of it that is
//     under way
//   - hostile-base: whatever the base returns, RoundTrip must not panic, and an
//     error must remain one
//   - usable-after-failures: whatever became of some requests, others must get
//     through later
//   - concurrent-use: RoundTrip must be safe for concurrent use
//   - no-goroutine-left: no goroutine may outlive its request
//   - idle-connections-closed: CloseIdleConnections must be passed on to the
//     base, if that has it
//
// Over real connections, with HTTP/1.1 and HTTP/2, each with and without TLS:
//
//   - transparent: server and caller must see what they see without the layer,
//     but for headers that it adds
//   - request-trailers: trailers that the caller sets while the body is read
//     must be sent
//   - response-trailers: trailers must be in the response when its body has
//     been read
//   - informational-responses: the caller must be told of 1xx responses
//   - trace-hooks: the hooks of net/http/httptrace must be called as without
//     the layer
//   - expect-continue: with Expect: 100-continue the body must not be read
//     before the server wants it
//   - full-duplex: request and response must flow at the same time
//   - upgrade: a connection that was upgraded must be the caller's
//   - early-answer-on-wire: an answer must not wait for a request's body that
//     does not end, and that must be closed
//   - end-reaches-server: the server must hear of a request or a response that
//     is given up
//   - connection-reused: a connection must be used again after whatever answer
//   - large-bodies: large bodies must come through side by side
package sturdytest
