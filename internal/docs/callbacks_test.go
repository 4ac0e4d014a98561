package docs

import (
	"os"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"github.com/gridmesh/grid"
)

// The table of the application's code in docs/design.md has a row, with a test, for every function
// that the options and what hangs on them take. That the tests exist is looked at for all
// documents.
func TestEveryCallOfTheApplicationsCodeIsInTheTable(t *testing.T) {
	text, err := os.ReadFile("docs/design.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(text), "\n## The application's code\n")
	section, _, _ = strings.Cut(section, "\n## ")
	listed := make(map[string]bool)
	rows := 0
	for line := range strings.Lines(section) {
		cells := strings.Split(line, " | ")
		if !strings.HasPrefix(line, "| ") || len(cells) != 5 || cells[0] == "| Code" {
			continue
		}
		rows++
		if !regexp.MustCompile("`Test[A-Z]\\w+`").MatchString(cells[4]) {
			t.Errorf("no test: %s", line)
		}
		for _, name := range regexp.MustCompile("`(\\w+)`").FindAllStringSubmatch(cells[0], -1) {
			listed[name[1]] = true
		}
	}
	if rows < 10 {
		t.Fatalf("%d rows", rows)
	}
	for _, of := range []any{grid.ManagerOptions{}, grid.Interceptor{}, grid.StreamObserver{}} {
		for _, f := range reflect.VisibleFields(reflect.TypeOf(of)) {
			if f.Type.Kind() == reflect.Func && !listed[f.Name] {
				t.Errorf("%T.%s has no row", of, f.Name)
			}
		}
	}
	for _, name := range []string{"Logger", "TLSConfig", "TraceTo", "MarshalMsg", "UnmarshalMsg", "Msgsize", "Recycle", "GetByteBuffer", "PutByteBuffer"} {
		if !listed[name] {
			t.Errorf("%s has no row", name)
		}
	}
}
