package sturdy

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"html"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// canary is the key that the tests below plant. No third of it may be shown.
const canary = `q7Zk2+Wm9/Xt4"Bv8<Lc3&Hd6`

// A failureText takes the text of a failed assertion.
type failureText struct{ bytes.Buffer }

func (f *failureText) Errorf(format string, args ...any) { fmt.Fprintf(&f.Buffer, format, args...) }

// everyOutput is all that can be printed of an error, by the way it is printed.
func everyOutput(e *Error) map[string]string {
	var unequal failureText
	ev := Event{Kind: EventGiveUp, Err: e}
	r := e.Report()
	shown := map[string]string{"Error": e.Error(), "Advice": fmt.Sprint(e.Advice("en"), e.Advice("zh"))}
	var text bytes.Buffer
	_, _ = r.WriteTo(&text)
	shown["WriteTo"] = text.String()
	for name, v := range map[string]any{
		"*Error": e, "Error": *e, "*Report": r, "Report": *r, "with body": e.Report().AddBody(), "Event": ev, "*Event": &ev,
		"Attempts": r.Attempts, "in a struct": struct{ err, Err any }{*e, e},
	} {
		for _, format := range []string{"%v", "%+v", "%#v", "%s", "%q", "%d", "%x"} {
			shown[name+" "+format] = fmt.Sprintf(format, v)
		}
		asJSON, err := json.Marshal(v)
		shown[name+" JSON"] = fmt.Sprint(string(asJSON), err)
		var log bytes.Buffer
		slog.New(slog.NewTextHandler(&log, nil)).Error("x", "v", v)
		slog.New(slog.NewJSONHandler(&log, nil)).Error("x", "v", v)
		shown[name+" slog"] = log.String()
	}
	assert.Equal(&unequal, Error{Message: "another"}, *e)
	assert.Equal(&unequal, &Error{Message: "another"}, e)
	assert.Equal(&unequal, Report{}, *r)
	assert.Equal(&unequal, &Report{}, r)
	assert.Equal(&unequal, Event{}, ev)
	assert.ElementsMatch(&unequal, []*Error{}, []*Error{e})
	assert.Nil(&unequal, e)
	shown["assertion"] = unequal.String()
	var log bytes.Buffer
	Log(slog.New(slog.NewTextHandler(&log, nil)))(context.Background(), ev)
	Log(slog.New(slog.NewJSONHandler(&log, nil)))(context.Background(), ev)
	shown["Log"] = log.String()
	return shown
}

// assertHidden looks for any part of secret, of half of its length, in any case.
func assertHidden(t *testing.T, e *Error, secret string) {
	t.Helper()
	require.NotNil(t, e)
	secret = strings.ToLower(secret)
	n := (len(secret) + 1) / 2
	for name, text := range everyOutput(e) {
		if strings.HasSuffix(name, " %x") {
			plain, _ := hex.DecodeString(text)
			text += string(plain)
		}
		text = strings.ToLower(text)
		for i := 0; i+n <= len(secret); i++ {
			if at := strings.Index(text, secret[i:i+n]); at >= 0 {
				t.Errorf("%s: …%q…", name, text[max(0, at-60):min(len(text), at+60)])
				break
			}
		}
	}
}

// planted are requests with a key in a place of theirs.
func planted(t *testing.T, key string) map[string]*http.Request {
	requests := make(map[string]*http.Request)
	plant := func(name string) *http.Request {
		requests[name] = post(t, `{"model":"gpt-4o-mini"}`)
		return requests[name]
	}
	plant("bearer").Header.Set("Authorization", "Bearer "+key)
	plant("bare").Header.Set("Authorization", key)
	plant("basic").SetBasicAuth("me", key)
	plant("user of basic").SetBasicAuth(key, "")
	plant("proxy").Header.Set("Proxy-Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte("me:"+key)))
	plant("own header").Header.Set("X-Api-Key", key)
	plant("unknown header").Header.Set("X-Whatever", url.PathEscape(key))
	plant("cookie").Header.Set("Cookie", "theme=dark; sid="+url.PathEscape(key))
	plant("first cookie").Header.Set("Cookie", "sid="+url.PathEscape(key)+"; theme=dark")
	plant("digest").Header.Set("Authorization", `Digest username="me", response="`+url.PathEscape(key)+`"`)
	plant("referer").Header.Set("Referer", "https://example.com/?token="+url.QueryEscape(key))
	plant("query").URL.RawQuery = "key=" + url.QueryEscape(key)
	plant("bad query").URL.RawQuery = "a=%zz&key=" + url.QueryEscape(key)
	plant("password").URL.User = url.UserPassword("me", key)
	plant("user").URL.User = url.User(key)
	path := plant("path")
	path.URL.Path, path.URL.RawPath = "/bot123456789:"+key+"/getMe", "/bot123456789:"+url.PathEscape(key)+"/getMe"
	hook := plant("webhook")
	hook.URL.Path, hook.URL.RawPath = "/services/T0AAAAAAA/B0AAAAAAA/"+key, "/services/T0AAAAAAA/B0AAAAAAA/"+url.PathEscape(key)
	return requests
}

// echoes are the ways in which a server may write a key.
func echoes(key string) map[string]string {
	escaped, _ := json.Marshal(key)
	inner := strings.Trim(string(escaped), `"`)
	third := len(key) / 3
	return map[string]string{
		"plain": key, "query": url.QueryEscape(key), "path": url.PathEscape(key), "html": html.EscapeString(key), "json": inner,
		"query twice": url.QueryEscape(url.QueryEscape(key)), "html in json": strings.ReplaceAll(html.EscapeString(key), "/", `\/`),
		"small escapes": strings.ToLower(url.QueryEscape(key)), "slashes": strings.ReplaceAll(strings.ReplaceAll(key, `"`, `\"`), "/", `\/`),
		"capitals": strings.ToUpper(key), "small": strings.ToLower(key),
		"base64": base64.StdEncoding.EncodeToString([]byte(key)), "base64 raw": base64.RawStdEncoding.EncodeToString([]byte(key)),
		"base64 url": base64.URLEncoding.EncodeToString([]byte(key)), "base64 raw url": base64.RawURLEncoding.EncodeToString([]byte(key)),
		"base64 of more": base64.StdEncoding.EncodeToString([]byte("me:" + key + ";")), "base64 of others": base64.StdEncoding.EncodeToString([]byte("user:" + key)),
		"hex": hex.EncodeToString([]byte(key)), "HEX": strings.ToUpper(hex.EncodeToString([]byte(key))),
		"cut behind": key[:len(key)-third], "cut before": key[third:], "cut on both sides": key[third/2 : len(key)-third/2],
		"cut and small": strings.ToLower(key[:len(key)-third]), "cut with dots": key[:len(key)-third] + "...",
		"cut and escaped": url.QueryEscape(key[third:]), "cut base64": base64.StdEncoding.EncodeToString([]byte(key))[:len(key)],
	}
}

func TestAnEchoedKeyIsShownNowhereWhereverTheRequestHasIt(t *testing.T) {
	for place, req := range planted(t, canary) {
		for form, echo := range echoes(canary) {
			if place == "unknown header" && strings.ContainsAny(form[:1], "hHbcs") && form != "html" {
				continue // of what need not be a credential, nobody looks for more than the escapes
			}
			said, _ := json.Marshal("Bad key " + echo + ", and (" + echo + ").")
			for name, body := range map[string]string{
				"message": `{"error":{"message":` + string(said) + `,"code":` + string(said) + `,"type":` + string(said) + `,"param":` + string(said) + `}}`,
				"text":    "Bad key: " + echo + " of yours",
				"page":    "<html><title>Bad " + strings.ReplaceAll(echo, "</", "&lt;/") + "</title></html>",
			} {
				resp := answer(req, 401, body)
				resp.Status = "401 Bad " + echo
				for _, h := range []string{"X-Request-Id", "Server", "Set-Cookie", "Location", "Www-Authenticate", "Link", "Content-Location", "Via"} {
					resp.Header.Set(h, "x "+echo)
				}
				e := Classify(resp, nil)
				for _, text := range []string{e.Error(), e.Message, e.Code, e.Type, e.Param, e.RequestID, fmt.Sprintf("%+v", *e), fmt.Sprintf("%#v", e), e.Report().String()} {
					assertNoEcho(t, text, echo, place+", "+form+", "+name)
				}
			}
		}
	}
}

func assertNoEcho(t *testing.T, text, echo, what string) {
	t.Helper()
	n := (len(echo) + 1) / 2
	for i := 0; i+n <= len(echo); i++ {
		if at := strings.Index(text, echo[i:i+n]); at >= 0 {
			t.Errorf("%s: %q is in …%s…", what, echo[i:i+n], text[max(0, at-40):min(len(text), at+60)])
			return
		}
	}
}

func TestAKeyIsInNoOutputOfAnAnswer(t *testing.T) {
	for place, req := range planted(t, canary) {
		t.Run(place, func(t *testing.T) {
			resp := answer(req, 429, `{"error":{"message":`+fmt.Sprintf("%q", "Slow down, "+canary)+`}}`)
			for _, h := range []string{"X-Request-Id", "Server", "Set-Cookie", "Location", "Www-Authenticate", "Link", "Content-Location", "X-Own"} {
				resp.Header.Set(h, canary)
			}
			resp.Header.Set("Location", "https://me:"+canary+"@example.com/"+canary+"?"+canary)
			assertHidden(t, Classify(resp, nil), canary)
		})
	}
}

// A heldRequestError is an error that has the request in it, as those of SDKs do.
type heldRequestError struct {
	Request *http.Request
	Err     error
}

func (h *heldRequestError) Error() string { return "the call failed" }
func (h *heldRequestError) Unwrap() error { return h.Err }

func TestAKeyIsInNoOutputOfACause(t *testing.T) {
	for place, req := range planted(t, canary) {
		for name, cause := range map[string]error{
			"url.Error":   &url.Error{Op: "Post", URL: req.URL.String() + "#" + url.QueryEscape(canary), Err: errReset},
			"wrapped":     fmt.Errorf("no token: %w", &url.Error{Op: "Post", URL: req.URL.String(), Err: errors.New(canary)}),
			"as text":     fmt.Errorf("sent %v with %s: %w", req.URL, canary, errReset),
			"a struct":    &heldRequestError{req, errReset},
			"joined":      errors.Join(errReset, &heldRequestError{req, errReset}),
			"escaped":     fmt.Errorf("sent %q: %w", canary, errReset),
			"a cut one":   fmt.Errorf("sent %s…: %w", canary[:17], errReset),
			"in a struct": &url.Error{Op: "Post", URL: "x", Err: &heldRequestError{req, errReset}},
		} {
			if place == "unknown header" && name == "a cut one" {
				continue // it need not be a credential
			}
			t.Run(place+" "+name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					_, err := (&Retry{Base: rtFunc(fails(cause)), Attempts: 2, ReplayUnsafe: true, MinDelay: -1}).RoundTrip(req)
					for _, e := range []*Error{Classify(nil, err), judge(req, nil, cause), exchangeOf(req, answer(req, 200, "")).broke(ErrConnection, cause)} {
						assertHidden(t, e, canary)
						assert.ErrorIs(t, e, cause)
						if name != "joined" {
							assert.Equal(t, errors.As(cause, new(*url.Error)), errors.As(e, new(*url.Error)))
							assert.Equal(t, errors.As(cause, new(*heldRequestError)), errors.As(e, new(*heldRequestError)))
						}
					}
				})
			})
		}
	}
}

func TestACauseThatHoldsNothingIsTheErrorItself(t *testing.T) {
	for _, cause := range []error{errReset, context.Canceled, errors.New("boom"), fmt.Errorf("x: %w", errReset), errors.Join(errReset, errReset)} {
		assert.Equal(t, cause, Classify(nil, cause).Err)
	}
}

func TestARedirectToAnywhereShowsNoKey(t *testing.T) {
	const key = "q7Zk2Wm9Xt4Bv8Lc3Hd6"
	for _, location := range []string{
		"https://me:" + key + "@example.com/%zz", "https://example.com/%zz?token=" + key, "/a?" + key + "%zz\x7f", "http://x:" + key + "/",
		"https://example.com/bot123456:" + key + "/%zz", "://" + key, "ftp://example.com/?sig=" + key, "https://" + key + "@example.com/a?b=" + key,
		"https://example.com/cb#access_token=" + key, `/"` + key + "\x7f",
	} {
		rt := rtFunc(func(req *http.Request) (*http.Response, error) {
			if req.URL.Host != "api.example.com" {
				return nil, fmt.Errorf("dial %v: %w", req.URL, errReset)
			}
			resp := answer(req, 302, "")
			resp.Header.Set("Location", location)
			return resp, nil
		})
		client := &http.Client{Transport: &StatusErrors{Base: rt}}
		resp, err := client.Do(get(t))
		require.Error(t, err, location)
		if resp != nil {
			resp.Body.Close()
		}
		assertHidden(t, Classify(nil, err), key)
		assertHidden(t, Classify(nil, fmt.Errorf("as text: %v", err)), key)
	}
}

func TestAKeyInAPathIsRedactedAndWordsAreNot(t *testing.T) {
	for path, want := range map[string]string{
		"/bot123456789:AAF-x1Yz2Wv3Ut4Sr5Qp6On7Ml8Kj9Ih0/getMe":                          "/[redacted]/getMe",
		"/bot123456789%3AAAF-x1Yz2Wv3Ut4Sr5Qp6On7Ml8/getMe":                              "/[redacted]/getMe",
		"/services/T00000000/B00000000/XXXXXXXXXXXXXXXXXXXXXXXX":                         "/services/[redacted]/[redacted]/[redacted]",
		"/api/webhooks/123456789012345678/aB3dE5gH7jK9mN1pQ3sT5vW7yZ-_aB3dE5gH7":         "/api/webhooks/[redacted]/[redacted]",
		"/webhookb2/0a1b2c3d-0a1b-0a1b-0a1b-0a1b2c3d4e5f@x/IncomingWebhook/0a1b2c3d4e5f": "/webhookb2/[redacted]/[redacted]/[redacted]",
		"/v3/0a1b2c3d4e5f60718293a4b5c6d7e8f9":                                           "/v3/[redacted]",
		"/trigger/x/with/key/dQw4w9WgXcQ":                                                "/trigger/x/with/key/[redacted]",
		"/u/sk-proj-abcdefghijkl/x":                                                      "/u/[redacted]/x",
		"/a;jsessionid=0A1B2C3D4E/x":                                                     "/a;jsessionid=[redacted]/x",

		"/v1/chat/completions":                                                     "/v1/chat/completions",
		"/v1/models/claude-3-5-sonnet-20241022":                                    "/v1/models/claude-3-5-sonnet-20241022",
		"/v1beta/models/gemini-1.5-flash-002:generateContent":                      "/v1beta/models/gemini-1.5-flash-002:generateContent",
		"/openai/deployments/gpt-4o-mini/chat/completions":                         "/openai/deployments/gpt-4o-mini/chat/completions",
		"/accounts/fireworks/models/llama-v3p1-405b-instruct":                      "/accounts/fireworks/models/llama-v3p1-405b-instruct",
		"/v1/files/file-BK7bzQj3FfZFXr7DbL6xJwfo":                                  "/v1/files/file-BK7bzQj3FfZFXr7DbL6xJwfo",
		"/v1/threads/thread_abc123def456ghi789jkl012/runs":                         "/v1/threads/thread_abc123def456ghi789jkl012/runs",
		"/jobs/0a1b2c3d-0a1b-4a1b-8a1b-0a1b2c3d4e5f":                               "/jobs/0a1b2c3d-0a1b-4a1b-8a1b-0a1b2c3d4e5f",
		"/repos/o/r/hooks/123/deliveries":                                          "/repos/o/r/hooks/123/deliveries",
		"/model/anthropic.claude-3-sonnet-20240229-v1:0/invoke":                    "/model/anthropic.claude-3-sonnet-20240229-v1:0/invoke",
		"/v1/projects/my-project-123456/locations/us-central1/publishers/google/x": "/v1/projects/my-project-123456/locations/us-central1/publishers/google/x",
	} {
		req := get(t)
		var err error
		req.URL, err = url.Parse("https://me:pass@api.example.com" + path)
		require.NoError(t, err)
		r := Classify(answer(req, 404, "Nothing at "+req.URL.Path), nil).Report()
		assert.Equal(t, "https://api.example.com"+want, r.URL)
		if !strings.Contains(want, redacted) {
			assert.Equal(t, "Nothing at "+path, r.Message)
		}
	}
}

func TestPlainTextSurvives(t *testing.T) {
	req := get(t)
	req.Header.Set("Authorization", "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20250101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=0a1b2c3d4e5f60718293a4b5c6d7e8f9")
	req.Header.Set("Cookie", "consent=true; lang=de")
	req.Header.Set("X-Api-Key", canary)
	req.URL.RawQuery = "model=gpt-4o-mini&stream=true"
	for _, said := range []string{
		"The request signature we calculated does not match: check your authorization and the credential.",
		"Model gpt-4o-mini is overloaded (request id req_011CSHoEeqs5C35K2UUqR7Fy). true, de, stream.",
		"See https://platform.openai.com/docs/guides/error-codes/api-errors?lang=en#rate-limits, https://help.openai.com/en/articles/6891831-error-code-429.",
		"No such File object: file-BK7bzQj3FfZFXr7DbL6xJwfo; 0a1b2c3d-0a1b-4a1b-8a1b-0a1b2c3d4e5f; claude-3-5-sonnet-20241022",
		"100% of your quota &amp; more \\u00e4 are used. Limit 10000 / min",
	} {
		e := Classify(answer(req, 429, said), nil)
		assert.Equal(t, said, e.Message)
	}
}

func TestACredentialInABodysFieldIsNotShown(t *testing.T) {
	for _, body := range []string{
		`grant_type=client_credentials&client_secret=hunter2-hunter2&scope=a`, `{"api_key": "hunter2-hunter2","max_tokens":5,"scope":"a"}`,
		`{"a":{"Refresh_Token":"hunter2-\"hunter2"}}`, "password=hunter2-hunter2",
	} {
		r := Classify(answer(post(t, body), 400, ""), nil).Report().AddBody()
		assert.NotContains(t, r.RequestBody, "hunter2")
		assert.Contains(t, r.RequestBody, redacted)
	}
	const plain = `{"model":"m","max_tokens":5,"messages":[{"role":"user","content":"tell me: token, secret and key"}],"tokenizer":"cl100k_base"}`
	assert.Equal(t, plain, Classify(answer(post(t, plain), 400, ""), nil).Report().AddBody().RequestBody)

	// The end of what is shown is in a key.
	req := post(t, strings.Repeat("x ", reportBody/2-4)+"q7Zk2Wm9Xt4Bv8Lc3Hd6 and more")
	req.Header.Set("X-Api-Key", "q7Zk2Wm9Xt4Bv8Lc3Hd6")
	shown := Classify(answer(req, 400, ""), nil).Report().AddBody().RequestBody
	assert.NotContains(t, shown, "q7Zk")
	assert.LessOrEqual(t, len(shown), reportBody)
}

func TestAHeaderIsCutOnlyAfterItsKeysAreRedacted(t *testing.T) {
	const key = "q7Zk2Wm9Xt4Bv8Lc3Hd6q7Zk2Wm9Xt4Bv8Lc3Hd6"
	req := get(t)
	req.Header.Set("X-Api-Key", key)
	resp := answer(req, 400, "")
	resp.Header.Set("X-Request-Id", strings.Repeat("a", 240)+" "+key)
	resp.Header.Set("Server", strings.Repeat("a", maxMessage-12)+" "+key)
	assertHidden(t, Classify(resp, nil), key)
}

func TestTheJSONOfAnError(t *testing.T) {
	e := Error{
		Class: ErrRateLimit, StatusCode: 429, Code: "c", Type: "t", Param: "p", Message: "m", RequestID: "r", RetryAfter: time.Second,
		Attempts: 2, Time: time.Unix(0, 0).UTC(), Err: errors.New("boom"),
	}
	for _, v := range []any{e, &e} {
		got, err := json.Marshal(v)
		require.NoError(t, err)
		assert.JSONEq(t, `{"time":"1970-01-01T00:00:00Z","class":"rate_limit","status":429,"code":"c","type":"t","param":"p","message":"m",
			"cause":"boom","request_id":"r","attempts":2,"retry_after":1000000000}`, string(got))
	}
	assert.Equal(t, `sturdy.Error{Class:rate_limit, StatusCode:429, Err:"boom"}`, fmt.Sprintf("%#v", Error{Class: ErrRateLimit, StatusCode: 429, Err: errors.New("boom")}))
	assert.Equal(t, "<nil>", fmt.Sprintf("%v", (*Error)(nil)))
}

func TestANameThatOnlyLooksLikeACredentialsIsPlain(t *testing.T) {
	for _, name := range []string{
		"keyword", "keywords", "author", "authors", "authorId", "monkey", "max_tokens", "maxTokens", "max_new_tokens", "token_count",
		"tokenCount", "page_token", "pageToken", "next_token", "NextToken", "nextPageToken", "continuation_token", "continuation-token",
		"syncToken", "token_type", "key-marker", "start_key", "startkey", "design", "keyboard_layout", "tokenizer", "page%5Ftoken",
		"oauth_version", "oauth_signature_method", "auth_type", "X-Amz-SignedHeaders",
	} {
		const value = "Ab1Cd2Ef3Gh4Ij5Kl6Mn7"
		req := get(t)
		req.URL.RawQuery = name + "=" + value
		said := "Nothing for " + value + ", see https://example.com/?" + req.URL.RawQuery
		assert.Equal(t, said, Classify(answer(req, 400, said), nil).Message, name)
		req.URL.RawQuery = name + "=and"
		said = "Band and andante, see https://example.com/?" + req.URL.RawQuery
		assert.Equal(t, said, Classify(answer(req, 400, said), nil).Message, name)
	}
	for _, name := range []string{
		"key", "apikey", "api_key", "APIKey", "myApiKey", "x-mycorpkey", "token", "tokens", "access_token", "accessTokens", "token_secret", "page_token_secret",
		"auth", "authorization", "authorisation", "author_token", "keyword_key", "oauth", "passWord", "session", "sig", "Signature", "sign_sig", "userAuth",
		"code", "refresh-token", "token1", "start", "csrf_token", "authenticity_token", "api%5Fkey",
		"skoid", "q-ak", "X-Honeycomb-Team", "signed_request", "X-Amz-Signature", "token_type_secret",
	} {
		req := get(t)
		req.URL.RawQuery = name + "=and"
		said := "No and, see https://example.com/?" + req.URL.RawQuery
		if want := name != "start"; want {
			assert.NotContains(t, Classify(answer(req, 400, said), nil).Message, "and", name)
		} else {
			assert.Equal(t, said, Classify(answer(req, 400, said), nil).Message, name)
		}
	}
	assert.Equal(t, `{"page_token":"abcdefgh","next_token":"abcdefgh"}`, withoutFields(`{"page_token":"abcdefgh","next_token":"abcdefgh"}`))
	assert.Equal(t, `{"page_token":"abcdefgh","my_token":"[redacted]"}`, withoutFields(`{"page_token":"abcdefgh","my_token":"abcdefgh"}`))
}

func TestAWordIsNotTakenForAKey(t *testing.T) {
	for _, word := range []string{
		"ASIA-PACIFIC", "ASIAPACIFIC", "AKIA_REGION_NAME", "pk_customers_id", "pk_orders_2024", "fk-orders-customers", "pk-customers", "sk_translations",
		"hf_datasets_cache", "fw_rules_enabled", "sess-storage", "example.services.internal", "eyes.of.the.world", "exchange.partners.example-company.com",
	} {
		assert.Equal(t, "No "+word+".", withoutSecrets("No "+word+".", nil))
	}
	for _, key := range []string{
		"ASIAIOSFODNN7EXAMPLE", "AKIA...MPLE", "AKIAIOSF…", "pk_live_abcdefgh", "pk_test_51Habcdef", "rk_live_abcdefgh", "sk_0a1b2c3d4e5f60718293a4b5c6d7e8f9",
		"sk_0a1b2c…", "hf_AbcDefGhiJklMnoPqrStuVwx", "fk-0a1b2c3d", "sk-proj-abcdefghijkl", "csk-0a1b2c3d4e", spacedJWT("{\n", 1), spacedJWT("{", 1), spacedJWT("{ ", 1),
	} {
		assert.Equal(t, "No [redacted].", withoutSecrets("No "+key+".", nil), key)
	}
	assert.Equal(t, "No [redacted]...", withoutSecrets("No sk_0a1b2c...", nil))
	assert.Equal(t, "No pk_customers...", withoutSecrets("No pk_customers...", nil))
}
