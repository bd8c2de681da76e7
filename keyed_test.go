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
)

type fakeState struct{ busy bool }

func (s *fakeState) idle() bool { return !s.busy }

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
