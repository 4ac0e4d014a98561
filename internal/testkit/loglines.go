package testkit

import (
	"strings"
	"sync"
	"testing"
	"time"
)

// LogLines keeps what is logged, and wakes those who wait for a line. Its methods may be called at
// any time.
type LogLines struct {
	mu      sync.Mutex // Protects following.
	lines   []string
	changed chan struct{} // closed by the next line
}

// NewLogLines returns a log without lines.
func NewLogLines() *LogLines { return &LogLines{changed: make(chan struct{})} }

// Write takes one line.
func (l *LogLines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lines = append(l.lines, string(b))
	close(l.changed)
	l.changed = make(chan struct{})
	return len(b), nil
}

// String returns all lines.
func (l *LogLines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Join(l.lines, "")
}

// Wait returns the first line with all texts.
func (l *LogLines) Wait(t *testing.T, texts ...string) string {
	t.Helper()
	late := time.After(20 * time.Second)
	for {
		l.mu.Lock()
		lines, changed := l.lines, l.changed
		l.mu.Unlock()
	next:
		for _, line := range lines {
			for _, text := range texts {
				if !strings.Contains(line, text) {
					continue next
				}
			}
			return line
		}
		select {
		case <-changed:
		case <-late:
			t.Fatalf("waited in vain for a line with %q in\n%s", texts, l)
		}
	}
}
