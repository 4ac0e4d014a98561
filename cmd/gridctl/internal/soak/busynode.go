package soak

import (
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/rpc"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gridmesh/grid"
)

// BusyEnv makes gridctl soak the busy node of another one, which has started it so.
const BusyEnv = "GRIDCTL_SOAK_BUSY_NODE"

// busyLimits are the times of both nodes.
func busyLimits(patience time.Duration) grid.Limits {
	return grid.Limits{PingInterval: patience / 4, PeerTimeout: patience}
}

// RunBusyNode is the busy node of a peer. It ends with its standard input, and prints what it has
// to complain of.
func RunBusyNode(peer string, stdin io.Reader, stdout, stderr io.Writer) error {
	runtime.GOMAXPROCS(2)
	rounds := busyRounds()
	patience := max(busyTurns*turnOf(2*busyCallers, rounds), busyPatient)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	rpcs, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		l.Close()
		return err
	}
	defer rpcs.Close()
	host := "http://" + l.Addr().String()
	m, err := startProcess(l, grid.ManagerOptions{
		Local:  host,
		Hosts:  []string{host, peer},
		Logger: slog.New(slog.NewTextHandler(stderr, nil)).With("node", "busy"),
		Limits: busyLimits(patience),
	}, func(m *grid.Manager) error {
		work := busyHandler{rounds: rounds}
		return m.RegisterSingleHandler(handlerBusy, func(b []byte) ([]byte, *grid.RemoteErr) {
			work.compute()
			return b, nil
		})
	})
	if err != nil {
		return err
	}
	server := rpc.NewServer()
	if err := server.RegisterName("Busy", &busyService{busyHandler{rounds: rounds}}); err != nil {
		return err
	}
	go func() { // Server.Accept would log its end
		for {
			c, err := rpcs.Accept()
			if err != nil {
				return
			}
			go server.ServeConn(c)
		}
	}()
	fmt.Fprintln(stdout, host, rpcs.Addr(), int64(patience))
	_, _ = io.Copy(io.Discard, stdin) // until the parent has gone, one way or the other
	if n := m.Stats().Peers[0].Connects; n != 1 {
		fmt.Fprintf(stdout, "the busy node has had %d sessions, want one\n", n)
	}
	return m.stop()
}

// busyHandler is what both handlers do.
type busyHandler struct {
	rounds int // of one turn
	calls  atomic.Uint64
}

// compute takes some turns, not the same number each time: of calls that came together some end in
// each turn, so that there is more to write after each.
func (h *busyHandler) compute() { compute(h.rounds * int(1+h.calls.Add(1)%16)) }

// busyService is the handler for net/rpc.
type busyService struct{ busyHandler }

// Work computes.
func (s *busyService) Work(ask []byte, answer *[]byte) error {
	s.compute()
	*answer = ask
	return nil
}

// busyRounds returns how many rounds of compute take about one turn.
func busyRounds() int {
	const rounds, turn = 1 << 20, 10 * time.Millisecond
	best := time.Hour
	for range 5 {
		start := time.Now()
		compute(rounds)
		best = min(best, time.Since(start))
	}
	return int(rounds * int64(turn) / int64(best))
}

// turnOf returns how long a goroutine waits for its turn beside many that compute.
func turnOf(many, rounds int) (longest time.Duration) {
	var all, ready sync.WaitGroup
	ready.Add(many)
	var done atomic.Bool
	for range many {
		all.Go(func() {
			compute(rounds)
			ready.Done()
			for !done.Load() {
				compute(rounds)
			}
		})
	}
	ready.Wait()
	for range 3 {
		start := time.Now()
		runtime.Gosched()
		longest = max(longest, time.Since(start))
	}
	done.Store(true)
	all.Wait()
	return longest
}

// computed keeps the compiler from leaving compute out.
var computed atomic.Uint64

// compute keeps a core busy, and never gives way.
func compute(rounds int) {
	x := uint64(1)
	for range rounds {
		x = x*6364136223846793005 + 1442695040888963407
	}
	computed.Store(x)
}
