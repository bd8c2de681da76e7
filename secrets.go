package sturdy

import (
	"cmp"
	"encoding/base64"
	"encoding/hex"
	"html"
	"iter"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// A secret is a string of a request that must not be shown.
type secret struct {
	value string
	fold  bool // a credential: in any case, and encoded, too
	cut   bool // one that no word is like: also without a third of it

	forms []string // the ways to write it that are looked for, its own first
}

func (s *secret) level() int {
	switch {
	case s.cut:
		return 2
	case s.fold:
		return 1
	}
	return 0
}

const (
	minCredential = 3   // bytes of a credential that are secret
	minSecret     = 8   // of anything else: shorter values are "true" or "de" more often than secret
	minCut        = 12  // of a credential that is known by two thirds of it
	maxSecrets    = 128 // of one request that are looked for
)

// secretsOf returns the strings of req that must not be shown, wherever a
// server may repeat them: the values of headers that are not known to be plain,
// of the query, of the URL's user, and of what in its path looks like a key.
func secretsOf(req *http.Request) []secret {
	if req == nil {
		return nil
	}
	var found secretSet
	for name, values := range req.Header {
		if isPlainHeader(name) {
			continue
		}
		for _, v := range values {
			found.addHeader(v, credentialName(name))
		}
	}
	found.addURL(req.URL)
	// The longest first: of too many, they matter most. One that is a credential
	// in one place is one in all.
	slices.SortFunc(found, func(a, b secret) int {
		return cmp.Or(len(b.value)-len(a.value), strings.Compare(a.value, b.value), cmp.Compare(b.level(), a.level()))
	})
	found = slices.CompactFunc(found, func(a, b secret) bool { return a.value == b.value })
	found = found[:min(len(found), maxSecrets)]
	for i := range found {
		found[i].setForms()
	}
	return found
}

type secretSet []secret

func (set *secretSet) add(value string, credential bool) {
	atLeast := minSecret
	if credential {
		atLeast = minCredential
	}
	if len(value) < atLeast {
		return
	}
	if plus := strings.ReplaceAll(value, " ", "+"); plus != value { // as in a query
		set.add(plus, credential)
	}
	if plain, err := url.PathUnescape(value); err == nil && plain != value { // as in a cookie
		set.add(plain, credential)
	}
	key := keyLike(value) || likeCredential(value)
	parts := strings.ContainsAny(strings.TrimRight(value, "="), " =;,") // of which each is there by itself
	*set = append(*set, secret{
		value: value,
		fold:  len(value) >= minSecret && (credential || key),
		cut:   len(value) >= minCut && !parts && (key || credential && (len(value) >= 20 || hasDigitAndLetter(value))),
	})
}

// addHeader adds the value of a header, and the parts of it that are secret by
// themselves: "Bearer x", "Basic x", "a=1; b=2", a URL.
func (set *secretSet) addHeader(v string, credential bool) {
	set.add(v, credential)
	rest := v
	if scheme, after, ok := strings.Cut(v, " "); ok && credential && !strings.ContainsAny(scheme, "=;,") {
		rest = strings.TrimSpace(after)
		set.add(rest, true)
		if strings.EqualFold(scheme, "Basic") {
			if pair, err := base64.StdEncoding.DecodeString(rest); err == nil {
				user, password, _ := strings.Cut(string(pair), ":")
				set.add(user, true)
				set.add(password, true)
			}
		}
	}
	for word := range strings.FieldsFuncSeq(rest, func(r rune) bool { return strings.ContainsRune(" ;,\"", r) }) {
		_, value, named := strings.Cut(word, "=") // the name is none
		if named && (len(value) >= minSecret || credential && keyLike(value)) {
			set.add(value, credential)
		}
		if len(word) >= minSecret {
			set.add(word, credential)
		}
	}
	if strings.Contains(v, "/") {
		if u, err := url.Parse(v); err == nil {
			set.addURL(u)
		}
	}
}

// plainParameters are those of a query that a server may well name in its
// message, and that say only what was asked for.
var plainParameters = map[string]bool{
	"alt": true, "api-version": true, "encoding": true, "format": true, "lang": true, "language": true, "model": true,
	"sample_rate": true, "stream": true, "version": true,
}

func (set *secretSet) addURL(u *url.URL) {
	if u == nil {
		return
	}
	for part := range strings.FieldsFuncSeq(u.RawQuery, func(r rune) bool { return r == '&' || r == ';' }) {
		name, raw, ok := strings.Cut(part, "=")
		if !ok {
			if keyLike(name) {
				set.add(name, true)
			}
			continue
		}
		if plainParameters[strings.ToLower(name)] || plainByName(unescaped(name)) {
			continue
		}
		credential := credentialName(unescaped(name))
		set.add(raw, credential)
		if plus := strings.ReplaceAll(raw, "+", " "); plus != raw {
			set.add(plus, credential)
		}
	}
	if u.User != nil {
		password, _ := u.User.Password()
		set.add(u.User.Username(), true)
		set.add(password, true)
		_, password, _ = strings.Cut(u.User.String(), ":") // as a URL writes it
		set.add(password, true)
	}
	for segment, key := range pathSegments(u.EscapedPath()) {
		if key {
			set.add(segment, true)
			// "bot123:ABC": the token is one without the rest, too.
			plain, err := url.PathUnescape(segment)
			if err != nil {
				plain = segment
			}
			if _, token, ok := strings.Cut(plain, ":"); ok {
				set.add(strings.TrimPrefix(plain, "bot"), true)
				set.add(token, true)
			}
		}
	}
}

// keyPaths are the segments of a path that keys follow: all that come after, or
// only the next one.
var keyPaths = map[string]bool{
	"webhook": true, "webhooks": true, "webhookb2": true, "incomingwebhook": true, "hook": true, "hooks": true,
	"services": true, "workflows": true, // hooks.slack.com
	"key": false, "apikey": false, "api_key": false, "api-key": false, "token": false, "secret": false, "auth": false,
}

// pathSegments yields the segments of an escaped path, and of each whether it
// looks like a key, by itself or by what comes before.
func pathSegments(path string) iter.Seq2[string, bool] {
	return func(yield func(string, bool) bool) {
		all, next := false, false
		for segment := range strings.SplitSeq(path, "/") {
			plain, err := url.PathUnescape(segment)
			if err != nil {
				plain = segment
			}
			key := botToken(plain) || keyLike(plain) || likeCredential(plain) || (all || next) && notWord(plain)
			if !yield(segment, key) {
				return
			}
			rest, known := keyPaths[strings.ToLower(plain)]
			all, next = all || known && rest, known
		}
	}
}

// notWord reports whether a segment that follows a word for keys is more than
// another word, such as "deliveries" after "hooks".
func notWord(segment string) bool {
	return len(segment) >= minSecret && strings.ContainsFunc(segment, func(r rune) bool { return '0' <= r && r <= '9' || 'A' <= r && r <= 'Z' })
}

// botToken reports whether a segment is a token of Telegram's:
// https://core.telegram.org/bots/api#authorizing-your-bot.
func botToken(segment string) bool {
	id, token, ok := strings.Cut(strings.TrimPrefix(segment, "bot"), ":")
	return ok && len(token) >= minSecret && id != "" && strings.Trim(id, "0123456789") == ""
}

// keyLike reports whether s looks random enough for a key: a long run of letters
// and digits that take turns. The id of a thing is shown: a UUID, and one that
// begins with a word for what it is, such as "file-" or "req_".
func keyLike(s string) bool {
	if len(s) < 20 || isUUID(s) {
		return false
	}
	if i := strings.IndexAny(s, "-_"); 2 <= i && i <= 12 && strings.Trim(s[:i], "abcdefghijklmnopqrstuvwxyz") == "" &&
		!strings.ContainsAny(s[i+1:], "-_") {
		return false
	}
	for run := range strings.FieldsFuncSeq(s, func(r rune) bool { return classOfRune(r) == 0 }) {
		if len(run) < 16 {
			continue
		}
		turns := 0
		for i := 1; i < len(run); i++ {
			if classOfRune(rune(run[i])) != classOfRune(rune(run[i-1])) {
				turns++
			}
		}
		if turns*4 >= len(run) && hasDigitAndLetter(run) {
			return true
		}
	}
	return false
}

// classOfRune tells digits, capitals and small letters apart; zero for others.
func classOfRune(r rune) int {
	switch {
	case '0' <= r && r <= '9':
		return 1
	case 'A' <= r && r <= 'Z':
		return 2
	case 'a' <= r && r <= 'z':
		return 3
	}
	return 0
}

func hasDigitAndLetter(s string) bool {
	return strings.ContainsFunc(s, func(r rune) bool { return classOfRune(r) == 1 }) &&
		strings.ContainsFunc(s, func(r rune) bool { return classOfRune(r) > 1 })
}

func isUUID(s string) bool {
	if len(s) != 36 {
		return false
	}
	for i := range len(s) {
		if (s[i] == '-') != (i == 8 || i == 13 || i == 18 || i == 23) {
			return false
		}
	}
	return strings.Trim(s, "0123456789abcdefABCDEF-") == ""
}

// credentialParts are in the names of headers and parameters that hold a credential.
var credentialParts = [...]string{
	"auth", "key", "token", "secret", "cookie", "password", "passwd", "passphrase", "pwd", "sig", "credential", "session", "jwt", "assertion",
}

func hasCredentialPart(lower string) bool {
	return slices.ContainsFunc(credentialParts[:], func(part string) bool { return strings.Contains(lower, part) })
}

// credentialName reports whether a header or parameter of this name holds a
// credential for certain, so that even a short value of it is secret.
func credentialName(name string) bool {
	if hasCredentialPart(strings.ToLower(name)) {
		return !plainByName(name)
	}
	for _, table := range [...]*credentialIndex{headerSources, querySources, cookieSources} {
		if r, n := table.find(name); n != 0 && r != isAccount {
			return true
		}
	}
	return strings.EqualFold(name, "code")
}

// plainByName reports whether a name is one that only looks like a credential's, as
// keyword, author, max_tokens and page_token do. What it holds says what is asked for.
func plainByName(name string) bool {
	if !hasCredentialPart(strings.ToLower(name)) {
		return false
	}
	words := wordsOf(name)
	found := false
	for i, word := range words {
		if !hasCredentialPart(word) {
			continue
		}
		before, after := "", ""
		if i > 0 {
			before = words[i-1]
		}
		if i+1 < len(words) {
			after = words[i+1]
		}
		if !plainWord(before, word, after) {
			return false
		}
		found = true
	}
	return found
}

// plainWord reports whether a word of a name, between these two, names no credential.
func plainWord(before, word, after string) bool {
	if slices.ContainsFunc(plainWords[:], func(plain string) bool { return strings.HasPrefix(word, plain) }) {
		return !strings.HasPrefix(word, "authori") || strings.HasPrefix(word, "authorit")
	}
	switch word {
	case "token":
		return slices.Contains(pageWords[:], before) || slices.Contains(measureWords[:], after)
	case "tokens":
		return slices.Contains(amountWords[:], before) || slices.Contains(measureWords[:], after)
	case "key":
		return slices.Contains(dataWords[:], before) || slices.Contains(measureWords[:], after) || after == "marker"
	}
	return false
}

var (
	// plainWords begin words with a part of a credential's name in them.
	plainWords = [...]string{
		"author", "keyword", "keyboard", "keyframe", "keynote", "keyspace", "monkey", "donkey", "turkey", "hockey", "jockey", "whiskey",
		"tokeniz", "tokenis", "secretar", "design", "assign", "signal", "signup", "signin", "insight",
		"pagetoken", "nexttoken", "nextpagetoken", "continuationtoken", "synctoken", "maxtokens", "tokencount", "tokentype",
		"startkey", "endkey", "keymarker",
	}
	// pageWords are before a token that says where a list goes on.
	pageWords = [...]string{"page", "pagination", "next", "prev", "previous", "continuation", "continue", "resume", "resumption", "sync", "cursor", "skip", "start", "marker", "delta"}
	// amountWords are before a number of tokens.
	amountWords = [...]string{"max", "min", "total", "prompt", "completion", "input", "output", "new", "num", "n", "cached", "reasoning", "thinking", "budget", "used", "remaining"}
	// measureWords are behind what they measure.
	measureWords = [...]string{"count", "limit", "budget", "usage", "length", "size", "type"}
	// dataWords are before a key of the server's data.
	dataWords = [...]string{"start", "end", "partition", "row", "sort", "primary", "foreign"}
)

// wordsOf returns the words of a name in lower case, however they are parted.
func wordsOf(name string) []string {
	var words []string
	from := 0
	for i := range len(name) {
		switch {
		case classOfRune(rune(name[i])) == 0:
			words = append(words, strings.ToLower(name[from:i]))
			from = i + 1
		case i > from && classOfRune(rune(name[i])) == 2 && classOfRune(rune(name[i-1])) != 2:
			words = append(words, strings.ToLower(name[from:i]))
			from = i
		}
	}
	return append(words, strings.ToLower(name[from:]))
}

// scrubURLs takes out of every URL in s its user, what looks like a key in its
// path, and of its query and fragment what is a credential, or all if strict.
func scrubURLs(s string, strict bool) string {
	var b strings.Builder
	done := 0
	for {
		i := strings.Index(s[done:], "://")
		if i < 0 {
			break
		}
		from := done + i + len("://")
		end := from + strings.IndexFunc(s[from:], notInURL)
		if end < from {
			end = len(s)
		}
		u := strings.TrimRight(s[from:end], ".,;:!?)'")
		b.WriteString(s[done:from] + scrubURL(u, strict))
		done = from + len(u)
	}
	if done == 0 {
		return s
	}
	b.WriteString(s[done:])
	return b.String()
}

func notInURL(r rune) bool { return r <= ' ' || r >= 0x7f || strings.ContainsRune("\"<>`\\", r) }

// scrubURL is scrubURLs for what follows the scheme of one.
func scrubURL(u string, strict bool) string {
	rest, fragment, hasFragment := strings.Cut(u, "#")
	rest, query, hasQuery := strings.Cut(rest, "?")
	authority, path, hasPath := strings.Cut(rest, "/")
	if i := strings.LastIndexByte(authority, '@'); i >= 0 {
		authority = redacted + authority[i:]
	}
	if hasPath {
		path = "/" + scrubPath(path)
	}
	if hasQuery {
		query = "?" + scrubQuery(query, strict)
	}
	if hasFragment {
		fragment = "#" + scrubQuery(fragment, strict)
	}
	return authority + path + query + fragment
}

func scrubPath(path string) string {
	var shown []string
	for segment, key := range pathSegments(path) {
		if key {
			segment = redacted
		} else if name, value, ok := strings.Cut(segment, "="); ok && len(value) >= minSecret { // ";jsessionid=x"
			segment = name + "=" + redacted
		}
		shown = append(shown, segment)
	}
	return strings.Join(shown, "/")
}

func scrubQuery(query string, strict bool) string {
	var shown []string
	for part := range strings.SplitSeq(query, "&") {
		name, value, ok := strings.Cut(part, "=")
		switch {
		case ok && value != "" && (strict || credentialName(unescaped(name)) || keyLike(value) && !plainByName(unescaped(name))):
			part = name + "=" + redacted
		case !ok && part != "" && (keyLike(part) || strict && len(part) >= minSecret):
			part = redacted
		}
		shown = append(shown, part)
	}
	return strings.Join(shown, "&")
}

// A span is a part of a text.
type span struct{ from, to int }

// withoutEchoes replaces the secrets in s, however they are written: escaped as
// in a URL, in HTML or in JSON, and credentials in Base64, in hexadecimal, in the
// other case and without a third of them, too.
func withoutEchoes(s string, secrets []secret) string {
	if len(secrets) == 0 || s == "" {
		return s
	}
	var spans []span
	v, more := view{text: s}, true
	for depth := 0; more && depth < 3; depth++ { // as it is, and unescaped, also twice
		lower := lowerASCII(v.text)
		for i := range secrets {
			text := v.text
			if secrets[i].fold {
				text = lower
			}
			for n, form := range secrets[i].forms {
				for at := range occurrences(text, form, secrets[i].cut) {
					if n > 0 { // the rest of what is encoded
						at.to += tailOf(v.text[at.to:])
					}
					spans = append(spans, v.origin(at))
				}
			}
		}
		v, more = v.unescaped()
	}
	return replaceSpans(s, spans)
}

// tailOf is how much of s may belong to what is encoded before it: a character
// that is of the secret in part, and what fills it up.
func tailOf(s string) int {
	n := 0
	for n < min(len(s), 4) && (classOfRune(rune(s[n])) != 0 || strings.IndexByte("+/-_=", s[n]) >= 0) {
		n++
	}
	return n
}

// replaceSpans replaces these parts of s, and the characters that they are in.
func replaceSpans(s string, spans []span) string {
	if len(spans) == 0 {
		return s
	}
	slices.SortFunc(spans, func(a, b span) int { return cmp.Or(a.from-b.from, b.to-a.to) })
	var b strings.Builder
	done := 0
	for i := 0; i < len(spans); {
		from, to := max(spans[i].from, done), max(spans[i].to, done)
		for i++; i < len(spans) && spans[i].from < to; i++ {
			to = max(to, spans[i].to)
		}
		for range utf8.UTFMax - 1 {
			if from > done && !utf8.RuneStart(s[from]) {
				from--
			}
			if to < len(s) && !utf8.RuneStart(s[to]) {
				to++
			}
		}
		b.WriteString(s[done:from] + redacted)
		done = to
	}
	b.WriteString(s[done:])
	return b.String()
}

// setForms sets the forms of s, once for all the texts that it is looked for in.
func (s *secret) setForms() {
	if !s.fold {
		s.forms = []string{s.value}
		return
	}
	s.forms = append(make([]string, 0, 8), lowerASCII(s.value), hex.EncodeToString([]byte(s.value)))
	for before := range 3 { // bytes of something else that are encoded with it
		text := base64.RawStdEncoding.EncodeToString(append(make([]byte, before, before+len(s.value)), s.value...))
		text = text[(before*8+5)/6:]
		if (before+len(s.value))%3 != 0 {
			text = text[:len(text)-1] // half of it depends on what follows
		}
		text = lowerASCII(text)
		s.forms = append(s.forms, text)
		if inURL := strings.NewReplacer("+", "-", "/", "_").Replace(text); inURL != text {
			s.forms = append(s.forms, inURL)
		}
	}
}

// occurrences yields where in text the form of a secret is: all of it, and if cut
// at least two thirds. The middle third is in any such part, so it is enough to
// look for that and to see how far the rest is there.
func occurrences(text, form string, cut bool) iter.Seq[span] {
	return func(yield func(span) bool) {
		if !whole(text, form, yield) || !cut {
			return
		}
		least := (2*len(form) + 2) / 3
		skip := len(form) - least
		middle := form[skip:least]
		for done := 0; ; {
			i := strings.Index(text[done:], middle)
			if i < 0 {
				return
			}
			at := span{done + i, done + i + len(middle)}
			for n := skip; n > 0 && at.from > 0 && text[at.from-1] == form[n-1]; n-- {
				at.from--
			}
			for n := least; n < len(form) && at.to < len(text) && text[at.to] == form[n]; n++ {
				at.to++
			}
			if at.to-at.from < least {
				done += i + 1
				continue
			}
			if !yield(at) {
				return
			}
			done = at.to
		}
	}
}

func whole(text, form string, yield func(span) bool) bool {
	for done := 0; ; {
		i := strings.Index(text[done:], form)
		if i < 0 {
			return true
		}
		if !yield(span{done + i, done + i + len(form)}) {
			return false
		}
		done += i + len(form)
	}
}

// A view is a text, unescaped or not, and where in the original each of its
// bytes was. Without that, it is the original.
type view struct {
	text     string
	from, to []int
}

func (v *view) origin(at span) span {
	if v.from == nil {
		return at
	}
	return span{v.from[at.from], v.to[at.to-1]}
}

// unescaped returns v with its escapes as in URLs, HTML and JSON undone. It
// reports whether there were any.
func (v *view) unescaped() (view, bool) {
	if !strings.ContainsAny(v.text, `%&\`) {
		return view{}, false
	}
	u := view{from: make([]int, 0, len(v.text)), to: make([]int, 0, len(v.text))}
	text := make([]byte, 0, len(v.text))
	found := false
	for i := 0; i < len(v.text); {
		plain, size := unescape(v.text[i:])
		found = found || size > 1
		at := v.origin(span{i, i + size})
		for range len(plain) {
			u.from, u.to = append(u.from, at.from), append(u.to, at.to)
		}
		text = append(text, plain...)
		i += size
	}
	u.text = string(text)
	return u, found
}

// unescape returns what s begins with, and how many bytes of it that is.
func unescape(s string) (plain string, size int) {
	switch s[0] {
	case '%':
		if len(s) > 2 {
			if b, err := hex.DecodeString(s[1:3]); err == nil {
				return string(b), 3
			}
		}
	case '&':
		if i := strings.IndexByte(s[:min(len(s), 10)], ';'); i > 0 {
			if plain := html.UnescapeString(s[:i+1]); plain != s[:i+1] {
				return plain, i + 1
			}
		}
	case '\\':
		switch {
		case len(s) > 5 && s[1] == 'u':
			if n, err := strconv.ParseUint(s[2:6], 16, 16); err == nil {
				return string(utf8.AppendRune(nil, rune(n))), 6
			}
		case len(s) > 1 && strings.IndexByte(`"\/'`, s[1]) >= 0:
			return s[1:2], 2
		}
	}
	return s[:1], 1
}
