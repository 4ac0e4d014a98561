package grid

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// saturatedEnv has the peer of a node in a process of its own, and its PeerTimeout where the test decides it.
const saturatedEnv = "GRID_TEST_SATURATED_NODE"

// TestSaturatedNode is a node with two cores whose handler computes. It ends with its standard input.
func TestSaturatedNode(t *testing.T) {
	peer, limit, _ := strings.Cut(os.Getenv(saturatedEnv), " ")
	if peer == "" {
		t.Skip("runs as a process of TestHandlersThatComputeLoseNoConnection")
	}
	runtime.GOMAXPROCS(2)
	work := computing(20 * time.Millisecond)
	patience, err := time.ParseDuration(limit)
	if err != nil {
		patience = 5 * turnOf(saturatedCallers, work)
	}
	fmt.Println(patience)
	c := &cluster{nodes: []*node{listenTCP(t, "127.0.0.1:0", "http://127.0.0.1"), {host: peer}}}
	c.startNode(t, c.nodes[0], func(o *ManagerOptions) { o.Limits = saturatedLimits(patience) })
	c.nodes = c.nodes[:1]
	c.handle(t, func(_ context.Context, b []byte) ([]byte, *RemoteErr) {
		return append(b, compute(work)), nil
	})
	fmt.Println("ready", c.nodes[0].host)
	io.Copy(io.Discard, os.Stdin)
	if n := c.nodes[0].Stats().Peers[0].Connects; n != 1 {
		fmt.Printf("%d sessions\n%s", n, c.nodes[0].log)
	}
}

const saturatedCallers = 100

// turnOf returns how long a goroutine waits for its turn beside many that compute.
func turnOf(many, work int) (turn time.Duration) {
	var all, ready sync.WaitGroup
	ready.Add(many)
	var done atomic.Bool
	for range many {
		all.Go(func() {
			computed.Add(uint64(compute(work)))
			ready.Done()
			for !done.Load() {
				computed.Add(uint64(compute(work)))
			}
		})
	}
	ready.Wait()
	for range 3 {
		start := time.Now()
		runtime.Gosched()
		turn = max(turn, time.Since(start))
	}
	done.Store(true)
	all.Wait()
	return turn
}

// saturatedLimits has a peer dropped that is silent for some turns of the busy node, whatever they take on this machine: a
// flusher that lets eight of them go by before it writes is too late.
func saturatedLimits(patience time.Duration) Limits {
	return Limits{PingInterval: patience / 5, PeerTimeout: patience}
}

// computing returns how many rounds of compute take a time of one core.
func computing(d time.Duration) int {
	const rounds = 1 << 20
	best := time.Hour
	for range 5 {
		start := time.Now()
		computed.Add(uint64(compute(rounds)))
		best = min(best, time.Since(start))
	}
	return int(int64(rounds) * int64(d) / int64(best))
}

// computed keeps the compiler from leaving compute out.
var computed atomic.Uint64

func compute(rounds int) byte {
	x := uint64(1)
	for range rounds {
		x = x*6364136223846793005 + 1442695040888963407
	}
	return byte(x >> 56)
}

// Handlers that compute keep a node busy. That is no reason for its peer to take it for dead, nor for it to do so.
func TestHandlersThatComputeLoseNoConnection(t *testing.T) {
	c := &cluster{nodes: []*node{listenTCP(t, "127.0.0.1:0", "http://127.0.0.1"), {}}}
	child := startSaturated(t, c, "")
	c.startNode(t, c.nodes[0], func(o *ManagerOptions) { o.Limits = saturatedLimits(child.patience) })
	conn := c.conn(0, 1)
	if err := conn.WaitForConnect(t.Context()); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	var failed atomic.Int32
	for range saturatedCallers {
		wg.Go(func() {
			for range 4 {
				if _, err := conn.Request(t.Context(), testSingle, nil); err != nil {
					failed.Add(1)
					return
				}
			}
		})
	}
	wg.Wait()
	if n := failed.Load(); n > 0 {
		t.Errorf("with a PeerTimeout of %v %d callers got an error: %s", child.patience, n, c.nodes[0].log)
	}
	if n := conn.Stats().Connects; n != 1 {
		t.Errorf("%d sessions came up, want one: %s", n, c.nodes[0].log)
	}
	child.end(t)
}

// saturatedNode is a node in a process of its own.
type saturatedNode struct {
	*exec.Cmd
	stdin    io.Closer
	stdout   *bufio.Reader
	patience time.Duration // its PeerTimeout
}

// startSaturated starts a process with the second node of c, with a PeerTimeout of patience, or of some of its own turns.
func startSaturated(t *testing.T, c *cluster, patience string) *saturatedNode {
	t.Helper()
	child := &saturatedNode{Cmd: exec.Command(os.Args[0], "-test.run=^TestSaturatedNode$", "-test.v")}
	child.Env = append(os.Environ(), saturatedEnv+"="+c.nodes[0].host+" "+patience)
	stdin, err := child.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	child.stdin, child.stdout = stdin, bufio.NewReader(stdout)
	child.Stderr = os.Stderr
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	for c.nodes[1].host == "" {
		line, err := child.stdout.ReadString('\n')
		if err != nil {
			t.Fatalf("the process of the node has ended: %v", err)
		}
		if d, err := time.ParseDuration(strings.TrimSpace(line)); err == nil {
			child.patience = d
		}
		if host, ok := strings.CutPrefix(line, "ready "); ok {
			c.nodes[1].host = strings.TrimSpace(host)
		}
	}
	return child
}

// end ends the process, which must have had one session.
func (n *saturatedNode) end(t *testing.T) {
	t.Helper()
	n.stdin.Close()
	said, _ := io.ReadAll(n.stdout)
	if err := n.Wait(); err != nil || strings.Contains(string(said), " sessions") {
		t.Errorf("the node in a process of its own: %v: %s", err, said)
	}
}
