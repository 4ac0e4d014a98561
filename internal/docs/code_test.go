package docs

import (
	"bytes"
	"errors"
	"fmt"
	"go/ast"
	"go/format"
	"go/parser"
	"go/token"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/gridmesh/grid"
)

// Every Go block of the documents is formatted and compiles, and go vet has nothing to say. They
// are checked in a module that uses this one as others do, without a network.
//
// A block is a whole program, or declarations, or statements of a function
// with the parameters of fragmentHead.
func TestDocumentsCompile(t *testing.T) {
	repo, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	blocks := documentBlocks(t)
	if len(blocks) == 0 {
		t.Fatal("no Go block found")
	}
	dir := t.TempDir()
	writeModule(t, dir, repo)
	for i, b := range blocks {
		src, err := b.source()
		if err != nil {
			t.Errorf("%s:%d: %v", b.file, b.line, err)
			continue
		}
		pkg := filepath.Join(dir, fmt.Sprintf("block%d", i))
		if err := os.Mkdir(pkg, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(pkg, "block.go"), src, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command(goCommand(t), "vet", "-mod=mod", "./...")
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GOWORK=off", "GOPROXY=off", "GOFLAGS=-buildvcs=false")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("go vet: %v\n%s", err, out)
	}
}

// The server in the README is the package's Example, and short.
func TestServerOfReadmeIsExample(t *testing.T) {
	var program *block
	for _, b := range documentBlocks(t) {
		if b.file == "README.md" && strings.HasPrefix(b.text, "package main") {
			program = &b
			break
		}
	}
	if program == nil {
		t.Fatal("README.md has no complete program")
	}
	if lines := strings.Count(program.text, "\n"); lines >= 40 {
		t.Errorf("the program has %d lines, want under 40", lines)
	}
	example, err := os.ReadFile("example_test.go")
	if err != nil {
		t.Fatal(err)
	}
	got, want := funcBody(t, program.text, "main"), funcBody(t, string(example), "Example")
	if got != want {
		t.Errorf("main in README.md:\n%s\nExample in example_test.go:\n%s", got, want)
	}
}

// The guide names every option.
func TestGuideNamesOptions(t *testing.T) {
	guide, err := os.ReadFile(filepath.Join("docs", "guide.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, options := range []reflect.Type{reflect.TypeFor[grid.ManagerOptions](), reflect.TypeFor[grid.Limits]()} {
		for _, field := range reflect.VisibleFields(options) {
			if field.IsExported() && !bytes.Contains(guide, []byte("\n| `"+field.Name+"` |")) {
				t.Errorf("no table row for %s.%s", options.Name(), field.Name)
			}
		}
	}
}

// block is one Go block of a Markdown file.
type block struct {
	file string
	line int // of its first line
	text string
}

// documentBlocks returns the Go blocks of the documents at the root and in docs.
func documentBlocks(t *testing.T) (blocks []block) {
	t.Helper()
	for _, file := range markdownFiles(t) {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		blocks = append(blocks, goBlocks(file, string(text))...)
	}
	return blocks
}

// goBlocks returns what stands between "```go" and "```".
func goBlocks(file, text string) (blocks []block) {
	inside := false
	n := 0
	for line := range strings.Lines(text) {
		n++
		fence := strings.TrimSpace(line)
		switch {
		case !inside && (fence == "```go" || strings.HasPrefix(fence, "```go ")):
			inside = true
			blocks = append(blocks, block{file: file, line: n + 1})
		case inside && fence == "```":
			inside = false
		case inside:
			blocks[len(blocks)-1].text += line
		}
	}
	return blocks
}

// What the statements of a block may use.
const (
	fragmentHead = "func fragment(ctx context.Context, m *grid.Manager, conn *grid.Connection) error {"
	fragmentTail = "\nreturn nil }"
)

// source makes a file of a block. Its errors are reported with the lines of the document.
func (b *block) source() ([]byte, error) {
	formatted, err := format.Source([]byte(b.text))
	if err != nil {
		return nil, err
	}
	if string(formatted) != b.text {
		return nil, errors.New("not formatted with gofmt")
	}
	line := fmt.Sprintf("//line %s:%d\n", b.file, b.line)
	if strings.HasPrefix(b.text, "package ") {
		return []byte(line + b.text), nil
	}
	body := line + b.text
	if _, err := parser.ParseFile(token.NewFileSet(), "", "package block\n"+body, 0); err != nil {
		body = fragmentHead + "\n" + body
		if !endsWithReturn(body + "\n}") {
			body += fragmentTail
		} else {
			body += "\n}"
		}
	}
	imports, err := importsOf("package block\n" + body)
	if err != nil {
		return nil, err
	}
	return []byte("package block\n" + imports + body), nil
}

// endsWithReturn reports whether the last statement of the last function is a return.
func endsWithReturn(decls string) bool {
	file, err := parser.ParseFile(token.NewFileSet(), "", "package block\n"+decls, 0)
	if err != nil || len(file.Decls) == 0 {
		return false
	}
	f, ok := file.Decls[len(file.Decls)-1].(*ast.FuncDecl)
	if !ok || len(f.Body.List) == 0 {
		return false
	}
	_, ok = f.Body.List[len(f.Body.List)-1].(*ast.ReturnStmt)
	return ok
}

// importsOf returns the import declarations for the packages that a file without any uses.
func importsOf(src string) (string, error) {
	file, err := parser.ParseFile(token.NewFileSet(), "", src, 0)
	if err != nil {
		return "", err
	}
	var paths []string
	ast.Inspect(file, func(n ast.Node) bool {
		if s, ok := n.(*ast.SelectorExpr); ok {
			if x, ok := s.X.(*ast.Ident); ok && fragmentImports[x.Name] != "" {
				paths = append(paths, fragmentImports[x.Name])
			}
		}
		return true
	})
	slices.Sort(paths)
	var b strings.Builder
	for _, path := range slices.Compact(paths) {
		fmt.Fprintf(&b, "import %q\n", path)
	}
	return b.String(), nil
}

// fragmentImports are the packages that a block without imports may use.
var fragmentImports = map[string]string{
	"bytes":     "bytes",
	"context":   "context",
	"errors":    "errors",
	"fmt":       "fmt",
	"debugz":    "github.com/gridmesh/grid/debugz",
	"discovery": "github.com/gridmesh/grid/discovery",
	"grid":      "github.com/gridmesh/grid",
	"http":      "net/http",
	"iter":      "iter",
	"log":       "log",
	"os":        "os",
	"pubsub":    "github.com/gridmesh/grid/pubsub",
	"slog":      "log/slog",
	"slices":    "slices",
	"strings":   "strings",
	"sync":      "sync",
	"testing":   "testing",
	"time":      "time",
	"tls":       "crypto/tls",
	"x509":      "crypto/x509",
}

// writeModule makes dir a module that uses the one in repo, with the same dependencies.
func writeModule(t *testing.T, dir, repo string) {
	t.Helper()
	mod, err := os.ReadFile("go.mod")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, ok := strings.Cut(string(mod), "module github.com/gridmesh/grid\n")
	if !ok {
		t.Fatal("go.mod does not start with the module's name")
	}
	rest += "\nrequire github.com/gridmesh/grid v0.0.0\n" +
		fmt.Sprintf("replace github.com/gridmesh/grid => %q\n", repo)
	if err := os.WriteFile(filepath.Join(dir, "go.mod"), []byte("module documents\n"+rest), 0o644); err != nil {
		t.Fatal(err)
	}
	sum, err := os.ReadFile("go.sum")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "go.sum"), sum, 0o644); err != nil {
		t.Fatal(err)
	}
}

// goCommand returns the go command of the toolchain that runs the test.
func goCommand(t *testing.T) string {
	t.Helper()
	path, err := exec.LookPath("go")
	if err != nil {
		t.Skip("no go command: ", err)
	}
	return path
}

// funcBody returns the formatted body of a function.
func funcBody(t *testing.T, src, name string) string {
	t.Helper()
	fset := token.NewFileSet()
	file, err := parser.ParseFile(fset, "", src, parser.ParseComments)
	if err != nil {
		t.Fatal(err)
	}
	for _, decl := range file.Decls {
		f, ok := decl.(*ast.FuncDecl)
		if !ok || f.Name.Name != name || f.Recv != nil {
			continue
		}
		text := src[fset.Position(f.Body.Lbrace).Offset:fset.Position(f.Body.Rbrace).Offset]
		formatted, err := format.Source([]byte("package p\nfunc f() " + text + "}\n"))
		if err != nil {
			t.Fatal(err)
		}
		return string(formatted)
	}
	t.Fatalf("no function %s", name)
	return ""
}
