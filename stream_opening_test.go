package sturdy

import (
	"context"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestAStreamThatFailsBeforeItsContentIsSentAgain(t *testing.T) {
	good := []string{chatRole, chatHello, chatStop, done}
	for name, row := range map[string]struct {
		opening func(*http.Request) (*http.Response, error)
		want    int // requests, of 2
		unsafe  bool
	}{
		"an error at first":             {sse(overloaded), 2, false},
		"one of the server's own":       {sse(failed), 2, false},
		"one by its name":               {sse(`error It is broken`), 2, false},
		"after the role":                {sse(chatRole, overloaded), 2, false},
		"after a filter's results":      {sse(`{"choices":[],"prompt_filter_results":[]}`, overloaded), 2, false},
		"after comments":                {streams(sseType, strings.NewReader(": hi\n\n"+eventsOf(overloaded))), 2, false},
		"after message_start":           {sse(messageStart, ping, `error {"type":"error","error":{"type":"overloaded_error"}}`), 2, false},
		"after response.created":        {sse(created, `response.failed {"type":"response.failed","response":{"error":{"code":"server_error"}}}`), 2, false},
		"byte by byte":                  {streams(sseType, iotest.OneByteReader(strings.NewReader(eventsOf(chatRole, overloaded)))), 2, false},
		"in lines":                      {streams(linesType, strings.NewReader(`{"error":"it is broken"}`+"\n")), 2, false},
		"without credit":                {sse(noCredit), 1, false},
		"after content":                 {sse(chatHello, overloaded), 1, false},
		"after a call of a tool":        {sse(`{"choices":[{"delta":{"role":"assistant","content":null,"tool_calls":[{}]}}]}`, overloaded), 1, false},
		"after a refusal":               {sse(`{"choices":[{"delta":{"content":"","refusal":"No"}}]}`, overloaded), 1, false},
		"after a finish":                {sse(chatStop, overloaded), 1, false},
		"after a completion's text":     {sse(`{"choices":[{"text":""}]}`, overloaded), 1, false},
		"after a delta":                 {sse(created, delta, overloaded), 1, false},
		"after a line":                  {streams(linesType, strings.NewReader("{\"model\":\"m\",\"done\":false}\n{\"error\":\"x\"}\n")), 1, false},
		"a cut, where that is not safe": {sse(chatRole), 1, false},
		"a cut, where it is":            {sse(chatRole), 2, true},
		"a reset, where it is not":      {streams(sseType, iotest.ErrReader(errReset)), 1, false},
		"a reset, where it is":          {streams(sseType, iotest.ErrReader(errReset)), 2, true},
		"a cut after content":           {sse(chatHello), 1, true},
		"a cut together with content":   {streams(sseType, iotest.DataErrReader(strings.NewReader(eventsOf(chatHello)))), 1, true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				base := script(row.opening, sse(good...))
				resp, err := (&Retry{ReplayUnsafe: row.unsafe, Base: &Stream{Base: base}}).RoundTrip(post(t, "x"))
				require.NoError(t, err)
				defer resp.Body.Close()
				got, err := io.ReadAll(resp.Body)
				assert.Len(t, base.times(), row.want)
				if row.want == 2 {
					require.NoError(t, err)
					assert.Equal(t, eventsOf(good...), string(got))
				} else {
					assert.Error(t, err)
				}
			})
		})
	}
}

func TestAStreamThatFailsForGoodIsHandedBackAsItCame(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base := script(sse(chatRole, overloaded, done))
		var seen observed
		resp, err := (&Retry{Attempts: 3, Observe: seen.see, Base: &Stream{Base: base}}).RoundTrip(post(t, "x"))
		require.NoError(t, err, "a status is never turned into an error")
		assert.Equal(t, 200, resp.StatusCode)
		assert.Len(t, base.times(), 3)
		assert.Equal(t, []EventKind{EventRetry, EventRetry, EventGiveUp}, seen.kinds())

		var e *Error
		require.ErrorAs(t, Check(resp, nil), &e)
		assert.Equal(t, ErrOverloaded, e.Class)
		assert.Equal(t, 3, e.Attempts)
		assert.Len(t, e.Report().Attempts, 3)

		got, err := io.ReadAll(resp.Body)
		assert.Equal(t, eventsOf(chatRole, overloaded), string(got), "its bytes are there for who reads them")
		assert.ErrorIs(t, err, ErrOverloaded)
		require.NoError(t, resp.Body.Close())
	})
}

func TestAnErrorBeforeContentCountsForTheOtherLayersToo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rt := &Breaker{Failures: 1, MaxWait: -1, Base: &Stream{Base: script(sse(overloaded))}}
		resp, err := rt.RoundTrip(get(t))
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
		_, err = rt.RoundTrip(get(t))
		assert.ErrorIs(t, err, ErrCircuitOpen)
	})
	synctest.Test(t, func(t *testing.T) {
		limited := sse(`{"error":{"code":"rate_limit_exceeded","message":"Please try again in 20s"}}`)
		base := script(limited, sse(chatHello, done))
		rt := &RateLimit{Base: &Stream{Base: base}}
		for range 2 {
			resp, err := rt.RoundTrip(get(t))
			require.NoError(t, err)
			require.NoError(t, resp.Body.Close())
		}
		assert.Equal(t, []time.Duration{0, 20 * time.Second}, base.times())
	})
	synctest.Test(t, func(t *testing.T) {
		_, err := (&StatusErrors{Base: &Stream{Base: script(sse(overloaded))}}).RoundTrip(get(t))
		assert.ErrorIs(t, err, ErrOverloaded)
	})
}

func TestAStallBeforeContentIsATimeoutLikeAnyOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		stalls := func(req *http.Request) (*http.Response, error) {
			return streams(sseType, io.MultiReader(strings.NewReader(eventsOf(chatRole)), heedsContext{req.Context()}))(req)
		}
		base := script(stalls, sse(chatHello, done))
		rt := &Transport{Base: &Stream{Base: base}, Timeout: Timeout{Idle: 5 * time.Second}, Retry: Retry{MinDelay: -1}}
		resp, err := rt.RoundTrip(get(t))
		require.NoError(t, err)
		_, err = io.ReadAll(resp.Body)
		require.NoError(t, err)
		assert.Equal(t, []time.Duration{0, 5 * time.Second}, base.times())
	})
}

func TestTheWaitForContentIsBoundedAndIsNotTheHeaders(t *testing.T) {
	for name, row := range map[string]struct {
		wait, want time.Duration
	}{
		"by default": {0, 10 * time.Second},
		"as set":     {time.Second, time.Second},
		"off":        {-1, 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				text := eventsOf(chatHello)
				rt := &Transport{
					Timeout: Timeout{Header: 100 * time.Millisecond},
					Base: &Stream{FirstEvent: row.wait, Base: rtFunc(func(req *http.Request) (*http.Response, error) {
						return streams(sseType, ticking(text, time.Minute, 1))(req)
					})},
				}
				began := time.Now()
				resp, err := rt.RoundTrip(get(t))
				require.NoError(t, err, "the headers have come")
				assert.Equal(t, row.want, time.Since(began))
				_, err = io.ReadFull(resp.Body, make([]byte, len(text)))
				require.NoError(t, err)
				assert.Equal(t, time.Minute, time.Since(began), "nothing is lost or late")
				require.NoError(t, resp.Body.Close())
			})
		})
	}
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		began := time.Now()
		resp, err := (&Retry{Base: &Stream{Base: rtFunc(func(req *http.Request) (*http.Response, error) {
			return streams(sseType, heedsContext{req.Context()})(req)
		})}}).RoundTrip(get(t).WithContext(ctx))
		require.NoError(t, err)
		assert.Equal(t, time.Second, time.Since(began), "it ends with the request")
		_, err = resp.Body.Read(make([]byte, 1))
		assert.ErrorIs(t, err, context.DeadlineExceeded)
	})
}

func TestAStreamAloneHandsTheHeadersOnAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		stalled := newStalledBody("")
		resp, err := (&Stream{Base: rtFunc(streams(sseType, stalled))}).RoundTrip(get(t))
		require.NoError(t, err)
		assert.Zero(t, time.Since(began))
		assert.NoError(t, Check(resp, nil))
		assert.Equal(t, 10*time.Second, time.Since(began), "it is who asks that waits")
		assert.NoError(t, Check(resp, nil))
		assert.Equal(t, 10*time.Second, time.Since(began), "once")
		require.NoError(t, resp.Body.Close())
	})
}

func TestCheckKnowsAnErrorUnderA200(t *testing.T) {
	const openRouter = `{"error":{"message":"Provider returned error","code":502,"metadata":{}},"user_id":"u"}`
	big := `{"error":{"code":502,"message":"` + strings.Repeat("x", peekBytes) + `"}}`
	for name, row := range map[string]struct {
		body string
		want error
	}{
		"OpenRouter's":                   {openRouter, ErrInternalServer},
		"in lines":                       {"\n{\n  \"error\" : {\"code\": 429, \"message\": \"x\"} }\n", ErrRateLimit},
		"in a list":                      {`[` + openRouter + `]`, ErrInternalServer},
		"Anthropic's":                    {`{"type":"error","error":{"type":"overloaded_error"}}`, ErrOverloaded},
		"words that are known":           {`[{"error":"Model x is currently loading","estimated_time":20.0}]`, ErrOverloaded},
		"words that are not":             {`{"error":"authorization_pending"}`, nil},
		"no error":                       {`{"error":null,"data":{}}`, nil},
		"a completion":                   {`{"id":"chatcmpl-1","choices":[]}`, nil},
		"a message":                      {`{"type":"message","content":[]}`, nil},
		"an error that is not at first":  {`{"id":"resp_1","status":"failed","error":{"code":"server_error"}}`, nil},
		"a text":                         {`"error"`, nil},
		"a list":                         {`[]`, nil},
		"nothing":                        {``, nil},
		"one too large to be an error":   {big, nil},
		"one that is cut":                {openRouter[:20], ErrInternalServer},
		"one of another member's prefix": {`{"errors":[{"message":"x"}]}`, nil},
	} {
		t.Run(name, func(t *testing.T) {
			for _, reader := range []func(io.Reader) io.Reader{
				func(r io.Reader) io.Reader { return r }, iotest.OneByteReader, iotest.DataErrReader,
			} {
				base := rtFunc(streams("application/json", reader(strings.NewReader(row.body))))
				resp, err := (&Stream{Base: base}).RoundTrip(get(t))
				require.NoError(t, err)
				err = Check(resp, nil)
				if row.want == nil {
					assert.NoError(t, err)
				} else {
					assert.ErrorIs(t, err, row.want)
					assert.Same(t, err, Check(resp, nil))
				}
				got, err := io.ReadAll(resp.Body)
				assert.NoError(t, err, "the body is an answer like any other")
				assert.True(t, row.body == string(got), "and whole")
			}
		})
	}
}

func TestAnAnswerThatSomebodyPutInItsPlaceIsNotTheStreams(t *testing.T) {
	resp, err := (&Stream{Base: rtFunc(sse(overloaded))}).RoundTrip(get(t))
	require.NoError(t, err)
	other := answer(resp.Request, 200, "other")
	assert.NoError(t, Check(other, nil))
	assert.ErrorIs(t, Check(resp, nil), ErrOverloaded)
	assert.NoError(t, Check(other, nil))
}

func TestAStreamThatNobodyIsToWaitForIsNotMarked(t *testing.T) {
	var sent *http.Request
	resp, err := (&Stream{FirstEvent: -1, Base: rtFunc(func(req *http.Request) (*http.Response, error) {
		sent = req
		return sse(overloaded)(req)
	})}).RoundTrip(get(t))
	require.NoError(t, err)
	assert.Same(t, sent, resp.Request)
	assert.NoError(t, Check(resp, nil))
	_, err = io.ReadAll(resp.Body)
	assert.ErrorIs(t, err, ErrOverloaded)
}

func TestAnErrorUnderA200IsSentAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		failed := streams("application/json", strings.NewReader(`{"error":{"message":"x","code":502}}`))
		fine := streams("application/json", strings.NewReader(`{"choices":[]}`))
		base := script(failed, fine)
		resp, err := (&Transport{Base: &Stream{Base: base}}).RoundTrip(post(t, "x"))
		require.NoError(t, err)
		got, err := io.ReadAll(resp.Body)
		require.NoError(t, err)
		assert.Equal(t, `{"choices":[]}`, string(got))
		assert.Len(t, base.times(), 2)
	})
}

func TestOfASuccessOnlyTheOpeningIsReadAhead(t *testing.T) {
	for _, media := range []string{sseType, "application/json"} {
		read := 0
		text := strings.NewReader(eventsOf(chatHello) + strings.Repeat(" ", 1<<20))
		if media != sseType {
			text = strings.NewReader(`{"id":1,` + strings.Repeat(" ", 1<<20))
		}
		resp, err := (&Transport{Base: &Stream{Base: rtFunc(streams(media, readerFunc(func(p []byte) (int, error) {
			n, err := text.Read(p)
			read += n
			return n, err
		})))}}).RoundTrip(get(t))
		require.NoError(t, err)
		assert.LessOrEqual(t, read, 1<<10, media)
		require.NoError(t, resp.Body.Close())
	}
}
