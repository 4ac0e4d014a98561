package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gridmesh/grid"
)

// shownBroken is how many broken promises are printed.
const shownBroken = 20

// broken are the promises that were not kept. The first are kept with their text.
type broken struct {
	mu    sync.Mutex // Protects following.
	count uint64
	first []string
}

func (b *broken) add(format string, a ...any) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.count++
	if len(b.first) < shownBroken {
		b.first = append(b.first, fmt.Sprintf(format, a...))
	}
}

func (b *broken) all() (count uint64, first []string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.count, b.first
}

// ranWindow is a bit for each of the last calls: whether its handler has run. A
// call that was forgotten when it ended can still be found to run again.
type ranWindow struct {
	bits []atomic.Uint64
	last atomic.Uint64 // the number of the last call
}

// soakWindow is how many calls the window goes back. It takes 512 KiB.
const soakWindow = 1 << 22

func newRanWindow() *ranWindow { return &ranWindow{bits: make([]atomic.Uint64, soakWindow/64)} }

// next returns the number of a new call, which has not run.
func (w *ranWindow) next() uint64 {
	id := w.last.Add(1)
	word, bit := w.at(id)
	word.And(^bit)
	return id
}

// run takes note that the handler of a call runs, and says what is wrong with that.
func (w *ranWindow) run(id uint64) error {
	switch last := w.last.Load(); {
	case id == 0 || id > last:
		return fmt.Errorf("the handler runs for call %d, which nobody has made", id)
	case last-id >= soakWindow/2:
		return fmt.Errorf("the handler of call %d runs %d calls later", id, last-id)
	}
	word, bit := w.at(id)
	if word.Or(bit)&bit != 0 {
		return fmt.Errorf("the handler of call %d runs again", id)
	}
	return nil
}

func (w *ranWindow) hasRun(id uint64) bool {
	word, bit := w.at(id)
	return word.Load()&bit != 0
}

func (w *ranWindow) at(id uint64) (word *atomic.Uint64, bit uint64) {
	id %= soakWindow
	return &w.bits[id/64], 1 << (id % 64)
}

// period are the times at which something goes on that calls may suffer from.
type period struct {
	mu     sync.Mutex // Protects following.
	active int
	ended  time.Time // the last of them
}

func (p *period) begin() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.active++
}

func (p *period) end() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.active--
	p.ended = time.Now()
}

// touches says whether any of it lay between a time and now.
func (p *period) touches(since time.Time) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.active > 0 || p.ended.After(since)
}

// soakOutcome is how a call ended.
type soakOutcome struct {
	soakPlan
	err     error
	took    time.Duration
	got     int  // messages of a stream that its consumer has got
	ran     bool // the handler has been called
	lost    bool // the connection may have been lost meanwhile
	stopped bool // one of the nodes has been stopping meanwhile
}

var (
	errSoakCanceled = errors.New("the caller has canceled")
	errSoakLeft     = errors.New("the consumer has left")
	errSoakWrong    = errors.New("wrong content")
)

// defaultDeadline is that of a request without one, which package grid keeps to within a few seconds.
const defaultDeadline = time.Minute

// due is how long a call may take, beside what is allowed for a busy machine.
func (p *soakPlan) due() time.Duration {
	if p.deadline > 0 {
		return p.deadline
	}
	return defaultDeadline + 5*time.Second
}

// judge says what is wrong with an outcome; empty for nothing.
func (o *soakOutcome) judge(allowance time.Duration) string {
	if limit := o.limit(); o.took > limit+allowance {
		return fmt.Sprintf("took %v in place of at most %v", o.took, limit)
	}
	remote := grid.IsRemoteErr(o.err)
	switch err := o.err; {
	case err == nil:
		return o.judgeSuccess()
	case errors.Is(err, errSoakWrong):
		return err.Error()
	case errors.Is(err, errSoakLeft):
		if o.leaveAfter < 0 {
			return "nobody has left"
		}
	case errors.Is(err, errSoakCanceled):
		if o.cancelAfter == 0 || o.took < o.cancelAfter {
			return "nobody has canceled"
		}
	case errors.Is(err, context.DeadlineExceeded):
		if o.took < defaultDeadline && (o.deadline == 0 || o.took < o.deadline) {
			return fmt.Sprintf("the deadline is not over after %v", o.took)
		}
	case errors.Is(err, grid.ErrDisconnected):
		if !o.lost && !o.stopped {
			return "nothing has happened to the connection"
		}
	case errors.Is(err, grid.ErrShutdown):
		if !o.stopped {
			return "no node was stopping"
		}
	case errors.Is(err, grid.ErrUnknownHandler):
		if o.kind != soakUnknown {
			return "the handler is there"
		}
	case remote != nil:
		return o.judgeRemote(string(*remote))
	default:
		return "nothing is known of such an error"
	}
	return ""
}

// limit is when a call has to be over.
func (p *soakPlan) limit() time.Duration {
	if p.cancelAfter > 0 {
		return min(p.cancelAfter, p.due())
	}
	return p.due()
}

func (o *soakOutcome) judgeSuccess() string {
	switch {
	case o.kind == soakUnknown:
		return "there is no such handler"
	case o.end != endWell:
		return "the handler has failed"
	case !o.ran:
		return "the handler has not run"
	case o.got != o.down:
		return fmt.Sprintf("%d of %d messages arrived", o.got, o.down)
	}
	return ""
}

// judgeRemote judges an error that the handler has returned.
func (o *soakOutcome) judgeRemote(text string) string {
	switch {
	case o.kind == soakUnknown:
		return "there is no such handler"
	case !o.ran:
		return "the handler has not run"
	case text == o.abandoned():
		// An answer may come just when the deadline is over. What loses a connection, or stops a node, cancels its handlers.
		if o.kind.hasContext() && (o.lost || o.stopped || o.deadline > 0 && o.took >= o.deadline || o.cancelAfter > 0 && o.took >= o.cancelAfter) {
			return ""
		}
		return "nobody has given it up"
	case o.end == endWithError && text == o.failure(), o.end == endWithPanic && strings.HasSuffix(text, "panicked: "+o.panicText()):
		if o.got != o.down {
			return fmt.Sprintf("%d of %d messages arrived", o.got, o.down)
		}
		return ""
	}
	return "its handler does not fail so"
}
