// Package sturdy makes any http.Client withstand rate limits, overload and
// outages. It is middleware for net/http: it paces the round trips, sends again
// what is worth it and safe, stops knocking on a server that is down, and tells
// in typed errors what went wrong.
//
//	client := &http.Client{Transport: &sturdy.Transport{}}
//
// That is all for most programs. The caller keeps their requests, their SDK and
// their http.Client; what comes back is what net/http would have returned, from
// the last attempt.
//
// # Layers
//
// [Transport] is a stack of four layers. Each is an http.RoundTripper with a
// Base, has a useful zero value, and works alone and in any order.
//
//   - [Retry] sends again what failed in a way that passes, where that is safe.
//   - [RateLimit] paces the requests of each key: it learns the server's limits
//     from its headers and its refusals, and holds everybody with that key when
//     the server answers 429.
//   - [Breaker] is a circuit breaker for each host: a server that is down gets a
//     probe instead of a queue, and those who waited do not come back all at once.
//   - [Timeout] gives up an attempt to which no response headers come, and a
//     body that stalls.
//
// In a Transport a request passes them in this order: each attempt waits for
// its turn and its circuit, and the clock of an attempt runs while it is on the
// wire only.
//
// # Settings
//
// One rule holds for every field: zero means the default that its comment
// names, negative means off, or the default where off makes no sense. Settings
// are not changed after the first request. Layers hold what they know of limits
// and outages, so make one and keep it.
//
// A nil Base is http.DefaultTransport, as it is when it is used. A layer, or what
// wraps one, may be http.DefaultTransport itself: what comes back to it that way is
// sent by the transport that was there when the program began.
//
// A Base need not be net/http's, but has to keep to the contract of
// http.RoundTripper, and the bodies of its responses, like net/http's, must bear
// being closed while they are read: that is how a read that hangs is ended.
//
// # Keys
//
// A [RateLimit] keeps apart those that a server tells apart: by scheme, host and
// credential. Credentials are found in Authorization, with any scheme, in the headers
// and query parameters by which well-known services have them, such as X-Api-Key,
// PRIVATE-TOKEN and api_key, and, where there is nothing else, in the paths of bots and
// webhooks such as Telegram's and Slack's, and in session cookies.
// Headers that name an organization, a project or a tenant count too. If there are
// several, all of them count together: so the users of an application with one key are
// told apart by their tokens, but not by cookies, which a server may set in passing, nor
// by a parameter that may be something else, such as token, unless it is a JSON Web Token.
// No credential is kept: a key has a fingerprint of it that is worth nothing outside the
// process.
//
// A signature is another for each request, so it is told by who signed. A JSON Web
// Token is told by its issuer, subject, application and tenant, if it has the first
// two, and else by its bytes, as any other token is. A client certificate, and a
// credential in a body, are not seen: where these tell callers apart, and where the
// server counts by something else, set RateLimit.Key.
//
// # Queues
//
// Requests that wait for a limit, or for an open circuit, leave in the order of their
// first arrival. [WithPriority] has urgent ones leave before the others, who have
// one turn in eleven at least. [WithTenant] has users, jobs or customers take turns, so
// that the few requests of one are not behind the many of another:
//
//	ctx = sturdy.WithPriority(ctx, 1)
//	ctx = sturdy.WithTenant(ctx, "user-42")
//
// A request that is sent again keeps its place. Whose deadline is nearer than answers
// mostly take yields to those who have time enough, and is sent if nobody has.
//
// # Errors
//
// A RoundTripper returns no error for a status, and neither do these. [Check]
// makes an error of what http.Client.Do returned:
//
//	resp, err := client.Do(req)
//	if err := sturdy.Check(resp, err); err != nil {
//		if errors.Is(err, sturdy.ErrQuotaExceeded) {
//			// waiting will not help
//		}
//	}
//
// A [Class] is what went wrong in one word, for errors.Is and switch; an
// [*Error] is all that is known of it, for errors.As.
//
// # Streams
//
// The answer of a chat completion comes as a stream, and much can go wrong after
// its 200: it stalls, it is cut short, an error comes as an event. [Timeout.Idle]
// ends a body that brings nothing while it is read. [Stream], as the Base of a
// Transport, makes Read return the other failures too, where it would return a
// clean end, or nothing that an SDK knows:
//
//	client := &http.Client{Transport: &sturdy.Transport{
//		Base:    &sturdy.Stream{},
//		Timeout: sturdy.Timeout{Header: time.Minute, Idle: time.Minute},
//	}}
//
// What fails before any content of the answer is sent again like a failed
// answer; what fails later never is, since the caller has part of it.
//
// # Deadlines
//
// Give requests a deadline with context.WithTimeout. It bounds everything:
// attempts, waits, and the reading of the body. No wait is begun that would not
// end before it; the answer in hand is returned at once instead. What is inferred
// of a server refuses nobody: it may change.
//
// A request without a deadline waits 30 seconds for an open circuit, and two
// minutes in all for a server that asks for it or takes nothing. It has no end but
// its turn in a queue that moves. http.Client.Timeout works too, but hides the error
// of an attempt behind its own.
//
// # Outages
//
// Retries help while a part of the attempts fails, and harm when all of them
// do. In a Transport the [Breaker] tells the two apart, and while a server is down
// lets one request at a time find out whether it still is; the others wait for
// that, and leave faster and faster when it is over. Where there is no Breaker,
// retries are paid for from a [Budget], which calls that succeed fill: while a
// server is down it is soon empty, and failures go to the caller at once.
//
// A server that answers 503 may be down, or refuse what is over a limit. In a Transport
// [RateLimit] finds that out: where slowing down cures it, it is a limit, and opens no
// circuit. Where nothing is taken, it is an outage.
//
// A call that meets a server which seems to be down spreads its attempts over the
// time that it has, half a minute without a deadline: so it sits an outage out that
// is shorter, also where it is alone and nobody tells it when the server is back.
// Retry.MinDelay and Retry.MaxDelay, where they are set, come first.
//
// # Servers that do harm
//
// What a server says and does, by mistake or in malice, costs the requests of other
// keys nothing. Its own it holds no longer than their deadlines, and without one:
//
//   - with refusals, failures and waits that it asks for, two minutes in all, and an
//     attempt. A Retry-After above Retry.MaxRetryAfter holds nobody: the answer is
//     handed back, and for an hour at most others with that key are refused
//     at once.
//   - with headers that say that nothing is left, a second for each request that is
//     ahead, and two minutes once what they tell was borne out by answers.
//   - as long as it takes a request now and then, until its turn has come: at most 20
//     seconds for each that is ahead.
//   - with silence as long as it likes, as net/http does: set Timeout.Header, and
//     Timeout.Idle for a body. The body of an error is waited for 250 milliseconds an
//     attempt.
//
// Of an error's body, 64 KiB are looked at, packed or unpacked, of an event of a stream
// 1 MiB, of a header that tells of limits 4 KiB.
//
// # Requests that change something
//
// A POST whose connection broke may have been acted on. It is not sent again
// unless it has an Idempotency-Key header, which Retry.IdempotencyKey gives it,
// or Retry.ReplayUnsafe is set, or Retry.Decide says so. An answer of 408, 429,
// 500, 502, 503 or 504 is taken for leave to send it again: a server that
// acts on a request and then says 500 should be given an Idempotency-Key, and if
// it does not heed that, a Retry.Decide that says so. In either case the body
// must be there once more: http.NewRequest sees to that for a bytes.Buffer,
// bytes.Reader and strings.Reader. Of others, those whose ContentLength is known
// and at most 64 KiB, see Retry.ReplayBody, are copied while they are sent; set
// Request.GetBody for the rest.
package sturdy
