package sturdy

import (
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

const (
	redacted   = "[redacted]"
	maxMessage = 1 << 10 // bytes of a server's text in an error
)

// plainHeaders are the headers whose values may be shown: those that say what
// was asked for and what came of it, and never on whose behalf.
var plainHeaders = map[string]bool{
	"Accept": true, "Accept-Encoding": true, "Accept-Language": true, "Age": true, "Allow": true, "Cache-Control": true,
	"Connection": true, "Content-Encoding": true, "Content-Length": true, "Content-Type": true, "Date": true,
	"Expect": true, "Host": true, "Idempotency-Key": true, "Range": true, "Server": true, "Te": true, "Trailer": true,
	"Transfer-Encoding": true, "User-Agent": true, "Vary": true, "Via": true, "X-Idempotency-Key": true,
	"Request-Id": true, "X-Request-Id": true, "Apim-Request-Id": true, "X-Amzn-Requestid": true, "X-Amzn-Errortype": true,
	"X-Ms-Client-Request-Id": true, "X-Ms-Region": true, "X-Github-Request-Id": true, "X-Client-Request-Id": true,
	"X-Generation-Id": true, "X-Cloud-Trace-Context": true, "X-Should-Retry": true, "Policy-Id": true, "Server-Timing": true,
	"Retry-After": true, "Retry-After-Ms": true, "X-Ms-Retry-After-Ms": true,
	"Anthropic-Version": true, "Anthropic-Beta": true, "Anthropic-Organization-Id": true, "Openai-Beta": true,
	"Openai-Organization": true, "Openai-Project": true, "Openai-Processing-Ms": true, "Openai-Version": true,
	"Cf-Ray": true, "Cf-Cache-Status": true, "X-Envoy-Upstream-Service-Time": true,
}

func isPlainHeader(name string) bool {
	return plainHeaders[name] || strings.HasPrefix(name, "X-Stainless-") || strings.Contains(name, "Ratelimit") || strings.Contains(name, "Rate-Limit")
}

// withoutSecrets replaces secrets in s, and whatever else in it looks like a
// credential, whole or masked, or is one by its place in a URL.
func withoutSecrets(s string, secrets []secret) string {
	return withoutCredentials(withoutEchoes(scrubURLs(s, false), secrets))
}

// withoutCredentials replaces the words of s that look like a credential.
func withoutCredentials(s string) string {
	var b strings.Builder
	done := 0
	for i := 0; i < len(s); {
		end := i + strings.IndexFunc(s[i:], notInCredential)
		if end < i {
			end = len(s)
		}
		if end == i {
			_, size := utf8.DecodeRuneInString(s[i:])
			i += size
			continue
		}
		word := strings.TrimRight(s[i:end], ".") // the end of a sentence is not part of it
		if likeCredential(word) || strings.HasSuffix(s[i:end], "...") && likeCredential(s[i:end]) {
			b.WriteString(s[done:i] + redacted)
			done = i + len(word)
		}
		i = end
	}
	if done == 0 {
		return s
	}
	b.WriteString(s[done:])
	return b.String()
}

// secretFields are the members of a body, in JSON or as a form has them, that
// are a credential: of a request for a token, above all.
var secretFields = regexp.MustCompile(`(?i)(?:\b|_)(?:password|passwd|secret|client_secret|secret_key|private_key|api_key|apikey|access_token|` +
	`refresh_token|id_token|auth_token|client_assertion|subject_token|actor_token|code_verifier|token|authorization)` +
	`(?:"\s*:\s*"((?:[^"\\]|\\.)*)|=([^&\s"]+))`)

// withoutFields replaces the credentials in a body that are so by their name.
func withoutFields(s string) string {
	var spans []span
	for _, at := range secretFields.FindAllStringSubmatchIndex(s, -1) {
		if plainByName(fieldAt(s, at[0])) {
			continue
		}
		for i := 2; i < len(at); i += 2 {
			if at[i] < at[i+1] {
				spans = append(spans, span{at[i], at[i+1]})
			}
		}
	}
	return replaceSpans(s, spans)
}

// fieldAt returns the name that goes on at i in s.
func fieldAt(s string, i int) string {
	inName := func(c byte) bool { return c == '_' || classOfRune(rune(c)) != 0 }
	from, to := i, i
	for from > 0 && inName(s[from-1]) {
		from--
	}
	for to < len(s) && inName(s[to]) {
		to++
	}
	return s[from:to]
}

// serverText is a server's text, or a part of it, as an Error has it: without
// secrets, and in UTF-8 whatever the server's encoding is.
// It is cut once more before, lest a long text costs time for what nobody will
// see: between two words, and with room for what redaction makes shorter.
func serverText(s string, secrets []secret) string {
	return capped(strings.ToValidUTF8(withoutSecrets(cutText(s, textBytes), secrets), "\ufffd"), maxMessage)
}

// notInCredential reports whether r is no character of a credential: neither of
// its own alphabet, nor one of those that mask it.
func notInCredential(r rune) bool {
	switch r {
	case '-', '_', '*', '.', '…', '•':
		return false
	}
	return (r < 'a' || 'z' < r) && (r < 'A' || 'Z' < r) && (r < '0' || '9' < r)
}

// credentialPrefixes begin the API keys and tokens of well-known services. Some begin
// other words as well: of these, the rest has to look like a key's.
var credentialPrefixes = [...]struct {
	text string
	rest func(string) bool
}{
	{"sk-", nil}, {"sk_", liveOrRandom}, {"pk-", notInWords}, {"pk_", liveOrRandom}, {"rk_", liveOrRandom}, {"fk-", notInWords},
	{"sess-", notInWords}, {"gsk_", notInWords}, {"xai-", nil}, {"hf_", notInWords}, {"pplx-", nil}, {"r8_", notInWords}, {"fw_", notInWords},
	{"tgp_", notInWords}, {"nvapi-", nil}, {"csk-", notInWords}, {"AIza", nil}, {"ya29.", nil}, {"AKIA", accessKeyID}, {"ASIA", accessKeyID},
	{"eyJ", nil}, {"ghp_", nil}, {"gho_", nil}, {"ghs_", nil}, {"github_pat_", nil}, {"glpat-", nil}, {"xoxb-", nil}, {"xoxp-", nil},
}

// notInWords reports whether s has something that a name in snake_case has not.
func notInWords(s string) bool {
	return strings.ContainsFunc(s, func(r rune) bool { return classOfRune(r) == 1 || classOfRune(r) == 2 })
}

// liveOrRandom reports whether s goes on as the keys of Stripe and those like it,
// or is random: pk_ begins the names of primary keys, too.
func liveOrRandom(s string) bool {
	for _, mode := range [...]string{"live_", "test_", "prod_"} {
		if strings.HasPrefix(s, mode) {
			return true
		}
	}
	run := s[:len(s)-len(strings.TrimLeftFunc(s, func(r rune) bool { return classOfRune(r) != 0 }))]
	return hasDigitAndLetter(run) && (len(run) >= 16 || len(run) < len(s) && strings.Trim(s[len(run):], ".…") == "")
}

// accessKeyID reports whether s goes on as the names of AWS's keys do: with 16
// capitals and digits, all of them or some of them and dots.
func accessKeyID(s string) bool {
	shown := strings.Trim(s, "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ")
	if shown == "" {
		return len(s) == 16
	}
	return len(shown) < len(s) && strings.Trim(shown, ".…") == ""
}

// likeCredential reports whether word looks like a key or a token, or like one
// that was masked for display.
func likeCredential(word string) bool {
	if strings.Contains(word, "**") || strings.Contains(word, "•") {
		return len(word) > 4 && strings.ContainsFunc(word, func(r rune) bool { return unicode.IsLetter(r) || unicode.IsDigit(r) })
	}
	cut := strings.Contains(word, "...") || strings.Contains(word, "…")
	if len(word) < 9 && !cut {
		return false // most words
	}
	if isJWT(word) && strings.IndexByte(word, '.') >= 16 && len(word) >= 48 {
		return true
	}
	for _, prefix := range &credentialPrefixes {
		rest, ok := strings.CutPrefix(word, prefix.text)
		if ok && (cut || len(rest) >= 6) && (prefix.rest == nil || prefix.rest(rest)) {
			return true
		}
	}
	return false
}

// causeText is the text of a cause without secrets. The URL of a url.Error, any
// in the tree, is left out: net/http hides its password, but not its query. Other
// URLs in it, and what the servers of other requests said, are no safer.
func causeText(err error, secrets []secret) string {
	text := err.Error()
	inTree(err, func(err error) bool {
		if u, ok := err.(*url.Error); ok { //nolint:errorlint // walks the tree
			short := u.Op + " " + redacted
			if u.Err != nil {
				short += ": " + u.Err.Error()
			}
			text = strings.ReplaceAll(text, u.Error(), short)
			secrets = append(secrets, secretsOf(urlOnly(u.URL))...)
		}
		if resp := answerIn(err); resp != nil {
			secrets = append(secrets, secretsOf(resp.Request)...)
		}
		return false // there may be more
	})
	text = cutText(text, textBytes) // a server can make it as long as its headers may be
	return withoutCredentials(withoutEchoes(scrubURLs(withoutQuotedURLs(text), true), secrets))
}

// withoutQuotedURLs replaces what net/http and net/url quote of a URL that is
// none: nothing says where in it a secret is.
func withoutQuotedURLs(s string) string {
	for _, before := range [...]string{`Location header "`, `parse "`, `invalid port "`} {
		var b strings.Builder
		rest := s
		for {
			i := strings.Index(rest, before)
			if i < 0 {
				break
			}
			i += len(before) - 1
			quoted, err := strconv.QuotedPrefix(rest[i:])
			if err != nil {
				quoted = rest[i:]
			}
			b.WriteString(rest[:i] + redacted)
			rest = rest[i+len(quoted):]
		}
		if b.Len() > 0 {
			s = b.String() + rest
		}
	}
	return s
}

// urlOnly is a request of a URL that is known as text alone.
func urlOnly(raw string) *http.Request {
	u, err := url.Parse(raw)
	if err != nil {
		return nil
	}
	return &http.Request{URL: u}
}

// oneLine returns s with control characters escaped, cut to at most limit bytes
// before that.
func oneLine(s string, limit int) string {
	s = capped(s, limit)
	if strings.IndexFunc(s, unprintable) < 0 && utf8.ValidString(s) {
		return s
	}
	var b strings.Builder
	for _, r := range s {
		switch {
		case r == '\n' || r == '\r' || r == '\t':
			b.WriteByte(' ')
		case unprintable(r):
			b.WriteRune(unicode.ReplacementChar)
		default:
			b.WriteRune(r)
		}
	}
	return b.String()
}

func unprintable(r rune) bool { return !unicode.IsPrint(r) }

// cutText is capped for a text with secrets still in it: it cuts between two
// words, lest half of a secret, which nobody recognises, is left.
func cutText(s string, limit int) string {
	if len(s) <= limit {
		return s
	}
	return s[:max(strings.LastIndexByte(s[:limit], ' '), 0)]
}

// capped cuts s to at most limit bytes, between two characters.
func capped(s string, limit int) string {
	if len(s) <= limit {
		return s
	}
	s = s[:limit-len("…")]
	for range utf8.UTFMax - 1 { // no more: bytes that are no characters go on for long
		if r, size := utf8.DecodeLastRuneInString(s); r != utf8.RuneError || size != 1 {
			break
		}
		s = s[:len(s)-1]
	}
	return s + "…"
}
