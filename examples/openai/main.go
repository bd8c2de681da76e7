// Openai shows the official client of OpenAI's API over sturdy:
//
//	client := openai.NewClient(
//		option.WithHTTPClient(&http.Client{Transport: &sturdy.Transport{
//			Retry: sturdy.Retry{IdempotencyKey: true},
//		}}),
//		option.WithMaxRetries(0),
//	)
//
// It starts a server on this machine that is overloaded twice, then answers,
// then streams, and then has no credit left. What goes over the wire is printed
// to the right.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"sync/atomic"

	"github.com/openai/openai-go/v3"
	"github.com/openai/openai-go/v3/option"

	"github.com/sturdyhttp/sturdy"
	"github.com/sturdyhttp/sturdy/sturdytest"
)

func main() {
	api := &sturdytest.Server{Reply: inTurn(
		sturdytest.Overloaded(), sturdytest.Overloaded(), sturdytest.Chat{}.Completion(),
		sturdytest.Chat{}.Stream(),
		sturdytest.QuotaExceeded(),
	)}
	server := httptest.NewServer(shown(api))
	err := talk(context.Background(), newClient(server.URL), os.Stdout)
	server.Close()
	if err != nil {
		fmt.Fprintln(os.Stderr, "openai:", err)
		os.Exit(1)
	}
}

// newClient returns the official client, with sturdy in charge of all retries.
func newClient(url string) openai.Client {
	return openai.NewClient(
		option.WithBaseURL(url+"/v1"),
		option.WithAPIKey("sk-example"),
		option.WithHTTPClient(&http.Client{Transport: &sturdy.Transport{
			Retry: sturdy.Retry{IdempotencyKey: true}, // a POST whose connection broke is sent again, as the SDK does
		}}),
		option.WithMaxRetries(0),
	)
}

// talk makes three calls: one that succeeds in the end, a stream, and one that
// cannot succeed.
func talk(ctx context.Context, client openai.Client, w io.Writer) error {
	question := openai.ChatCompletionNewParams{
		Model:    openai.ChatModelGPT5_4Mini,
		Messages: []openai.ChatCompletionMessageParamUnion{openai.UserMessage("Hello?")},
	}
	answer, err := client.Chat.Completions.New(ctx, question)
	if err != nil {
		return err
	}
	fmt.Fprintln(w, "answer:", answer.Choices[0].Message.Content)

	stream := client.Chat.Completions.NewStreaming(ctx, question)
	fmt.Fprint(w, "stream: ")
	for stream.Next() {
		for _, choice := range stream.Current().Choices {
			fmt.Fprint(w, choice.Delta.Content)
		}
	}
	fmt.Fprintln(w)
	if err := stream.Err(); err != nil {
		return err
	}

	_, err = client.Chat.Completions.New(ctx, question)
	var e *openai.Error
	if !errors.As(err, &e) {
		return fmt.Errorf("neither an answer nor an *openai.Error: %w", err)
	}
	fmt.Fprintln(w, "error: ", e.StatusCode, e.Code)
	// The SDK keeps the response, and sturdy knows it again.
	if known := sturdy.Classify(e.Response, nil); known != nil {
		fmt.Fprintln(w, "remedy:", known.Advice("en").Remedy)
	}
	return nil
}

// inTurn answers each request with the next step, and what follows with the
// last one.
func inTurn(steps ...sturdytest.Step) func(*http.Request) sturdytest.Step {
	var n atomic.Int64
	return func(*http.Request) sturdytest.Step {
		return steps[min(int(n.Add(1)), len(steps))-1]
	}
}

// shown is h, with a line for each request.
func shown(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Printf("%50s %s %s\n", "", r.Method, r.URL.Path)
		h.ServeHTTP(w, r)
	})
}
