package docs

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// The table of modules in CONTRIBUTING.md has each of them, and no other.
func TestContributingListsTheModules(t *testing.T) {
	text, err := os.ReadFile("CONTRIBUTING.md")
	if err != nil {
		t.Fatal(err)
	}
	_, table, _ := strings.Cut(string(text), "| Module | Content | Needs |")
	table, _, _ = strings.Cut(table, "\n\n")
	var listed []string
	for _, row := range regexp.MustCompile("(?m)^\\| `([^`]+)` \\|").FindAllStringSubmatch(table, -1) {
		listed = append(listed, row[1])
	}
	slices.Sort(listed)
	if there := modules(t); !slices.Equal(listed, there) {
		t.Errorf("CONTRIBUTING.md lists the modules\n%q, and there are\n%q", listed, there)
	}
}

// A module has the path of its folder and the Go version of the library, and where it is a package for others, that
// one has the folder's name: who imports it need not guess.
func TestModulesAreWhatTheirFolderSays(t *testing.T) {
	for _, dir := range modules(t) {
		text, err := os.ReadFile(filepath.Join(dir, "go.mod"))
		if err != nil {
			t.Fatal(err)
		}
		if want := "module github.com/gridmesh/grid/" + dir + "\n"; !strings.HasPrefix(string(text), want) {
			t.Errorf("%s/go.mod does not start with %q", dir, want)
		}
		if !strings.Contains(string(text), "\ngo 1.26.") {
			t.Errorf("%s/go.mod is not for Go 1.26", dir)
		}
		name, ours := strings.CutPrefix(dir, "contrib/")
		if !ours {
			continue
		}
		files, err := filepath.Glob(filepath.Join(dir, "*.go"))
		if err != nil || len(files) == 0 {
			t.Fatalf("%s has %d Go files: %v", dir, len(files), err)
		}
		for _, file := range files {
			src, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if !regexp.MustCompile(`(?m)^package ` + name + `(_test)?$`).Match(src) {
				t.Errorf("%s is not of package %s", file, name)
			}
		}
	}
}

// modules returns the folders with a go.mod, but for the root, sorted.
func modules(t *testing.T) (dirs []string) {
	t.Helper()
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.Name() == "go.mod" && path != "go.mod" {
			dirs = append(dirs, filepath.ToSlash(filepath.Dir(path)))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(dirs)
	return dirs
}
