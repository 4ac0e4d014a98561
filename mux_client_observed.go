package grid

// beginReading takes note that somebody reads the results, and will tell of the stream's end.
func (m *muxClient) beginReading() {
	if m.observed == nil {
		return
	}
	m.mu.Lock()
	m.observed.read = true
	m.mu.Unlock()
}

// endReading tells of the end of a stream whose results were read.
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

// attach lets observers watch a stream that has been opened, and may have ended.
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

// expectsReader reports whether a stream that has ended waits for somebody to
// read what is left, until its context ends. m.mu is held.
func (m *muxClient) expectsReader() bool {
	return m.observed != nil && !m.observed.read && m.queue.len() > 0
}

// claimUnread makes who gets true the one to tell of the end of a stream whose results nobody reads
// or is to read. m.mu is held.
func (m *muxClient) claimUnread() bool {
	return m.observed != nil && !m.observed.read && m.queue.len() == 0 && m.observed.claimEnd()
}

// giveUpReader tells of the end of a stream whose context has ended before somebody read the
// results.
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
