package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/openai/openai-go/v3"
	"github.com/openai/openai-go/v3/option"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/sturdyhttp/sturdy"
	"github.com/sturdyhttp/sturdy/sturdytest"
)

// A wire is a server on loopback that counts the requests that reach it.
type wire struct {
	url      string
	requests atomic.Int32
}

func serve(t *testing.T, reply func(*http.Request) sturdytest.Step) *wire {
	t.Helper()
	var w wire
	api := &sturdytest.Server{Reply: reply}
	server := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		w.requests.Add(1)
		api.ServeHTTP(rw, r)
	}))
	t.Cleanup(server.Close)
	w.url = server.URL
	return &w
}

// client returns the SDK over sturdy, with delays short enough for a test.
func (w *wire) client(t *testing.T, tr *sturdy.Transport, options ...option.RequestOption) openai.Client {
	t.Helper()
	base := &http.Transport{}
	t.Cleanup(base.CloseIdleConnections)
	tr.Base = base
	tr.Retry.MinDelay = time.Millisecond
	return openai.NewClient(append([]option.RequestOption{
		option.WithBaseURL(w.url + "/v1"),
		option.WithAPIKey("sk-example"),
		option.WithHTTPClient(&http.Client{Transport: tr}),
		option.WithMaxRetryDelay(time.Millisecond),
	}, options...)...)
}

var once = option.WithMaxRetries(0)

func hello() openai.ChatCompletionNewParams {
	return openai.ChatCompletionNewParams{
		Model:    openai.ChatModelGPT5_4Mini,
		Messages: []openai.ChatCompletionMessageParamUnion{openai.UserMessage("Hello?")},
	}
}

func TestTheProgramDoesWhatItSays(t *testing.T) {
	w := serve(t, inTurn(
		sturdytest.Overloaded(), sturdytest.Overloaded(), sturdytest.Chat{}.Completion(),
		sturdytest.Chat{}.Stream(), sturdytest.QuotaExceeded(),
	))
	var out strings.Builder
	require.NoError(t, talk(t.Context(), newClient(w.url), &out))
	assert.EqualValues(t, 5, w.requests.Load())
	for _, want := range []string{"answer: Hello!", "stream: Hello!", "error:  429 insufficient_quota", "remedy: Buy credits"} {
		assert.Contains(t, out.String(), want)
	}
}

func TestTwoFailuresAndAnAnswerAreOneSuccessToTheSDK(t *testing.T) {
	w := serve(t, inTurn(sturdytest.Overloaded(), sturdytest.Overloaded(), sturdytest.Chat{Text: "fine"}.Completion()))
	client := w.client(t, &sturdy.Transport{}, once)
	answer, err := client.Chat.Completions.New(t.Context(), hello())
	require.NoError(t, err)
	assert.Equal(t, "fine", answer.Choices[0].Message.Content)
	assert.EqualValues(t, 3, w.requests.Load())
}

func TestWithoutCreditOneRequestIsSent(t *testing.T) {
	for name, options := range map[string][]option.RequestOption{"WithMaxRetries(0)": {once}, "the SDK's own retries": nil} {
		t.Run(name, func(t *testing.T) {
			w := serve(t, inTurn(sturdytest.QuotaExceeded()))
			client := w.client(t, &sturdy.Transport{}, options...)
			_, err := client.Chat.Completions.New(t.Context(), hello())
			var e *openai.Error
			require.ErrorAs(t, err, &e)
			assert.Equal(t, "insufficient_quota", e.Code)
			assert.ErrorIs(t, sturdy.Check(e.Response, nil), sturdy.ErrQuotaExceeded)
			assert.EqualValues(t, 1, w.requests.Load())
		})
	}
}

func TestAStreamArrivesChunkByChunk(t *testing.T) {
	whole := sturdytest.Chat{Text: "one two three four"}.Stream()
	w := serve(t, inTurn(whole.First(len(whole.Events)/2).ThenStall()))
	client := w.client(t, &sturdy.Transport{Timeout: sturdy.Timeout{Header: time.Minute}}, once)
	stream := client.Chat.Completions.NewStreaming(t.Context(), hello())
	defer stream.Close()
	var text strings.Builder
	for !strings.HasPrefix(text.String(), "one two") && stream.Next() {
		for _, choice := range stream.Current().Choices {
			text.WriteString(choice.Delta.Content)
		}
	}
	require.NoError(t, stream.Err())
	assert.Equal(t, "one two", strings.TrimSpace(text.String()), "the first words did not wait for the last, which never come")
	assert.EqualValues(t, 1, w.requests.Load())
}

func TestAfterTheLastAttemptTheErrorIsTheSDKs(t *testing.T) {
	w := serve(t, inTurn(sturdytest.Overloaded()))
	client := w.client(t, &sturdy.Transport{}, once)
	_, err := client.Chat.Completions.New(t.Context(), hello())
	var e *openai.Error
	require.ErrorAs(t, err, &e)
	assert.Equal(t, 503, e.StatusCode)
	assert.Equal(t, "server_is_overloaded", e.Code)
	assert.NotEmpty(t, e.Message)
	require.ErrorIs(t, sturdy.Check(e.Response, nil), sturdy.ErrOverloaded)
	assert.EqualValues(t, 5, w.requests.Load())
}

func TestTheSDKsOwnRetriesAddNothingToAnAnswer(t *testing.T) {
	for name, step := range map[string]sturdytest.Step{
		"overloaded":           sturdytest.Overloaded(),
		"500":                  sturdytest.Status(500),
		"501":                  sturdytest.Status(501),
		"conflict":             sturdytest.Status(409),
		"timeout":              sturdytest.Status(408),
		"no credit":            sturdytest.QuotaExceeded(),
		"a limit of an hour":   sturdytest.RateLimited(time.Hour),
		"a limit":              sturdytest.RateLimited(20 * time.Millisecond),
		"what the server says": sturdytest.Status(400).With("X-Should-Retry", "true"),
		"bad request":          sturdytest.Status(400),
		"wrong key":            sturdytest.Status(401),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			sent := func(options ...option.RequestOption) int32 {
				w := serve(t, inTurn(step))
				// A pace learned from refusals would take half a minute.
				client := w.client(t, &sturdy.Transport{RateLimit: sturdy.RateLimit{Fixed: true}}, options...)
				_, err := client.Chat.Completions.New(t.Context(), hello())
				var e *openai.Error
				require.ErrorAs(t, err, &e)
				assert.Equal(t, step.Status, e.StatusCode)
				return w.requests.Load()
			}
			off, on := sent(once), sent()
			assert.Equal(t, off, on)
		})
	}
}

// Where no answer came there is nothing to put a header on. The SDK says which
// of its requests are retries, and these are sent once.
func TestACallWithoutAnAnswerIsRepeatedByBothButNotMultiplied(t *testing.T) {
	sent := func(options ...option.RequestOption) int32 {
		w := serve(t, inTurn(sturdytest.ConnReset()))
		client := w.client(t, &sturdy.Transport{Retry: sturdy.Retry{ReplayUnsafe: true}}, options...)
		_, err := client.Chat.Completions.New(t.Context(), hello())
		require.Equal(t, sturdy.ErrConnection, sturdy.ClassOf(err))
		return w.requests.Load()
	}
	assert.EqualValues(t, 5, sent(once))
	assert.EqualValues(t, 5+2, sent(), "not 5*3")
}

func TestWithRetryReachesACallThroughTheSDK(t *testing.T) {
	w := serve(t, inTurn(sturdytest.Overloaded()))
	client := w.client(t, &sturdy.Transport{}) // with the SDK's own retries
	ctx := sturdy.WithRetry(t.Context(), &sturdy.Retry{Attempts: 1})
	_, err := client.Chat.Completions.New(ctx, hello())
	require.Error(t, err)
	assert.EqualValues(t, 1, w.requests.Load())
}

func TestTheCallersEndOfACallKeepsItsIdentityThroughTheSDK(t *testing.T) {
	left := errors.New("the user left")
	ctx, cancel := context.WithCancelCause(t.Context())
	w := serve(t, func(*http.Request) sturdytest.Step {
		cancel(left)
		return sturdytest.RateLimited(time.Hour)
	})
	client := w.client(t, &sturdy.Transport{Retry: sturdy.Retry{MaxRetryAfter: 2 * time.Hour}}, once)
	_, err := client.Chat.Completions.New(ctx, hello())
	require.ErrorIs(t, err, context.Canceled)
	assert.EqualValues(t, 1, w.requests.Load())
}

func TestManyCallsAtOnceGetTheirOwnAnswers(t *testing.T) {
	const calls = 100
	var met sync.Map
	w := serve(t, func(r *http.Request) sturdytest.Step {
		var body struct{ Messages []struct{ Content string } }
		assert.NoError(t, json.NewDecoder(r.Body).Decode(&body))
		question := body.Messages[0].Content
		if _, again := met.LoadOrStore(question, true); !again && strings.HasSuffix(question, "7") {
			return sturdytest.Overloaded()
		}
		return sturdytest.Chat{Text: "answer to " + question}.Completion()
	})
	client := w.client(t, &sturdy.Transport{}, once)
	var wg sync.WaitGroup
	for i := range calls {
		wg.Go(func() {
			question := fmt.Sprint("question ", i)
			answer, err := client.Chat.Completions.New(t.Context(), openai.ChatCompletionNewParams{
				Model:    openai.ChatModelGPT5_4Mini,
				Messages: []openai.ChatCompletionMessageParamUnion{openai.UserMessage(question)},
			})
			if assert.NoError(t, err) {
				assert.Equal(t, "answer to "+question, answer.Choices[0].Message.Content)
			}
		})
	}
	wg.Wait()
	assert.EqualValues(t, calls+calls/10, w.requests.Load())
}

func TestWhatSturdyRefusesTheSDKAsksForInVain(t *testing.T) {
	w := serve(t, inTurn(sturdytest.Status(500)))
	var refused atomic.Int32
	refusals := func(_ context.Context, ev sturdy.Event) {
		if ev.Kind == sturdy.EventRefuse {
			refused.Add(1)
		}
	}
	tr := &sturdy.Transport{Breaker: sturdy.Breaker{Failures: 1, OpenFor: time.Hour, MaxOpen: time.Hour}, Observe: refusals}
	client := w.client(t, tr)
	_, err := client.Chat.Completions.New(t.Context(), hello())
	require.Error(t, err)
	assert.EqualValues(t, 1, w.requests.Load(), "this opens the circuit")

	refused.Store(0)
	_, err = client.Chat.Completions.New(t.Context(), hello())
	require.ErrorIs(t, err, sturdy.ErrCircuitOpen)
	assert.EqualValues(t, 3, refused.Load())
	_, err = client.Chat.Completions.New(t.Context(), hello(), once)
	require.ErrorIs(t, err, sturdy.ErrCircuitOpen)
	assert.EqualValues(t, 3+1, refused.Load())
	assert.EqualValues(t, 1, w.requests.Load())
}

// With the recipe of README, and with the SDK alone, a call comes home whose
// connection broke twice. Without a key sturdy does not send a POST again that may
// have been acted on.
func TestTheRecipeBringsHomeWhatTheSDKAloneDoes(t *testing.T) {
	var broken atomic.Int32
	var api http.Handler = &sturdytest.Server{Reply: inTurn(sturdytest.Chat{}.Completion())}
	server := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if broken.Add(1) <= 2 {
			_, _ = io.Copy(io.Discard, r.Body)
			panic(http.ErrAbortHandler)
		}
		api.ServeHTTP(rw, r)
	}))
	t.Cleanup(server.Close)
	for name, row := range map[string]struct {
		client openai.Client
		home   bool
	}{
		"the recipe":    {newClient(server.URL), true},
		"without a key": {(&wire{url: server.URL}).client(t, &sturdy.Transport{}, once), false},
		"the SDK alone": {openai.NewClient(option.WithBaseURL(server.URL+"/v1"), option.WithAPIKey("sk-example"), option.WithMaxRetryDelay(time.Millisecond)), true},
	} {
		broken.Store(0)
		_, err := row.client.Chat.Completions.New(t.Context(), hello())
		assert.Equal(t, row.home, err == nil, "%s: %v", name, err)
	}
}
