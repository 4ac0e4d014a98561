package netns

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gridmesh/grid"
	"github.com/gridmesh/grid/debugz"
	"github.com/gridmesh/grid/internal/workload"
	"golang.org/x/sys/unix"
)

// The members of each grid. The names are such that the victim dials some of the others and is
// dialed by some: of those that call it, and of those that are processes.
var (
	nodes   = []string{"a", victim, "c"} // processes of gridctl node
	callers = []string{"x", "y"}         // managers in this process, with sockets in their namespaces
	members = slices.Concat(nodes, callers)
)

// victim is the node that something happens to.
const victim = "b"

const (
	interfaceName = "eth0"
	gridPort      = "9000"
	statusAddress = "127.0.0.1:8080"
	secret        = "of-the-tests-in-network-namespaces"

	// patience bounds how long a test waits for something that must happen, and whose time is not
	// judged.
	patience = time.Minute
)

// The handlers of gridctl nodes; gridctl help node says their numbers.
const (
	handlerEcho   = grid.HandlerUserFirst
	handlerSource = grid.HandlerUserFirst + 2
	sourceWindow  = 32 // messages
)

// address is an IP address of a machine, of those that are set aside for tests of networks.
func address(n int) string { return fmt.Sprintf("198.18.0.%d", n) }

// hostName is the name of a machine, and gridName that of its node.
func hostName(name string) string { return name + ".grid.test" }
func gridName(name string) string { return "http://" + hostName(name) + ":" + gridPort }

// world is a grid and its network.
type world struct {
	t      *testing.T
	dir    string
	limits grid.Limits // PingInterval and PeerTimeout
	wire   *wire
	work   *workload.Workload // between callers

	mu        sync.Mutex          // Protects following.
	addresses map[string]string   // by name
	machines  map[string]*machine // by name
}

// machine is a computer with a cable, and the node that runs on it.
type machine struct {
	*namespace
	port *port

	// Of a node.
	cmd    *exec.Cmd
	exited chan struct{} // closed when the process has
	log    *os.File

	// Of a caller.
	manager *grid.Manager
	server  *http.Server
}

func newWorld(t *testing.T, limits grid.Limits) *world {
	w := &world{
		t: t, dir: filepath.Join(directory, t.Name()), limits: limits, wire: newWire(), work: newWork(t),
		addresses: make(map[string]string), machines: make(map[string]*machine),
	}
	must(t, os.MkdirAll(w.dir, 0o755))
	must(t, os.WriteFile(w.path("secret"), []byte(secret), 0o600))
	t.Cleanup(w.close)
	for i, name := range members {
		w.addresses[name] = address(i + 1)
	}
	w.writeHosts()
	for i, name := range members {
		w.powerOn(name, i+1)
	}
	for _, name := range nodes {
		w.startNode(name)
	}
	for _, name := range callers {
		w.startCaller(name)
	}
	return w
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (w *world) path(name string) string { return filepath.Join(w.dir, name) }

// close ends all nodes. Namespaces and cables end with them.
func (w *world) close() {
	for _, name := range members {
		m := w.machine(name)
		if m == nil {
			continue
		}
		if m.manager != nil {
			m.manager.Close()
			m.server.Close()
		}
		if m.cmd != nil {
			m.cmd.Process.Kill()
			<-m.exited
			m.log.Close()
		}
		m.namespace.close()
	}
	w.wire.close()
	if w.t.Failed() {
		for _, name := range members {
			b, _ := os.ReadFile(w.path(name + ".log"))
			w.t.Logf("the log of %s, its end:\n%s", name, b[max(0, len(b)-6000):])
		}
	}
}

// writeHosts writes what processes find as /etc/hosts.
func (w *world) writeHosts() {
	var b strings.Builder
	b.WriteString("127.0.0.1 localhost\n")
	for _, name := range members {
		fmt.Fprintln(&b, w.address(name), hostName(name))
	}
	must(w.t, os.WriteFile(w.path("hosts"), []byte(b.String()), 0o644)) // in place: it is mounted
}

func (w *world) address(name string) string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.addresses[name]
}

func (w *world) machine(name string) *machine {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.machines[name]
}

// powerOn starts a machine without a node, with the network card of a number.
func (w *world) powerOn(name string, card int) {
	w.t.Helper()
	n, err := newNamespace()
	must(w.t, err)
	m := &machine{namespace: n, port: &port{name: name, mac: mac{2, 0, 0, 0, 0, byte(card)}}}
	w.mu.Lock()
	w.machines[name] = m
	w.mu.Unlock()
	m.port.tap, err = n.newTap(interfaceName)
	must(w.t, err)
	w.wire.plug(m.port)
	must(w.t, n.ip(
		fmt.Sprintf("link set dev %s address %s", interfaceName, net.HardwareAddr(m.port.mac[:])),
		fmt.Sprintf("addr add %s/24 dev %s", w.address(name), interfaceName),
		fmt.Sprintf("link set dev %s up", interfaceName),
	))
}

// powerOff ends a machine, its TCP stack too, at once.
func (w *world) powerOff(name string) {
	m := w.machine(name)
	w.wire.unplug(m.port) // first, so that nothing gets out that its kernel says at the end of the process
	w.kill(name)
	m.log.Close()
	m.namespace.close()
}

// startNode starts a gridctl node on a machine.
func (w *world) startNode(name string) {
	w.t.Helper()
	m := w.machine(name)
	var err error
	m.log, err = os.OpenFile(w.path(name+".log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	must(w.t, err)
	var hosts []string
	for _, name := range members {
		hosts = append(hosts, gridName(name))
	}
	args := []string{
		"-c", `mount --bind "$0" /etc/hosts && exec "$@"`, w.path("hosts"), gridctl, "node",
		"-local", gridName(name), "-hosts", strings.Join(hosts, ","), "-secret-file", w.path("secret"), "-http", statusAddress,
	}
	if w.limits.PingInterval != 0 {
		args = append(args, "-ping-interval", w.limits.PingInterval.String(), "-peer-timeout", w.limits.PeerTimeout.String())
	}
	cmd := exec.Command("sh", args...)
	cmd.Env = append(os.Environ(), "GODEBUG=netdns=go") // it reads /etc/hosts on each machine that the tests run on
	cmd.Stdout, cmd.Stderr = m.log, m.log
	cmd.SysProcAttr = &unix.SysProcAttr{Unshareflags: unix.CLONE_NEWNS}
	must(w.t, m.start(cmd))
	m.cmd, m.exited = cmd, make(chan struct{})
	go func() {
		cmd.Wait()
		close(m.exited)
	}()
}

// kill ends a node's process with SIGKILL.
func (w *world) kill(name string) {
	m := w.machine(name)
	m.cmd.Process.Kill()
	<-m.exited
}

// signal sends a node's process a signal.
func (w *world) signal(name string, s os.Signal) {
	w.t.Helper()
	must(w.t, w.machine(name).cmd.Process.Signal(s))
}

// startCaller starts a node in this process, with sockets on a machine.
func (w *world) startCaller(name string) {
	w.t.Helper()
	m := w.machine(name)
	var listener net.Listener
	must(w.t, m.enter(func() (err error) {
		listener, err = net.Listen("tcp", ":"+gridPort)
		return err
	}))
	log, err := os.Create(w.path(name + ".log"))
	must(w.t, err)
	w.t.Cleanup(func() { log.Close() })
	var hosts []string
	for _, name := range members {
		hosts = append(hosts, gridName(name))
	}
	ready := make(chan struct{})
	m.manager, err = grid.NewManager(context.Background(), grid.ManagerOptions{
		Local: gridName(name),
		Hosts: hosts,
		AuthRequest: func(r *http.Request) error {
			if r.Header.Get("Authorization") != "Bearer "+secret {
				return errors.New("another secret")
			}
			return nil
		},
		AddAuth:      func(string) string { return secret },
		Dialer:       w.dialer(m),
		BlockConnect: ready,
		Logger:       slog.New(slog.NewTextHandler(log, nil)),
		Limits:       w.limits,
	})
	must(w.t, err)
	must(w.t, w.work.Register(slices.Index(callers, name), m.manager))
	must(w.t, m.manager.RegisterStreamingHandler(handlerSource, grid.StreamHandler{
		Handle: func(context.Context, []byte, <-chan []byte, chan<- []byte) *grid.RemoteErr {
			return grid.NewRemoteErrString("callers have no source")
		},
		OutCapacity: sourceWindow,
	}))
	mux := http.NewServeMux()
	mux.Handle(grid.RoutePath, m.manager.Handler())
	m.server = &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	go m.server.Serve(listener)
	close(ready)
}

// dialer dials from a machine.
func (w *world) dialer(m *machine) grid.ContextDialer {
	return func(ctx context.Context, network, to string) (conn net.Conn, err error) {
		host, port, err := net.SplitHostPort(to)
		if err != nil {
			return nil, err
		}
		if name, ok := strings.CutSuffix(host, hostName("")); ok {
			host = w.address(name) // now, as a resolver would
		}
		err = m.enter(func() (err error) {
			conn, err = new(net.Dialer).DialContext(ctx, network, net.JoinHostPort(host, port))
			return err
		})
		return conn, err
	}
}

// link is what one node says of its connection to another.
func (w *world) link(from, to string) (state grid.State, since time.Time, err error) {
	m := w.machine(from)
	if m.manager != nil {
		stats := m.manager.Connection(gridName(to)).Stats()
		return stats.State, stats.Since, nil
	}
	status, err := w.status(from)
	if err != nil {
		return 0, time.Time{}, err
	}
	for _, p := range status.Peers {
		if p.Remote == gridName(to) {
			return p.State, p.Since, nil
		}
	}
	return 0, time.Time{}, fmt.Errorf("the status page of %s has no %s", from, to)
}

// status asks the status page of a node, on its own machine.
func (w *world) status(name string) (*debugz.Status, error) {
	ctx, cancel := context.WithTimeout(w.t.Context(), patience)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+statusAddress+"/status.json", nil)
	if err != nil {
		return nil, err
	}
	transport := &http.Transport{DialContext: w.dialer(w.machine(name)), DisableKeepAlives: true}
	resp, err := transport.RoundTrip(request)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	status := new(debugz.Status)
	return status, json.NewDecoder(resp.Body).Decode(status)
}

// waitFor waits for a condition, and ends the test where it does not come. what says what is waited
// for.
func (w *world) waitFor(what string, condition func() bool) {
	w.t.Helper()
	for end := time.Now().Add(patience); !condition(); time.Sleep(pollPause) {
		if time.Now().After(end) {
			w.t.Fatalf("waited %v for %s", patience, what)
		}
	}
}

// pollPause is how long waitFor waits between two looks.
const pollPause = 5 * time.Millisecond

// waitForAll waits until all members are connected to all others, as each of them sees it.
func (w *world) waitForAll() {
	w.t.Helper()
	for _, from := range members {
		for _, to := range members {
			if from == to {
				continue
			}
			w.waitFor(from+" to be connected to "+to, func() bool {
				state, _, err := w.link(from, to)
				return err == nil && state == grid.StateConnected
			})
		}
	}
}

// stopNodes ends the nodes in good order.
func (w *world) stopNodes() {
	w.t.Helper()
	for _, name := range nodes {
		w.signal(name, unix.SIGTERM)
	}
	for _, name := range nodes {
		m := w.machine(name)
		select {
		case <-m.exited:
		case <-time.After(patience):
			w.t.Fatalf("%s runs %v after SIGTERM", name, patience)
		}
		if !m.cmd.ProcessState.Success() {
			w.t.Errorf("%s has ended with: %v", name, m.cmd.ProcessState)
		}
	}
}
