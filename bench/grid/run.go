package grid

import (
	"cmp"
	"context"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// A Result is what became of the calls of a run.
type Result struct {
	Calls, OK        int
	Arrived, Refused int // requests at the server, and those over a limit of them
	Took             time.Duration
}

// A call that takes longer hangs.
const patience = 2 * time.Hour

// Run runs a spec with a client.
func Run(t *testing.T, s *Spec, c Client) (r Result) {
	synctest.Test(t, func(t *testing.T) {
		m := newModel(s)
		client := &http.Client{Transport: c.over(m)}
		var ok, left atomic.Int64
		left.Store(int64(s.Callers.Calls))
		call := func() {
			ctx, cancel := context.WithTimeout(t.Context(), cmp.Or(s.Callers.Deadline, patience))
			if s.Callers.Deadline == 0 {
				cancel()
				ctx, cancel = context.WithCancel(t.Context())
			}
			defer cancel()
			req, err := http.NewRequestWithContext(ctx, http.MethodPost, "https://api.example.com/v1/things", strings.NewReader("{}"))
			if err != nil {
				t.Error(err)
			}
			req.Header.Set("Idempotency-Key", "k")
			resp, err := client.Do(req)
			if err != nil {
				return
			}
			_, err = io.Copy(io.Discard, resp.Body)
			resp.Body.Close()
			if err == nil && resp.StatusCode == http.StatusOK {
				ok.Add(1)
			}
		}
		began := time.Now()
		var wg sync.WaitGroup
		if gap := s.Callers.Gap; gap > 0 {
			for range s.Callers.Calls {
				wg.Go(call)
				time.Sleep(gap)
			}
		} else {
			for w := range min(s.Callers.Workers, s.Callers.Calls) {
				wg.Go(func() {
					time.Sleep(time.Duration(w) * 137 * time.Microsecond)
					for left.Add(-1) >= 0 {
						call()
					}
				})
			}
		}
		wg.Wait()
		r = Result{Calls: s.Callers.Calls, OK: int(ok.Load()), Arrived: m.arrived, Refused: m.refused, Took: time.Since(began)}
	})
	return r
}

// Goodput is how near the calls per second come to those of an oracle.
func (r Result) Goodput(oracle Result) float64 {
	if oracle.OK == 0 {
		return 1
	}
	return float64(r.OK) / r.Took.Seconds() / (float64(oracle.OK) / oracle.Took.Seconds())
}

// Lost is the share of the calls that are lost beyond those of an oracle.
func (r Result) Lost(oracle Result) float64 {
	return max(0, float64(oracle.OK-r.OK)/float64(r.Calls))
}

// Waste is the share of requests that were over a limit.
func (r Result) Waste() float64 { return float64(r.Refused) / float64(max(r.Arrived, 1)) }
