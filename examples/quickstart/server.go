package main

import (
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"
)

const question = `{"model":"gpt-4o-mini","messages":[{"role":"user","content":"Is the weather good for sailing?"}]}`

const answer = `{"object":"chat.completion","model":"gpt-4o-mini","choices":[{"index":0,"finish_reason":"stop",` +
	`"message":{"role":"assistant","content":"Only if your boat is sturdy."}}]}`

// The keys that the calls are made with.
const (
	goodKey  = "sk-quickstart-good"
	wrongKey = "sk-quickstart-mistyped"
	brokeKey = "sk-quickstart-no-credit"
)

// A script says what goes wrong. The same seed makes the same calls fail.
type script struct {
	seed       uint64
	goroutines int // that make the calls
	good       int // calls that can succeed
	resets     int // of them, calls whose connection breaks once
	wrong      int // calls with a key that the server does not know
	broke      int // calls with a key that has no credit left

	rate, burst float64       // the limit of the good key: requests per second, and at once
	latency     time.Duration // the least; the most is three times as long
	overload    time.Duration // how long the server is overloaded
}

var usual = script{
	seed: 1, goroutines: 16,
	good: 194, resets: 6, wrong: 3, broke: 3,
	rate: 40, burst: 20,
	latency:  20 * time.Millisecond,
	overload: time.Second,
}

// A call is one thing that the program wants of the server, however often it is
// sent.
type call struct {
	id, key string
	latency time.Duration
	reset   bool // the connection breaks the first time
}

// calls returns the calls of the script, in a random order.
func (s script) calls() []call {
	var calls []call
	add := func(n int, c call) {
		for range n {
			calls = append(calls, c)
		}
	}
	add(s.resets, call{key: goodKey, reset: true})
	add(s.good-s.resets, call{key: goodKey})
	add(s.wrong, call{key: wrongKey})
	add(s.broke, call{key: brokeKey})

	random := s.random()
	random.Shuffle(len(calls), func(i, j int) { calls[i], calls[j] = calls[j], calls[i] })
	for i := range calls {
		calls[i].id = fmt.Sprintf("call-%03d", i)
		calls[i].latency = s.latency + time.Duration(random.Int64N(int64(2*s.latency)))
	}
	return calls
}

func (s script) random() *rand.Rand { return rand.New(rand.NewPCG(s.seed, 0)) }

// A server answers as the API of a language model does, and misbehaves as the
// script says.
type server struct {
	url    string
	http   *http.Server
	script script

	mu       sync.Mutex
	calls    map[string]call // by id
	seen     tally
	tokens   float64   // what is left of the limit
	at       time.Time // when that was so
	calm     int       // requests until the overload
	overload time.Time // when it ends
}

// A tally is what a server saw.
type tally struct {
	requests int
	limited  int            // refused because of the limit
	sent     map[string]int // how often each call came, by id
}

func startServer(s script) (*server, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	srv := &server{
		url:    "http://" + listener.Addr().String() + "/v1/chat/completions",
		script: s,
		calls:  make(map[string]call),
		seen:   tally{sent: make(map[string]int)},
		tokens: s.burst,
		at:     time.Now(),
		calm:   60 + s.random().IntN(60),
	}
	for _, c := range s.calls() {
		srv.calls[c.id] = c
	}
	srv.http = &http.Server{Handler: srv, ReadHeaderTimeout: time.Minute}
	go srv.http.Serve(listener) //nolint:errcheck // it always ends with an error
	return srv, nil
}

func (s *server) close() { s.http.Close() }

// tally returns what the server has seen so far.
func (s *server) tally() tally {
	s.mu.Lock()
	defer s.mu.Unlock()
	seen := s.seen
	seen.sent = maps.Clone(seen.sent)
	return seen
}

// A reply is an answer of the server's; without a status, it breaks the
// connection instead.
type reply struct {
	status     int
	kind, code string // of an error
	message    string
	wait       time.Duration // what the client is asked to wait
}

func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	id := r.Header.Get("Idempotency-Key")
	time.Sleep(s.arrive(id))
	a := s.reply(id, strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer "))

	if a.status == 0 {
		reset(w)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	if a.status == http.StatusOK {
		fmt.Fprint(w, a.message)
		return
	}
	if a.wait > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(int(math.Ceil(a.wait.Seconds())))) // whole seconds, as HTTP has it
	}
	w.WriteHeader(a.status)
	fmt.Fprintf(w, `{"error":{"message":%q,"type":%q,"param":null,"code":%q}}`, a.message, a.kind, a.code)
}

// arrive books the arrival of a request, and returns how long it takes.
func (s *server) arrive(id string) time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.seen.requests++
	s.seen.sent[id]++
	if s.calm--; s.calm == 0 {
		s.overload = time.Now().Add(s.script.overload)
	}
	return s.calls[id].latency
}

// reply decides what is answered to a request of the call with this id.
func (s *server) reply(id, key string) reply {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	switch key {
	case goodKey:
	case brokeKey:
		return reply{
			status: http.StatusTooManyRequests, kind: "insufficient_quota", code: "insufficient_quota",
			message: "You exceeded your current quota, please check your plan and billing details.",
		}
	default:
		return reply{
			status: http.StatusUnauthorized, kind: "invalid_request_error", code: "invalid_api_key",
			message: "Incorrect API key provided: " + key[:7] + "***.",
		}
	}
	if wait := s.take(now); wait > 0 {
		s.seen.limited++
		return reply{
			status: http.StatusTooManyRequests, kind: "requests", code: "rate_limit_exceeded", wait: wait,
			message: fmt.Sprintf("Rate limit reached on requests per min (RPM): Limit %.0f. Please try again in %v.",
				60*s.script.rate, wait.Round(time.Millisecond)),
		}
	}
	if now.Before(s.overload) {
		return reply{
			status: http.StatusServiceUnavailable, kind: "service_unavailable_error", code: "server_is_overloaded",
			message: "The model is currently overloaded. Please try again later.",
		}
	}
	if c := s.calls[id]; c.reset {
		c.reset = false
		s.calls[id] = c
		return reply{}
	}
	return reply{status: http.StatusOK, message: answer}
}

// take takes a token from the bucket, or returns when there will be one.
func (s *server) take(now time.Time) (wait time.Duration) {
	s.tokens = min(s.tokens+now.Sub(s.at).Seconds()*s.script.rate, s.script.burst)
	s.at = now
	if s.tokens < 1 {
		return time.Duration((1 - s.tokens) / s.script.rate * float64(time.Second))
	}
	s.tokens--
	return 0
}

// reset breaks a connection, so that its client sees "connection reset by peer".
func reset(w http.ResponseWriter) {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	if tcp, ok := conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
	conn.Close()
}
