package sturdy_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestEveryGoBlockOfTheReadmeCompiles builds them in a module of their own, as
// a user would have it. Names that a block uses and does not declare, such as
// req, are declared around it. OpenAI's SDK, which this module does not
// require, is replaced by the three functions that are called.
func TestEveryGoBlockOfTheReadmeCompiles(t *testing.T) {
	root, err := os.Getwd()
	require.NoError(t, err)
	dir := t.TempDir()
	write := func(name, text string) {
		file := filepath.Join(dir, name)
		require.NoError(t, os.MkdirAll(filepath.Dir(file), 0o755))
		require.NoError(t, os.WriteFile(file, []byte(text), 0o600))
	}
	readme, err := os.ReadFile("README.md")
	require.NoError(t, err)
	blocks := strings.Split(string(readme), "```go\n")[1:]
	require.NotEmpty(t, blocks)
	for i, block := range blocks {
		block, _, _ = strings.Cut(block, "```")
		if !strings.HasPrefix(block, "package ") {
			block = programOf(block)
		}
		write("block"+strconv.Itoa(i)+"/main.go", block)
	}

	const replace = "replace github.com/sturdyhttp/sturdy => "
	_, lines, ok := strings.Cut(string(readme), "\nrequire github.com/sturdyhttp/sturdy")
	require.True(t, ok, "the README says what to put into go.mod")
	lines, _, _ = strings.Cut("require github.com/sturdyhttp/sturdy"+lines, "```")
	lines = strings.Replace(lines, replace+"../sturdy", replace+root, 1)
	require.Contains(t, lines, root)
	write("go.mod", "module readme\n\ngo 1.26\n\n"+lines)
	write("openai/openai.go", "package openai\n\nimport \"readme/option\"\n\nfunc NewClient(...option.Option) int { return 0 }\n")
	write("option/option.go", `package option

import "net/http"

type Option int

func WithHTTPClient(*http.Client) Option { return 0 }
func WithMaxRetries(int) Option          { return 0 }
`)
	for _, args := range [][]string{{"mod", "tidy"}, {"build", "-o", os.DevNull, "./..."}} {
		command := exec.CommandContext(t.Context(), "go", args...)
		command.Dir = dir
		out, err := command.CombinedOutput()
		require.NoError(t, err, "%s", out)
	}
}

// programOf makes a program of statements.
func programOf(block string) string {
	packages := map[string]string{
		"context": "context", "errors": "errors", "fmt": "fmt", "log": "log", "slog": "log/slog", "http": "net/http",
		"os": "os", "testing": "testing", "time": "time",
		"openai": "readme/openai", "option": "readme/option",
		"sturdy": "github.com/sturdyhttp/sturdy", "sturdytest": "github.com/sturdyhttp/sturdy/sturdytest",
	}
	var b strings.Builder
	b.WriteString("package main\n\n")
	for name, path := range packages {
		if strings.Contains(block, name+".") || name == "http" {
			b.WriteString("import " + strconv.Quote(path) + "\n")
		}
	}
	b.WriteString("\nvar (\n\treq *http.Request\n\tmyTransport http.RoundTripper\n)\n\nfunc main() {\n")
	if strings.Contains(block, "ctx = ") {
		b.WriteString("\tctx := req.Context()\n")
	}
	if !strings.Contains(block, "client :=") && strings.Contains(block, "client") {
		b.WriteString("\tclient := http.DefaultClient\n")
	}
	b.WriteString(block)
	if strings.Contains(block, "client :=") {
		b.WriteString("\t_ = client\n")
	}
	b.WriteString("}\n")
	return b.String()
}
