package sturdytest

import (
	"net/http"
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
