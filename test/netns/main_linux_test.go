package netns

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"
	"testing"
)

var (
	// reason is why the tests cannot run here; nil where they can.
	reason error
	// gridctl is the path of the program under test.
	gridctl string
	// directory is where files of the tests are.
	directory string
)

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	if reason = able(); reason != nil {
		fmt.Println("SKIPPED: the tests in network namespaces cannot run here:", reason)
		return m.Run()
	}
	var err error
	if directory, err = os.MkdirTemp("", "grid-netns-"); err != nil {
		fmt.Println(err)
		return 1
	}
	defer os.RemoveAll(directory)
	interrupted := make(chan os.Signal, 1)
	signal.Notify(interrupted, os.Interrupt, syscall.SIGTERM)
	go func() {
		<-interrupted // what the kernel does not remove
		os.RemoveAll(directory)
		os.Exit(130)
	}()
	gridctl = filepath.Join(directory, "gridctl")
	build := exec.Command("go", "build", "-o", gridctl, ".")
	build.Dir = filepath.Join("..", "..", "cmd", "gridctl")
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Printf("go build: %v\n%s", err, out)
		return 1
	}
	code := m.Run()
	printResults(os.Stdout)
	return code
}

// able says why the tests cannot run here.
func able() error {
	if os.Geteuid() != 0 {
		return errors.New("they need root")
	}
	for _, tool := range []string{"ip", "mount", "sh"} {
		if _, err := exec.LookPath(tool); err != nil {
			return fmt.Errorf("they need %s, which is not found", tool)
		}
	}
	n, err := newNamespace()
	if err != nil {
		return err
	}
	defer n.close()
	t, err := n.newTap(interfaceName)
	if err != nil {
		return err
	}
	defer t.file.Close()
	return n.ip("addr add " + address(1) + "/24 dev " + interfaceName)
}
