package sturdy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// streams is a step that answers 200 with a body of a type.
func streams(media string, body io.Reader) func(*http.Request) (*http.Response, error) {
	return func(req *http.Request) (*http.Response, error) {
		resp := answer(req, http.StatusOK, "")
		resp.Header.Set("Content-Type", media)
		resp.Header.Set("X-Request-Id", "req_1")
		closer, ok := body.(io.ReadCloser)
		if !ok {
			closer = io.NopCloser(body)
		}
		resp.Body, resp.ContentLength = closer, -1
		return resp, nil
	}
}

const (
	sseType   = "text/event-stream"
	linesType = "application/x-ndjson"
)

// sse is a step that answers with these data, each in an event of its own, or,
// where they begin with a name and a blank, in one of that name.
func sse(all ...string) func(*http.Request) (*http.Response, error) {
	return func(req *http.Request) (*http.Response, error) {
		return streams(sseType, strings.NewReader(eventsOf(all...)))(req)
	}
}

func eventsOf(all ...string) string {
	var b strings.Builder
	for _, ev := range all {
		if name, data, ok := strings.Cut(ev, " "); ok && !strings.ContainsAny(name, `{"`) {
			fmt.Fprintf(&b, "event: %s\ndata: %s\n\n", name, data)
		} else {
			fmt.Fprintf(&b, "data: %s\n\n", ev)
		}
	}
	return b.String()
}

// Events of streams, as they are sent.
const (
	chatRole   = `{"object":"chat.completion.chunk","choices":[{"index":0,"delta":{"role":"assistant","content":""},"finish_reason":null}]}`
	chatHello  = `{"object":"chat.completion.chunk","choices":[{"index":0,"delta":{"content":"Hello"},"finish_reason":null}]}`
	chatStop   = `{"object":"chat.completion.chunk","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}`
	chatUsage  = `{"object":"chat.completion.chunk","choices":[],"usage":{"total_tokens":3}}`
	done       = `[DONE]`
	overloaded = `{"error":{"message":"Too much to do","type":"server_error","code":"server_is_overloaded"}}`
	failed     = `{"error":{"message":"It failed","type":"server_error","code":null}}`
	noCredit   = `{"error":{"message":"No credit","type":"insufficient_quota","code":"insufficient_quota"}}`

	created   = `response.created {"type":"response.created","response":{"status":"in_progress","error":null}}`
	delta     = `response.output_text.delta {"type":"response.output_text.delta","delta":"Hello"}`
	completed = `response.completed {"type":"response.completed","response":{"status":"completed","error":null}}`

	messageStart = `message_start {"type":"message_start","message":{"usage":{}}}`
	ping         = `ping {"type": "ping"}`
	blockDelta   = `content_block_delta {"type":"content_block_delta","delta":{"type":"text_delta","text":"Hello"}}`
	messageStop  = `message_stop {"type":"message_stop"}`
)

// through reads the body that the step's answer has above Stream.
func through(t *testing.T, step func(*http.Request) (*http.Response, error)) (string, error) {
	t.Helper()
	resp, err := (&Stream{Base: rtFunc(step)}).RoundTrip(post(t, "x"))
	require.NoError(t, err)
	defer resp.Body.Close()
	got, err := io.ReadAll(resp.Body)
	return string(got), err
}

func TestEveryRealErrorInAStreamComesOutOfRead(t *testing.T) {
	n := 0
	for _, s := range samples(t) {
		if s.want["in"] != "stream" {
			continue
		}
		n++
		t.Run(s.name, func(t *testing.T) {
			for how, body := range map[string]io.Reader{
				"whole": bytes.NewReader(s.body), "byte by byte": iotest.OneByteReader(bytes.NewReader(s.body)),
				"with EOF": iotest.DataErrReader(bytes.NewReader(s.body)), "without its end": bytes.NewReader(bytes.TrimRight(s.body, "\n")),
			} {
				got, err := through(t, streams(s.resp.Header.Get("Content-Type"), body))
				var e *Error
				require.ErrorAs(t, err, &e, how)
				assert.Equal(t, s.want["class"], e.Class.String(), how)
				assert.Equal(t, s.want["retryable"] == "true", e.Retryable(), how)
				assert.Equal(t, 200, e.StatusCode, how)
				before, _, isVLLM := strings.Cut(string(s.body), "data: [DONE]")
				if how == "without its end" && !isVLLM {
					before = strings.TrimRight(before, "\n")
				}
				assert.Equal(t, before, got, how)
				if want := s.want["wait"]; want != "" {
					assert.Equal(t, want, e.RetryAfter.String(), how)
				}
			}
		})
	}
	assert.GreaterOrEqual(t, n, 10)
}

func TestAStreamThatLacksItsLastEventDoesNotEndCleanly(t *testing.T) {
	lines := func(s ...string) string { return strings.Join(s, "\n") + "\n" }
	for name, row := range map[string]struct {
		media, begin, last string
		after              string // that may follow the last event
	}{
		"chat completions":    {sseType, eventsOf(chatRole, chatHello, chatStop, chatUsage), eventsOf(done), ""},
		"completions":         {sseType, eventsOf(`{"object":"text_completion","choices":[{"text":"Hello"}]}`), eventsOf(done), ""},
		"assistants":          {sseType, eventsOf(`thread.run.created {"id":"run_1"}`), eventsOf("done [DONE]"), ""},
		"responses":           {sseType, eventsOf(created, delta), eventsOf(completed), ""},
		"responses, cut off":  {sseType, eventsOf(created, delta), eventsOf(`response.incomplete {"type":"response.incomplete"}`), ""},
		"responses, no names": {sseType, eventsOf(`{"type":"response.created"}`, `{"type":"response.output_text.delta"}`), eventsOf(`{"type":"response.completed"}`), ""},
		"messages":            {sseType, eventsOf(messageStart, ping, blockDelta), eventsOf(messageStop), ""},
		"Ollama":              {linesType, lines(`{"model":"m","message":{"content":"true"},"done":false}`), lines(`{"model":"m","done":true}`), ""},
		"Ollama, with blanks": {linesType, lines(`{"model": "m", "done": false}`), lines(`{"model": "m", "done": true}`), ""},
		"Gemini":              {sseType, eventsOf(`{"candidates":[{"content":{}}]}`), eventsOf(`{"candidates":[{"content":{},"finishReason":"STOP"}]}`), eventsOf(`{"usageMetadata":{}}`)},
		"comments and CR LF":  {sseType, strings.ReplaceAll(": OPENROUTER PROCESSING\n\n"+eventsOf(chatHello), "\n", "\r\n"), "data:[DONE]\r\n\r\n", ": bye\r\n\r\n"},
		"an end within lines": {sseType, eventsOf(chatHello), "data: [DONE]", ""},
	} {
		t.Run(name, func(t *testing.T) {
			for _, body := range []string{row.begin, strings.TrimRight(row.begin, "\r\n")} {
				got, err := through(t, streams(row.media, strings.NewReader(body)))
				assert.Equal(t, body, got)
				var e *Error
				require.ErrorAs(t, err, &e)
				assert.Equal(t, ErrConnection, e.Class)
				assert.ErrorIs(t, err, io.ErrUnexpectedEOF)
				assert.True(t, e.Retryable())
				assert.Equal(t, "req_1", e.RequestID)
				assert.Equal(t, "sturdy: connection failed (200): the stream ended before its last event: unexpected EOF", e.Error())
			}
			for _, reader := range []func(io.Reader) io.Reader{iotest.OneByteReader, iotest.HalfReader, iotest.DataErrReader} {
				body := row.begin + row.last + row.after
				got, err := through(t, streams(row.media, reader(strings.NewReader(body))))
				assert.Equal(t, body, got)
				assert.NoError(t, err)
			}
		})
	}
}

func TestAStreamOfUnknownEventsMayEndAtAnyTime(t *testing.T) {
	for name, body := range map[string]string{
		"comments":         ": hi\n\n: ho\n\n",
		"text":             eventsOf("hello", "tick 1"),
		"JSON":             eventsOf(`{"n":1}`, `{"n":2}`),
		"a type":           eventsOf(`{"type":"message"}`),
		"done":             eventsOf(done),
		"a word for error": eventsOf(`{"text":"an \"error\" in quotes"}`, `"error"`, `error`, `{"n":{"error":{"message":"x"}}}`),
		"no error":         eventsOf(`{"error":null}`, `{"error":false}`, `{"error":""}`, `{"error":{}}`, `{"error":[]}`, `{"error":0}`, `{"error": { } }`),
		"a late dialect":   eventsOf(append(slices.Repeat([]string{"x"}, dialectEvents), chatHello)...),
	} {
		got, err := through(t, streams(sseType, strings.NewReader(body)))
		assert.NoError(t, err, name)
		assert.Equal(t, body, got, name)
	}
}

func TestAStreamInWhichNothingComesIsNoAnswerToAPOST(t *testing.T) {
	for _, body := range []io.Reader{http.NoBody, strings.NewReader("")} {
		_, err := through(t, streams(sseType, body))
		assert.ErrorIs(t, err, ErrConnection)
		assert.ErrorIs(t, err, io.ErrUnexpectedEOF)
		_, err = through(t, streams(linesType, body))
		assert.NoError(t, err, "a list of lines may be empty")
		for _, method := range []string{http.MethodGet, http.MethodHead} {
			req := get(t)
			req.Method = method
			resp, err := (&Stream{Base: rtFunc(streams(sseType, body))}).RoundTrip(req)
			require.NoError(t, err)
			_, err = io.ReadAll(resp.Body)
			assert.NoError(t, err, "a source of events may have none yet")
		}
	}
}

func TestWhatIsNoStreamIsPassedOnAsItIs(t *testing.T) {
	for name, change := range map[string]func(*http.Response){
		"compressed": func(r *http.Response) { r.Header.Set("Content-Encoding", "gzip") },
		"text":       func(r *http.Response) { r.Header.Set("Content-Type", "text/plain") },
		"an error":   func(r *http.Response) { r.StatusCode = 500 },
	} {
		var made http.Response
		resp, err := (&Stream{Base: rtFunc(func(req *http.Request) (*http.Response, error) {
			resp, err := sse(failed)(req)
			change(resp)
			made = *resp
			return resp, err
		})}).RoundTrip(get(t))
		require.NoError(t, err)
		assert.Equal(t, made, *resp, name)
	}
	_, err := (&Stream{Base: rtFunc(fails(errReset))}).RoundTrip(get(t))
	assert.Equal(t, errReset, err)
}

func TestAFinishReasonIsTheEndWhereTheServerSendsNoDone(t *testing.T) {
	for name, row := range map[string]struct {
		events []string
		whole  bool
	}{
		"finish_reason":   {[]string{chatHello, chatStop}, true},
		"with usage":      {[]string{chatHello, chatStop, chatUsage}, true},
		"with blanks":     {[]string{chatHello, strings.ReplaceAll(chatStop, ":", ": ")}, true},
		"done":            {[]string{chatHello, done}, true},
		"none":            {[]string{chatHello}, false},
		"an empty one":    {[]string{strings.ReplaceAll(chatStop, `"stop"`, `""`)}, false},
		"null as a text":  {[]string{strings.ReplaceAll(chatStop, `"stop"`, `"null"`)}, false},
		"one in the text": {[]string{strings.ReplaceAll(chatHello, "Hello", `\"finish_reason\":\"stop\"`)}, false},
	} {
		resp, err := (&Stream{NoDone: true, Base: rtFunc(sse(row.events...))}).RoundTrip(get(t))
		require.NoError(t, err)
		_, err = io.ReadAll(resp.Body)
		if row.whole {
			assert.NoError(t, err, name)
		} else {
			assert.ErrorIs(t, err, io.ErrUnexpectedEOF, name)
		}
	}
}

func TestAnErrorEndsTheStreamAfterItsOwnBytes(t *testing.T) {
	for name, row := range map[string]struct{ before, after []string }{
		"at first":                  {nil, []string{chatHello, done}},
		"in the middle":             {[]string{chatRole, chatHello}, []string{chatHello, done}},
		"at the end":                {[]string{chatRole, chatHello, chatStop}, nil},
		"after the end":             {[]string{chatHello, done}, nil},
		"though a [DONE] follows":   {[]string{chatHello}, []string{done}},
		"though another one follow": {nil, []string{noCredit}},
	} {
		t.Run(name, func(t *testing.T) {
			want := eventsOf(append(row.before, overloaded)...)
			body := want + eventsOf(row.after...)
			for _, size := range []int{1, 7, 1 << 16} {
				var seen observed
				resp, err := (&Stream{Observe: seen.see, Base: rtFunc(streams(sseType, strings.NewReader(body)))}).RoundTrip(get(t))
				require.NoError(t, err)
				var got []byte
				for p := make([]byte, size); err == nil; {
					var n int
					n, err = resp.Body.Read(p)
					got = append(got, p[:n]...)
				}
				assert.Equal(t, want, string(got))
				assert.ErrorIs(t, err, ErrOverloaded)
				var e *Error
				require.ErrorAs(t, err, &e)
				assert.Equal(t, "sturdy: server overloaded (200 server_error server_is_overloaded): Too much to do", err.Error())
				_, again := resp.Body.Read(make([]byte, 1))
				assert.Same(t, e, again, "and so does every Read that follows")
				assert.NoError(t, resp.Body.Close())
				assert.Equal(t, []EventKind{EventBroken}, seen.kinds())
			}
		})
	}
}

func TestAFlatErrorAndOneByNameAreErrors(t *testing.T) {
	for _, ev := range []string{
		`error {"type":"error","code":"rate_limit_exceeded","message":"x"}`,
		`{"type":"error","code":"rate_limit_exceeded","message":"x"}`,
		`{ "type" : "error" , "code" : "rate_limit_exceeded"}`,
		`error rate_limit_exceeded: {"code":"rate_limit_exceeded"`,
		`response.failed {"type":"response.failed","response":{"error":{"code":"rate_limit_exceeded"}}}`,
		`{"type":"response.failed","response":{"error":{"code":"rate_limit_exceeded"}}}`,
	} {
		_, err := through(t, sse(ev))
		var e *Error
		assert.ErrorAs(t, err, &e, ev)
	}
}

func TestABrokenConnectionIsAnErrorOfTheStream(t *testing.T) {
	begin := eventsOf(chatHello)
	got, err := through(t, streams(sseType, io.MultiReader(strings.NewReader(begin), iotest.ErrReader(errReset))))
	assert.Equal(t, begin, got)
	var e *Error
	require.ErrorAs(t, err, &e)
	assert.Equal(t, ErrConnection, e.Class)
	assert.ErrorIs(t, err, syscall.ECONNRESET)
	assert.Equal(t, 200, e.StatusCode)
	assert.Equal(t, "req_1", e.RequestID)

	_, err = through(t, streams(sseType, io.MultiReader(strings.NewReader("data: ?\n\n"), iotest.ErrReader(io.ErrUnexpectedEOF))))
	assert.ErrorIs(t, err, ErrConnection, "whatever its events")
	assert.ErrorIs(t, err, io.ErrUnexpectedEOF)
}

func TestTheCallersOwnEndIsNoErrorOfTheStream(t *testing.T) {
	why := errors.New("shutdown")
	ctx, cancel := context.WithCancelCause(t.Context())
	var seen observed
	resp, err := (&Stream{Observe: seen.see, Base: rtFunc(func(req *http.Request) (*http.Response, error) {
		return streams(sseType, heedsContext{req.Context()})(req)
	})}).RoundTrip(get(t).WithContext(ctx))
	require.NoError(t, err)
	cancel(why)
	_, err = resp.Body.Read(make([]byte, 1))
	assert.Equal(t, why, err)

	synctest.Test(t, func(t *testing.T) {
		resp, err := (&Stream{Observe: seen.see, Base: rtFunc(streams(sseType, newStalledBody("data: x")))}).RoundTrip(get(t))
		require.NoError(t, err)
		time.AfterFunc(time.Second, func() { _ = resp.Body.Close() })
		_, err = io.ReadAll(resp.Body)
		assert.Equal(t, http.ErrBodyReadAfterClose, err, "the base's own")
	})
	assert.Empty(t, seen.kinds())
}

func TestAStallComesThroughAStreamAsItIs(t *testing.T) {
	for name, rt := range map[string]func(http.RoundTripper) http.RoundTripper{
		"below": func(base http.RoundTripper) http.RoundTripper {
			return &Stream{Base: &Timeout{Base: base, Idle: time.Minute}}
		},
		"above": func(base http.RoundTripper) http.RoundTripper {
			return &Timeout{Base: &Stream{Base: base}, Idle: time.Minute}
		},
	} {
		synctest.Test(t, func(t *testing.T) {
			resp, err := rt(rtFunc(func(req *http.Request) (*http.Response, error) {
				return streams(sseType, heedsContext{req.Context()})(req)
			})).RoundTrip(get(t))
			require.NoError(t, err)
			_, err = resp.Body.Read(make([]byte, 1))
			assert.ErrorIs(t, err, errIdleTimeout, name)
			assert.ErrorIs(t, err, ErrTimeout, name)
			assert.Equal(t, "sturdy: timed out (200): no byte of the response's body in time: 1m0s", err.Error(), name)
		})
	}
}

func TestAPanicInAStreamsBodyGoesOnUpward(t *testing.T) {
	resp, err := (&Stream{Base: rtFunc(streams(sseType, panicReader{}))}).RoundTrip(get(t))
	require.NoError(t, err)
	assert.PanicsWithValue(t, "read", func() { _, _ = resp.Body.Read(make([]byte, 1)) })
	resp, err = (&Retry{Base: &Stream{Base: rtFunc(streams(sseType, panicReader{}))}}).RoundTrip(get(t))
	require.NoError(t, err)
	assert.PanicsWithValue(t, "read", func() { _, _ = resp.Body.Read(make([]byte, 1)) }, "to the reader, not to who reads ahead")
}

func TestAnEventIsDeliveredAsItComes(t *testing.T) {
	rts := map[string]func(http.RoundTripper) http.RoundTripper{
		"Stream":               func(base http.RoundTripper) http.RoundTripper { return &Stream{Base: base} },
		"Transport of Streams": func(base http.RoundTripper) http.RoundTripper { return &Transport{Base: &Stream{Base: base}} },
	}
	for name, rt := range rts {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				const n, every = 100, 10 * time.Millisecond
				text := eventsOf(chatHello)
				began := time.Now()
				resp, err := rt(rtFunc(func(req *http.Request) (*http.Response, error) {
					return streams(sseType, ticking(text, every, n))(req)
				})).RoundTrip(get(t))
				require.NoError(t, err)
				for i := range n {
					got := make([]byte, len(text))
					_, err := io.ReadFull(resp.Body, got)
					require.NoError(t, err)
					require.Equal(t, text, string(got))
					require.Equal(t, time.Duration(i+1)*every, time.Since(began))
				}
				require.NoError(t, resp.Body.Close())
			})
		})
	}
}

func TestAPartOfAnEventIsDeliveredAsItComes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		resp, err := (&Stream{Base: rtFunc(streams(sseType, newStalledBody("da")))}).RoundTrip(get(t))
		require.NoError(t, err)
		_, err = io.ReadFull(resp.Body, make([]byte, 2))
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
	})
}

func TestAnEventThatIsTooLongIsPassedOnAndJudgedByItsBeginning(t *testing.T) {
	long := strings.Repeat("x", 2*maxEvent)
	for name, row := range map[string]struct {
		events []string
		want   error
	}{
		"content":         {[]string{chatHello, strings.ReplaceAll(chatHello, "Hello", long), done}, nil},
		"the last":        {[]string{created, `response.completed {"type":"response.completed","response":{"output":"` + long + `"}}`}, nil},
		"an error":        {[]string{chatHello, `{"error":{"code":"server_is_overloaded","message":"` + long + `"}}`}, ErrOverloaded},
		"one that is cut": {[]string{chatHello, strings.ReplaceAll(chatHello, "Hello", long)}, io.ErrUnexpectedEOF},
	} {
		body := eventsOf(row.events...)
		got, err := through(t, streams(sseType, strings.NewReader(body)))
		assert.True(t, body == got, name)
		assert.ErrorIs(t, err, row.want, name)
	}
}

func TestAnErrorInAStreamHasNoSecretInIt(t *testing.T) {
	req := get(t)
	req.Header.Set("Authorization", "Bearer sk-canary-1234567890")
	resp, err := (&Stream{Base: rtFunc(sse(`{"error":{"message":"the key sk-canary-1234567890 is bad","code":"invalid_api_key"}}`))}).RoundTrip(req)
	require.NoError(t, err)
	_, err = io.ReadAll(resp.Body)
	assert.ErrorIs(t, err, ErrAuthentication)
	assert.NotContains(t, fmt.Sprintf("%v %+v", err, err), "canary")

	resp, err = (&Stream{Base: rtFunc(func(req *http.Request) (*http.Response, error) {
		req = req.Clone(req.Context())
		req.Header.Set("X-Api-Key", "added-canary-1234567890")
		broken := fmt.Errorf("the keys sk-canary-1234567890 and added-canary-1234567890: %w", errReset)
		resp, err := streams(sseType, iotest.ErrReader(broken))(req)
		resp.Header.Set("X-Request-Id", "sk-canary-1234567890, added-canary-1234567890")
		return resp, err
	})}).RoundTrip(req)
	require.NoError(t, err)
	_, err = io.ReadAll(resp.Body)
	var e *Error
	require.ErrorAs(t, err, &e)
	assert.Contains(t, e.Error(), "the keys")
	assert.NotContains(t, e.Error(), "canary")
	assert.NotContains(t, e.RequestID, "canary")
}

// FuzzStream reads any body, in two parts, and byte by byte: what comes out of
// Stream is what went in, up to the end of the first event that is an error,
// and the same however it comes.
func FuzzStream(f *testing.F) {
	for _, body := range []string{
		eventsOf(chatRole, chatHello, chatStop, done), eventsOf(chatHello, overloaded, done), eventsOf(created, delta, completed),
		eventsOf(messageStart, ping, blockDelta, messageStop), `{"model":"m","done":false}` + "\n" + `{"error":"x"}` + "\n",
		"event: error\r\ndata: x\r\n\r\ndata: y\r\n\r\n", "\ufeffdata: [DONE]\r\r\n", "error: {\"code\":400}\n\n",
	} {
		for at := 0; at < len(body); at += 7 {
			f.Add([]byte(body), at, at%2 == 0)
		}
	}
	for _, page := range pages() {
		f.Add([]byte(page), len(page)/2, true)
	}
	f.Fuzz(func(t *testing.T, body []byte, at int, lines bool) {
		at = min(max(at, 0), len(body))
		media := sseType
		if lines {
			media = linesType
		}
		read := func(parts ...[]byte) (string, error) {
			readers := make([]io.Reader, len(parts))
			for i, p := range parts {
				readers[i] = bytes.NewReader(p)
			}
			return through(t, streams(media, io.MultiReader(readers...)))
		}
		got, err := read(body)
		assert.True(t, bytes.HasPrefix(body, []byte(got)))
		e, _ := errors.AsType[*Error](err)
		switch {
		case len(body) == 0 && media == sseType:
			assert.ErrorIs(t, err, io.ErrUnexpectedEOF)
		case err == nil:
			assert.Equal(t, string(body), got)
		case errors.Is(err, io.ErrUnexpectedEOF):
			assert.Equal(t, string(body), got)
			assert.Equal(t, ErrConnection, e.Class)
		default:
			assert.NotZero(t, e.Class)
			assert.NoError(t, e.Err)
		}
		for _, parts := range [][][]byte{{body[:at], body[at:]}, byteByByte(body)} {
			again, err2 := read(parts...)
			assert.Equal(t, got, again)
			e2, _ := errors.AsType[*Error](err2)
			if e == nil {
				assert.Equal(t, err, err2)
				continue
			}
			require.NotNil(t, e2)
			assert.Equal(t, e.Error(), e2.Error())
		}
	})
}

// An manyError is an error that can not be compared.
type manyError []string

func (e manyError) Error() string { return e[0] }

func TestAStreamMayEndWithAnErrorThatCannotBeCompared(t *testing.T) {
	for name, rt := range map[string]http.RoundTripper{
		"Stream": &Stream{Base: rtFunc(streams(sseType, readerFunc(func([]byte) (int, error) { return 0, manyError{"broken"} })))},
		"Transport": &Transport{
			Base:    &Stream{Base: rtFunc(streams(sseType, readerFunc(func([]byte) (int, error) { return 0, manyError{"broken"} })))},
			Timeout: Timeout{Idle: time.Minute, Header: time.Minute},
			Retry:   Retry{Attempts: 2, MinDelay: 1, MaxDelay: 1},
		},
		"no answer": &Transport{
			Base:    rtFunc(fails(manyError{"broken"})),
			Timeout: Timeout{Header: time.Minute},
			Retry:   Retry{Attempts: 2, MinDelay: 1, MaxDelay: 1},
		},
	} {
		t.Run(name, func(t *testing.T) {
			resp, err := rt.RoundTrip(get(t))
			if err == nil {
				defer resp.Body.Close()
				_, err = io.ReadAll(resp.Body)
			}
			var many manyError
			require.ErrorAs(t, Check(nil, err), &many)
		})
	}
}
