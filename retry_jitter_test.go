package sturdy

import (
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
)

func TestThoseWhoWereToldTheSameTimeDoNotComeBackTogether(t *testing.T) {
	for name, row := range map[string]struct {
		code     int
		minDelay time.Duration
		most     time.Duration // more than was asked for
	}{
		"429":                     {429, 0, 500 * time.Millisecond},
		"503":                     {503, 0, 500 * time.Millisecond},
		"with a long delay":       {503, 5 * time.Second, time.Second},
		"with a short delay":      {503, 100 * time.Millisecond, 100 * time.Millisecond},
		"with a short delay, 429": {429, 100 * time.Millisecond, 100 * time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				const n, asked = 100, 10 * time.Second
				began := time.Now()
				var mu sync.Mutex
				var back []time.Duration
				var wg sync.WaitGroup
				for range n {
					wg.Go(func() {
						base := script(status(row.code, "Retry-After", "10"), status(200))
						_, err := (&Retry{Base: base, MinDelay: row.minDelay}).RoundTrip(get(t))
						assert.NoError(t, err)
						mu.Lock()
						defer mu.Unlock()
						back = append(back, time.Since(began))
					})
				}
				wg.Wait()
				slices.Sort(back)
				assert.GreaterOrEqual(t, back[0], asked, "never less")
				assert.Less(t, back[n-1], asked+row.most)
				assert.Greater(t, back[n-1]-back[0], row.most/2)
				assert.Greater(t, len(slices.Compact(back)), n/2)
			})
		})
	}
}
