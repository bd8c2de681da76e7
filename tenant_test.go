package sturdy

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/time/rate"
)

func TestTheFewRequestsOfATenantAreNotBehindTheManyOfAnother(t *testing.T) {
	for name, many := range map[string]string{"two with names": "many", "one without a name": ""} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := &departures{began: time.Now()}
				l := &RateLimit{Base: d, Limit: 10}
				d.call(t, l, WithTenant(t.Context(), many), "many", 1000)
				time.Sleep(2050 * time.Millisecond)
				d.call(t, l, WithTenant(t.Context(), "few"), "few", 10)
				d.calls.Wait()
				few := d.indexes("few")
				assert.Len(t, few, 10)
				assert.Equal(t, 22, few[0], "one is ahead")
				assert.Equal(t, 40, few[9])
			})
		})
	}
}

func TestTenantsTakeTurnsWithinAPriority(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &departures{began: time.Now()}
		l := &RateLimit{Base: d, Limit: 10}
		d.call(t, l, t.Context(), "first", 1)
		for _, priority := range []int{0, 1} {
			for _, tenant := range []string{"a", "b", "c"} {
				ctx := WithTenant(WithPriority(t.Context(), priority), tenant)
				d.call(t, l, ctx, fmt.Sprint(tenant, priority), map[string]int{"a": 3, "b": 1, "c": 2}[tenant])
			}
		}
		d.calls.Wait()
		assert.Equal(t, []string{"first", "a1", "b1", "c1", "a1", "c1", "a1", "a0", "b0", "c0", "a0", "c0", "a0"}, d.names)
	})
}

// Its next request comes when the one before is answered.
func TestATenantWithOneRequestAtATimeTakesNoMoreThanItsTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &departures{began: time.Now()}
		l := &RateLimit{Base: d, Limit: 10}
		d.call(t, l, WithTenant(t.Context(), "a"), "a", 30)
		d.call(t, l, WithTenant(t.Context(), "b"), "b", 30)
		for range 20 {
			resp, err := l.RoundTrip(get(t).WithContext(WithTenant(t.Context(), "alone")))
			require.NoError(t, err)
			resp.Body.Close()
		}
		d.calls.Wait()
		assert.InDelta(t, 20, len(slices.DeleteFunc(slices.Clone(d.names[:60]), func(name string) bool { return name != "" })), 2)
		assert.InDelta(t, 20, len(slices.DeleteFunc(slices.Clone(d.names[:60]), func(name string) bool { return name != "a" })), 2)
	})
}

// Two requests come in the time of one turn, each of another tenant.
func TestNewTenantsWithoutEndKeepNobodyFromItsTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &departures{began: time.Now()}
		l := &RateLimit{Base: d, Limit: 10}
		d.call(t, l, WithTenant(t.Context(), "old"), "old", 5)
		for i := range 200 {
			d.call(t, l, WithTenant(t.Context(), fmt.Sprint(i)), "new", 1)
			time.Sleep(50 * time.Millisecond)
		}
		d.calls.Wait()
		old := d.indexes("old")
		require.Len(t, old, 5)
		assert.Less(t, old[4], 40, "rounds of 2, 4, 8 and 16")
	})
}

// The requests of one tenant have no time to wait for as many rounds as were ahead of
// them when they came.
func TestWhoGivesUpLeavesItsPlaceToTheNextOfItsTenant(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGate(5, 1)
		left := make(map[string]int)
		var mu sync.Mutex
		var wg sync.WaitGroup
		ends := time.Now().Add(20 * time.Second)
		wait := func(tenant string, patience time.Duration) {
			ctx, cancel := context.WithTimeout(WithTenant(t.Context(), tenant), time.Hour)
			defer cancel()
			_, one, err := g.enter(get(t).WithContext(ctx), wish{units: 1})
			if err != nil || one == nil {
				return
			}
			select {
			case <-one.ready:
				mu.Lock()
				defer mu.Unlock()
				left[tenant]++
			case <-time.After(patience):
				g.quit(one)
			}
		}
		for time.Now().Before(ends) {
			wg.Go(func() { wait("patient", 30*time.Second) })
			wg.Go(func() { wait("hasty", 310*time.Millisecond) })
			time.Sleep(50 * time.Millisecond)
		}
		mu.Lock()
		assert.InDelta(t, 50, left["hasty"], 10, "half of the turns")
		assert.InDelta(t, 50, left["patient"], 10)
		mu.Unlock()
		wg.Wait()
		assert.Zero(t, g.waiting())
		assert.Nil(t, g.fair)
	})
}

func TestWhoIsSentAgainKeepsItsPlaceInItsTenant(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &departures{began: time.Now()}
		tr := &Transport{RateLimit: RateLimit{Limit: 1}, Base: rtFunc(func(req *http.Request) (*http.Response, error) {
			if resp, err := d.RoundTrip(req); len(d.names) != 2 || err != nil {
				return resp, err
			}
			return status(429, "Retry-After", "1")(req)
		})}
		d.call(t, tr, t.Context(), "first", 1)
		for i := range 3 {
			d.call(t, tr, WithTenant(t.Context(), "a"), fmt.Sprint("a", i), 1)
			time.Sleep(time.Millisecond)
		}
		d.call(t, tr, WithTenant(t.Context(), "b"), "b", 3)
		d.calls.Wait()
		assert.Equal(t, []string{"first", "a0", "b", "a0", "a1", "b", "a2", "b"}, d.names)
	})
}

// Requests come, give up and leave at random, in several lines.
func TestARandomQueueOfTenants(t *testing.T) {
	for seed := range uint64(20) {
		random := rand.New(rand.NewPCG(9, seed))
		wild := seed%2 == 0 // some are sent again, and some leave out of turn
		g := newGate(rate.Inf, 1)
		circuits := []*circuit{nil, (&Breaker{}).newCircuit(), (&Breaker{}).newCircuit()}
		var all []*turn
		now := time.Now()
		names := 1 + random.IntN(6)
		come := func() {
			now = now.Add(time.Duration(random.IntN(2)))
			one := newTurn(get(t), now, wish{circuit: circuits[random.IntN(3)]})
			one.attempts, one.priority = 1, random.IntN(2)
			if wild && random.IntN(2) == 0 {
				one.attempts, one.arrived = 2, now.Add(-time.Duration(random.IntN(20)))
			}
			if n := random.IntN(names); n > 0 {
				one.tenant = fmt.Sprint(n)
			}
			g.insert(one)
			all = append(all, one)
		}
		gone := func(one *turn) {
			i := slices.Index(all, one)
			all = slices.Delete(all, i, i+1)
			g.remove(one)
		}
		leave := func(one *turn) {
			if g.fair != nil {
				g.fair.leaves(one)
			}
			gone(one)
		}
		check := func() {
			t.Helper()
			order := g.queue.all()
			require.Len(t, order, len(all))
			require.True(t, slices.IsSortedFunc(order, func(a, b *turn) int {
				switch {
				case a.less(&b.place):
					return -1
				case b.less(&a.place):
					return 1
				}
				return 0
			}))
			last := make(map[tenancyKey]*turn)
			for i, one := range order {
				require.Equal(t, i, g.queue.before(&one.inQueue))
				if before := last[one.tenancy()]; before != nil {
					require.False(t, one.arrived.Before(before.arrived), "a tenant's are in the order of their arrival")
				}
				last[one.tenancy()] = one
			}
			if len(order) > 0 {
				require.False(t, order[0].less(&g.open.first().first.place))
			}
			for _, l := range g.lines {
				require.Same(t, l.turns.first(), l.first)
			}
			if g.fair == nil {
				return
			}
			require.NotEmpty(t, all)
			for key, those := range g.fair.tenants {
				require.Equal(t, count(all, func(one *turn) bool { return one.tenancy() == key && one.shares }), those.shared)
			}
			require.Len(t, g.fair.tenants, len(last))
			for flow, those := range g.fair.tenants {
				require.NotNil(t, last[flow])
				require.Same(t, last[flow], those.last())
			}
		}
		for range 400 {
			switch {
			case len(all) == 0 || random.IntN(5) < 3:
				come()
			case random.IntN(2) == 0:
				gone(all[random.IntN(len(all))])
			case wild && random.IntN(4) == 0:
				leave(all[random.IntN(len(all))])
			default:
				leave(g.queue.first())
			}
			check()
		}
		ahead := make(map[*turn]int)
		for _, one := range all {
			ahead[one] = g.ahead(one)
		}
		left := 0
		// Until the next of a tenant leaves, each other one leaves twice at most.
		since := make(map[tenancyKey]map[tenancyKey]int)
		for one := g.queue.first(); one != nil; one = g.queue.first() {
			for flow, those := range since {
				if flow.priority == one.priority && flow != one.tenancy() {
					those[one.tenancy()]++
					if g.fair.tenants[flow] != nil && !wild {
						require.LessOrEqual(t, those[one.tenancy()], 2, "seed %d: %v, while %v waits", seed, one.tenancy(), flow)
					}
				}
			}
			since[one.tenancy()] = make(map[tenancyKey]int)
			require.LessOrEqual(t, ahead[one], left, "so many leave before it at least")
			left++
			leave(one)
			check()
		}
		require.Nil(t, g.fair)
		require.Empty(t, g.lines)
	}
}

func TestTheOutlookOfATenantCountsTheTurnsOfOthers(t *testing.T) {
	for _, row := range []struct {
		own      int
		deadline time.Duration
		refused  bool
	}{
		{0, 1500 * time.Millisecond, true}, // one is ahead
		{0, 2500 * time.Millisecond, false},
		{3, 7500 * time.Millisecond, true}, // and four times one
		{3, 8500 * time.Millisecond, false},
	} {
		synctest.Test(t, func(t *testing.T) {
			d := &departures{began: time.Now()}
			l := &RateLimit{Base: d, Limit: 1}
			d.call(t, l, WithTenant(t.Context(), "many"), "many", 30)
			time.Sleep(time.Millisecond)
			ctx := WithTenant(t.Context(), "few")
			d.call(t, l, ctx, "few", row.own)
			ctx, cancel := context.WithTimeout(ctx, row.deadline)
			defer cancel()
			resp, err := l.RoundTrip(get(t).WithContext(ctx))
			if row.refused {
				require.ErrorIs(t, err, ErrWaitTooLong, "%v", row)
			} else if assert.NoError(t, err, "%v", row) {
				resp.Body.Close()
			}
			d.calls.Wait()
		})
	}
}

// Most of a tenant have given up, and their rounds are not needed.
func TestTheOutlookOfATenantCountsNobodyWhoIsGone(t *testing.T) {
	g := newGate(1, 1)
	come := func(tenant string) *turn {
		one := newTurn(get(t), time.Now(), wish{units: 1})
		one.tenant = tenant
		g.insert(one)
		return one
	}
	var those []*turn
	for range 50 {
		come("other")
		those = append(those, come("one"))
	}
	for _, one := range those[:48] {
		g.remove(one)
	}
	assert.Equal(t, 1, g.ahead(those[48]))
	assert.Equal(t, 3, g.ahead(those[49]))
	assert.Equal(t, 5, g.ahead(come("one")))
}

func TestWhoIsSentAgainBelongsInThePresentRound(t *testing.T) {
	g := newGate(1, 1)
	began := time.Now()
	come := func(tenant string, arrived time.Duration, attempts int) *turn {
		one := newTurn(get(t), began.Add(arrived), wish{units: 1})
		one.tenant, one.attempts = tenant, attempts
		g.insert(one)
		return one
	}
	first := come("a", 0, 1)
	second := come("b", 1, 1)
	come("c", 2, 1)
	g.fair.leaves(first)
	g.remove(first)
	assert.Same(t, second, g.queue.first())
	again := come("a", 0, 2)
	assert.Same(t, again, g.queue.first())
	next := come("a", 3, 1)
	assert.Equal(t, 3, g.queue.before(&next.inQueue))
}

// Each of n tenants has ten who wait, and then one more.
func TestTenantsCostNoWalkPastAllWhoWait(t *testing.T) {
	assertGrowsLittle(t, 1000, func(t *testing.T, n int) (steps int) {
		g := newGate(rate.Inf, 1)
		req := get(t)
		come := func(i int) *turn {
			one := newTurn(req, time.Now(), wish{units: 1})
			one.tenant = fmt.Sprint(i % n)
			g.insert(one)
			return one
		}
		for i := range 10 * n {
			come(i)
		}
		for i := range 100 {
			one := come(i)
			for _, at := range []*node{one.inQueue.up, one.inLine.up, one.ofTenant.up} {
				for ; at != nil; at = at.up {
					steps++
				}
			}
		}
		require.Len(t, g.fair.tenants, n)
		return steps
	})
}
