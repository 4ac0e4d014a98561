package link

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// namespaces are two network namespaces without names. The kernel removes them, with their
// interfaces, once no thread, process or file is left in them: nothing stays, however this process
// ends.
type namespaces struct {
	loopback
	jobs [2]chan func() // for a thread of each
}

// interfaceName is that of the interface in each namespace.
const interfaceName = "bench0"

// Host returns an address of those that are set aside for tests of networks.
func (n *namespaces) Host(side int) string { return fmt.Sprintf("198.18.0.%d", side+1) }

func openNamespaces() (*namespaces, error) {
	if os.Geteuid() != 0 {
		return nil, errors.New("needs root")
	}
	for _, tool := range []string{"ip", "tc"} {
		if _, err := exec.LookPath(tool); err != nil {
			return nil, fmt.Errorf("needs %s of iproute2: %w", tool, err)
		}
	}
	n := new(namespaces)
	for side := range n.jobs {
		n.jobs[side] = make(chan func())
		entered := make(chan error)
		go func() {
			runtime.LockOSThread() // for good: the thread ends with the goroutine
			err := unix.Unshare(unix.CLONE_NEWNET)
			entered <- err
			if err != nil {
				return
			}
			for job := range n.jobs[side] {
				job()
			}
		}()
		if err := <-entered; err != nil {
			return nil, fmt.Errorf("new network namespace: %w", err)
		}
	}
	for side := range n.jobs {
		if err := n.ip(side, "link set dev lo up"); err != nil {
			n.Close()
			return nil, err
		}
	}
	return n, nil
}

func (n *namespaces) Run(side int, f func() error) error {
	done := make(chan error)
	n.jobs[side] <- func() { done <- f() }
	return <-done
}

func (n *namespaces) Close() {
	for _, jobs := range n.jobs {
		close(jobs)
	}
}

// ip runs commands of ip(8) in the namespace of a side.
func (n *namespaces) ip(side int, commands ...string) error { return n.batch(side, "ip", commands...) }

// tc runs commands of tc(8) in the namespace of a side.
func (n *namespaces) tc(side int, commands ...string) error { return n.batch(side, "tc", commands...) }

func (n *namespaces) batch(side int, tool string, commands ...string) error {
	var out strings.Builder
	cmd := exec.Command(tool, "-batch", "-")
	cmd.Stdin = strings.NewReader(strings.Join(commands, "\n") + "\n")
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := n.Run(side, cmd.Start); err != nil {
		return err
	}
	if err := cmd.Wait(); err != nil {
		return fmt.Errorf("%s %s: %w: %s", tool, strings.Join(commands, "; "), err, out.String())
	}
	return nil
}

// address gives the interface of a side its address, and its routes CUBIC, which is what most
// systems have: the system's choice would be another one on each.
func (n *namespaces) address(side int) error {
	return n.ip(side,
		fmt.Sprintf("addr add %s/24 dev %s", n.Host(side), interfaceName),
		"link set dev "+interfaceName+" up",
		fmt.Sprintf("route replace 198.18.0.0/24 dev %s proto kernel scope link src %s congctl cubic", interfaceName, n.Host(side)))
}

// openKernel joins the namespaces by a pair of interfaces that send no faster than the rate. The
// sender's kernel knows what waits in its own interface, as with a network card.
func openKernel(s Spec) (Link, error) {
	n, err := openNamespaces()
	if err != nil {
		return nil, err
	}
	if err := n.join(s); err != nil {
		n.Close()
		return nil, err
	}
	return n, nil
}

func (n *namespaces) join(s Spec) error {
	var other int
	if err := n.Run(1, func() error { other = unix.Gettid(); return nil }); err != nil {
		return err
	}
	if err := n.ip(0, fmt.Sprintf("link add name %s type veth peer name %s netns %d", interfaceName, interfaceName, other)); err != nil {
		return err
	}
	for side := range n.jobs {
		if err := n.address(side); err != nil {
			return err
		}
		if s.Rate <= 0 {
			continue
		}
		// A packet is segmented in the network card, as with real ones, but takes little of its time.
		if err := n.ip(side, fmt.Sprintf("link set dev %s gso_max_size %d", interfaceName, kernelPacket)); err != nil {
			return err
		}
		if err := n.tc(side, fmt.Sprintf("qdisc add dev %s root tbf rate %.0fbit burst %d latency 50ms", interfaceName, s.Rate, kernelBurst)); err != nil {
			return err
		}
	}
	return nil
}

// Bytes that tbf lets through at once after a pause, and of the largest packet that it gets. With
// smaller ones, timers and segmentation take several times the CPU of what is measured.
const (
	kernelBurst  = 64 << 10
	kernelPacket = 16 << 10
)
