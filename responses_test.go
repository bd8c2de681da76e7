package sturdy

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
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

// bucketLine writes a bucket as the samples have it: with a moment, where there
// is no Date to count from, and it lies far ahead.
func bucketLine(b Bucket, now time.Time, dated bool) string {
	number := func(n int64) string {
		if n < 0 {
			return "?"
		}
		return strconv.FormatInt(n, 10)
	}
	name := b.Name
	if name == "" {
		name = b.Unit
	}
	line := name + " " + number(b.Remaining) + "/" + number(b.Limit)
	switch {
	case b.Reset < 0:
		return line + " reset=?"
	case !dated && b.Reset > 1000*time.Hour:
		return line + " reset=" + now.Add(b.Reset).Format(time.RFC3339)
	}
	return line + " reset=" + b.Reset.String()
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
			if want := s.want["buckets"]; want != "" {
				date, dated := parseHTTPDate(s.resp.Header.Get("Date"))
				if !dated {
					date = time.Date(2025, 1, 1, 0, 0, 0, 0, time.UTC)
				}
				var got []string
				for _, b := range ParseLimits(s.resp.Header, date) {
					got = append(got, bucketLine(b, date, dated))
				}
				assert.ElementsMatch(t, strings.Split(want, ", "), got)
			}
			if want := s.want["wait"]; want != "" {
				d, err := time.ParseDuration(want)
				require.NoError(t, err)
				assert.Equal(t, d, wait)
			}
		})
	}
}
