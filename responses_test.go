package sturdy

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// A sample is a real answer of a server, and what is to be made of it:
// testdata/responses/README.md describes the files.
type sample struct {
	name string
	want map[string]string // "class", "retryable", "wait", …
	resp *http.Response
	body []byte
}

func samples(t testing.TB) []sample {
	files, err := filepath.Glob("testdata/responses/*.http")
	require.NoError(t, err)
	require.NotEmpty(t, files)
	all := make([]sample, 0, len(files))
	for _, file := range files {
		data, err := os.ReadFile(file)
		require.NoError(t, err)
		s := sample{name: strings.TrimSuffix(filepath.Base(file), ".http"), want: map[string]string{}}
		for {
			line, rest, ok := bytes.Cut(data, []byte("\n"))
			comment, is := bytes.CutPrefix(line, []byte("# "))
			if !ok || !is {
				break
			}
			name, value, _ := strings.Cut(string(comment), ": ")
			s.want[name], data = value, rest
		}
		s.resp, err = http.ReadResponse(bufio.NewReader(bytes.NewReader(data)), nil)
		require.NoError(t, err, file)
		s.body, err = io.ReadAll(s.resp.Body)
		require.NoError(t, err, file)
		if s.want["encoding"] == "base64" {
			s.body, err = base64.StdEncoding.DecodeString(strings.TrimSpace(string(s.body)))
			require.NoError(t, err, file)
		}
		s.resp.Body = io.NopCloser(bytes.NewReader(s.body))
		all = append(all, s)
	}
	return all
}

func TestEveryRealAnswerGetsItsClass(t *testing.T) {
	for _, s := range samples(t) {
		t.Run(s.name, func(t *testing.T) {
			var class Class
			var retryable bool
			var wait time.Duration
			if s.want["in"] != "" {
				// An error after a status of 200: Classify takes the answer for a success.
				require.Nil(t, Classify(s.resp, nil))
				ev := newEvidence(s.resp.StatusCode, s.resp.Header, readBody(s.body))
				class = ev.class()
				retryable = (&Error{Class: class, again: ev.again(class)}).Retryable()
				wait = ev.wait
			} else {
				e := Classify(s.resp, nil)
				require.NotNil(t, e)
				class, retryable, wait = e.Class, e.Retryable(), e.RetryAfter
				body, err := io.ReadAll(s.resp.Body)
				require.NoError(t, err)
				assert.Equal(t, s.body, body, "the body is put back byte for byte")
				assert.LessOrEqual(t, len(e.Message), maxMessage)
			}
			assert.Equal(t, s.want["class"], class.String())
			assert.Equal(t, s.want["retryable"] == "true", retryable, "retryable")
			if want := s.want["wait"]; want != "" {
				d, err := time.ParseDuration(want)
				require.NoError(t, err)
				assert.Equal(t, d, wait)
			}
		})
	}
}
