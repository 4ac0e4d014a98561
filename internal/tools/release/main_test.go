package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// repository is a small one with a library, a module that uses it, and a tool that uses both.
var repository = map[string]string{
	"CHANGELOG.md": "# Changelog\n\n## [Unreleased]\n\n- Words.\n",
	"LICENSE":      "Do as you like.\n",
	"go.mod":       "module github.com/gridmesh/grid\n\ngo 1.26\n",
	"lib.go":       "package grid\n\nfunc Word() string { return \"word\" }\n",

	"contrib/more/go.mod":  "module github.com/gridmesh/grid/contrib/more\n\ngo 1.26\n\nrequire github.com/gridmesh/grid v0.0.0\n\nreplace github.com/gridmesh/grid => ../..\n",
	"contrib/more/more.go": "package more\n\nimport \"github.com/gridmesh/grid\"\n\nfunc Words() []string { return []string{grid.Word()} }\n",

	"cmd/tool/go.mod": "module github.com/gridmesh/grid/cmd/tool\n\ngo 1.26\n\nrequire (\n\tgithub.com/gridmesh/grid v0.0.0\n\tgithub.com/gridmesh/grid/contrib/more v0.0.0\n)\n\n" +
		"replace (\n\tgithub.com/gridmesh/grid => ../..\n\tgithub.com/gridmesh/grid/contrib/more => ../../contrib/more\n)\n",
	"cmd/tool/main.go": "package main\n\nimport (\n\t\"fmt\"\n\t\"runtime/debug\"\n\n\t\"github.com/gridmesh/grid\"\n\t\"github.com/gridmesh/grid/contrib/more\"\n)\n\n" +
		"func main() {\n\tinfo, _ := debug.ReadBuildInfo()\n\tfmt.Println(info.Main.Version, grid.Word(), more.Words())\n}\n",
}

func write(t *testing.T, dir string, files map[string]string) {
	t.Helper()
	for name, text := range files {
		name = filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func gitOutput(t *testing.T, args ...string) string {
	t.Helper()
	out, err := output(".", "git", args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func start(t *testing.T) {
	t.Chdir(t.TempDir())
	gitOutput(t, "init", "--quiet", "--initial-branch=main")
	gitOutput(t, "config", "user.name", "Tester")
	gitOutput(t, "config", "user.email", "tester@grid.example")
	write(t, ".", repository)
	commit(t)
}

func commit(t *testing.T) {
	t.Helper()
	gitOutput(t, "add", "--all")
	gitOutput(t, "commit", "--quiet", "-m", "Change something")
}

func TestAVersionIsMade(t *testing.T) {
	start(t)
	before := gitOutput(t, "rev-parse", "HEAD")
	if err := release("v0.1.0", true); err != nil {
		t.Fatal(err)
	}
	if gitOutput(t, "rev-parse", "HEAD") != before || gitOutput(t, "tag") != "" {
		t.Fatal("a check has changed something")
	}
	if err := release("v0.1.0", false); err != nil {
		t.Fatal(err)
	}
	if got, want := gitOutput(t, "tag"), "cmd/tool/v0.1.0\ncontrib/more/v0.1.0\nv0.1.0"; got != want {
		t.Errorf("tags %q, want %q", got, want)
	}
	if got := gitOutput(t, "show", "contrib/more/v0.1.0:contrib/more/go.mod"); !strings.Contains(got, "grid v0.1.0") {
		t.Errorf("contrib/more requires another version:\n%s", got)
	}
	if got := gitOutput(t, "show", "cmd/tool/v0.1.0:cmd/tool/go.mod"); strings.Contains(got, "replace") {
		t.Errorf("the tool cannot be installed:\n%s", got)
	}
	if got := gitOutput(t, "show", "HEAD:cmd/tool/go.mod"); !strings.Contains(got, "=> ../..") {
		t.Errorf("the tool is no longer built from the work tree:\n%s", got)
	}
	if got := gitOutput(t, "show", "HEAD:CHANGELOG.md"); !strings.Contains(got, "## [Unreleased]\n\n## [0.1.0] - 20") {
		t.Errorf("the changelog says:\n%s", got)
	}
	cache, err := output(".", "go", "env", "GOMODCACHE")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(cache, "github.com/gridmesh/grid@v0.1.0")); !os.IsNotExist(err) {
		t.Errorf("the module cache holds the version: %v", err)
	}
}

func TestWhatIsNotReleased(t *testing.T) {
	start(t)
	refused := func(version, why string) {
		t.Helper()
		if err := release(version, false); err == nil || !strings.Contains(err.Error(), why) {
			t.Errorf("release of %s: %v, want %q", version, err, why)
		}
	}
	for _, version := range []string{"", "0.1.0", "v0.1", "v0.1.0+x", "latest"} {
		refused(version, "is no version")
	}
	write(t, ".", map[string]string{"new.go": "package grid\n"})
	refused("v0.1.0", "not committed")
	commit(t)
	if err := release("v0.1.0", false); err != nil {
		t.Fatal(err)
	}
	refused("v0.1.0", "released already")
	refused("v0.1.1", "nothing under")
	write(t, ".", map[string]string{
		"CHANGELOG.md": "# Changelog\n\n## [Unreleased]\n\n- Letters.\n",
		"lib.go":       "package grid\n\nfunc Word() string { return \"word\" }\n\nfunc Letter() byte { return 0 }\n",
	})
	commit(t)
	if err := release("v0.1.1", true); err != nil {
		t.Errorf("something is added: %v", err)
	}
	write(t, ".", map[string]string{"contrib/more/more.go": "package more\n\nimport \"github.com/gridmesh/grid\"\n\nfunc Words() string { return grid.Word() }\n"})
	commit(t)
	refused("v0.1.1", "Words: changed")
	if err := release("v0.2.0", true); err != nil {
		t.Errorf("a minor version may break something: %v", err)
	}
	write(t, ".", map[string]string{"cmd/tool/main.go": "package main\n\nimport \"nowhere.example/nothing\"\n\nfunc main() { nothing.Do() }\n"})
	commit(t)
	refused("v0.2.0", "nowhere.example")
	if got := gitOutput(t, "tag"); strings.Contains(got, "v0.2.0") {
		t.Errorf("tags of a version that does not work: %s", got)
	}
}

func TestModulesFollowThoseTheyRequire(t *testing.T) {
	a, b, c := &module{path: "a", uses: []string{"b", "c"}}, &module{path: "b", uses: []string{"c"}}, &module{path: "c"}
	got, err := sorted([]*module{a, b, c})
	if err != nil || len(got) != 3 || got[0] != c || got[1] != b || got[2] != a {
		t.Errorf("%v, %v", got, err)
	}
	c.uses = []string{"a"}
	if _, err := sorted([]*module{a, b, c}); err == nil {
		t.Error("a circle has an order")
	}
}

// The go command takes what has a version for what it was when it first saw it.
func TestAVersionIsTriedAgain(t *testing.T) {
	start(t)
	if err := release("v0.9.0", true); err != nil {
		t.Fatal(err)
	}
	write(t, ".", map[string]string{
		"letter.go":            "package grid\n\nfunc Letter() string { return \"l\" }\n",
		"contrib/more/more.go": "package more\n\nimport \"github.com/gridmesh/grid\"\n\nfunc Words() []string { return []string{grid.Letter()} }\n",
	})
	commit(t)
	if err := release("v0.9.0", true); err != nil {
		t.Error(err)
	}
}
