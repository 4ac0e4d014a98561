package wireshark

import (
	"fmt"
	"os"
	"os/exec"
	"testing"
)

func TestMain(m *testing.M) {
	install()
	if _, err := exec.LookPath("tshark"); err != nil {
		fmt.Println("SKIPPED: no tshark, and it cannot be installed")
		return
	}
	os.Exit(m.Run())
}

// install installs the Debian package of tshark if it is not there.
func install() {
	if _, err := exec.LookPath("tshark"); err == nil {
		return
	}
	if _, err := exec.LookPath("apt-get"); err != nil || os.Geteuid() != 0 {
		return
	}
	for _, args := range [][]string{{"update", "-qq"}, {"install", "-y", "-qq", "--no-install-recommends", "tshark"}} {
		cmd := exec.Command("apt-get", args...)
		cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
		if out, err := cmd.CombinedOutput(); err != nil {
			fmt.Printf("apt-get %v: %v\n%s", args, err, out)
			return
		}
	}
}
