package sturdy

import (
	"fmt"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func byHost(req *http.Request) string { return req.URL.Host }

func getFrom(t *testing.T, host string) *http.Request {
	return newRequest(t, http.MethodGet, "https://"+host+"/", http.NoBody)
}

func TestAPauseIsNotForgottenForOtherKeys(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base := script(status(429, "Retry-After", "60"), status(200))
		l := &RateLimit{Base: base, Key: byHost, Fixed: true} // so that a pause is all that there is to know
		_, err := l.RoundTrip(getFrom(t, "paused"))
		require.NoError(t, err)
		for i := range 2 * maxKeys {
			_, err := l.RoundTrip(getFrom(t, fmt.Sprint("other", i)))
			require.NoError(t, err)
		}
		require.Zero(t, time.Since(base.began))
		_, err = l.RoundTrip(getFrom(t, "paused"))
		require.NoError(t, err)
		assert.Equal(t, time.Minute, time.Since(base.began))
	})
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
