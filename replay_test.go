package sturdy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// once is a PUT whose body can be had only once.
func once(t testing.TB, body io.ReadCloser, length int) *http.Request {
	req := newRequest(t, http.MethodPut, "https://api.example.com/v1/files", nil)
	req.Body, req.ContentLength = body, int64(length)
	return req
}

// A source is a body that checks how it is used.
type source struct {
	io.Reader
	mu      sync.Mutex
	reads   int
	reading bool
	closes  int
	wrong   []string
}

func (s *source) Read(p []byte) (int, error) {
	s.mu.Lock()
	s.reads++
	if s.closes > 0 {
		s.wrong = append(s.wrong, "read after Close")
	}
	if s.reading {
		s.wrong = append(s.wrong, "two reads at once")
	}
	s.reading = true
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		s.reading = false
		s.mu.Unlock()
	}()
	return s.Reader.Read(p)
}

func (s *source) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closes++; s.closes > 1 {
		s.wrong = append(s.wrong, "closed twice")
	}
	if c, ok := s.Reader.(io.Closer); ok {
		return c.Close()
	}
	return nil
}

func (s *source) counts() (reads, closes int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.reads, s.closes
}

// check says that the body was closed once, and what was wrong before.
func (s *source) check(t *testing.T) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	assert.Empty(t, s.wrong)
	assert.Equal(t, 1, s.closes, "the body is closed once")
}

func TestASmallBodyWithoutGetBodyIsSentWholeEveryTime(t *testing.T) {
	const text = "the whole body"
	for name, reader := range map[string]func(io.Reader) io.Reader{
		"at once":       func(r io.Reader) io.Reader { return r },
		"byte by byte":  iotest.OneByteReader,
		"data with EOF": iotest.DataErrReader,
		"now and then nothing": func(r io.Reader) io.Reader {
			n := 0
			return readerFunc(func(p []byte) (int, error) {
				if n++; n%2 == 1 {
					return 0, nil
				}
				return r.Read(p)
			})
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				src := &source{Reader: reader(strings.NewReader(text))}
				var bodies []string
				r := &Retry{Base: baseFunc(func(req *http.Request) (*http.Response, error) {
					assert.EqualValues(t, len(text), req.ContentLength)
					b, err := io.ReadAll(req.Body)
					assert.NoError(t, err)
					bodies = append(bodies, string(b))
					_, closes := src.counts()
					assert.Zero(t, closes, "before the last attempt's body is")
					assert.NoError(t, req.Body.Close())
					return status([]int{503, 503, 200}[len(bodies)-1])(req)
				})}
				req := once(t, src, len(text))
				resp, err := r.RoundTrip(req)
				require.NoError(t, err)
				assert.Equal(t, 200, resp.StatusCode)
				assert.Equal(t, []string{text, text, text}, bodies)
				assert.Same(t, src, req.Body, "the caller's request is not changed")
				assert.Nil(t, req.GetBody)
				src.check(t)
			})
		})
	}
}

func TestWhatBodyIsKept(t *testing.T) {
	for name, row := range map[string]struct {
		retry    *Retry
		override *Retry
		size     int
		length   int64 // zero means size
		kept     bool
	}{
		"up to 64 KiB":                {size: 64 << 10, kept: true},
		"no more":                     {size: 64<<10 + 1},
		"none of unknown length":      {size: 10, length: -1},
		"as much as is said":          {retry: &Retry{ReplayBody: 100}, size: 100, kept: true},
		"and no more than that":       {retry: &Retry{ReplayBody: 100}, size: 101},
		"more than by default":        {retry: &Retry{ReplayBody: 1 << 20}, size: 1 << 20, kept: true},
		"none, if that is said":       {retry: &Retry{ReplayBody: -1}, size: 1},
		"none for a single attempt":   {retry: &Retry{Attempts: -1}, size: 1},
		"as WithRetry says":           {override: &Retry{ReplayBody: -1}, size: 1},
		"as the layer, not WithRetry": {retry: &Retry{ReplayBody: 1 << 20}, override: &Retry{Attempts: 3}, size: 1 << 20, kept: true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				src := &source{Reader: bytes.NewReader(make([]byte, row.size))}
				req := once(t, src, row.size)
				if row.length != 0 {
					req.ContentLength = row.length
				}
				if row.override != nil {
					req = req.WithContext(WithRetry(req.Context(), row.override))
				}
				var first io.ReadCloser
				base := script(status(503), status(200))
				r := row.retry
				if r == nil {
					r = new(Retry)
				}
				r.Base = baseFunc(func(req *http.Request) (*http.Response, error) {
					if first == nil {
						first = req.Body
					}
					return base.RoundTrip(req)
				})
				resp, err := r.RoundTrip(req)
				require.NoError(t, err)
				assert.NoError(t, resp.Body.Close())
				if row.kept {
					assert.Equal(t, 200, resp.StatusCode)
				} else {
					assert.Equal(t, 503, resp.StatusCode)
					assert.Same(t, src, first, "it is not even wrapped")
				}
				src.check(t)
			})
		})
	}
	within := &Retry{Base: rtFunc(status(503)), MinDelay: -1}
	var sent []io.ReadCloser
	within.Base = baseFunc(func(req *http.Request) (*http.Response, error) {
		sent = append(sent, req.Body)
		return rtFunc(status(200)).RoundTrip(req)
	})
	outer := &Retry{Attempts: -1, Base: within}
	src := &source{Reader: strings.NewReader("x")}
	_, err := outer.RoundTrip(once(t, src, 1))
	require.NoError(t, err)
	assert.Equal(t, []io.ReadCloser{src}, sent, "within a Retry that sends once, nothing is kept")
}

func TestABodyIsNotReadAhead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := &source{Reader: strings.NewReader("0123456789")}
		attempts := 0
		r := &Retry{Base: baseFunc(func(req *http.Request) (*http.Response, error) {
			defer req.Body.Close()
			attempts++
			_, err := req.GetBody()
			assert.Error(t, err, "while it is to be sent, it cannot be had again")
			synctest.Wait()
			reads, _ := src.counts()
			assert.Equal(t, attempts-1, reads, "nothing is read for an attempt that has not asked")
			if attempts == 3 {
				return status(200)(req)
			}
			n, err := io.ReadFull(req.Body, make([]byte, attempts))
			assert.NoError(t, err)
			assert.Equal(t, attempts, n)
			return status(503)(req)
		})}
		resp, err := r.RoundTrip(once(t, &source{Reader: readerFunc(func(p []byte) (int, error) { return src.Read(p[:1]) })}, 10))
		require.NoError(t, err)
		assert.Equal(t, 200, resp.StatusCode)
	})
}

func TestAnAttemptMayBeginWhileTheLastOneStillReads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pr, pw := io.Pipe()
		src := &source{Reader: pr}
		type sent struct {
			body string
			err  error
		}
		first := make(chan sent, 1)
		attempts := 0
		var second string
		r := &Retry{MinDelay: -1, Base: baseFunc(func(req *http.Request) (*http.Response, error) {
			attempts++
			if attempts == 1 { // answered early: the body is still being sent
				go func() {
					b, err := io.ReadAll(req.Body)
					req.Body.Close()
					first <- sent{string(b), err}
				}()
				synctest.Wait()
				return status(503)(req)
			}
			defer req.Body.Close()
			b, err := io.ReadAll(req.Body)
			assert.NoError(t, err)
			second = string(b)
			return status(200)(req)
		})}
		time.AfterFunc(time.Minute, func() {
			for _, part := range []string{"some ", "more ", "and the rest"} {
				_, _ = io.WriteString(pw, part)
			}
			pw.Close()
		})
		resp, err := r.RoundTrip(once(t, src, len("some more and the rest")))
		require.NoError(t, err)
		assert.Equal(t, 200, resp.StatusCode)
		assert.Equal(t, "some more and the rest", second)
		got := <-first
		assert.True(t, got.err == nil && got.body == second || errors.Is(got.err, http.ErrBodyReadAfterClose) && strings.HasPrefix(second, got.body),
			"the first attempt sends on what it can: %+v", got)
		src.check(t)
	})
}

func TestABodyThatIsClosedWhileItIsReadLosesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pr, pw := io.Pipe()
		src := &source{Reader: pr}
		attempts := 0
		r := &Retry{MinDelay: -1, Base: baseFunc(func(req *http.Request) (*http.Response, error) {
			if attempts++; attempts == 1 {
				read := make(chan error)
				go func() {
					_, err := req.Body.Read(make([]byte, 10))
					read <- err
				}()
				synctest.Wait()
				assert.NoError(t, req.Body.Close())
				assert.Equal(t, http.ErrBodyReadAfterClose, <-read, "HTTP/2 waits for its reader")
				return nil, errReset
			}
			time.AfterFunc(time.Minute, func() {
				_, _ = io.WriteString(pw, "all")
				pw.Close()
			})
			defer req.Body.Close()
			b, err := io.ReadAll(req.Body)
			assert.NoError(t, err)
			return answer(req, 200, string(b)), nil
		})}
		resp, err := r.RoundTrip(once(t, src, 3))
		require.NoError(t, err)
		b, err := io.ReadAll(resp.Body)
		require.NoError(t, err)
		assert.Equal(t, "all", string(b))
		src.check(t)
	})
}

func TestATransportMayHaveTheBodyAgainByItself(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const text = "the whole body"
		src := &source{Reader: iotest.OneByteReader(strings.NewReader(text))}
		attempts := 0
		r := &Retry{MinDelay: -1, Base: baseFunc(func(req *http.Request) (*http.Response, error) {
			attempts++
			for range 2 { // as after a GOAWAY
				_, err := io.ReadFull(req.Body, make([]byte, 3))
				assert.NoError(t, err)
				assert.NoError(t, req.Body.Close())
				if attempts == 1 {
					_, err = req.Body.Read(make([]byte, 1))
					assert.Equal(t, http.ErrBodyReadAfterClose, err)
				}
				body, err := req.GetBody()
				if !assert.NoError(t, err) {
					return nil, err
				}
				next := *req
				next.Body = body
				req = &next
			}
			defer req.Body.Close()
			b, err := io.ReadAll(req.Body)
			assert.NoError(t, err)
			assert.Equal(t, text, string(b))
			_, closes := src.counts()
			assert.Zero(t, closes)
			return status([]int{503, 200}[attempts-1])(req)
		})}
		resp, err := r.RoundTrip(once(t, src, len(text)))
		require.NoError(t, err)
		assert.Equal(t, 200, resp.StatusCode)
		src.check(t)
	})
}

func TestABodyIsClosedWithTheLastAttemptsBody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := &source{Reader: strings.NewReader("x")}
		var bodies []io.ReadCloser
		r := &Retry{Attempts: 2, MinDelay: -1, Base: baseFunc(func(req *http.Request) (*http.Response, error) {
			bodies = append(bodies, req.Body)
			return status(503)(req)
		})}
		resp, err := r.RoundTrip(once(t, src, 1))
		require.NoError(t, err)
		assert.NoError(t, resp.Body.Close())
		require.Len(t, bodies, 2)
		_, closes := src.counts()
		assert.Zero(t, closes, "it may still be sent after RoundTrip")
		assert.NoError(t, bodies[0].Close())
		_, closes = src.counts()
		assert.Zero(t, closes, "and not the first attempt decides")
		b, err := io.ReadAll(bodies[1])
		require.NoError(t, err)
		assert.Equal(t, "x", string(b))
		assert.NoError(t, bodies[1].Close())
		assert.NoError(t, bodies[1].Close())
		src.check(t)
	})
}

func TestABodyIsClosedThoughNothingIsSent(t *testing.T) {
	for name, row := range map[string]struct {
		rt  func(*source) http.RoundTripper
		end time.Duration // of the context
	}{
		"refused": {rt: func(*source) http.RoundTripper {
			b := &Breaker{Failures: 1, MaxWait: -1, Base: rtFunc(fails(errReset))}
			_, _ = b.RoundTrip(get(t))
			return &Retry{Base: b}
		}},
		"a setting that makes no sense": {rt: func(*source) http.RoundTripper {
			return &Retry{MinDelay: 2, MaxDelay: 1}
		}},
		"cancelled between attempts": {rt: func(*source) http.RoundTripper {
			return &Retry{Base: rtFunc(status(503, "Retry-After", "60"))}
		}, end: time.Second},
		"a panic of the base": {rt: func(src *source) http.RoundTripper {
			return &Retry{Base: baseFunc(func(req *http.Request) (*http.Response, error) {
				defer req.Body.Close()
				panic("base")
			})}
		}},
		"a panic of a hook": {rt: func(*source) http.RoundTripper {
			return &Retry{Base: rtFunc(status(503)), Observe: func(context.Context, Event) { panic("hook") }}
		}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				src := &source{Reader: strings.NewReader("x")}
				rt := row.rt(src)
				req := once(t, src, 1)
				if row.end > 0 {
					ctx, cancel := context.WithTimeout(req.Context(), row.end)
					defer cancel()
					req = req.WithContext(ctx)
				}
				func() {
					defer func() { _ = recover() }()
					resp, err := rt.RoundTrip(req)
					if err == nil {
						assert.NoError(t, resp.Body.Close())
					}
				}()
				synctest.Wait()
				src.check(t)
			})
		})
	}
}

func TestASourceThatIsNotWhatItsRequestSaysIsSentOnce(t *testing.T) {
	broken := errors.New("disk")
	for name, row := range map[string]struct {
		reader io.Reader
		body   string
		err    error
		thrown any
	}{
		"too short":   {reader: strings.NewReader("123"), body: "123"},
		"too long":    {reader: strings.NewReader(strings.Repeat("x", 1<<20)), body: "xxxxxx"},
		"broken":      {reader: io.MultiReader(strings.NewReader("123"), iotest.ErrReader(broken)), body: "123", err: broken},
		"panics":      {reader: panicReader{}, thrown: "read"},
		"is nonsense": {reader: readerFunc(func(p []byte) (int, error) { return len(p) + 1, nil }), thrown: "slice bounds"},
		"exits": {
			reader: readerFunc(func([]byte) (int, error) { runtime.Goexit(); return 0, nil }),
			err:    errors.New("sturdy: the request's body has ended the goroutine that read it"),
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				src := &source{Reader: row.reader}
				sent := 0
				r := &Retry{Base: baseFunc(func(req *http.Request) (*http.Response, error) {
					defer req.Body.Close()
					sent++
					b, err := io.ReadAll(req.Body)
					assert.Equal(t, row.body, string(b))
					assert.Equal(t, row.err, err)
					if _, err = req.GetBody(); err == nil {
						t.Error("it can be had again")
					}
					return status(503)(req)
				})}
				defer func() {
					v := recover()
					if row.thrown != nil {
						assert.Contains(t, fmt.Sprint(v), row.thrown)
					} else {
						assert.Nil(t, v)
					}
					assert.Equal(t, 1, sent)
					src.check(t)
				}()
				resp, err := r.RoundTrip(once(t, src, 5))
				require.NoError(t, err)
				assert.Equal(t, 503, resp.StatusCode)
				assert.NoError(t, resp.Body.Close())
			})
		})
	}
}

func TestASourceThatBlocksHoldsNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pr, _ := io.Pipe()
		src := &source{Reader: pr}
		sent := 0
		r := &Retry{Attempts: 3, Base: baseFunc(func(req *http.Request) (*http.Response, error) {
			sent++
			go func() { _, _ = io.Copy(io.Discard, req.Body) }()
			time.AfterFunc(time.Second, func() { req.Body.Close() })
			time.Sleep(2 * time.Second)
			return nil, errReset
		})}
		_, err := r.RoundTrip(once(t, src, 10))
		require.ErrorIs(t, err, errReset)
		assert.Equal(t, 3, sent)
		synctest.Wait()
		src.check(t)
	})
}

func TestTheReportHasABodyThatWasKept(t *testing.T) {
	const text = `{"model":"gpt-4o"}`
	src := &source{Reader: strings.NewReader(text)}
	resp, err := (&Retry{Base: rtFunc(status(400))}).RoundTrip(once(t, src, len(text)))
	require.NoError(t, err)
	r := Classify(resp, nil).Report().AddBody()
	assert.Equal(t, text, r.RequestBody)
	assert.Equal(t, "gpt-4o", r.Model)
	src.check(t)
}

func TestTenThousandBodiesAreSentAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &Retry{MinDelay: -1, Budget: &Budget{Size: -1}, Base: baseFunc(func(req *http.Request) (*http.Response, error) {
			body := make(chan []byte, 1)
			go func() {
				defer req.Body.Close()
				b, _ := io.ReadAll(req.Body)
				body <- b
			}()
			if attemptOf(req) < 3 {
				return status(503)(req) // early
			}
			return answer(req, 200, string(<-body)), nil
		})}
		var calls sync.WaitGroup
		sources := make([]*source, 10_000)
		for i := range sources {
			text := strings.Repeat(fmt.Sprint(i), 10)
			src := &source{Reader: strings.NewReader(text)}
			sources[i] = src
			calls.Go(func() {
				resp, err := r.RoundTrip(once(t, src, len(text)))
				if assert.NoError(t, err) {
					b, err := io.ReadAll(resp.Body)
					assert.NoError(t, err)
					assert.Equal(t, text, string(b))
				}
			})
		}
		calls.Wait()
		synctest.Wait()
		for _, src := range sources {
			src.check(t)
		}
	})
}
