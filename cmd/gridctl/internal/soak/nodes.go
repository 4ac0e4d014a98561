package soak

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gridmesh/grid"
	"github.com/gridmesh/grid/internal/door"
	"github.com/gridmesh/grid/internal/workload"
)

// node is a node of a soak, under whatever Manager it has at the time.
type node struct {
	number     int
	host       string
	now        atomic.Pointer[process]
	address    atomic.Value // where it listens, a string
	races      workload.Races
	stops      period     // from the beginning of a stop until all others are connected again
	restarting sync.Mutex // held by who stops and starts it
}

// pair is two nodes and the wire between them.
type pair struct {
	a, b    *node
	wire    *wire
	trouble period // from the beginning of a fault until the two are connected again
}

// period are the times at which something goes on that calls may suffer from.
type period struct {
	mu     sync.Mutex // Protects following.
	active int
	ended  time.Time // the last of them
}

func (p *period) begin() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.active++
}

func (p *period) end() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.active--
	p.ended = time.Now()
}

// touches reports whether any of it lay between a time and now.
func (p *period) touches(since time.Time) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.active > 0 || p.ended.After(since)
}

// process is a Manager with its server.
type process struct {
	*grid.Manager
	server *http.Server
}

// shutdownTime bounds how long a node lets what runs finish before it ends.
const shutdownTime = 10 * time.Second

// requestTime is what a server grants a request. Connections between nodes live longer.
const requestTime = 5 * time.Second

// startProcess starts a Manager and a server on l, after its handlers are registered. It closes l
// where it fails.
func startProcess(l net.Listener, o grid.ManagerOptions, register func(*grid.Manager) error) (*process, error) {
	ready := make(chan struct{})
	o.BlockConnect = ready
	o.AuthRequest = func(*http.Request) error { return nil }
	m, err := grid.NewManager(context.Background(), o)
	if err == nil {
		err = register(m)
	}
	if err != nil {
		m.Close()
		l.Close()
		return nil, err
	}
	mux := http.NewServeMux()
	mux.Handle(grid.RoutePath, m.Handler())
	server := &http.Server{
		Handler: mux, ReadTimeout: requestTime, IdleTimeout: requestTime,
		ErrorLog: slog.NewLogLogger(o.Logger.Handler(), slog.LevelWarn),
	}
	go server.Serve(l)
	close(ready)
	return &process{m, server}, nil
}

// stop ends the process: what runs may finish for a while.
func (p *process) stop() error {
	ctx, cancel := context.WithTimeoutCause(context.Background(), shutdownTime, fmt.Errorf("calls were still running after %v", shutdownTime))
	defer cancel()
	err := p.Shutdown(ctx)
	p.server.Close()
	return err
}

// holds says what is held on a connection; empty for nothing.
func (p *process) holds() string {
	for _, host := range p.Targets() {
		c := p.Connection(host)
		held := door.Look(c)
		held.Queued = 0 // pings
		if !held.Empty() {
			return fmt.Sprintf("%v holds %+v", c, held)
		}
	}
	return ""
}

// handlerReached answers whoever reaches a node.
const handlerReached = workload.Nobodys + 11

// hostOf is the name of the node of a number. Only wires know what address it has.
func hostOf(number int) string { return fmt.Sprintf("http://soak-%d", number) }

// startAll starts all nodes and their wires, and waits until they are connected.
func (s *Soak) startAll() error {
	s.tally.stopped.Before = settledFootprint()
	for i, host := range s.hosts {
		s.nodes = append(s.nodes, &node{number: i, host: host})
	}
	for i, a := range s.nodes {
		for _, b := range s.nodes[:i] {
			p := &pair{a: a, b: b}
			var err error
			if p.wire, err = newWire(); err != nil {
				return err
			}
			s.pairs = append(s.pairs, p)
		}
	}
	for _, n := range s.nodes {
		if err := s.start(n); err != nil {
			return err
		}
	}
	for _, p := range s.pairs {
		s.untilBack(p, "the start")
	}
	return nil
}

// start starts a node, for the first time or again.
func (s *Soak) start(n *node) error {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	n.address.Store(l.Addr().String())
	limits := s.config.Times
	limits.MaxMessageSize = workload.MaxMessage
	p, err := startProcess(l, grid.ManagerOptions{
		Local:        n.host,
		Hosts:        s.hosts,
		Dialer:       s.dialer(n),
		Incoming:     n.races.Incoming,
		Logger:       s.config.Log.With("node", n.number),
		Limits:       limits,
		Interceptors: s.config.interceptors,
	}, func(m *grid.Manager) error {
		reached := func([]byte) ([]byte, *grid.RemoteErr) { return nil, nil }
		return errors.Join(s.Register(n.number, m), m.RegisterSingleHandler(handlerReached, reached))
	})
	if err != nil {
		return err
	}
	n.now.Store(p)
	return nil
}

// dialer returns how a node connects to the others: over the wires.
func (s *Soak) dialer(n *node) grid.ContextDialer {
	return func(ctx context.Context, _, address string) (net.Conn, error) {
		host, _, err := net.SplitHostPort(address)
		if err != nil {
			return nil, err
		}
		for _, to := range s.nodes {
			if at, started := to.address.Load().(string); started && to.host == "http://"+host {
				return s.pair(n.number, to.number).wire.dial(ctx, at)
			}
		}
		return nil, fmt.Errorf("node %s is not there", host)
	}
}

// Stop ends all nodes that were started, and all wires.
func (s *Soak) Stop() {
	var all sync.WaitGroup
	for _, n := range s.nodes {
		if m := n.now.Load(); m != nil {
			all.Go(func() {
				if err := m.stop(); err != nil {
					s.tally.violated("Shutdown of the idle node %d: %v", n.number, err)
				}
			})
		}
	}
	all.Wait()
	for _, p := range s.pairs {
		p.wire.close()
	}
}

// pair is the pair of two nodes, by number.
func (s *Soak) pair(i, j int) *pair {
	i, j = max(i, j), min(i, j)
	return s.pairs[i*(i-1)/2+j]
}
