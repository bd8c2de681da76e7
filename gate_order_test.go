package sturdy

import (
	"net/http"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
)

// sendAs sends a request that its server knows by a name.
func sendAs(t *testing.T, rt http.RoundTripper, name string) {
	req := get(t)
	req.Header.Set("X-Call", name)
	resp, err := rt.RoundTrip(req)
	if assert.NoError(t, err) {
		assert.Equal(t, 200, resp.StatusCode)
		resp.Body.Close()
	}
}

func TestWhileTheServerTakesNobodyThoseGoFirstThatWereSentLeastOften(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var sent []string
		tr := &Transport{Retry: Retry{Attempts: 9}, Base: rtFunc(func(req *http.Request) (*http.Response, error) {
			mu.Lock()
			defer mu.Unlock()
			if sent = append(sent, req.Header.Get("X-Call")); len(sent) <= 2 {
				return status(429)(req)
			}
			return status(200)(req)
		})}
		var wg sync.WaitGroup
		count := func() int {
			mu.Lock()
			defer mu.Unlock()
			return len(sent)
		}
		wg.Go(func() { sendAs(t, tr, "first") })
		for count() < 2 {
			time.Sleep(time.Millisecond)
		}
		for _, name := range []string{"second", "third"} {
			wg.Go(func() { sendAs(t, tr, name) })
			synctest.Wait()
		}
		wg.Wait()
		assert.Equal(t, []string{"first", "first", "second"}, sent[:3])
		assert.Less(t, slices.Index(sent[2:], "first"), slices.Index(sent[2:], "third"), "and then they go as they came")
	})
}

// Who tries for all of them is not to be who has paid before.
func TestWhoGoesFirstOfThoseInAQueue(t *testing.T) {
	mine, other := new(circuit), new(circuit)
	type waits struct {
		attempts int
		circuit  *circuit
	}
	for name, row := range map[string]struct {
		queue  []waits
		prober int // to a circuit
		least  int // to a server that takes nobody
	}{
		"alone":                          {[]waits{{1, mine}}, 0, 0},
		"alone, again":                   {[]waits{{3, mine}}, 0, 0},
		"all are new":                    {[]waits{{1, mine}, {1, mine}, {1, mine}}, 2, 0},
		"the first is new":               {[]waits{{1, mine}, {2, mine}, {2, mine}}, 0, 0},
		"the second is new":              {[]waits{{2, mine}, {1, mine}, {2, mine}}, 1, 1},
		"two are new":                    {[]waits{{2, mine}, {1, mine}, {1, mine}, {2, mine}}, 2, 1},
		"none is new":                    {[]waits{{2, mine}, {2, mine}, {2, mine}}, 2, 0},
		"the first was sent least often": {[]waits{{2, mine}, {3, mine}, {4, mine}}, 0, 0},
		"the last was sent least often":  {[]waits{{4, mine}, {3, mine}, {2, mine}}, 2, 2},
		"the second was":                 {[]waits{{4, mine}, {2, mine}, {3, mine}}, 1, 1},
		"two were":                       {[]waits{{4, mine}, {2, mine}, {2, mine}, {3, mine}}, 2, 1},
		"the first two were":             {[]waits{{2, mine}, {2, mine}, {3, mine}}, 1, 0},
		"another circuit's is new":       {[]waits{{3, mine}, {1, other}, {2, mine}, {1, other}}, 2, 2},
		"all others are another's":       {[]waits{{3, mine}, {1, other}, {1, other}}, 0, 0},
	} {
		t.Run(name, func(t *testing.T) {
			g := newGate(1, 1)
			var turns []*turn
			for _, w := range row.queue {
				turn := &turn{attempts: w.attempts}
				turn.circuit = w.circuit
				g.insert(turn)
				turns = append(turns, turn)
			}
			line := g.lines[mine].turns
			assert.Equal(t, row.prober, slices.Index(turns, line.lastLeastTried()), "prober")
			assert.Equal(t, row.least, slices.Index(turns, line.leastTried()), "least tried")
		})
	}
}

func TestTheProbeIsWhoeverCameLast(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var sent []string
		b := &Breaker{Base: rtFunc(func(req *http.Request) (*http.Response, error) {
			mu.Lock()
			defer mu.Unlock()
			sent = append(sent, req.Header.Get("X-Call"))
			return status(200)(req)
		})}
		b.Trip(exampleKey, time.Now().Add(10*time.Second))
		var wg sync.WaitGroup
		for _, name := range []string{"first", "second", "third"} {
			wg.Go(func() { sendAs(t, b, name) })
			time.Sleep(time.Second)
		}
		wg.Wait()
		assert.Equal(t, []string{"third", "first", "second"}, sent)
	})
}

func TestAfterAProbeThatTakesTooLongTheNextIsWhoeverCameLast(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var sent []string
		b := &Breaker{Base: rtFunc(func(req *http.Request) (*http.Response, error) {
			mu.Lock()
			sent = append(sent, req.Header.Get("X-Call"))
			first := len(sent) == 1
			mu.Unlock()
			if first {
				return after(time.Minute, status(200))(req)
			}
			return status(200)(req)
		})}
		b.Trip(exampleKey, time.Now().Add(10*time.Second))
		var wg sync.WaitGroup
		for _, name := range []string{"first", "second", "third", "fourth"} {
			wg.Go(func() { sendAs(t, b, name) })
			time.Sleep(time.Second)
		}
		wg.Wait()
		assert.Equal(t, []string{"fourth", "third", "first", "second"}, sent)
	})
}
