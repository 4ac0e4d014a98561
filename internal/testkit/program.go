package testkit

import (
	"fmt"
	"os"
	"os/exec"
	"testing"
)

// Install installs a Debian package whose program is not there, where that is possible.
func Install(program, pkg string) {
	for _, name := range []string{program, "/usr/sbin/" + program} {
		if _, err := exec.LookPath(name); err == nil {
			return
		}
	}
	if _, err := exec.LookPath("apt-get"); err != nil || os.Geteuid() != 0 {
		return
	}
	for _, args := range [][]string{{"update", "-qq"}, {"install", "-y", "-qq", "--no-install-recommends", pkg}} {
		cmd := exec.Command("apt-get", args...)
		cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
		if out, err := cmd.CombinedOutput(); err != nil {
			fmt.Printf("apt-get %v: %v\n%s", args, err, out)
			return
		}
	}
}

// Program returns the path of a program. Without it, the test is skipped, and says so in a line
// that CI finds. pkg is the package of Debian that has it.
func Program(t *testing.T, name, pkg string) string {
	t.Helper()
	for _, name := range []string{name, "/usr/sbin/" + name} { // which only root has in its PATH
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	fmt.Printf("SKIPPED: %s is not there; Debian's package %s has it\n", name, pkg)
	t.Skip()
	return ""
}
