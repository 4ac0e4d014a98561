package scale

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"sync"
	"time"

	"github.com/gridmesh/grid"
	"github.com/gridmesh/grid/contrib/gridmemberlist"
	"github.com/gridmesh/grid/discovery"
	"github.com/hashicorp/memberlist"
)

// What all nodes have in common.
const (
	gridPort   = 9000
	gossipPort = 7946

	settle = 50 * time.Millisecond
	hold   = time.Second
	grace  = 2 * time.Second

	askEvery  = 100 * time.Millisecond // DNS
	callEvery = 20 * time.Millisecond  // each of the others
	tellEvery = 200 * time.Millisecond // how many calls were made
	callTime  = 30 * time.Second       // of a call, which nobody reaches
)

const (
	handlerEcho = grid.HandlerUserFirst + iota
	handlerStay
)

// nodeConfig is the first line of a node's input. When the next one comes, the node leaves its
// source. With the end of the input it ends.
type nodeConfig struct {
	Address string
	Cable   bool     // it has one
	DNS     string   // address of the server; empty for gossip
	Join    []string // for gossip
}

func nodeName(address string) string { return fmt.Sprintf("http://%s:%d", address, gridPort) }

// report is a line of a node's output.
type report struct {
	At   time.Time
	Kind kind
	Peer string        // that it is about
	Text string        // of an error
	Late time.Duration // the longest time that the node has not run although it should have

	Calls, Reconnects map[string]int64 // by peer, in all
}

type kind string

const (
	isUp      kind = "up"      // this node, and can be dialed
	isNamed   kind = "named"   // by the source
	isMissing kind = "missing" // in what the source says
	isCalled  kind = "called"  // and has answered, for the first time
	isRemoved kind = "removed" // from the hosts
	isCut     kind = "cut"     // the stream that never ends has ended
	hasFailed kind = "failed"  // a call; not if it was refused because the host was removed
	hasCalled kind = "counts"
)

// node is a process of the grid.
type node struct {
	*grid.Manager
	ctx context.Context

	mu    sync.Mutex // Protects following.
	out   *json.Encoder
	late  time.Duration
	calls map[string]int64
}

// runNode is the whole life of a node.
func runNode() {
	input := bufio.NewReader(os.Stdin)
	line, err := input.ReadBytes('\n')
	if err != nil {
		log.Fatal(err)
	}
	var c nodeConfig
	if err := json.Unmarshal(line, &c); err != nil {
		log.Fatal(err)
	}
	if c.Cable {
		if err := useCable(c.Address); err != nil {
			log.Fatal(err)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	n := &node{ctx: ctx, out: json.NewEncoder(os.Stdout), calls: make(map[string]int64)}
	if err := n.start(c); err != nil {
		log.Fatal(err)
	}
	found, leave := context.WithCancel(ctx)
	var following sync.WaitGroup
	following.Go(func() {
		r := discovery.Runner{Settle: settle, Hold: hold}
		r.Run(found, n.Manager, &toldOf{Source: n.source(c), n: n, names: make(map[string]bool)})
	})
	_, err = input.ReadBytes('\n')
	leave()
	following.Wait()
	if err == nil {
		_, _ = input.ReadBytes('\n')
	}
	n.tellCounts()
}

// useCable gives the process's end of its cable an address, and waits until the kernel lets packets
// through.
func useCable(address string) error {
	cmd := exec.Command("ip", "-batch", "-")
	cmd.Stdin = strings.NewReader("link set lo up\naddr add " + address + "/24 dev eth0\nlink set eth0 up\n")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("ip: %w: %s", err, out)
	}
	for {
		cable, err := net.InterfaceByName("eth0")
		if err != nil || cable.Flags&net.FlagRunning != 0 {
			return err
		}
		time.Sleep(time.Millisecond)
	}
}

// start starts the node: its server, what it measures, and its calls.
func (n *node) start(c nodeConfig) (err error) {
	n.Manager, err = grid.NewManager(n.ctx, grid.ManagerOptions{
		Local:        nodeName(c.Address),
		AuthRequest:  func(*http.Request) error { return nil },
		RemovalGrace: grace,
	})
	if err != nil {
		return err
	}
	err = errors.Join(
		n.RegisterSingleHandler(handlerEcho, func(b []byte) ([]byte, *grid.RemoteErr) { return b, nil }),
		n.RegisterStreamingHandler(handlerStay, grid.StreamHandler{
			Handle: func(ctx context.Context, _ []byte, _ <-chan []byte, _ chan<- []byte) *grid.RemoteErr {
				<-ctx.Done()
				return nil
			},
			OutCapacity: 1,
		}),
	)
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp", fmt.Sprintf("%s:%d", c.Address, gridPort))
	if err != nil {
		return err
	}
	routes := http.NewServeMux()
	routes.Handle(grid.RoutePath, n.Handler())
	go (&http.Server{Handler: routes, ReadHeaderTimeout: callTime}).Serve(l)
	n.tell(report{Kind: isUp, Peer: n.HostName()})
	go n.measure()
	go n.callAll()
	return nil
}

// source returns where the node finds the others.
func (n *node) source(c nodeConfig) discovery.Source {
	if c.DNS != "" {
		r := &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, c.DNS)
		}}
		source := discovery.DNSWith(r, fmt.Sprintf("http://%s.:%d", domain, gridPort))
		source.Every = askEvery
		return source
	}
	config := memberlist.DefaultLANConfig()
	config.BindAddr, config.AdvertiseAddr, config.BindPort, config.AdvertisePort = c.Address, c.Address, gossipPort, gossipPort
	// So that it does not take half a minute to miss the dead.
	config.ProbeInterval, config.ProbeTimeout, config.SuspicionMaxTimeoutMult = time.Second/2, 300*time.Millisecond, 2
	config.SecretKey = []byte("of-tests-of-grids-that-scale-32b")
	return &gridmemberlist.Source{Config: config, Local: n.HostName(), Join: c.Join}
}

// toldOf reports what a source says.
type toldOf struct {
	discovery.Source
	n     *node
	names map[string]bool
}

func (s *toldOf) Watch(ctx context.Context, found func(hosts []string)) error {
	return s.Source.Watch(ctx, func(hosts []string) {
		gone := maps.Clone(s.names)
		for _, host := range hosts {
			delete(gone, host)
			if !s.names[host] {
				s.names[host] = true
				s.n.tell(report{Kind: isNamed, Peer: host})
			}
		}
		for host := range gone {
			delete(s.names, host)
			s.n.tell(report{Kind: isMissing, Peer: host})
		}
		found(hosts)
	})
}

// tell writes a report.
func (n *node) tell(r report) {
	n.mu.Lock()
	defer n.mu.Unlock()
	r.At, r.Late = time.Now(), n.late
	if err := n.out.Encode(r); err != nil {
		log.Fatal(err)
	}
}

// tellCounts reports what has been counted.
func (n *node) tellCounts() {
	r := report{Kind: hasCalled, Reconnects: make(map[string]int64)}
	for _, p := range n.Stats().Peers {
		r.Reconnects[p.Remote] = p.Reconnects
	}
	n.mu.Lock()
	r.Calls = maps.Clone(n.calls)
	n.mu.Unlock()
	n.tell(r)
}

// measure reports counts, and notes when this process has not run for a while.
func (n *node) measure() {
	const step = 10 * time.Millisecond
	last := time.Now()
	for told := last; ; time.Sleep(step) {
		now := time.Now()
		n.mu.Lock()
		n.late = max(n.late, now.Sub(last)-step)
		n.mu.Unlock()
		if now.Sub(told) >= tellEvery {
			told = now
			n.tellCounts()
		}
		last = now
	}
}

// callAll calls every host from when it is added.
func (n *node) callAll() {
	for e := range n.Events(n.ctx) {
		switch c := n.Connection(e.Peer); {
		case e.Kind == grid.EventAdded && c != nil:
			go n.call(c)
		case e.Kind == grid.EventRemoved:
			n.tell(report{Kind: isRemoved, Peer: e.Peer})
		}
	}
}

// call calls a host until it is removed.
func (n *node) call(c *grid.Connection) {
	if c.WaitForConnect(n.ctx) != nil {
		return // it was removed before
	}
	go n.stay(c)
	for i := 0; ; i++ {
		err := n.echo(c, fmt.Appendf(nil, "%s %d", n.HostName(), i))
		switch {
		case errors.Is(err, grid.ErrRemoved):
			return
		case err != nil:
			n.tell(report{Kind: hasFailed, Peer: c.Remote, Text: err.Error()})
		default:
			if n.counted(c.Remote) == 1 {
				n.tell(report{Kind: isCalled, Peer: c.Remote})
			}
		}
		time.Sleep(callEvery)
	}
}

func (n *node) counted(peer string) int64 {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.calls[peer]++
	return n.calls[peer]
}

func (n *node) echo(c *grid.Connection, payload []byte) error {
	ctx, cancel := context.WithTimeout(n.ctx, callTime)
	defer cancel()
	answer, err := c.Request(ctx, handlerEcho, payload)
	if err == nil && !bytes.Equal(answer, payload) {
		err = fmt.Errorf("sent %q, got back %q", payload, answer)
	}
	grid.PutByteBuffer(answer)
	return err
}

// stay opens a stream that ends only when the connection does.
func (n *node) stay(c *grid.Connection) {
	st, err := c.NewStream(n.ctx, handlerStay, nil)
	if err == nil {
		err = st.Results(func([]byte) error { return nil })
	}
	if err != nil {
		slog.Info("a stream has ended", "peer", c.Remote, "reason", err)
	}
	n.tell(report{Kind: isCut, Peer: c.Remote, Text: fmt.Sprint(err)})
}
