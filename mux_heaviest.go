package grid

import (
	"cmp"
	"slices"
)

// holder is a stream with messages waiting for their consumer.
type holder interface {
	waiting() int // bytes
	overload()    // ends it
}

// heaviest finds the stream with the most waiting without scanning all of them for each message. It
// keeps those that had the most, and scans again after as many messages as there were streams, or
// when those it kept are used up. So a message costs a look at only a few streams. It may keep up
// to heaviestKept ended streams for a while. The zero value is ready.
type heaviest struct {
	top  []holder
	left int  // messages until the next scan
	more bool // the scan found others with something waiting
}

const heaviestKept = 64

// get returns the stream with the most waiting; nil if no known one has any.
func (h *heaviest) get(all func() []holder) holder {
	h.left--
	most := h.best()
	if h.left > 0 && (most != nil || !h.more) {
		return most
	}
	h.look(all())
	return h.best()
}

// best returns the stream of the top with the most waiting, and drops those with nothing.
func (h *heaviest) best() (most holder) {
	n, kept := 0, h.top[:0]
	for _, one := range h.top {
		waiting := one.waiting()
		if waiting == 0 {
			continue
		}
		kept = append(kept, one)
		if waiting > n {
			most, n = one, waiting
		}
	}
	clear(h.top[len(kept):])
	h.top = kept
	return most
}

// look scans all streams and chooses a new top.
func (h *heaviest) look(all []holder) {
	type weighed struct {
		holder
		bytes int
	}
	var waiting []weighed
	for _, one := range all {
		if n := one.waiting(); n > 0 {
			waiting = append(waiting, weighed{one, n})
		}
	}
	slices.SortFunc(waiting, func(a, b weighed) int { return cmp.Compare(b.bytes, a.bytes) })
	h.left, h.more = len(all), len(waiting) > heaviestKept
	h.top = h.top[:0]
	for _, one := range waiting[:min(len(waiting), heaviestKept)] {
		h.top = append(h.top, one.holder)
	}
}
