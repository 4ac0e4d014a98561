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
	return m.observed != nil && !m.observed.read && m.queue.len() > 0
}

// claimUnread reports whether the caller must call tellEnd: the stream has ended, nothing is left
// to read, and nobody reads. m.mu is held.
func (m *muxClient) claimUnread() bool {
	return m.observed != nil && !m.observed.read && m.queue.len() == 0 && m.observed.claimEnd()
}

// giveUpReader reports the end of a stream whose context has ended before anyone read the results.
func (m *muxClient) giveUpReader() {
	if m.observed == nil {
		return
	}
	m.mu.Lock()
	tell, err := !m.observed.read && m.observed.claimEnd(), m.err
	m.mu.Unlock()
	if tell {
		m.observed.tellEnd(err)
	}
}
