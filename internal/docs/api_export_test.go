package docs

import (
	"bytes"
	"fmt"
	"go/ast"
	"go/importer"
	"go/parser"
	"go/printer"
	"go/token"
	"go/types"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const apiList = "testdata/exported-api.txt"

// apiAdditions are names that the list does not have and that the package
// promises with a signature of its own, in the list's notation.
var apiAdditions = []string{
	"field ManagerOptions.TraceTo *pubsub.PubSub[TraceInfo, TraceType]",
}

// apiExceptions maps a line of the list to the line that holds here instead.
// It is empty: everything the list has is there as listed.
var apiExceptions = map[string]string{}

func TestExportedAPIMatchesList(t *testing.T) {
	text, err := os.ReadFile(apiList)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	for line := range apiExceptions {
		if !slices.Contains(lines, line) {
			t.Errorf("exception for a line that the list does not have: %s", line)
		}
	}
	for i, line := range lines {
		if other, ok := apiExceptions[line]; ok {
			lines[i] = other
		}
	}
	lines = append(lines, apiAdditions...)
	if problems := compareAPI(compiledPackage(t), lines); len(problems) > 0 {
		t.Errorf("%d of %d names differ from %s:\n%s", len(problems), len(lines), apiList, strings.Join(problems, "\n"))
	}
}

// The comparison itself is held against a small package, one line of a list each.
func TestCompareAPI(t *testing.T) {
	pkg := checkedPackage(t, `package p
		type Color uint8
		const Red Color = 1
		const Path = "/p"
		var Make func() []byte
		var Other, hidden int
		func New[A Shape, B any](a A, n, m int) (b *Pair[A, B], err error) { return nil, nil }
		func Format(f string, a ...interface{}) {}
		type Shape interface { comparable; Area(x int) (a float64); Name() string }
		type Pair[Left Shape, Right any] struct { base; First Left; Rest map[string][]Right }
		func (p *Pair[L, R]) Swap(x L, y R) (z <-chan R) { return nil }
		func (p Pair[L, R]) Len() int { return 0 }
		type base struct { Depth int }
		func (base) Base() {}
		type Fn func(name string) string
		type Alias = Fn
		type Open struct { Pair *Pair[Fixed, int] }
		type Fixed int
		func (Fixed) Area(int) float64 { return 0 }
		func (Fixed) Name() string { return "" }`)
	const pairLine = "type Pair[L Shape, R any] struct"
	for _, test := range []struct {
		name, line string
		want       string // how the problem starts; "" for none
	}{
		{"constant", "const Red Color = 1", ""},
		{"constant of another value", "const Red Color = 2", "different"},
		{"constant of another type", "const Red uint8 = 1", "different"},
		{"untyped constant", `const Path untyped string = "/p"`, ""},
		{"constant that is missing", "const Blue Color = 2", "missing"},
		{"constant that is a variable", "const Other int = 0", "missing"},
		{"variable", "var Make func() []byte", ""},
		{"variable of another type", "var Make func() []int", "different"},
		{"function under other names", "func New[X Shape, Y interface{}](one X, two int, three int) (*Pair[X, Y], error)", ""},
		{"function with swapped type parameters", "func New[X Shape, Y any](one Y, two, three int) (*Pair[X, Y], error)", "different"},
		{"function with another constraint", "func New[X, Y Shape](one X, two, three int) (*Pair[X, Y], error)", "different"},
		{"function with a parameter too few", "func New[X Shape, Y any](one X, two int) (*Pair[X, Y], error)", "different"},
		{"variadic function", "func Format(format string, args ...any)", ""},
		{"variadic function listed with a slice", "func Format(format string, args []any)", "different"},
		{"type", "type Color uint8", ""},
		{"type over another", "type Color uint16", "different"},
		{"struct", "type Open struct", ""},
		{"struct listed as an interface", "type Open interface{}", "different"},
		{"interface in another order", "type Shape interface{Name() string; Area(float64 int) float64; comparable}", ""},
		{"interface with a method more", "type Shape interface{Name() string; Area(int) float64; comparable; Edge()}", "different"},
		{"function type", "type Fn func(aud string) string", ""},
		{"function type without its result", "type Fn func(aud string)", "different"},
		{"alias in place of a type", "type Alias func(string) string", "missing"},
		{"generic type", pairLine, ""},
		{"generic type with another constraint", "type Pair[L any, R any] struct", "different"},
		{"field of a type parameter", "field Pair.Rest map[string][]R", ""},
		{"field of the wrong type parameter", "field Pair.Rest map[string][]L", "different"},
		{"field of an instance", "field Open.Pair *Pair[Fixed, int]", ""},
		{"promoted field", "field Pair.Depth int", ""},
		{"field that is missing", "field Pair.Last R", "missing"},
		{"field that is a method", "field Pair.Len int", "missing"},
		{"method of a pointer", "method Pair.Swap(L, R) <-chan R", ""},
		{"method with another channel direction", "method Pair.Swap(L, R) chan R", "different"},
		{"method of a value", "method Pair.Len() (n int)", ""},
		{"promoted method", "method Pair.Base()", ""},
		{"method of an interface", "method Shape.Name() string", ""},
		{"method that is missing", "method Pair.Cap() int", "missing"},
		{"method of a type that is missing", "method Triple.Len() int", "missing"},
		{"unexported name", "var hidden int", "missing"},
		{"nonsense", "func New[", "unreadable"},
		{"unknown kind", "label X", "unreadable"},
	} {
		t.Run(test.name, func(t *testing.T) {
			lines := []string{test.line}
			if test.line != pairLine && strings.Contains(test.line, " Pair.") {
				lines = append(lines, pairLine)
			}
			problems := compareAPI(pkg, lines)
			switch {
			case test.want == "" && len(problems) > 0:
				t.Errorf("%s:\n%s", test.line, strings.Join(problems, "\n"))
			case test.want != "" && (len(problems) != 1 || !strings.HasPrefix(problems[0], test.want)):
				t.Errorf("%s: want one problem, %q, have %q", test.line, test.want, problems)
			}
		})
	}
	t.Run("all problems are listed", func(t *testing.T) {
		if problems := compareAPI(pkg, []string{"var A int", "const Red Color = 1", "var B int"}); len(problems) != 2 {
			t.Errorf("want 2 problems, have %q", problems)
		}
	})
}

func checkedPackage(t *testing.T, src string) *types.Package {
	t.Helper()
	fset := token.NewFileSet()
	file, err := parser.ParseFile(fset, "p.go", src, 0)
	if err != nil {
		t.Fatal(err)
	}
	pkg, err := (&types.Config{}).Check("p", fset, []*ast.File{file}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return pkg
}

// compiledPackage returns the types of the library, read from the compiler's export data.
func compiledPackage(t *testing.T) *types.Package {
	t.Helper()
	var stderr bytes.Buffer
	list := exec.Command("go", "list", "-export", "-deps", "-f", "{{.ImportPath}}\t{{.Export}}\t{{.DepOnly}}", ".")
	list.Stderr = &stderr
	out, err := list.Output()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, stderr.Bytes())
	}
	exports := make(map[string]string)
	self := ""
	for line := range strings.Lines(string(out)) {
		fields := strings.Split(strings.TrimSpace(line), "\t")
		exports[fields[0]] = fields[1]
		if fields[2] == "false" {
			self = fields[0]
		}
	}
	open := func(path string) (io.ReadCloser, error) { return os.Open(exports[path]) }
	pkg, err := importer.ForCompiler(token.NewFileSet(), "gc", open).Import(self)
	if err != nil {
		t.Fatal(err)
	}
	return pkg
}

// compareAPI says for each line of an API list what pkg has instead, if
// anything differs. A line names one thing in one of the forms
//
//	const NAME TYPE = VALUE
//	var NAME TYPE
//	func NAME[TYPE PARAMETERS](PARAMETERS) RESULTS
//	type NAME[TYPE PARAMETERS] UNDERLYING TYPE, or struct without its fields
//	field TYPE.NAME TYPE
//	method TYPE.NAME(PARAMETERS) RESULTS
//
// Names of parameters, of results and of type parameters do not matter, nor
// does the order in an interface or whether a receiver is a pointer.
func compareAPI(pkg *types.Package, lines []string) (problems []string) {
	list := apiLines{typeParams: make(map[string][]string)}
	for _, line := range lines {
		if err := list.collectTypeParams(line); err != nil {
			problems = append(problems, fmt.Sprintf("unreadable: %s: %v", line, err))
		}
	}
	for _, line := range lines {
		kind, rest, _ := strings.Cut(line, " ")
		name := rest[:len(rest)-len(strings.TrimLeft(rest, identLetters+"."))]
		want, err := list.canonical(kind, name, rest[len(name):])
		if err != nil {
			problems = append(problems, fmt.Sprintf("unreadable: %s: %v", line, err))
			continue
		}
		got, err := exported(pkg, kind, name)
		switch {
		case err != nil:
			problems = append(problems, fmt.Sprintf("missing:   %s (%v)", line, err))
		case got != want:
			problems = append(problems, fmt.Sprintf("different: %s\n           have %s\n           want %s", line, got, want))
		}
	}
	return problems
}

const identLetters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_"

// apiLines reads the lines of a list. Methods and fields of a generic type use
// the names of its type parameters, which only the type's own line tells.
type apiLines struct {
	typeParams map[string][]string // by type
}

func (l *apiLines) collectTypeParams(line string) error {
	rest, ok := strings.CutPrefix(line, "type ")
	if !ok {
		return nil
	}
	name := rest[:len(rest)-len(strings.TrimLeft(rest, identLetters))]
	spec, err := parseTypeLine(rest)
	if err != nil {
		return err
	}
	l.typeParams[name] = fieldNames(spec.TypeParams)
	return nil
}

// parseTypeLine parses what follows "type" in a line; "struct" stands for any struct.
func parseTypeLine(rest string) (*ast.TypeSpec, error) {
	if strings.HasSuffix(rest, " struct") {
		rest += "{}"
	}
	decl, err := parseDecl("type " + rest)
	if err != nil {
		return nil, err
	}
	return decl.(*ast.GenDecl).Specs[0].(*ast.TypeSpec), nil
}

func parseDecl(src string) (ast.Decl, error) {
	file, err := parser.ParseFile(token.NewFileSet(), "", "package p\n"+src, parser.SkipObjectResolution)
	if err != nil {
		return nil, err
	}
	return file.Decls[0], nil
}

// canonical renders what a line says about a name.
func (l *apiLines) canonical(kind, name, rest string) (string, error) {
	owner, _, _ := strings.Cut(name, ".")
	params := l.typeParams[owner]
	switch kind {
	case "const":
		typ, value, _ := strings.Cut(strings.TrimSpace(rest), " = ")
		return typ + " = " + value, nil
	case "var", "field":
		return canonicalExpr(rest, params)
	case "method":
		return canonicalExpr("func"+rest, params)
	case "func":
		decl, err := parseDecl("func f" + rest)
		if err != nil {
			return "", err
		}
		typ := decl.(*ast.FuncDecl).Type
		list, names := typ.TypeParams, fieldNames(typ.TypeParams)
		typ.TypeParams = nil
		return renderTypeParams(list, names) + render(canonicalize(typ, names)), nil
	case "type":
		spec, err := parseTypeLine("T" + rest)
		if err != nil {
			return "", err
		}
		return renderTypeParams(spec.TypeParams, params) + render(canonicalize(spec.Type, params)), nil
	}
	return "", fmt.Errorf("no such kind: %q", kind)
}

// exported renders what pkg says about a name.
func exported(pkg *types.Package, kind, name string) (string, error) {
	owner, member, isMember := strings.Cut(name, ".")
	obj := pkg.Scope().Lookup(owner)
	if obj == nil || !obj.Exported() {
		return "", fmt.Errorf("no %s", owner)
	}
	text := func(t types.Type) string {
		return types.TypeString(t, func(other *types.Package) string {
			if other == pkg {
				return ""
			}
			return other.Name()
		})
	}
	if isMember {
		return exportedMember(pkg, obj, kind, member, text)
	}
	switch obj := obj.(type) {
	case *types.Const:
		if kind == "const" {
			return text(obj.Type()) + " = " + obj.Val().ExactString(), nil
		}
	case *types.Var:
		if kind == "var" {
			return canonicalExpr(text(obj.Type()), nil)
		}
	case *types.Func:
		if kind == "func" {
			list := obj.Signature().TypeParams()
			decl, err := parseDecl("func f" + strings.TrimPrefix(text(obj.Type()), "func"))
			if err != nil {
				return "", err
			}
			typ := decl.(*ast.FuncDecl).Type
			names := typeParamNames(list)
			params := typ.TypeParams
			typ.TypeParams = nil
			return renderTypeParams(params, names) + render(canonicalize(typ, names)), nil
		}
	case *types.TypeName:
		if kind == "type" {
			return exportedType(obj, text)
		}
	}
	return "", fmt.Errorf("%s is another kind of thing: %s", owner, obj)
}

func exportedType(obj *types.TypeName, text func(types.Type) string) (string, error) {
	if obj.IsAlias() {
		return "", fmt.Errorf("%s is an alias of %s", obj.Name(), text(types.Unalias(obj.Type())))
	}
	named := obj.Type().(*types.Named)
	names := typeParamNames(named.TypeParams())
	underlying := text(named.Underlying())
	if _, ok := named.Underlying().(*types.Struct); ok {
		underlying = "struct{}"
	}
	var constraints []string
	for p := range named.TypeParams().TypeParams() {
		constraints = append(constraints, p.Obj().Name()+" "+text(p.Constraint()))
	}
	list := ""
	if len(constraints) > 0 {
		list = "[" + strings.Join(constraints, ", ") + "]"
	}
	spec, err := parseTypeLine("T" + list + " " + underlying)
	if err != nil {
		return "", err
	}
	return renderTypeParams(spec.TypeParams, names) + render(canonicalize(spec.Type, names)), nil
}

// exportedMember renders a field or method, own or promoted.
func exportedMember(pkg *types.Package, owner types.Object, kind, name string, text func(types.Type) string) (string, error) {
	if _, ok := owner.(*types.TypeName); !ok {
		return "", fmt.Errorf("%s is not a type", owner.Name())
	}
	obj, _, _ := types.LookupFieldOrMethod(owner.Type(), true, pkg, name)
	switch obj := obj.(type) {
	case *types.Var:
		if kind == "field" {
			var names []string
			if named, ok := types.Unalias(owner.Type()).(*types.Named); ok {
				names = typeParamNames(named.TypeParams())
			}
			return canonicalExpr(text(obj.Type()), names)
		}
	case *types.Func:
		if kind == "method" {
			return canonicalExpr(text(obj.Type()), typeParamNames(obj.Signature().RecvTypeParams()))
		}
	case nil:
		return "", fmt.Errorf("%s has no %s", owner.Name(), name)
	}
	return "", fmt.Errorf("%s.%s is another kind of thing: %s", owner.Name(), name, obj)
}

func typeParamNames(list *types.TypeParamList) (names []string) {
	for p := range list.TypeParams() {
		names = append(names, p.Obj().Name())
	}
	return names
}

func fieldNames(list *ast.FieldList) (names []string) {
	if list == nil {
		return nil
	}
	for _, field := range list.List {
		for _, name := range field.Names {
			names = append(names, name.Name)
		}
	}
	return names
}

// renderTypeParams renders the constraint of each type parameter.
func renderTypeParams(list *ast.FieldList, names []string) string {
	if list == nil {
		return ""
	}
	var constraints []string
	for _, field := range list.List {
		text := render(canonicalize(field.Type, names))
		for range field.Names {
			constraints = append(constraints, text)
		}
	}
	return "[" + strings.Join(constraints, ", ") + "]"
}

// canonicalExpr renders the type that src spells, with the type parameters of that names by their
// position.
func canonicalExpr(src string, typeParams []string) (string, error) {
	expr, err := parser.ParseExpr(strings.TrimSpace(src))
	if err != nil {
		return "", err
	}
	return render(canonicalize(expr, typeParams)), nil
}

func render(expr ast.Expr) string {
	var b bytes.Buffer
	if err := printer.Fprint(&b, token.NewFileSet(), expr); err != nil {
		return err.Error()
	}
	return strings.Join(strings.Fields(b.String()), " ")
}

// canonicalize changes a type expression in place to the one way to write it.
func canonicalize(expr ast.Expr, typeParams []string) ast.Expr {
	ast.Inspect(expr, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.FuncType:
			n.Params = unnamed(n.Params)
			n.Results = unnamed(n.Results)
		case *ast.InterfaceType:
			slices.SortStableFunc(n.Methods.List, func(a, b *ast.Field) int {
				return strings.Compare(sortKey(a), sortKey(b))
			})
		case *ast.SelectorExpr:
			return false // a name of another package
		case *ast.Ident:
			if i := slices.Index(typeParams, n.Name); i >= 0 {
				n.Name = fmt.Sprintf("P%d_", i)
			} else if n.Name == "any" {
				n.Name = "interface{}"
			}
		}
		return true
	})
	return expr
}

func sortKey(f *ast.Field) string {
	if len(f.Names) > 0 {
		return f.Names[0].Name
	}
	return render(f.Type)
}

// unnamed repeats the type of each field for each of its names, without the names.
func unnamed(list *ast.FieldList) *ast.FieldList {
	if list == nil {
		return nil
	}
	plain := &ast.FieldList{Opening: 1, Closing: 1}
	for _, f := range list.List {
		for range max(1, len(f.Names)) {
			plain.List = append(plain.List, &ast.Field{Type: f.Type})
		}
	}
	return plain
}
