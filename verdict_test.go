package sturdy

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// everyLayer is the layers and some stacks of them, around a base.
var everyLayer = map[string]func(http.RoundTripper) http.RoundTripper{
	"Retry":              func(b http.RoundTripper) http.RoundTripper { return &Retry{Base: b, MinDelay: -1} },
	"Retry, one attempt": func(b http.RoundTripper) http.RoundTripper { return &Retry{Base: b, Attempts: -1} },
	"RateLimit":          func(b http.RoundTripper) http.RoundTripper { return &RateLimit{Base: b} },
	"Breaker":            func(b http.RoundTripper) http.RoundTripper { return &Breaker{Base: b} },
	"Timeout, off":       func(b http.RoundTripper) http.RoundTripper { return &Timeout{Base: b} },
	"Timeout": func(b http.RoundTripper) http.RoundTripper {
		return &Timeout{Base: b, Header: time.Minute, Idle: time.Minute}
	},
	"Stream":       func(b http.RoundTripper) http.RoundTripper { return &Stream{Base: b} },
	"StatusErrors": func(b http.RoundTripper) http.RoundTripper { return &StatusErrors{Base: b} },
	"Transport":    func(b http.RoundTripper) http.RoundTripper { return &Transport{Base: b} },
	"Transport with settings": func(b http.RoundTripper) http.RoundTripper {
		return &Transport{
			Base:    &Stream{Base: b},
			Retry:   Retry{Attempts: 3, IdempotencyKey: true},
			Timeout: Timeout{Header: time.Minute, Idle: time.Minute},
		}
	},
	"Retry around Retry":         func(b http.RoundTripper) http.RoundTripper { return &Retry{Base: &Retry{Base: b}} },
	"Stream around Transport":    func(b http.RoundTripper) http.RoundTripper { return &Stream{Base: &Transport{Base: b}} },
	"Timeout around Breaker":     func(b http.RoundTripper) http.RoundTripper { return &Timeout{Header: 1e12, Base: &Breaker{Base: b}} },
	"Transport around Transport": func(b http.RoundTripper) http.RoundTripper { return &Transport{Base: &Transport{Base: b}} },
}

func TestAnAnswerIsToTheCallersRequest(t *testing.T) {
	named := func(req *http.Request) *http.Request { return req }
	for name, layer := range everyLayer {
		for about, names := range map[string]func(*http.Request) *http.Request{
			"":                            named,
			", from a base that clones":   func(req *http.Request) *http.Request { return req.Clone(context.WithoutCancel(req.Context())) },
			", from a base that says not": func(*http.Request) *http.Request { return nil },
		} {
			t.Run(name+about, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					for _, code := range []int{200, 204, 302, 400, 404, 429, 500, 503} {
						for _, media := range []string{"", "application/json", "text/event-stream"} {
							for _, body := range []string{"", `{"error":{"message":"no"}}`, "data: {}\n\n"} {
								base := baseFunc(func(req *http.Request) (*http.Response, error) {
									closeBody(req)
									resp := answer(names(req), code, body)
									resp.Header.Set("Content-Type", media)
									if body == "" {
										resp.Body = http.NoBody
									}
									return resp, nil
								})
								for _, req := range []*http.Request{get(t), post(t, "x")} {
									resp, err := layer(base).RoundTrip(req)
									if err != nil {
										continue // StatusErrors
									}
									assert.Same(t, req, resp.Request, "%d %s %q", code, media, body)
									got, err := io.ReadAll(resp.Body)
									assert.Equal(t, body, string(got))
									var e *Error
									assert.True(t, err == nil || errors.As(err, &e), "%v", err) // Stream's
									assert.NoError(t, resp.Body.Close())
									assert.NoError(t, resp.Request.Context().Err(), "its context lives")
								}
							}
						}
					}
				})
			})
		}
	}
}

// A foreign wrapper of bodies, such as that of http.Client or of otelhttp.
type foreignBody struct {
	_    string // so that the body is not all that there is
	body io.ReadCloser
}

func (b *foreignBody) Read(p []byte) (int, error) { return b.body.Read(p) }
func (b *foreignBody) Close() error               { return b.body.Close() }

func wrapping(base http.RoundTripper) http.RoundTripper {
	return baseFunc(func(req *http.Request) (*http.Response, error) {
		resp, err := base.RoundTrip(req)
		if err == nil {
			resp.Body = &foreignBody{body: resp.Body}
		}
		return resp, err
	})
}

func TestTheHistoryTravelsWithTheAnswer(t *testing.T) {
	for name, body := range map[string]string{"with a body": `{"error":{"message":"status 503"}}`, "without": ""} {
		for wrapped, wrap := range map[string]func(http.RoundTripper) http.RoundTripper{
			"":                                  func(rt http.RoundTripper) http.RoundTripper { return rt },
			", within another's":                wrapping,
			", within another's within another": func(rt http.RoundTripper) http.RoundTripper { return wrapping(wrapping(rt)) },
			", within Timeout": func(rt http.RoundTripper) http.RoundTripper {
				return &Timeout{Base: rt, Header: time.Hour, Idle: time.Minute}
			},
			", within Breaker and RateLimit": func(rt http.RoundTripper) http.RoundTripper { return &Breaker{Base: &RateLimit{Base: rt}} },
			", within Stream":                func(rt http.RoundTripper) http.RoundTripper { return &Stream{Base: rt} },
		} {
			for bound, timeout := range map[string]time.Duration{"": 0, ", with Client.Timeout": time.Hour} {
				t.Run(name+wrapped+bound, func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						base := rtFunc(func(req *http.Request) (*http.Response, error) {
							resp := answer(req, 503, body)
							if body == "" {
								resp.Body = http.NoBody
							}
							return resp, nil
						})
						client := &http.Client{Timeout: timeout, Transport: wrap(&Transport{Base: base})}
						resp, err := client.Do(get(t))
						require.NoError(t, err)
						defer resp.Body.Close()
						assert.Equal(t, "false", resp.Header.Get("X-Should-Retry"))
						e := Classify(resp, nil)
						assert.Equal(t, 5, e.Attempts)
						assert.Len(t, e.Report().Attempts, 5)
						assert.True(t, e.Retryable(), "that header is not the server's word")
						assert.Same(t, e, Classify(resp, nil))
						got, err := io.ReadAll(resp.Body)
						require.NoError(t, err)
						assert.Equal(t, body, string(got))
					})
				})
			}
		}
	}
}

func TestAnAnswerThatIsHandedBackInPlaceOfARefusalHasItsHistory(t *testing.T) {
	for name, body := range map[string]string{"with a body": "busy", "without": ""} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				base := rtFunc(func(req *http.Request) (*http.Response, error) {
					resp := answer(req, 503, body)
					if body == "" {
						resp.Body = http.NoBody
					}
					return resp, nil
				})
				req := get(t)
				resp, err := (&Transport{Base: base, Breaker: Breaker{Failures: 3, MaxWait: -1, OpenFor: time.Hour, MaxOpen: time.Hour}}).RoundTrip(req)
				require.NoError(t, err)
				assert.Same(t, req, resp.Request)
				e := Classify(resp, nil)
				assert.Equal(t, 503, e.StatusCode)
				assert.Equal(t, 3, e.Attempts)
				assert.Len(t, e.Report().Attempts, 3)
				got, err := io.ReadAll(resp.Body)
				require.NoError(t, err)
				assert.Equal(t, body, string(got))
			})
		})
	}
}

func TestCheckAsksForTheBeginningOfAStreamThroughHTTPClient(t *testing.T) {
	for name, wrap := range map[string]func(http.RoundTripper) http.RoundTripper{
		"":                   func(rt http.RoundTripper) http.RoundTripper { return rt },
		", within another's": wrapping,
	} {
		for _, timeout := range []time.Duration{0, time.Hour} {
			t.Run(timeout.String()+name, func(t *testing.T) {
				base := rtFunc(func(req *http.Request) (*http.Response, error) {
					resp := answer(req, 200, "data: {\"error\":{\"message\":\"no\",\"type\":\"invalid_request_error\"}}\n\n")
					resp.Header.Set("Content-Type", "text/event-stream")
					return resp, nil
				})
				for _, rt := range []http.RoundTripper{&Stream{Base: base}, &Transport{Base: &Stream{Base: base}}} {
					resp, err := (&http.Client{Timeout: timeout, Transport: wrap(rt)}).Do(get(t))
					require.NoError(t, err)
					require.ErrorIs(t, Check(resp, nil), ErrBadRequest)
					got, err := io.ReadAll(resp.Body)
					require.ErrorIs(t, err, ErrBadRequest)
					assert.Equal(t, 1, strings.Count(string(got), "data:"))
					assert.NoError(t, resp.Body.Close())
				}
			})
		}
	}
}

func TestABaseMayReturnTheSameAnswerForEveryRequest(t *testing.T) {
	for name, layer := range everyLayer {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				same := answer(nil, 503, "")
				same.Body = http.NoBody
				rt := layer(rtFunc(func(*http.Request) (*http.Response, error) { return same, nil }))
				for range 2 {
					req := get(t)
					resp, err := rt.RoundTrip(req)
					e := Classify(resp, err)
					assert.Equal(t, ErrOverloaded, e.Class)
					assert.LessOrEqual(t, e.Attempts, 5)
					assert.Len(t, e.Report().Attempts, e.Attempts)
					if err == nil {
						assert.Same(t, req, resp.Request)
						assert.NoError(t, resp.Body.Close())
					}
				}
			})
		})
	}
}
