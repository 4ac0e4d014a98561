package soak

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/rpc"
	"os"
	"os/exec"
	"strings"
	"sync"
	"time"

	"github.com/gridmesh/grid"
	"github.com/gridmesh/grid/cmd/gridctl/internal/latency"
	"github.com/gridmesh/grid/internal/workload"
)

// What the busy part of a soak is about: a node whose handlers compute is slow, but it is not gone.
// It runs in a process of its own, which also serves net/rpc over TCP. Callers of both call the
// same handler at the same time, so that both get the same share of the machine, whatever that is.
const (
	busyCallers = 16          // of each of the two
	BusyRatio   = 10          // how many times the longest call of net/rpc the longest one of the grid may take
	BusyShare   = 4           // the part of -duration that it takes, one in so many
	busyTurns   = 8           // the PeerTimeout, in turns of the busy node, as it measures them: a slow machine has longer ones
	busyPatient = time.Second // the shortest PeerTimeout
	busyStart   = time.Minute // bounds how long the process may take to start, and to end
)

// handlerBusy computes.
const handlerBusy = workload.Nobodys + 10

// Busy is what came of the busy part.
type Busy struct {
	done      bool
	Grid, RPC BusyCalls
}

// BusyCalls are the calls over one transport.
type BusyCalls struct {
	Latencies latency.Histogram
	Longest   time.Duration
	failed    uint64
	failure   error // the first
}

// PlayBusy puts load on a node with handlers that compute, for its share of the duration, unless
// ctx ends before.
func (s *Soak) PlayBusy(ctx context.Context) {
	if ctx.Err() != nil {
		return
	}
	var log busyLog
	if err := s.playBusy(ctx, &log); err != nil {
		s.tally.violated("the node whose handlers compute: %v\n%s", err, log.String())
	}
}

func (s *Soak) playBusy(ctx context.Context, log *busyLog) (err error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	here := "http://" + l.Addr().String()
	child, err := startBusy(here, log)
	if err != nil {
		l.Close()
		return err
	}
	defer func() { err = errors.Join(err, child.end()) }()
	m, err := startProcess(l, grid.ManagerOptions{
		Local:  here,
		Hosts:  []string{here, child.host},
		Logger: slog.New(slog.NewTextHandler(log, nil)).With("node", "caller"),
		Limits: busyLimits(child.patience),
	}, func(*grid.Manager) error { return nil })
	if err != nil {
		return err
	}
	defer func() { _ = m.stop() }()
	conn := m.Connection(child.host)
	wait, cancel := context.WithTimeout(ctx, busyStart)
	defer cancel()
	if err := conn.WaitForConnect(wait); err != nil {
		return err
	}
	client, err := rpc.Dial("tcp", child.rpc)
	if err != nil {
		return err
	}
	defer client.Close()
	// As net/rpc has no deadline, the default one of a minute must not be what a slow machine is
	// measured by.
	patient, release := context.WithTimeout(context.Background(), time.Hour)
	defer release()
	s.callBusy(ctx, func(b []byte) ([]byte, error) { return conn.Request(patient, handlerBusy, b) },
		func(b []byte) (answer []byte, err error) { return answer, client.Call("Busy.Work", b, &answer) })
	if ctx.Err() != nil {
		return nil
	}
	s.busy.done = true
	if n := conn.Stats().Connects; n != 1 {
		return fmt.Errorf("the connection was lost: %d sessions came up, want one", n)
	}
	return s.busy.judge()
}

// callBusy calls over both transports.
func (s *Soak) callBusy(ctx context.Context, overGrid, overRPC func([]byte) ([]byte, error)) {
	limit, cancel := context.WithTimeout(ctx, s.config.Duration/BusyShare)
	defer cancel()
	var all sync.WaitGroup
	var mu sync.Mutex // Protects the tally.
	for _, to := range []struct {
		calls *BusyCalls
		call  func([]byte) ([]byte, error)
	}{{&s.busy.Grid, overGrid}, {&s.busy.RPC, overRPC}} {
		for i := range busyCallers {
			all.Go(func() {
				for n := uint32(0); limit.Err() == nil; n++ {
					ask := binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(nil, uint32(i)), n)
					start := time.Now()
					answer, err := to.call(ask)
					took := time.Since(start)
					if err == nil && string(answer) != string(ask) {
						err = fmt.Errorf("got %x for an answer to %x", answer, ask)
					}
					mu.Lock()
					to.calls.add(took, err)
					mu.Unlock()
					if err != nil {
						return // the next one may fail at once
					}
				}
			})
		}
	}
	all.Wait()
}

func (c *BusyCalls) add(took time.Duration, err error) {
	if err != nil {
		c.failed++
		if c.failure == nil {
			c.failure = err
		}
		return
	}
	c.Latencies.Add(took)
	c.Longest = max(c.Longest, took)
}

// judge says which promise was not kept.
func (b *Busy) judge() error {
	switch {
	case b.Grid.failed > 0:
		return fmt.Errorf("%d calls failed, the first one with: %w", b.Grid.failed, b.Grid.failure)
	case b.RPC.failed > 0:
		return fmt.Errorf("nothing to compare with: %d calls of net/rpc failed, the first one with: %w", b.RPC.failed, b.RPC.failure)
	case b.Grid.Latencies.Total() == 0 || b.RPC.Latencies.Total() == 0:
		return errors.New("no call has returned")
	case b.Grid.Longest > BusyRatio*b.RPC.Longest:
		return fmt.Errorf("a call took %v, more than %d times the longest one of net/rpc, which took %v", b.Grid.Longest, BusyRatio, b.RPC.Longest)
	}
	return nil
}

// busyLog keeps the last that both nodes have logged.
type busyLog struct {
	mu    sync.Mutex // Protects following.
	lines []string
}

const busyLogLines = 50

// Write takes whole lines.
func (l *busyLog) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lines = append(l.lines, string(b))
	if n := len(l.lines); n > busyLogLines {
		l.lines = l.lines[n-busyLogLines:]
	}
	return len(b), nil
}

func (l *busyLog) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.TrimRight(strings.Join(l.lines, ""), "\n")
}

// busyProcess is the process of the busy node, as its caller sees it.
type busyProcess struct {
	*exec.Cmd
	host, rpc string        // where the node is, and where net/rpc
	patience  time.Duration // its PeerTimeout
	stdin     io.Closer
	stdout    *bufio.Reader
	killer    *time.Timer // bounds its start and its end
}

// startBusy starts this program again as the busy node, for a peer. What that logs goes to log.
func startBusy(peer string, log io.Writer) (*busyProcess, error) {
	program, err := os.Executable()
	if err != nil {
		return nil, err
	}
	p := &busyProcess{Cmd: exec.Command(program, "soak")}
	p.Env = append(os.Environ(), BusyEnv+"="+peer)
	p.Stderr = log
	stdin, err := p.StdinPipe()
	if err != nil {
		return nil, err
	}
	stdout, err := p.StdoutPipe()
	if err != nil {
		return nil, err
	}
	p.stdin, p.stdout = stdin, bufio.NewReader(stdout)
	if err := p.Start(); err != nil {
		return nil, err
	}
	p.killer = time.AfterFunc(busyStart, func() { _ = p.Process.Kill() })
	line, err := p.stdout.ReadString('\n')
	if err == nil {
		_, err = fmt.Sscan(line, &p.host, &p.rpc, (*int64)(&p.patience))
	}
	p.killer.Stop()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("it does not start: %w", err), p.end())
	}
	return p, nil
}

// end ends the process, which must have had one session.
func (p *busyProcess) end() error {
	p.killer.Reset(busyStart)
	defer p.killer.Stop()
	p.stdin.Close()
	said, _ := io.ReadAll(p.stdout)
	err := p.Wait()
	if text := strings.TrimSpace(string(said)); text != "" {
		err = errors.Join(err, errors.New(text))
	}
	return err
}
