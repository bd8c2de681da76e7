package main

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
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

const (
	patience = 200 * time.Millisecond // after which a bare SDK is taken to hang
	silence  = 500 * time.Millisecond // after which sturdy gives up a stream that stalls
	atLast   = time.Minute            // after which a test has failed, and sturdy gives up any other
)

// serve starts a server of one version of HTTP that gives the replies in turn,
// the last one for ever.
func serve(t *testing.T, version int, replies ...sturdytest.Step) (server *httptest.Server, requests *atomic.Int32) {
	t.Helper()
	requests = new(atomic.Int32)
	server = httptest.NewUnstartedServer(&sturdytest.Server{Reply: func(r *http.Request) sturdytest.Step {
		if r.ProtoMajor != version {
			t.Errorf("the request came over %s", r.Proto)
		}
		return replies[min(int(requests.Add(1)), len(replies))-1]
	}})
	if server.EnableHTTP2 = version == 2; version == 2 {
		server.StartTLS()
	} else {
		server.Start()
	}
	t.Cleanup(server.Close)
	return server, requests
}

func overBoth(t *testing.T, test func(t *testing.T, version int)) {
	for _, version := range []int{1, 2} {
		t.Run(fmt.Sprintf("HTTP-%d", version), func(t *testing.T) {
			t.Parallel()
			test(t, version)
		})
	}
}

// What goes wrong after the 200, and what class it must have. By themselves the
// SDKs take it for a success, or hang.
func TestEveryFaultThatAnSDKMissesIsAnErrorWithSturdy(t *testing.T) {
	for _, s := range sdks {
		for _, f := range s.faults {
			t.Run(s.name+", the stream "+f.name, func(t *testing.T) {
				t.Parallel()
				overBoth(t, func(t *testing.T, version int) {
					bare, want := "success", sturdy.ErrConnection
					switch word, _, _ := strings.Cut(f.name, " "); word {
					case "stalls":
						bare, want = "hangs", sturdy.ErrTimeout
					case "fails":
						want = sturdy.ErrInternalServer
					}
					server, _ := serve(t, version, f.reply)

					wait, idle := atLast, atLast
					if bare == "hangs" {
						wait, idle = patience, silence
					}
					ctx, cancel := context.WithTimeout(t.Context(), wait)
					defer cancel()
					assert.Equal(t, bare, outcome(s.read(ctx, server.Client(), server.URL)), "without sturdy")

					ctx, cancel = context.WithTimeout(t.Context(), atLast)
					defer cancel()
					err := s.read(ctx, withSturdy(server.Client().Transport, idle), server.URL)
					var e *sturdy.Error
					require.ErrorAs(t, err, &e)
					assert.Equal(t, want, e.Class)
				})
			})
		}
	}
}

func TestAStreamThatFailsBeforeItsContentIsSentAgainAndTheSDKSeesASuccess(t *testing.T) {
	for _, s := range sdks {
		t.Run(s.name, func(t *testing.T) {
			overBoth(t, func(t *testing.T, version int) {
				failing := s.faults[2]
				require.Equal(t, "fails at first", failing.name)
				whole := sturdytest.Chat{}.Stream()
				if strings.HasSuffix(s.name, "responses") {
					whole = sturdytest.Chat{}.ResponseStream()
				}
				server, requests := serve(t, version, failing.reply, whole)
				ctx, cancel := context.WithTimeout(t.Context(), atLast)
				defer cancel()
				require.NoError(t, s.read(ctx, withSturdy(server.Client().Transport, atLast), server.URL))
				assert.EqualValues(t, 2, requests.Load())
			})
		})
	}
}

// An error that the SDK knows by its shape ends its loop before another Read.
func TestAnErrorThatTheSDKKnowsRemainsTheSDKs(t *testing.T) {
	overBoth(t, func(t *testing.T, version int) {
		for _, s := range []sdk{sdks[0], sdks[2]} {
			reply := sturdytest.Chat{}.Stream().First(4).Then(sturdytest.SSE("", sturdytest.Status(500).Body))
			server, requests := serve(t, version, reply)
			ctx, cancel := context.WithTimeout(t.Context(), atLast)
			defer cancel()
			bare := s.read(ctx, server.Client(), server.URL)
			require.Error(t, bare)
			err := s.read(ctx, withSturdy(server.Client().Transport, atLast), server.URL)
			assert.EqualError(t, err, bare.Error())
			var e *sturdy.Error
			assert.NotErrorAs(t, err, &e)
			assert.EqualValues(t, 2, requests.Load(), "content is not sent again")
		}
	})
}

func TestAChatArrivesChunkByChunk(t *testing.T) {
	overBoth(t, func(t *testing.T, version int) {
		whole := sturdytest.Chat{Text: "one two three four"}.Stream()
		server, _ := serve(t, version, whole.First(len(whole.Events)/2).ThenStall())
		client := openai.NewClient(option.WithHTTPClient(withSturdy(server.Client().Transport, atLast)),
			option.WithMaxRetries(0), option.WithBaseURL(server.URL), option.WithAPIKey("none"))
		ctx, cancel := context.WithTimeout(t.Context(), atLast)
		defer cancel()
		stream := client.Chat.Completions.NewStreaming(ctx, openai.ChatCompletionNewParams{
			Model: "m", Messages: []openai.ChatCompletionMessageParamUnion{openai.UserMessage("Count!")},
		})
		defer stream.Close()
		var text strings.Builder
		for !strings.HasPrefix(text.String(), "one two") && stream.Next() {
			if choices := stream.Current().Choices; len(choices) > 0 {
				text.WriteString(choices[0].Delta.Content)
			}
		}
		require.NoError(t, stream.Err())
		assert.Equal(t, "one two", strings.TrimSpace(text.String()), "the first words did not wait for the last, which never come")
	})
}

func TestAWholeBodyThatIsAnErrorIsKnownToCheck(t *testing.T) {
	overBoth(t, func(t *testing.T, version int) {
		server, _ := serve(t, version, sturdytest.OK(`{"error":{"message":"No provider is there.","code":402}}`))
		var checked error
		httpClient := withSturdy(server.Client().Transport, atLast)
		client := openai.NewClient(option.WithHTTPClient(httpClient), option.WithMaxRetries(0), option.WithBaseURL(server.URL), option.WithAPIKey("none"),
			option.WithMiddleware(func(req *http.Request, next option.MiddlewareNext) (*http.Response, error) {
				resp, err := next(req)
				checked = sturdy.Check(resp, err)
				return resp, err
			}))
		_, err := client.Chat.Completions.New(t.Context(), openai.ChatCompletionNewParams{
			Model: "m", Messages: []openai.ChatCompletionMessageParamUnion{openai.UserMessage("Hello!")},
		})
		require.NoError(t, err, "the SDK does not look")
		assert.ErrorIs(t, checked, sturdy.ErrQuotaExceeded)
	})
}
