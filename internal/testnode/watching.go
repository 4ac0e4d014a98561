package testnode

import (
	"context"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gridmesh/grid/discovery"
)

// Watching is the Watch of a source that runs.
type Watching struct {
	// Stop ends it, and does not wait for that.
	Stop func()

	done chan struct{}
	err  error // that it has returned, once done is closed

	mu      sync.Mutex // Protects following.
	answers int
	last    string
}

// Watch starts to watch a source. It ends with the test.
func Watch(t *testing.T, s discovery.Source) *Watching {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	w := &Watching{Stop: cancel, done: make(chan struct{})}
	go func() {
		defer close(w.done)
		w.err = s.Watch(ctx, w.found)
	}()
	t.Cleanup(func() {
		cancel()
		<-w.done
	})
	return w
}

func (w *Watching) found(hosts []string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.answers++
	w.last = strings.Join(slices.Sorted(slices.Values(hosts)), " ")
}

// Last returns how many answers there were so far, and the names of the last one: sorted, with spaces
// between them.
func (w *Watching) Last() (answers int, names string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.answers, w.last
}

// Wait returns once the names are those of the last answer.
func (w *Watching) Wait(t *testing.T, want string) {
	t.Helper()
	for late := time.After(waitTime); ; time.Sleep(100 * time.Microsecond) {
		answers, last := w.Last()
		if answers > 0 && last == want {
			return
		}
		select {
		case <-w.done:
			t.Fatalf("Watch returned %v after %d answers, the last of which is %q, want %q", w.err, answers, last, want)
		case <-late:
			t.Fatalf("found %q in the last of %d answers, want %q", last, answers, want)
		default:
		}
	}
}

// WaitErr returns what Watch returns.
func (w *Watching) WaitErr(t *testing.T) error {
	t.Helper()
	select {
	case <-w.done:
	case <-time.After(waitTime):
		t.Fatal("Watch does not return")
	}
	return w.err
}

// waitTime bounds how long to wait for a source.
const waitTime = 20 * time.Second
