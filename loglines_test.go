package grid

import (
	"strings"
	"sync"
	"testing"
	"time"
)

// logLines keeps what is logged, and wakes those who wait for a line.
type logLines struct {
	mu      sync.Mutex // Protects following.
	lines   []string
	changed chan struct{} // closed by the next line
}

func newLogLines() *logLines { return &logLines{changed: make(chan struct{})} }

// Write takes one line.
func (l *logLines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lines = append(l.lines, string(b))
	close(l.changed)
	l.changed = make(chan struct{})
	return len(b), nil
}

func (l *logLines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Join(l.lines, "")
}

// wait returns the first line with all texts.
func (l *logLines) wait(t *testing.T, texts ...string) string {
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
