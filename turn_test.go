package sturdy

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/time/rate"
)

// uses sends a request of so many units, with the answer that it is to get, and reads
// that.
func uses(rt http.RoundTripper, req *http.Request, units int64, answer reply) error {
	req = req.WithContext(context.WithValue(req.Context(), replyKey{}, answer))
	req.ContentLength = units
	resp, err := rt.RoundTrip(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	_, err = io.Copy(io.Discard, resp.Body)
	return err
}

type replyKey struct{}

// replies is a base that gives each request the answer that it came with.
func replies(req *http.Request) (*http.Response, error) {
	return req.Context().Value(replyKey{}).(reply)(req)
}

func usage(tokens int) reply {
	return telling(200, fmt.Sprintf(`{"usage":{"total_tokens":%d}}`, tokens))
}

func unitsOf(req *http.Request) int { return int(req.ContentLength) }

// An answer may say that more was used than was thought: then a turn is further away
// than it was.
func TestAWaiterWhoseTurnHasMovedPastMaxWaitIsToldAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &RateLimit{Base: rtFunc(replies), Tokens: 1, Cost: unitsOf, MaxWait: 15 * time.Second} // 60 in a minute
		began := time.Now()
		go func() { assert.NoError(t, uses(l, get(t), 60, after(time.Second, usage(70)))) }()
		synctest.Wait()
		err := uses(l, get(t), 10, status(200))
		assert.Equal(t, time.Second, time.Since(began))
		var e *Error
		require.ErrorAs(t, err, &e)
		require.ErrorIs(t, e, ErrWaitTooLong)
		assert.InDelta(t, 19, e.RetryAfter.Seconds(), 1, "its turn would have been at 20s")
		assert.NoError(t, uses(l, get(t), 1, status(200)))
		assert.Equal(t, 11*time.Second, time.Since(began).Truncate(time.Second), "as if the other had not been there")
	})
}

func TestALongWaitForATurnThatComesBeforeTheDeadlineIsSatOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base := script(status(200))
		l := &RateLimit{Base: base, Limit: rate.Every(5 * time.Minute)}
		sendAll(t, l, 1)
		took, err := ends(t, l, 6*time.Minute)
		require.NoError(t, err)
		assert.Equal(t, 5*time.Minute, took)
	})
}

func TestHowLongUnitsAreWaitedForWithoutADeadline(t *testing.T) {
	for name, row := range map[string]struct {
		used  int // of 60, by one that is charged 60
		pause string
		want  time.Duration // 0 if it is refused at once
	}{
		"less than two minutes":                {90, "", 90 * time.Second},
		"longer":                               {130, "", 0},
		"less than two minutes, pause and all": {90, "60", 90 * time.Second},
		"longer, pause and all":                {130, "60", 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := &RateLimit{Base: rtFunc(replies), Tokens: 1, Cost: unitsOf, Fixed: true}
				began := time.Now()
				go func() { assert.NoError(t, uses(l, get(t), 60, after(time.Second, usage(row.used)))) }()
				if row.pause != "" {
					go func() {
						assert.NoError(t, uses(l, get(t), 0, after(2*time.Second, status(429, "Retry-After", row.pause))))
					}()
				}
				time.Sleep(3 * time.Second)
				err := uses(l, get(t), 60, status(200))
				if row.want == 0 {
					require.ErrorIs(t, err, errMaxHold)
					assert.Equal(t, 3*time.Second, time.Since(began))
					return
				}
				require.NoError(t, err)
				assert.Equal(t, row.want, time.Since(began))
			})
		})
	}
}

func TestTheTwoMinutesInWhichNothingMovesBeginWhenNothingMovesAnyMore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base := script(after(time.Minute, status(429)))
		l := &RateLimit{Base: base, Limit: rate.Every(time.Hour), Fixed: true}
		go sendAll(t, l, 1)
		synctest.Wait()
		require.ErrorIs(t, sendAll(t, l, 1)[0], errMaxHold)
		assert.Equal(t, 3*time.Minute, time.Since(base.began))
	})
}

func TestWhatACallHasWaitedBeforeIsOffItsTwoMinutes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base := script(status(429, "Retry-After", "60"), status(429))
		resp, err := (&Retry{Base: &RateLimit{Base: base, Limit: rate.Every(61 * time.Second)}}).RoundTrip(get(t))
		require.NoError(t, err)
		assert.Equal(t, 429, resp.StatusCode)
		assert.Len(t, base.times(), 2)
		assert.Equal(t, 2*time.Minute, time.Since(base.began))
	})
}

func TestATokenThatWasGivenBackCountsForTheTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base := script(status(200))
		l := &RateLimit{Base: base, Limit: 0.1, Tokens: 10, Cost: unitsOf} // 600 in a minute
		units := func(n int64) *http.Request {
			req := get(t)
			req.ContentLength = n
			return req
		}
		_, err := l.RoundTrip(units(600))
		require.NoError(t, err)
		leavesLate(t, l, 10500*time.Millisecond, units(0)) // its turn came after 10 seconds
		_, err = l.RoundTrip(units(135).WithContext(deadlineIn(t, 5*time.Second)))
		require.NoError(t, err)
		assert.Equal(t, []time.Duration{0, 13500 * time.Millisecond}, base.times())
	})
}

// A lateContext is one whose deadline is over, though its timer has not fired.
type lateContext struct{ context.Context }

func (lateContext) Deadline() (time.Time, bool) { return time.Now(), true }

func TestADeadlineThatIsOverIsOneBeforeItsContextSaysSo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &RateLimit{Base: script(status(200)), Limit: 1}
		sendAll(t, l, 1)
		_, err := l.RoundTrip(get(t).WithContext(lateContext{t.Context()}))
		require.ErrorIs(t, err, context.DeadlineExceeded)
		assert.NotErrorIs(t, err, ErrWaitTooLong)
	})
}
