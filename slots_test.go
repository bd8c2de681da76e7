package sturdy

import (
	"io"
	"math"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
)

// A server that works on so many at once, each as long as it happens to take.
type slotServer struct {
	size   int
	after  string
	random *rand.Rand

	mu      sync.Mutex
	busy    int
	work    time.Duration // of all that was taken
	refused int
}

func (s *slotServer) RoundTrip(req *http.Request) (*http.Response, error) {
	s.mu.Lock()
	if s.busy == s.size {
		s.refused++
		s.mu.Unlock()
		return after(5*time.Millisecond, status(429, "Retry-After", s.after))(req)
	}
	s.busy++
	takes := time.Duration(float64(100*time.Millisecond) * math.Exp(1.2*s.random.NormFloat64()))
	s.work += takes
	s.mu.Unlock()
	time.Sleep(takes)
	s.mu.Lock()
	s.busy--
	s.mu.Unlock()
	return status(200)(req)
}

func TestALimitInFlightIsUsedUp(t *testing.T) {
	for _, wait := range []string{"", "0", "1"} {
		t.Run(wait, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &slotServer{size: 8, after: wait, random: rand.New(rand.NewPCG(1, 1))}
				client := &http.Client{Transport: &Transport{Base: s}}
				calls := make(chan struct{}, 5000)
				for range cap(calls) {
					calls <- struct{}{}
				}
				close(calls)
				began := time.Now()
				var wg sync.WaitGroup
				for range 64 {
					wg.Go(func() {
						for range calls {
							resp, err := client.Post("https://api.example.com/", "text/plain", strings.NewReader("x"))
							if assert.NoError(t, err) {
								_, _ = io.Copy(io.Discard, resp.Body)
								resp.Body.Close()
								assert.Equal(t, 200, resp.StatusCode)
							}
						}
					})
				}
				wg.Wait()
				bound := s.work / time.Duration(s.size)
				took := time.Since(began)
				t.Logf("%.3f times the bound, %d refused", took.Seconds()/bound.Seconds(), s.refused)
				assert.LessOrEqual(t, took.Seconds(), 1.15*bound.Seconds())
				assert.LessOrEqual(t, s.refused, 50)
			})
		})
	}
}
