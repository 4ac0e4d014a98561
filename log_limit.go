package grid

import (
	"log/slog"
	"sync"
	"time"
)

// How often to log what others cause again and again: with the same reason, and with a different
// one.
const (
	logEvery        = time.Minute
	logChangedEvery = 10 * time.Second
)

const (
	// burstLines is how many lines of one kind, about any peer, are logged within logChangedEvery.
	burstLines = 10
	// comingLines is how many sessions of one peer are logged within logEvery.
	comingLines = 5
)

// logLimit bounds the lines of one kind that others can make a node log. Lines beyond the limit of
// a period are counted, and the next line has the count. The zero value allows one line per
// logEvery, and one with a different reason sooner.
type logLimit struct {
	lines int           // in a period; 0 means one
	every time.Duration // the period; 0 means logEvery

	mu      sync.Mutex // Protects following.
	began   time.Time  // of the period; zero before the first line
	written int        // lines since began
	reason  string     // in the last line
	skipped int        // lines left out since the last one
}

// newBurst returns the limit for lines about any peer.
func newBurst() logLimit { return logLimit{lines: burstLines, every: logChangedEvery} }

// allow reports whether a line with a reason may be written now, and how many lines were left out
// since the last one.
func (l *logLimit) allow(reason string) (skipped int, ok bool) {
	now := time.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	every := l.every
	if every == 0 {
		every = logEvery
	}
	if l.lines <= 1 && reason != l.reason {
		every = min(every, logChangedEvery)
	}
	if l.began.IsZero() || now.Sub(l.began) >= every {
		l.began, l.written = now, 0
	}
	if l.written >= max(l.lines, 1) {
		l.skipped++
		return 0, false
	}
	l.written++
	l.reason = reason
	skipped, l.skipped = l.skipped, 0
	return skipped, true
}

// sum returns how many lines were left out, and resets that count.
func (l *logLimit) sum() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	skipped := l.skipped
	l.skipped = 0
	return skipped
}

// reset lets the next line through, as if nothing had been logged.
func (l *logLimit) reset() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.began, l.written, l.skipped = time.Time{}, 0, 0
}

// warn logs a line that no reason of its own brings forward.
func (l *logLimit) warn(log *slog.Logger, text string, args ...any) {
	if skipped, ok := l.allow(""); ok {
		log.Warn(text, append(args, "more", skipped)...)
	}
}
