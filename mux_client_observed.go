package grid

// beginReading records that the results are being read; the reader will report the end of the
// stream.
func (m *muxClient) beginReading() {
	if m.observed == nil {
		return
	}
	m.mu.Lock()
	m.observed.read = true
	m.mu.Unlock()
}

// endReading reports the end of a stream whose results were read.
func (m *muxClient) endReading() {
	m.dropReady()
	if m.observed == nil {
		return
	}
	m.mu.Lock()
	err, stop := m.err, m.stopWatch
	m.mu.Unlock()
	if stop != nil {
		stop()
	}
	m.observed.end(err)
}

// pauseReading records that nobody reads the results for now. If that leaves nobody to report the end
// of the stream, it does.
func (m *muxClient) pauseReading() {
	if m.observed == nil {
		return
	}
	m.mu.Lock()
	m.observed.read, m.observed.left = false, len(m.ready)
	over := m.ended && (m.observed.gaveUp || !m.expectsReader())
	err, stop := m.err, m.stopWatch
	m.mu.Unlock()
	if !over {
		return
	}
	if stop != nil {
		stop()
	}
	m.observed.end(err)
}

// attach lets observers watch a stream that has been opened and may already have ended.
func (m *muxClient) attach(o *observation) {
	if o == nil {
		return
	}
	m.mu.Lock()
	m.observed = o
	tell, err := m.ended && m.claimUnread(), m.err
	m.mu.Unlock()
	if tell {
		go o.tellEnd(err)
	}
}

// expectsReader reports whether an ended stream still waits for a reader of what is left, at most
// until its context ends. m.mu is held.
func (m *muxClient) expectsReader() bool {
	return m.observed != nil && !m.shut.Load() && m.queue.len()+m.observed.left > 0
}

// claimUnread reports whether the caller must call tellEnd: the stream has ended, nothing is left
// to read, and nobody reads. m.mu is held.
func (m *muxClient) claimUnread() bool {
	return m.observed != nil && !m.observed.read && !m.expectsReader() && m.observed.claimEnd()
}

// giveUpReader reports the end of a stream whose context has ended before anyone read the results.
func (m *muxClient) giveUpReader() {
	if m.observed == nil {
		return
	}
	m.mu.Lock()
	m.observed.gaveUp = true
	tell, err := !m.observed.read && m.observed.claimEnd(), m.err
	m.mu.Unlock()
	if tell {
		m.observed.tellEnd(err)
	}
}
