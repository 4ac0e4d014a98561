package grid

import (
	"context"
	"log/slog"
	"maps"
	"sync"
	"time"
)

const (
	// logQueueLines is the most lines that wait for the application's log handler.
	logQueueLines = 256
	// logGrace bounds how long the end of a Manager waits for them.
	logGrace = time.Second
)

// logQueue stands between a Manager and the application's slog.Handler, which may be slow, stuck,
// or use the grid itself: a goroutine that logs leaves a line here and goes on, and another, which
// lives while there are lines, writes them in order. Lines without room, and those at which the
// handler panicked, are counted; the next line written says how many.
type logQueue struct {
	mu      sync.Mutex // Protects following.
	lines   []logLine
	logged  map[string]int64 // lines by message, also those that were lost
	lost    int              // lines lost since the last one written
	written chan struct{}    // closed when all lines are written; nil while there is no writer
}

// logLine is a line and the handler it goes to.
type logLine struct {
	to     slog.Handler
	derive func(slog.Handler) slog.Handler // nil for none
	ctx    context.Context
	record slog.Record
}

// logger returns a Logger that leaves its lines in the queue for the handler of to.
func (q *logQueue) logger(to *slog.Logger) *slog.Logger {
	return slog.New(queuedHandler{queue: q, to: to.Handler()})
}

// add leaves a line. It never waits.
func (q *logQueue) add(l logLine) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.logged == nil {
		q.logged = make(map[string]int64)
	}
	q.logged[l.record.Message]++
	if len(q.lines) == logQueueLines {
		q.lost++
		return
	}
	q.lines = append(q.lines, l)
	if q.written == nil {
		q.written = make(chan struct{})
		go q.write()
	}
}

// count returns how many lines were logged, by message.
func (q *logQueue) count() map[string]int64 {
	q.mu.Lock()
	defer q.mu.Unlock()
	return maps.Clone(q.logged)
}

// write writes lines until none are left.
func (q *logQueue) write() {
	for l, lost, ok := q.take(); ok; l, lost, ok = q.take() {
		guarded(func() {
			if !l.write(lost) {
				q.lose(lost)
			}
		}, func(how endedBy, _ any) {
			if how != returned {
				q.lose(lost + 1)
			}
			if how == exited {
				go q.write()
			}
		})
	}
}

// lose counts lines that nobody will see.
func (q *logQueue) lose(n int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.lost += n
}

// take takes the next line and the number of lines lost before it. If there is none, it records
// that the writer is gone.
func (q *logQueue) take() (l logLine, lost int, ok bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.lines) == 0 {
		close(q.written)
		q.lines, q.written = nil, nil
		return l, 0, false
	}
	l = q.lines[0]
	q.lines[0] = logLine{}
	q.lines = q.lines[1:]
	lost, q.lost = q.lost, 0
	return l, lost, true
}

// write calls the application's handler. It reports whether the handler wants the line.
func (l *logLine) write(lost int) bool {
	to := l.to
	if l.derive != nil {
		to = l.derive(to)
	}
	if lost > 0 {
		l.record.AddAttrs(slog.Int("lost", lost))
	}
	if !to.Enabled(l.ctx, l.record.Level) {
		return false
	}
	_ = to.Handle(l.ctx, l.record) // there is nowhere else to tell
	return true
}

// flush waits for all lines to be written, at most for patience. Lines that a stuck handler leaves
// behind are dropped.
func (q *logQueue) flush(patience time.Duration) {
	q.mu.Lock()
	written := q.written
	q.mu.Unlock()
	if written == nil {
		return
	}
	late := time.NewTimer(patience)
	defer late.Stop()
	select {
	case <-written:
		return
	case <-late.C:
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	q.lost += len(q.lines)
	q.lines = nil
}

// queuedHandler is the slog.Handler of a logQueue. It calls none of the application's code.
type queuedHandler struct {
	queue  *logQueue
	to     slog.Handler
	derive func(slog.Handler) slog.Handler // with the attributes and groups of the Logger; nil for none
}

// Enabled lets every line into the queue: only the application's handler, which may be stuck, can
// say whether it is wanted.
func (h queuedHandler) Enabled(context.Context, slog.Level) bool { return true }

func (h queuedHandler) Handle(ctx context.Context, r slog.Record) error {
	h.queue.add(logLine{to: h.to, derive: h.derive, ctx: ctx, record: r.Clone()})
	return nil
}

func (h queuedHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return h.with(func(to slog.Handler) slog.Handler { return to.WithAttrs(attrs) })
}

func (h queuedHandler) WithGroup(name string) slog.Handler {
	return h.with(func(to slog.Handler) slog.Handler { return to.WithGroup(name) })
}

func (h queuedHandler) with(change func(slog.Handler) slog.Handler) slog.Handler {
	if before := h.derive; before != nil {
		h.derive = func(to slog.Handler) slog.Handler { return change(before(to)) }
	} else {
		h.derive = change
	}
	return h
}
