package sturdy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net/http"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/time/rate"
)

// TestHammer sends requests through stacks with settings at random, to a server that
// does everything at random, with hooks that panic and exit at random, for callers
// who cancel, and close bodies while they read them, or leave. When all are gone,
// nothing may be held, and every body must be closed. STURDY_SOAK is for how long;
// without it, a few seconds' worth of seeds are tried.
func TestHammer(t *testing.T) {
	soak, _ := time.ParseDuration(os.Getenv("STURDY_SOAK"))
	seeds, first := 120, uint64(1)
	if testing.Short() {
		seeds = 10
	}
	if soak > 0 {
		seeds, first = 1<<30, uint64(time.Now().UnixNano())
	}
	met := make(map[string]int)
	began := time.Now()
	n := 0
	for ; n < seeds && (soak == 0 || time.Since(began) < soak) && !t.Failed(); n++ {
		seed := first + uint64(n)
		t.Run("seed "+strconv.FormatUint(seed, 10), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { hammer(t, seed, met) })
		})
	}
	t.Logf("%d seeds; hooks that panicked or exited: %v", n, met)
	if !testing.Short() && !t.Failed() {
		for _, kind := range eventKinds {
			assert.NotZero(t, met["seen "+string(kind)], kind)
		}
		for _, hook := range []string{"Decide", "Key", "Cost", "Limiter", "GetBody", "base"} {
			assert.NotZero(t, met[hook], hook)
		}
	}
}

var eventKinds = []EventKind{
	EventRetry, EventGiveUp, EventBudget, EventPause, EventLimit, EventQueue, EventWait, EventRefuse,
	EventTimeout, EventBroken, EventOpen, EventHalfOpen, EventClose, EventKeys,
}

// A world is what a hammered stack lives in.
type world struct {
	mu     sync.Mutex
	random *rand.Rand
	met    map[string]int
	bodies []*hammeredBody
	wild   float64 // how often a hook panics or exits
	bad    float64 // how often the server fails

	began   time.Time
	outages bool // it is down half of the time
}

func (w *world) chance(p float64) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.random.Float64() < p
}

func (w *world) pick(n int) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.random.IntN(n)
}

var errHook = errors.New("hook")

// interrupt panics or exits, now and then.
func (w *world) interrupt(what string) {
	if !w.chance(w.wild) {
		return
	}
	w.mu.Lock()
	w.met[what]++
	w.mu.Unlock()
	if w.chance(0.5) {
		runtime.Goexit()
	}
	panic(errHook)
}

const (
	request  = "request"
	answered = "answer"
)

// A hammeredBody is a body of a request or of an answer.
type hammeredBody struct {
	of     string
	read   func(p []byte) (int, error)
	ctx    context.Context // of the request; ends a read
	closed atomic.Int32
	end    chan struct{}
	once   sync.Once
}

func (b *hammeredBody) Read(p []byte) (int, error) {
	select {
	case <-b.end:
		return 0, http.ErrBodyReadAfterClose
	case <-b.ctx.Done():
		return 0, b.ctx.Err()
	default:
		return b.read(p)
	}
}

func (b *hammeredBody) Close() error {
	b.closed.Add(1)
	b.once.Do(func() { close(b.end) })
	return nil
}

func (w *world) body(of string, ctx context.Context, read func(p []byte) (int, error)) *hammeredBody {
	b := &hammeredBody{of: of, read: read, ctx: ctx, end: make(chan struct{})}
	w.mu.Lock()
	w.bodies = append(w.bodies, b)
	w.mu.Unlock()
	return b
}

// answerBody is one that may be whole, cut, stalled, slow, or a stream with an error.
func (w *world) answerBody(req *http.Request, text string) *hammeredBody {
	var b *hammeredBody
	rest := strings.NewReader(text)
	how := w.pick(8)
	b = w.body(answered, req.Context(), func(p []byte) (int, error) {
		if how == 0 && rest.Len() < len(text)/2 {
			return 0, errReset
		}
		if how == 1 {
			select {
			case <-b.end:
				return 0, io.EOF // as some bodies say that are closed
			case <-req.Context().Done():
				return 0, req.Context().Err()
			case <-time.After(time.Minute):
			}
		}
		if how == 2 {
			time.Sleep(10 * time.Millisecond)
			p = p[:min(len(p), 1)]
		}
		return rest.Read(p)
	})
	return b
}

func (w *world) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.Body != nil {
		_, _ = io.Copy(io.Discard, req.Body)
		req.Body.Close()
	}
	w.interrupt("base")
	if err := sleep(req, time.Duration(w.pick(200))*time.Millisecond); err != nil {
		return nil, err
	}
	resp := &http.Response{StatusCode: 200, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Header: http.Header{}, ContentLength: -1, Request: req}
	text := `{"usage":{"total_tokens":17},"text":"` + strings.Repeat("x", 100) + `"}`
	if down := w.outages && int(time.Since(w.began)/(4*time.Second))%2 == 1; down || w.chance(w.bad) {
		text = `{"error":{"message":"no","code":"server_error"}}`
		how := w.pick(6)
		if down {
			how = 5
		}
		switch how {
		case 0:
			return nil, errReset
		case 1:
			return hangs(req)
		case 2:
			resp.StatusCode = 429
		case 3:
			resp.StatusCode = 429
			resp.Header.Set("Retry-After", "1")
		case 4:
			resp.StatusCode = 503
			resp.Header.Set("Retry-After", strconv.Itoa(w.pick(3)))
		case 5:
			resp.StatusCode = 500 + w.pick(5)
		}
	} else if w.chance(0.3) {
		resp.Header.Set("Content-Type", "text/event-stream")
		text = "data: {\"choices\":[{\"delta\":{\"content\":\"x\"}}]}\n\n"
		if w.chance(0.5) {
			text += "data: [DONE]\n\n"
		} else if w.chance(0.5) {
			text += "data: {\"error\":{\"message\":\"overloaded\"}}\n\n"
		}
	}
	if w.chance(0.2) {
		resp.Header.Set("X-Ratelimit-Limit-Requests", strconv.Itoa(1+w.pick(100)))
		resp.Header.Set("X-Ratelimit-Remaining-Requests", strconv.Itoa(w.pick(100)))
		resp.Header.Set("X-Ratelimit-Reset-Requests", strconv.Itoa(w.pick(10))+"s")
	}
	resp.Body = w.answerBody(req, text)
	return resp, nil
}

func (w *world) CloseIdleConnections() {}

// interrupting is a Limiter that is interrupted.
type interrupting struct {
	*rate.Limiter
	w *world
}

func (l interrupting) WaitN(ctx context.Context, n int) error {
	l.w.interrupt("Limiter")
	return l.Limiter.WaitN(ctx, n)
}

// stack is a Transport with settings at random.
func (w *world) stack() *Transport {
	observe := func(_ context.Context, ev Event) {
		w.mu.Lock()
		w.met["seen "+string(ev.Kind)]++
		w.mu.Unlock()
		w.interrupt(string(ev.Kind))
	}
	tr := &Transport{
		Base:    &Stream{Base: w, Observe: observe},
		Timeout: Timeout{Header: 3 * time.Second, Idle: 2 * time.Second},
		Observe: observe,
	}
	keyOf := func(req *http.Request) string {
		w.interrupt("Key")
		return req.Header.Get("X-Key")
	}
	if w.chance(0.5) {
		tr.RateLimit.Key = keyOf
	}
	if w.chance(0.5) {
		tr.Breaker.Key = keyOf
	}
	if w.chance(0.3) {
		tr.Breaker.Failures = 2
	}
	if w.chance(0.5) {
		tr.Retry.Decide = func(*http.Request, *Error) Decision {
			w.interrupt("Decide")
			return Decision(w.pick(3))
		}
	}
	switch w.pick(4) {
	case 0:
		tr.RateLimit.Limit, tr.RateLimit.Burst = 20, 5
	case 1:
		tr.RateLimit.Limiter = interrupting{rate.NewLimiter(20, 5), w}
	case 2:
		tr.RateLimit.Tokens = 1000
		tr.RateLimit.Cost = func(*http.Request) int {
			w.interrupt("Cost")
			return 1 + w.pick(100)
		}
	}
	if w.chance(0.3) {
		tr.RateLimit.MaxWait = time.Second
	}
	if w.chance(0.3) {
		tr.RateLimit.MaxKeys, tr.Breaker.MaxKeys = 1, 1
	}
	if w.chance(0.3) {
		tr.Breaker.MaxWait = -1
	}
	if w.chance(0.4) {
		tr.Retry.Budget = &Budget{Size: 1, Ratio: -1}
		tr.Breaker.Failures = -1
	}
	return tr
}

// call is one caller's request.
func (w *world) call(t *testing.T, client http.RoundTripper) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	if w.chance(0.5) {
		var stop context.CancelFunc
		ctx, stop = context.WithTimeout(ctx, time.Duration(1+w.pick(20_000))*time.Millisecond)
		defer stop()
	}
	if w.chance(0.3) {
		ctx = WithPriority(ctx, w.pick(4)-1)
	}
	if w.chance(0.3) {
		ctx = WithTenant(ctx, strconv.Itoa(w.pick(3)))
	}
	if w.chance(0.2) {
		d := time.Duration(w.pick(3000)) * time.Millisecond
		defer time.AfterFunc(d, cancel).Stop()
	}
	req, err := http.NewRequestWithContext(ctx, []string{"GET", "POST", "PUT"}[w.pick(3)], "https://api.example.com/"+strconv.Itoa(w.pick(3)), nil)
	if !assert.NoError(t, err) {
		return
	}
	req.Header.Set("X-Key", strconv.Itoa(w.pick(3)))
	if req.Method != "GET" {
		fresh := func() io.ReadCloser {
			return w.body(request, context.Background(), strings.NewReader(`{"model":"m","max_tokens":3}`).Read)
		}
		req.Body, req.ContentLength = fresh(), 28
		if w.chance(0.7) {
			req.GetBody = func() (io.ReadCloser, error) {
				w.interrupt("GetBody")
				return fresh(), nil
			}
		}
	}
	resp, err := client.RoundTrip(req)
	if err != nil {
		return
	}
	defer resp.Body.Close()
	switch w.pick(4) {
	case 0: // leaves
	case 1:
		go func() {
			time.Sleep(time.Duration(w.pick(50)) * time.Millisecond)
			resp.Body.Close()
		}()
		_, _ = io.Copy(io.Discard, resp.Body)
	default:
		_, _ = io.Copy(io.Discard, resp.Body)
	}
}

func hammer(t *testing.T, seed uint64, met map[string]int) {
	w := &world{random: rand.New(rand.NewPCG(seed, 1)), met: met, began: time.Now()}
	w.outages = w.chance(0.5)
	w.wild, w.bad = []float64{0, 0.05, 0.2}[w.pick(3)], []float64{0.1, 0.5, 0.9}[w.pick(3)]
	tr := w.stack()
	var callers sync.WaitGroup
	for range 1 + w.pick(60) {
		callers.Go(func() {
			for range 5 {
				one := make(chan struct{})
				go func() {
					defer close(one)
					defer func() {
						if v := recover(); v != nil {
							assert.Equal(t, errHook, v)
						}
					}()
					w.call(t, tr)
				}()
				<-one
				time.Sleep(time.Duration(w.pick(500)) * time.Millisecond)
			}
		})
	}
	callers.Wait()
	time.Sleep(2 * time.Minute) // what is thrown away has some time
	synctest.Wait()
	assertNothingHeld(t, tr)
	for _, b := range w.bodies {
		if b.of == request {
			assert.EqualValues(t, 1, b.closed.Load(), "a request's body was closed so often")
		} else {
			assert.NotZero(t, b.closed.Load(), "an answer's body is open")
		}
	}
}

// assertNothingHeld fails if a stack that nobody uses holds anything for somebody.
func assertNothingHeld(t *testing.T, tr *Transport) {
	t.Helper()
	gates := slices.Collect(maps.Values(tr.RateLimit.gates.entries))
	if shared := tr.RateLimit.gates.shared; shared != nil {
		gates = append(gates, shared)
	}
	for _, e := range gates {
		g := e.state
		assert.Zero(t, e.users.Load(), "users of the gate of %v", e.key)
		assert.Zero(t, g.waiting(), "in the queue of %v", e.key)
		assert.Zero(t, g.pace.InFlight(), "in flight for %v", e.key)
		assert.Empty(t, g.lines, "lines of %v", e.key)
		assert.Zero(t, g.ranked, "with a priority in the queue of %v", e.key)
		assert.Nil(t, g.fair, "tenants of %v", e.key)
	}
	for _, e := range tr.Breaker.circuits.entries {
		c := e.state
		assert.Zero(t, e.users.Load(), "users of the circuit of %v", e.key)
		assert.Zero(t, c.out, "out through the circuit of %v", e.key)
		assert.Nil(t, c.probe, "a probe of %v", e.key)
		assert.Empty(t, c.gates, "gates that wait for %v", e.key)
	}
	budget := tr.Retry.budget()
	for _, e := range budget.accounts.entries {
		assert.Zero(t, e.users.Load(), "users of the account of %v", e.key)
		a := e.state
		a.mu.Lock()
		a.age()
		assert.LessOrEqual(t, a.balance, a.size, "paid back more than once")
		a.mu.Unlock()
	}
}

// TestAnyHookMayPanicOrExit has each hook panic and exit, one at a time, in an
// exchange that calls it.
func TestAnyHookMayPanicOrExit(t *testing.T) {
	type exchange struct {
		steps []func(*http.Request) (*http.Response, error)
		set   func(*Transport)
	}
	limited := func(req *http.Request) (*http.Response, error) {
		return status(200, "X-Ratelimit-Limit-Requests", "60", "X-Ratelimit-Remaining-Requests", "3", "X-Ratelimit-Reset-Requests", "60s")(req)
	}
	opens := func(tr *Transport) { tr.Breaker.Failures, tr.Breaker.MaxWait = 1, time.Minute }
	once := func(tr *Transport) { tr.Retry.Attempts = 1 }
	exchanges := map[string]exchange{
		"retry":     {steps: steplist(status(503))},
		"give_up":   {steps: steplist(status(503)), set: once},
		"budget":    {steps: steplist(status(503)), set: func(tr *Transport) { tr.Retry.Budget = &Budget{Size: 1, Ratio: -1} }},
		"pause":     {steps: steplist(status(429, "Retry-After", "1"))},
		"limit":     {steps: steplist(limited)},
		"queue":     {steps: steplist(status(200)), set: func(tr *Transport) { tr.RateLimit.Limit = 1 }},
		"wait":      {steps: steplist(status(200)), set: func(tr *Transport) { tr.RateLimit.Limit = 1 }},
		"refuse":    {steps: steplist(status(200)), set: func(tr *Transport) { tr.RateLimit.Limit, tr.RateLimit.MaxWait = 1, 1 }},
		"timeout":   {steps: steplist(hangs), set: func(tr *Transport) { tr.Timeout.Header = time.Second }},
		"open":      {steps: steplist(status(503)), set: opens},
		"half_open": {steps: steplist(status(503), status(200)), set: opens},
		"keys": {steps: steplist(after(time.Second, status(200))), set: func(tr *Transport) {
			tr.RateLimit.Limit, tr.RateLimit.Burst, tr.RateLimit.MaxKeys = 0.1, 3, 1
			tr.RateLimit.Key = func(req *http.Request) string { return req.Header.Get("X-Key") }
		}},
		"close": {steps: steplist(status(503), status(200)), set: opens},
	}
	hooks := map[string]func(*Transport, func()){
		"Decide": func(tr *Transport, f func()) {
			tr.Retry.Decide = func(*http.Request, *Error) Decision { f(); return Default }
		},
		"RateLimit.Key": func(tr *Transport, f func()) {
			tr.RateLimit.Key = func(*http.Request) string { f(); return "" }
		},
		"Breaker.Key": func(tr *Transport, f func()) { tr.Breaker.Key = func(*http.Request) string { f(); return "" } },
		"Budget.Key": func(tr *Transport, f func()) {
			tr.Retry.Budget = &Budget{Key: func(*http.Request) string { f(); return "" }}
		},
		"Cost": func(tr *Transport, f func()) {
			tr.RateLimit.Cost = func(*http.Request) int { f(); return 1 }
		},
		"Limiter": func(tr *Transport, f func()) { tr.RateLimit.Limiter = limiterFunc(f) },
	}
	ends := map[string]func(){"panics": func() { panic(errHook) }, "exits": runtime.Goexit}
	try := func(t *testing.T, x exchange, set func(*Transport, func()), end func()) {
		synctest.Test(t, func(t *testing.T) {
			var sent, got []*trackedBody
			base := script(x.steps...)
			tr := &Transport{Base: bareFunc(func(req *http.Request) (*http.Response, error) {
				resp, err := base.RoundTrip(req)
				if err == nil {
					body := &trackedBody{Reader: resp.Body}
					got = append(got, body)
					resp.Body = body
				}
				return resp, err
			})}
			if x.set != nil {
				x.set(tr)
			}
			called := 0
			set(tr, func() {
				if called++; called == 1 {
					end()
				}
			})
			for i := range 3 {
				done := make(chan struct{})
				go func() {
					defer close(done)
					defer func() {
						if v := recover(); v != nil {
							assert.Equal(t, errHook, v)
						}
					}()
					req := newRequest(t, http.MethodPut, "https://api.example.com/", strings.NewReader("{}"))
					req.GetBody = func() (io.ReadCloser, error) {
						body := &trackedBody{Reader: strings.NewReader("{}")}
						sent = append(sent, body)
						return body, nil
					}
					req.Body, _ = req.GetBody()
					req.Header.Set("X-Key", strconv.Itoa(i))
					if resp, err := tr.RoundTrip(req); err == nil {
						resp.Body.Close()
					}
				}()
				<-done
			}
			time.Sleep(time.Minute)
			require.NotZero(t, called, "nothing called the hook")
			assertNothingHeld(t, tr)
			for _, body := range slices.Concat(sent, got) {
				assert.Equal(t, 1, body.closes())
			}
		})
	}
	for end, f := range ends {
		for kind, x := range exchanges {
			t.Run(fmt.Sprintf("Observe %s at %s", end, kind), func(t *testing.T) {
				try(t, x, func(tr *Transport, f func()) {
					tr.Observe = func(_ context.Context, ev Event) {
						if string(ev.Kind) == kind {
							f()
						}
					}
				}, f)
			})
		}
		for hook, set := range hooks {
			t.Run(hook+" "+end, func(t *testing.T) {
				try(t, exchange{steps: steplist(status(503), status(200))}, set, f)
			})
		}
	}
	kinds := slices.Sorted(maps.Keys(exchanges))
	assert.Len(t, kinds, len(eventKinds)-1, "EventBroken is of a body's reader")
}

func steplist(all ...func(*http.Request) (*http.Response, error)) []func(*http.Request) (*http.Response, error) {
	return all
}

// bareFunc is a base that does no more than its function does.
type bareFunc func(*http.Request) (*http.Response, error)

func (f bareFunc) RoundTrip(req *http.Request) (*http.Response, error) { return f(req) }

type limiterFunc func()

func (f limiterFunc) WaitN(context.Context, int) error { f(); return nil }
