package grid

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gridmesh/grid/internal/testkit"
)

// hookHandler is a slog.Handler that calls functions, either of which may be nil.
type hookHandler struct {
	enabled func(slog.Level) bool
	handle  func(slog.Record)
}

func (h hookHandler) Enabled(_ context.Context, l slog.Level) bool {
	return h.enabled == nil || h.enabled(l)
}

func (h hookHandler) Handle(_ context.Context, r slog.Record) error {
	if h.handle != nil {
		h.handle(r)
	}
	return nil
}

func (h hookHandler) WithAttrs([]slog.Attr) slog.Handler { return h }
func (h hookHandler) WithGroup(string) slog.Handler      { return h }

// logged is the text of a line with its attributes.
func logged(r slog.Record) string {
	text := r.Message
	r.Attrs(func(a slog.Attr) bool {
		text += " " + a.String()
		return true
	})
	return text
}

// recordedLines are the lines that a slog.Handler was given.
type recordedLines struct {
	mu    sync.Mutex // Protects following.
	lines []string
}

func (m *recordedLines) add(r slog.Record) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.lines = append(m.lines, logged(r))
}

func (m *recordedLines) all() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.lines)
}

func TestLinesAreWrittenInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var q logQueue
		var got recordedLines
		log := q.logger(slog.New(hookHandler{handle: got.add}))
		var want []string
		for i := range logQueueLines {
			log.Info("line", "n", i)
			want = append(want, fmt.Sprintf("line n=%d", i))
		}
		synctest.Wait()
		if lines := got.all(); !slices.Equal(lines, want) {
			t.Errorf("got %q", lines)
		}
		if q.written != nil || q.lines != nil {
			t.Error("the writer of an empty queue is still there")
		}
	})
}

// Attributes and groups of a Logger reach the application's handler, which is not called by who
// logs.
func TestQueuedLinesKeepAttributesAndGroups(t *testing.T) {
	var q logQueue
	out := testkit.NewLogLines()
	log := q.logger(slog.New(slog.NewTextHandler(out, nil)).With("a", 1))
	log.With("b", 2).WithGroup("g").With("c", 3).Warn("x", "d", 4)
	out.Wait(t, "msg=x a=1 b=2 g.c=3 g.d=4\n")
}

// What a handler that is stuck makes the queue drop is counted, in the next line that is written.
func TestLinesThatAreDroppedAreCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var q logQueue
		var got recordedLines
		goOn := make(chan struct{})
		log := q.logger(slog.New(hookHandler{handle: func(r slog.Record) {
			if r.Message == "stuck" {
				<-goOn
			}
			got.add(r)
		}}))
		log.Info("stuck")
		synctest.Wait()
		for range logQueueLines {
			log.Info("waits")
		}
		for range 7 {
			log.Info("dropped")
		}
		close(goOn)
		synctest.Wait()
		lines := got.all()
		if len(lines) != 1+logQueueLines || lines[1] != "waits lost=7" || lines[2] != "waits" || slices.Contains(lines, "dropped") {
			t.Errorf("%d lines, the first %q", len(lines), lines[:3])
		}
		if got, want := q.count(), map[string]int64{"stuck": 1, "waits": logQueueLines, "dropped": 7}; !maps.Equal(got, want) {
			t.Errorf("counted %v, want %v", got, want)
		}
	})
}

// A handler that panics, or ends its goroutine, costs the line at which it does, whichever of its
// methods that is.
func TestALogHandlerThatPanicsLosesOneLine(t *testing.T) {
	fail := map[string]func(){"panics": func() { panic("full disk") }, "exits": runtime.Goexit}
	for name, fail := range fail {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var q logQueue
				var got recordedLines
				log := q.logger(slog.New(hookHandler{
					enabled: func(l slog.Level) bool {
						if l == slog.LevelWarn {
							fail()
						}
						return l > slog.LevelDebug
					},
					handle: func(r slog.Record) {
						if r.Message == "bad" {
							fail()
						}
						got.add(r)
					},
				}))
				log.Info("first")
				log.Info("bad")
				log.Warn("bad level")
				log.Debug("unwanted") // does not take the count with it
				log.Info("next")
				log.Info("last")
				synctest.Wait()
				if lines := got.all(); !slices.Equal(lines, []string{"first", "next lost=2", "last"}) {
					t.Errorf("got %q", lines)
				}
			})
		})
	}
}

// The end of a Manager waits for the lines that are queued, but not for a handler that is stuck, or
// that ends it itself.
func TestTheEndOfAManagerWaitsForItsLog(t *testing.T) {
	node := func(t *testing.T, handle func(slog.Record)) *Manager {
		o := playerOptions("http://127.0.0.1:1")
		o.Logger = slog.New(hookHandler{handle: handle})
		return newTestNode(t, o)
	}
	t.Run("slow", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			var got recordedLines
			m := node(t, func(r slog.Record) { time.Sleep(logGrace / 10); got.add(r) })
			for range 5 {
				m.node.log.Info("line")
			}
			m.Close()
			if n := len(got.all()); n != 5 {
				t.Errorf("%d lines are written when Close returns, want 5", n)
			}
		})
	})
	t.Run("stuck", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			var got recordedLines
			stuck := make(chan struct{})
			m := node(t, func(r slog.Record) { got.add(r); <-stuck })
			m.node.log.Info("line")
			m.node.log.Info("never written")
			began := time.Now()
			m.Close()
			if took := time.Since(began); took > 2*logGrace {
				t.Errorf("Close took %v", took)
			}
			close(stuck)
			synctest.Wait() // the writer ends with the line at which it was
			if lines := got.all(); len(lines) != 1 {
				t.Errorf("written: %q", lines)
			}
		})
	})
	ends := map[string]func(*Manager){
		"Close":    func(m *Manager) { m.Close() },
		"Shutdown": func(m *Manager) { m.Shutdown(context.Background()) },
	}
	for name, end := range ends {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var m *Manager
				ended := make(chan struct{})
				m = node(t, func(slog.Record) { end(m); close(ended) })
				m.node.log.Info("line")
				<-ended
			})
		})
	}
}

// A log handler at any line of a connection may be stuck, or call the peer over it.
func TestLogHandlersMayCallThePeer(t *testing.T) {
	for _, text := range []string{"grid: connected", "grid: overloaded"} {
		t.Run(strings.TrimPrefix(text, "grid: "), func(t *testing.T) {
			c := newTCPPair(t)
			calls := make([]chan error, 2)
			var ready sync.WaitGroup
			ready.Add(1)
			c.start(t, func(i int, o *ManagerOptions) {
				calls[i] = make(chan error, 1)
				o.Limits.MaxRequests = 1
				o.Logger = slog.New(hookHandler{handle: func(r slog.Record) {
					if r.Message != text {
						return
					}
					ready.Wait()
					ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
					defer cancel()
					_, err := c.conn(i, 1-i).Request(ctx, testSingle, []byte("quick"))
					calls[i] <- err
				}})
			})
			release := make(chan struct{})
			c.handle(t, func(ctx context.Context, b []byte) ([]byte, error) {
				if string(b) == "wait" {
					select {
					case <-release:
					case <-ctx.Done():
					}
				}
				return b, nil
			})
			c.waitConnected(t)
			if text == "grid: connected" {
				ready.Done()
				for i := range calls {
					if err := <-calls[i]; err != nil {
						t.Errorf("node %d: %v", i, err)
					}
				}
				return
			}
			// Node 1 refuses a second request of node 0, and logs it.
			first := make(chan error, 1)
			go func() {
				_, err := c.conn(0, 1).Request(context.Background(), testSingle, []byte("wait"))
				first <- err
			}()
			eventually(t, "the first request", func() bool { return c.conn(1, 0).Stats().IncomingRequests == 1 })
			c.conn(0, 1).Request(context.Background(), testSingle, nil)
			ready.Done()
			if err := <-calls[1]; err != nil {
				t.Error(err)
			}
			close(release)
			if err := <-first; err != nil {
				t.Error(err)
			}
		})
	}
}

// With handlers that are stuck in their first line, nodes connect, call, and end.
func TestALogHandlerThatIsStuckStopsNothing(t *testing.T) {
	stuck := make(chan struct{})
	defer close(stuck)
	c := newTCPPair(t)
	c.start(t, func(_ int, o *ManagerOptions) {
		o.Logger = slog.New(hookHandler{handle: func(slog.Record) { <-stuck }, enabled: func(slog.Level) bool { <-stuck; return true }})
	})
	c.handle(t, func(_ context.Context, b []byte) ([]byte, error) { return b, nil })
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	for i := range 2 {
		if err := c.conn(i, 1-i).WaitForConnect(ctx); err != nil {
			t.Fatal(err)
		}
		if _, err := c.conn(i, 1-i).Request(ctx, testSingle, nil); err != nil {
			t.Error(err)
		}
	}
	for _, n := range c.nodes {
		n.Close()
	}
}
