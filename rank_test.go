package sturdy

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/time/rate"
)

// A departures is a base that notes who was sent, and when.
type departures struct {
	mu    sync.Mutex
	began time.Time
	names []string
	times []time.Duration
	calls sync.WaitGroup
}

func (d *departures) RoundTrip(req *http.Request) (*http.Response, error) {
	d.mu.Lock()
	d.names = append(d.names, req.Header.Get("X-Call"))
	d.times = append(d.times, time.Since(d.began))
	d.mu.Unlock()
	return status(200)(req)
}

// call has so many requests wait, one after the other.
func (d *departures) call(t *testing.T, rt http.RoundTripper, ctx context.Context, name string, n int) {
	for range n {
		d.calls.Go(func() {
			req := get(t).WithContext(ctx)
			req.Header.Set("X-Call", name)
			resp, err := rt.RoundTrip(req)
			if assert.NoError(t, err) {
				resp.Body.Close()
			}
		})
		synctest.Wait()
	}
}

func (d *departures) indexes(name string) (all []int) {
	for i, n := range d.names {
		if n == name {
			all = append(all, i)
		}
	}
	return all
}

func TestAnUrgentRequestLeavesBeforeABacklog(t *testing.T) {
	for _, waited := range []time.Duration{0, 10 * time.Second, 50 * time.Second} {
		synctest.Test(t, func(t *testing.T) {
			d := &departures{began: time.Now()}
			l := &RateLimit{Base: d, Limit: 10}
			d.call(t, l, t.Context(), "batch", 600)
			time.Sleep(waited)
			came := time.Since(d.began)
			d.call(t, l, WithPriority(t.Context(), 1), "urgent", 1)
			d.calls.Wait()
			i := d.indexes("urgent")
			require.Len(t, i, 1)
			assert.LessOrEqual(t, d.times[i[0]]-came, 200*time.Millisecond, "two turns")
		})
	}
}

func TestThoseOfOnePriorityLeaveAsTheyCame(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &departures{began: time.Now()}
		l := &RateLimit{Base: d, Limit: 10}
		for i, priority := range []int{0, 0, -1, 2, 0, 1, 2, -1, 500, 100, -500, -100} {
			d.call(t, l, WithPriority(t.Context(), priority), fmt.Sprint(priority, "/", i), 1)
		}
		d.calls.Wait()
		assert.Equal(t, []string{"0/0", "500/8", "100/9", "2/3", "2/6", "1/5", "0/1", "0/4", "-1/2", "-1/7", "-500/10", "-100/11"}, d.names)
	})
}

// Urgent requests come faster than they can leave.
func TestAFloodOfUrgentRequestsLeavesATurnInElevenToTheOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &departures{began: time.Now()}
		l := &RateLimit{Base: d, Limit: 10}
		low, flood := WithPriority(t.Context(), -1), WithPriority(t.Context(), 1)
		d.call(t, l, flood, "urgent", 20)
		d.call(t, l, low, "low", 2)
		time.Sleep(time.Millisecond)
		d.call(t, l, t.Context(), "normal", 3)
		for range 20 {
			d.call(t, l, flood, "urgent", 15)
			time.Sleep(time.Second)
		}
		d.calls.Wait()
		low2, normal := d.indexes("low"), d.indexes("normal")
		turns := slices.Sorted(slices.Values(append(low2, normal...)))
		assert.Equal(t, []int{11, 22, 33, 44, 55}, turns, "the first left at once, before the others came")
		assert.Less(t, low2[1], normal[0], "those who came first")
	})
}

func TestNormalRequestsPassNoMoreThanTenTimes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &departures{began: time.Now()}
		l := &RateLimit{Base: d, Limit: 10}
		d.call(t, l, t.Context(), "normal", 1)
		d.call(t, l, WithPriority(t.Context(), -1), "low", 2)
		d.call(t, l, t.Context(), "normal", 40)
		d.calls.Wait()
		assert.Equal(t, []int{11, 22}, d.indexes("low"))
	})
}

func TestWhoComesLaterWasPassedByNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &departures{began: time.Now()}
		l := &RateLimit{Base: d, Limit: 10}
		d.call(t, l, WithPriority(t.Context(), 1), "urgent", 40)
		time.Sleep(1950 * time.Millisecond)
		d.call(t, l, t.Context(), "normal", 1)
		d.calls.Wait()
		assert.Equal(t, []int{30}, d.indexes("normal"), "20 had left when it came")
	})
}

func TestTheOutlookCountsThoseWhoHavePassed(t *testing.T) {
	for deadline, refused := range map[time.Duration]bool{17200 * time.Millisecond: true, 17800 * time.Millisecond: false} {
		synctest.Test(t, func(t *testing.T) {
			d := &departures{began: time.Now()}
			l := &RateLimit{Base: d, Limit: 1}
			d.call(t, l, t.Context(), "first", 1)
			d.call(t, l, t.Context(), "normal", 1)
			d.call(t, l, WithPriority(t.Context(), 1), "urgent", 40)
			time.Sleep(4500 * time.Millisecond) // four have passed
			resp, err := l.RoundTrip(get(t).WithContext(deadlineIn(t, deadline)))
			if refused {
				require.ErrorIs(t, err, ErrWaitTooLong)
			} else if assert.NoError(t, err) { // 6 others, one of its own and 10 more were ahead
				resp.Body.Close()
			}
			d.calls.Wait()
		})
	}
}

// Each comes when the one before it has left.
func TestUrgentRequestsThatComeOneByOneStarveNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &departures{began: time.Now()}
		l := &RateLimit{Base: d, Limit: 10}
		d.call(t, l, t.Context(), "normal", 5)
		for range 60 {
			d.call(t, l, WithPriority(t.Context(), 1), "urgent", 1)
			time.Sleep(100 * time.Millisecond)
		}
		d.calls.Wait()
		assert.Equal(t, []int{0, 11, 22, 33, 44}, d.indexes("normal"))
	})
}

// A line whose circuit is closed is served though another has those who are urgent.
func TestTheOverdueAreFoundInOtherLines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &departures{began: time.Now()}
		tr := &Transport{Base: d, RateLimit: RateLimit{Limit: 10, Key: func(*http.Request) string { return "one" }}}
		other := rtFunc(func(req *http.Request) (*http.Response, error) {
			req.URL.Host = "other.example.com"
			return tr.RoundTrip(req)
		})
		d.call(t, tr, WithPriority(t.Context(), 1), "urgent", 40)
		d.call(t, other, t.Context(), "normal", 2)
		d.calls.Wait()
		assert.Equal(t, []int{11, 22}, d.indexes("normal"))
	})
}

func TestWhoIsSentAgainKeepsItsPriority(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &departures{began: time.Now()}
		tr := &Transport{RateLimit: RateLimit{Limit: 1}, Base: rtFunc(func(req *http.Request) (*http.Response, error) {
			if resp, err := d.RoundTrip(req); len(d.names) > 1 || err != nil {
				return resp, err
			}
			return status(503)(req)
		})}
		d.call(t, tr, WithPriority(t.Context(), -1), "low", 2)
		d.call(t, tr, t.Context(), "normal", 2)
		d.calls.Wait()
		assert.Equal(t, []string{"low", "normal", "normal", "low", "low"}, d.names)
	})
}

func TestTheOutlookOfTheLessUrgentCountsThoseWhoPassThem(t *testing.T) {
	for _, row := range []struct {
		urgent, normal int
		deadline       time.Duration
		refused        bool
	}{
		{5, 0, 5500 * time.Millisecond, true}, // its turn is in 6
		{5, 0, 6500 * time.Millisecond, false},
		{5, 2, 7500 * time.Millisecond, true},
		{5, 2, 8500 * time.Millisecond, false},
		{30, 0, 10500 * time.Millisecond, true}, // ten pass it
		{30, 0, 11500 * time.Millisecond, false},
		{30, 1, 21500 * time.Millisecond, true},
		{30, 1, 22500 * time.Millisecond, false},
	} {
		synctest.Test(t, func(t *testing.T) {
			d := &departures{began: time.Now()}
			l := &RateLimit{Base: d, Limit: 1}
			d.call(t, l, t.Context(), "first", 1)
			d.call(t, l, WithPriority(t.Context(), 1), "urgent", row.urgent)
			d.call(t, l, t.Context(), "normal", row.normal)
			began := time.Now()
			resp, err := l.RoundTrip(get(t).WithContext(deadlineIn(t, row.deadline)))
			if row.refused {
				require.ErrorIs(t, err, ErrWaitTooLong, "%v", row)
				assert.Zero(t, time.Since(began))
			} else if assert.NoError(t, err, "%v", row) {
				resp.Body.Close()
			}
			d.calls.Wait()
		})
	}
}

// A pause has everybody looked at.
func TestAReviewCountsThoseWhoPassToo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGate(1, 1)
		add := func(priority int, deadline time.Duration) *turn {
			one := newTurn(get(t).WithContext(WithPriority(deadlineIn(t, deadline), priority)), time.Now(), wish{units: 1})
			g.insert(one)
			return one
		}
		g.own.AllowN(time.Now(), 1)
		for range 3 {
			add(1, time.Hour)
		}
		refused := []*turn{add(1, 3500*time.Millisecond), add(0, 4500*time.Millisecond), add(-1, 6*time.Second)}
		kept := []*turn{add(1, 4500*time.Millisecond), add(0, 5500*time.Millisecond), add(-1, 6500*time.Millisecond)}
		g.reviewAll(time.Now())
		for i := range refused {
			assert.Nil(t, refused[i].line, i)
			assert.NotNil(t, kept[i].line, i)
		}
	})
}

func TestAQueueKeepsTheOrderOfPriority(t *testing.T) {
	g := newGate(rate.Inf, 1)
	circuits := []*circuit{nil, (&Breaker{}).newCircuit(), (&Breaker{}).newCircuit()}
	var all []*turn // in order
	random := rand.New(rand.NewPCG(7, 8))
	began := time.Now()
	for range 3000 {
		if len(all) > 0 && random.IntN(3) == 0 {
			i := random.IntN(len(all))
			g.remove(all[i])
			all = slices.Delete(all, i, i+1)
		} else {
			one := newTurn(get(t), began.Add(time.Duration(random.IntN(1e9))), wish{circuit: circuits[random.IntN(3)]})
			one.priority = random.IntN(5) - 2
			one.ends = time.Duration(random.IntN(1000))
			g.insert(one)
			i := 0
			for i < len(all) && (all[i].priority > one.priority || all[i].priority == one.priority && !one.arrived.Before(all[i].arrived)) {
				i++
			}
			all = slices.Insert(all, i, one)
		}
		require.Equal(t, len(all), g.waiting())
		require.Equal(t, len(all)-count(all, func(one *turn) bool { return one.priority == 0 }), g.ranked)
		if len(all) == 0 {
			assert.Empty(t, g.lines)
			continue
		}
		require.Same(t, all[0], g.open.first().first)
		require.Same(t, all[len(all)-1], g.queue.last())
		i := random.IntN(len(all))
		require.Equal(t, i, g.queue.before(&all[i].inQueue))
		require.Equal(t, count(all, func(one *turn) bool { return one.priority > all[i].priority }), g.queue.above(all[i].priority))
		at := time.Duration(random.IntN(1000))
		if later := slices.IndexFunc(all, func(one *turn) bool { return one.ends > at }); later < 0 {
			require.Nil(t, g.queue.endsAfter(at))
		} else {
			require.Same(t, all[later], g.queue.endsAfter(at))
		}
		below := slices.IndexFunc(all, func(one *turn) bool { return one.priority < all[i].priority })
		if below < 0 {
			require.Nil(t, g.queue.below(all[i].priority))
		} else {
			require.Same(t, all[below], g.queue.below(all[i].priority))
		}
	}
	require.Equal(t, all, g.queue.all())
}

func count(all []*turn, is func(*turn) bool) (n int) {
	for _, one := range all {
		if is(one) {
			n++
		}
	}
	return n
}

func TestEventsTellOfThePlaceInTheQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &departures{began: time.Now()}
		var seen observed
		l := &RateLimit{Base: d, Limit: 1, Observe: seen.see}
		d.call(t, l, t.Context(), "first", 1)
		ctx := WithTenant(WithPriority(t.Context(), 1000), "alice")
		d.call(t, l, ctx, "alice", 1)
		ctx, cancel := context.WithTimeout(ctx, 100*time.Millisecond)
		defer cancel()
		_, err := l.RoundTrip(get(t).WithContext(ctx))
		require.ErrorIs(t, err, ErrWaitTooLong)
		d.call(t, l, t.Context(), "nobody", 1)
		d.calls.Wait()
		require.Equal(t, []EventKind{EventQueue, EventRefuse, EventQueue, EventWait, EventWait}, seen.kinds())
		for i, ev := range seen.events {
			if i == 2 || i == 4 {
				assert.Zero(t, ev.Priority, ev)
				assert.Empty(t, ev.Tenant, ev)
			} else {
				assert.Equal(t, 100, ev.Priority, ev)
				assert.Equal(t, "alice", ev.Tenant, ev)
			}
		}
		var log strings.Builder
		Log(slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug})))(ctx, seen.events[0])
		assert.Contains(t, log.String(), " priority=100 tenant=alice")
	})
}
