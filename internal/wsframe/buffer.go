package wsframe

import (
	"io"

	"github.com/gridmesh/grid/internal/bytepool"
)

const (
	minBuffer = 1 << 10  // bytes of an idle buffer
	maxBuffer = 64 << 10 // bytes of a busy one

	// smallReads is how many reads in a row, each below an eighth of the buffer, make it shrink.
	smallReads = 8
	// peek is how many bytes a frugal read takes beyond what is needed: a header, or what is small.
	peek = 512
	// emptyReads is how many reads in a row may bring neither bytes nor an error.
	emptyReads = 100
)

// readBuffer holds what was read but not yet taken. Its target size quadruples after a read that
// filled it, and drops to a quarter after several small ones; it takes effect when the buffer has
// to make room anyway.
type readBuffer struct {
	buf        []byte // from the pool, at its full length
	start, end int    // the unread part of buf
	target     int    // size that buf should have
	small      int    // small reads in a row
	frugal     bool   // what comes next is read to another place, but for its header
	err        error  // came with the last bytes
}

func (b *readBuffer) init(early []byte) {
	buf := append(bytepool.Get(max(minBuffer, len(early))), early...)
	b.buf, b.end = buf[:cap(buf)], len(buf)
	b.target = min(len(b.buf), maxBuffer)
}

func (b *readBuffer) release() {
	bytepool.Put(b.buf)
	b.buf, b.start, b.end = nil, 0, 0
}

func (b *readBuffer) bytes() []byte { return b.buf[b.start:b.end] }
func (b *readBuffer) len() int      { return b.end - b.start }
func (b *readBuffer) size() int     { return len(b.buf) }

// fits reports whether n bytes, from the current place on, fit in the buffer at once.
func (b *readBuffer) fits(n int) bool { return n <= max(len(b.buf), b.target) }

// take returns the next n bytes, which must be there, with no capacity beyond.
func (b *readBuffer) take(n int) []byte {
	p := b.buf[b.start : b.start+n : b.start+n]
	b.start += n
	return p
}

// leastDirect returns how many bytes of a payload must be left for reading past the empty buffer to be
// worth a system call. Where that reads little beyond them, it costs none.
func (b *readBuffer) leastDirect() int {
	if b.frugal {
		return peek
	}
	return max(minDirect, len(b.buf)/2)
}

// takeUpTo returns the next n bytes, or as many as there are.
func (b *readBuffer) takeUpTo(n int) []byte { return b.take(min(n, b.len())) }

// fill reads until n bytes, which must fit, are there.
func (b *readBuffer) fill(src io.Reader, n int) error {
	b.makeRoom(n)
	for b.len() < n {
		if b.frugal {
			if err := b.fillFrugally(src, n); err != nil {
				return err
			}
			continue
		}
		got, err := b.readInto(src, b.buf[b.end:])
		if err != nil {
			return err
		}
		b.adapt(got)
		b.end += got
	}
	return nil
}

// fillFrugally reads once, and little more than n bytes. That says nothing about the size that the
// buffer should have.
func (b *readBuffer) fillFrugally(src io.Reader, n int) error {
	got, err := b.readInto(src, b.buf[b.end:min(b.start+n+peek, len(b.buf))])
	b.end += got
	return err
}

// adapt chooses the target size of the buffer after a read of got bytes into all its free part.
func (b *readBuffer) adapt(got int) {
	switch {
	case got == len(b.buf)-b.end:
		b.small = 0
		b.target = min(4*len(b.buf), maxBuffer)
	case got >= len(b.buf)/8:
		b.small = 0
	default:
		b.small++
		if b.small >= smallReads && len(b.buf) > minBuffer {
			b.small = 0
			b.target = max(len(b.buf)/4, minBuffer)
		}
	}
}

// makeRoom moves the unread bytes to the start of the buffer, or of a new one, so that n bytes fit
// from there on.
func (b *readBuffer) makeRoom(n int) {
	old := b.bytes()
	if b.target != len(b.buf) && max(n, len(old)) <= b.target {
		resized := bytepool.Get(b.target)
		resized = resized[:cap(resized)]
		copy(resized, old)
		bytepool.Put(b.buf)
		b.buf = resized
	} else {
		copy(b.buf, old)
	}
	b.start, b.end = 0, len(old)
}

// readInto reads from src once, into p, bypassing the buffer: at least one byte or an error. An
// error that comes with bytes is kept for the next read.
func (b *readBuffer) readInto(src io.Reader, p []byte) (int, error) {
	if b.err != nil {
		return 0, b.err
	}
	for range emptyReads {
		n, err := src.Read(p)
		if n > 0 {
			b.err = err
			return n, nil
		}
		if err != nil {
			return 0, err
		}
	}
	return 0, io.ErrNoProgress
}
