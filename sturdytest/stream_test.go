package sturdytest_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/sturdyhttp/sturdy/sturdytest"
)

// An sse is an event as a client reads it.
type sse struct{ name, data string }

// parse reads a text/event-stream.
func parse(t *testing.T, stream string) (events []sse) {
	t.Helper()
	for _, block := range strings.SplitAfter(stream, "\n\n") {
		if block == "" {
			continue
		}
		var e sse
		sc := bufio.NewScanner(strings.NewReader(strings.TrimSuffix(block, "\n\n")))
		for sc.Scan() {
			if name, ok := strings.CutPrefix(sc.Text(), "event: "); ok {
				e.name = name
			} else if data, ok := strings.CutPrefix(sc.Text(), "data: "); ok {
				e.data += data
			} else {
				t.Errorf("unexpected line %q", sc.Text())
			}
		}
		events = append(events, e)
	}
	return events
}

// into reads JSON.
func into[T any](t *testing.T, data string) (v T) {
	t.Helper()
	require.NoError(t, json.Unmarshal([]byte(data), &v), data)
	return v
}

// arrivals returns when the parts of a body came, since it was asked for.
func arrivals(t *testing.T, rt http.RoundTripper) (times []time.Duration, parts []string, err error) {
	t.Helper()
	start := time.Now()
	resp, err := roundTrip(t, rt)
	require.NoError(t, err)
	defer resp.Body.Close()
	buf := make([]byte, 1024)
	for {
		n, err := resp.Body.Read(buf)
		if err != nil {
			return append(times, time.Since(start)), parts, err
		}
		times, parts = append(times, time.Since(start)), append(parts, string(buf[:n]))
	}
}

var abc = sturdytest.Stream(sturdytest.Event{Data: "a"}, sturdytest.Event{Data: "b"}, sturdytest.Event{Data: "c"})

func TestEventsComeOneByOneWhenTheyAreDue(t *testing.T) {
	for _, tc := range []struct {
		name  string
		step  sturdytest.Step
		times []time.Duration // of the parts, and of the end
		parts []string
		err   error
	}{
		{"at once", abc, ms(0, 0, 0, 0), []string{"a", "b", "c"}, io.EOF},
		{"every second", abc.Every(time.Second), ms(1000, 2000, 3000, 3000), []string{"a", "b", "c"}, io.EOF},
		{"after the headers", abc.Every(time.Second).After(time.Minute), ms(61_000, 62_000, 63_000, 63_000), []string{"a", "b", "c"}, io.EOF},
		{
			"each in its own time",
			sturdytest.Stream(sturdytest.Event{After: time.Second, Data: "a"}, sturdytest.Event{Data: "b"}, sturdytest.Event{After: time.Minute, Data: "c"}),
			ms(1000, 1000, 61_000, 61_000), []string{"a", "b", "c"}, io.EOF,
		},
		{"an empty one is a pause", sturdytest.Stream(sturdytest.Event{Data: "a"}, sturdytest.Event{After: time.Second}), ms(0, 1000), []string{"a"}, io.EOF},
		{"after Body", sturdytest.Step{Body: "first", Events: abc.Every(time.Second).Events}, ms(0, 1000, 2000, 3000, 3000), []string{"first", "a", "b", "c"}, io.EOF},
		{"the first two", abc.Every(time.Second).First(2), ms(1000, 2000, 2000), []string{"a", "b"}, io.EOF},
		{"all but the last", abc.First(-1), ms(0, 0, 0), []string{"a", "b"}, io.EOF},
		{"none", abc.First(-7), ms(0), nil, io.EOF},
		{"no more than there are", abc.First(7), ms(0, 0, 0, 0), []string{"a", "b", "c"}, io.EOF},
		{"with one more", abc.First(1).Then(sturdytest.Event{After: time.Second, Data: "x"}), ms(0, 1000, 1000), []string{"a", "x"}, io.EOF},
		{"cut short", abc.Every(time.Second).ThenCut(), ms(1000, 2000, 3000, 3000), []string{"a", "b", "c"}, io.ErrUnexpectedEOF},
		{"trickling", abc.Trickle(time.Second), ms(1000, 2000, 3000, 3000), []string{"a", "b", "c"}, io.EOF},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				times, parts, err := arrivals(t, sturdytest.Script(tc.step))
				assert.Equal(t, tc.times, times)
				assert.Equal(t, tc.parts, parts)
				assert.Equal(t, tc.err, err)
			})
		})
	}
}

// A server does not wait for who reads: what is due is there.
func TestEventsDoNotComeLaterBecauseTheyAreReadLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		resp, err := roundTrip(t, sturdytest.Script(abc.Every(time.Second)))
		require.NoError(t, err)
		defer resp.Body.Close()
		time.Sleep(2500 * time.Millisecond)
		start := time.Now()
		got, err := io.ReadAll(resp.Body)
		require.NoError(t, err)
		assert.Equal(t, "abc", string(got))
		assert.Equal(t, 500*time.Millisecond, time.Since(start))
	})
}

func TestAnEventLongerThanTheBufferIsReadInParts(t *testing.T) {
	resp, err := roundTrip(t, sturdytest.Script(sturdytest.Stream(sturdytest.Event{Data: "hello"}, sturdytest.Event{Data: "!"})))
	require.NoError(t, err)
	defer resp.Body.Close()
	var parts []string
	buf := make([]byte, 2)
	for {
		n, err := resp.Body.Read(buf)
		if err != nil {
			break
		}
		parts = append(parts, string(buf[:n]))
	}
	assert.Equal(t, []string{"he", "ll", "o", "!"}, parts)
}

func TestStreamThatStallsOrResetsDoesSoAfterItsLastEvent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancelCause(t.Context())
		cause := errors.New("enough")
		time.AfterFunc(time.Hour, func() { cancel(cause) })
		req, _ := newRequest(t, ctx, "")
		rt := sturdytest.Script(abc.Every(time.Second).ThenStall(), abc.ThenReset())
		resp, err := rt.RoundTrip(req)
		require.NoError(t, err)
		got, err := io.ReadAll(resp.Body)
		assert.Equal(t, "abc", string(got))
		assert.Equal(t, cause, err)
		require.NoError(t, resp.Body.Close())

		_, parts, err := arrivals(t, rt)
		assert.Len(t, parts, 3)
		assert.ErrorIs(t, err, syscall.ECONNRESET)
	})
}

func TestAWaitForAnEventEndsWithTheRequestAndWithClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancelCause(t.Context())
		cause := errors.New("enough")
		time.AfterFunc(1500*time.Millisecond, func() { cancel(cause) })
		req, _ := newRequest(t, ctx, "")
		rt := sturdytest.Script(abc.Every(time.Second).Times(2))
		resp, err := rt.RoundTrip(req)
		require.NoError(t, err)
		got, err := io.ReadAll(resp.Body)
		assert.Equal(t, "a", string(got))
		assert.Equal(t, cause, err)
		require.NoError(t, resp.Body.Close())

		resp, err = roundTrip(t, rt)
		require.NoError(t, err)
		time.AfterFunc(1500*time.Millisecond, func() { resp.Body.Close() })
		got, err = io.ReadAll(resp.Body)
		assert.Equal(t, "a", string(got))
		assert.EqualError(t, err, "http: read on closed response body")
	})
}

func TestEndlessStreamComesAgainInItsTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		resp, err := roundTrip(t, sturdytest.Script(abc.Every(time.Second).Endless()))
		require.NoError(t, err)
		defer resp.Body.Close()
		start := time.Now()
		got := make([]byte, 7)
		_, err = io.ReadFull(resp.Body, got)
		require.NoError(t, err)
		assert.Equal(t, "abcabca", string(got))
		assert.Equal(t, 7*time.Second, time.Since(start))
	})
}

func TestMethodsLeaveTheEventsAsTheyWere(t *testing.T) {
	first := abc.First(2)
	first.Then(sturdytest.Event{Data: "x"})
	first.Then(sturdytest.Event{Data: "y"})
	first.Every(time.Hour)
	assert.Equal(t, []sturdytest.Event{{Data: "a"}, {Data: "b"}, {Data: "c"}}, abc.Events)
	grown := abc.First(1).Then(sturdytest.Event{Data: "x"})
	grown.Then(sturdytest.Event{Data: "y"})
	assert.Equal(t, []sturdytest.Event{{Data: "a"}, {Data: "x"}}, grown.Events)
}

func TestStreamIsSentAsSuchAndSaysSo(t *testing.T) {
	resp, err := play(t, abc)
	require.NoError(t, err)
	defer resp.Body.Close()
	assert.Equal(t, http.Header{"Content-Type": {"text/event-stream"}}, resp.Header)
	assert.EqualValues(t, -1, resp.ContentLength)
	assert.Equal(t, "200 OK in 3 events then stall", abc.ThenStall().String())
}

type usage struct {
	Prompt     int `json:"prompt_tokens"`
	Completion int `json:"completion_tokens"`
	Total      int `json:"total_tokens"`
}

type completion struct {
	ID, Object, Model string
	Created           int64
	Choices           []struct {
		Message, Delta struct{ Role, Content string }
		Finish         string `json:"finish_reason"`
	}
	Usage *usage
}

const tellMe = `{"model":"gpt-4.1","messages":[]}` // 9 tokens

func TestServerAnswersWithAChatCompletionAndItsUsage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s sturdytest.Server
		post(t, &s, "")
		time.Sleep(7 * time.Second)
		_, body := post(t, &s, tellMe)
		c := into[completion](t, body)
		assert.Equal(t, "chatcmpl-2", c.ID)
		assert.Equal(t, "chat.completion", c.Object)
		assert.Equal(t, "gpt-4.1", c.Model)
		assert.Equal(t, time.Now().Unix(), c.Created)
		assert.Equal(t, "assistant", c.Choices[0].Message.Role)
		assert.Equal(t, "Hello! How can I help you today?", c.Choices[0].Message.Content)
		assert.Equal(t, "stop", c.Choices[0].Finish)
		assert.Equal(t, &usage{9, 7, 16}, c.Usage)

		_, body = post(t, &s, `{"max_tokens":3}`)
		c = into[completion](t, body)
		assert.Equal(t, "Hello! How can ", c.Choices[0].Message.Content)
		assert.Equal(t, "length", c.Choices[0].Finish)
		assert.Equal(t, &usage{4, 3, 7}, c.Usage)
	})
}

func TestServerStreamsToWhoAsksForIt(t *testing.T) {
	for _, tc := range []struct {
		name   string
		chat   sturdytest.Chat
		body   string
		text   string
		finish string
		usage  *usage
	}{
		{"plain", sturdytest.Chat{}, `{"stream":true}`, "Hello! How can I help you today?", "stop", nil},
		{"usage if asked", sturdytest.Chat{}, `{"stream":true,"stream_options":{"include_usage":true}}`, "Hello! How can I help you today?", "stop", &usage{14, 7, 21}},
		{"usage if set", sturdytest.Chat{Usage: true}, `{"stream":true}`, "Hello! How can I help you today?", "stop", &usage{4, 7, 11}},
		{"cut by max_tokens", sturdytest.Chat{Text: "to be or not", Usage: true}, `{"stream":true,"max_tokens":2}`, "to be ", "length", &usage{8, 2, 10}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			resp, body := post(t, &sturdytest.Server{Chat: tc.chat}, tc.body)
			assert.Equal(t, "text/event-stream", resp.Header.Get("Content-Type"))
			events := parse(t, body)
			last := len(events) - 1
			assert.Equal(t, sse{data: "[DONE]"}, events[last])
			var text, finish string
			for i, e := range events[:last] {
				c := into[completion](t, e.data)
				assert.Equal(t, "chat.completion.chunk", c.Object)
				if i == last-1 && tc.usage != nil {
					assert.Empty(t, c.Choices, "the usage comes alone")
					assert.Equal(t, tc.usage, c.Usage)
					continue
				}
				assert.Nil(t, c.Usage)
				assert.Equal(t, i == 0, c.Choices[0].Delta.Role == "assistant")
				assert.Empty(t, finish, "nothing comes after the finish")
				text, finish = text+c.Choices[0].Delta.Content, c.Choices[0].Finish
			}
			assert.Equal(t, tc.text, text)
			assert.Equal(t, tc.finish, finish)
		})
	}
}

func TestServerStreamsInItsTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &sturdytest.Server{Chat: sturdytest.Chat{Text: "one two", Every: time.Second}, Latency: sturdytest.Latency{Median: time.Minute}}
		start := time.Now()
		_, body := post(t, s, `{"stream":true}`)
		assert.Len(t, parse(t, body), 5) // role, two words, finish, [DONE]
		assert.Equal(t, time.Minute+5*time.Second, time.Since(start))
	})
}

func TestAStreamIsInFlightToItsEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &sturdytest.Server{Chat: sturdytest.Chat{Every: time.Second}}
		req, _ := newRequest(t, t.Context(), `{"stream":true}`)
		resp, err := s.RoundTrip(req)
		require.NoError(t, err)
		time.Sleep(time.Hour)
		assert.Equal(t, 1, s.Stats().InFlight)
		_, err = io.Copy(io.Discard, resp.Body)
		require.NoError(t, err)
		assert.Zero(t, s.Stats().InFlight)
		require.NoError(t, resp.Body.Close())
	})
}

func TestServerAnswersInAnthropicsShape(t *testing.T) {
	s := &sturdytest.Server{Headers: sturdytest.Anthropic, Chat: sturdytest.Chat{Text: "to be"}}
	_, body := post(t, s, tellMe)
	type message struct {
		ID, Type, Role, Model string
		Content               []struct{ Type, Text string }
		Stop                  string `json:"stop_reason"`
		Usage                 struct {
			Input  int `json:"input_tokens"`
			Output int `json:"output_tokens"`
		}
	}
	m := into[message](t, body)
	assert.Equal(t, "message", m.Type)
	assert.Equal(t, "gpt-4.1", m.Model)
	assert.Equal(t, "to be", m.Content[0].Text)
	assert.Equal(t, "end_turn", m.Stop)
	assert.Equal(t, 9, m.Usage.Input)
	assert.Equal(t, 2, m.Usage.Output)

	_, body = post(t, s, `{"stream":true}`)
	var names []string
	var text string
	for _, e := range parse(t, body) {
		d := into[struct {
			Type  string
			Delta struct{ Text string }
		}](t, e.data)
		assert.Equal(t, e.name, d.Type)
		names, text = append(names, e.name), text+d.Delta.Text
	}
	assert.Equal(t, []string{
		"message_start", "content_block_start", "content_block_delta", "content_block_delta", "content_block_stop", "message_delta", "message_stop",
	}, names)
	assert.Equal(t, "to be", text)
}

func TestResponseStreamHasTheEventsOfOpenAIsResponses(t *testing.T) {
	body, err := playBody(t, sturdytest.Chat{Text: "to be"}.ResponseStream())
	require.NoError(t, err)
	var names []string
	for i, e := range parse(t, body) {
		d := into[struct {
			Type     string
			Number   int `json:"sequence_number"`
			Response struct {
				Status string
				Output []struct{ Content []struct{ Text string } }
			}
		}](t, e.data)
		assert.Equal(t, e.name, d.Type)
		assert.Equal(t, i, d.Number)
		names = append(names, e.name)
		if e.name == "response.completed" {
			assert.Equal(t, "completed", d.Response.Status)
			assert.Equal(t, "to be", d.Response.Output[0].Content[0].Text)
		}
	}
	assert.Equal(t, []string{
		"response.created", "response.output_text.delta", "response.output_text.delta", "response.output_text.done", "response.completed",
	}, names)
}

func TestOllamaStreamsLinesOfJSON(t *testing.T) {
	resp, err := play(t, sturdytest.Chat{Text: "to be"}.Ollama())
	require.NoError(t, err)
	defer resp.Body.Close()
	assert.Equal(t, "application/x-ndjson", resp.Header.Get("Content-Type"))
	body, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	lines := slices.Collect(strings.Lines(string(body)))
	var text string
	for i, line := range lines {
		l := into[struct {
			Message struct{ Content string }
			Done    bool
			Eval    int `json:"eval_count"`
		}](t, line)
		text += l.Message.Content
		assert.Equal(t, i == len(lines)-1, l.Done)
		if l.Done {
			assert.Equal(t, 2, l.Eval)
		}
	}
	assert.Equal(t, "to be", text)
}

// All that goes wrong in a stream is made of its parts.
func TestStreamsGoWrongInEveryWay(t *testing.T) {
	chat := sturdytest.Chat{Text: "to be"}.Stream() // role, two words, finish, [DONE]
	broken := sturdytest.SSE("", sturdytest.RateLimited(2*time.Second).Body)
	for name, tc := range map[string]struct {
		step   sturdytest.Step
		events int
		errAt  int // of the event that is an error; -1 if there is none
		done   bool
		err    error
	}{
		"whole":              {chat, 5, -1, true, nil},
		"error at first":     {sturdytest.Stream(broken), 1, 0, false, nil},
		"error in between":   {chat.First(2).Then(broken), 3, 2, false, nil},
		"error at the end":   {chat.First(-1).Then(broken), 5, 4, false, nil},
		"cut":                {chat.First(2).ThenCut(), 2, -1, false, io.ErrUnexpectedEOF},
		"without [DONE]":     {chat.First(-1), 4, -1, false, nil},
		"error, then [DONE]": {chat.First(1).Then(broken, chat.Events[4]), 3, 1, true, nil},
	} {
		body, err := playBody(t, tc.step)
		assert.Equal(t, tc.err, err, name)
		events := parse(t, body)
		assert.Len(t, events, tc.events, name)
		assert.Equal(t, tc.done, events[len(events)-1].data == "[DONE]", name)
		assert.Equal(t, tc.errAt, slices.IndexFunc(events, func(e sse) bool { return strings.Contains(e.data, `"error":{`) }), name)
	}
}

func TestTextIsQuoted(t *testing.T) {
	const text = "\"quoted\" \\ \n\t<tag> \u2028 é"
	body, err := playBody(t, sturdytest.Chat{Text: text}.Completion())
	require.NoError(t, err)
	assert.Equal(t, text, into[completion](t, body).Choices[0].Message.Content)
	body, err = playBody(t, sturdytest.Chat{Text: text}.Stream())
	require.NoError(t, err)
	var got string
	events := parse(t, body)
	for _, e := range events[:len(events)-1] {
		got += into[completion](t, e.data).Choices[0].Delta.Content
	}
	assert.Equal(t, text, got)
}
