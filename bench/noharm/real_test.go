package noharm

import (
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sturdyhttp/sturdy/sturdytest"
)

// A realScenario is one over real sockets, in real time.
type realScenario struct {
	scenario
	server func() *sturdytest.Server
	event  func(*wire) // begins when the calls do; nil means none
}

func realRows() []realScenario {
	answers := sturdytest.Latency{Median: 20 * ms}
	away := func(answer sturdytest.Step) func() *sturdytest.Server {
		return func() *sturdytest.Server {
			return &sturdytest.Server{
				Latency: answers, Reply: always(sturdytest.OK(page)),
				Outages: []sturdytest.Outage{{From: 300 * ms, To: 600 * ms, Answer: answer}},
			}
		}
	}
	slow := func() *sturdytest.Server {
		return &sturdytest.Server{Latency: sturdytest.Latency{Median: 100 * ms}, Reply: always(sturdytest.OK(page))}
	}
	limited := func() *sturdytest.Server {
		return &sturdytest.Server{Limits: []sturdytest.Limit{{Rate: 100, Burst: 100}}, Latency: answers, Reply: always(sturdytest.OK(page))}
	}
	return []realScenario{
		{scenario{name: "sockets: no listener for 300ms", callers: 12, lasts: 1500 * ms}, slow, func(w *wire) {
			<-time.After(300 * ms)
			w.leave()
			<-time.After(300 * ms)
			w.comeBack()
		}},
		{scenario{name: "sockets: reset for 300ms", callers: 12, lasts: 1500 * ms}, away(sturdytest.ConnReset()), nil},
		{scenario{name: "sockets: 503 for 300ms", callers: 12, lasts: 1500 * ms}, away(sturdytest.Status(503)), nil},
		{scenario{name: "sockets: a moment's resets, in flight: 15, POST", callers: 15, lasts: second, method: keyed}, slow, cutOnce},
		{scenario{name: "sockets: a moment's resets, in flight: 50", callers: 50, lasts: second}, slow, cutOnce},
		{scenario{name: "sockets: 100/s, bare 429s, callers: 300", callers: 300, calls: 1}, limited, nil},
	}
}

func always(s sturdytest.Step) func(*http.Request) sturdytest.Step {
	return func(*http.Request) sturdytest.Step { return s }
}

func cutOnce(w *wire) {
	<-time.After(350 * ms)
	w.cut()
}

func TestZeroValueLosesNoCallOverRealSockets(t *testing.T) {
	tab := &table{}
	t.Run("rows", func(t *testing.T) {
		for _, s := range realRows() {
			row := tab.reserve(s.name)
			t.Run(s.name, func(t *testing.T) {
				t.Parallel()
				all := s.run(t)
				wrong := s.verdict(all)
				tab.fill(row, all, wrong)
				if wrong != "" {
					t.Errorf("the zero value %s", wrong)
				}
			})
		}
	})
	tab.log(t)
}

// run lets the clients meet the scenario side by side, each with a server of
// its own.
func (s *realScenario) run(t *testing.T) []*outcome {
	all := make([]*outcome, len(clients))
	var wg sync.WaitGroup
	for i, c := range clients {
		w := newWire(t, s.server())
		base := &counted{Transport: &http.Transport{MaxIdleConnsPerHost: s.callers}}
		wg.Go(func() {
			if s.event != nil {
				wg.Go(func() { s.event(w) })
			}
			all[i] = s.drive(t.Context(), &http.Client{Transport: c.over(base)}, "http://"+w.addr)
			all[i].sent = int(base.n.Load())
			base.CloseIdleConnections()
		})
	}
	wg.Wait()
	return all
}

// counted counts requests.
type counted struct {
	*http.Transport
	n atomic.Int64
}

func (c *counted) RoundTrip(req *http.Request) (*http.Response, error) {
	c.n.Add(1)
	return c.Transport.RoundTrip(req)
}

// A wire is a server on the loopback interface that can break its connections,
// and be away.
type wire struct {
	addr   string
	server *http.Server
	t      *testing.T

	mu       sync.Mutex
	listener net.Listener
	conns    map[net.Conn]bool
}

func newWire(t *testing.T, h http.Handler) *wire {
	w := &wire{addr: "127.0.0.1:0", t: t, conns: make(map[net.Conn]bool)}
	w.server = &http.Server{Handler: h, ConnState: w.track}
	w.comeBack()
	t.Cleanup(func() { w.server.Close() })
	return w
}

func (w *wire) track(c net.Conn, state http.ConnState) {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch state {
	case http.StateNew:
		w.conns[c] = true
	case http.StateClosed, http.StateHijacked:
		delete(w.conns, c)
	}
}

// comeBack listens, at the same address each time.
func (w *wire) comeBack() {
	l, err := net.Listen("tcp", w.addr)
	require.NoError(w.t, err)
	w.addr = l.Addr().String()
	w.mu.Lock()
	defer w.mu.Unlock()
	w.listener = l
	go w.server.Serve(l)
}

// leave refuses connections and breaks those that there are.
func (w *wire) leave() {
	w.mu.Lock()
	l := w.listener
	w.mu.Unlock()
	l.Close()
	w.cut()
}

// cut resets all connections.
func (w *wire) cut() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for c := range w.conns {
		_ = c.(*net.TCPConn).SetLinger(0)
		c.Close()
	}
}
