package main

import (
	"bytes"
	"cmp"
	"fmt"
	"go/ast"
	"go/importer"
	"go/parser"
	"go/token"
	"go/types"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// A mutant is one mistake.
type mutant struct {
	id     int
	file   string
	line   int
	within string // the function
	text   string // as it is
	change string // what becomes of it
	nth    int    // of those with the same text and change in the function

	tests []*test // that reach it
	fate  fate
}

// key is what a mutant is known by in the list of survivors. It does not change
// when lines are moved.
func (m *mutant) key() string {
	key := fmt.Sprintf("%s: %s: %s -> %s", m.file, m.within, m.text, m.change)
	if m.nth > 1 {
		key += fmt.Sprintf(" (%d)", m.nth)
	}
	return key
}

// A pkg is a package with its types.
type pkg struct {
	dir, name string
	fset      *token.FileSet
	files     map[string]*ast.File
	sources   map[string][]byte
	info      *types.Info
}

func load(dir string) (*pkg, error) {
	p := &pkg{
		dir: dir, fset: token.NewFileSet(), files: make(map[string]*ast.File), sources: make(map[string][]byte),
		info: &types.Info{Types: make(map[ast.Expr]types.TypeAndValue), Uses: make(map[*ast.Ident]types.Object), Defs: make(map[*ast.Ident]types.Object)},
	}
	cmd := exec.Command("go", "list", "-export", "-deps", "-f", "{{.ImportPath}}\t{{.Export}}\t{{if .DepOnly}}{{else}}{{.GoFiles}}{{end}}", ".")
	cmd.Dir, cmd.Stderr = dir, os.Stderr
	listed, err := cmd.Output()
	if err != nil {
		return nil, err
	}
	exports := make(map[string]string)
	var names []string
	for line := range strings.Lines(string(listed)) {
		fields := strings.Split(strings.TrimSuffix(line, "\n"), "\t")
		exports[fields[0]] = fields[1]
		if fields[2] != "" {
			names = strings.Fields(strings.Trim(fields[2], "[]"))
		}
	}
	var files []*ast.File
	for _, name := range names {
		source, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			return nil, err
		}
		f, err := parser.ParseFile(p.fset, name, source, parser.SkipObjectResolution)
		if err != nil {
			return nil, err
		}
		p.files[name], p.sources[name], p.name = f, source, f.Name.Name
		files = append(files, f)
	}
	config := types.Config{Importer: importer.ForCompiler(p.fset, "gc", func(path string) (io.ReadCloser, error) { return os.Open(exports[path]) })}
	if _, err := config.Check(p.name, p.fset, files, p.info); err != nil {
		return nil, err
	}
	return p, nil
}

// helper is the file that chooses the mutant. Names begin with mutate_ so that they
// are nobody else's.
func helper(name string) string {
	return "package " + name + `

import (
	"os"
	"strconv"
	"sync/atomic"
)

var (
	mutate_ID, _ = strconv.Atoi(os.Getenv("MUTANT"))
	mutate_file  = func() *os.File {
		path := os.Getenv("MUTANTS_REACHED")
		if path == "" {
			return nil
		}
		f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
		if err != nil {
			panic(err)
		}
		return f
	}()
	mutate_reached [1 << 16]atomic.Bool
)

func mutate_on(id int) bool {
	if mutate_file != nil {
		if !mutate_reached[id].Load() && !mutate_reached[id].Swap(true) {
			mutate_file.WriteString(strconv.Itoa(id) + "\n")
		}
	}
	return id == mutate_ID
}

func mutate_pick[T any](id int, other, as func() T) T {
	if mutate_on(id) {
		return other()
	}
	return as()
}
`
}

// An edit replaces a part of the source.
type edit struct {
	from, to int
	text     string
}

// A rewriter puts mutants into a file. Nodes are visited after their children, so
// the text of a node has the mutants of its children in it already. A mutant itself
// has the children as they were: only one mutant is chosen at a time.
type rewriter struct {
	*pkg
	file    string
	source  []byte
	edits   []edit // disjoint, in order
	mutants []*mutant
	next    int
	stack   []ast.Node
	imports map[string]string // names of imported packages by path
	seen    map[string]int
}

// instrument returns the text of a file with its mutants, which are numbered from
// after on.
func (p *pkg) instrument(name string, after int) (string, []*mutant, error) {
	f := p.files[name]
	if f == nil {
		return "", nil, fmt.Errorf("%s is no file of the package", name)
	}
	r := &rewriter{pkg: p, file: name, source: p.sources[name], next: after + 1, imports: make(map[string]string), seen: make(map[string]int)}
	for _, spec := range f.Imports {
		path := strings.Trim(spec.Path.Value, `"`)
		r.imports[path] = ""
		if spec.Name != nil {
			r.imports[path] = spec.Name.Name
		}
	}
	for _, d := range f.Decls {
		if fn, ok := d.(*ast.FuncDecl); ok && fn.Body != nil {
			ast.Inspect(d, r.visit)
		}
	}
	return r.rendered(0, len(r.source)), r.mutants, nil
}

func (r *rewriter) visit(n ast.Node) bool {
	if n != nil {
		switch n := n.(type) {
		case *ast.GenDecl:
			if n.Tok == token.CONST || n.Tok == token.TYPE {
				return false
			}
		case *ast.FieldList, *ast.ArrayType, *ast.MapType, *ast.ChanType, *ast.FuncType, *ast.CommClause:
			if c, ok := n.(*ast.CommClause); ok { // its statement stays as it is
				r.stack = append(r.stack, n)
				for _, s := range c.Body {
					ast.Inspect(s, r.visit)
				}
				r.stack = r.stack[:len(r.stack)-1]
			}
			return false
		}
		r.stack = append(r.stack, n)
		return true
	}
	n = r.stack[len(r.stack)-1]
	r.stack = r.stack[:len(r.stack)-1]
	switch n := n.(type) {
	case ast.Stmt:
		r.statement(n)
	case ast.Expr:
		r.expression(n)
	}
	return true
}

func (r *rewriter) offset(p token.Pos) int { return r.fset.Position(p).Offset }

func (r *rewriter) original(n ast.Node) string {
	return string(r.source[r.offset(n.Pos()):r.offset(n.End())])
}

// rendered is the text of a part of the source with the edits in it.
func (r *rewriter) rendered(from, to int) string {
	var b bytes.Buffer
	for _, e := range r.edits {
		if e.from >= from && e.to <= to {
			b.Write(r.source[from:e.from])
			b.WriteString(e.text)
			from = e.to
		}
	}
	b.Write(r.source[from:to])
	return b.String()
}

// replace gives a node another text, made of its own.
func (r *rewriter) replace(n ast.Node, with func(inner string) string) {
	from, to := r.offset(n.Pos()), r.offset(n.End())
	e := edit{from, to, with(r.rendered(from, to))}
	r.edits = slices.DeleteFunc(r.edits, func(old edit) bool { return old.from >= from && old.to <= to })
	at, _ := slices.BinarySearchFunc(r.edits, e, func(a, b edit) int { return cmp.Compare(a.from, b.from) })
	r.edits = slices.Insert(r.edits, at, e)
}

// mutant makes a mutant of n, and returns how its code asks for it.
func (r *rewriter) mutant(n ast.Node, change string) (on string, id int) {
	text := r.original(n)
	if _, ok := n.(*ast.BasicLit); ok { // which says nothing by itself
		parent := r.stack[len(r.stack)-1]
		from, at := r.offset(parent.Pos()), r.offset(n.Pos())
		text, change = r.original(parent), string(r.source[from:at])+"("+change+")"+string(r.source[at+len(text):r.offset(parent.End())])
	}
	m := &mutant{id: r.next, file: r.file, line: r.fset.Position(n.Pos()).Line, within: r.function(), text: oneLine(text), change: oneLine(change)}
	r.next++
	r.seen[m.key()]++
	m.nth = r.seen[m.key()]
	r.mutants = append(r.mutants, m)
	return fmt.Sprintf("mutate_on(%d)", m.id), m.id
}

func oneLine(text string) string { return strings.Join(strings.Fields(text), " ") }

func (r *rewriter) function() string {
	for _, n := range r.stack {
		if fn, ok := n.(*ast.FuncDecl); ok {
			if fn.Recv != nil {
				return "(" + r.original(fn.Recv.List[0].Type) + ")." + fn.Name.Name
			}
			return fn.Name.Name
		}
	}
	return ""
}

// typeText is how the type of e is written in this file; empty if it cannot be.
func (r *rewriter) typeText(e ast.Expr) string {
	ok := true
	text := types.TypeString(r.info.TypeOf(e), func(p *types.Package) string {
		if p.Path() == r.name {
			return ""
		}
		name, imported := r.imports[p.Path()]
		ok = ok && imported
		return cmp.Or(name, p.Name())
	})
	if !ok || strings.Contains(text, "untyped") {
		return ""
	}
	return text
}

// list reports whether a statement is one of a list, so that another may stand
// before it, and it may be left out.
func (r *rewriter) list(s ast.Stmt) bool {
	switch parent := r.stack[len(r.stack)-1].(type) {
	case *ast.BlockStmt, *ast.CommClause:
		return true
	case *ast.CaseClause:
		return slices.Contains(parent.Body, s)
	}
	return false
}

func (r *rewriter) statement(s ast.Stmt) {
	switch s := s.(type) {
	case *ast.IfStmt:
		r.condition(s.Cond)
		return
	case *ast.ForStmt:
		if s.Cond != nil {
			r.condition(s.Cond)
		}
		return
	}
	if !r.list(s) {
		return
	}
	switch s := s.(type) {
	case *ast.ExprStmt:
		if !r.leftAlone(s.X) {
			r.leaveOut(s)
		}
	case *ast.SendStmt, *ast.GoStmt:
		r.leaveOut(s)
	case *ast.DeferStmt:
		if !r.leftAlone(s.Call) {
			r.leaveOut(s)
		}
	case *ast.BranchStmt:
		if s.Tok == token.BREAK || s.Tok == token.CONTINUE {
			r.leaveOut(s)
		}
	case *ast.IncDecStmt:
		other := map[token.Token]string{token.INC: "--", token.DEC: "++"}[s.Tok]
		r.instead(s, r.original(s.X)+other)
		r.leaveOut(s)
	case *ast.AssignStmt:
		switch s.Tok {
		case token.DEFINE:
			return
		case token.ADD_ASSIGN, token.SUB_ASSIGN:
			if r.numeric(s.Lhs[0]) {
				other := map[token.Token]string{token.ADD_ASSIGN: " -= ", token.SUB_ASSIGN: " += "}[s.Tok]
				r.instead(s, r.original(s.Lhs[0])+other+r.original(s.Rhs[0]))
			}
		}
		if len(s.Lhs) != 1 || r.original(s.Lhs[0]) != "_" {
			r.leaveOut(s)
		}
	case *ast.ReturnStmt:
		for i, result := range s.Results {
			r.returnZero(s, i, result)
		}
	}
}

// leftAlone reports whether a call is none to leave out: without a lock it is the
// race detector that finds out, and after a panic nothing may come.
func (r *rewriter) leftAlone(e ast.Expr) bool {
	call, ok := e.(*ast.CallExpr)
	if !ok {
		return false
	}
	name := r.original(call.Fun)
	return name == "panic" || strings.HasSuffix(name, ".Lock") || strings.HasSuffix(name, ".Unlock")
}

func (r *rewriter) leaveOut(s ast.Stmt) {
	on, _ := r.mutant(s, "nothing")
	r.replace(s, func(inner string) string { return "if !" + on + " { " + inner + " }" })
}

func (r *rewriter) instead(s ast.Stmt, other string) {
	on, _ := r.mutant(s, other)
	r.replace(s, func(inner string) string { return "if " + on + " { " + other + " } else { " + inner + " }" })
}

func (r *rewriter) returnZero(s *ast.ReturnStmt, i int, result ast.Expr) {
	zero := ""
	switch t := r.info.TypeOf(result).Underlying().(type) {
	case *types.Basic:
		switch {
		case t.Kind() == types.UntypedNil:
		case t.Info()&types.IsBoolean != 0:
			zero = "false"
		case t.Info()&types.IsNumeric != 0:
			zero = "0"
		case t.Info()&types.IsString != 0:
			zero = `""`
		}
	case *types.Pointer, *types.Interface, *types.Slice, *types.Map, *types.Chan, *types.Signature:
		zero = "nil"
	}
	text := r.original(result)
	if zero == "" || text == zero || text == "true" || text == "false" { // literals have mutants of their own
		return
	}
	results := make([]string, len(s.Results))
	for j := range s.Results {
		results[j] = r.original(s.Results[j])
	}
	results[i] = zero
	other := "return " + strings.Join(results, ", ")
	on, _ := r.mutant(s, other)
	r.replace(s, func(inner string) string { return "if " + on + " { " + other + " }; " + inner })
}

// condition negates what is not a comparison, or made of several: these have
// mutants of their own.
func (r *rewriter) condition(e ast.Expr) {
	e = ast.Unparen(e)
	if _, ok := e.(*ast.BinaryExpr); ok {
		return
	}
	r.negate(e)
}

func (r *rewriter) negate(e ast.Expr) {
	other := "!(" + r.original(e) + ")"
	if not, ok := e.(*ast.UnaryExpr); ok && not.Op == token.NOT {
		other = r.original(not.X)
	}
	r.otherwise(e, other)
}

// otherwise makes a mutant of a boolean expression.
func (r *rewriter) otherwise(e ast.Expr, other string) {
	on, _ := r.mutant(e, other)
	r.replace(e, func(inner string) string { return "(" + on + " && (" + other + ") || !" + on + " && (" + inner + "))" })
}

var comparisons = map[token.Token][]string{
	token.LSS: {"<=", ">="}, token.LEQ: {"<", ">"}, token.GTR: {">=", "<="}, token.GEQ: {">", "<"},
	token.EQL: {"!="}, token.NEQ: {"=="}, token.LAND: {"||"}, token.LOR: {"&&"},
}

func (r *rewriter) expression(e ast.Expr) {
	switch e := e.(type) {
	case *ast.BinaryExpr:
		if e.Op == token.LAND || e.Op == token.LOR {
			for _, operand := range [...]ast.Expr{e.X, e.Y} {
				r.operand(operand)
			}
		}
		for _, op := range comparisons[e.Op] {
			r.otherwise(e, r.original(e.X)+" "+op+" "+r.original(e.Y))
		}
		if op := map[token.Token]string{token.ADD: "-", token.SUB: "+"}[e.Op]; op != "" && r.numeric(e) && r.info.Types[e].Value == nil {
			r.pick(e, r.original(e.X)+" "+op+" "+r.original(e.Y))
		}
	case *ast.CallExpr:
		name := r.original(e.Fun)
		if other := map[string]string{"min": "max", "max": "min"}[name]; other != "" && r.info.Types[e].Value == nil {
			r.pick(e, other+strings.TrimPrefix(r.original(e), name))
		}
	case *ast.Ident:
		if r.info.Uses[e] == types.Universe.Lookup("true") || r.info.Uses[e] == types.Universe.Lookup("false") {
			r.otherwise(e, map[string]string{"true": "false", "false": "true"}[e.Name])
		}
	case *ast.BasicLit:
		if e.Kind == token.INT && !r.fixed(e) {
			r.pick(e, e.Value+" + 1")
			if b, ok := r.info.TypeOf(e).Underlying().(*types.Basic); ok && (e.Value != "0" || b.Info()&types.IsUnsigned == 0) {
				r.pick(e, e.Value+" - 1")
			}
		}
	}
}

// operand negates an operand of && or ||, unless it has mutants that do.
func (r *rewriter) operand(e ast.Expr) {
	switch e := ast.Unparen(e).(type) {
	case *ast.BinaryExpr:
	case *ast.Ident:
		if e.Name != "true" && e.Name != "false" {
			r.negate(e)
		}
	default:
		r.negate(e)
	}
}

// fixed reports whether an integer that was visited last is no mutant: it must be
// a constant, it is a boundary, which has mutants of its own, or it is a nanosecond.
func (r *rewriter) fixed(e *ast.BasicLit) bool {
	parent := r.stack[len(r.stack)-1]
	op := token.ILLEGAL
	switch parent := parent.(type) {
	case *ast.KeyValueExpr:
		return true
	case *ast.BinaryExpr:
		op = parent.Op
	}
	switch op {
	case token.SHL, token.SHR, token.LSS, token.LEQ, token.GTR, token.GEQ:
		return true
	case token.MUL, token.QUO:
		return false
	}
	return types.TypeString(r.info.TypeOf(e), nil) == "time.Duration"
}

// pick makes a mutant of an expression of any type.
func (r *rewriter) pick(e ast.Expr, other string) {
	t := r.typeText(e)
	if t == "" {
		return
	}
	_, id := r.mutant(e, other)
	r.replace(e, func(inner string) string {
		return fmt.Sprintf("mutate_pick(%d, func() %s { return %s }, func() %s { return %s })", id, t, other, t, inner)
	})
}

func (r *rewriter) numeric(e ast.Expr) bool {
	b, ok := r.info.TypeOf(e).Underlying().(*types.Basic)
	return ok && b.Info()&types.IsNumeric != 0
}
