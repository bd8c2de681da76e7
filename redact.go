package sturdy

import (
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

const (
	redacted   = "[redacted]"
	maxMessage = 1 << 10 // bytes of a server's text in an error
)

// plainHeaders are the request headers whose values may be shown: those that
// say what was asked for, and never who asked.
var plainHeaders = map[string]bool{
	"Accept": true, "Accept-Encoding": true, "Accept-Language": true, "Cache-Control": true,
	"Connection": true, "Content-Encoding": true, "Content-Length": true, "Content-Type": true,
	"Date": true, "Expect": true, "Host": true, "Idempotency-Key": true, "Range": true, "Te": true,
	"Trailer": true, "Transfer-Encoding": true, "User-Agent": true, "X-Idempotency-Key": true,
	"Anthropic-Version": true, "Anthropic-Beta": true, "Openai-Beta": true, "Openai-Organization": true,
	"Openai-Project": true, "X-Stainless-Retry-Count": true,
}

// secretsOf returns the strings of req that must not be shown, wherever a
// server may repeat them: the values of headers that are not known to be plain,
// of the query, and of the URL's user.
func secretsOf(req *http.Request) []string {
	if req == nil {
		return nil
	}
	var secrets []string
	add := func(s string, atLeast int) {
		if len(s) >= atLeast {
			secrets = append(secrets, s)
		}
	}
	for name, values := range req.Header {
		if plainHeaders[name] {
			continue
		}
		for _, v := range values {
			atLeast := 8 // shorter ones are "true" or "de" more often than secret
			if credentialName(name) {
				atLeast = 3
			}
			add(v, atLeast)
			// "Bearer x", "Basic x", "a=1; b=2": what follows is secret by itself.
			for word := range strings.FieldsFuncSeq(v, func(r rune) bool { return strings.ContainsRune(" ;,=", r) }) {
				add(word, 8)
			}
			if _, credential, ok := strings.Cut(v, " "); ok && atLeast == 3 {
				add(credential, atLeast)
			}
		}
	}
	if user, password, ok := req.BasicAuth(); ok {
		add(user, 3)
		add(password, 3)
	}
	if req.URL == nil {
		return secrets
	}
	for name, values := range req.URL.Query() {
		for _, v := range values {
			atLeast := 8
			if credentialName(name) {
				atLeast = 3
			}
			add(v, atLeast)
		}
	}
	if u := req.URL.User; u != nil {
		password, _ := u.Password()
		add(u.Username(), 3)
		add(password, 3)
		_, password, _ = strings.Cut(u.String(), ":") // as a URL writes it
		add(password, 3)
	}
	for _, s := range secrets {
		add(url.QueryEscape(s), len(s)+1)
	}
	// The longest first: one may be part of another.
	slices.SortFunc(secrets, func(a, b string) int { return len(b) - len(a) })
	return secrets
}

// credentialName reports whether a header or parameter of this name holds a
// credential for certain, so that even a short value of it is secret.
func credentialName(name string) bool {
	name = strings.ToLower(name)
	for _, part := range [...]string{"auth", "key", "token", "secret", "cookie", "password", "signature", "sig"} {
		if strings.Contains(name, part) {
			return true
		}
	}
	return false
}

// withoutSecrets replaces secrets in s, and whatever else in it looks like a
// credential, whole or masked.
func withoutSecrets(s string, secrets []string) string {
	for _, secret := range secrets {
		s = strings.ReplaceAll(s, secret, redacted)
	}
	var b strings.Builder
	for rest := s; rest != ""; {
		plain, found := cutFunc(rest, inCredential)
		word, after := cutFunc(found, func(r rune) bool { return !inCredential(r) })
		core := strings.TrimRight(word, ".") // the end of a sentence is not part of it
		b.WriteString(plain)
		if likeCredential(core) {
			b.WriteString(redacted + word[len(core):])
		} else {
			b.WriteString(word)
		}
		rest = after
	}
	return b.String()
}

func inCredential(r rune) bool {
	return r < utf8.RuneSelf && (unicode.IsLetter(r) || unicode.IsDigit(r)) || strings.ContainsRune("-_*.+…•", r)
}

// credentialPrefixes begin the API keys and tokens of well-known services.
var credentialPrefixes = [...]string{
	"sk-", "sk_", "pk-", "pk_", "rk_", "fk-", "sess-", "gsk_", "xai-", "hf_", "pplx-", "r8_", "fw_", "tgp_",
	"nvapi-", "csk-", "AIza", "ya29.", "AKIA", "ASIA", "eyJ", "ghp_", "gho_", "ghs_", "github_pat_", "glpat-",
	"xoxb-", "xoxp-",
}

// likeCredential reports whether word looks like a key or a token, or like one
// that was masked for display.
func likeCredential(word string) bool {
	if strings.Contains(word, "**") || strings.Contains(word, "•") {
		return strings.ContainsFunc(word, unicode.IsLetter) || strings.ContainsFunc(word, unicode.IsDigit)
	}
	for _, prefix := range credentialPrefixes {
		if tail, ok := strings.CutPrefix(word, prefix); ok && (len(tail) >= 6 || strings.Contains(tail, "...") || strings.Contains(tail, "…")) {
			return true
		}
	}
	return false
}

// causeText is the text of a cause without secrets. A url.Error's URL is left
// out: net/http hides its password, but not its query.
func causeText(err error, secrets []string) string {
	if u, ok := errors.AsType[*url.Error](err); ok {
		text := u.Op + " " + redacted
		if u.Err != nil {
			text += ": " + u.Err.Error()
		}
		text = strings.ReplaceAll(err.Error(), u.Error(), text)
		return withoutSecrets(text, append(secretsOf(urlOnly(u.URL)), secrets...))
	}
	return withoutSecrets(err.Error(), secrets)
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

// capped cuts s to at most limit bytes, between two characters.
func capped(s string, limit int) string {
	if len(s) <= limit {
		return s
	}
	cut := limit - len("…")
	for cut > 0 && !utf8.RuneStart(s[cut]) {
		cut--
	}
	return s[:cut] + "…"
}
