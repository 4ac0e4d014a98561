package docs

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// The commands in docs/security.md that repeat an attack run tests that there are: each part of a
// pattern names one.
func TestSecurityNamesTestsThatThereAre(t *testing.T) {
	text, err := os.ReadFile("docs/security.md")
	if err != nil {
		t.Fatal(err)
	}
	commands := regexp.MustCompile("`go test (?:-C (\\S+) )?-run '?([^' ]+)'? ([^`]+)`").FindAllStringSubmatch(string(text), -1)
	if len(commands) < 10 {
		t.Fatalf("only %d commands found", len(commands))
	}
	declared := regexp.MustCompile(`(?m)^func (Test\w+)\(`)
	for _, command := range commands {
		var names []string
		for dir := range strings.FieldsSeq(command[3]) {
			files, err := filepath.Glob(filepath.Join(command[1], dir, "*_test.go"))
			if err != nil {
				t.Fatal(err)
			}
			for _, file := range files {
				b, err := os.ReadFile(file)
				if err != nil {
					t.Fatal(err)
				}
				for _, m := range declared.FindAllStringSubmatch(string(b), -1) {
					names = append(names, m[1])
				}
			}
		}
		for part := range strings.SplitSeq(command[2], `\|`) { // as a table of Markdown has it
			if !strings.Contains(strings.Join(names, " "), part) {
				t.Errorf("%s: no test has %s in its name", command[0], part)
			}
		}
	}
}
