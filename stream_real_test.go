package sturdy_test

import (
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/sturdyhttp/sturdy"
	"github.com/sturdyhttp/sturdy/sturdytest"
)

// streaming answers with a step's events, each flushed, and then does what end
// says.
func streaming(step sturdytest.Step, end http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.Header().Set("Content-Type", step.Header.Get("Content-Type"))
		for _, ev := range step.Events {
			_, _ = io.WriteString(w, ev.Data)
			_ = http.NewResponseController(w).Flush()
		}
		if end != nil {
			end(w, r)
		}
	}
}

func aborting(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }

func TestAStreamThatStallsCostsItsConnectionAndNoMore(t *testing.T) {
	overBoth(t, func(t *testing.T, p protocol) {
		synctest.Test(t, func(t *testing.T) {
			gone := make(chan struct{})
			s := p.serveInBubble(t, streaming(sturdytest.Chat{}.Stream().First(3), func(w http.ResponseWriter, r *http.Request) {
				<-r.Context().Done()
				close(gone)
			}))
			client := &http.Client{Transport: &sturdy.Transport{Base: &sturdy.Stream{Base: s.base}, Timeout: sturdy.Timeout{Idle: time.Minute}}}
			resp, err := client.Do(s.request(http.MethodPost, "x"))
			require.NoError(t, err)
			defer resp.Body.Close()
			got, err := io.ReadAll(resp.Body)
			assert.Equal(t, 3, strings.Count(string(got), "data: "))
			var e *sturdy.Error
			require.ErrorAs(t, err, &e)
			assert.Equal(t, sturdy.ErrTimeout, e.Class)
			assert.True(t, e.Timeout())
			await(t, gone)
			assert.Len(t, s.seen(), 1, "what the caller has in part is not sent again")
		})
	})
}

func TestAStreamThatIsCutIsNoSuccess(t *testing.T) {
	for name, row := range map[string]struct {
		step sturdytest.Step
		end  http.HandlerFunc
	}{
		"in the middle, by its server":     {sturdytest.Chat{}.Stream().First(3), nil},
		"before its end, by its server":    {sturdytest.Chat{}.Stream().First(-1), nil},
		"in the middle, by its connection": {sturdytest.Chat{}.Stream().First(3), aborting},
		"within an event":                  {sturdytest.Stream(sturdytest.Chat{}.Stream().Events[0], sturdytest.Event{Data: `data: {"choices":[{"delta":{"content":"He`}), nil},
		"Anthropic's":                      {sturdytest.Chat{}.MessageStream().First(-1), nil},
		"of responses":                     {sturdytest.Chat{}.ResponseStream().First(-1), nil},
		"Ollama's":                         {sturdytest.Chat{}.Ollama().First(-1), nil},
	} {
		t.Run(name, func(t *testing.T) {
			overBoth(t, func(t *testing.T, p protocol) {
				s := p.serve(t, streaming(row.step, row.end))
				client := &http.Client{Transport: &sturdy.Stream{Base: s.base}}
				resp, err := client.Do(s.request(http.MethodPost, "x"))
				require.NoError(t, err)
				defer resp.Body.Close()
				got, err := io.ReadAll(resp.Body)
				var want strings.Builder
				for _, ev := range row.step.Events {
					want.WriteString(ev.Data)
				}
				assert.Equal(t, want.String(), string(got))
				var e *sturdy.Error
				require.ErrorAs(t, err, &e)
				assert.Equal(t, sturdy.ErrConnection, e.Class)
				if row.end == nil {
					assert.ErrorIs(t, err, io.ErrUnexpectedEOF)
				}
			})
		})
	}
}

func TestAWholeStreamIsASuccessAndItsConnectionIsUsedAgain(t *testing.T) {
	for name, step := range map[string]sturdytest.Step{
		"chat": sturdytest.Chat{Usage: true}.Stream(), "messages": sturdytest.Chat{}.MessageStream(),
		"responses": sturdytest.Chat{}.ResponseStream(), "Ollama": sturdytest.Chat{}.Ollama(), "JSON": sturdytest.Chat{}.Completion(),
	} {
		t.Run(name, func(t *testing.T) {
			overBoth(t, func(t *testing.T, p protocol) {
				handler := streaming(step, nil)
				if len(step.Events) == 0 {
					handler = answer(200, step.Body, "Content-Type", "application/json")
				}
				s := p.serve(t, handler)
				client := &http.Client{Transport: &sturdy.Transport{
					Base: &sturdy.Stream{Base: s.base}, Timeout: sturdy.Timeout{Header: time.Minute, Idle: time.Minute},
				}}
				for range 3 {
					o := s.do(client, s.request(http.MethodPost, "x"))
					require.NoError(t, o.failure)
				}
				assert.EqualValues(t, 1, s.dials.Load())
			})
		})
	}
}

func TestAStreamThatNetHTTPUnpackedIsUnderstood(t *testing.T) {
	s := protocol(1).serve(t, packed(sturdytest.Chat{}.Stream().First(3)))
	resp, err := (&sturdy.Stream{Base: s.base}).RoundTrip(s.request(http.MethodGet, ""))
	require.NoError(t, err)
	defer resp.Body.Close()
	require.True(t, resp.Uncompressed)
	_, err = io.ReadAll(resp.Body)
	assert.ErrorIs(t, err, io.ErrUnexpectedEOF)
}

func TestManyStreamsAtOnceKeepTheirOwnEnds(t *testing.T) {
	overBoth(t, func(t *testing.T, p protocol) {
		synctest.Test(t, func(t *testing.T) {
			ends := []http.HandlerFunc{
				streaming(sturdytest.Chat{}.Stream(), nil),
				streaming(sturdytest.Chat{}.Stream().First(3), nil),
				streaming(sturdytest.Chat{}.Stream().First(3), aborting),
				streaming(sturdytest.Chat{}.Stream().First(3).Then(sturdytest.SSE("", said("It failed", "server_error", ""))), nil),
				streaming(sturdytest.Chat{}.Stream().First(3), hanging),
			}
			wants := []error{nil, sturdy.ErrConnection, sturdy.ErrConnection, sturdy.ErrInternalServer, sturdy.ErrTimeout}
			s := p.serveInBubble(t, func(w http.ResponseWriter, r *http.Request) {
				var n int
				_, _ = fmt.Sscan(r.Header.Get("X-Call"), &n)
				ends[n%len(ends)](w, r)
			})
			client := &http.Client{Transport: &sturdy.Transport{
				Base: &sturdy.Stream{Base: s.base}, Timeout: sturdy.Timeout{Idle: time.Minute}, Breaker: sturdy.Breaker{Failures: -1},
			}}
			const n = 200
			errs := make(chan error, n)
			for i := range n {
				go func() {
					errs <- func() error {
						resp, err := client.Do(s.request(http.MethodPost, "x", "X-Call", fmt.Sprint(i)))
						if err != nil {
							return err
						}
						defer resp.Body.Close()
						_, err = io.ReadAll(resp.Body)
						if want := wants[i%len(wants)]; !errors.Is(err, want) {
							return fmt.Errorf("call %d: got %w, want %w", i, err, want)
						}
						return nil
					}()
				}()
			}
			for range n {
				assert.NoError(t, <-errs)
			}
		})
	})
}

// packed answers with the events of a step, compressed, as net/http's client
// asks for on its own.
func packed(step sturdytest.Step) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", step.Header.Get("Content-Type"))
		w.Header().Set("Content-Encoding", "gzip")
		z := gzip.NewWriter(w)
		for _, ev := range step.Events {
			_, _ = io.WriteString(z, ev.Data)
		}
		_ = z.Close()
	}
}
