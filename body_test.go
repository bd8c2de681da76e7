package sturdy

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestAPeekedBodyReadsAsBefore(t *testing.T) {
	long := strings.Repeat("0123456789", 20_000)
	for name, body := range map[string]io.Reader{
		"short":         strings.NewReader("short"),
		"empty":         strings.NewReader(""),
		"long":          strings.NewReader(long),
		"byte by byte":  iotest.OneByteReader(strings.NewReader(long[:5000])),
		"data with EOF": iotest.DataErrReader(strings.NewReader(long)),
		"at the limit":  strings.NewReader(long[:peekBytes]),
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var want bytes.Buffer
				p := peek(get(t), io.NopCloser(io.TeeReader(body, &want)))
				got, err := io.ReadAll(p)
				require.NoError(t, err)
				assert.Equal(t, want.String(), string(got))
				ahead, _ := p.bytes()
				assert.LessOrEqual(t, len(ahead), peekBytes)
			})
		})
	}
}

func TestPeekKeepsAnErrorForItsReader(t *testing.T) {
	broken := errors.New("broken")
	p := peek(get(t), io.NopCloser(io.MultiReader(strings.NewReader("some"), iotest.ErrReader(broken))))
	got, err := io.ReadAll(p)
	assert.Equal(t, "some", string(got))
	assert.Equal(t, broken, err)
	_, whole := p.bytes()
	assert.False(t, whole)
}

func TestPeekIsBoundedInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		stalled := newStalledBody("begin")
		p := peek(get(t), stalled)
		assert.Equal(t, peekTime, time.Since(began))
		ahead, whole := p.bytes()
		assert.Equal(t, "begin", string(ahead))
		assert.False(t, whole)
		require.NoError(t, p.Close(), "ends the read that is under way")
		_, err := p.Read(make([]byte, 1))
		assert.Equal(t, http.ErrBodyReadAfterClose, err)
	})
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		began := time.Now()
		require.NoError(t, peek(get(t).WithContext(ctx), newStalledBody("")).Close())
		assert.Equal(t, 100*time.Millisecond, time.Since(began), "less when the context ends sooner")
	})
}

func TestABodyThatIsSlowIsReadToItsEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, w := io.Pipe()
		go func() {
			for range 10 {
				_, _ = w.Write([]byte("tick "))
				time.Sleep(100 * time.Millisecond)
			}
			w.Close()
		}()
		got, err := io.ReadAll(peek(get(t), r))
		require.NoError(t, err)
		assert.Equal(t, strings.Repeat("tick ", 10), string(got))
	})
}

func TestBytesThatHaveComeAreReadableAtOnce(t *testing.T) {
	for name, read := range map[string]func(*testing.T, io.Reader, string){
		"in one read": func(t *testing.T, body io.Reader, want string) {
			got := make([]byte, 100)
			n, err := body.Read(got)
			require.NoError(t, err)
			assert.Equal(t, want, string(got[:n]))
		},
		"byte by byte": func(t *testing.T, body io.Reader, want string) {
			got, err := io.ReadAll(io.LimitReader(iotest.OneByteReader(body), int64(len(want))))
			require.NoError(t, err)
			assert.Equal(t, want, string(got))
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r, w := io.Pipe()
				base := rtFunc(func(req *http.Request) (*http.Response, error) {
					resp := answer(req, 400, "")
					resp.Body = r
					return resp, nil
				})
				go func() { _, _ = io.WriteString(w, "event: error\n\n") }()
				resp, err := (&Transport{Base: base}).RoundTrip(get(t))
				require.NoError(t, err)
				came := time.Now()
				read(t, resp.Body, "event: error\n\n")
				assert.Equal(t, came, time.Now(), "no wait for the next event")

				for i := range 3 {
					next := strings.Repeat("x", i+1)
					time.AfterFunc(time.Hour, func() { _, _ = io.WriteString(w, next) })
					read(t, resp.Body, next)
				}
				time.AfterFunc(time.Hour, func() { w.Close() })
				rest, err := io.ReadAll(resp.Body)
				require.NoError(t, err)
				assert.Empty(t, rest)
			})
		})
	}
}

func TestCloseEndsAReadOfABodyThatWasReadAhead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := peek(get(t), newStalledBody("begin"))
		got := make([]byte, 10)
		n, err := p.Read(got)
		require.NoError(t, err)
		require.Equal(t, "begin", string(got[:n]))
		time.AfterFunc(time.Hour, func() { p.Close() })
		_, err = p.Read(got)
		assert.Equal(t, http.ErrBodyReadAfterClose, err)
	})
}

func TestAPanicOfTheReadUnderWayBelongsToTheReader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		reads := 0
		p := peek(get(t), io.NopCloser(readerFunc(func(b []byte) (int, error) {
			if reads++; reads == 1 {
				return copy(b, "begin"), nil
			}
			time.Sleep(time.Hour)
			panic("read")
		})))
		got := make([]byte, 10)
		n, err := p.Read(got)
		require.NoError(t, err)
		assert.Equal(t, "begin", string(got[:n]))
		assert.PanicsWithValue(t, "read", func() { _, _ = p.Read(got) })
	})
}

func TestAPanicInABodyBelongsToItsReader(t *testing.T) {
	p := peek(get(t), io.NopCloser(panicReader{}))
	assert.PanicsWithValue(t, "read", func() { _, _ = p.Read(make([]byte, 1)) })
	<-discard(io.NopCloser(panicReader{}))
}

type panicReader struct{}

func (panicReader) Read([]byte) (int, error) { panic("read") }

func TestDiscardIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		stalled := newStalledBody("begin")
		<-discard(stalled)
		assert.Equal(t, drainTime, time.Since(began), "in time")
		synctest.Wait()
		assert.True(t, stalled.isClosed())

		endless := &trackedBody{Reader: endlessReader{}}
		<-discard(endless)
		assert.Equal(t, drainTime, time.Since(began), "and in bytes")
		assert.Equal(t, 1, endless.closes())
	})
}

type endlessReader struct{}

func (endlessReader) Read(p []byte) (int, error) { return len(p), nil }

func TestTheEndOfABodyIsToldOnceAndOfTheFirstThatEndsIt(t *testing.T) {
	broken := errors.New("broken")
	readAll := func(b io.ReadCloser) { _, _ = io.ReadAll(b) }
	for name, row := range map[string]struct {
		body io.Reader
		use  func(io.ReadCloser)
		want error
	}{
		"end of file":        {strings.NewReader("x"), readAll, nil},
		"data with EOF":      {iotest.DataErrReader(strings.NewReader("x")), readAll, nil},
		"error":              {iotest.ErrReader(broken), readAll, broken},
		"Close":              {strings.NewReader("x"), func(b io.ReadCloser) { _ = b.Close() }, nil},
		"error after Close":  {iotest.ErrReader(broken), func(b io.ReadCloser) { _ = b.Close(); readAll(b) }, nil},
		"WriteTo, whole":     {strings.NewReader("x"), func(b io.ReadCloser) { _, _ = io.Copy(io.Discard, b) }, nil},
		"WriteTo, not read":  {strings.NewReader("x"), func(b io.ReadCloser) { _, _ = io.Copy(failingWriter{}, b); _ = b.Close() }, nil},
		"WriteTo, broken":    {failingWriterTo{broken}, func(b io.ReadCloser) { _, _ = io.Copy(io.Discard, b) }, broken},
		"WriteTo, then EOF":  {strings.NewReader("x"), func(b io.ReadCloser) { _, _ = io.Copy(failingWriter{}, b); readAll(b) }, nil},
		"Read of a WriterTo": {bytes.NewReader([]byte("x")), readAll, nil},
	} {
		t.Run(name, func(t *testing.T) {
			var ends []error
			b := onEnd(io.NopCloser(row.body), func(err error) { ends = append(ends, err) })
			row.use(b)
			require.Equal(t, []error{row.want}, ends)
			readAll(b)
			_ = b.Close()
			_ = b.Close()
			assert.Len(t, ends, 1)
		})
	}
}

func TestABodyThatIsClosedWhileItIsReadHasNotFailed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var ends []error
		stalled := newStalledBody("")
		b := onEnd(struct {
			io.Reader
			io.Closer
		}{stalled, closerFunc(func() error {
			defer time.Sleep(time.Second) // the read returns before
			return stalled.Close()
		})}, func(err error) { ends = append(ends, err) })
		read := make(chan error)
		go func() {
			_, err := b.Read(make([]byte, 1))
			read <- err
		}()
		synctest.Wait()
		require.NoError(t, b.Close())
		require.Error(t, <-read)
		assert.Equal(t, []error{nil}, ends)
	})
}

func TestTheEndOfABodyIsToldThoughItsClosePanics(t *testing.T) {
	var ends []error
	b := onEnd(struct {
		io.Reader
		io.Closer
	}{strings.NewReader(""), panicCloser{}}, func(err error) { ends = append(ends, err) })
	assert.PanicsWithValue(t, "close", func() { _ = b.Close() })
	assert.Equal(t, []error{nil}, ends)
}

func TestAHookKeepsWhatElseABodyCanDo(t *testing.T) {
	type writer struct {
		io.ReadCloser
		io.Writer
	}
	type both struct {
		io.ReadCloser
		io.Writer
		io.WriterTo
	}
	plain := struct{ io.ReadCloser }{http.NoBody}
	for name, row := range map[string]struct {
		body             io.ReadCloser
		writer, writerTo bool
	}{
		"neither":  {plain, false, false},
		"Writer":   {writer{plain, io.Discard}, true, false},
		"WriterTo": {http.NoBody, false, true},
		"both":     {both{plain, io.Discard, http.NoBody}, true, true},
	} {
		b := onEnd(row.body, func(error) {})
		_, isWriter := b.(io.Writer)
		_, isWriterTo := b.(io.WriterTo)
		assert.Equal(t, row.writer, isWriter, name)
		assert.Equal(t, row.writerTo, isWriterTo, name)
	}
}

type panicCloser struct{}

func (panicCloser) Close() error { panic("close") }

type failingWriter struct{}

func (failingWriter) Write([]byte) (int, error) { return 0, errors.New("no room") }

type failingWriterTo struct{ err error }

func (f failingWriterTo) Read([]byte) (int, error)         { return 0, f.err }
func (f failingWriterTo) WriteTo(io.Writer) (int64, error) { return 0, f.err }

func TestAnErrorBodyIsReadOnceHoweverManyLayersAsk(t *testing.T) {
	reads := 0
	base := rtFunc(func(req *http.Request) (*http.Response, error) {
		resp, err := status(401)(req)
		inner := resp.Body
		resp.Body = io.NopCloser(readerFunc(func(p []byte) (int, error) {
			reads++
			return inner.Read(p)
		}))
		return resp, err
	})
	resp, err := (&Transport{Base: base}).RoundTrip(get(t))
	require.NoError(t, err)
	e := Classify(resp, nil)
	assert.Equal(t, 2, reads, "the text and its end")
	assert.Same(t, e, Classify(resp, nil))
	resp.StatusCode = 404
	assert.Equal(t, ErrNotFound, Classify(resp, nil).Class, "an answer that somebody changed is judged anew")
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }
