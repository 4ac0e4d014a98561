package main

import (
	"context"
	"fmt"
	"net"
	"sync"
	"sync/atomic"

	"github.com/gridmesh/grid"
)

// soakNode is a node of a soak, under whatever Manager it has at the time.
type soakNode struct {
	number     int
	host       string
	now        atomic.Pointer[member]
	address    atomic.Value // where it listens, a string
	stops      period       // from the beginning of a stop until all others are connected again
	restarting sync.Mutex   // held by who stops and starts it
}

// soakPair is two nodes and the wire between them.
type soakPair struct {
	a, b    *soakNode
	wire    *wire
	trouble period // from the beginning of a fault until the two are connected again
}

// soakHost is the name of the node of a number. Only wires know what address it has.
func soakHost(number int) string { return fmt.Sprintf("http://soak-%d", number) }

// startAll starts all nodes and their wires, and waits until they are connected.
func (s *soak) startAll() error {
	s.tally.stopped.before = settledFootprint()
	for i := range s.config.nodes {
		n := &soakNode{number: i, host: soakHost(i)}
		s.hosts = append(s.hosts, n.host)
		s.nodes = append(s.nodes, n)
	}
	for i, a := range s.nodes {
		for _, b := range s.nodes[:i] {
			p := &soakPair{a: a, b: b}
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
func (s *soak) start(n *soakNode) error {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	n.address.Store(l.Addr().String())
	config := &memberConfig{local: n.host, hosts: s.hosts, limits: s.config.times, interceptors: s.interceptors}
	m, err := startMember(config, l, s.dialer(n), s.log.With("node", n.number), func(m *grid.Manager) error { return s.register(n.number, m) })
	if err != nil {
		l.Close()
		return err
	}
	n.now.Store(m)
	return nil
}

// dialer returns how a node connects to the others: over the wires.
func (s *soak) dialer(n *soakNode) grid.ContextDialer {
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

// stopAll ends all nodes that were started, and all wires.
func (s *soak) stopAll() {
	var all sync.WaitGroup
	for _, n := range s.nodes {
		if m := n.now.Load(); m != nil {
			all.Go(func() {
				if err := m.stop(shutdownTime); err != nil {
					s.broken.add("Shutdown of the idle node %d: %v", n.number, err)
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
func (s *soak) pair(i, j int) *soakPair {
	i, j = max(i, j), min(i, j)
	return s.pairs[i*(i-1)/2+j]
}
