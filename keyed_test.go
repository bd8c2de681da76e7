package sturdy

import (
	"fmt"
	"math"
	"math/rand/v2"
	"net/http"
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/sturdyhttp/sturdy/internal/pace"
)

type fakeState struct {
	busy  bool
	asked *int // how often it was asked whether it is idle; nil if nobody counts
}

func (s *fakeState) idle() bool {
	if s.asked != nil {
		*s.asked++
	}
	return !s.busy
}

func newFake() *fakeState { return &fakeState{} }

func TestTheLongestUnusedKeyMakesRoom(t *testing.T) {
	var m keyed[*fakeState]
	for i := range maxKeys {
		m.release(m.use(key{name: fmt.Sprint(i)}, newFake))
	}
	m.release(m.use(key{name: "0"}, newFake)) // no longer the longest unused
	m.release(m.use(key{name: "new"}, newFake))
	assert.Len(t, m.entries, maxKeys)
	assert.Contains(t, m.entries, key{name: "0"})
	assert.NotContains(t, m.entries, key{name: "1"})
}

func TestAKeyInUseOrBusyStays(t *testing.T) {
	var m keyed[*fakeState]
	inUse := m.use(key{name: "in use"}, newFake)
	m.use(key{name: "busy"}, newFake).state.busy = true
	m.release(m.entries[key{name: "busy"}])
	for i := range 10 * maxKeys {
		m.release(m.use(key{name: fmt.Sprint(i)}, newFake))
	}
	assert.Len(t, m.entries, maxKeys)
	assert.Same(t, inUse, m.entries[key{name: "in use"}])
	assert.True(t, m.entries[key{name: "busy"}].state.busy)
	assert.Len(t, m.entries, m.order.Len())
}

func TestKeysAreBoundedEvenIfAllAreBusy(t *testing.T) {
	var m keyed[*fakeState]
	for i := range 2 * maxKeys {
		e := m.use(key{name: fmt.Sprint(i)}, newFake)
		e.state.busy = true
		m.release(e)
	}
	assert.Len(t, m.entries, maxKeys)
	assert.Contains(t, m.entries, key{name: "0"}, "the first to be busy are kept")
}

func TestANewKeyAmongManyInUseCostsTheSameHoweverManyThereAre(t *testing.T) {
	cost := func(n int) (asked int) {
		var m keyed[*fakeState]
		how := keeping[*fakeState]{most: n, fresh: func() *fakeState { return &fakeState{true, &asked} }}
		for i := range 2 * n {
			e, _ := m.useWithin(key{name: fmt.Sprint(i)}, how)
			m.release(e)
		}
		assert.Len(t, m.entries, n)
		return asked
	}
	few, many := cost(1_600), cost(16_000)
	t.Logf("asked %d times for 1,600 new keys among as many in use, %d times for 16,000", few, many)
	assert.LessOrEqual(t, many, 12*few)
}

func TestAnIdleKeyIsFoundAmongThoseThatAreBusy(t *testing.T) {
	var m keyed[*fakeState]
	how := keeping[*fakeState]{most: 1000, fresh: func() *fakeState { return &fakeState{busy: true} }}
	for i := range 1000 {
		e, _ := m.useWithin(key{name: fmt.Sprint(i)}, how)
		m.release(e)
	}
	m.entries[key{name: "700"}].state.busy = false
	e, _ := m.useWithin(key{name: "new"}, how)
	m.release(e)
	assert.Contains(t, m.entries, key{name: "new"})
	assert.NotContains(t, m.entries, key{name: "700"})
}

func TestAKeyWithoutRoomHasItsOwnStateWhileItIsInUse(t *testing.T) {
	var m keyed[*fakeState]
	how := keeping[*fakeState]{most: 1, fresh: newFake}
	kept, crowded := m.useWithin(key{name: "kept"}, how)
	assert.False(t, crowded)
	brief, crowded := m.useWithin(key{name: "a"}, how)
	assert.True(t, crowded)
	again, crowded := m.useWithin(key{name: "a"}, how)
	assert.False(t, crowded, "it was reported a moment ago")
	assert.Same(t, brief, again)
	assert.True(t, m.release(brief))
	assert.False(t, m.release(again), "nobody uses it any more")
	assert.NotContains(t, m.entries, key{name: "a"})

	busy, _ := m.useWithin(key{name: "b"}, how)
	busy.state.busy = true
	m.release(kept)
	assert.True(t, m.release(busy), "what is not idle gets the place of what is")
	assert.NotContains(t, m.entries, key{name: "kept"})
	assert.Contains(t, m.entries, key{name: "b"})
}

func one(*http.Request) int { return 1 }

// passes sends a request on behalf of a user, and reports whether it had not to wait.
func passes(t *testing.T, l *RateLimit, user string) bool {
	req := get(t)
	req.Header.Set("Authorization", "Bearer "+user)
	resp, err := l.RoundTrip(req)
	if err != nil {
		require.ErrorIs(t, err, ErrWaitTooLong)
		return false
	}
	require.NoError(t, resp.Body.Close())
	return true
}

func TestEveryUserIsHeldToTheLimitHoweverManyThereAre(t *testing.T) {
	for name, l := range map[string]*RateLimit{
		"Limit":  {Limit: 0.2, Burst: 2},
		"Tokens": {Tokens: 2. / 60, Cost: one}, // 2 at once
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var seen observed
				l.Base, l.MaxKeys, l.MaxWait, l.Observe = okBase{}, 1000, time.Nanosecond, seen.see
				const seconds = 12
				passed := make(map[string]int)
				for range seconds {
					for i := range 1500 {
						if user := fmt.Sprint(i); passes(t, l, user) {
							passed[user]++
						}
					}
					time.Sleep(time.Second)
				}
				for user, n := range passed {
					assert.LessOrEqual(t, n, 2+2, user)
				}
				keys := 0
				for _, ev := range seen.events {
					if ev.Kind == EventKeys {
						keys++
						assert.Equal(t, "(all others)", ev.Key)
					}
				}
				assert.Equal(t, 1, keys, "once, not for each request")
				states := l.Limits()
				assert.Len(t, states, 1001)
				assert.Equal(t, "(all others)", states[1000].Key)
			})
		})
	}
}

func TestThoseWhoShareABucketHaveNothingElseInCommon(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base := rtFunc(func(req *http.Request) (*http.Response, error) {
			if req.Header.Get("Authorization") == "Bearer refused" {
				return status(429, "Retry-After", "60", "X-RateLimit-Limit", "1", "X-RateLimit-Remaining", "0", "X-RateLimit-Reset", "60")(req)
			}
			return status(200)(req)
		})
		l := &RateLimit{Limit: 0.001, Burst: 5, MaxKeys: 1, MaxWait: time.Nanosecond, Base: base}
		require.True(t, passes(t, l, "first")) // its bucket is not full for long
		require.True(t, passes(t, l, "refused"))
		for range 4 {
			assert.True(t, passes(t, l, "another"), "a 429 is about whoever got it")
		}
		assert.False(t, passes(t, l, "another"), "the bucket of all others is empty")
	})
}

func TestAKeyThatGetsABucketOfItsOwnDoesNotHaveTwo(t *testing.T) {
	for name, l := range map[string]*RateLimit{
		"Limit":  {Limit: 0.1, Burst: 6},
		"Tokens": {Tokens: 6. / 60, Cost: one},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l.Base, l.MaxKeys, l.MaxWait = okBase{}, 1, time.Nanosecond
				require.True(t, passes(t, l, "first"))
				require.True(t, passes(t, l, "first"))
				time.Sleep(15 * time.Second)
				for range 6 {
					require.True(t, passes(t, l, "second"), "shared with nobody else")
				}
				require.False(t, passes(t, l, "second"))
				time.Sleep(20 * time.Second) // now the first makes room
				require.True(t, passes(t, l, "second"))
				require.Len(t, l.gates.entries, 1)
				n := 1
				for passes(t, l, "second") {
					n++
				}
				assert.LessOrEqual(t, n, 2)
			})
		})
	}
}

func TestWithoutALimitNothingIsSharedBeyondMaxKeys(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var seen observed
		l := &RateLimit{MaxKeys: 2, MaxWait: time.Nanosecond, Observe: seen.see, Base: script(status(429, "Retry-After", "60"))}
		for _, user := range []string{"a", "b", "c", "d"} {
			assert.True(t, passes(t, l, user), "nobody is held by a 429 to another")
		}
		assert.False(t, passes(t, l, "a"))
		assert.False(t, passes(t, l, "b"), "the pauses of those who were there first are kept")
		assert.Len(t, l.gates.entries, 2)
		assert.Contains(t, seen.kinds(), EventKeys)
	})
}

func TestAPauseIsNotGivenUpForIdleKeys(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &RateLimit{MaxKeys: 100, MaxWait: time.Nanosecond, Base: rtFunc(func(req *http.Request) (*http.Response, error) {
			if req.Header.Get("Authorization") == "Bearer refused" {
				return status(429, "Retry-After", "60")(req)
			}
			return status(200)(req)
		})}
		require.True(t, passes(t, l, "refused"))
		for i := range 1000 {
			require.True(t, passes(t, l, fmt.Sprint(i)))
		}
		assert.False(t, passes(t, l, "refused"))
		assert.Len(t, l.gates.entries, 100)
	})
}

func TestWhatRefusalsTaughtMakesRoomOnceItIsOld(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &RateLimit{Base: script(status(429))}
		sendAll(t, l, 1)
		sendAll(t, l, 1)
		g := l.gates.get(l.keyOf(get(t)))
		require.Equal(t, "refusals", l.Limits()[0].Source)
		for range pace.Forget / time.Minute {
			assert.False(t, g.idle())
			time.Sleep(time.Minute)
		}
		time.Sleep(time.Nanosecond)
		assert.True(t, g.idle(), "else those that were refused once leave no room for others")
	})
}

func TestNegativeMaxKeysIsAnyNumber(t *testing.T) {
	l := &RateLimit{MaxKeys: -1, Base: okBase{}}
	b := &Breaker{MaxKeys: -1, Base: l}
	for i := range maxKeys + 10 {
		req := get(t)
		req.URL.Host = fmt.Sprint(i)
		_, err := b.RoundTrip(req)
		require.NoError(t, err)
	}
	assert.Len(t, l.gates.entries, maxKeys+10)
	assert.Len(t, b.circuits.entries, maxKeys+10)
}

func TestACircuitThatCountsFailuresStays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var seen observed
		send := func(b *Breaker, host string) error {
			req := get(t)
			req.URL.Host = host
			_, err := b.RoundTrip(req)
			return err
		}
		b := &Breaker{MaxKeys: 2, Failures: 3, MaxWait: -1, Observe: seen.see, Base: rtFunc(func(req *http.Request) (*http.Response, error) {
			if req.URL.Host == "down" || req.URL.Host == "down, too" {
				return nil, errReset
			}
			return status(200)(req)
		})}
		for range 3 {
			assert.ErrorIs(t, send(b, "down"), errReset)
			for i := range 10 {
				require.NoError(t, send(b, fmt.Sprint(i)))
			}
		}
		require.ErrorIs(t, send(b, "down"), ErrCircuitOpen)
		assert.NotContains(t, seen.kinds(), EventKeys, "idle ones made room")

		b.Trip("https://tripped", time.Now().Add(time.Hour))
		for range 5 {
			assert.ErrorIs(t, send(b, "down, too"), errReset)
			require.NoError(t, send(b, "healthy"), "another's failures are not its own")
		}
		assert.Len(t, b.circuits.entries, 2)
		assert.Contains(t, seen.kinds(), EventKeys)

		b.Trip("https://third", time.Now().Add(30*time.Second))
		require.ErrorIs(t, send(b, "third"), ErrCircuitOpen, "what is opened by hand is, whether or not there is room")

		time.Sleep(time.Minute + 30*time.Second)
		require.NoError(t, send(b, "healthy"))
		assert.Contains(t, b.circuits.entries, key{scheme: "https", host: "healthy"}, "old failures make room")
	})
}

func TestManyKeysAtOnce(t *testing.T) {
	var m keyed[*fakeState]
	var wg sync.WaitGroup
	for i := range 100 {
		wg.Go(func() {
			for j := range 200 {
				e := m.use(key{name: fmt.Sprint(i * j % 2000)}, newFake)
				m.release(e)
			}
		})
	}
	wg.Wait()
	assert.LessOrEqual(t, len(m.entries), maxKeys)
	for _, e := range m.entries {
		assert.Zero(t, e.users.Load())
	}
}

func TestTheKeyOfARequest(t *testing.T) {
	of := func(l *RateLimit, rawURL string, header ...string) key {
		req, err := http.NewRequest(http.MethodGet, rawURL, http.NoBody)
		require.NoError(t, err)
		for i := 0; i < len(header); i += 2 {
			req.Header.Set(header[i], header[i+1])
		}
		return l.keyOf(req)
	}
	l := &RateLimit{}
	a := of(l, "https://API.example.com:443/v1?x=1")
	assert.Equal(t, a, of(l, "https://api.example.com/v2"), "case, default port and path do not matter")
	assert.Equal(t, "https://api.example.com", a.String())
	assert.NotEqual(t, a, of(l, "http://api.example.com/"))
	assert.NotEqual(t, a, of(l, "https://api.example.com:8443/"))
	for _, header := range []string{"Authorization", "X-Api-Key", "Api-Key", "X-Goog-Api-Key"} {
		one, two := of(l, "https://api.example.com/", header, "secret-1"), of(l, "https://api.example.com/", header, "secret-2")
		assert.NotEqual(t, one, two)
		assert.NotEqual(t, a, one)
		assert.Equal(t, one, of(l, "https://api.example.com/", header, "secret-1"))
		assert.NotContains(t, fmt.Sprintf("%+v %s", one, one), "secret")
		assert.NotEqual(t, one, of(&RateLimit{}, "https://api.example.com/", header, "secret-1"), "a fingerprint is worth nothing elsewhere")
	}
	for _, signature := range []string{
		"AWS4-HMAC-SHA256 Credential=AKID%[1]s/2026%[2]s/us-east-1/x/aws4_request, SignedHeaders=host, Signature=%[2]s",
		`Signature keyId="%[1]s",signature="%[2]s"`,
		`Digest username="%[1]s", nonce="%[2]s"`,
		`OAuth oauth_consumer_key="%[1]s", oauth_signature="%[2]s"`,
	} {
		signed := func(who, nonce string) key {
			return of(l, "https://h/", "Authorization", fmt.Sprintf(signature, who, nonce))
		}
		assert.Equal(t, signed("a", "1"), signed("a", "2"), "a signature is another each time")
		assert.NotEqual(t, signed("a", "1"), signed("b", "1"))
	}
	assert.NotEqual(t, of(l, "https://h/?key=a"), of(l, "https://h/?key=b"))
	assert.NotEqual(t, of(l, "https://u:a@h/"), of(l, "https://u:b@h/"))
}

func TestAPausedGateIsNotForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := (&RateLimit{Limit: 10, Burst: 2}).newGate()
		assert.True(t, g.idle())
		g.refused(&pass{}, time.Second, false, nil)
		assert.False(t, g.idle())
		time.Sleep(2 * time.Second)
		assert.True(t, g.idle(), "its bucket is full again")
		_, _, err := g.enter(get(t), wish{units: 1})
		require.NoError(t, err)
		assert.False(t, g.idle(), "a new one would have a full bucket")
	})
}

func TestAKeyInUseHasOneStateOnly(t *testing.T) {
	var m keyed[*fakeState]
	type holders struct {
		mu sync.Mutex
		n  int
		e  *entry[*fakeState]
	}
	held := make([]holders, maxKeys+100)
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			random := rand.New(rand.NewPCG(uint64(i), 0))
			for range 20_000 {
				// Some keys are used all the time, most hardly ever.
				n := int(float64(len(held)) * math.Pow(random.Float64(), 8))
				e := m.use(key{name: fmt.Sprint(n)}, newFake)
				h := &held[n]
				h.mu.Lock()
				if h.n++; h.n == 1 {
					h.e = e
				}
				assert.Same(t, h.e, e)
				h.mu.Unlock()
				if random.IntN(4) == 0 {
					runtime.Gosched()
				}
				h.mu.Lock()
				h.n--
				h.mu.Unlock()
				m.release(e)
			}
		})
	}
	wg.Wait()
	assert.Len(t, m.entries, m.order.Len())
	assert.LessOrEqual(t, len(m.entries), maxKeys)
	for _, e := range m.entries {
		assert.Zero(t, e.users.Load())
	}
}

func TestWhatIsForgottenIsNotUsedAgain(t *testing.T) {
	var m keyed[*fakeState]
	e := m.use(key{name: "a"}, newFake)
	assert.False(t, m.remove(e), "it is in use")
	m.release(e)
	assert.True(t, m.remove(e))
	assert.False(t, m.remove(e))
	assert.False(t, e.join(), "whoever found it before it was forgotten is late")
	assert.False(t, e.join())
	assert.NotSame(t, e, m.use(key{name: "a"}, newFake))
}

func TestATripOfACircuitInUseIsKeptThoughThereIsNoRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &Breaker{MaxKeys: 1, Base: bareFunc(func(req *http.Request) (*http.Response, error) { return after(time.Second, status(200))(req) })}
		var wg sync.WaitGroup
		for _, host := range []string{"a.example", "b.example"} {
			wg.Go(func() {
				resp, err := b.RoundTrip(newRequest(t, http.MethodGet, "http://"+host, nil))
				if assert.NoError(t, err) {
					resp.Body.Close()
				}
			})
			synctest.Wait()
		}
		b.Trip("http://b.example", time.Now().Add(time.Hour))
		wg.Wait()
		assert.Equal(t, StateOpen, b.State("http://b.example"))
	})
}
