// Command streams shows what two SDKs make of streams that fail after their
// 200, by themselves and with sturdy below them. It needs no key: the server is
// on loopback.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"text/tabwriter"
	"time"

	"github.com/openai/openai-go/v3"
	"github.com/openai/openai-go/v3/option"
	"github.com/openai/openai-go/v3/responses"
	sashabaranov "github.com/sashabaranov/go-openai"

	"github.com/sturdyhttp/sturdy"
	"github.com/sturdyhttp/sturdy/sturdytest"
)

// A fault is what a server's stream does.
type fault struct {
	name  string
	reply sturdytest.Step
}

// faults makes them of a whole stream, in which content are the first events
// with content and those before it: at first, in the middle, and before the end.
func faults(whole sturdytest.Step, content int, failure sturdytest.Event) (all []fault) {
	for _, at := range []struct {
		name string
		n    int
	}{{"at first", 0}, {"in the middle", content}, {"at the end", -1}} {
		begin := whole.First(at.n)
		all = append(all,
			fault{"stalls " + at.name, begin.ThenStall()},
			fault{"is cut " + at.name, begin},
			fault{"fails " + at.name, begin.Then(failure).Then(whole.Events[len(whole.Events)-1])})
	}
	return all
}

// An SDK reads a stream to its end.
type sdk struct {
	name   string
	faults []fault
	read   func(context.Context, *http.Client, string) error
}

var sdks = []sdk{
	{
		"openai-go, chat",
		faults(sturdytest.Chat{}.Stream(), 4, sturdytest.SSE("error", `{"type":"error","code":"server_error","message":"The model failed."}`)),
		func(ctx context.Context, c *http.Client, url string) error {
			client := openai.NewClient(option.WithHTTPClient(c), option.WithMaxRetries(0), option.WithBaseURL(url), option.WithAPIKey("none"))
			stream := client.Chat.Completions.NewStreaming(ctx, openai.ChatCompletionNewParams{
				Model: "m", Messages: []openai.ChatCompletionMessageParamUnion{openai.UserMessage("Hello!")},
			})
			defer stream.Close()
			for stream.Next() {
			}
			return stream.Err()
		},
	},
	{
		"openai-go, responses",
		faults(sturdytest.Chat{}.ResponseStream(), 4, sturdytest.SSE("response.failed",
			`{"type":"response.failed","response":{"status":"failed","error":{"code":"server_error","message":"The model failed."}}}`)),
		func(ctx context.Context, c *http.Client, url string) error {
			client := openai.NewClient(option.WithHTTPClient(c), option.WithMaxRetries(0), option.WithBaseURL(url), option.WithAPIKey("none"))
			stream := client.Responses.NewStreaming(ctx, responses.ResponseNewParams{
				Model: "m", Input: responses.ResponseNewParamsInputUnion{OfString: openai.String("Hello!")},
			})
			defer stream.Close()
			for stream.Next() {
			}
			return stream.Err()
		},
	},
	{
		"go-openai, chat",
		faults(sturdytest.Chat{}.Stream(), 4, sturdytest.SSE("",
			`{"object":"chat.completion.chunk","choices":[],"error":{"code":502,"message":"The model failed."}}`)),
		func(ctx context.Context, c *http.Client, url string) error {
			config := sashabaranov.DefaultConfig("none")
			config.HTTPClient, config.BaseURL = c, url
			stream, err := sashabaranov.NewClientWithConfig(config).CreateChatCompletionStream(ctx, sashabaranov.ChatCompletionRequest{
				Model: "m", Messages: []sashabaranov.ChatCompletionMessage{{Role: "user", Content: "Hello!"}},
			})
			if err != nil {
				return err
			}
			defer stream.Close()
			for {
				if _, err := stream.Recv(); errors.Is(err, io.EOF) {
					return nil
				} else if err != nil {
					return err
				}
			}
		},
	},
}

// withSturdy is a client for streams: Stream below the other layers, which learn
// of its errors, and a bound for silence.
func withSturdy(base http.RoundTripper, silence time.Duration) *http.Client {
	return &http.Client{Transport: &sturdy.Transport{
		Base:    &sturdy.Stream{Base: base},
		Timeout: sturdy.Timeout{Header: silence, Idle: silence},
		Breaker: sturdy.Breaker{Failures: -1}, // or the failures here would open it
		Retry:   sturdy.Retry{Attempts: 2, MinDelay: time.Millisecond},
	}}
}

func main() {
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	defer w.Flush()
	for _, s := range sdks {
		fmt.Fprintf(w, "%s: the stream\tby itself\twith sturdy\n", s.name)
		for _, f := range s.faults {
			server := httptest.NewServer(&sturdytest.Server{Reply: func(*http.Request) sturdytest.Step { return f.reply }})
			read := func(c *http.Client) string {
				ctx, cancel := context.WithTimeout(context.Background(), time.Second)
				defer cancel()
				return outcome(s.read(ctx, c, server.URL))
			}
			fmt.Fprintf(w, "  %s\t%s\t%s\n", f.name, read(server.Client()), read(withSturdy(server.Client().Transport, 300*time.Millisecond)))
			server.Close()
		}
	}
}

// outcome is a few words for what an SDK returned.
func outcome(err error) string {
	var e *sturdy.Error
	switch {
	case err == nil:
		return "success"
	case errors.As(err, &e):
		return e.Class.String() + " error of sturdy"
	case errors.Is(err, context.DeadlineExceeded):
		return "hangs"
	}
	return fmt.Sprintf("%T", err)
}
