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
	"strings"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"
)

// A secret is a string of a request that must not be shown.
type secret struct {
	value string
	rank  rank
	forms []form // the ways to write it that are looked for, its own first
}

// A rank is how certain it is that a string is a credential, and so in how many ways
// it is looked for.
type rank uint8

const (
	isValue    rank = iota // it may be one, or a word
	isUser                 // a user's name: a word, unless it is long
	isKnown                // a credential by its name or its looks
	isPassword             // a credential for certain, all of it
)

const (
	minCredential = 3   // bytes of a credential that are secret
	minSecret     = 8   // of anything else: shorter values are "true" or "de" more often than secret
	minCut        = 12  // of a credential that is known by two thirds of it
	minEncoded    = 5   // of a credential that is known in Base64 and in hexadecimal
	maxSecrets    = 128 // of one request that are looked for
)

// A form is a way to write a secret.
type form struct {
	text    string
	fold    bool // in any case: text is in lower case
	word    bool // only where it is a word of its own
	encoded bool // what follows may belong to it
	cut     cut
}

// A cut is whether a third of a form may be missing.
type cut uint8

const (
	isWhole cut = iota
	isCut
	isCutWord // what is left has to be a word of its own
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
		return cmp.Or(len(b.value)-len(a.value), strings.Compare(a.value, b.value), cmp.Compare(b.rank, a.rank))
	})
	found = slices.CompactFunc(found, func(a, b secret) bool { return a.value == b.value })
	found = found[:min(len(found), maxSecrets)]
	for i := range found {
		found[i].setForms()
	}
	return found
}

type secretSet []secret

// add adds a value, and what it is where a server undoes what looks like an escape in
// it, as that of a cookie is.
func (set *secretSet) add(value string, r rank) {
	v, more := view{text: value}, true
	for depth := 0; more && depth <= maxEscapes; depth++ {
		set.addPlain(v.text, r)
		if strings.Contains(v.text, " ") { // as in a query
			set.addPlain(strings.ReplaceAll(v.text, " ", "+"), r)
		}
		v, more = v.unescaped()
	}
}

func (set *secretSet) addPlain(value string, r rank) {
	atLeast := minSecret
	if r > isValue {
		atLeast = minCredential
	}
	if len(value) < atLeast {
		return
	}
	if r < isKnown && (r == isUser && len(value) >= minSecret || keyLike(value) || likeCredential(value)) {
		r = isKnown
	}
	*set = append(*set, secret{value: value, rank: r})
}

// rankOf is the rank of what a header or parameter holds that is a credential, or not.
func rankOf(credential bool) rank {
	if credential {
		return isKnown
	}
	return isValue
}

// addPair adds a user and a password. A user's name is no secret by itself, but
// it is the credential where the password is none.
func (set *secretSet) addPair(user, password string) {
	r := isUser
	switch password {
	case "", "x-oauth-basic", "api_token": // of GitHub and Toggl, for everybody
		r, password = isPassword, ""
	}
	if !isAnybody(user) {
		set.add(user, r)
	}
	set.add(password, isPassword)
}

// isAnybody reports whether a user is one that a service's documentation gives to
// everybody: those of Mailgun, SendGrid and IBM, Bitbucket, GitHub, Google, Mailchimp,
// GitLab and Amazon's registry.
func isAnybody(user string) bool {
	switch user {
	case "api", "apikey", "x-token-auth", "x-access-token", "oauth2accesstoken", "_json_key", "anystring", "oauth2", "gitlab-ci-token", "token", "user", "AWS":
		return true
	}
	return false
}

// addHeader adds the value of a header, and the parts of it that are secret by
// themselves: "Bearer x", "Basic x", "a=1; b=2", a URL.
func (set *secretSet) addHeader(v string, credential bool) {
	r := rankOf(credential)
	set.add(v, r)
	rest := v
	if scheme, after, ok := cutScheme(v); ok && credential && !strings.ContainsAny(scheme, "=;,") {
		rest = strings.TrimSpace(after)
		set.add(rest, isKnown)
		if strings.EqualFold(scheme, "Basic") {
			if pair, err := base64.RawStdEncoding.DecodeString(strings.TrimRight(rest, "=")); err == nil {
				user, password, _ := strings.Cut(string(pair), ":")
				set.addPair(user, password)
			}
		}
	}
	for word := range strings.FieldsFuncSeq(rest, func(r rune) bool { return strings.ContainsRune(" ;,\"", r) }) {
		_, value, named := strings.Cut(word, "=") // the name is none
		if named && (len(value) >= minSecret || credential && keyLike(value)) {
			set.add(value, r)
		}
		if len(word) >= minSecret {
			set.add(word, r)
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
				set.add(name, isKnown)
			}
			continue
		}
		if plainParameters[strings.ToLower(name)] || plainByName(unescaped(name)) {
			continue
		}
		r := rankOf(credentialName(unescaped(name)))
		set.add(raw, r)
		if plus := strings.ReplaceAll(raw, "+", " "); plus != raw {
			set.add(plus, r)
		}
	}
	if u.User != nil {
		password, _ := u.User.Password()
		set.addPair(u.User.Username(), password)
		_, password, _ = strings.Cut(u.User.String(), ":") // as a URL writes it
		set.addPair("", password)
	}
	credential, _ := pathCredential(u)
	for segment := range strings.SplitSeq(credential, "/") {
		if len(segment) >= minSecret {
			set.add(segment, isKnown)
		}
	}
	for segment, key := range pathSegments(u.EscapedPath()) {
		if key {
			set.add(segment, isKnown)
			// "bot123:ABC": the token is one without the rest, too.
			plain, err := url.PathUnescape(segment)
			if err != nil {
				plain = segment
			}
			if _, token, ok := strings.Cut(plain, ":"); ok {
				set.add(strings.TrimPrefix(plain, "bot"), isKnown)
				set.add(token, isKnown)
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
	if len(words) > 1 && slices.Contains(measureWords[:], words[len(words)-1]) {
		return true
	}
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
		return slices.Contains(pageWords[:], before)
	case "tokens":
		return slices.Contains(amountWords[:], before)
	case "key":
		return slices.Contains(dataWords[:], before) || after == "marker"
	case "signed":
		return after == "headers" // of a signature of AWS
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
	// measureWords are behind what they say something of.
	measureWords = [...]string{
		"count", "limit", "budget", "usage", "length", "size", "type", "method", "version", "algorithm", "scheme", "mode", "format", "expires", "expiry", "ttl",
	}
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
	for depth := 0; more && depth <= maxEscapes; depth++ {
		spans = v.find(spans, secrets)
		if lines, ok := v.joined(); ok {
			spans = lines.find(spans, secrets)
		}
		v, more = v.unescaped()
	}
	return replaceSpans(s, spans)
}

// maxEscapes is how often a text may have been escaped, as JSON in a string of JSON
// has been twice.
const maxEscapes = 3

// find appends where in the original the secrets in v are.
func (v *view) find(spans []span, secrets []secret) []span {
	lower := lowerInPlace(v.text)
	for i := range secrets {
		for _, f := range secrets[i].forms {
			text := v.text
			if f.fold {
				text = lower
			}
			for at := range f.occurrences(text) {
				if f.encoded {
					at.to = v.tail(at.to)
				}
				spans = append(spans, v.origin(at))
			}
		}
	}
	return spans
}

// lowerInPlace returns s in lower case, but for characters that have another length
// then: every byte stays where it is, also where s is not UTF-8.
func lowerInPlace(s string) string {
	if strings.IndexFunc(s, func(r rune) bool { return r >= utf8.RuneSelf }) < 0 {
		return lowerASCII(s)
	}
	b := make([]byte, 0, len(s))
	for i := 0; i < len(s); {
		r, size := utf8.DecodeRuneInString(s[i:])
		if lower := unicode.ToLower(r); lower != r && utf8.RuneLen(lower) == size {
			b = utf8.AppendRune(b, lower)
		} else {
			b = append(b, s[i:i+size]...)
		}
		i += size
	}
	return string(b)
}

// tail returns where what is encoded ends of which a secret ends at i: a character
// that is of the secret in part, and what fills it up, in the same line.
func (v *view) tail(i int) int {
	for n := 0; n < 4 && i < len(v.text) && (classOfRune(rune(v.text[i])) != 0 || strings.IndexByte("+/-_=", v.text[i]) >= 0); n++ {
		if v.from != nil && v.from[i] != v.to[i-1] {
			break
		}
		i++
	}
	return i
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
	if s.rank < isKnown || len(s.value) < minSecret {
		s.forms = s.shortForms()
		return
	}
	s.forms = append(make([]form, 0, 8), form{text: lowerInPlace(s.value), fold: true, cut: s.cut()})
	s.encode(true)
}

// cut is how s may be cut short. Of what has several parts, each is there by
// itself, but not of a password.
func (s *secret) cut() cut {
	switch {
	case len(s.value) < minSecret:
		return isWhole
	case len(s.value) < minCut && (s.rank == isPassword || hasDigitAndLetter(s.value)):
		return isCutWord
	case len(s.value) < minCut || s.rank != isPassword && strings.ContainsAny(strings.TrimRight(s.value, "="), " =;,"):
		return isWhole
	}
	return isCut
}

// shortForms are the forms of what is too short, or too common, to be looked for in
// all ways.
func (s *secret) shortForms() []form {
	switch s.rank {
	case isValue:
		return []form{{text: s.value}}
	case isUser:
		return []form{{text: lowerInPlace(s.value), fold: true, word: true}}
	}
	s.forms = append(make([]form, 0, 8), form{text: s.value}, form{text: lowerInPlace(s.value), fold: true, word: true})
	if len(s.value) >= minEncoded {
		s.encode(false)
	}
	return s.forms
}

// encode adds what s is in hexadecimal and in Base64, which a log may write in
// another case; what is short is like a word then.
func (s *secret) encode(fold bool) {
	cut := s.cut()
	s.forms = append(s.forms, form{text: hex.EncodeToString([]byte(s.value)), fold: true, encoded: true, cut: cut})
	for before := range 3 { // bytes of something else that are encoded with it
		text := base64.RawStdEncoding.EncodeToString(append(make([]byte, before, before+len(s.value)), s.value...))
		text = text[(before*8+5)/6:]
		if (before+len(s.value))%3 != 0 {
			text = text[:len(text)-1] // half of it depends on what follows
		}
		if fold {
			text = lowerInPlace(text)
		}
		s.forms = append(s.forms, form{text: text, fold: fold, encoded: true, cut: cut})
		if strings.ContainsAny(text, "+/") {
			inURL := strings.ReplaceAll(strings.ReplaceAll(text, "+", "-"), "/", "_")
			s.forms = append(s.forms, form{text: inURL, fold: fold, encoded: true, cut: cut})
		}
	}
}

// occurrences yields where in text the form is.
func (f *form) occurrences(text string) iter.Seq[span] {
	return func(yield func(span) bool) {
		if whole(text, f.text, func(at span) bool { return f.word && !isWord(text, at) || yield(at) }) && f.cut != isWhole {
			parts(text, f.text, func(at span) bool { return f.cut == isCutWord && !isWord(text, at) || yield(at) })
		}
	}
}

// isWord reports whether a part of a text is a word of its own.
func isWord(text string, at span) bool {
	return (at.from == 0 || !inWord(text[at.from-1]) || !inWord(text[at.from])) &&
		(at.to == len(text) || !inWord(text[at.to]) || !inWord(text[at.to-1]))
}

// inWord reports whether c is of a word, such as that of a name in a program.
// Scripts that do not part their words are not.
func inWord(c byte) bool { return c == '_' || classOfRune(rune(c)) != 0 }

// parts yields where in text at least two thirds of a form are. The middle third is in
// any such part, so it is enough to look for that and to see how far the rest is there.
func parts(text, form string, yield func(span) bool) {
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
		n := len(text)
		var size int
		text, size = unescape(text, v.text[i:])
		found = found || size > 1
		at := v.origin(span{i, i + size})
		for range len(text) - n {
			u.from, u.to = append(u.from, at.from), append(u.to, at.to)
		}
		i += size
	}
	u.text = string(text)
	return u, found
}

// joined returns v without the breaks of its lines, and what indents them: what is
// long is wrapped, Base64 above all. It reports whether there were any.
func (v *view) joined() (view, bool) {
	if !strings.ContainsAny(v.text, "\r\n") {
		return view{}, false
	}
	u := view{from: make([]int, 0, len(v.text)), to: make([]int, 0, len(v.text))}
	text := make([]byte, 0, len(v.text))
	indent := false
	for i := range len(v.text) {
		switch c := v.text[i]; {
		case c == '\r' || c == '\n':
			indent = true
		case indent && (c == ' ' || c == '\t'):
		default:
			indent = false
			at := v.origin(span{i, i + 1})
			u.from, u.to = append(u.from, at.from), append(u.to, at.to)
			text = append(text, c)
		}
	}
	u.text = string(text)
	return u, true
}

// unescape appends what s begins with to text, and returns how many bytes of s that is.
func unescape(text []byte, s string) ([]byte, int) {
	switch s[0] {
	case '%':
		if b, ok := unhex(s[1:], 2); ok {
			return append(text, byte(b)), 3 //nolint:gosec // of two digits
		}
		if r, size := unescapeRune(s); size > 0 {
			return utf8.AppendRune(text, r), size
		}
	case '&':
		if i := strings.IndexByte(s[:min(len(s), 10)], ';'); i > 0 {
			if plain := html.UnescapeString(s[:i+1]); plain != s[:i+1] {
				return append(text, plain...), i + 1
			}
		}
	case '\\':
		if r, size := unescapeRune(s); size > 0 {
			return utf8.AppendRune(text, r), size
		}
		if len(s) > 3 && s[1] == 'x' {
			if b, ok := unhex(s[2:], 2); ok {
				return append(text, byte(b)), 4 //nolint:gosec // of two digits
			}
		}
		if len(s) > 1 {
			if i := strings.IndexByte(`"\/'nrt`, s[1]); i >= 0 {
				return append(text, "\"\\/'\n\r\t"[i]), 2
			}
		}
	}
	return append(text, s[0]), 1
}

// unescapeRune returns the character that s begins with, as JSON and programs escape
// it: \u1234, two of these for one beyond that, \u{12345} or \U00012345. Older ones of
// Microsoft's have %u1234.
func unescapeRune(s string) (r rune, size int) {
	if len(s) < 6 {
		return 0, 0
	}
	switch {
	case s[1] == 'U':
		if n, ok := unhex(s[2:], 8); ok {
			return n, 10
		}
	case s[1] == 'u' && s[2] == '{':
		if end := strings.IndexByte(s[:min(len(s), 10)], '}'); end > 0 {
			if n, ok := unhex(s[3:], end-3); ok {
				return n, end + 1
			}
		}
	case s[1] == 'u':
		n, ok := unhex(s[2:], 4)
		if !ok {
			return 0, 0
		}
		if utf16.IsSurrogate(n) && strings.HasPrefix(s[6:], s[:2]) {
			if low, ok := unhex(s[8:], 4); ok && utf16.DecodeRune(n, low) != utf8.RuneError {
				return utf16.DecodeRune(n, low), 12
			}
		}
		return n, 6
	}
	return 0, 0
}

// unhex returns the number of n digits that s begins with.
func unhex(s string, n int) (r rune, ok bool) {
	if len(s) < n || n == 0 {
		return 0, false
	}
	for _, c := range []byte(s[:n]) {
		digit := strings.IndexByte("0123456789abcdefABCDEF", c)
		if digit < 0 || r > utf8.MaxRune {
			return 0, false
		}
		if digit > 15 {
			digit -= 6
		}
		r = r<<4 | rune(digit) //nolint:gosec // less than 16
	}
	return r, true
}
