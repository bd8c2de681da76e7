package sturdy

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// defaultIs makes rt http.DefaultTransport for a test, which must not be parallel.
func defaultIs(t *testing.T, rt http.RoundTripper) {
	before := http.DefaultTransport
	http.DefaultTransport = rt
	t.Cleanup(func() { http.DefaultTransport = before })
}

// wrapper is middleware that sends a copy of the request with a context of its own.
type wrapper struct{ http.RoundTripper }

type wrapperKey struct{}

func (w wrapper) RoundTrip(req *http.Request) (*http.Response, error) {
	return w.RoundTripper.RoundTrip(req.Clone(context.WithValue(req.Context(), wrapperKey{}, 1)))
}

func TestALayerMayBeTheDefaultTransport(t *testing.T) {
	var hits atomic.Int32
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		hits.Add(1)
		_, _ = io.WriteString(w, "hello")
	}))
	defer server.Close()
	defer http.DefaultTransport.(*http.Transport).CloseIdleConnections()
	limit := RateLimit{Limit: 0.001, Burst: 1} // who passes it twice waits
	for name, layer := range map[string]func() http.RoundTripper{
		"Transport":          func() http.RoundTripper { return &Transport{RateLimit: RateLimit{Limit: limit.Limit, Burst: 1}} },
		"Retry":              func() http.RoundTripper { return &Retry{} },
		"RateLimit":          func() http.RoundTripper { return &RateLimit{Limit: limit.Limit} },
		"Breaker":            func() http.RoundTripper { return &Breaker{} },
		"Timeout":            func() http.RoundTripper { return &Timeout{Header: 1e12, Idle: 1e12} },
		"Stream":             func() http.RoundTripper { return &Stream{} },
		"StatusErrors":       func() http.RoundTripper { return &StatusErrors{} },
		"Breaker over Retry": func() http.RoundTripper { return &Breaker{Base: &Retry{}} },
		"RateLimit over all": func() http.RoundTripper {
			return &RateLimit{Limit: limit.Limit, Base: &Breaker{Base: &Timeout{Base: &Stream{}}}}
		},
	} {
		for way, wrap := range map[string]func(http.RoundTripper) http.RoundTripper{
			"itself":             func(rt http.RoundTripper) http.RoundTripper { return rt },
			"within a wrapper":   func(rt http.RoundTripper) http.RoundTripper { return wrapper{rt} },
			"within two of them": func(rt http.RoundTripper) http.RoundTripper { return wrapper{wrapper{rt}} },
		} {
			t.Run(name+" "+way, func(t *testing.T) {
				hits.Store(0)
				defaultIs(t, wrap(layer()))
				resp, err := http.Get(server.URL)
				require.NoError(t, err)
				body, err := io.ReadAll(resp.Body)
				require.NoError(t, err)
				require.NoError(t, resp.Body.Close())
				assert.Equal(t, "hello", string(body))
				assert.EqualValues(t, 1, hits.Load())
				http.DefaultClient.CloseIdleConnections()
			})
		}
	}
}

func TestAProbeThatComesBackDoesNotWaitForItself(t *testing.T) {
	var hits atomic.Int32
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if hits.Add(1) == 1 {
			w.WriteHeader(500)
		}
	}))
	defer server.Close()
	defer http.DefaultTransport.(*http.Transport).CloseIdleConnections()
	defaultIs(t, wrapper{&Breaker{Failures: 1, OpenFor: 1, Base: &Retry{Attempts: -1}}})
	for range 2 {
		resp, err := http.Get(server.URL)
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
	}
	assert.EqualValues(t, 2, hits.Load())
}

func TestANilBaseIsTheDefaultOfTheMoment(t *testing.T) {
	client := &http.Client{Transport: &Transport{}}
	var mocked atomic.Int32
	mock := rtFunc(func(req *http.Request) (*http.Response, error) {
		mocked.Add(1)
		return answer(req, 200, ""), nil
	})
	defaultIs(t, mock) // of a type that cannot be compared
	resp, err := client.Get("https://api.example.com/")
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	assert.EqualValues(t, 1, mocked.Load())

	// A layer that is not the one that the request came through is not left out.
	http.DefaultTransport = &RateLimit{Limit: 0.001, MaxWait: 1, Base: mock}
	client = &http.Client{Transport: &Retry{}}
	resp, err = client.Get("https://api.example.com/")
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	_, err = client.Get("https://api.example.com/")
	require.ErrorIs(t, err, ErrWaitTooLong)
	assert.EqualValues(t, 2, mocked.Load())
	client.CloseIdleConnections()
}

func TestAWrapperThatChangesTheURLEachTimeDoesNotComeBackForEver(t *testing.T) {
	for name, row := range map[string]struct {
		change func(*url.URL)
		most   int // times that the layer lets it pass
	}{
		"the query":  {func(u *url.URL) { u.RawQuery += "&nonce=1" }, 1},
		"the path":   {func(u *url.URL) { u.Path += "/v1" }, maxEntered},
		"the scheme": {func(u *url.URL) { u.Scheme += "s" }, maxEntered},
	} {
		t.Run(name, func(t *testing.T) {
			passed := 0
			var rewriting baseFunc
			layer := &Retry{Attempts: -1}
			rewriting = func(req *http.Request) (*http.Response, error) {
				if passed++; passed > 100 {
					return nil, errors.New("for ever")
				}
				req = req.Clone(req.Context())
				row.change(req.URL)
				return layer.RoundTrip(req)
			}
			before := initialTransport
			initialTransport = baseFunc(status(200))
			t.Cleanup(func() { initialTransport = before })
			defaultIs(t, rewriting)
			resp, err := http.DefaultTransport.RoundTrip(get(t))
			require.NoError(t, err)
			require.NoError(t, resp.Body.Close())
			assert.Equal(t, row.most+1, passed, "through the wrapper, as it is above the layer")
		})
	}
}

// idles counts how often it is asked to close what is idle.
type idles struct {
	rtFunc
	closed atomic.Int32
}

func (i *idles) CloseIdleConnections() { i.closed.Add(1) }

// lateDefault is middleware whose Base is http.DefaultTransport when it is used.
type lateDefault struct{}

func (lateDefault) RoundTrip(req *http.Request) (*http.Response, error) {
	return http.DefaultTransport.RoundTrip(req)
}

func (lateDefault) CloseIdleConnections() { http.DefaultClient.CloseIdleConnections() }

// forwarding is middleware that passes CloseIdleConnections on.
type forwarding struct{ http.RoundTripper }

func (f forwarding) CloseIdleConnections() {
	(&http.Client{Transport: f.RoundTripper}).CloseIdleConnections()
}

func TestIdleConnectionsAreClosedWhateverTheDefaultTransportIs(t *testing.T) {
	initial, before := new(idles), initialTransport
	initialTransport = initial
	t.Cleanup(func() { initialTransport = before })
	defaultIs(t, http.DefaultTransport)
	for name, layer := range everyLayer {
		for way, rt := range map[string]http.RoundTripper{
			"itself":                     layer(nil),
			"within a wrapper":           forwarding{layer(nil)},
			"around a wrapper":           layer(lateDefault{}),
			"around and within wrappers": forwarding{layer(forwarding{layer(lateDefault{})})},
		} {
			http.DefaultTransport = rt
			for range 2 {
				initial.closed.Store(0)
				http.DefaultClient.CloseIdleConnections()
				assert.Positive(t, initial.closed.Load(), "%s %s", name, way)
			}
		}
		mock, rt := new(idles), layer(nil)
		http.DefaultTransport = mock
		(&http.Client{Transport: rt}).CloseIdleConnections()
		assert.EqualValues(t, 1, mock.closed.Load(), "a mock below %s", name)
	}
}
