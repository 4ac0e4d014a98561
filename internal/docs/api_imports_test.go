package docs

import (
	"go/parser"
	"go/token"
	"maps"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// testOnly has packages that a program should get only where it asks for them, as they register
// flags or are for tests, and who imports them all the same: a package, or a file of the library.
var testOnly = map[string][]string{
	"flag": {
		"github.com/klauspost/cpuid/v2", // Its Flags registers some, and is never called. It comes with xxh3.
		"net/http/httptest",
	},
	"net/http/httptest": {"testgrid.go"}, // TestGrid.Servers is of its type.
	"testing":           {},
}

func TestProgramsGetNoTestPackages(t *testing.T) {
	// One line for each package: its name, and what it imports.
	out, err := exec.Command(goCommand(t), "list", "-deps", "-f", "{{.ImportPath}} {{join .Imports \" \"}}", ".", "./pubsub", "./debugz", "./discovery").Output()
	if err != nil {
		t.Fatal(err)
	}
	imports := make(map[string][]string)
	for line := range strings.Lines(string(out)) {
		names := strings.Fields(line)
		imports[names[0]] = names[1:]
	}
	if imports["net/http"] == nil {
		t.Fatalf("go list knows %d packages, and not net/http", len(imports))
	}
	delete(imports, "github.com/gridmesh/grid")
	maps.Copy(imports, importsOfFiles(t))

	for pkg, excused := range testOnly {
		for importer, imported := range imports {
			if slices.Contains(imported, pkg) && !slices.Contains(excused, importer) {
				t.Errorf("%s imports %s, which every program that uses the grid has then", importer, pkg)
			}
		}
	}
}

// importsOfFiles returns what each file of the library imports.
func importsOfFiles(t *testing.T) map[string][]string {
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	imports := make(map[string][]string)
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		src, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ImportsOnly)
		if err != nil {
			t.Fatal(err)
		}
		for _, spec := range src.Imports {
			imports[file] = append(imports[file], strings.Trim(spec.Path.Value, `"`))
		}
	}
	return imports
}
