package sturdy

import (
	"io"
	"net/http"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// foreignTexts are texts that are not UTF-8, and some whose letters take more or
// fewer bytes in lower case.
var foreignTexts = []string{
	"\xb7\xfe\xce\xf1\xc6\xf7\xc3\xa6",             // GBK: the server is busy
	"\x83T\x81[\x83o\x81[\x82\xaa\x8d\x9e\x82\xf1", // Shift-JIS
	"D\xe9pass\xe9, r\xe9essayez \xe0 6 h",         // Latin-1
	"\x80\xbf\xfe\xff", "\xc3", "\xed\xa0\x80", "a\x00b",
	"\u0130\u0130\u0130\u0130", "\u212a\u212a\u2126", "\u1e9e\u023a\u023e",
}

// pages returns the texts as error pages, and as other bodies.
func pages() (all []string) {
	for _, s := range foreignTexts {
		s += strings.Repeat(s, 9)
		all = append(all,
			"<html><head>"+s+"<TITLE>"+s+"</Title></head>"+s, "<!DOCTYPE HTML>"+s+"<title>"+s, s+"<title></title>"+s, "<html>"+s, s,
			`{"error":{"message":"`+s+` try again in 5s`+s+`","code":"`+s+`"}}`, "data: "+s+"\n\nerror: "+s+"\n\n")
	}
	return all
}

func TestAPageInAnyEncodingIsReadAndCrashesNothing(t *testing.T) {
	for _, page := range pages() {
		base := rtFunc(func(req *http.Request) (*http.Response, error) {
			resp := answer(req, 502, page)
			resp.Header.Set("Retry-After", page)
			resp.Header.Set("X-Ratelimit-Remaining-"+page, page)
			return resp, nil
		})
		rt := &Transport{Base: &Stream{Base: base}, Retry: Retry{Attempts: -1}}
		resp, err := rt.RoundTrip(get(t))
		require.NoError(t, err)
		e := Check(resp, nil)
		require.ErrorIs(t, e, ErrInternalServer)
		assert.True(t, utf8.ValidString(e.Error()))
		_ = e.(*Error).Report().String()
		body, err := io.ReadAll(resp.Body)
		require.NoError(t, err)
		assert.Equal(t, page, string(body))
		assert.NoError(t, resp.Body.Close())
	}
	const title = "\xb7\xfe\xce\xf1\xc6\xf7"
	assert.Equal(t, title, plainText([]byte("<html>\xc3\xa6\xc3\xa6<TITLE> "+title+" </TITLE>")))
}

// FuzzText feeds any bytes to what reads texts of a server's.
func FuzzText(f *testing.F) {
	for _, page := range pages() {
		f.Add([]byte(page))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		s := string(text)
		if title := plainText(text); len(title) > textBytes || !strings.Contains(s, title) {
			t.Fatalf("a title of its own: %q", title)
		}
		if d, ok := retryAfterText(s); ok && d <= 0 {
			t.Fatalf("a wait of %v", d)
		}
		if got := lowerASCII(s); len(got) != len(s) || !strings.EqualFold(got, s) && utf8.ValidString(s) {
			t.Fatalf("%q in lower case is %q", s, got)
		}
		_ = withoutSecrets(s, secretsNamed(s[:len(s)/2]+"x"))
		_ = oneLine(s, 16)
		var meter usageMeter
		meter.pass(text)
		_ = meter.used()
		_ = numbers(s)
	})
}

func numbers(s string) (n int64) {
	n, _ = numberAfter(s, "Limit ")
	return n
}

func secretsNamed(value string) []secret {
	s := secret{value: value, rank: isKnown}
	s.setForms()
	return []secret{s}
}

// FuzzRedaction looks for a secret, and for halves of characters, in what is
// shown of a text with the secret in it.
func FuzzRedaction(f *testing.F) {
	for _, text := range foreignTexts {
		f.Add(text, text, 100)
	}
	f.Add("\u4e00", "\u2013", 20)
	f.Add("key: ", ".", 1)
	f.Fuzz(func(t *testing.T, before, after string, limit int) {
		const opaque, key = "opaque-canary-value", "sk-canary0123456789"
		s := before + opaque + " " + key + after + " "
		got := withoutSecrets(s, secretsNamed(opaque))
		assert.NotContains(t, got, opaque)
		if r, _ := utf8.DecodeLastRuneInString(before); notInCredential(r) {
			assert.NotContains(t, withoutSecrets(before+key, nil), key)
		}
		if utf8.ValidString(s) {
			assert.True(t, utf8.ValidString(got), "%q", got)
		}
		limit = min(max(limit, len("…")), len(s))
		cut := cutText(s, limit)
		assert.True(t, strings.HasPrefix(s, cut))
		assert.LessOrEqual(t, len(cut), limit)
		assert.LessOrEqual(t, len(capped(s, limit)), limit)
		assert.True(t, utf8.ValidString(serverText(s, nil)))
		assert.True(t, utf8.ValidString(oneLine(s, limit)))
	})
}

// FuzzUsage feeds a body to a usageMeter in one piece, in two and byte by byte:
// in a short one, it finds the same.
func FuzzUsage(f *testing.F) {
	for _, text := range foreignTexts {
		f.Add([]byte(text+`{"usage":{"input_tokens":3,"output_tokens": 40}}`+text), len(text)+20)
	}
	f.Add([]byte(`{"usage":{"total_tokens":99999999999999999999,"prompt_tokens":-1}}`), 25)
	f.Fuzz(func(t *testing.T, body []byte, at int) {
		at = min(max(at, 0), len(body))
		used := func(parts ...[]byte) int {
			var u usageMeter
			for _, p := range parts {
				u.pass(p)
			}
			return u.used()
		}
		for _, parts := range [][][]byte{{body[:at], body[at:]}, byteByByte(body)} {
			if got := used(parts...); len(body) <= usageTail {
				assert.Equal(t, used(body), got)
			}
		}
	})
}
