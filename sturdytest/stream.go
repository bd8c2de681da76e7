package sturdytest

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"
)

// An Event is a part of a response's body that comes at once: mostly an event
// of a text/event-stream, but any bytes will do.
type Event struct {
	After time.Duration // since the event before it, or since the response's headers
	Data  string
}

// SSE returns an event of a text/event-stream. Without a name it has no event
// field, as with OpenAI's chat completions.
func SSE(name, data string) Event {
	if name == "" {
		return Event{Data: "data: " + data + "\n\n"}
	}
	return Event{Data: "event: " + name + "\ndata: " + data + "\n\n"}
}

// Stream returns a step that answers 200 with a text/event-stream. How it ends
// is told as with any body: [Step.ThenStall], [Step.ThenCut], [Step.ThenReset].
func Stream(events ...Event) Step {
	s := Step{Status: 200, Events: events}
	return s.With("Content-Type", "text/event-stream")
}

// Every returns s with each of its events coming d after the one before it.
func (s Step) Every(d time.Duration) Step {
	s.Events = slices.Clone(s.Events) // s shares them with the step it is a copy of
	for i := range s.Events {
		s.Events[i].After = d
	}
	return s
}

// First returns s with its first n events only, or, if n is negative, without
// its last -n: a chat completion's First(-1) lacks its [DONE].
func (s Step) First(n int) Step {
	if n < 0 {
		n += len(s.Events)
	}
	n = min(max(n, 0), len(s.Events))
	s.Events = s.Events[:n]
	return s
}

// Then returns s with more events after its own.
func (s Step) Then(events ...Event) Step {
	s.Events = append(slices.Clip(s.Events), events...)
	return s
}

// A Chat is what a model answers. Its methods put it into the shapes that APIs
// have for it. A stream has an event for each word.
//
//	sturdytest.Chat{}.Stream().Every(50 * time.Millisecond)
//	sturdytest.Chat{}.Stream().First(3).ThenCut()
//	sturdytest.Chat{}.Stream().First(3).Then(sturdytest.SSE("", sturdytest.Status(500).Body))
type Chat struct {
	Text  string        // empty means a greeting
	Usage bool          // tell the usage in a stream of chat completions, also if the request does not ask for it
	Every time.Duration // between the events of a stream; zero means that they come at once

	call *call // that it answers; nil means none
}

// Completion returns a step with OpenAI's chat completion.
func (c Chat) Completion() Step {
	a := c.answer()
	return jsonStep(200, fmt.Sprintf(`{"id":%q,"object":"chat.completion","created":%d,"model":%s,`+
		`"choices":[{"index":0,"message":{"role":"assistant","content":%s,"refusal":null},"logprobs":null,"finish_reason":%q}],%s}`,
		a.id("chatcmpl-"), a.created(), quote(a.modelName()), quote(strings.Join(a.words, "")), a.finish("stop", "length"), a.usage()))
}

// Stream returns a step with OpenAI's chat completion as a stream, that ends
// with [DONE].
func (c Chat) Stream() Step {
	a := c.answer()
	chunk := func(choices, usage string) Event {
		return SSE("", fmt.Sprintf(`{"id":%q,"object":"chat.completion.chunk","created":%d,"model":%s,"choices":[%s]%s}`,
			a.id("chatcmpl-"), a.created(), quote(a.modelName()), choices, usage))
	}
	delta := func(delta, finish string) Event {
		return chunk(fmt.Sprintf(`{"index":0,"delta":{%s},"finish_reason":%s}`, delta, finish), "")
	}
	events := []Event{delta(`"role":"assistant","content":""`, "null")}
	for _, w := range a.words {
		events = append(events, delta(`"content":`+quote(w), "null"))
	}
	events = append(events, delta("", quote(a.finish("stop", "length"))))
	if c.Usage {
		events = append(events, chunk("", ","+a.usage()))
	}
	return Stream(append(events, SSE("", "[DONE]"))...).Every(c.Every)
}

// Message returns a step with a message of Anthropic.
func (c Chat) Message() Step {
	a := c.answer()
	return jsonStep(200, fmt.Sprintf(`{"id":%q,"type":"message","role":"assistant","model":%s,"content":[{"type":"text","text":%s}],`+
		`"stop_reason":%q,"stop_sequence":null,"usage":{"input_tokens":%d,"output_tokens":%d}}`,
		a.id("msg_"), quote(a.modelName()), quote(strings.Join(a.words, "")), a.finish("end_turn", "max_tokens"), a.input, len(a.words)))
}

// MessageStream returns a step with a message of Anthropic as a stream, that
// ends with message_stop.
func (c Chat) MessageStream() Step {
	a := c.answer()
	var events []Event
	add := func(name, rest string) {
		events = append(events, SSE(name, fmt.Sprintf(`{"type":%q%s}`, name, rest)))
	}
	add("message_start", fmt.Sprintf(`,"message":{"id":%q,"type":"message","role":"assistant","model":%s,"content":[],`+
		`"stop_reason":null,"stop_sequence":null,"usage":{"input_tokens":%d,"output_tokens":1}}`, a.id("msg_"), quote(a.modelName()), a.input))
	add("content_block_start", `,"index":0,"content_block":{"type":"text","text":""}`)
	for _, w := range a.words {
		add("content_block_delta", `,"index":0,"delta":{"type":"text_delta","text":`+quote(w)+`}`)
	}
	add("content_block_stop", `,"index":0`)
	add("message_delta", fmt.Sprintf(`,"delta":{"stop_reason":%q,"stop_sequence":null},"usage":{"output_tokens":%d}`,
		a.finish("end_turn", "max_tokens"), len(a.words)))
	add("message_stop", "")
	return Stream(events...).Every(c.Every)
}

// ResponseStream returns a step with a stream of OpenAI's Responses API, that
// ends with response.completed.
func (c Chat) ResponseStream() Step {
	a := c.answer()
	var events []Event
	add := func(name, rest string) {
		events = append(events, SSE(name, fmt.Sprintf(`{"type":%q,"sequence_number":%d,%s}`, name, len(events), rest)))
	}
	response := func(status, output, usage string) string {
		return fmt.Sprintf(`"response":{"id":%q,"object":"response","created_at":%d,"status":%q,"error":null,"model":%s,"output":[%s],"usage":%s}`,
			a.id("resp_"), a.created(), status, quote(a.modelName()), output, usage)
	}
	at := fmt.Sprintf(`"item_id":%q,"output_index":0,"content_index":0`, a.id("msg_"))
	text := quote(strings.Join(a.words, ""))

	add("response.created", response("in_progress", "", "null"))
	for _, w := range a.words {
		add("response.output_text.delta", at+`,"delta":`+quote(w))
	}
	add("response.output_text.done", at+`,"text":`+text)
	add("response.completed", response("completed",
		fmt.Sprintf(`{"id":%q,"type":"message","status":"completed","role":"assistant","content":[{"type":"output_text","text":%s,"annotations":[]}]}`, a.id("msg_"), text),
		fmt.Sprintf(`{"input_tokens":%d,"output_tokens":%d,"total_tokens":%d}`, a.input, len(a.words), a.input+len(a.words))))
	return Stream(events...).Every(c.Every)
}

// Ollama returns a step with a chat of Ollama: lines of JSON, the last of
// which has "done": true.
func (c Chat) Ollama() Step {
	a := c.answer()
	line := func(text, done string) Event {
		return Event{Data: fmt.Sprintf(`{"model":%s,"created_at":%q,"message":{"role":"assistant","content":%s},%s}`+"\n",
			quote(a.modelName()), a.time.UTC().Format(time.RFC3339Nano), quote(text), done)}
	}
	events := make([]Event, 0, len(a.words)+1)
	for _, w := range a.words {
		events = append(events, line(w, `"done":false`))
	}
	events = append(events, line("", fmt.Sprintf(`"done":true,"done_reason":%q,"prompt_eval_count":%d,"eval_count":%d`,
		a.finish("stop", "length"), a.input, len(a.words))))
	s := Step{Status: 200, Events: events}
	return s.With("Content-Type", "application/x-ndjson").Every(c.Every)
}

// An answered is a call and the words of its answer.
type answered struct {
	*call
	words []string
	cut   bool // there were more, and no tokens for them
}

// answer returns the words of the answer: a token each, and no more of them
// than the call allows.
func (c Chat) answer() answered {
	a := answered{call: c.call, words: strings.SplitAfter(cmp.Or(c.Text, "Hello! How can I help you today?"), " ")}
	if a.call == nil {
		a.call = &call{number: 1}
	}
	if a.cut = a.limit > 0 && a.limit < len(a.words); a.cut {
		a.words = a.words[:a.limit]
	}
	return a
}

// finish returns why the answer ended, in an API's words.
func (a answered) finish(stop, length string) string {
	if a.cut {
		return length
	}
	return stop
}

// usage returns the usage of a chat completion.
func (a answered) usage() string {
	return fmt.Sprintf(`"usage":{"prompt_tokens":%d,"completion_tokens":%d,"total_tokens":%d}`,
		a.input, len(a.words), a.input+len(a.words))
}

func (a answered) created() int64 { return max(a.time.Unix(), 0) }
