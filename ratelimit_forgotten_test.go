package sturdy

import (
	"fmt"
	"net/http"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/sturdyhttp/sturdy/internal/pace"
)

func byHost(req *http.Request) string { return req.URL.Host }

func getFrom(t *testing.T, host string) *http.Request {
	return newRequest(t, http.MethodGet, "https://"+host+"/", http.NoBody)
}

func TestWhatHoldsAKeyIsNotForgottenForOtherKeys(t *testing.T) {
	for name, row := range map[string]struct {
		limit func() *RateLimit
		first func(*http.Request) (*http.Response, error) // what the key's first request meets
		held  time.Duration                               // for how long the next is
	}{
		"a pause":            {func() *RateLimit { return &RateLimit{Fixed: true} }, status(429, "Retry-After", "60"), time.Minute},
		"the caller's limit": {func() *RateLimit { return &RateLimit{Limit: 0.1} }, status(200), 10 * time.Second},
		"the caller's tokens": {
			func() *RateLimit {
				return &RateLimit{Tokens: 1, Cost: func(req *http.Request) int {
					if req.URL.Host == "held" {
						return 60
					}
					return 0
				}}
			}, status(200), time.Minute,
		},
		"headers": {
			func() *RateLimit { return &RateLimit{} }, status(429, "X-RateLimit-Limit-Requests", "10", "X-RateLimit-Remaining-Requests", "0", "X-RateLimit-Reset-Requests", "60s"),
			time.Minute,
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				base := script(row.first, status(200))
				l := row.limit()
				l.Base, l.Key = base, byHost
				_, err := l.RoundTrip(getFrom(t, "held"))
				require.NoError(t, err)
				others := 2 * maxKeys
				if l.Limit > 0 {
					others = maxKeys // one too many, which has another bucket
				}
				for i := range others {
					_, err := l.RoundTrip(getFrom(t, fmt.Sprint("other", i)))
					require.NoError(t, err)
				}
				require.Zero(t, time.Since(base.began))
				_, err = l.RoundTrip(getFrom(t, "held"))
				require.NoError(t, err)
				assert.InEpsilon(t, row.held, time.Since(base.began), 0.2)
			})
		})
	}
}

func TestALearnedRateIsNotForgottenForOtherKeysBeforeItIsOld(t *testing.T) {
	for old, known := range map[time.Duration]bool{0: true, time.Minute: true, 2 * pace.Forget: false} {
		t.Run(old.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := &RateLimit{Base: script(status(429), status(200)), Key: byHost}
				_, err := l.RoundTrip(getFrom(t, "held"))
				require.NoError(t, err)
				require.Equal(t, "refusals", l.Limits()[0].Source)
				time.Sleep(old)
				for i := range maxKeys {
					_, err := l.RoundTrip(getFrom(t, fmt.Sprint("other", i)))
					require.NoError(t, err)
				}
				assert.Equal(t, known, slices.ContainsFunc(l.Limits(), func(s LimitState) bool { return s.Key == "held" }))
			})
		})
	}
}

// RateLimit paces those that were refused. It cannot pace those of a key that it has
// no room for: then Retry waits by itself.
func TestWhereAKeyIsForgottenRetryWaitsItself(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var sent []time.Duration
		began := time.Now()
		l := &RateLimit{Key: byHost, Base: rtFunc(func(req *http.Request) (*http.Response, error) {
			if req.URL.Host != "late" {
				return status(429, "Retry-After", "3600")(req)
			}
			if sent = append(sent, time.Since(began)); len(sent) == 1 {
				return status(429)(req)
			}
			return status(200)(req)
		})}
		for i := range maxKeys { // each is paused, and so remembered
			_, err := l.RoundTrip(getFrom(t, fmt.Sprint(i)))
			require.NoError(t, err)
		}
		resp, err := (&Retry{Base: l}).RoundTrip(getFrom(t, "late"))
		require.NoError(t, err)
		assert.Equal(t, 200, resp.StatusCode)
		require.Len(t, sent, 2)
		assert.GreaterOrEqual(t, sent[1], time.Second)
	})
}
