package sturdytest_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/sturdyhttp/sturdy/sturdytest"
)

const apiURL = "https://api.example.com/v1/chat"

// newRequest returns a POST with a body that counts what is done to it.
func newRequest(t *testing.T, ctx context.Context, body string) (*http.Request, *upload) {
	t.Helper()
	up := &upload{r: strings.NewReader(body)}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, apiURL, up)
	require.NoError(t, err)
	req.ContentLength = int64(len(body))
	return req, up
}

// An upload is a request body that tells what was done to it.
type upload struct {
	mu     sync.Mutex
	r      io.Reader
	read   int
	eof    bool
	closed int
	late   int // reads after Close
}

func (u *upload) Read(p []byte) (int, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.closed > 0 {
		u.late++
	}
	n, err := u.r.Read(p)
	u.read += n
	u.eof = u.eof || err == io.EOF
	return n, err
}

func (u *upload) Close() error {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.closed++
	return nil
}

func (u *upload) state() (read int, eof bool, closed, late int) {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.read, u.eof, u.closed, u.late
}

func roundTrip(t *testing.T, rt http.RoundTripper) (*http.Response, error) {
	t.Helper()
	req, _ := newRequest(t, t.Context(), "hello")
	return rt.RoundTrip(req)
}

// statusOf plays one request to its end and returns its status.
func statusOf(t *testing.T, rt http.RoundTripper) int {
	t.Helper()
	resp, err := roundTrip(t, rt)
	require.NoError(t, err)
	_, err = io.Copy(io.Discard, resp.Body)
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	return resp.StatusCode
}

// reporter is a testing.TB that keeps what is reported to it.
type reporter struct {
	testing.TB
	errors []string
}

func (r *reporter) Helper() {}
func (r *reporter) Errorf(format string, args ...any) {
	r.errors = append(r.errors, fmt.Sprintf(format, args...))
}

func done(rt *sturdytest.Player) []string {
	var r reporter
	rt.Done(&r)
	return r.errors
}

func TestStepsAreTakenInTheirOrder(t *testing.T) {
	rt := sturdytest.Script(sturdytest.Status(503), sturdytest.RateLimited(time.Second), sturdytest.OK(`{}`))
	assert.Equal(t, 503, statusOf(t, rt))
	assert.Equal(t, 429, statusOf(t, rt))
	assert.Equal(t, 200, statusOf(t, rt))
	rt.Done(t)
}

func TestTimesStandsForSoManySteps(t *testing.T) {
	rt := sturdytest.Script(sturdytest.Status(500).Times(0), sturdytest.Status(503).Times(2), sturdytest.OK("").Times(1))
	assert.Equal(t, 503, statusOf(t, rt))
	assert.Equal(t, 503, statusOf(t, rt))
	assert.Equal(t, 200, statusOf(t, rt))
	_, err := roundTrip(t, rt)
	assert.ErrorContains(t, err, "request 4 (POST https://api.example.com/v1/chat): the script has only 3 steps")
}

func TestForeverAnswersWhateverComes(t *testing.T) {
	rt := sturdytest.Script(sturdytest.Status(503), sturdytest.OK("").Forever())
	assert.Len(t, done(rt), 1, "the first step was not used")
	assert.Equal(t, 503, statusOf(t, rt))
	rt.Done(t) // it stands for no request too
	for range 10 {
		assert.Equal(t, 200, statusOf(t, rt))
	}
	rt.Done(t)
}

func TestScriptRefusesWhatCannotBePlayed(t *testing.T) {
	assert.PanicsWithValue(t, "sturdytest: step 1 is for ever, no step can follow", func() {
		sturdytest.Script(sturdytest.OK("").Forever(), sturdytest.Status(500))
	})
	assert.Panics(t, func() { sturdytest.OK("").Times(-1) })
}

func TestRequestBeyondTheScriptFailsAndSaysWhichItWas(t *testing.T) {
	rt := sturdytest.Script(sturdytest.OK(""))
	statusOf(t, rt)
	req, up := newRequest(t, t.Context(), "hello")
	resp, err := rt.RoundTrip(req)
	assert.Nil(t, resp)
	assert.EqualError(t, err, "sturdytest: request 2 (POST https://api.example.com/v1/chat): the script has only 1 step: 200 OK, --> end")
	read, _, closed, _ := up.state()
	assert.Zero(t, read)
	assert.Equal(t, 1, closed)
	assert.Equal(t, []string{"sturdytest: 2 requests came, the script has only 1 step"}, done(rt))

	_, err = roundTrip(t, sturdytest.Script())
	assert.EqualError(t, err, "sturdytest: request 1 (POST https://api.example.com/v1/chat): the script has only 0 steps: --> end")
}

func TestErrorHidesThePasswordOfTheURL(t *testing.T) {
	req, err := http.NewRequest("GET", "http://me:secret@example.com/", nil)
	require.NoError(t, err)
	_, err = sturdytest.Script().RoundTrip(req)
	assert.NotContains(t, err.Error(), "secret")
}

func TestStringMarksTheNextStep(t *testing.T) {
	rt := sturdytest.Script(
		sturdytest.Status(503).Times(2),
		sturdytest.RateLimited(time.Second).After(2*time.Second),
		sturdytest.OK("").Forever(),
	)
	for _, want := range []string{
		"--> 503 Service Unavailable (2 times), 429 Too Many Requests after 2s, 200 OK forever",
		"--> 503 Service Unavailable (1 of 2 used), 429 Too Many Requests after 2s, 200 OK forever",
		"503 Service Unavailable (2 times), --> 429 Too Many Requests after 2s, 200 OK forever",
		"503 Service Unavailable (2 times), 429 Too Many Requests after 2s, --> 200 OK forever",
		"503 Service Unavailable (2 times), 429 Too Many Requests after 2s, --> 200 OK forever",
	} {
		assert.Equal(t, want, rt.String())
		synctest.Test(t, func(t *testing.T) { statusOf(t, rt) })
	}
}

func TestDoneTellsWhichStepWasNextAndWhatLeaked(t *testing.T) {
	rt := sturdytest.Script(sturdytest.Status(503), sturdytest.OK(`{}`))
	resp, err := roundTrip(t, rt)
	require.NoError(t, err)
	assert.Equal(t, []string{
		"sturdytest: the script was not played to its end: 503 Service Unavailable, --> 200 OK",
		"sturdytest: the response was never closed: POST https://api.example.com/v1/chat: 503 Service Unavailable",
	}, done(rt))
	resp.Body.Close()
	statusOf(t, rt)
	assert.Empty(t, done(rt))
}

func TestRequestsAreRecordedAsTheyCame(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		type key struct{}
		ctx, cancel := context.WithCancel(context.WithValue(t.Context(), key{}, "value"))
		rt := sturdytest.Script(sturdytest.OK(`{}`), sturdytest.ConnReset())
		req, _ := newRequest(t, ctx, "hello")
		req.Header.Set("X-Test", "first")
		start := time.Now()
		resp, err := rt.RoundTrip(req)
		require.NoError(t, err)
		req.Header.Set("X-Test", "changed")
		req.URL.Path = "/changed"

		time.Sleep(time.Minute)
		_, err = roundTrip(t, rt)
		require.Error(t, err)

		got := rt.Requests()
		require.Len(t, got, 2)
		assert.Equal(t, "POST", got[0].Method)
		assert.Equal(t, apiURL, got[0].URL.String())
		assert.Equal(t, "first", got[0].Header.Get("X-Test"))
		assert.EqualValues(t, 5, got[0].ContentLength)
		assert.Equal(t, "hello", string(got[0].Body))
		assert.True(t, got[0].BodyClosed)
		assert.True(t, got[1].BodyClosed)
		assert.Equal(t, start, got[0].Time)
		assert.Equal(t, start.Add(time.Minute), got[1].Time)
		assert.Equal(t, "value", got[0].Context.Value(key{}))
		assert.NoError(t, got[0].Context.Err())
		cancel()
		assert.Error(t, got[0].Context.Err())

		require.NotNil(t, got[0].Response)
		assert.Equal(t, sturdytest.Response{Status: 200}, *got[0].Response)
		assert.NoError(t, got[0].Err)
		assert.Nil(t, got[1].Response)
		assert.Equal(t, err, got[1].Err)
		assert.Equal(t, "POST https://api.example.com/v1/chat: 200 OK", got[0].String())
		assert.Contains(t, got[1].String(), "connection reset by peer")

		resp.Body.Close()
		assert.Zero(t, got[0].Response.Closed, "a snapshot does not change")
	})
}

func TestWhatBecameOfTheResponseIsRecorded(t *testing.T) {
	for _, tc := range []struct {
		name             string
		do               func(io.ReadCloser)
		want             sturdytest.Response
		unclosed, unread int
	}{
		{"nothing", func(io.ReadCloser) {}, sturdytest.Response{}, 1, 1},
		{"read", func(b io.ReadCloser) { io.ReadAll(b) }, sturdytest.Response{BytesRead: 5, Ended: true}, 1, 0},
		{"closed", func(b io.ReadCloser) { b.Close() }, sturdytest.Response{Closed: 1}, 0, 1},
		{"read and closed", func(b io.ReadCloser) { io.ReadAll(b); b.Close() }, sturdytest.Response{BytesRead: 5, Ended: true, Closed: 1}, 0, 0},
		{"read in part", func(b io.ReadCloser) { io.ReadFull(b, make([]byte, 3)); b.Close() }, sturdytest.Response{BytesRead: 3, Closed: 1}, 0, 1},
		{"closed twice", func(b io.ReadCloser) { b.Close(); b.Close() }, sturdytest.Response{Closed: 2}, 0, 1},
		{"read after close", func(b io.ReadCloser) {
			b.Close()
			n, err := b.Read(make([]byte, 1))
			assert.Zero(t, n)
			assert.EqualError(t, err, "http: read on closed response body")
		}, sturdytest.Response{Closed: 1, LateReads: 1}, 0, 1},
	} {
		t.Run(tc.name, func(t *testing.T) {
			rt := sturdytest.Script(sturdytest.OK("12345"))
			resp, err := roundTrip(t, rt)
			require.NoError(t, err)
			tc.do(resp.Body)
			tc.want.Status = 200
			assert.Equal(t, tc.want, *rt.Requests()[0].Response)
			assert.Len(t, rt.Unclosed(), tc.unclosed)
			assert.Len(t, rt.Unread(), tc.unread)
		})
	}
}

func TestRequestWithoutBodyCountsAsClosed(t *testing.T) {
	req, err := http.NewRequest(http.MethodGet, apiURL, nil)
	require.NoError(t, err)
	rt := sturdytest.Script(sturdytest.OK("").Early())
	_, err = rt.RoundTrip(req)
	require.NoError(t, err)
	assert.True(t, rt.Requests()[0].BodyClosed)
	assert.Empty(t, rt.Requests()[0].Body)
}

func TestResponseWithoutBodyLeaksNothing(t *testing.T) {
	rt := sturdytest.Script(sturdytest.Status(204))
	resp, err := roundTrip(t, rt)
	require.NoError(t, err)
	assert.Equal(t, http.NoBody, resp.Body)
	rt.Done(t)
	assert.Empty(t, rt.Unread())
}

func TestRequestBodyIsReadAndClosedOnceBeforeTheAnswer(t *testing.T) {
	for _, step := range []sturdytest.Step{
		sturdytest.OK(`{}`),
		sturdytest.Status(503),
		sturdytest.ConnReset(),
	} {
		t.Run(step.String(), func(t *testing.T) {
			body := strings.Repeat("0123456789", 10_000)
			req, up := newRequest(t, t.Context(), body)
			rt := sturdytest.Script(step)
			resp, err := rt.RoundTrip(req)
			if err == nil {
				defer resp.Body.Close()
			}
			read, eof, closed, late := up.state()
			assert.Equal(t, len(body), read)
			assert.True(t, eof)
			assert.Equal(t, 1, closed)
			assert.Zero(t, late)
			assert.Equal(t, body, string(rt.Requests()[0].Body))
		})
	}
}

func TestRequestBodyErrorIsReturned(t *testing.T) {
	broken := errors.New("disk on fire")
	req, up := newRequest(t, t.Context(), "")
	up.r = io.MultiReader(strings.NewReader("some"), errReader{broken})
	req.ContentLength = -1
	rt := sturdytest.Script(sturdytest.OK(""))
	_, err := rt.RoundTrip(req)
	assert.Equal(t, broken, err)
	_, _, closed, _ := up.state()
	assert.Equal(t, 1, closed)
	assert.Equal(t, "some", string(rt.Requests()[0].Body))
}

type errReader struct{ err error }

func (r errReader) Read([]byte) (int, error) { return 0, r.err }

func TestBodyOfTheWrongLengthFails(t *testing.T) {
	for body, want := range map[string]string{
		"":           "http: ContentLength=5 with Body length 0", // sent before, not rewound
		"hello, you": "http: ContentLength=5 with Body length 10",
	} {
		req, up := newRequest(t, t.Context(), body)
		req.ContentLength = 5
		_, err := sturdytest.Script(sturdytest.OK("")).RoundTrip(req)
		assert.EqualError(t, err, want)
		_, _, closed, _ := up.state()
		assert.Equal(t, 1, closed)
	}
}

func TestRequestThatCannotBeSentIsRefusedAndItsBodyClosed(t *testing.T) {
	for want, spoil := range map[string]func(*http.Request){
		"http: nil Request.URL":                       func(r *http.Request) { r.URL = nil },
		"http: nil Request.Header":                    func(r *http.Request) { r.Header = nil },
		"http: Request.ContentLength=5 with nil Body": func(r *http.Request) { r.Body = nil },
	} {
		req, up := newRequest(t, t.Context(), "hello")
		spoil(req)
		rt := sturdytest.Script(sturdytest.OK(""))
		_, err := rt.RoundTrip(req)
		assert.EqualError(t, err, want)
		assert.Equal(t, err, rt.Requests()[0].Err)
		if req.Body != nil {
			_, _, closed, _ := up.state()
			assert.Equal(t, 1, closed, want)
		}
		require.NotEmpty(t, rt.Requests()[0].String())
	}
	req := &http.Request{Body: io.NopCloser(strings.NewReader("x"))}
	_, err := sturdytest.Script().RoundTrip(req)
	assert.ErrorContains(t, err, "request 1 (GET without URL)")
}

func TestRequestIsNotChanged(t *testing.T) {
	req, _ := newRequest(t, t.Context(), "hello")
	before := *req
	resp, err := sturdytest.Script(sturdytest.OK("")).RoundTrip(req)
	require.NoError(t, err)
	assert.Equal(t, before, *req)
	assert.Same(t, req, resp.Request)
}

func TestCancellationEndsEveryWaitWithItsCause(t *testing.T) {
	cause := errors.New("enough")
	for name, tc := range map[string]struct {
		step sturdytest.Step
		pipe bool // for the request's body: only closing it can end a read
	}{
		"delay":          {sturdytest.OK("").After(time.Hour), false},
		"delayed error":  {sturdytest.ConnRefused().After(time.Hour), false},
		"early":          {sturdytest.OK("").After(time.Hour).Early(), false},
		"hang":           {sturdytest.Hang(), false},
		"hang early":     {sturdytest.Hang().Early(), false},
		"request's body": {sturdytest.OK(""), true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithCancelCause(t.Context())
				req, up := newRequest(t, ctx, "hello")
				if tc.pipe {
					req.Body, _ = io.Pipe()
				}
				time.AfterFunc(time.Second, func() { cancel(cause) })
				start := time.Now()
				rt := sturdytest.Script(tc.step)
				resp, err := rt.RoundTrip(req)
				assert.Nil(t, resp)
				assert.Equal(t, cause, err)
				assert.Equal(t, cause, rt.Requests()[0].Err)
				assert.Equal(t, time.Second, time.Since(start))
				assert.True(t, rt.Requests()[0].BodyClosed)
				if !tc.pipe {
					_, _, closed, _ := up.state()
					assert.Equal(t, 1, closed)
				}
			})
		})
	}
}

func TestRequestCancelEndsEveryWait(t *testing.T) {
	for _, step := range []sturdytest.Step{sturdytest.OK("").After(time.Hour), sturdytest.Hang()} {
		synctest.Test(t, func(t *testing.T) {
			cancel := make(chan struct{})
			req, up := newRequest(t, t.Context(), "hello")
			req.Cancel = cancel
			time.AfterFunc(time.Second, func() { close(cancel) })
			_, err := sturdytest.Script(step).RoundTrip(req)
			assert.EqualError(t, err, "net/http: request canceled")
			_, _, closed, _ := up.state()
			assert.Equal(t, 1, closed)
		})
	}
}

func TestRequestThatIsCancelledBeforehandIsNotSent(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	cause := errors.New("too late")
	cancel(cause)
	req, up := newRequest(t, ctx, "hello")
	rt := sturdytest.Script(sturdytest.Panic("played"), sturdytest.OK(""))
	_, err := rt.RoundTrip(req)
	assert.Equal(t, cause, err)
	read, _, closed, _ := up.state()
	assert.Zero(t, read)
	assert.Equal(t, 1, closed)
	assert.Equal(t, 200, statusOf(t, rt), "it took its step")

	req.Body, req.ContentLength = nil, 0
	_, err = sturdytest.Script(sturdytest.OK("")).RoundTrip(req)
	assert.Equal(t, cause, err, "without a body too")
}

func TestEarlyAnswerComesBeforeTheBodyIsRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		req, up := newRequest(t, t.Context(), strings.Repeat("x", 10<<10))
		rt := sturdytest.Script(sturdytest.Status(429).Early())
		resp, err := rt.RoundTrip(req)
		require.NoError(t, err)
		read, _, closed, _ := up.state()
		assert.Zero(t, read)
		assert.Zero(t, closed)

		time.Sleep(1500 * time.Microsecond)
		read, _, closed, _ = up.state()
		assert.Equal(t, 4<<10, read, "reading goes on under way")
		assert.Zero(t, closed)

		time.Sleep(time.Second)
		read, eof, closed, late := up.state()
		assert.Equal(t, 10<<10, read)
		assert.True(t, eof)
		assert.Equal(t, 1, closed)
		assert.Zero(t, late)
		assert.Len(t, rt.Requests()[0].Body, 10<<10)
		resp.Body.Close()
	})
}

func TestEarlyAnswerReadsTheBodyInPartOnceTheResponseIsDealtWith(t *testing.T) {
	for name, finish := range map[string]func(*http.Response){
		"closed": func(r *http.Response) { r.Body.Close() },
		"read":   func(r *http.Response) { io.ReadAll(r.Body) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				req, up := newRequest(t, t.Context(), strings.Repeat("x", 1<<20))
				resp, err := sturdytest.Script(sturdytest.Status(429).Early()).RoundTrip(req)
				require.NoError(t, err)
				time.Sleep(100*time.Millisecond + betweenReads)
				finish(resp)
				time.Sleep(49 * time.Millisecond)
				_, _, closed, _ := up.state()
				assert.Zero(t, closed)
				time.Sleep(10 * time.Millisecond)
				read, eof, closed, late := up.state()
				assert.Greater(t, read, 100*4<<10)
				assert.Less(t, read, 1<<20)
				assert.False(t, eof)
				assert.Equal(t, 1, closed)
				assert.Zero(t, late)
			})
		})
	}
}

// betweenReads keeps a test from closing a body at the very moment of a read.
const betweenReads = 500 * time.Microsecond

func TestEarlyReaderEndsWithTheRequest(t *testing.T) {
	for name, end := range map[string]func(context.CancelFunc, chan struct{}){
		"context": func(cancel context.CancelFunc, _ chan struct{}) { cancel() },
		"Cancel":  func(_ context.CancelFunc, stop chan struct{}) { close(stop) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				stop := make(chan struct{})
				req, up := newRequest(t, ctx, "")
				up.r = zeros{} // without end
				req.ContentLength = -1
				req.Cancel = stop
				resp, err := sturdytest.Script(sturdytest.Status(429).Early()).RoundTrip(req)
				require.NoError(t, err)
				time.Sleep(time.Second + betweenReads)
				end(cancel, stop)
				time.Sleep(time.Second)
				read, eof, closed, late := up.state()
				assert.Equal(t, 1000*4<<10, read)
				assert.False(t, eof)
				assert.Equal(t, 1, closed)
				assert.Zero(t, late)
				_, err = resp.Body.Read(make([]byte, 1))
				assert.Error(t, err)
			})
		})
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

func TestHundredRequestsAtOnceTakeEachStepOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		steps := make([]sturdytest.Step, 100)
		for i := range steps {
			steps[i] = sturdytest.OK(fmt.Sprint(i)).After(time.Duration(i) * time.Millisecond)
			if i%3 == 0 {
				steps[i] = steps[i].Early()
			}
		}
		rt := sturdytest.Script(steps...)
		client := &http.Client{Transport: rt}
		var mu sync.Mutex
		seen := make(map[string]int)
		var wg sync.WaitGroup
		for i := range 100 {
			wg.Go(func() {
				resp, err := client.Post(apiURL, "text/plain", strings.NewReader(fmt.Sprint("request ", i)))
				if !assert.NoError(t, err) {
					return
				}
				defer resp.Body.Close()
				b, err := io.ReadAll(resp.Body)
				assert.NoError(t, err)
				_ = rt.Requests() // may be read at any time
				_ = rt.String()
				mu.Lock()
				seen[string(b)]++
				mu.Unlock()
			})
		}
		wg.Wait()
		time.Sleep(time.Second)
		assert.Len(t, seen, 100)
		rt.Done(t)
		bodies := make(map[string]bool)
		for _, r := range rt.Requests() {
			bodies[string(r.Body)] = true
		}
		assert.Len(t, bodies, 100)
	})
}

func TestClientTimeoutOverAHangIsATimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client := &http.Client{Transport: sturdytest.Script(sturdytest.Hang()), Timeout: 3 * time.Second}
		start := time.Now()
		_, err := client.Get(apiURL)
		var e *url.Error
		require.ErrorAs(t, err, &e)
		assert.True(t, e.Timeout())
		assert.ErrorIs(t, err, context.DeadlineExceeded)
		assert.Equal(t, 3*time.Second, time.Since(start))
	})
}

func TestClientTimeoutEndsAStalledBody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client := &http.Client{Transport: sturdytest.Script(sturdytest.OK("some").ThenStall()), Timeout: 3 * time.Second}
		resp, err := client.Get(apiURL)
		require.NoError(t, err)
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		assert.Equal(t, "some", string(b))
		var e net.Error
		require.ErrorAs(t, err, &e)
		assert.True(t, e.Timeout())
	})
}

func TestClientFollowsARedirectToTheNextStep(t *testing.T) {
	rt := sturdytest.Script(sturdytest.Status(307).With("Location", "/v2"), sturdytest.OK("moved"))
	client := &http.Client{Transport: rt}
	resp, err := client.Post(apiURL, "text/plain", strings.NewReader("hello"))
	require.NoError(t, err)
	defer resp.Body.Close()
	got := rt.Requests()
	require.Len(t, got, 2)
	assert.Equal(t, "/v2", got[1].URL.Path)
	assert.Equal(t, "hello", string(got[1].Body))
}
