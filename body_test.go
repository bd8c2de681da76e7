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
		assert.True(t, stalled.isClosed())

		endless := &trackedBody{Reader: endlessReader{}}
		<-discard(endless)
		assert.Equal(t, drainTime, time.Since(began), "and in bytes")
		assert.Equal(t, 1, endless.closes())
	})
}

type endlessReader struct{}

func (endlessReader) Read(p []byte) (int, error) { return len(p), nil }

func TestTheEndOfABodyIsSeenOnce(t *testing.T) {
	broken := errors.New("broken")
	for name, body := range map[string]io.Reader{
		"EOF":   strings.NewReader("x"),
		"error": iotest.ErrReader(broken),
	} {
		ends := 0
		b := onEnd(io.NopCloser(body), func() { ends++ })
		_, _ = io.ReadAll(b)
		assert.Equal(t, 1, ends, name)
		_, _ = io.ReadAll(b)
		_ = b.Close()
		_ = b.Close()
		assert.Equal(t, 1, ends, name)
	}
	ends := 0
	require.NoError(t, onEnd(http.NoBody, func() { ends++ }).Close())
	assert.Equal(t, 1, ends, "Close")
}

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
