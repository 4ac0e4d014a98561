package batch

import (
	"errors"
	"os"
	"time"
)

// The most bytes that one write takes. If a write cannot be continued, its deadline covers all of
// it.
const (
	writeChunk   = 1 << 20
	oneShotChunk = 64 << 10
)

// progress tells a slow connection from a dead one.
//
// Writes have short deadlines, at most a quarter of the timeout. An expired one ends nothing: it is
// the time to check whether bytes have moved since the last check. So the time of the last movement
// is known to a quarter of the timeout, and while writes end in time nothing is checked at all.
type progress struct {
	deadline time.Time // of writes
	moved    time.Time // when a byte last moved, or the write began
	taken    int64     // bytes taken by the connection
	acked    int64     // of them, acknowledged at the last check; math.MinInt64 before the first
}

// write sends b. It fails once no byte has moved for the timeout.
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

// arm sets the deadline of the next write. It keeps an earlier one that is far enough ahead, so
// that most writes need not move it.
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
// deadline, and a byte has moved within the timeout.
func (w *Writer) mayGoOn(n int, err error) bool {
	p, now := &w.progress, time.Now()
	if w.cfg.OneShot || !errors.Is(err, os.ErrDeadlineExceeded) {
		return false
	}
	late := now.Sub(p.deadline)
	if late < -w.cfg.Timeout/8 {
		return false // it did not wait: the connection takes nothing after its first deadline
	}
	// A process that is itself late has given the connection no chance.
	if w.acknowledged() || n > 0 || late > w.cfg.Timeout/4 {
		p.moved = now
	}
	left := p.moved.Add(w.cfg.Timeout).Sub(now)
	return left > 0 && w.allow(now.Add(min(left, w.cfg.Timeout/4))) == nil
}

// acknowledged reports whether the other end has acknowledged bytes since the last check, which may
// have been during an earlier write.
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
