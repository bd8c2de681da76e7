package sturdy

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestAClassIsAlsoWhatItIsAKindOf(t *testing.T) {
	parents := map[Class]Class{
		ErrTimeout: ErrConnection, ErrContextLength: ErrBadRequest, ErrContentFilter: ErrBadRequest,
		ErrRequestTooLarge: ErrBadRequest, ErrQuotaExceeded: ErrRateLimit, ErrOverloaded: ErrInternalServer,
		ErrCircuitOpen: ErrNotSent, ErrWaitTooLong: ErrNotSent,
	}
	for c := ErrConnection; c <= ErrWaitTooLong; c++ {
		for target := ErrConnection; target <= ErrWaitTooLong; target++ {
			want := target == c || target == parents[c]
			assert.Equal(t, want, errors.Is(c, target), "%v is %v", c, target)
			through := &url.Error{Op: "Get", URL: "x", Err: &Error{Class: c}}
			assert.Equal(t, want, errors.Is(through, target), "an Error of %v is %v", c, target)
		}
		assert.Equal(t, c, ClassOf(fmt.Errorf("wrapped: %w", &Error{Class: c})))
		assert.Equal(t, c, ClassOf(fmt.Errorf("wrapped: %w", c)))
		assert.NotContains(t, c.String(), "(")
		assert.Equal(t, strings.ToLower(c.Error()), c.Error())
	}
	assert.Equal(t, "request_too_large", ErrRequestTooLarge.String())
	assert.Equal(t, "none", Class(0).String())
	assert.Equal(t, "class(200)", Class(200).String())
	assert.NotErrorIs(t, Class(200), ErrNotSent)
	assert.NotErrorIs(t, Class(0), Class(1))
}

func TestClassOf(t *testing.T) {
	for _, row := range []struct {
		err  error
		want Class
	}{
		{nil, 0},
		{errors.New("boom"), 0},
		{io.EOF, 0},
		{context.Canceled, 0},
		{context.DeadlineExceeded, ErrTimeout},
		{&url.Error{Op: "Get", Err: context.DeadlineExceeded}, ErrTimeout},
		{&url.Error{Op: "Get", Err: io.EOF}, ErrConnection},
		{&url.Error{Op: "parse", Err: errors.New("bad URL")}, 0},
		{syscall.ECONNRESET, ErrConnection},
		{io.ErrUnexpectedEOF, ErrConnection},
		{&net.DNSError{IsNotFound: true}, ErrConnection},
		{&Error{Err: context.DeadlineExceeded}, ErrTimeout},
	} {
		assert.Equal(t, row.want, ClassOf(row.err), "%v", row.err)
	}
}

func TestErrorIsOneLine(t *testing.T) {
	for want, e := range map[string]*Error{
		"sturdy: not classified":     {},
		"sturdy: rate limit reached": {Class: ErrRateLimit},
		"sturdy: not found (404)":    {Class: ErrNotFound, StatusCode: 404},
		"sturdy: quota exceeded (429 insufficient_quota): Top up": {
			Class: ErrQuotaExceeded, StatusCode: 429, Code: "insufficient_quota", Message: "Top up",
		},
		"sturdy: quota exceeded (429 a b)":                        {Class: ErrQuotaExceeded, StatusCode: 429, Type: "a", Code: "b"},
		"sturdy: context canceled":                                {Err: context.Canceled},
		"sturdy: connection failed: unexpected EOF; sent 3 times": {Class: ErrConnection, Err: io.ErrUnexpectedEOF, Attempts: 3},
		"sturdy: circuit open: no; retry after 1.5s":              {Class: ErrCircuitOpen, Err: errors.New("sturdy: no"), RetryAfter: 1500 * time.Millisecond},
		"sturdy: bad request (400): a b�[31mc":                    {Class: ErrBadRequest, StatusCode: 400, Message: "a\nb\x1b[31mc"},
	} {
		assert.Equal(t, want, e.Error())
	}
	long := &Error{Class: ErrBadRequest, Message: strings.Repeat("é", 1<<20), Code: strings.Repeat("c", 1<<20), StatusCode: 400}
	assert.Less(t, len(long.Error()), 2<<10)
}

func TestErrorTimeout(t *testing.T) {
	assert.True(t, (&Error{Class: ErrTimeout}).Timeout())
	assert.True(t, (&Error{Class: ErrConnection, Err: context.DeadlineExceeded}).Timeout())
	assert.False(t, (&Error{Class: ErrConnection}).Timeout())
	assert.False(t, (&Error{Class: ErrRateLimit}).Timeout())
	assert.True(t, (&url.Error{Err: &Error{Class: ErrTimeout}}).Timeout(), "as net/http asks")
}

// The secrets of one request, in every place that has them.
const (
	bearer   = "tok-4f9a8b7c6d5e"
	apiKey   = "0123456789abcdef-k"
	cookie   = "session-cookie-1"
	queryKey = "query+key/9?8"
	userName = "alice-user"
	password = "pass:word"
)

func secretRequest(t *testing.T) *http.Request {
	req := get(t)
	req.URL.User = url.UserPassword(userName, password)
	req.URL.RawQuery = url.Values{"key": {queryKey}, "api-version": {"2025-01-01"}}.Encode()
	req.Header.Set("Authorization", "Bearer "+bearer)
	req.Header.Set("Api-Key", apiKey)
	req.Header.Set("X-Api-Key", apiKey+"x")
	req.Header.Set("X-Goog-Api-Key", apiKey+"g")
	req.Header.Set("X-My-Own-Header", "own-header-secret")
	req.Header.Set("Cookie", "sid="+cookie)
	return req
}

func assertNoSecret(t *testing.T, text string) {
	t.Helper()
	for _, secret := range []string{
		bearer, apiKey, cookie, queryKey, url.QueryEscape(queryKey), userName, password, url.QueryEscape(password),
		"own-header-secret", base64.StdEncoding.EncodeToString([]byte(userName + ":" + password)),
		"sk-proj-abcdefghijkl", "sk-ab***********yz", "sk***YA", "fk-zgvjb****",
	} {
		assert.NotContains(t, text, secret)
	}
}

func everyText(e *Error) string {
	var log bytes.Buffer
	slog.New(slog.NewTextHandler(&log, nil)).Error("x", "err", e)
	slog.New(slog.NewJSONHandler(&log, nil)).Error("x", "err", e)
	asJSON, err := json.Marshal(e)
	if err != nil {
		panic(err)
	}
	return strings.Join([]string{
		string(asJSON), e.Error(), fmt.Sprintf("%v %+v %s %q", e, e, e, e), e.Message, e.Code, e.Type, e.Param, log.String(),
	}, "\n")
}

func TestNoSecretIsInAnErrorOfAnAnswer(t *testing.T) {
	req := secretRequest(t)
	said := fmt.Sprintf("Incorrect API key provided: sk-ab***********yz. Got %s, %s, %s, %s, %s; %s. See sk***YA, sk-proj-abcdefghijkl, "+
		"fk-zgvjb****, https://%s:%s@x/?key=%s", bearer, apiKey, cookie, queryKey, userName, "own-header-secret",
		userName, password, url.QueryEscape(queryKey))
	body := fmt.Sprintf(`{"error":{"message":%q,"type":%q,"code":"bad","param":%q}}`, said, "Bearer "+bearer, "fk-zgvjb****")
	var seen observed
	var log bytes.Buffer
	rt := &Transport{Observe: func(ctx context.Context, ev Event) {
		seen.see(ctx, ev)
		Log(slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug})))(ctx, ev)
	}, Retry: Retry{MinDelay: -1}, Breaker: Breaker{Failures: 1, OpenFor: 1, MaxOpen: 1}, Base: rtFunc(func(req *http.Request) (*http.Response, error) {
		return answer(req, 500, body), nil
	})}
	resp, err := rt.RoundTrip(req)
	e := Classify(resp, err)
	require.NotNil(t, e)
	assert.Contains(t, e.Message, "Incorrect API key provided: [redacted].")
	assertNoSecret(t, everyText(e))
	require.NotEmpty(t, seen.kinds())
	for _, ev := range seen.events {
		assertNoSecret(t, fmt.Sprintf("%+v", ev))
	}
	assertNoSecret(t, log.String())
	assert.Contains(t, log.String(), "sturdy: open")
}

func TestNoSecretIsInAnErrorOfTheTransport(t *testing.T) {
	req := secretRequest(t)
	for name, cause := range map[string]error{
		"url.Error":    &url.Error{Op: "Get", URL: req.URL.String(), Err: errors.New("refused " + bearer)},
		"wrapped":      fmt.Errorf("refresh with %s: %w", bearer, &url.Error{Op: "Get", URL: req.URL.String(), Err: io.EOF}),
		"its own text": fmt.Errorf("sent %s %s and %s to %s: %w", bearer, apiKey, cookie, req.URL, errReset),
	} {
		t.Run(name, func(t *testing.T) {
			_, err := (&Retry{Base: rtFunc(fails(cause)), Attempts: 2, MinDelay: -1}).RoundTrip(secretRequest(t))
			var e *Error
			require.ErrorAs(t, err, &e)
			assertNoSecret(t, everyText(e))
			assert.ErrorIs(t, err, cause, "the cause itself is kept")
		})
	}
	foreign := fmt.Errorf("sent %s %s and %s to %s", bearer, apiKey, cookie, req.URL)
	assertNoSecret(t, everyText(judge(req, nil, foreign)))

	e := Classify(nil, &url.Error{Op: "Get", URL: req.URL.String(), Err: io.EOF})
	assertNoSecret(t, everyText(e))
	assert.Equal(t, `sturdy: connection failed: Get [redacted]: EOF`, e.Error())
	for _, odd := range []string{`https://h/?key=se"cret-12345`, "https://h/?key=secret-12345\x01"} {
		e := Classify(nil, &url.Error{Op: "Get", URL: odd, Err: io.EOF})
		assert.NotContains(t, everyText(e), "cret-12345")
	}
}

func TestPlainWordsAreNotRedacted(t *testing.T) {
	req := get(t)
	req.URL.RawQuery = "api-version=1&alt=sse"
	req.Header.Set("Accept-Language", "de-DE-1996")
	req.Header.Set("X-Stage", "prod")
	const said = "Model gpt-4o is *bold*, ask-me-anything, prod, sse, 1, task-123456, de-DE-1996: https://platform.openai.com/docs"
	assert.Equal(t, said, withoutSecrets(said, secretsOf(req)))
}

func TestACredentialBesideOtherCharactersIsRedactedAndTheyAreKept(t *testing.T) {
	const key = "sk-0123456789abcdef"
	for _, s := range []string{"\u4e00KEY", "KEY\u2013", "\u0100KEY\u0100", "\x80KEY\x80", "\xe2KEY\xe2\x80", "\u20ac\u2025KEY\u3002"} {
		assert.Equal(t, strings.ReplaceAll(s, "KEY", redacted), withoutSecrets(strings.ReplaceAll(s, "KEY", key), nil), s)
	}
}

func TestAMessageIsUTF8WhateverTheServersEncodingIs(t *testing.T) {
	for page, want := range map[string]string{
		"<html>\xb4\xed<title>502 \xb4\xed\xce\xf3</title>":        "502 \ufffd",
		"<title>Erreur du c\xf4t\xe9 du serveur</title>":           "Erreur du c\ufffdt\ufffd du serveur",
		"<title>503 \x83G\x83\x89\x81[ unavailable</title>":        "503 \ufffdG\ufffd[ unavailable",
		"{\"error\":{\"message\":[\"\xb4\xed\"]}}":                 "[\"\ufffd\"]",
		"<title>\u0130\u212a: Bad Gateway\x00</title>\u0130\u0130": "\u0130\u212a: Bad Gateway\x00",
	} {
		assert.Equal(t, want, Classify(answer(get(t), 502, page), nil).Message, page)
	}
}

func TestOneLineCutsBetweenCharacters(t *testing.T) {
	assert.Equal(t, "héé…", capped("hééééé", 8))
	assert.Equal(t, "short", capped("short", 5))
	assert.Equal(t, "\x82\xa0…", capped(strings.Repeat("\x82\xa0", 5), 8), "where there are none, it cuts all the same")
	assert.Equal(t, "a b", oneLine("a\r\nb", 100)[:1]+" b")
}
