package sturdy

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/time/rate"
)

func chat(t *testing.T, body string) *http.Request {
	return newRequest(t, http.MethodPost, exampleKey+"/v1/chat/completions", strings.NewReader(body))
}

func TestEstimateTokens(t *testing.T) {
	for body, want := range map[string]int{
		``:                         0,
		`{}`:                       1,
		`{"max_tokens":100}`:       5 + 100,
		`{"max_tokens":100,"n":3}`: 6 + 300,
		`{"max_completion_tokens":7,"max_tokens":100}`:                   11 + 7,
		`{"max_output_tokens": 9}`:                                       6 + 9,
		`{"max_tokens":-5,"n":-1}`:                                       6,
		`{"max_tokens":99999999999}`:                                     7 + maxUnits,
		`{"max_tokens":"many"}`:                                          6,
		`plain text of 24 letters`:                                       6,
		`{"messages":[{"content":"` + strings.Repeat("x", 4000) + `"}]}`: 1008,
	} {
		assert.Equal(t, want, EstimateTokens(chat(t, body)), "%.60s", body)
	}
	once := chat(t, `{"max_tokens":100}`)
	once.GetBody = nil
	assert.Equal(t, 5, EstimateTokens(once), "by its length, as it is not read")
	once.ContentLength = -1
	assert.Zero(t, EstimateTokens(once))
}

func TestKeys(t *testing.T) {
	gpt, gpt2, other := chat(t, `{"model":"gpt-4o"}`), chat(t, `{"model":"gpt-4o","n":1}`), chat(t, `{"model":"o3"}`)
	other.Header.Set("OpenAI-Organization", "org-1")
	assert.Equal(t, "https://api.example.com", HostKey(gpt))
	assert.Equal(t, HostKey(gpt), HostKey(other))
	assert.Equal(t, ModelKey(gpt), ModelKey(gpt2))
	assert.NotEqual(t, ModelKey(gpt), ModelKey(other))
	assert.Equal(t, "https://api.example.com ", ModelKey(get(t)))
	byOrganization := HeaderKey("OpenAI-Organization")
	assert.Equal(t, byOrganization(gpt), byOrganization(gpt2))
	assert.Equal(t, "https://api.example.com org-1", byOrganization(other))
}

func TestUsageIsFoundInWhateverPiecesItComes(t *testing.T) {
	for body, want := range map[string]int{
		``: 0,
		`{"choices":[],"usage":{"prompt_tokens":9,"completion_tokens":12,"total_tokens":21}}`:                              21,
		`{"usage": {"input_tokens": 300, "output_tokens" : 45}}`:                                                           345,
		`data: {"usage":{"output_tokens":1,"input_tokens":10}}` + "\n\n" + `data: {"usage":{"output_tokens":25}}` + "\n\n": 35,
		`{"content":"\"total_tokens\": 5, he said"}`:                                                                       0,
		`{"prompt_tokens_details":{"cached_tokens":7},"total_tokens":8,"x":` + strings.Repeat(" ", 500) + `1}`:             8,
	} {
		for name, r := range map[string]io.Reader{
			"at once":        strings.NewReader(body),
			"byte by byte":   iotest.OneByteReader(strings.NewReader(body)),
			"half by half":   iotest.HalfReader(strings.NewReader(body)),
			"with its end":   iotest.DataErrReader(strings.NewReader(body)),
			"seven by seven": &chunked{strings.NewReader(body), 7},
			"a lot and less": &chunked{strings.NewReader(body), 70},
		} {
			var u usageMeter
			got, err := io.ReadAll(&metered{io.NopCloser(r), &u})
			require.NoError(t, err)
			assert.Equal(t, body, string(got))
			assert.Equal(t, want, u.used(), "%s: %.80s", name, body)
		}
	}
}

type chunked struct {
	r io.Reader
	n int
}

func (c *chunked) Read(p []byte) (int, error) { return c.r.Read(p[:min(len(p), c.n)]) }

// usedTokens answers with a usage of so many tokens.
func usedTokens(n int) func(*http.Request) (*http.Response, error) {
	return func(req *http.Request) (*http.Response, error) {
		return answer(req, 200, fmt.Sprintf(`{"usage":{"total_tokens":%d}}`, n)), nil
	}
}

// sendChat sends a request and reads its answer.
func sendChat(t *testing.T, rt http.RoundTripper, body string) {
	t.Helper()
	resp, err := rt.RoundTrip(chat(t, body))
	require.NoError(t, err)
	_, err = io.Copy(io.Discard, resp.Body)
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
}

func TestTokensAreACeiling(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base := script(status(200))
		l := &RateLimit{Base: base, Tokens: 10, Cost: func(*http.Request) int { return 300 }}
		for range 4 {
			sendChat(t, l, `{}`)
		}
		assert.Equal(t, []time.Duration{0, 0, 30 * time.Second, 60 * time.Second}, base.times(), "600 at once, then 10 a second")
	})
}

func TestMoreTokensThanTheBucketHoldsLeaveAloneAndOnDebt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base := script(status(200))
		cost := 1500
		l := &RateLimit{Base: base, Tokens: 10, Cost: func(*http.Request) int { return cost }}
		sendChat(t, l, `{}`)
		cost = 100
		sendChat(t, l, `{}`)
		assert.Equal(t, []time.Duration{0, 100 * time.Second}, base.times(), "the debt of 900 and the next 100")
	})
}

func TestAnEstimateIsSettledByWhatWasUsed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base := script(usedTokens(100))
		l := &RateLimit{Base: base, Tokens: 10, Cost: func(*http.Request) int { return 600 }}
		for range 6 {
			sendChat(t, l, `{}`)
		}
		assert.Less(t, base.times()[5], 3*time.Minute, "by the estimates it would be five minutes")
		over := base.times()[5]
		assert.GreaterOrEqual(t, over, time.Duration(0))
	})
}

func TestWithoutCostTheTokensOfARequestAreLearned(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base := script(usedTokens(100))
		l := &RateLimit{Base: base, Tokens: 10}
		for range 20 {
			sendChat(t, l, `{}`)
		}
		times := base.times()
		assert.Equal(t, time.Duration(0), times[5], "600 are there at first")
		assert.Equal(t, 10*time.Second, times[19]-times[18], "then 10 a second, 100 each")
	})
}

func TestEachModelUsesWhatItUses(t *testing.T) {
	// One key, one ceiling: 100 tokens a second. The small model uses 10 a
	// request, the large one 1000, whatever they are estimated at.
	for name, cost := range map[string]func(*http.Request) int{"estimated": EstimateTokens, "not estimated": nil} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				base := rtFunc(func(req *http.Request) (*http.Response, error) {
					if modelOf(req, maxEvent) == "small" {
						return usedTokens(10)(req)
					}
					return usedTokens(1000)(req)
				})
				l := &RateLimit{Base: base, Tokens: 100, Cost: cost}
				small, large := `{"max_tokens":300,"model":"small"}`, `{"max_tokens":300,"model":"large"}`
				for range 20 { // the ceiling's 6000 are soon used
					sendChat(t, l, small)
					sendChat(t, l, large)
				}
				began := time.Now()
				for range 20 {
					sendChat(t, l, small)
				}
				smalls := time.Since(began)
				sendChat(t, l, large) // waits for what it uses, and may spend what it waited for
				began = time.Now()
				sendChat(t, l, large)
				assert.InDelta(t, 2, smalls.Seconds(), 0.5, "200 tokens")
				assert.InDelta(t, 10, time.Since(began).Seconds(), 0.5, "1000 tokens")
			})
		})
	}
}

func TestAPriceIsTheNearestLine(t *testing.T) {
	for name, used := range map[string]func(units float64) float64{
		"in proportion":  func(units float64) float64 { return units / 4 },
		"input and more": func(units float64) float64 { return units + 500 },
		"always as much": func(float64) float64 { return 300 },
		"nothing":        func(float64) float64 { return 0 },
	} {
		random := rand.New(rand.NewPCG(1, 2))
		p := prices{estimated: true}
		assert.InDelta(t, 800, p.cost("a", 800), 1e-9, "what Cost says, as long as nothing else is known")
		for range 200 {
			units := 100 + 2000*random.Float64()
			p.learn("a", units, used(units))
		}
		for _, units := range []float64{100, 1000, 2000} {
			assert.InDelta(t, used(units), p.cost("a", units), 50, "%s, %v", name, units)
		}
		assert.InDelta(t, p.cost("a", 1000), p.cost("b", 1000), 1e-9, "a model that is not known is like all")
		p.learn("b", 10, 5000)
		assert.Greater(t, p.cost("b", 10), 2*p.cost("a", 10))
	}

	var p prices
	assert.Zero(t, p.cost("", 1), "nothing is known without Cost")
	for i := range 2 * maxModels {
		p.learn(strconv.Itoa(i), 1, 100)
	}
	assert.Len(t, p.models, maxModels)
	assert.InDelta(t, 100, p.cost(strconv.Itoa(2*maxModels-1), 1), 1e-9, "as all")
	p.learn("0", 0, 7)
	assert.Positive(t, p.cost("0", 0))
}

func TestLimitsTellWhatIsKnownOfEachKey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base := script(
			status(200, "X-Ratelimit-Limit-Requests", "60", "X-Ratelimit-Remaining-Requests", "59", "X-Ratelimit-Reset-Requests", "1s"),
			status(429, "Retry-After", "7"),
		)
		var seen observed
		l := &RateLimit{Base: base, Observe: seen.see, Key: HostKey}
		assert.Empty(t, l.Limits())
		sendAll(t, l, 1)
		s := l.Limits()[0]
		assert.Equal(t, exampleKey, s.Key)
		assert.Equal(t, "headers", s.Source)
		assert.InDelta(t, 1, float64(s.Rate), 0.01)
		assert.InDelta(t, 60, s.Burst, 0.01)
		assert.InDelta(t, 59, s.Remaining, 0.01)
		assert.Zero(t, s.Paused)
		sendAll(t, l, 1)
		s = l.Limits()[0]
		assert.Equal(t, time.Now().Add(7*time.Second), s.Paused)
		assert.Equal(t, []EventKind{EventLimit, EventPause}, seen.kinds())

		own := &RateLimit{Base: script(status(200)), Limit: 5}
		sendAll(t, own, 1)
		assert.Equal(t, LimitState{Key: exampleKey, Rate: 5, Burst: 1, Source: "setting", Remaining: -1}, own.Limits()[0])
		bucket := rate.NewLimiter(20, 8)
		learnt := &RateLimit{Base: rtFunc(func(req *http.Request) (*http.Response, error) {
			ok := bucket.Allow()
			time.Sleep(50 * time.Millisecond)
			if !ok {
				return status(429, "Retry-After", "1")(req)
			}
			return status(200)(req)
		})}
		sendAll(t, &Retry{Base: learnt}, 400)
		s = learnt.Limits()[0]
		assert.Equal(t, "refusals", s.Source)
		assert.InEpsilon(t, 20, float64(s.Rate), 0.1)
		assert.InDelta(t, 8, s.Burst, 2)
		none := &RateLimit{Base: script(status(200))}
		sendAll(t, none, 1)
		assert.Equal(t, LimitState{Key: exampleKey, Rate: rate.Inf, Remaining: -1}, none.Limits()[0])
	})
}

func TestAHookThatPanicsInTheQueueLeavesIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base := script(status(200))
		l := &RateLimit{Base: base, Limit: 1, Observe: func(_ context.Context, ev Event) {
			if ev.Kind == EventQueue {
				panic("hook")
			}
		}}
		sendAll(t, l, 1)
		assert.Panics(t, func() { _, _ = l.RoundTrip(get(t)) })
		assert.Zero(t, l.Limits()[0].Waiting)
		l.Observe = nil
		sendAll(t, l, 1)
		assert.Equal(t, []time.Duration{0, time.Second}, base.times())
	})
}

func TestAGateWithoutAllOfItsTokensIsNotIdle(t *testing.T) {
	now := time.Now()
	g := (&RateLimit{Tokens: 2}).newGate()
	require.True(t, g.idle())
	g.tokens.spend(now, 60)
	assert.False(t, g.tokens.full(now.Add(29*time.Second)))
	assert.True(t, g.tokens.full(now.Add(31*time.Second)))
}
