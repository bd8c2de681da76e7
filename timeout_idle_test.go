package sturdy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// answers is a base that answers 200 with a body, which it makes of a request.
func answers(body func(*http.Request) io.ReadCloser) rtFunc {
	return func(req *http.Request) (*http.Response, error) {
		resp := answer(req, http.StatusOK, "")
		resp.Header.Set("X-Request-Id", "req_1")
		resp.Body, resp.ContentLength = body(req), -1
		return resp, nil
	}
}

// ticking returns a body that brings text every d, n times, and then stalls. It
// ends when it is closed, and not with a context.
func ticking(text string, d time.Duration, n int) io.ReadCloser {
	r, w := io.Pipe()
	go func() {
		for range n {
			time.Sleep(d)
			if _, err := io.WriteString(w, text); err != nil {
				return
			}
		}
	}()
	return r
}

// heedsContext is a body that stalls until the request's context ends, and does
// not end when it is closed.
type heedsContext struct{ ctx context.Context }

func (b heedsContext) Read([]byte) (int, error) {
	<-b.ctx.Done()
	return 0, context.Cause(b.ctx)
}
func (heedsContext) Close() error { return nil }

func TestABodyThatStallsWhileItIsReadEnds(t *testing.T) {
	for name, body := range map[string]func(*http.Request) io.ReadCloser{
		"by its context": func(req *http.Request) io.ReadCloser { return heedsContext{req.Context()} },
		"by its Close":   func(*http.Request) io.ReadCloser { return newStalledBody("") },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var seen observed
				var sent *http.Request
				rt := &Timeout{Idle: 30 * time.Second, Observe: seen.see, Base: answers(func(req *http.Request) io.ReadCloser {
					sent = req
					return body(req)
				})}
				resp, err := rt.RoundTrip(get(t))
				require.NoError(t, err)
				began := time.Now()
				n, err := resp.Body.Read(make([]byte, 8))
				assert.Equal(t, 30*time.Second, time.Since(began))
				assert.Zero(t, n)
				var e *Error
				require.ErrorAs(t, err, &e)
				assert.Equal(t, ErrTimeout, e.Class)
				assert.True(t, e.Timeout())
				assert.Equal(t, 200, e.StatusCode)
				assert.Equal(t, "req_1", e.RequestID)
				assert.Equal(t, "sturdy: timed out (200): no byte of the response's body in time: 30s", err.Error())
				assert.NotErrorIs(t, err, context.Canceled, "the caller cancelled nothing")
				assert.Equal(t, errIdleTimeout, context.Cause(sent.Context()), "the connection is given up")

				_, again := resp.Body.Read(make([]byte, 8))
				assert.Same(t, err, again)
				require.NoError(t, resp.Body.Close())
				assert.Equal(t, []EventKind{EventTimeout}, seen.kinds(), "it is told once")
				assert.Equal(t, 30*time.Second, time.Since(began))
			})
		})
	}
}

func TestAStallIsCountedFromTheLastByteThatWasRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rt := &Timeout{Idle: 30 * time.Second, Base: answers(func(*http.Request) io.ReadCloser { return ticking("x", 20*time.Second, 7) })}
		began := time.Now()
		resp, err := rt.RoundTrip(get(t))
		require.NoError(t, err)
		got, err := io.ReadAll(resp.Body)
		assert.ErrorIs(t, err, ErrTimeout)
		assert.Equal(t, "xxxxxxx", string(got))
		assert.Equal(t, 7*20*time.Second+30*time.Second, time.Since(began))
	})
}

func TestAStreamThatFlowsIsNeverCutAndKeepAlivesAreBytes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const ticks = 24 * 60 * 2
		rt := &Timeout{Idle: 30*time.Second + 1, Base: answers(func(*http.Request) io.ReadCloser {
			return ticking(": keep-alive\n\n", 30*time.Second, ticks)
		})}
		resp, err := rt.RoundTrip(get(t))
		require.NoError(t, err)
		_, err = io.ReadFull(resp.Body, make([]byte, ticks*len(": keep-alive\n\n")))
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
	})
}

func TestASlowReaderIsNotPunished(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rt := &Timeout{Idle: time.Second, Base: answers(func(*http.Request) io.ReadCloser {
			return io.NopCloser(strings.NewReader("text"))
		})}
		resp, err := rt.RoundTrip(get(t))
		require.NoError(t, err)
		var got []byte
		for p := make([]byte, 1); ; got = append(got, p...) {
			time.Sleep(time.Hour)
			if _, err = resp.Body.Read(p); err != nil {
				break
			}
		}
		assert.Equal(t, io.EOF, err)
		assert.Equal(t, "text", string(got))
	})
	for _, pause := range []time.Duration{10 * time.Second, 30 * time.Second, time.Hour} {
		synctest.Test(t, func(t *testing.T) {
			rt := &Timeout{Idle: 30 * time.Second, Base: answers(func(*http.Request) io.ReadCloser { return newStalledBody("x") })}
			resp, err := rt.RoundTrip(get(t))
			require.NoError(t, err)
			_, err = resp.Body.Read(make([]byte, 1))
			require.NoError(t, err)
			time.Sleep(pause)
			began := time.Now()
			_, err = resp.Body.Read(make([]byte, 1))
			assert.ErrorIs(t, err, ErrTimeout)
			assert.Equal(t, 30*time.Second, time.Since(began), "the wait counts, not the time since the last byte")
		})
	}
}

func TestWhatComesAsTheClockStrikesIsNotTakenBack(t *testing.T) {
	late := func(err error) rtFunc {
		return answers(func(req *http.Request) io.ReadCloser {
			return io.NopCloser(readerFunc(func(p []byte) (int, error) {
				<-req.Context().Done()
				return copy(p, "late"), err
			}))
		})
	}
	synctest.Test(t, func(t *testing.T) {
		resp, err := (&Timeout{Idle: time.Second, Base: late(nil)}).RoundTrip(get(t))
		require.NoError(t, err)
		got, err := io.ReadAll(resp.Body)
		assert.Equal(t, "late", string(got))
		assert.ErrorIs(t, err, ErrTimeout, "there may have been more")
	})
	synctest.Test(t, func(t *testing.T) {
		resp, err := (&Timeout{Idle: time.Second, Base: late(io.EOF)}).RoundTrip(get(t))
		require.NoError(t, err)
		got, err := io.ReadAll(resp.Body)
		assert.Equal(t, "late", string(got))
		assert.NoError(t, err, "it is whole")
	})
}

func TestTheCallersOwnEndIsNotAStall(t *testing.T) {
	why := errors.New("shutdown")
	for name, row := range map[string]struct{ cancelled, returns time.Duration }{
		"before":                   {29 * time.Second, 0},
		"before the read is ended": {31 * time.Second, 2 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithCancelCause(t.Context())
				time.AfterFunc(row.cancelled, func() { cancel(why) })
				rt := &Timeout{Idle: 30 * time.Second, Base: answers(func(req *http.Request) io.ReadCloser {
					return io.NopCloser(readerFunc(func([]byte) (int, error) {
						<-req.Context().Done()
						time.Sleep(row.returns)
						return 0, context.Cause(req.Context())
					}))
				})}
				resp, err := rt.RoundTrip(get(t).WithContext(ctx))
				require.NoError(t, err)
				_, err = resp.Body.Read(make([]byte, 1))
				assert.ErrorIs(t, err, why)
				assert.NotErrorIs(t, err, ErrTimeout)
			})
		})
	}
}

func TestAnUpgradedConnectionMayBeSilent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rt := &Timeout{Idle: time.Second, Base: rtFunc(func(req *http.Request) (*http.Response, error) {
			resp := answer(req, http.StatusSwitchingProtocols, "")
			resp.Body = ticking("x", time.Hour, 1)
			return resp, nil
		})}
		resp, err := rt.RoundTrip(get(t))
		require.NoError(t, err)
		_, err = resp.Body.Read(make([]byte, 1))
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
	})
}

func TestClosingABodyEndsItsReadAndItsClock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var seen observed
		var ctx context.Context
		body := &trackedBody{}
		stalled := newStalledBody("")
		body.Reader = stalled
		rt := &Timeout{Idle: time.Minute, Observe: seen.see, Base: answers(func(req *http.Request) io.ReadCloser {
			ctx = req.Context()
			return struct {
				io.Reader
				io.Closer
			}{stalled, closerFunc(func() error {
				_ = body.Close()
				return stalled.Close()
			})}
		})}
		resp, err := rt.RoundTrip(get(t))
		require.NoError(t, err)
		time.AfterFunc(time.Second, func() { _ = resp.Body.Close() })
		_, err = resp.Body.Read(make([]byte, 1))
		assert.Equal(t, http.ErrBodyReadAfterClose, err, "the base's own")
		synctest.Wait()
		assert.Error(t, ctx.Err())
		time.Sleep(time.Hour)
		require.NoError(t, resp.Body.Close())
		assert.Equal(t, 1, body.closes())
		assert.Empty(t, seen.kinds())
	})
}

type closerFunc func() error

func (f closerFunc) Close() error { return f() }

func TestAPanicInABodyIsNoStall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var seen observed
		rt := &Timeout{Idle: time.Second, Observe: seen.see, Base: answers(func(*http.Request) io.ReadCloser { return io.NopCloser(panicReader{}) })}
		resp, err := rt.RoundTrip(get(t))
		require.NoError(t, err)
		assert.PanicsWithValue(t, "read", func() { _, _ = resp.Body.Read(make([]byte, 1)) })
		time.Sleep(time.Hour)
		assert.Empty(t, seen.kinds())
	})
	synctest.Test(t, func(t *testing.T) {
		rt := &Timeout{Idle: time.Second, Base: answers(func(req *http.Request) io.ReadCloser {
			return struct {
				io.Reader
				io.Closer
			}{heedsContext{req.Context()}, panicCloser{}}
		})}
		resp, err := rt.RoundTrip(get(t))
		require.NoError(t, err)
		_, err = resp.Body.Read(make([]byte, 1))
		assert.ErrorIs(t, err, ErrTimeout, "nor does one in its Close end the program")
	})
}

func TestAStallTellsHowOftenTheRequestWasSent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var attempts []int
		rt := &Transport{
			Base:    script(status(503), answers(func(*http.Request) io.ReadCloser { return newStalledBody("x") })),
			Timeout: Timeout{Idle: time.Minute},
			Observe: func(_ context.Context, ev Event) {
				if ev.Kind == EventTimeout {
					attempts = append(attempts, ev.Attempt)
				}
			},
		}
		resp, err := rt.RoundTrip(get(t))
		require.NoError(t, err)
		_, err = io.ReadAll(resp.Body)
		var e *Error
		require.ErrorAs(t, err, &e)
		assert.Equal(t, 2, e.Attempts)
		assert.Equal(t, []int{2}, attempts)
		assert.False(t, e.unsent)
	})
}

func TestHeaderAndIdleBoundEachTheirPart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rt := &Timeout{
			Header: 10 * time.Second, Idle: time.Minute,
			Base: rtFunc(after(9*time.Second, answers(func(req *http.Request) io.ReadCloser { return heedsContext{req.Context()} }))),
		}
		began := time.Now()
		resp, err := rt.RoundTrip(get(t))
		require.NoError(t, err)
		_, err = resp.Body.Read(make([]byte, 1))
		assert.ErrorIs(t, err, errIdleTimeout)
		assert.Equal(t, 9*time.Second+time.Minute, time.Since(began))
	})
}

func TestALayerAboveHearsOfAStall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rt := &Timeout{Idle: time.Minute, Base: answers(func(*http.Request) io.ReadCloser { return newStalledBody("x") })}
		resp, err := rt.RoundTrip(get(t))
		require.NoError(t, err)
		var ends []error
		_, err = io.ReadAll(onEnd(resp.Body, func(err error) { ends = append(ends, err) }))
		require.ErrorIs(t, err, ErrTimeout)
		assert.Equal(t, []error{err}, ends)
	})
}

func TestIdleCostsAReadNoAllocation(t *testing.T) {
	rt := &Timeout{Idle: time.Hour, Base: answers(func(*http.Request) io.ReadCloser { return io.NopCloser(endlessReader{}) })}
	resp, err := rt.RoundTrip(get(t))
	require.NoError(t, err)
	defer resp.Body.Close()
	p := make([]byte, 1)
	assert.Zero(t, testing.AllocsPerRun(100, func() { _, _ = resp.Body.Read(p) }))
}

func TestAfterAnIdleTimeoutEveryReadSaysSo(t *testing.T) {
	for name, says := range map[string]error{"the end of the file": io.EOF, "that it is closed": http.ErrBodyReadAfterClose, "nothing": nil} {
		for _, hook := range []bool{false, true} {
			t.Run(fmt.Sprintf("of a body that says %s, hook: %v", name, hook), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					rt := &Timeout{Idle: time.Second, Base: answers(func(*http.Request) io.ReadCloser {
						return &closingBody{says: says, closed: make(chan struct{})}
					})}
					if hook {
						rt.Observe = func(context.Context, Event) { panic("hook") }
					}
					resp, err := rt.RoundTrip(get(t))
					require.NoError(t, err)
					defer resp.Body.Close()
					if hook {
						assert.PanicsWithValue(t, "hook", func() { _, _ = resp.Body.Read(make([]byte, 8)) })
					}
					for range 5 {
						n, err := resp.Body.Read(make([]byte, 8))
						assert.Zero(t, n)
						require.ErrorIs(t, err, ErrTimeout)
					}
					_, err = io.Copy(io.Discard, resp.Body)
					require.ErrorIs(t, err, ErrTimeout)
				})
			})
		}
	}
}

// A closingBody has nothing to read until it is closed.
type closingBody struct {
	says   error
	closed chan struct{}
	once   sync.Once
}

func (b *closingBody) Read([]byte) (int, error) {
	<-b.closed
	return 0, b.says
}

func (b *closingBody) Close() error {
	b.once.Do(func() { close(b.closed) })
	return nil
}
