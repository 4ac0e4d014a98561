package netns

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// namespace is a network namespace without a name. The kernel removes it, with its interfaces, once
// no thread, process or file is left in it: however this process ends, nothing of it stays.
type namespace struct {
	file *os.File    // by which other threads enter it
	jobs chan func() // for its own thread
}

// newNamespace makes a namespace, with its loopback interface up.
func newNamespace() (*namespace, error) {
	n := &namespace{jobs: make(chan func())}
	entered := make(chan error)
	go func() {
		runtime.LockOSThread() // for good: the thread ends with the goroutine
		err := n.unshare()
		entered <- err
		if err != nil {
			return
		}
		for job := range n.jobs {
			job()
		}
	}()
	if err := <-entered; err != nil {
		return nil, err
	}
	if err := n.ip("link set dev lo up"); err != nil {
		n.close()
		return nil, err
	}
	return n, nil
}

func (n *namespace) unshare() error {
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("new network namespace: %w", err)
	}
	var err error
	n.file, err = os.Open(fmt.Sprintf("/proc/self/task/%d/ns/net", unix.Gettid()))
	return err
}

// close ends the namespace's thread, and with it the processes that were started there.
func (n *namespace) close() {
	close(n.jobs)
	n.file.Close()
}

// run runs f on the namespace's own thread, which lives as long as the namespace.
func (n *namespace) run(f func() error) error {
	done := make(chan error)
	n.jobs <- func() { done <- f() }
	return <-done
}

// enter runs f on another thread in the namespace, where it may take its time. Sockets that it
// opens stay in the namespace.
func (n *namespace) enter(f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // for good, as this thread belongs nowhere else
		if err := unix.Setns(int(n.file.Fd()), unix.CLONE_NEWNET); err != nil {
			done <- fmt.Errorf("enter network namespace: %w", err)
			return
		}
		done <- f()
	}()
	return <-done
}

// start starts a process in the namespace. It dies with this one.
func (n *namespace) start(cmd *exec.Cmd) error {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = new(unix.SysProcAttr)
	}
	cmd.SysProcAttr.Pdeathsig = unix.SIGKILL // when the thread ends that has started it
	return n.run(cmd.Start)
}

// ip runs commands of ip(8).
func (n *namespace) ip(commands ...string) error {
	var out strings.Builder
	cmd := exec.Command("ip", "-batch", "-")
	cmd.Stdin = strings.NewReader(strings.Join(commands, "\n") + "\n")
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := n.start(cmd); err != nil {
		return err
	}
	if err := cmd.Wait(); err != nil {
		return fmt.Errorf("ip %s: %w: %s", strings.Join(commands, "; "), err, out.String())
	}
	return nil
}

// tap is the end of a cable outside of a namespace: what its interface sends is read here, and what
// is written here it receives.
type tap struct {
	file *os.File
	fd   int // of file, which must not become blocking
}

// newTap gives the namespace an interface.
func (n *namespace) newTap(name string) (*tap, error) {
	t := new(tap)
	err := n.enter(func() (err error) {
		t.fd, err = unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("/dev/net/tun: %w", err)
		}
		request, err := unix.NewIfreq(name)
		if err != nil {
			return err
		}
		request.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI)
		if err := unix.IoctlIfreq(t.fd, unix.TUNSETIFF, request); err != nil {
			unix.Close(t.fd)
			return fmt.Errorf("TAP device: %w", err)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	t.file = os.NewFile(uintptr(t.fd), name) // after TUNSETIFF: only then it can be polled
	return t, nil
}

// setCarrier tells the interface whether a cable is plugged in.
func (t *tap) setCarrier(on bool) error {
	value := 0
	if on {
		value = 1
	}
	return unix.IoctlSetPointerInt(t.fd, unix.TUNSETCARRIER, value)
}
