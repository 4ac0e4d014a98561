package scale

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
)

// able says why processes cannot have network namespaces here.
func able() error {
	if os.Geteuid() != 0 {
		return errors.New("they need root")
	}
	n, err := newNetwork()
	if err != nil {
		return err
	}
	defer n.close()
	p, err := n.start("hub", io.Discard, io.Discard) // stands for a node
	if err != nil {
		return err
	}
	defer p.kill()
	return n.plug(p, 1)
}

// network joins the processes of a test. In a namespace of its own it has a bridge, to which each of
// them has a cable. The kernel removes all of it with the last process that is in it.
type network struct {
	format string // of addresses, by the number of a process
	hub    *process
}

const hubNumber = 254

func newNetwork() (*network, error) {
	n := &network{format: "198.18.0.%d", hub: new(process)} // an address that is set aside for tests of networks
	for _, tool := range []string{"ip", "nsenter"} {
		if _, err := exec.LookPath(tool); err != nil {
			return nil, fmt.Errorf("they need %s, which is not found", tool)
		}
	}
	var err error
	if n.hub, err = n.start("hub", io.Discard, io.Discard); err != nil {
		return nil, err
	}
	// The address is set because a bridge would otherwise take the lowest of its cables', which come and go.
	err = n.ip("link set lo up", "link add br0 address 02:00:00:00:00:fe type bridge", "addr add "+n.address(hubNumber)+"/24 dev br0", "link set br0 up")
	if err != nil {
		n.close()
		return nil, err
	}
	return n, nil
}

// newLoopback returns what takes the place of a network where that cannot be had: addresses of this
// machine, which other runs are unlikely to use.
func newLoopback() *network {
	return &network{format: fmt.Sprintf("127.%d.%d.%%d", 64+rand.IntN(64), rand.IntN(256))}
}

// joinProcesses returns a network that ends with the test.
func joinProcesses(t *testing.T) *network {
	t.Helper()
	if bare != nil {
		return newLoopback()
	}
	n, err := newNetwork()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(n.close)
	return n
}

func (n *network) close() {
	if n.hub != nil {
		n.hub.kill()
	}
}

func (n *network) address(number int) string { return fmt.Sprintf(n.format, number) }

// ip runs commands of ip(8) at the hub.
func (n *network) ip(commands ...string) error {
	cmd := n.command("ip", "-batch", "-")
	cmd.Stdin = strings.NewReader(strings.Join(commands, "\n") + "\n")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("ip %s: %w: %s", strings.Join(commands, "; "), err, out)
	}
	return nil
}

// command returns a command that runs at the hub.
func (n *network) command(name string, args ...string) *exec.Cmd {
	if n.hub == nil {
		return exec.Command(name, args...)
	}
	return exec.Command("nsenter", append([]string{"-t", fmt.Sprint(n.hub.cmd.Process.Pid), "-n", name}, args...)...)
}

// process is this program in another role. It ends when its input does, so also with the test.
type process struct {
	cmd    *exec.Cmd
	input  io.WriteCloser
	exited chan struct{}
}

// start starts a process, in a namespace without a cable.
func (n *network) start(role string, stdout, stderr io.Writer) (*process, error) {
	p := &process{cmd: exec.Command(os.Args[0]), exited: make(chan struct{})}
	p.cmd.Env = append(os.Environ(), roleVariable+"="+role)
	p.cmd.Stdout, p.cmd.Stderr = stdout, stderr
	if n.hub != nil {
		p.cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	}
	var err error
	if p.input, err = p.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		p.cmd.Wait()
		close(p.exited)
	}()
	return p, nil
}

// plug gives a process a cable to the bridge. It has to give its end, eth0, an address itself.
func (n *network) plug(p *process, number int) error {
	if n.hub == nil {
		return nil
	}
	return n.ip(fmt.Sprintf("link add v%d type veth peer name eth0 netns %d", number, p.cmd.Process.Pid),
		fmt.Sprintf("link set v%d master br0 up", number))
}

// end lets the process end by itself.
func (p *process) end() {
	p.input.Close()
	<-p.exited
}

func (p *process) kill() {
	p.cmd.Process.Kill()
	<-p.exited
}
