package debugz

import (
	"context"
	"sync"
	"time"

	"github.com/gridmesh/grid"
)

// NodeStatus is what a node says of itself.
type NodeStatus struct {
	// Node is its name.
	Node string
	// Error is why there is no Status; empty if there is.
	Error string `json:",omitempty"`
	// Status is that of the node, without Cluster, Traces and Nodes.
	Status *Status `json:",omitempty"`
}

// Bounds of asking other nodes for all that they count.
const (
	statusTimeout = time.Second
	maxStatusSize = 4 << 20 // bytes
)

// nodes asks all other nodes for all that they count. Its zero value is ready.
type nodes struct {
	mu    sync.Mutex // Protects following.
	last  *nodesRound
	asked time.Time
}

// nodesRound is an answer of all nodes, which is there once done is closed.
type nodesRound struct {
	done  chan struct{}
	nodes []NodeStatus
}

// all returns what the peers say, in their order. Viewers that come at the same time share the answers.
func (n *nodes) all(m *grid.Manager, peers []Peer) []NodeStatus {
	n.mu.Lock()
	round, mine := n.last, false
	if round == nil || time.Since(n.asked) > rowAge {
		round, mine = &nodesRound{done: make(chan struct{})}, true
		n.last, n.asked = round, time.Now()
	}
	n.mu.Unlock()
	if mine {
		defer close(round.done)
		round.nodes = askAll(m, peers)
		return round.nodes
	}
	<-round.done // which takes statusTimeout at most
	return round.nodes
}

func askAll(m *grid.Manager, peers []Peer) []NodeStatus {
	ctx, cancel := context.WithTimeout(context.Background(), statusTimeout)
	defer cancel()
	all := make([]NodeStatus, len(peers))
	var wg sync.WaitGroup
	for i := range peers {
		all[i].Node = peers[i].Remote
		if peers[i].State != grid.StateConnected {
			all[i].Error = "not connected"
			continue
		}
		wg.Go(func() {
			s, err := askStatus(ctx, m.Connection(peers[i].Remote))
			if err != nil {
				all[i].Error = err.Error()
				return
			}
			s.Node = all[i].Node // whatever it says
			all[i].Status = s
		})
	}
	wg.Wait()
	return all
}

func askStatus(ctx context.Context, conn *grid.Connection) (*Status, error) {
	s := new(Status)
	if err := ask(ctx, conn, statusMethod, maxStatusSize, s); err != nil {
		return nil, err
	}
	s.Cluster, s.Traces, s.Nodes = nil, nil, nil
	return s, nil
}
