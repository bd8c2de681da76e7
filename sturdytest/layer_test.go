package sturdytest

import (
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestEachFaultIsCaughtByItsRule(t *testing.T) {
	t.Parallel()
	for _, m := range mutants {
		t.Run(m.fault, func(t *testing.T) {
			t.Parallel()
			i := slices.IndexFunc(rules, func(r rule) bool { return r.name == m.rule })
			require.NotEqual(t, -1, i)
			c := &contract{layer: m.layer, patience: 2 * time.Second}
			broken := c.breaches(t, rules[i])
			require.NotEmpty(t, broken)
			t.Log(rules[i].text + "\n" + strings.Join(broken, "\n"))
		})
	}
}

func TestEachRuleHasAFaultThatItCatches(t *testing.T) {
	t.Parallel()
	for _, r := range rules {
		assert.True(t, slices.ContainsFunc(mutants, func(m mutantOf) bool { return m.rule == r.name }), r.name)
	}
}

func TestALayerThatDoesNothingKeepsEveryRule(t *testing.T) {
	t.Parallel()
	TestLayer(t, func(base http.RoundTripper) http.RoundTripper { return base })
}

func TestARetryThatDoesNothingWrongKeepsEveryRule(t *testing.T) {
	t.Parallel()
	TestLayer(t, resend{}.over)
}

// A Transport is a layer too, on top of the base that is registered for a scheme.
// Only its idle connections are its own.
func TestHTTPTransportKeepsEveryRule(t *testing.T) {
	t.Parallel()
	TestLayer(t, func(base http.RoundTripper) http.RoundTripper {
		if tr, ok := base.(*http.Transport); ok {
			return tr.Clone()
		}
		tr := &http.Transport{Protocols: new(http.Protocols)}
		tr.Protocols.SetHTTP1(true)
		tr.RegisterProtocol("https", base)
		return tr
	}, "idle-connections-closed")
}

// brokenLayer is set in a process that runs TestLayer on layers that fail it.
const brokenLayer = "STURDYTEST_BROKEN_LAYER"

func TestForAnotherProcess(t *testing.T) {
	if os.Getenv(brokenLayer) == "" {
		t.Skip("it is there to fail, in another process")
	}
	i := slices.IndexFunc(mutants, func(m mutantOf) bool { return m.rule == "request-trailers" })
	m := mutants[i]
	t.Run("told", func(t *testing.T) { TestLayer(t, m.layer) })
	t.Run("excepted", func(t *testing.T) { TestLayer(t, m.layer, m.rule) })
	t.Run("stale", func(t *testing.T) { TestLayer(t, m.layer, m.rule, "upgrade") })
	t.Run("unknown", func(t *testing.T) { TestLayer(t, m.layer, m.rule, "no-such-rule") })
}

func TestAFailureTellsTheRuleAndWhatHappened(t *testing.T) {
	t.Parallel()
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestForAnotherProcess$", "-test.v")
	cmd.Env = append(os.Environ(), brokenLayer+"=1")
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	require.ErrorAs(t, err, &exit)
	require.Equal(t, 1, exit.ExitCode(), "%s", out)
	var failed []string
	for _, m := range regexp.MustCompile(`--- FAIL: TestForAnotherProcess/(\S+)`).FindAllStringSubmatch(string(out), -1) {
		failed = append(failed, m[1])
	}
	assert.ElementsMatch(t, []string{"told", "told/request-trailers", "stale", "stale/upgrade", "unknown"}, failed)
	for _, want := range []string{
		`trailers that the caller sets while the body is read must be sent\n` +
			`\s+broken: HTTP/1.1: the server sees the body "the whole body of the request" and the trailers map`,
		`excepted: trailers that the caller sets while the body is read must be sent\n\s+broken: HTTP/1.1: the server sees`,
		`the exception is stale, this holds: a connection that was upgraded must be the caller's`,
		`sturdytest: there is no rule "no-such-rule" to except`,
	} {
		assert.Regexp(t, want, string(out))
	}
}

func TestThePackageCommentListsEveryRule(t *testing.T) {
	t.Parallel()
	doc, err := os.ReadFile("doc.go")
	require.NoError(t, err)
	text := strings.ReplaceAll(string(doc), "\n//     ", " ")
	for _, r := range rules {
		assert.Contains(t, text, "\n//   - "+r.name+": "+r.text+"\n")
	}
	assert.Equal(t, len(rules), strings.Count(text, "\n//   - "))
}

func TestRulesAreNamedOnceAndSayWhatTheyAre(t *testing.T) {
	t.Parallel()
	seen := make(map[string]bool)
	for _, r := range rules {
		require.False(t, seen[r.name], r.name)
		seen[r.name] = true
		assert.Regexp(t, `^[a-z0-9]+(-[a-z0-9]+)*$`, r.name)
		assert.NotEmpty(t, r.text)
	}
}
