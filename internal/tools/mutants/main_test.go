package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestWhatCanBePlanted(t *testing.T) {
	dir := t.TempDir() // where the shed can be a module of its own
	if err := os.CopyFS(dir, os.DirFS("testdata/shed")); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "go.mod"), []byte("module shed\n\ngo 1.26.0\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	m, err := load(dir)
	if err != nil {
		t.Fatal(err)
	}
	const open = `func Open(key string) bool { return strings.HasPrefix(key, "k") }`
	// replace returns a patch of a line of shed.go.
	replace := func(test, old, by string) string {
		return "A bug.\nCaught by: " + test + "\n\n--- a/shed.go\n+++ b/shed.go\n@@ -6,2 +6,2 @@\n // Open opens the door.\n-" + old + "\n+" + by + "\n"
	}
	for _, c := range []struct{ name, patch, want string }{
		{"fits", replace("TestOpen in .", open, strings.ReplaceAll(open, `"k"`, `""`)), ""},
		{"is caught elsewhere", replace("TestTake in ./tools", open, strings.ReplaceAll(open, `"k"`, `"x"`)), ""},
		{"is of other code", replace("TestOpen in .", "func Open() {}", open), "does not apply"},
		{"is wrong", replace("TestOpen in .", open, "func Open(key string) bool { return key }"), "cannot use key"},
		{"uses nothing of an import", replace("TestOpen in .", open, "func Open(key string) bool { return true }"), `"strings" imported and not used`},
		{"does not fit the test", replace("TestOpen in .", open, strings.ReplaceAll(open, "key string", "key string, _ int")), "shed_test.go:6:"},
		{"does not fit who uses it", replace("TestTake in ./tools", open, strings.ReplaceAll(open, "key string", "key string, _ int")), "tools.go:7:"},
		{"has no test", replace("TestShut in .", open, strings.ReplaceAll(open, `"k"`, `""`)), "NO TestShut in shed"},
		{"has no package", replace("TestOpen in ./none", open, strings.ReplaceAll(open, `"k"`, `""`)), "no package shed/none"},
		{"changes what is not there", "--- a/none.go\n+++ b/none.go\n@@ -1 +1 @@\n-a\n+b\n", "none.go, which is in no package"},
		{"changes nothing", "Caught by: TestOpen in .\n", "changes no file"},
	} {
		t.Run(c.name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "bug.patch")
			if err := os.WriteFile(file, []byte(c.patch), 0o600); err != nil {
				t.Fatal(err)
			}
			r := m.plant(file)
			if c.want == "" && r.err != nil || c.want != "" && (r.err == nil || !strings.Contains(r.err.Error(), c.want)) {
				t.Errorf("%v, want %q", r.err, c.want)
			}
		})
	}
}
