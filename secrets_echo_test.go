package sturdy

import (
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"html"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"testing"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/stretchr/testify/assert"
)

func (q quotation) String() string { return q.name }

// A quotation is how a server writes what was sent into what it says.
type quotation struct {
	name string
	of   func(string) string
}

func quotations() []quotation {
	return []quotation{
		{"query", url.QueryEscape},
		{"path", url.PathEscape},
		{"html", html.EscapeString},
		{"json", inJSON},
		{"ascii", inASCII},
		{"escape()", escape},
		{"go", func(s string) string { q := strconv.QuoteToASCII(s); return q[1 : len(q)-1] }},
	}
}

func inJSON(s string) string {
	b, err := json.Marshal(s)
	if err != nil {
		panic(err)
	}
	return string(b[1 : len(b)-1])
}

// inASCII is inJSON as Python has it, in ASCII.
func inASCII(s string) string {
	return eachRune(inJSON(s), func(r rune) string { return string(r) }, `\u%04x`)
}

// escape is the function of old JavaScript.
func escape(s string) string {
	return eachRune(s, func(r rune) string { return url.PathEscape(string(r)) }, `%%u%04X`)
}

// eachRune writes those in ASCII with ascii, and the code units of others by format.
func eachRune(s string, ascii func(rune) string, format string) string {
	var b strings.Builder
	for _, r := range s {
		if r < utf8.RuneSelf {
			b.WriteString(ascii(r))
			continue
		}
		for _, unit := range utf16.Encode([]rune{r}) {
			fmt.Fprintf(&b, format, unit)
		}
	}
	return b.String()
}

// basic is a request of a user with a password.
func basic(t *testing.T, user, password string) *http.Request {
	req := get(t)
	req.SetBasicAuth(user, password)
	return req
}

func bearing(t *testing.T, token string) *http.Request {
	req := get(t)
	req.Header.Set("Authorization", "Bearer "+token)
	return req
}

// saidOf is the message that is shown of an answer that is no JSON.
func saidOf(req *http.Request, text string) string {
	return Classify(answer(req, 401, text), nil).Message
}

func TestAnEchoIsFoundThroughThreeEscapes(t *testing.T) {
	for _, password := range []string{`p"ä<ß>/\😀& xyz+q'😀`, "hunter%41%zz-hunter<", "hunter&lt;hunter/2>", `hunter\u0041\hunter"`, "hunter%2541hunter"} {
		req := basic(t, "me", password)
		found := func(echo string, by ...quotation) {
			assert.Equal(t, "No «[redacted]» here", saidOf(req, "No «"+echo+"» here"), "%s: %v", password, by)
		}
		for _, a := range quotations() {
			found(a.of(password), a)
			for _, b := range quotations() {
				found(b.of(a.of(password)), a, b)
				for _, c := range quotations() {
					found(c.of(b.of(a.of(password))), a, b, c)
				}
			}
		}
	}
}

func TestAPasswordOfLettersIsFoundWithoutAThird(t *testing.T) {
	for _, password := range []string{"correcthorsebattery", "hunterly", "newpassage", "correct, horsebattery", "пароль-для-всех", "grüßeüberall"} {
		for name, req := range map[string]*http.Request{
			"Basic": basic(t, "me", password),
			"URL":   {URL: &url.URL{Scheme: "https", Host: "api.example.com", User: url.UserPassword("me", password)}},
			"user":  basic(t, password, ""),
		} {
			runes := []rune(password)
			n := len(runes) / 3
			if len(runes) < len(password) {
				n-- // they are not of one length
			}
			for _, part := range []string{password, string(runes[:len(runes)-n]), string(runes[n:]), string(runes[n/2 : len(runes)-(n+1)/2])} {
				for _, said := range []string{"No %s…", "No (%s)", "No %s***", "%s", "***%s", "No “%s”", "No 密码%s"} {
					assert.NotContains(t, saidOf(req, fmt.Sprintf(said, part)), part[1:len(part)-1], "%s: %q", name, said)
					upper := strings.ToUpper(part)
					assert.NotContains(t, saidOf(req, fmt.Sprintf(said, upper)), upper[1:len(upper)-1], "%s: %q", name, said)
				}
			}
		}
	}
	assert.Equal(t, "A hunter and hunterlyness, [redacted].", saidOf(basic(t, "me", "hunterlyXyz"), "A hunter and hunterlyness, hunterly."))
	assert.Equal(t, "Found [redacted]... and abc123de4", saidOf(bearing(t, "abc123def45"), "Found abc123de... and abc123de4"))
	assert.NotContains(t, saidOf(bearing(t, "correcthorsebattery"), "No correcthorseb..."), "horse")
}

func TestAShortPasswordIsFoundInOtherWays(t *testing.T) {
	req := basic(t, "me", "hunter")
	for said, want := range map[string]string{
		"Bad hunter":    "Bad [redacted]",
		"Bad 'Hunter'":  "Bad '[redacted]'",
		"HUNTER is bad": "[redacted] is bad",
		"me:hunter":     "me:[redacted]",
		"密码HUNTER":      "密码[redacted]",
		"A Hunteress":   "A Hunteress",
		"PRE_HUNTER":    "PRE_HUNTER",
		"Bad %48unter":  "Bad [redacted]",
		"Bad aHVudGVy":  "Bad [redacted]",
		"Bad " + hex.EncodeToString([]byte("hunter")): "Bad [redacted]",
	} {
		assert.Equal(t, want, saidOf(req, said))
	}
	for _, password := range []string{"hunter", "hound", "hun?>te", "?>?>?"} {
		req := basic(t, "me", password)
		for _, around := range [][2]string{{"", "x"}, {"x", ""}, {"xy", "z"}, {"user:", ""}, {"you:", " "}} {
			for _, encoding := range []*base64.Encoding{base64.StdEncoding, base64.RawURLEncoding} {
				text := encoding.EncodeToString([]byte(around[0] + password + around[1]))
				before := text[:(len(around[0])*8+5)/6] // the rest has something of it
				assert.Equal(t, "Bad "+before+redacted+".", saidOf(req, "Bad "+text+"."), "%s%s%s", around[0], password, around[1])
			}
		}
	}
	assert.Equal(t, "Bad d29sZg.", saidOf(basic(t, "me", "wolf"), "Bad d29sZg."), "four bytes in Base64 are like a word")
	assert.Equal(t, "abc [redacted] YWJj", saidOf(basic(t, "me", "xyz"), "abc XYZ YWJj"))
}

func TestTheNameOfAUserIsNotFoundInOtherWords(t *testing.T) {
	for _, row := range []struct{ user, password, said, want string }{
		{"api", "key-0a1b2c3d4e5f", "rapid api error, key-0a1b2c3d4e5f", "rapid api error, [redacted]"},
		{"bob", "hunter22", "bobsled of BOB, bob and bob_smith", "bobsled of [redacted], [redacted] and bob_smith"},
		{"user", "hunter22", "no such user", "no such user"},
		{"apikey", "SG.hunter22", "bad apikey", "bad apikey"},
		{"hunter22", "api_token", "bad api_token of hunter22", "bad api_token of [redacted]"},
		{"hunt", "", "a hunt, hunted HUNT", "a [redacted], [redacted]ed [redacted]"},
		{"bob.smith@example.com", "x", "no xBob.Smith@example.com", "no x[redacted]"},
	} {
		req := basic(t, row.user, row.password)
		assert.Equal(t, row.want, saidOf(req, row.said))
		req = get(t)
		req.URL.User = url.UserPassword(row.user, row.password)
		assert.Equal(t, row.want, saidOf(req, row.said))
	}
}

func TestAnEchoIsFoundInWrappedLines(t *testing.T) {
	const key = "q7Zk2+Wm9/Xt4Bv8<Lc3&Hd6q7Zk2+Wm9/Xt4Bv8<Lc3&Hd6q7Zk2+Wm9/Xt4Bv8<Lc3&Hd6"
	for _, text := range []string{
		base64.StdEncoding.EncodeToString([]byte(key)), base64.URLEncoding.EncodeToString([]byte("user:" + key)), hex.EncodeToString([]byte(key)), key,
	} {
		for _, width := range []int{16, 20, 64, 76} {
			for _, end := range []string{"\n", "\r\n", `\n`, `\r\n`, `\\r\\n`, "\n  ", "\r\n\t", "%0A", "&#10;"} {
				wrapped := strings.Join(linesOf(text, width), end)
				for _, said := range []string{"No " + wrapped + " here", "No\n" + wrapped + "\nhere"} {
					got := saidOf(bearing(t, key), said)
					for _, line := range linesOf(text, width) {
						if len(line) >= 8 {
							assert.NotContains(t, got, line[:8], "%d %q", width, end)
						}
					}
					assert.True(t, strings.HasPrefix(got, "No") && strings.HasSuffix(got, "here"), got)
				}
				got := Classify(answer(bearing(t, key), 401, `{"error":{"message":`+strconv.Quote(wrapped)+`}}`), nil).Message
				assert.Equal(t, redacted, strings.TrimPrefix(got, "dXNlcjp"), "%d %q", width, end) // that is "user:"
			}
		}
	}
	const plain = "One line\nand another\r\n  of q7Zk2"
	assert.Equal(t, plain, saidOf(bearing(t, key), plain))
}

func linesOf(s string, width int) []string {
	var lines []string
	for line := range slices.Chunk([]byte(s), width) {
		lines = append(lines, string(line))
	}
	return lines
}

func TestACredentialInAPathIsRedacted(t *testing.T) {
	for _, url := range []string{
		"https://api.telegram.org/bot123456:%s/getMe", "https://hooks.slack.com/workflows/T00000000/A00000000/1/%s", "https://mainnet.infura.io/v3/%s",
		"https://eth-mainnet.g.alchemy.com/v2/%s/getNFTs", "https://events.pagerduty.com/integration/%s/enqueue", "https://open.feishu.cn/open-apis/bot/v2/hook/%s",
		"https://x.webhook.office.com/webhookb2/a@b/IncomingWebhook/%s/c", "https://hooks.zapier.com/hooks/catch/1/%s/", "https://discord.com/api/v10/webhooks/1/%s",
	} {
		req := at(fmt.Sprintf(url, "abcdefghijkl")).request(t)
		assert.Equal(t, "No [redacted]", saidOf(req, "No abcdefghijkl"), url)
		assert.NotContains(t, Classify(answer(req, 404, ""), nil).Report().URL, "abcdefghijkl")
	}
}

// BenchmarkRedact is what a refusal costs that has a message, of a request as an
// SDK sends it.
func BenchmarkRedact(b *testing.B) {
	const said = `Rate limit reached for gpt-4o-mini in organization org-1 on tokens per min (TPM): Limit 200000, ` +
		`Used 191584, Requested 45490. Please try again in 11.122s. Visit https://platform.openai.com/account/rate-limits to learn more.`
	var cookies []string
	for i := range maxSecrets {
		cookies = append(cookies, fmt.Sprintf("c%d=q7Zk2Wm9Xt4Bv8Lc3Hd6Fj1Gn5Ps%d", i, i))
	}
	for _, row := range []struct{ name, message, cookies string }{
		{"message", said, ""},
		{"escapes", strings.ReplaceAll(said, " ", `%2520`), ""},
		{"lines", strings.ReplaceAll(said, ". ", `.\n`), ""},
		{"8 KiB", strings.Repeat(said, 30), ""},
		{"8 KiB of escapes", strings.Repeat(`%25253A\\\\u0041`, 500), ""},
		{"the worst", strings.Repeat(`%25253A\n\\\\u0041`, 500), strings.Join(cookies, "; ")},
	} {
		b.Run(row.name, func(b *testing.B) {
			req := httptest.NewRequest(http.MethodPost, "https://api.example.com/v1/chat/completions?api-version=1", http.NoBody)
			req.Header = http.Header{
				"Accept": {"application/json"}, "Content-Type": {"application/json"}, "User-Agent": {"OpenAI/Go 3.52.0"},
				"X-Stainless-Lang": {"go"}, "X-Stainless-Os": {"Linux"}, "Openai-Organization": {"org-1"},
				"Authorization": {"Bearer sk-proj-q7Zk2Wm9Xt4Bv8Lc3Hd6Fj1Gn5Ps0Ra7Uy2Vi9Qo4"},
			}
			if row.cookies != "" {
				req.Header.Set("Cookie", row.cookies)
			}
			b.ReportAllocs()
			for b.Loop() {
				resp := answer(req, 429, `{"error":{"message":"`+row.message+`","type":"tokens","param":null,"code":"rate_limit_exceeded"}}`)
				resp.Header.Set("X-Request-Id", "req_011CSHoEeqs5C35K2UUqR7Fy")
				if e := Classify(resp, nil); e.Class != ErrRateLimit {
					b.Fatal(e)
				}
			}
		})
	}
}
