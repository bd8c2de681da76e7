package sturdy

import (
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// What an overloaded server asks for counts, also from an answer that comes when the
// circuit is open already.
func TestALateRefusalProlongsAnOpenCircuit(t *testing.T) {
	for name, row := range map[string]struct {
		late  func(*http.Request) (*http.Response, error)
		until time.Duration // that the circuit is open
	}{
		"it asks for longer":        {status(503, "Retry-After", "45"), 45500 * time.Millisecond},
		"it asks for too much":      {status(503, "Retry-After", "3600"), 60500 * time.Millisecond},
		"it asks for less":          {status(503, "Retry-After", "1"), 10 * time.Second},
		"it asks for nothing":       {status(503), 10 * time.Second},
		"it is about another thing": {status(500, "Retry-After", "45"), 10 * time.Second},
		"it is a 429":               {status(429, "Retry-After", "45"), 10 * time.Second},
		"it is a success":           {status(200), 10 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				base := script(after(500*time.Millisecond, row.late), status(500), status(200))
				b := &Breaker{Base: base, Failures: 1, OpenFor: 10 * time.Second, MaxOpen: 10 * time.Second}
				var wg sync.WaitGroup
				wg.Go(func() { sendAll(t, b, 1) })
				synctest.Wait()
				sendAll(t, b, 1) // this opens it
				wg.Wait()
				until := b.Circuits()[0].Until.Sub(base.began)
				assert.InDelta(t, row.until, until, float64(500*time.Millisecond))
				assert.GreaterOrEqual(t, until, row.until)

				require.NoError(t, sendAll(t, b, 1)[0])
				assert.Equal(t, until, base.times()[2], "and who has no deadline waits for it")
			})
		})
	}
}
