package grid

import (
	"cmp"
	"slices"
)

// holder is a stream with messages that wait for their consumer.
type holder interface {
	waiting() int // bytes
	overload()    // ends it
}

// heaviest finds the stream with the most waiting without a look at all of them for each message:
// it keeps those that had the most, and looks at all again when as many messages have come as there
// were streams, or when those are used up. So a message costs a look at no more than a few streams.
// It may keep heaviestKept streams a while that have ended. Its zero value is ready.
type heaviest struct {
	top  []holder
	left int  // messages until the next look at all
	more bool // there were others with something waiting
}

const heaviestKept = 64

// get returns the stream with the most waiting; nil where none of those known has any.
func (h *heaviest) get(all func() []holder) holder {
	h.left--
	most := h.best()
	if h.left > 0 && (most != nil || !h.more) {
		return most
	}
	h.look(all())
	return h.best()
}

// best returns the one of the top that has the most waiting, and forgets those that have nothing.
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

// look chooses the top anew.
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
