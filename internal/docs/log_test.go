package docs

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// docs/operations.md has a table row for each line that the library logs, with
// its level and its attributes, and for no other.
func TestOperationsNamesEveryLogLine(t *testing.T) {
	text, err := os.ReadFile("docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	rows := make(map[string]string)
	for _, row := range regexp.MustCompile("(?m)^\\| `(grid: [^`]*)` \\|.*$").FindAllStringSubmatch(string(text), -1) {
		rows[row[1]] = row[0]
	}
	lines := logLinesOf(t)
	if len(lines) < 9 {
		t.Fatalf("only %d log lines found in the code", len(lines))
	}
	for message, line := range lines {
		row, ok := rows[message]
		if !ok {
			t.Errorf("%v: docs/operations.md has no row for %q", line.pos, message)
			continue
		}
		delete(rows, message)
		if !strings.Contains(row, "| "+line.level+" |") {
			t.Errorf("%v: the row for %q does not have the level %s", line.pos, message, line.level)
		}
		for _, key := range line.keys {
			if !strings.Contains(row, "`"+key+"`") {
				t.Errorf("%v: the row for %q does not have the attribute %s", line.pos, message, key)
			}
		}
	}
	for _, message := range slices.Sorted(maps.Keys(rows)) {
		t.Errorf("docs/operations.md has a row for %q, which nothing logs", message)
	}
}

// logLine is a call that logs.
type logLine struct {
	pos   token.Position
	level string
	keys  []string
}

// logLinesOf returns the lines that the library logs, by message.
func logLinesOf(t *testing.T) map[string]logLine {
	t.Helper()
	var files []string
	for _, pattern := range []string{"*.go", "discovery/*.go"} {
		some, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, some...)
	}
	lines := make(map[string]logLine)
	fset := token.NewFileSet()
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(fset, name, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, decl := range file.Decls {
			// A method warn passes on what it is given; its callers have the message.
			if f, ok := decl.(*ast.FuncDecl); ok && f.Name.Name == "warn" {
				continue
			}
			ast.Inspect(decl, func(n ast.Node) bool {
				call, ok := n.(*ast.CallExpr)
				if !ok {
					return true
				}
				message, line, ok, err := parseLogLine(call)
				if err != nil {
					t.Errorf("%v: %v", fset.Position(call.Pos()), err)
				} else if ok {
					line.pos = fset.Position(call.Pos())
					lines[message] = line
				}
				return true
			})
		}
	}
	return lines
}

// logMethods are those that log, with their levels and the place of the message in their arguments.
var logMethods = map[string]struct {
	level   string
	message int
}{
	"Debug": {"Debug", 0}, "DebugContext": {"Debug", 1},
	"Info": {"Info", 0}, "InfoContext": {"Info", 1},
	"Warn": {"Warn", 0}, "WarnContext": {"Warn", 1},
	"Error": {"Error", 0}, "ErrorContext": {"Error", 1},
	"warn": {"Warn", 1}, // (*logLimit).warn(log, message, ...)
}

// parseLogLine takes a call apart. ok is false for calls that do not log.
func parseLogLine(call *ast.CallExpr) (message string, line logLine, ok bool, err error) {
	method, isMethod := call.Fun.(*ast.SelectorExpr)
	if !isMethod {
		return "", line, false, nil
	}
	how, logs := logMethods[method.Sel.Name]
	pkg, _ := method.X.(*ast.Ident)
	if !logs || len(call.Args) == 0 || pkg != nil && pkg.Name == "http" { // err.Error(), http.Error(...)
		return "", line, false, nil
	}
	if len(call.Args) <= how.message {
		return "", line, false, fmt.Errorf("%s without a message", method.Sel.Name)
	}
	message, ok = stringLiteral(call.Args[how.message])
	if !ok {
		return "", line, false, fmt.Errorf("the message of %s is no string literal", method.Sel.Name)
	}
	line.level = how.level
	for i := how.message + 1; i < len(call.Args); i += 2 {
		key, ok := stringLiteral(call.Args[i])
		if !ok {
			return "", line, false, fmt.Errorf("a key of %q is no string literal", message)
		}
		line.keys = append(line.keys, key)
	}
	return message, line, true, nil
}

func stringLiteral(e ast.Expr) (string, bool) {
	lit, ok := e.(*ast.BasicLit)
	if !ok || lit.Kind != token.STRING {
		return "", false
	}
	s, err := strconv.Unquote(lit.Value)
	return s, err == nil
}
