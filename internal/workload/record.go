package workload

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gridmesh/grid"
)

// Config is what a Workload needs to know.
type Config struct {
	Names      []string          // of the nodes, by number
	Windows    [Routes]Window    // of the streaming handlers
	Encodes    time.Duration     // for each message of a typed stream
	MaxMessage int               // Limits.MaxMessageSize of all nodes, in bytes; 0 for that of the package
	Allowance  time.Duration     // how late something may be, as the machine is busy; 0 in virtual time
	Violated   func(text string) // is told of a broken promise
	// Redraw plans the call of a number once more. It lets calls be forgotten when they have ended:
	// handlers that run after that need a plan. nil keeps all.
	Redraw func(id uint64) *Call
	Surroundings
}

// Surroundings is what happens around the calls, which decides what may become of them. Times count
// from New.
type Surroundings interface {
	// MayLose reports whether the connection of two nodes may have been lost between two times.
	MayLose(a, b int, since, until time.Duration) bool
	// Stopped reports whether one of two nodes was stopping between two times.
	Stopped(a, b int, since, until time.Duration) bool
	// Removed reports whether one of two nodes did not have the other among its hosts between two
	// times, or still refused its calls because of that.
	Removed(a, b int, since, until time.Duration) bool
	// Tampered reports whether messages between two nodes were lost, repeated or swapped.
	Tampered(a, b int) bool
	// Slowed is how long there was little bandwidth between two nodes: what is sent then, or waits
	// in front of it, comes late.
	Slowed(a, b int) time.Duration
	// Loss says why a call should not have been lost where MayLose is true; empty for nothing.
	Loss(c *Call, n *Notes) string
}

// Workload keeps the records of calls.
type Workload struct {
	config  Config
	began   time.Time
	records sync.Map     // by ID: *Record
	pilots  atomic.Int64 // handlers that run
	ran     *window      // nil where all records are kept
	typed   typed
}

// New returns a Workload without calls. Its time begins.
func New(c Config) *Workload {
	w := &Workload{config: c, began: time.Now(), typed: newTyped(c.Windows[routeTyped])}
	if c.Redraw != nil {
		w.ran = newWindow()
	}
	return w
}

// Now is the time since New.
func (w *Workload) Now() time.Duration { return time.Since(w.began) }

// Running returns the number of handlers that run.
func (w *Workload) Running() int { return int(w.pilots.Load()) }

// NextID returns the number of a new call, where calls are forgotten.
func (w *Workload) NextID() uint64 { return w.ran.next() }

// Add takes a plan.
func (w *Workload) Add(c *Call) *Record {
	r := &Record{w: w, Call: c}
	w.records.Store(c.ID, r)
	return r
}

// Record returns the record of a call; nil for none.
func (w *Workload) Record(id uint64) *Record {
	r, _ := w.records.Load(id)
	found, _ := r.(*Record)
	return found
}

// violate tells of a broken promise.
func (w *Workload) violate(format string, args ...any) {
	w.config.Violated(fmt.Sprintf(format, args...))
}

// Record is what both sides of a call have seen of it.
type Record struct {
	*Call
	w      *Workload
	orphan bool // the call has been forgotten, and its handler runs

	mu sync.Mutex // Protects following.
	Notes
	checked bool
}

// Notes are what is known of a call.
type Notes struct {
	// The caller.
	Began, Ended time.Duration
	Until        time.Duration // when its context ends; 0 for never
	Outcomes     int
	Err          error
	Got          int           // messages of a stream that its consumer got
	Offered      int           // messages that it tried to send
	Sent         int           // messages that were taken
	ClosedInput  bool          // it has ended, or is about to end, the input
	Fed          time.Duration // when it had sent all, or could send no more

	// The handler.
	Runs         int
	Running      bool
	HandlerBegan time.Duration
	HandlerEnded time.Duration
	HandlerErr   *grid.RemoteErr // that it returned, or is about to panic with
	Cut          bool            // it returned because its context had ended
	Returned     bool            // a result, or no result by panic or Goexit
	Answering    int             // messages that it tried to send
	Answered     int             // messages that were taken
	Received     int             // messages that it got
}

// Snapshot returns what is known at the moment.
func (r *Record) Snapshot() Notes {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.Notes
}

// begin takes note of the call.
func (r *Record) begin() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.Began = r.w.Now()
	if d := r.lasts(); d > 0 {
		r.Until = r.Began + d
	}
}

// end takes note of the outcome.
func (r *Record) end(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.Ended = r.w.Now()
	r.Outcomes++
	r.Err = err
}

// arrive takes note that the handler runs.
func (r *Record) arrive() {
	r.w.pilots.Add(1)
	if r.w.ran != nil {
		if err := r.w.ran.run(r.ID); err != nil {
			r.violate("%v", err)
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.Runs++
	r.Running = true
	r.HandlerBegan = r.w.Now()
}

// leave takes note of the handler's end.
func (r *Record) leave() {
	r.mu.Lock()
	r.Running = false
	r.HandlerEnded = r.w.Now()
	if r.checked {
		r.checkHandler()
		r.w.records.CompareAndDelete(r.ID, r)
	}
	r.mu.Unlock()
	r.w.pilots.Add(-1)
}

// returns takes note of what the handler returns.
func (r *Record) returns(err *grid.RemoteErr) *grid.RemoteErr {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.Returned, r.HandlerErr = true, err
	return err
}

// returnsCut takes note of a handler that returns because its context has ended.
func (r *Record) returnsCut(ctx context.Context) *grid.RemoteErr {
	r.mu.Lock()
	r.Cut = true
	r.mu.Unlock()
	if r.Work.Quiet && r.Kind.Stream() {
		return r.returns(nil)
	}
	return r.returns(grid.NewRemoteErrf("call %d canceled: %v", r.ID, context.Cause(ctx)))
}

func (r *Record) hasReturned() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.Returned
}

// count adds one to a number of the record and returns what it was.
func (r *Record) count(n *int) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	*n++
	return *n - 1
}

// feeds takes note of the end of sending.
func (r *Record) feeds() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.Fed = r.w.Now()
}

func (r *Record) closesInput() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ClosedInput = true
}

// Open says how far a call has come that has not returned; empty for others.
func (r *Record) Open() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.Began == 0 || r.Outcomes > 0 {
		return ""
	}
	return fmt.Sprintf("%v since %v, got %d, sent %d, handler running %v, %d runs, received %d, answered %d: %+v",
		r, r.Began, r.Got, r.Sent, r.Running, r.Runs, r.Received, r.Answered, *r.Call)
}

// Overdue is how long a call that has not returned is over the time that it has; 0 for not at all.
func (r *Record) Overdue() time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	limit := r.Until
	if limit == 0 {
		limit = r.Began + defaultDeadline
	}
	if over := r.w.Now() - limit; over > r.w.config.Allowance && r.Outcomes == 0 && r.Began > 0 {
		return over
	}
	return 0
}

// String names the call.
func (r *Record) String() string {
	return fmt.Sprintf("call %d (%v, %s to %s)", r.ID, r.Kind, r.w.config.Names[r.From], r.w.config.Names[r.To])
}

// violate tells of a promise that was broken for the call.
func (r *Record) violate(format string, args ...any) {
	r.w.violate("%v: %s", r, fmt.Sprintf(format, args...))
}
