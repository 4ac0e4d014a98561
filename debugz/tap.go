package debugz

import (
	"context"
	"path"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gridmesh/grid"
	"github.com/gridmesh/grid/internal/visible"
)

// Bounds of what is watched.
const (
	maxTaps = 8
	// maxTapText is the length of what says which calls to watch, in bytes.
	maxTapText = 1 << 10
	tapBuffer  = 4096 // traces that wait for a look
	tapBatch   = 512  // traces of a look
	tapIdle    = 10 * time.Second
	tapWait    = time.Second           // for the first trace
	tapGather  = 20 * time.Millisecond // for more
)

// taps are those who watch the calls of a node. They look again and again, by requests, rather than
// to keep a stream: that would have a node wait that shuts down, and end with the connection.
type taps struct {
	m *grid.Manager

	mu   sync.Mutex // Protects following.
	open map[tapKey]*tap
}

// tapKey is who watches, and which of their taps it is.
type tapKey struct{ caller, id string }

// tap collects calls until somebody looks, or nobody does anymore.
type tap struct {
	options TapOptions
	ch      chan grid.TraceInfo
	dropped atomic.Int64
	done    chan struct{}
	idle    *time.Timer
}

// look returns what a tap has seen since the last look. It waits a moment for something.
func (t *taps) look(ctx context.Context, caller string, r *tapRequest) (*Tapped, error) {
	key := tapKey{caller, r.ID}
	if r.End {
		t.end(key)
		return new(Tapped), nil
	}
	one, err := t.get(key, &r.TapOptions)
	if err != nil {
		return nil, err
	}
	var traces []grid.TraceInfo
	for wait := time.After(tapWait); ; {
		select {
		case info := <-one.ch:
			if len(traces) == 0 {
				wait = time.After(tapGather)
			}
			info.Error, _ = visible.Cut(info.Error, maxText)
			if traces = append(traces, info); len(traces) < tapBatch {
				continue
			}
		case <-wait:
		case <-ctx.Done():
		}
		return &Tapped{traces, one.dropped.Load()}, nil
	}
}

// get returns a tap, which it may have to begin.
func (t *taps) get(key tapKey, o *TapOptions) (*tap, error) {
	if n := len(o.Handler) + len(o.Peer) + len(key.id); n > maxTapText { // all calls are compared with these
		return nil, grid.Errorf(grid.InvalidArgument, "%d bytes of patterns and names, at most %d are allowed", n, maxTapText)
	}
	if _, err := path.Match(o.Handler, ""); err != nil {
		return nil, grid.Errorf(grid.InvalidArgument, "%q is no pattern: %w", o.Handler, err)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	one := t.open[key]
	switch {
	case one != nil:
		one.idle.Reset(tapIdle)
		return one, nil
	case len(t.open) >= maxTaps:
		return nil, grid.Errorf(grid.ResourceExhausted, "%d are watching already", maxTaps)
	}
	one = &tap{options: *o, ch: make(chan grid.TraceInfo, tapBuffer), done: make(chan struct{})}
	if one.options.Types == 0 {
		one.options.Types = grid.TraceInternode | grid.TraceServed
	}
	if err := t.m.Traces().Subscribe(one.options.Types, make(chan grid.TraceInfo), one.done, one.take); err != nil {
		return nil, err
	}
	one.idle = time.AfterFunc(tapIdle, func() { t.end(key) })
	t.open[key] = one
	return one, nil
}

func (t *taps) end(key tapKey) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if one := t.open[key]; one != nil {
		one.idle.Stop()
		close(one.done)
		delete(t.open, key)
	}
}

// take is a filter that keeps what it wants itself, to count what finds no room.
func (t *tap) take(info grid.TraceInfo) bool {
	if t.options.wants(&info) {
		select {
		case t.ch <- info:
		default:
			t.dropped.Add(1)
		}
	}
	return false
}

// wants reports whether a call is one of those to watch.
func (o *TapOptions) wants(info *grid.TraceInfo) bool {
	name := strings.TrimPrefix(info.Handler, "grid.")
	switch {
	case o.Errors && info.Error == "", info.Duration < o.Slower, !strings.Contains(info.Remote, o.Peer):
		return false
	case o.Handler == "":
		return !strings.HasPrefix(name, toolPrefix)
	}
	matches, _ := path.Match(flat(o.Handler), flat(name))
	return matches
}

// flat makes one element of a path.
func flat(name string) string { return strings.ReplaceAll(name, "/", "\x00") }
