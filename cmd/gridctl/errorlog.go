package main

import (
	"bytes"
	"log"
	"log/slog"
	"sync"
	"time"
)

// How many lines a server logs of what strangers do, such as TLS handshakes that fail.
const (
	strangerLines  = 10
	strangerPeriod = 10 * time.Second
)

// newErrorLog returns a log for http.Server.ErrorLog that writes so many lines and counts the
// others.
func newErrorLog(to *slog.Logger) *log.Logger { return log.New(&boundedLog{to: to}, "", 0) }

// boundedLog is the writer of such a log.
type boundedLog struct {
	to *slog.Logger

	mu      sync.Mutex // Protects following.
	began   time.Time  // of the period
	lines   int        // since began
	skipped int        // since the last line
}

// Write takes one line.
func (l *boundedLog) Write(line []byte) (int, error) {
	if skipped, ok := l.take(time.Now()); ok {
		l.to.Warn(string(bytes.TrimSpace(line)), "more", skipped)
	}
	return len(line), nil
}

// take reports whether a line may be written now, and how many could not since the last one.
func (l *boundedLog) take(now time.Time) (skipped int, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if now.Sub(l.began) >= strangerPeriod {
		l.began, l.lines = now, 0
	}
	if l.lines == strangerLines {
		l.skipped++
		return 0, false
	}
	l.lines++
	skipped, l.skipped = l.skipped, 0
	return skipped, true
}
