package grid

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// saturatedEnv has the peer of a node in a process of its own, and its PeerTimeout where the test
// decides it.
const saturatedEnv = "GRID_TEST_SATURATED_NODE"

// TestSaturatedNode is a node with two cores whose handler computes. It ends with its standard
// input.
func TestSaturatedNode(t *testing.T) {
	peer, limit, _ := strings.Cut(os.Getenv(saturatedEnv), " ")
	if peer == "" {
		t.Skip("runs as a process of TestHandlersThatComputeLoseNoConnection")
	}
	runtime.GOMAXPROCS(2)
	patience, err := time.ParseDuration(limit)
	if err != nil {
		patience = 5 * turnOf(saturatedCallers)
	}
	fmt.Println(patience)
	c := &cluster{nodes: []*testNode{listenTCP(t, "127.0.0.1:0", "http://127.0.0.1"), {host: peer}}}
	c.startNode(t, c.nodes[0], func(o *ManagerOptions) { o.Limits = saturatedLimits(patience) })
	c.nodes = c.nodes[:1]
	var calls atomic.Uint64
	c.handle(t, func(_ context.Context, b []byte) ([]byte, error) {
		// Some of those that began together end in each turn: there is more to write after each.
		for range 1 + calls.Add(1)%16 {
			compute()
		}
		return b, nil
	})
	c.handle(t, func(_ context.Context, b []byte) ([]byte, error) {
		return strconv.AppendInt(b, int64(turn()), 10), nil
	}, saturatedTurn)
	fmt.Println("ready", c.nodes[0].host)
	io.Copy(io.Discard, os.Stdin)
	if n := c.nodes[0].Stats().Peers[0].Connects; n != 1 {
		fmt.Printf("%d sessions\n%s", n, c.nodes[0].log)
	}
}

const (
	saturatedCallers = 40
	saturatedTurn    = "turn" // the subroute of a handler that waits for one turn, and returns how long that took
)

// compute takes one turn of a core. Who goes on is made to give way after about as long.
func compute() {
	for start := time.Now(); time.Since(start) < 10*time.Millisecond; {
	}
	runtime.Gosched()
}

// turnOf returns how long a goroutine waits for its turn beside many that compute.
func turnOf(many int) (longest time.Duration) {
	var all, ready sync.WaitGroup
	ready.Add(many)
	var done atomic.Bool
	for range many {
		all.Go(func() {
			compute()
			ready.Done()
			for !done.Load() {
				compute()
			}
		})
	}
	ready.Wait()
	for range 3 {
		longest = max(longest, turn())
	}
	done.Store(true)
	all.Wait()
	return longest
}

// saturatedLimits has a peer dropped that is silent for some turns of the busy node, whatever they
// take on this machine: a flusher that lets eight of them go by before it writes is too late.
func saturatedLimits(patience time.Duration) Limits {
	return Limits{PingInterval: patience / 5, PeerTimeout: patience}
}

// Handlers that compute keep a node busy. That is no reason for its peer to take it for dead, nor
// for it to do so.
func TestHandlersThatComputeLoseNoConnection(t *testing.T) {
	c, child := startSaturatedCluster(t, "")
	stop := saturate(t, c, child)
	callInTurn(t, c, 12)
	stop()
}

// What a busy node has to say waits for no more turns than it must, even where no ping or pong
// hurries it.
func TestHandlersThatComputeHoldUpNoAnswers(t *testing.T) {
	c, child := startSaturatedCluster(t, "1h")
	stop := saturate(t, c, child)
	callInTurn(t, c, 8)
	stop()
}

// startSaturatedCluster starts two nodes, the second one in a process of its own, with that
// PeerTimeout.
func startSaturatedCluster(t *testing.T, patience string) (*cluster, *saturatedNode) {
	t.Helper()
	c := &cluster{nodes: []*testNode{listenTCP(t, "127.0.0.1:0", "http://127.0.0.1"), {}}}
	child := startSaturated(t, c, patience)
	c.startNode(t, c.nodes[0], func(o *ManagerOptions) { o.Limits = saturatedLimits(child.patience) })
	if err := c.conn(0, 1).WaitForConnect(t.Context()); err != nil {
		t.Fatal(err)
	}
	return c, child
}

// saturate keeps the second node busy until stop is called, which ends it: all calls must have got
// an answer over one session.
func saturate(t *testing.T, c *cluster, child *saturatedNode) (stop func()) {
	conn := c.conn(0, 1)
	var callers sync.WaitGroup
	var failed atomic.Int32
	var done atomic.Bool
	for range saturatedCallers {
		callers.Go(func() {
			for !done.Load() {
				if _, err := conn.Request(t.Context(), testSingle, nil); err != nil {
					failed.Add(1)
					return
				}
			}
		})
	}
	return func() {
		t.Helper()
		done.Store(true)
		callers.Wait()
		if n := failed.Load(); n > 0 {
			t.Errorf("with a PeerTimeout of %v %d callers got an error: %s", child.patience, n, c.nodes[0].log)
		}
		if n := conn.Stats().Connects; n != 1 {
			t.Errorf("%d sessions came up, want one: %s", n, c.nodes[0].log)
		}
		child.end(t)
	}
}

// callInTurn makes n calls to a handler that takes one turn, one after another. They may take few
// turns more.
func callInTurn(t *testing.T, c *cluster, n int) {
	t.Helper()
	var took, turns time.Duration
	for range n {
		start := time.Now()
		b, err := c.conn(0, 1).Subroute(saturatedTurn).Request(t.Context(), testSingle, nil)
		if err != nil {
			t.Error(err)
			return
		}
		took += time.Since(start)
		turn, err := strconv.ParseInt(string(b), 10, 64)
		if err != nil {
			t.Error(err)
		}
		turns += time.Duration(turn)
	}
	t.Logf("calls took %.1f turns of %v", float64(took)/float64(turns), turns/time.Duration(n))
	// Beside the turn of the handler there is one of the reader, until it sees the call, and now
	// and then one of the flusher.
	if took > 4*turns {
		t.Errorf("calls to a handler that takes one turn took %v, and the turns of the handler %v of that", took, turns)
	}
}

// saturatedNode is a node in a process of its own.
type saturatedNode struct {
	*exec.Cmd
	stdin    io.Closer
	stdout   *bufio.Reader
	patience time.Duration // its PeerTimeout
}

// startSaturated starts a process with the second node of c, with a PeerTimeout of patience, or of
// some of its own turns.
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
