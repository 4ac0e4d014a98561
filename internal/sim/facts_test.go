package sim

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/gridmesh/grid"
)

// sayings are how often each node says something else of itself.
const sayings = 4

// saying makes a node say something else of itself. n counts how often.
func (w *world) saying(i, n int) {
	m := w.nodes[i].manager.Load()
	if m == nil {
		return
	}
	if err := m.SetLabels(map[string]string{"node": fmt.Sprint(i), "n": fmt.Sprint(n)}); err != nil {
		w.violate("SetLabels: %v", err)
	}
	if n%2 == 0 {
		m.Drain()
	} else {
		m.Undrain()
	}
}

// sayingsAt are the times of all that nodes say of themselves, spread over the scenario.
func (w *world) sayingsAt(length time.Duration) (at []time.Duration) {
	for n := range sayings {
		at = append(at, length*time.Duration(n+1)/(sayings+1))
	}
	return at
}

// checkSayings checks that all nodes that are up know what the others say of themselves, on a network
// that is well, and that a handler can be called by all as soon as it is registered.
func (w *world) checkSayings() {
	const late = 250 // a handler ID that nothing else uses
	up := w.up()
	time.Sleep(time.Second) // for the last of it to arrive
	for _, from := range up {
		for _, to := range up {
			if from == to {
				continue
			}
			own, known := to.manager.Load().Stats(), from.manager.Load().Connection(to.name).Peer()
			// No checksum protects the ID in the handshake, so that is left out.
			if known.Version != own.Version || known.Draining != own.Draining || !maps.Equal(known.Labels, own.Labels) {
				w.violate("%s knows %+v of %s, which is %q, %v, draining %v", from.host, known, to.host, own.Version, own.Labels, own.Draining)
			}
		}
	}
	for _, to := range up {
		began := w.Now()
		err := to.manager.Load().RegisterSingleHandler(late, func(b []byte) ([]byte, *grid.RemoteErr) { return b, nil })
		if err != nil {
			w.violate("RegisterSingleHandler: %v", err)
		}
		if w.Now()-began >= simPatience {
			continue // for a peer that has nearly no bandwidth, which may not know
		}
		for _, from := range slices.DeleteFunc(slices.Clone(up), func(n *simNode) bool { return n == to }) {
			ctx, cancel := contextFor(simSettles)
			b, err := from.manager.Load().Connection(to.name).Request(ctx, late, nil)
			cancel()
			if errors.Is(err, grid.ErrUnknownHandler) {
				w.violate("a handler that is registered at %s was refused: %v", to.host, err)
			}
			grid.PutByteBuffer(b)
		}
	}
}

// simPatience is how long a registration waits for a peer.
const simPatience = 3 * time.Second
