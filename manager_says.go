package grid

import (
	"fmt"
	"maps"
)

// SetLabels replaces the labels of this node, and tells the peers. It does not wait until they know.
// It fails, and changes nothing, if labels break the rules of ManagerOptions.Labels; the error
// names the label.
func (m *Manager) SetLabels(labels map[string]string) error {
	if m == nil {
		return errNilManager
	}
	if err := checkLabels(labels); err != nil {
		return fmt.Errorf("grid: SetLabels: %w", err)
	}
	labels = maps.Clone(labels)
	m.says.change(func(told *facts) { told.labels = labels })
	return nil
}

// Drain says that this node is about to go, so that nobody begins anything new there: peers see
// Peer.Draining, also those that connect later, and a HealthHandler is not ready. Calls still work,
// in both directions. When there are no more of them, end the node with Shutdown. Undrain takes it
// back. Drain does not wait until the peers know.
func (m *Manager) Drain() { m.setDraining(true) }

// Undrain takes Drain back.
func (m *Manager) Undrain() { m.setDraining(false) }

// setDraining tells the peers whether this node is about to go, unless they know.
func (m *Manager) setDraining(draining bool) {
	if m != nil && m.says.now().draining != draining {
		m.says.change(func(told *facts) { told.draining = draining })
	}
}
