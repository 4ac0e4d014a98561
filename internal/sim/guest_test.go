package sim

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"time"

	"github.com/gridmesh/grid"
	"github.com/gridmesh/grid/internal/workload"
)

// drawGuest lets one of the nodes be a guest of all others: it dials them, and they call each other
// as before. It has numbers of its own, so that all else stays as it was.
func (s *scenario) drawGuest(d workload.Drawer) {
	s.guest = -1
	if d.Chance(30) {
		s.guest = d.IntN(len(s.hosts))
	}
}

// hostNames returns the names of the nodes that are no guests.
func (w *world) hostNames() []string {
	names := w.names()
	if w.guest >= 0 {
		names = slices.Delete(names, w.guest, w.guest+1)
	}
	return names
}

// newNode makes a host that accepts the guest, or the guest.
func (w *world) newNode(i int, o grid.ManagerOptions) (*grid.Manager, error) {
	if i != w.guest {
		o.Hosts = w.hostNames()
		o.AcceptGuest = func(_ *http.Request, name string) error { return w.accept(w.nodes[i], name) }
		m, err := grid.NewManager(context.Background(), o)
		m.OnGuest(w.meet)
		return m, err
	}
	servers := w.hostNames()
	m, err := grid.Join(context.Background(), servers[0], o)
	if err != nil {
		return nil, err
	}
	return m, m.SetHosts(servers)
}

// accept decides whether a node accepts a guest: not while the guest is to be none.
func (w *world) accept(n *simNode, name string) error {
	n.hostsMu.Lock()
	defer n.hostsMu.Unlock()
	if w.guest < 0 || name != w.nodes[w.guest].name {
		// No checksum protects the name in the handshake.
		if !slices.ContainsFunc(w.faults, func(f faultPlan) bool { return f.kind == faultFlip }) {
			w.violate("%s has a guest %q", n.host, name)
		}
		return errors.New("nobody knows it")
	}
	if n.absent[name] > 0 {
		return errors.New("was removed")
	}
	return nil
}

// meet keeps the connection to a guest, of which nothing may be left in the end.
func (w *world) meet(c *grid.Connection) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.removed = append(w.removed, c)
}

// removeGuest removes the guest of a node if it is to be none. n.hostsMu is held.
func (w *world) removeGuest(n *simNode, m *grid.Manager) {
	if w.guest >= 0 && n.absent[w.nodes[w.guest].name] > 0 {
		m.RemoveGuest(w.nodes[w.guest].name)
	}
}

// awaitGuest waits until a node has its guest, which has no Connection before.
func (w *world) awaitGuest(ctx context.Context, from, to *simNode) {
	for w.guest >= 0 && to == w.nodes[w.guest] && from.manager.Load().Connection(to.name).State() != grid.StateConnected && ctx.Err() == nil {
		time.Sleep(10 * time.Millisecond)
	}
}
