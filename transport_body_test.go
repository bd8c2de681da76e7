package sturdy_test

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/sturdyhttp/sturdy"
)

func TestWhereTheBodyCannotBeHadAgainTheAnswerComesAsItIs(t *testing.T) {
	t.Parallel()
	overBoth(t, func(t *testing.T, p protocol) {
		s := p.serve(t, inTurn(answer(503, "try again later", "X-Which", "first"), fine))
		req := s.request(http.MethodPost, "")
		req.Body = io.NopCloser(strings.NewReader("only once"))
		req.ContentLength = -1
		o := s.do(s.client(&sturdy.Transport{}), req)
		require.NoError(t, o.err)
		require.ErrorIs(t, o.failure, sturdy.ErrOverloaded)
		assert.Equal(t, "try again later", o.body)
		assert.Equal(t, "first", o.resp.Header.Get("X-Which"))
		assert.Len(t, s.seen(), 1)
	})
}

func TestEveryAttemptSendsTheWholeBody(t *testing.T) {
	t.Parallel()
	body := strings.Repeat("0123456789abcdef", 1<<16)
	sum := sha256.Sum256([]byte(body))
	want := hex.EncodeToString(sum[:])
	overBoth(t, func(t *testing.T, p protocol) {
		var mu sync.Mutex
		var sums []string
		hashing := func(status int) http.HandlerFunc {
			return func(w http.ResponseWriter, r *http.Request) {
				h := sha256.New()
				n, err := io.Copy(h, r.Body)
				assert.NoError(t, err)
				assert.EqualValues(t, len(body), n)
				assert.EqualValues(t, len(body), r.ContentLength)
				mu.Lock()
				sums = append(sums, hex.EncodeToString(h.Sum(nil)))
				mu.Unlock()
				w.WriteHeader(status)
			}
		}
		early := func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(503) }

		t.Run("after answers to all of it", func(t *testing.T) {
			sums = nil
			s := p.serve(t, inTurn(hashing(503), hashing(500), hashing(200)))
			o := s.do(s.client(&sturdy.Transport{}), s.request(http.MethodPost, body))
			require.NoError(t, o.failure)
			assert.Equal(t, []string{want, want, want}, sums)
		})
		t.Run("after answers before its end", func(t *testing.T) {
			sums = nil
			s := p.serve(t, inTurn(early, early, hashing(200)))
			o := s.do(s.client(&sturdy.Transport{}), s.request(http.MethodPut, body))
			require.NoError(t, o.failure)
			assert.Equal(t, []string{want}, sums)
			assert.Len(t, s.seen(), 3)
		})
	})
}

func TestEventsUnderAnErrorStatusAreReadAsTheyCome(t *testing.T) {
	t.Parallel()
	overBoth(t, func(t *testing.T, p protocol) {
		heard := make(chan struct{})
		s := p.serve(t, func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body)
			w.Header().Set("Content-Type", "text/event-stream")
			w.WriteHeader(400)
			for range 3 {
				_, _ = io.WriteString(w, "data: {}\n\n")
				_ = http.NewResponseController(w).Flush()
				select {
				case <-heard:
				case <-r.Context().Done():
					return
				}
			}
		})
		resp, err := s.client(&sturdy.Transport{}).Do(s.request(http.MethodPost, "x"))
		require.NoError(t, err)
		defer resp.Body.Close()
		defer time.AfterFunc(guard, func() { resp.Body.Close() }).Stop()
		got := make([]byte, len("data: {}\n\n"))
		for range 3 {
			_, err := io.ReadFull(resp.Body, got)
			require.NoError(t, err)
			assert.Equal(t, "data: {}\n\n", string(got))
			heard <- struct{}{}
		}
		_, err = resp.Body.Read(got)
		assert.Equal(t, io.EOF, err)
	})
}

func TestTheLastAnswerComesByteForByte(t *testing.T) {
	t.Parallel()
	overBoth(t, func(t *testing.T, p protocol) {
		for name, size := range map[string]int{"short": 200, "longer than is looked at": 300 << 10} {
			t.Run(name, func(t *testing.T) {
				text := func(n int) string { return strings.Repeat(fmt.Sprintf("\x00\xff%d\r\n", n), size/5) }
				var n atomic.Int64
				s := p.serve(t, func(w http.ResponseWriter, _ *http.Request) {
					i := min(int(n.Add(1)), 3)
					w.Header()["X-Which"] = []string{fmt.Sprint(i), "b"}
					w.Header().Set("Date", "none")
					w.Header().Set("Content-Type", "application/x-bytes")
					w.Header().Set("Trailer", "X-After")
					w.WriteHeader(503)
					_, _ = io.WriteString(w, text(i))
					w.Header().Set("X-After", fmt.Sprint(i))
				})
				client := s.client(&sturdy.Transport{Retry: sturdy.Retry{Attempts: 3}})
				o := s.do(client, s.request(http.MethodPost, "body"))
				require.NoError(t, o.err)
				assert.Len(t, s.seen(), 3)
				assert.Equal(t, 503, o.status())
				assert.Equal(t, []string{"3", "b"}, o.resp.Header["X-Which"])
				assert.Equal(t, http.Header{"X-After": {"3"}}, o.resp.Trailer)
				assert.True(t, text(3) == o.body, "%d bytes", len(o.body))

				without := s.do(&http.Client{Transport: s.base}, s.request(http.MethodPost, "body"))
				require.NoError(t, without.err)
				assert.Equal(t, "false", o.resp.Header.Get("X-Should-Retry"), "the one thing that is added")
				o.resp.Header.Del("X-Should-Retry")
				assert.Equal(t, without.resp.Header, o.resp.Header)
				assert.Equal(t, without.resp.Trailer, o.resp.Trailer)
				assert.Equal(t, without.resp.Status, o.resp.Status)
				assert.Equal(t, without.resp.Proto, o.resp.Proto)
				assert.Equal(t, without.resp.ContentLength, o.resp.ContentLength)
				assert.Equal(t, without.resp.TransferEncoding, o.resp.TransferEncoding)
				assert.Equal(t, without.resp.Uncompressed, o.resp.Uncompressed)
				assert.Equal(t, without.resp.TLS != nil, o.resp.TLS != nil)
			})
		}
	})
}

func TestARedirectIsTheClientsToFollow(t *testing.T) {
	t.Parallel()
	overBoth(t, func(t *testing.T, p protocol) {
		s := p.serve(t, func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/" {
				http.Redirect(w, r, "/there", http.StatusFound)
				return
			}
			fine(w, r)
		})
		client := s.client(&sturdy.Transport{})
		resp, err := client.Transport.RoundTrip(s.request(http.MethodGet, ""))
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
		assert.Equal(t, http.StatusFound, resp.StatusCode)
		assert.Equal(t, "/there", resp.Header.Get("Location"))
		assert.Len(t, s.seen(), 1)

		var asked []string
		client.CheckRedirect = func(req *http.Request, via []*http.Request) error {
			assert.Len(t, via, 1)
			asked = append(asked, req.URL.Path)
			return nil
		}
		o := s.do(client, s.request(http.MethodGet, ""))
		require.NoError(t, o.failure)
		assert.Equal(t, "fine", o.body)
		assert.Equal(t, []string{"/there"}, asked)
		assert.Len(t, s.seen(), 3)
	})
}

func TestRetriesUseTheConnectionsThatAreThere(t *testing.T) {
	t.Parallel()
	const callers, calls = 4, 100
	body := strings.Repeat("overloaded ", 1000)
	overBoth(t, func(t *testing.T, p protocol) {
		synctest.Test(t, func(t *testing.T) {
			var met sync.Map                   // how often a call was answered
			var together sync.WaitGroup        // until each caller has its own connection
			if together.Add(callers); p == 2 { // or the first one has it for all
				together.Add(1 - callers)
			}
			var came atomic.Int32
			s := p.serveInBubble(t, func(w http.ResponseWriter, r *http.Request) {
				if int(came.Add(1)) <= callers && p == 1 {
					together.Done()
					together.Wait()
				}
				n, _ := met.LoadOrStore(r.Header.Get("X-Call"), new(atomic.Int32))
				if n, _ := n.(*atomic.Int32); n.Add(1) <= 2 {
					answer(503, body)(w, r)
					return
				}
				fine(w, r)
			})
			s.base.MaxIdleConnsPerHost = callers
			client := s.client(&sturdy.Transport{Retry: sturdy.Retry{Budget: &sturdy.Budget{Size: -1}}})
			call := func(id string) {
				o := s.do(client, s.request(http.MethodPost, "body", "X-Call", id))
				assert.NoError(t, o.failure)
			}
			if p == 2 {
				call("to connect")
			}
			var wg sync.WaitGroup
			for i := range callers {
				wg.Go(func() {
					for j := range calls / callers {
						call(fmt.Sprint(i, "-", j))
					}
				})
			}
			wg.Wait()
			want := callers
			if p == 2 {
				want = 1
				assert.Len(t, s.seen(), 3*(calls+1))
			} else {
				assert.Len(t, s.seen(), 3*calls)
			}
			t.Logf("%d requests over %d connections", len(s.seen()), s.opened.Load())
			assert.EqualValues(t, want, s.opened.Load())
		})
	})
}

func TestTheCallersRequestIsNeverChanged(t *testing.T) {
	t.Parallel()
	overBoth(t, func(t *testing.T, p protocol) {
		s := p.serve(t, inTurn(answer(503, ""), resetting, answer(408, ""), fine))
		req := s.request(http.MethodPost, "body", "Idempotency-Key", "k", "Authorization", "Bearer secret")
		body := &struct{ io.ReadCloser }{req.Body}
		req.Body = body
		header, target, before := req.Header.Clone(), *req.URL, *req
		getBody := 0
		get := req.GetBody
		req.GetBody = func() (io.ReadCloser, error) {
			getBody++
			return get()
		}
		o := s.do(s.client(&sturdy.Transport{Timeout: sturdy.Timeout{Header: time.Minute}}), req)
		require.NoError(t, o.failure)
		require.Len(t, s.seen(), 4)

		assert.Equal(t, header, req.Header)
		assert.Equal(t, target, *req.URL)
		assert.Same(t, before.URL, req.URL)
		assert.Same(t, body, req.Body)
		assert.Equal(t, 3, getBody, "once for each further attempt")
		assert.Equal(t, before.Context(), req.Context())
		assert.Equal(t, before.Host, req.Host)
		assert.Equal(t, before.Method, req.Method)
		assert.Equal(t, before.ContentLength, req.ContentLength)
		assert.Nil(t, req.TransferEncoding)
		assert.Nil(t, req.Trailer)
	})
}
