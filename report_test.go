package sturdy

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// failedCall is a call with a secret everywhere, which failed three times.
func failedCall(t *testing.T) *Error {
	req := post(t, `{"messages":[{"content":"`+bearer+`"}],"model":"gpt-4o-mini","user":"sk-proj-abcdefghijkl"}`)
	secret := secretRequest(t)
	req.Header, req.URL.User, req.URL.RawQuery = secret.Header, secret.URL.User, secret.URL.RawQuery
	req.Header.Set("Content-Type", "application/json")
	base := script(fails(fmt.Errorf("%s: %w", bearer, errReset)),
		status(503, "Retry-After", "2", "X-Request-Id", "req_2"),
		status(500, "X-Request-Id", "req_3", "Set-Cookie", "id="+cookie, "X-Ratelimit-Limit-Requests", "500", "Server", "x "+bearer))
	resp, err := (&Retry{Base: base, Attempts: 3, ReplayUnsafe: true, MinDelay: -1}).RoundTrip(req)
	e := Classify(resp, err)
	require.NotNil(t, e)
	return e
}

func TestReportTellsWhatASupportDeskAsksFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := failedCall(t).Report()
		assert.Equal(t, "gpt-4o-mini", r.Model)
		assert.Equal(t, http.MethodPost, r.Method)
		assert.Equal(t, "https://api.example.com/v1/chat?api-version=[redacted]&key=[redacted]", r.URL)
		assert.Equal(t, 500, r.StatusCode)
		assert.Equal(t, "req_3", r.RequestID)
		assert.Equal(t, "status 500", r.Message)
		require.Len(t, r.Attempts, 3)
		assert.Equal(t, []string{"connection", "overloaded", "internal_server"},
			[]string{r.Attempts[0].Class, r.Attempts[1].Class, r.Attempts[2].Class})
		assert.Equal(t, []time.Duration{0, 2 * time.Second, 0},
			[]time.Duration{r.Attempts[0].Wait, r.Attempts[1].Wait, r.Attempts[2].Wait})
		assert.Equal(t, "req_2", r.Attempts[1].RequestID)
		assert.Equal(t, "application/json", r.RequestHeader.Get("Content-Type"))
		assert.Equal(t, redacted, r.RequestHeader.Get("Authorization"))
		assert.Equal(t, redacted, r.ResponseHeader.Get("Set-Cookie"))
		assert.Equal(t, "500", r.ResponseHeader.Get("X-Ratelimit-Limit-Requests"))
		assert.Equal(t, "x "+redacted, r.ResponseHeader.Get("Server"))
		assert.Empty(t, r.RequestBody, "a body is shown on request alone")

		text := r.String()
		zoned := r.Time.Format(time.RFC3339Nano)
		for _, want := range []string{
			"time         " + zoned, "model        gpt-4o-mini\n", "status       500 Internal Server Error\n", "sent         3 times\n",
			"request id   req_3\n", "503", "then waited 2s", "  Authorization: [redacted]\n",
		} {
			assert.Contains(t, text, want)
		}
	})
}

func TestNoSecretIsInAReport(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := failedCall(t)
		for _, r := range []*Report{e.Report(), e.Report().AddBody()} {
			var log bytes.Buffer
			slog.New(slog.NewTextHandler(&log, nil)).Error("x", "report", r)
			slog.New(slog.NewJSONHandler(&log, nil)).Error("x", "report", r)
			asJSON, err := json.MarshalIndent(r, "", " ")
			require.NoError(t, err)
			for _, text := range []string{r.String(), string(asJSON), log.String()} {
				assertNoSecret(t, text)
				assert.Contains(t, text, "gpt-4o-mini")
			}
		}
		assert.Contains(t, e.Report().AddBody().RequestBody, `"model":"gpt-4o-mini"`)
	})
}

func TestReportOfAnErrorThatKnowsLittle(t *testing.T) {
	r := (&Error{Class: ErrNotSent}).Report().AddBody()
	assert.Contains(t, r.String(), "class        not_sent\nsent         not at all\n")
	assert.NotContains(t, r.String(), "status")
	r = Classify(nil, io.ErrUnexpectedEOF).Report()
	assert.Contains(t, r.String(), "cause        unexpected EOF\n")
	r = Classify(&http.Response{StatusCode: 404, Header: http.Header{}}, nil).Report()
	assert.Contains(t, r.String(), "status       404 Not Found\n")
}

func TestTheModelOfARequest(t *testing.T) {
	for body, want := range map[string]string{
		`{"model":"a"}`:                   "a",
		`{"x":{"model":"b"},"model":"a"}`: "a",
		`{"x":[1,2],"model" : "a"`:        "a",
		`{"model":5}`:                     "5",
		`{"model":null}`:                  "",
		`{"messages":"` + strings.Repeat("x", 2*reportBody) + `","model":"a"}`: "",
		`[{"model":"a"}]`: "",
		`model=a`:         "",
		``:                "",
	} {
		assert.Equal(t, want, modelOf(post(t, body), reportBody), "%.40s", body)
	}
	req := post(t, `{"model":"a"}`)
	req.GetBody = nil
	assert.Empty(t, modelOf(req, reportBody), "the caller's own body is not touched")
}

func TestStatusErrorsReturnsAnErrorForAStatus(t *testing.T) {
	body := &trackedBody{Reader: strings.NewReader(`{"error":{"message":"No such model","code":"model_not_found"}}`)}
	base := rtFunc(func(req *http.Request) (*http.Response, error) {
		resp := answer(req, 404, "")
		resp.Body = body
		return resp, nil
	})
	client := &http.Client{Transport: &StatusErrors{Base: &Transport{Base: base}}}
	resp, err := client.Do(get(t))
	assert.Nil(t, resp)
	var e *Error
	require.ErrorAs(t, err, &e)
	assert.Equal(t, ErrNotFound, e.Class)
	assert.Equal(t, "No such model", e.Message)
	assert.Equal(t, 1, body.closes())

	for _, code := range []int{200, 204, 302} {
		resp, err := (&StatusErrors{Base: rtFunc(status(code))}).RoundTrip(get(t))
		require.NoError(t, err)
		assert.Equal(t, code, resp.StatusCode)
	}
	_, err = (&StatusErrors{Base: rtFunc(fails(errReset))}).RoundTrip(get(t))
	assert.Same(t, errReset, err, "what is an error already is passed on")
}
