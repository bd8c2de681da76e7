package sturdy

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestARetryIsAheadOfThoseWhoCameAfterItsCall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base := script(after(500*time.Millisecond, status(500)), status(200))
		tr := &Transport{Base: base, RateLimit: RateLimit{Limit: 1}, Retry: Retry{MinDelay: -1}}
		ctx, cancel := context.WithTimeout(t.Context(), 1500*time.Millisecond)
		defer cancel()
		time.AfterFunc(100*time.Millisecond, func() { sendAll(t, tr, 3) })
		resp, err := tr.RoundTrip(get(t).WithContext(ctx))
		require.NoError(t, err)
		assert.Equal(t, 200, resp.StatusCode, "its turn comes in time, though three are in the queue")
		time.Sleep(time.Minute)
		assert.Equal(t, []time.Duration{0, time.Second, 2 * time.Second, 3 * time.Second, 4 * time.Second}, base.times())
	})
}

func TestWhatIsInTheBucketCountsForTheTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &RateLimit{Base: script(status(200)), Limit: 0.1}
		sendAll(t, l, 1)
		time.Sleep(5 * time.Second)
		took, err := ends(t, l, 7*time.Second)
		require.NoError(t, err)
		assert.Equal(t, 5*time.Second, took)
	})
}

func TestALimitOfTokensRefusesAtOnceWhoseTurnWillComeTooLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &RateLimit{Base: script(status(200)), Tokens: 10, Cost: func(req *http.Request) int {
			n, _ := strconv.Atoi(req.Header.Get("Cost"))
			return n
		}}
		send := func(cost string, deadline time.Duration) (time.Duration, error) {
			began := time.Now()
			ctx, cancel := context.WithTimeout(t.Context(), deadline)
			defer cancel()
			req := get(t).WithContext(ctx)
			req.Header.Set("Cost", cost)
			_, err := l.RoundTrip(req)
			return time.Since(began), err
		}
		_, err := send("600", time.Hour)
		require.NoError(t, err)
		took, err := send("100", 9*time.Second)
		require.ErrorIs(t, err, ErrWaitTooLong)
		assert.Zero(t, took)
		var e *Error
		require.ErrorAs(t, err, &e)
		assert.Equal(t, 10*time.Second, e.RetryAfter)
		done := make(chan struct{})
		go func() {
			_, err := send("100", 11*time.Second)
			assert.NoError(t, err)
			close(done)
		}()
		synctest.Wait()
		took, err = send("100", 19*time.Second)
		require.ErrorIs(t, err, ErrWaitTooLong, "one is ahead of it")
		assert.Zero(t, took)
		<-done
	})
}

func TestWithoutADeadlineAPauseOfLessThanTwoMinutesIsWaitedFor(t *testing.T) {
	for asked, waits := range map[string]bool{"119": true, "121": false, "3600": false} {
		t.Run(asked, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				base := script(status(429, "Retry-After", asked), status(200))
				l := &RateLimit{Base: base, Fixed: true}
				sendAll(t, l, 1)
				err := sendAll(t, l, 1)[0]
				if waits {
					require.NoError(t, err)
					assert.Equal(t, 119*time.Second, time.Since(base.began))
					return
				}
				require.ErrorIs(t, err, errMaxHold)
				assert.Zero(t, time.Since(base.began))
			})
		})
	}
}

// Two minutes without a deadline are counted from when the server last took
// something, but for those whose own requests it has refused before.
func TestTheWaitBeginsAnewWhenTheServerTakesSomething(t *testing.T) {
	for name, row := range map[string]struct{ sent, retry bool }{
		"never sent": {}, "never sent, but it may be again": {retry: true}, "sent before": {sent: true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				steps := map[string]func(*http.Request) (*http.Response, error){
					"taken":   after(50*time.Second, status(200)),
					"refused": after(55*time.Second, status(429, "Retry-After", "100")),
					"first":   status(429, "Retry-After", "60"),
				}
				again := 0
				l := &RateLimit{Fixed: true, Base: rtFunc(func(req *http.Request) (*http.Response, error) {
					name := req.Header.Get("X-Call")
					if name == "waits" || name == "first" && again > 0 {
						return status(200)(req)
					}
					if name == "first" {
						again++
					}
					return steps[name](req)
				})}
				send := func(rt http.RoundTripper, name string) (time.Duration, int) {
					began := time.Now()
					req := get(t)
					req.Header.Set("X-Call", name)
					resp, err := rt.RoundTrip(req)
					if err != nil {
						return time.Since(began), 0
					}
					return time.Since(began), resp.StatusCode
				}
				for _, name := range []string{"taken", "refused"} {
					go send(l, name)
				}
				synctest.Wait()
				if row.sent {
					took, status := send(&Retry{Base: l}, "first")
					assert.Equal(t, 429, status, "it has waited for 55s, and would have to wait for 100s more")
					assert.Equal(t, 55*time.Second, took.Truncate(time.Second))
				} else {
					_, _ = send(l, "first")
					var rt http.RoundTripper = l
					if row.retry {
						rt = &Retry{Base: l}
					}
					took, status := send(rt, "waits")
					assert.Equal(t, 200, status)
					assert.Equal(t, 155*time.Second, took)
				}
				time.Sleep(time.Hour)
			})
		})
	}
}

func TestAfterRequestsWithoutAnAnswerTheNextLeaveAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base := script(after(400*time.Millisecond, fails(errors.New("no answer"))))
		l := &RateLimit{Base: base}
		sendAll(t, l, 17)
		times := base.times()
		require.Len(t, times, 17)
		assert.Equal(t, 400*time.Millisecond, times[16], "when the first of them has come back")
	})
}

func TestWhatWasNotUsedIsTheNextOnes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base := script(after(time.Second, telling(200, `{"usage":{"total_tokens":10}}`)), status(200))
		l := &RateLimit{Base: base, Tokens: 10, Cost: func(*http.Request) int { return 400 }}
		go func() {
			resp, err := l.RoundTrip(get(t))
			if assert.NoError(t, err) {
				_, _ = io.Copy(io.Discard, resp.Body)
				resp.Body.Close()
			}
		}()
		synctest.Wait()
		sendAll(t, l, 1)
		assert.Equal(t, []time.Duration{0, time.Second}, base.times(), "20 seconds had been left to wait for")
	})
}
