package sturdy

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// slow is net/http's timeout, as far as anybody can see.
type slow string

func (s slow) Error() string { return string(s) }
func (slow) Timeout() bool   { return true }

func TestTheErrorsThatPeopleReport(t *testing.T) {
	// Each with the type that it has where its text comes from.
	typed := map[string]error{
		"dial tcp 104.18.7.192:443: connect: connection refused": &net.OpError{
			Op: "dial", Net: "tcp", Addr: &net.TCPAddr{IP: net.IPv4(104, 18, 7, 192), Port: 443},
			Err: os.NewSyscallError("connect", syscall.ECONNREFUSED),
		},
		"dial tcp: lookup api.openai.com: no such host": &net.OpError{
			Op: "dial", Net: "tcp", Err: &net.DNSError{Err: "no such host", Name: "api.openai.com", IsNotFound: true},
		},
		"unexpected EOF": io.ErrUnexpectedEOF,
		"context deadline exceeded (Client.Timeout exceeded while awaiting headers)": slow(
			"context deadline exceeded (Client.Timeout exceeded while awaiting headers)"),
		"x509: certificate signed by unknown authority": x509.UnknownAuthorityError{},
		"context canceled": context.Canceled,
	}
	file, err := os.Open("testdata/responses/transport-errors.txt")
	require.NoError(t, err)
	defer file.Close()
	rows := 0
	for lines := bufio.NewScanner(file); lines.Scan(); {
		text, verdict, ok := strings.Cut(lines.Text(), "\t")
		if !ok || strings.HasPrefix(text, "#") {
			continue
		}
		rows++
		err := typed[text]
		if err == nil {
			err = errors.New(text) // net/http has no type for it that can be asked for
		}
		require.Equal(t, text, err.Error())
		e := Classify(nil, &url.Error{Op: "Get", URL: "https://h/", Err: err})
		assert.Equal(t, verdict, fmt.Sprintf("%s\t%t", e.Class.String(), e.Retryable()), text)
	}
	assert.Equal(t, 8, rows)
}

func TestABodyThatIsCutShortIsReadAsFarAsItGoes(t *testing.T) {
	const body = `{"error":{"code":"insufficient_quota","type":"insufficient_quota","param":null,"message":"You exceeded \"your\" current quota é"}}`
	for cut := range body {
		resp := answer(get(t), 429, body[:cut])
		e := Classify(resp, nil)
		if cut > len(`{"error":{"code":"insufficient_quota",`) {
			assert.Equal(t, ErrQuotaExceeded, e.Class, body[:cut])
		}
		assert.Contains(t, body, strings.TrimSuffix(strings.ReplaceAll(e.Message, `"`, `\"`), "\ufffd"), "no more than was said")
	}
}

func TestShapesOfErrorBodies(t *testing.T) {
	for _, row := range []struct {
		name, body             string
		code, kind, param, msg string
	}{
		{"object", `{"error":{"message":"m","type":"t","param":"p","code":"c"}}`, "c", "t", "p", "m"},
		{"flat", `{"message":"m","type":"t","code":1300}`, "1300", "t", "", "m"},
		{"string", `{"error":"m"}`, "", "", "", "m"},
		{"list", `[{"error":{"message":"m","code":429}}]`, "429", "", "", "m"},
		{"detail", `{"detail":"m"}`, "", "", "", "m"},
		{"detail list", `{"detail":[{"msg":"m","type":"t"}]}`, "", "", "", "m"},
		{"message object", `{"message":{"detail":[{"msg":"m","type":"t"}]}}`, "", "", "", "m"},
		{"problem", `{"type":"https://x","title":"T","status":422,"detail":"m"}`, "", "https://x", "", "m"},
		{"problem without detail", `{"type":"about:blank","title":"m"}`, "", "about:blank", "", "m"},
		{"OAuth", `{"error":"invalid_grant","error_description":"m"}`, "invalid_grant", "", "", "m"},
		{"AWS", `{"__type":"com.amazon#ThrottlingException","Message":"m"}`, "ThrottlingException", "", "", "m"},
		{"JSON in a message", `{"error":{"message":"{\"error\":{\"message\":\"m\",\"code\":\"c\"}}","code":"outer"}}`, "c", "", "", "m"},
		{"an event", "event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"t\",\"message\":\"m\"}}\n\n", "", "t", "", "m"},
		{"text", "m", "", "", "", "m"},
		{"page", "<!DOCTYPE html><html><head><TITLE> m </TITLE></head>", "", "", "", "m"},
		{"byte order mark", "\ufeff{\"error\":\"m\"}", "", "", "", "m"},
		{"empty", "", "", "", "", ""},
		{"null", "null", "", "", "", "null"},
		{"nulls", `{"error":null,"message":null,"code":null}`, "", "", "", ""},
		{"numbers where texts are", `{"error":{"message":1,"type":2,"param":3}}`, "", "2", "3", "1"},
		{"lists where texts are", `{"error":{"message":["a","b"],"code":["x"]}}`, "", "", "", `["a","b"]`},
		{"a quote", `["`, "", "", "", ""},
		{"a quote further in", `[[[["`, "", "", "", ""},
		{"a quote for a name", `{"`, "", "", "", ""},
		{"a quote in an event", `data: ["`, "", "", "", ""},
		{"half of it", `{"error":{"message":"m","code":"c","extra":{"a":[1,{"b":"`, "c", "", "", "m"},
	} {
		t.Run(row.name, func(t *testing.T) {
			s := readBody([]byte(row.body))
			assert.Equal(t, [4]string{row.code, row.kind, row.param, row.msg}, [4]string{s.code, s.kind, s.param, s.message})
		})
	}
}

func TestAVerdictIsBoundedWhateverTheBody(t *testing.T) {
	var bomb bytes.Buffer
	zip := gzip.NewWriter(&bomb)
	for range 64 {
		_, _ = zip.Write(make([]byte, 1<<20))
	}
	require.NoError(t, zip.Close())
	for name, serve := range map[string]func(http.ResponseWriter, *http.Request){
		"1 GiB": func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(503)
			chunk := bytes.Repeat([]byte("overload"), 4<<10)
			for sent := 0; sent < 1<<30; sent += len(chunk) {
				if _, err := w.Write(chunk); err != nil {
					return
				}
			}
		},
		"gzip bomb": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Encoding", "gzip")
			w.WriteHeader(503)
			_, _ = w.Write(bomb.Bytes())
		},
		"one byte, and no more": func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(503)
			_, _ = w.Write([]byte("{"))
			http.NewResponseController(w).Flush()
			<-r.Context().Done()
		},
		"nothing at all": func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(503)
			http.NewResponseController(w).Flush()
			<-r.Context().Done()
		},
	} {
		for _, unpacks := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, base unpacks: %v", name, unpacks), func(t *testing.T) {
				server := httptest.NewServer(http.HandlerFunc(serve))
				defer server.Close()
				base := &http.Transport{DisableCompression: !unpacks}
				defer base.CloseIdleConnections()
				resp, err := base.RoundTrip(newRequest(t, http.MethodGet, server.URL, http.NoBody))
				require.NoError(t, err)

				var before, after runtime.MemStats
				runtime.ReadMemStats(&before)
				e := Classify(resp, nil) // which ends, though some of these bodies do not
				runtime.ReadMemStats(&after)
				assert.Equal(t, ErrOverloaded, e.Class)
				// The other end of the connection is in the same process.
				assert.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(1<<20))
				require.NoError(t, resp.Body.Close(), "the connection is given up")
			})
		}
	}
}

func TestWhatAVerdictAllocates(t *testing.T) {
	for name, body := range map[string]func() io.Reader{
		"endless text":     func() io.Reader { return endlessReader{} },
		"endless brackets": func() io.Reader { return strings.NewReader(strings.Repeat("[", 1<<20)) },
		"endless objects":  func() io.Reader { return strings.NewReader(strings.Repeat(`{"error":`, 1<<20)) },
		"many members":     func() io.Reader { return strings.NewReader("[" + strings.Repeat(`{},`, 1<<20)) },
		"a long message":   func() io.Reader { return strings.NewReader(`{"error":{"message":"` + strings.Repeat("x", 1<<20)) },
		"a zip bomb": func() io.Reader {
			var b bytes.Buffer
			zip := gzip.NewWriter(&b)
			_, _ = zip.Write(bytes.Repeat([]byte("["), 1<<20))
			_ = zip.Close()
			return &b
		},
	} {
		t.Run(name, func(t *testing.T) {
			req := get(t)
			const runs = 5
			responses := make([]*http.Response, runs)
			for i := range responses {
				responses[i] = answer(req, 500, "")
				responses[i].Body = io.NopCloser(body())
				if name == "a zip bomb" {
					responses[i].Header.Set("Content-Encoding", "gzip")
				}
			}
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			for _, resp := range responses {
				assert.Equal(t, ErrInternalServer, Classify(resp, nil).Class)
			}
			runtime.ReadMemStats(&after)
			t.Logf("%d KiB", (after.TotalAlloc-before.TotalAlloc)/runs>>10)
			assert.LessOrEqual(t, (after.TotalAlloc-before.TotalAlloc)/runs, uint64(256<<10))
		})
	}
}

func TestAnAnswerWithoutHeadersOrBody(t *testing.T) {
	assert.Equal(t, ErrOverloaded, Classify(&http.Response{StatusCode: 503}, nil).Class)
	assert.Nil(t, Classify(&http.Response{StatusCode: 99}, nil))
	assert.Nil(t, Classify(nil, nil))
	require.NoError(t, Check(&http.Response{StatusCode: 200}, nil))
	require.NoError(t, Check(nil, nil))
}

func TestTheServersWaitIsFoundWhereverItStands(t *testing.T) {
	for _, row := range []struct {
		name, body string
		header     []string
		want       time.Duration
	}{
		{"header before body", `{"error":{"message":"Please try again in 9s"}}`, []string{"Retry-After", "3"}, 3 * time.Second},
		{"RetryInfo before message", `{"error":{"message":"Please retry in 9s","details":[{"@type":"type.googleapis.com/google.rpc.RetryInfo","retryDelay":"4s"}]}}`, nil, 4 * time.Second},
		{"retry_after", `{"retry_after":30,"detail":"x"}`, nil, 30 * time.Second},
		{"message", `{"error":{"message":"Please try again in 1m0.5s."}}`, nil, 60500 * time.Millisecond},
		{"an exhausted bucket", ``, []string{"X-Ratelimit-Remaining-Requests", "0", "X-Ratelimit-Reset-Requests", "1.5s"}, 1500 * time.Millisecond},
		{"a bucket that is not exhausted", ``, []string{"X-Ratelimit-Remaining-Requests", "1", "X-Ratelimit-Reset-Requests", "1.5s"}, 0},
		{"overflow saturates", `{"retry_after":999999999999999999999}`, nil, 1<<63 - 1},
		{"negative", `{"retry_after":-1}`, []string{"Retry-After", "-1"}, 0},
		{"rubbish", `{"retry_after":"soon"}`, []string{"Retry-After", "soon"}, 0},
	} {
		t.Run(row.name, func(t *testing.T) {
			resp := answer(get(t), 429, row.body)
			for i := 0; i < len(row.header); i += 2 {
				resp.Header.Set(row.header[i], row.header[i+1])
			}
			assert.Equal(t, row.want, Classify(resp, nil).RetryAfter)
		})
	}
}

func TestTheEndOfAContextIsNotOursToJudge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		req := get(t).WithContext(deadlineIn(t, time.Second))
		_, err := (&Transport{Base: rtFunc(hangs)}).RoundTrip(req)
		e := Classify(nil, err)
		assert.Equal(t, ErrTimeout, e.Class)
		assert.Zero(t, judge(req, nil, err).Class, "to a layer it says nothing of the server")
		assert.True(t, e.Timeout())
		assert.Equal(t, ErrTimeout, ClassOf(err))
	})
	own := judge(get(t), nil, &net.OpError{Op: "dial", Err: os.ErrDeadlineExceeded})
	assert.Equal(t, ErrTimeout, own.Class, "a base's own deadline is a timeout")
	assert.True(t, own.Retryable())
}

// FuzzClassify feeds answers of any status, header and body to the classifier.
func FuzzClassify(f *testing.F) {
	for _, s := range samples(f) {
		f.Add(s.resp.StatusCode, s.resp.Header.Get("Content-Encoding"), s.resp.Header.Get("Retry-After"), s.body)
	}
	for _, page := range pages() {
		f.Add(503, page, page, []byte(page))
	}
	f.Fuzz(func(t *testing.T, code int, encoding, wait string, body []byte) {
		resp := &http.Response{
			StatusCode: code, Header: http.Header{"Content-Encoding": {encoding}, "Retry-After": {wait}},
			Body: io.NopCloser(bytes.NewReader(body)), Request: httptest.NewRequest(http.MethodGet, "http://h/", http.NoBody),
		}
		e := Classify(resp, nil)
		if (e == nil) != (code < 400) {
			t.Fatalf("status %d: %v", code, e)
		}
		got, err := io.ReadAll(resp.Body)
		if err != nil || !bytes.Equal(got, body) {
			t.Fatalf("the body was changed: %q, %v", got, err)
		}
		if e == nil {
			return
		}
		if e.Class == 0 || int(e.Class) >= len(classes) {
			t.Fatalf("class %d", e.Class)
		}
		if e.RetryAfter < 0 {
			t.Fatalf("a wait of %v", e.RetryAfter)
		}
		if text := e.Error(); len(text) > 4<<10 || strings.ContainsFunc(text, unprintable) {
			t.Fatalf("not one short line: %q", text)
		}
		_ = e.Report().String()
		_ = readBody(body)
	})
}

func TestASecretThatABaseAddsIsNotShown(t *testing.T) {
	base := rtFunc(func(req *http.Request) (*http.Response, error) {
		sent := req.Clone(req.Context())
		sent.Header.Set("Authorization", "Bearer opaque-secret-value-123")
		return answer(sent, 401, `{"error":{"message":"Bad key opaque-secret-value-123"},"request_id":"opaque-secret-value-123"}`), nil
	})
	for name, layer := range everyLayer {
		resp, err := layer(base).RoundTrip(get(t))
		e := Classify(resp, err)
		assert.Equal(t, ErrAuthentication, e.Class, name)
		assert.NotContains(t, everyText(e)+e.RequestID+e.Report().String(), "opaque-secret", name)
	}
}

func TestASecretThatABaseAddsIsNotShownInAStream(t *testing.T) {
	base := rtFunc(func(req *http.Request) (*http.Response, error) {
		sent := req.Clone(req.Context())
		sent.Header.Set("Authorization", "Bearer opaque-secret-value-123")
		resp := answer(sent, 200, "data: {\"error\":{\"message\":\"Bad key opaque-secret-value-123\"}}\n\n")
		resp.Header.Set("Content-Type", "text/event-stream")
		return resp, nil
	})
	for name, layer := range everyLayer {
		synctest.Test(t, func(t *testing.T) {
			for _, rt := range []http.RoundTripper{&Stream{Base: layer(base)}, layer(&Stream{Base: base})} {
				resp, err := rt.RoundTrip(post(t, "x"))
				if e := Classify(resp, err); assert.NotNil(t, e, name) {
					assert.NotContains(t, everyText(e)+e.Report().String(), "opaque-secret", name)
				}
			}
		})
	}
}

func TestNoHalfOfASecretIsShown(t *testing.T) {
	token := strings.Repeat("tOkEn0123456789", 100)
	req := get(t)
	req.Header.Set("Authorization", "Bearer "+token)
	said := strings.Repeat(token+" is wrong. ", 20)
	for _, body := range []string{said, `{"error":{"message":"` + said + `"}}`} {
		e := Classify(answer(req, 401, body), nil)
		assert.NotContains(t, everyText(e), "tOkEn")
	}
}
