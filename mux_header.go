package grid

// headerWait is whether the caller of a stream knows the header of the handler, and where it waits for
// that. The mutex of the stream guards it.
type headerWait struct {
	known bool          // it has come, or a message or the end of the stream has: there is none then
	over  chan struct{} // closed then; nil if nobody waits
}

// end ends the wait, for good.
func (h *headerWait) end() {
	if h.known {
		return
	}
	h.known = true
	if h.over != nil {
		close(h.over)
	}
}

// begin returns a channel that is closed at the end of the wait.
func (h *headerWait) begin() <-chan struct{} {
	switch {
	case h.known:
		return alwaysDone
	case h.over == nil:
		h.over = make(chan struct{})
	}
	return h.over
}
