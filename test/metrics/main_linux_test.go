package metrics

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// rulesFile are the rules under test, and unitTests those of promtool.
const (
	rulesFile = "../../contrib/gridprom/rules.yaml"
	unitTests = "../../contrib/gridprom/rules_test.yaml"
)

func TestMain(m *testing.M) {
	if os.Getenv(nodeVariable) != "" {
		runNode()
		return
	}
	dir, err := os.MkdirTemp("", "grid-metrics-")
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fetch(dir)
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}

// programs are the paths of Prometheus's programs by name.
var programs = make(map[string]string)

// fetch finds the programs. Where they are not installed, it unpacks Debian's package in dir:
// installing it would start a server.
func fetch(dir string) {
	if found() || os.Geteuid() != 0 {
		return
	}
	for _, args := range [][]string{{"apt-get", "update", "-qq"}, {"apt-get", "download", "-qq", "prometheus"}} {
		cmd := exec.Command(args[0], args[1:]...)
		cmd.Dir = dir
		if out, err := cmd.CombinedOutput(); err != nil {
			fmt.Printf("%v: %v\n%s", args, err, out)
			return
		}
	}
	packages, err := filepath.Glob(filepath.Join(dir, "*.deb"))
	if err != nil || len(packages) != 1 {
		fmt.Println("no package was downloaded:", packages, err)
		return
	}
	if out, err := exec.Command("dpkg-deb", "-x", packages[0], dir).CombinedOutput(); err != nil {
		fmt.Printf("dpkg-deb: %v\n%s", err, out)
		return
	}
	os.Setenv("PATH", filepath.Join(dir, "usr/bin")+string(os.PathListSeparator)+os.Getenv("PATH"))
	found()
}

func found() bool {
	for _, name := range []string{"prometheus", "promtool"} {
		path, err := exec.LookPath(name)
		if err != nil {
			return false
		}
		programs[name] = path
	}
	return true
}

// program returns the path of one of Prometheus's programs. Without it, the test is skipped.
func program(t *testing.T, name string) string {
	t.Helper()
	path, ok := programs[name]
	if !ok {
		fmt.Printf("SKIPPED: %s is not there, and could not be fetched from Debian\n", name)
		t.Skip()
	}
	return path
}
