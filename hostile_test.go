package sturdy

import (
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// A hostile server answers as no server means it, n times so far.
type hostile func(n int, req *http.Request) (*http.Response, error)

func with(code int, headers ...string) hostile {
	return func(_ int, req *http.Request) (*http.Response, error) { return status(code, headers...)(req) }
}

// hostiles are servers that harm whoever believes them. Held is the longest that doc.go
// says they hold a call without a deadline.
var hostiles = map[string]struct {
	answer hostile
	held   time.Duration
}{
	"429s that ask for years":                   {with(429, "Retry-After", "999999999"), 0},
	"429s that ask for just what is waited":     {with(429, "Retry-After", "119"), 2 * time.Minute},
	"429s that ask for one second, for ever":    {with(429, "Retry-After", "1"), 2 * time.Minute},
	"429s that ask for a nanosecond":            {with(429, "Retry-After-Ms", "0.000001"), 2 * time.Minute},
	"429s without a word":                       {with(429), 2 * time.Minute},
	"503s that ask for an hour":                 {with(503, "Retry-After", "3600"), 2 * time.Minute},
	"503s that ask for 20 seconds, for ever":    {with(503, "Retry-After", "20"), 2 * time.Minute},
	"500s without an end":                       {with(500), 2 * time.Minute},
	"409s that ask for a minute":                {with(409, "Retry-After", "60"), 2 * time.Minute},
	"successes with nothing left for a year":    {with(200, "RateLimit", `"a";r=0;t=31536000`, "RateLimit-Policy", `"a";q=1;w=31536000`), 2 * time.Second},
	"successes with nothing left, by OpenAI":    {with(200, "X-Ratelimit-Remaining-Requests", "0", "X-Ratelimit-Limit-Requests", "1", "X-Ratelimit-Reset-Requests", "9999h"), 2 * time.Second},
	"successes that saturate":                   {with(200, "X-Ratelimit-Limit", strings.Repeat("9", 40), "X-Ratelimit-Remaining", "-1", "X-Ratelimit-Reset", strings.Repeat("9", 40)), 2 * time.Second},
	"successes that contradict each other":      {contradicting, 2 * time.Minute},
	"successes in another dialect each time":    {dialectsInTurn, 20 * time.Second},
	"successes with a Retry-After":              {with(200, "Retry-After", "3600"), 0},
	"errors whose bodies never come":            {withBody(500, silent), 2 * time.Minute},
	"errors whose bodies come byte by byte":     {withBody(500, dribbling), 2 * time.Minute},
	"refusals whose bodies come byte by byte":   {withBody(429, dribbling), 2 * time.Minute},
	"refusals and successes by turns":           {byTurns(with(429, "Retry-After", "5"), with(200)), 20 * 20 * time.Second},
	"503s and successes by turns":               {byTurns(with(503, "Retry-After", "60"), with(200)), 2 * time.Minute},
	"an outage and a success by turns":          {flapping, 2 * time.Minute},
	"everything at random":                      {anything, 2 * time.Minute},
	"quota errors that are none every other":    {byTurns(withText(429, `{"error":{"code":"insufficient_quota"}}`), with(200)), 0},
	"a thousand limits, each other each time":   {manyLimits, 2 * time.Second},
	"429s with headers that say all is well":    {with(429, "X-Ratelimit-Remaining-Requests", "1000", "X-Ratelimit-Limit-Requests", "1000", "X-Ratelimit-Reset-Requests", "1s"), 2 * time.Minute},
	"successes after which a minute is to pass": {with(200, "X-Ratelimit-Remaining-Tokens", "0", "X-Ratelimit-Limit-Tokens", "10", "X-Ratelimit-Reset-Tokens", "60s"), 2 * time.Second},
}

func contradicting(n int, req *http.Request) (*http.Response, error) {
	return status(200, "X-Ratelimit-Remaining-Requests", strconv.Itoa(n%2*1000), "X-Ratelimit-Limit-Requests", strconv.Itoa(1+n%3*1000),
		"X-Ratelimit-Reset-Requests", strconv.Itoa(n%5*1000)+"s")(req)
}

func dialectsInTurn(n int, req *http.Request) (*http.Response, error) {
	dialects := [][]string{
		{"RateLimit", `"a";r=0;t=3600`, "RateLimit-Policy", `"a";q=1;w=3600`},
		{"RateLimit", "limit=1, remaining=0, reset=3600"},
		{"X-Ratelimit-Remaining", "0", "X-Ratelimit-Limit", "1", "X-Ratelimit-Reset", "3600"},
		{"X-Ratelimit-Remaining-Tokens", "0", "X-Ratelimit-Limit-Tokens", "1", "X-Ratelimit-Reset-Tokens", "1h"},
		{"Anthropic-Ratelimit-Requests-Remaining", "0", "Anthropic-Ratelimit-Requests-Limit", "1", "Anthropic-Ratelimit-Requests-Reset", "2100-01-01T00:00:00Z"},
	}
	return status(200, dialects[n%len(dialects)]...)(req)
}

func manyLimits(n int, req *http.Request) (*http.Response, error) {
	resp, err := status(200)(req)
	for i := range 200 {
		name := strconv.Itoa(i + n)
		resp.Header.Set("X-Ratelimit-Remaining-"+name, "0")
		resp.Header.Set("X-Ratelimit-Limit-"+name, "1")
		resp.Header.Set("X-Ratelimit-Reset-"+name, "3600")
	}
	return resp, err
}

func byTurns(all ...hostile) hostile {
	return func(n int, req *http.Request) (*http.Response, error) { return all[n%len(all)](n, req) }
}

func flapping(n int, req *http.Request) (*http.Response, error) {
	if n/12%2 == 0 {
		return nil, errReset
	}
	return status(200)(req)
}

func anything(n int, req *http.Request) (*http.Response, error) {
	random := rand.New(rand.NewPCG(uint64(n), 1))
	codes := []int{200, 200, 429, 429, 500, 502, 503, 503, 409, 425}
	resp, err := status(codes[random.IntN(len(codes))])(req)
	if random.IntN(2) == 0 {
		resp.Header.Set("Retry-After", strconv.Itoa(random.IntN(100)))
	}
	if random.IntN(2) == 0 {
		resp.Header.Set("X-Ratelimit-Remaining", strconv.Itoa(random.IntN(2)))
		resp.Header.Set("X-Ratelimit-Reset", strconv.Itoa(random.IntN(10_000)))
	}
	return resp, err
}

func withText(code int, body string) hostile {
	return func(_ int, req *http.Request) (*http.Response, error) { return telling(code, body)(req) }
}

func withBody(code int, body func(*http.Request) io.ReadCloser) hostile {
	return func(_ int, req *http.Request) (*http.Response, error) {
		resp, err := status(code)(req)
		resp.Body = body(req)
		return resp, err
	}
}

func silent(req *http.Request) io.ReadCloser {
	return &closingBody{says: http.ErrBodyReadAfterClose, closed: make(chan struct{})}
}

func dribbling(req *http.Request) io.ReadCloser { return ticking(" ", 100*time.Millisecond, 1<<20) }

// TestOneHostsMaliceStaysItsOwn has callers at a hostile server and at a good one,
// through one stack.
func TestOneHostsMaliceStaysItsOwn(t *testing.T) {
	const lasts, patience, good = 4 * time.Minute, 30 * time.Second, 10 * time.Millisecond
	for name, server := range hostiles {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				var asked atomic.Int64
				tr := &Transport{Base: bareFunc(func(req *http.Request) (*http.Response, error) {
					if req.URL.Host == "good.example.com" {
						return after(good, status(200))(req)
					}
					n := int(asked.Add(1))
					if err := sleep(req, good); err != nil {
						return nil, err
					}
					return server.answer(n, req)
				})}
				ctx, cancel := context.WithTimeout(t.Context(), lasts+time.Hour)
				defer cancel()
				var longest [3]atomic.Int64
				const alone, bounded, decent = 0, 1, 2
				var wg sync.WaitGroup
				callers := func(n int, of *atomic.Int64, call func()) {
					for range n {
						wg.Go(func() {
							call() // the first ones leave one by one
							call()
							for began := time.Now(); time.Since(began) < lasts; time.Sleep(time.Second) {
								from := time.Now()
								call()
								took := int64(time.Since(from))
								for old := of.Load(); took > old; old = of.Load() {
									if of.CompareAndSwap(old, took) {
										break
									}
								}
							}
						})
					}
				}
				send := func(ctx context.Context, host string) {
					req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+host, nil)
					assert.NoError(t, err)
					if resp, err := tr.RoundTrip(req); err == nil {
						resp.Body.Close()
					}
				}
				endless := context.WithoutCancel(ctx)
				callers(10, &longest[alone], func() { send(endless, "evil.example.com") })
				callers(10, &longest[bounded], func() {
					ctx, cancel := context.WithTimeout(ctx, patience)
					defer cancel()
					send(ctx, "evil.example.com")
				})
				callers(5, &longest[decent], func() { send(endless, "good.example.com") })
				wg.Wait()
				held, within := time.Duration(longest[alone].Load()), time.Duration(longest[bounded].Load())
				t.Logf("%s: holds a call for %v at most, one with a deadline of %v for %v; %d requests", name, held, patience, within, asked.Load())
				assert.Equal(t, good, time.Duration(longest[decent].Load()), "calls to another host")
				assert.LessOrEqual(t, within, patience)
				assert.LessOrEqual(t, held, server.held+5*time.Second, "and an attempt")
			})
		})
	}
}

// A counted body tells how many bytes of it were read.
type countedBody struct {
	io.ReadCloser
	read *atomic.Int64
}

func (b countedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.read.Add(int64(n))
	return n, err
}

// TestABombIsNotUnpacked: whatever a server packs into an answer, little of it is read.
func TestABombIsNotUnpacked(t *testing.T) {
	for name, begins := range map[string]string{"of nothing": "", "of an error": `{"error":{"message":"`, "of events": "data: "} {
		var bomb bytes.Buffer
		w := gzip.NewWriter(&bomb)
		_, _ = io.WriteString(w, begins)
		_, _ = w.Write(make([]byte, 4<<20))
		_ = w.Flush() // there may be more
		for _, code := range []int{200, 401, 429, 500} {
			t.Run(fmt.Sprintf("%s, %d", name, code), func(t *testing.T) {
				t.Parallel()
				s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
					w.Header().Set("Content-Encoding", "gzip")
					w.Header().Set("Content-Type", map[bool]string{true: "text/event-stream", false: "application/json"}[begins == "data: "])
					w.WriteHeader(code)
					_, _ = w.Write(bomb.Bytes())
					_ = http.NewResponseController(w).Flush()
					<-req.Context().Done()
				}))
				defer s.Close()
				base := &http.Transport{}
				defer base.CloseIdleConnections()
				var read atomic.Int64
				tr := &Transport{Retry: Retry{Attempts: 3, MinDelay: 1, MaxDelay: 1}, Base: &Stream{Base: bareFunc(func(req *http.Request) (*http.Response, error) {
					resp, err := base.RoundTrip(req)
					if err == nil {
						resp.Body = countedBody{resp.Body, &read}
					}
					return resp, err
				})}}
				tr.RateLimit.Fixed = true
				req := newRequest(t, http.MethodGet, s.URL, nil)
				resp, err := tr.RoundTrip(req)
				require.NoError(t, err)
				_ = Check(resp, nil)
				assert.LessOrEqual(t, read.Load(), int64(3*(peekBytes+drainBytes)))
				resp.Body.Close()
			})
		}
	}
}

// TestAPackedBodyThatNeverComesHoldsNobody: net/http's Close of such a body waits for
// the read that is under way.
func TestAPackedBodyThatNeverComesHoldsNobody(t *testing.T) {
	for _, code := range []int{200, 401, 429, 500} {
		for name, set := range map[string]func(*Transport){
			"":              func(*Transport) {},
			", Idle":        func(tr *Transport) { tr.Timeout.Idle = time.Hour },
			", a Transport": func(tr *Transport) { tr.RateLimit.Fixed = true },
		} {
			t.Run(fmt.Sprint(code, name), func(t *testing.T) {
				t.Parallel()
				over := make(chan struct{})
				s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
					w.Header().Set("Content-Encoding", "gzip")
					w.Header().Set("Content-Type", "application/json")
					w.WriteHeader(code)
					_ = http.NewResponseController(w).Flush()
					select {
					case <-over:
					case <-req.Context().Done():
					}
				}))
				defer s.Close()
				defer close(over)
				base := &http.Transport{}
				defer base.CloseIdleConnections()
				tr := &Transport{Base: &Stream{Base: base, FirstEvent: time.Millisecond}, Retry: Retry{Attempts: 2, MinDelay: 1, MaxDelay: 1}}
				set(tr)
				resp, err := tr.RoundTrip(newRequest(t, http.MethodGet, s.URL, nil))
				require.NoError(t, err)
				_ = Check(resp, nil)
				resp.Body.Close() // returns
			})
		}
	}
}

// TestAFloodOfInformationEnds: answers that announce an answer, without an end.
func TestAFloodOfInformationEnds(t *testing.T) {
	flood := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		for req.Context().Err() == nil {
			w.Header().Set("Link", strings.Repeat("x", 1000))
			w.WriteHeader(http.StatusEarlyHints)
		}
	}))
	defer flood.Close()
	base := &http.Transport{}
	defer base.CloseIdleConnections()
	tr := &Transport{Base: base, Retry: Retry{Attempts: 3, MinDelay: 1, MaxDelay: 1}}
	_, err := tr.RoundTrip(newRequest(t, http.MethodGet, flood.URL, nil)) //nolint:bodyclose // there is none
	require.Error(t, err)
	assert.Equal(t, ErrConnection, ClassOf(Check(nil, err)))
}
