package proxies

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gridmesh/grid"
	"github.com/gridmesh/grid/internal/testkit"
)

// What is under way when a node leaves.
const (
	requests = 3000
	streams  = 10
	tail     = 100 // messages of each stream
	rounds   = 3
)

const (
	single grid.HandlerID = grid.HandlerUserFirst + iota
	stream
	noise
)

var answer = bytes.Repeat([]byte("answer"), 20)

// A node that shuts down under load behind a proxy loses neither an answer nor the tail of a
// stream.
func TestAShutdownLosesNothing(t *testing.T) {
	for _, p := range all {
		t.Run(p.name, func(t *testing.T) {
			if !p.there() {
				fmt.Printf("SKIPPED: %s is not there, and could not be installed\n", p.name)
				t.Skip()
			}
			for round := range rounds {
				for leaver, dials := range []string{"a node", "the other"} { // one of the two dials
					t.Run(fmt.Sprintf("%s leaves, round %d", dials, round), func(t *testing.T) { leave(t, p, leaver) })
				}
			}
		})
	}
}

// leave lets one of two nodes leave with a proxy in front of both.
func leave(t *testing.T, p proxy, leaves int) {
	var backs, fronts [2]string
	var links []link
	for i := range backs {
		backs[i], fronts[i] = testkit.FreeAddress(t), testkit.FreeAddress(t)
		links = append(links, link{fronts[i], backs[i]})
	}
	p.start(t, links)
	stays := 1 - leaves
	child := startLeaver(t, backs[leaves], backs[stays], fronts[stays])
	m := startNode(t, backs[stays], backs[leaves], fronts[leaves])
	conn := m.Connection("http://" + backs[leaves])
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Second)
	defer cancel()
	if err := conn.WaitForConnect(ctx); err != nil {
		t.Fatalf("not connected: %v, %s", err, conn.Stats().LastError)
	}
	var calls, noises sync.WaitGroup
	var lost, cut atomic.Int64
	var why sync.Map
	for range requests {
		calls.Go(func() {
			if got, err := conn.Request(ctx, single, nil); err != nil || !bytes.Equal(got, answer) {
				lost.Add(1)
				why.Store(fmt.Sprint(err), true)
			}
		})
	}
	for range streams {
		calls.Go(func() {
			st, err := conn.NewStream(ctx, stream, nil)
			n := 0
			if err == nil {
				err = st.Results(func([]byte) error { n++; return nil })
			}
			if err != nil || n != tail {
				cut.Add(1)
				why.Store(fmt.Sprintf("%d messages, %v", n, err), true)
			}
		})
	}
	child.expect(t, "begun")
	stop, end := context.WithCancel(ctx)
	for range 16 { // bytes in the other direction, at the worst moment
		noises.Go(func() {
			for stop.Err() == nil {
				conn.Request(stop, noise, make([]byte, 32<<10))
			}
		})
	}
	fmt.Fprintln(child.in, "leave")
	child.expect(t, "left: <nil>")
	calls.Wait()
	end()
	noises.Wait()
	if lost.Load()+cut.Load() > 0 {
		var reasons []any
		why.Range(func(k, _ any) bool { reasons = append(reasons, k); return true })
		t.Errorf("%d of %d answers and %d of %d streams were lost: %q", lost.Load(), requests, cut.Load(), streams, reasons)
	}
}

// startNode starts the node that stays.
func startNode(t *testing.T, own, peer, front string) *grid.Manager {
	t.Helper()
	m, l, err := newNode(own, peer, front, func() {}, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		m.Close()
		l.Close()
	})
	return m
}

// newNode starts a node that reaches its peer by way of a proxy. Its handlers begin, and go on once
// released.
func newNode(own, peer, front string, begun func(), released <-chan struct{}) (*grid.Manager, net.Listener, error) {
	ready := make(chan struct{})
	l, err := net.Listen("tcp", own)
	if err != nil {
		return nil, nil, err
	}
	m, err := grid.NewManager(context.Background(), grid.ManagerOptions{
		Local:       "http://" + own,
		Hosts:       []string{"http://" + own, "http://" + peer},
		AuthRequest: func(*http.Request) error { return nil },
		Dialer: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, front)
		},
		BlockConnect: ready,
		Logger:       slog.New(slog.DiscardHandler),
		Limits:       grid.Limits{MaxRequests: 2 * requests},
	})
	if err != nil {
		return nil, nil, err
	}
	if err := register(m, begun, released); err != nil {
		return nil, nil, err
	}
	close(ready)
	mux := http.NewServeMux()
	mux.Handle(grid.RoutePath, m.Handler())
	go http.Serve(l, mux)
	return m, l, nil
}

// register registers handlers that begin, and go on once released.
func register(m *grid.Manager, begun func(), released <-chan struct{}) error {
	return errors.Join(
		m.RegisterSingleHandler(single, func([]byte) ([]byte, *grid.RemoteErr) {
			begun()
			<-released
			return bytes.Clone(answer), nil
		}),
		m.RegisterSingleHandler(noise, func([]byte) ([]byte, *grid.RemoteErr) { return nil, nil }),
		m.RegisterStreamingHandler(stream, grid.StreamHandler{OutCapacity: 8, Handle: func(ctx context.Context, _ []byte, _ <-chan []byte, out chan<- []byte) *grid.RemoteErr {
			begun()
			<-released
			for range tail {
				select {
				case out <- bytes.Clone(answer):
				case <-ctx.Done():
					return grid.NewRemoteErr(context.Cause(ctx))
				}
			}
			return nil
		}}))
}

// child is the process of the node that leaves.
type child struct {
	in  io.Writer
	out *bufio.Scanner
}

func startLeaver(t *testing.T, own, peer, front string) *child {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "GRID_LEAVER="+strings.Join([]string{own, peer, front}, " "))
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	return &child{in, bufio.NewScanner(out)}
}

// expect waits for a line of the child.
func (c *child) expect(t *testing.T, want string) {
	t.Helper()
	if !c.out.Scan() {
		t.Fatalf("the child is gone before it says %q", want)
	}
	if got := c.out.Text(); got != want {
		t.Errorf("the child says %q, not %q", got, want)
	}
}

// leaver is the process of the node that leaves. It leaves when it is told to, while all handlers
// run, and ends at once when that is done.
func leaver() {
	var own, peer, front string
	fmt.Sscan(os.Getenv("GRID_LEAVER"), &own, &peer, &front)
	var running atomic.Int64
	released := make(chan struct{})
	m, _, err := newNode(own, peer, front, func() {
		if running.Add(1) == requests+streams {
			fmt.Println("begun")
		}
	}, released)
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	bufio.NewReader(os.Stdin).ReadString('\n')
	done := make(chan error)
	go func() { done <- m.Shutdown(context.Background()) }()
	close(released)
	fmt.Println("left:", <-done)
	os.Exit(0)
}
