package grid

import "sync"

// muxTable holds the streams of one direction of a session, by mux ID. The zero value is ready.
type muxTable[M any] struct {
	mu     sync.Mutex // Protects following.
	muxes  map[uint64]M
	closed bool
}

// get finds a mux.
func (t *muxTable[M]) get(id uint64) (M, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	m, ok := t.muxes[id]
	return m, ok
}

// put adds a mux. It returns false if the ID is taken or the table is closed.
func (t *muxTable[M]) put(id uint64, m M) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if _, taken := t.muxes[id]; taken || t.closed {
		return false
	}
	if t.muxes == nil {
		t.muxes = make(map[uint64]M)
	}
	t.muxes[id] = m
	return true
}

// remove forgets a mux.
func (t *muxTable[M]) remove(id uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.muxes, id)
	if len(t.muxes) == 0 {
		t.muxes = nil // an idle session keeps no table
	}
}

// all returns a snapshot of the muxes.
func (t *muxTable[M]) all() []M {
	t.mu.Lock()
	defer t.mu.Unlock()
	all := make([]M, 0, len(t.muxes))
	for _, m := range t.muxes {
		all = append(all, m)
	}
	return all
}

// close accepts no more muxes and returns those that are left. They stay in the table until
// removed.
func (t *muxTable[M]) close() []M {
	t.mu.Lock()
	t.closed = true
	t.mu.Unlock()
	return t.all()
}

// len returns the number of muxes.
func (t *muxTable[M]) len() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.muxes)
}
