package sturdytest_test

import (
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/sturdyhttp/sturdy/sturdytest"
)

// post sends a body and returns the answer, with its body read and closed.
func post(t *testing.T, rt http.RoundTripper, body string) (*http.Response, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, apiURL, strings.NewReader(body))
	require.NoError(t, err)
	resp, err := rt.RoundTrip(req)
	require.NoError(t, err)
	got, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	return resp, string(got)
}

// knock sends a request each gap for a time, and returns when, since the first,
// those came that were answered with 200.
func knock(t *testing.T, rt http.RoundTripper, gap, during time.Duration) (passed []time.Duration) {
	t.Helper()
	start := time.Now()
	for time.Since(start) < during {
		if resp, _ := post(t, rt, ""); resp.StatusCode == 200 {
			passed = append(passed, time.Since(start))
		}
		time.Sleep(gap)
	}
	return passed
}

func ms(all ...int) []time.Duration {
	times := make([]time.Duration, len(all))
	for i, n := range all {
		times[i] = time.Duration(n) * time.Millisecond
	}
	return times
}

func TestZeroServerAnswers200AtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s sturdytest.Server
		start := time.Now()
		for range 100 {
			resp, _ := post(t, &s, "")
			assert.Equal(t, 200, resp.StatusCode)
		}
		assert.Zero(t, time.Since(start))
		assert.Equal(t, sturdytest.Counts{Arrived: 100, OK: 100}, s.Stats().Counts)
	})
}

func TestBucketTakesItsBurstAndThenItsRate(t *testing.T) {
	for _, tc := range []struct {
		limit sturdytest.Limit
		want  []time.Duration
	}{
		{sturdytest.Limit{Rate: 2, Burst: 3}, ms(0, 1, 2, 500, 1000, 1500, 2000, 2500)},
		{sturdytest.Limit{Rate: 2}, ms(0, 1, 500, 1000, 1500, 2000, 2500)},
		{sturdytest.Limit{Rate: 60, Per: time.Minute, Burst: 1}, ms(0, 1000, 2000)},
		{sturdytest.Limit{Rate: 3, Burst: 1}, ms(0, 334, 668, 1002, 1336, 1670, 2004, 2338, 2672)},
	} {
		synctest.Test(t, func(t *testing.T) {
			s := &sturdytest.Server{Limits: []sturdytest.Limit{tc.limit}}
			assert.Equal(t, tc.want, knock(t, s, time.Millisecond, 3*time.Second))
		})
	}
}
