package batch

import (
	"errors"
	"os"
	"time"
)

// What one write takes at the most, in bytes: with one that cannot be continued, its deadline
// covers all of it.
const (
	writeChunk   = 1 << 20
	oneShotChunk = 64 << 10
)

// progress tells a connection that is slow from one that is dead.
//
// Writes have short deadlines, of a quarter of the timeout at the most. One that expires ends
// nothing: it is the time to look whether bytes have moved since the last look. So it is known to a
// quarter of the timeout when the last byte moved, and while writes end in time nothing is looked
// at at all.
type progress struct {
	deadline time.Time // of writes
	moved    time.Time // when a byte moved last, or the write began
	taken    int64     // bytes that the connection has taken
	acked    int64     // of them, acknowledged at the last look; the least of all before the first
}

// write sends b. It fails when no byte has moved for the timeout.
func (w *Writer) write(b []byte) error {
	p, chunk := &w.progress, writeChunk
	if w.cfg.OneShot {
		chunk = oneShotChunk
	}
	p.moved = time.Now()
	for len(b) > 0 {
		if err := w.arm(); err != nil {
			return err
		}
		n, err := w.conn.Write(b[:min(len(b), chunk)])
		if w.cfg.OnWrite != nil && n > 0 {
			w.cfg.OnWrite(n)
		}
		b = b[n:]
		p.taken += int64(n)
		switch {
		case err != nil && !w.mayGoOn(n, err):
			return err
		case err == nil && len(b) > 0:
			p.moved = time.Now()
		}
	}
	return nil
}

// arm sees to the deadline of the next write. It may be that of one before, so that most writes
// need not move it.
func (w *Writer) arm() error {
	p := &w.progress
	switch {
	case w.cfg.OneShot:
		return w.allow(p.moved.Add(w.cfg.Timeout))
	case p.deadline.Sub(p.moved) < w.cfg.Timeout/8:
		return w.allow(p.moved.Add(w.cfg.Timeout / 4))
	}
	return nil
}

// allow sets the connection's write deadline.
func (w *Writer) allow(deadline time.Time) error {
	w.progress.deadline = deadline
	return w.conn.SetWriteDeadline(deadline)
}

// mayGoOn reports whether a write that failed after n bytes may be continued: it ran into its
// deadline, and the timeout has not passed since a byte moved.
func (w *Writer) mayGoOn(n int, err error) bool {
	p, now := &w.progress, time.Now()
	if w.cfg.OneShot || !errors.Is(err, os.ErrDeadlineExceeded) {
		return false
	}
	late := now.Sub(p.deadline)
	if late < -w.cfg.Timeout/8 {
		return false // it did not wait: a connection that takes nothing after its first deadline
	}
	// A process that is late itself has given the connection no chance.
	if w.acknowledged() || n > 0 || late > w.cfg.Timeout/4 {
		p.moved = now
	}
	left := p.moved.Add(w.cfg.Timeout).Sub(now)
	return left > 0 && w.allow(now.Add(min(left, w.cfg.Timeout/4))) == nil
}

// acknowledged reports whether the other end has acknowledged bytes since the last look, which may
// have been at an earlier write.
func (w *Writer) acknowledged() bool {
	if w.cfg.Unacknowledged == nil {
		return false
	}
	n, ok := w.cfg.Unacknowledged()
	if !ok {
		return false
	}
	p := &w.progress
	before := p.acked
	p.acked = p.taken - int64(n)
	return p.acked > before
}
