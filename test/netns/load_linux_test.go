package netns

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gridmesh/grid"
	"github.com/gridmesh/grid/internal/workload"
)

// kind is a kind of call to a process that is made again and again: gridctl node has handlers for
// these.
type kind struct {
	name     string
	deadline time.Duration
	pause    time.Duration // between two calls
	call     func(ctx context.Context, c *grid.Connection, id uint64, size int) error
	size     int // bytes of a message
}

// kinds are the calls from each caller to each other member. They are small: a network that is out
// must not have the socket buffers filled before the peer's silence is noticed, which is another
// scenario.
var kinds = []kind{
	{"short", 500 * time.Millisecond, 50 * time.Millisecond, echo, 64},
	{"long", longDeadline, 100 * time.Millisecond, echo, 1 << 10},
	{"stream", longDeadline, 250 * time.Millisecond, receive, 512},
}

// longDeadline is one within which calls between healthy nodes must succeed.
const longDeadline = 3 * time.Second

// flood are calls that fill socket buffers.
var flood = kind{"flood", longDeadline, 10 * time.Millisecond, echo, 1 << 20}

// allowance is how long after its deadline a call may return: the machine may be busy.
const allowance = 3 * time.Second

// echo makes a request.
func echo(ctx context.Context, c *grid.Connection, id uint64, size int) error {
	payload := workload.Message(id, workload.SidePayload, 0, size)
	defer grid.PutByteBuffer(payload)
	answer, err := c.Request(ctx, handlerEcho, payload)
	if err != nil {
		return err
	}
	defer grid.PutByteBuffer(answer)
	return workload.Verify(answer, id, workload.SidePayload, 0, size)
}

// receive receives a short stream.
func receive(ctx context.Context, c *grid.Connection, _ uint64, size int) error {
	const messages = 5
	st, err := c.NewStream(ctx, handlerSource, fmt.Appendf(nil, "%d %d", messages, size))
	if err != nil {
		return err
	}
	got, want := 0, make([]byte, size)
	err = st.Results(func(b []byte) error {
		defer grid.PutByteBuffer(b)
		if got++; !bytes.Equal(b, want) {
			return fmt.Errorf("wrong message %d of a stream", got)
		}
		return nil
	})
	if err == nil && got != messages {
		err = fmt.Errorf("a stream of %d messages, want %d", got, messages)
	}
	return err
}

// phase is a part of a scenario.
type phase int32

const (
	before phase = iota
	during       // the fault
	after
	phases
)

// load is the calls of a scenario. Those between callers are a workload, whose handlers they have.
type load struct {
	*workload.Workload
	w      *world
	phase  atomic.Int32
	stop   chan struct{}
	ended  chan struct{} // closed when all callers have ended
	number atomic.Uint64 // of calls

	callers sync.WaitGroup

	mu       sync.Mutex // Protects following.
	tallies  map[pair]*tally
	open     map[uint64]string // calls that run
	overdue  time.Duration     // the longest time that a call returned past its deadline
	problems []string
}

// pair is a caller and whom it calls.
type pair struct{ from, to string }

// tally counts the calls of a pair.
type tally struct {
	ok, failed [phases]int // by the phase in which they began
	longFailed [phases]int // of failed, calls with a long deadline
	recovered  time.Time   // when the first call succeeded that began after the heal
	errors     map[string]int
}

func startLoad(w *world) *load {
	l := &load{
		Workload: w.work, w: w, stop: make(chan struct{}), ended: make(chan struct{}), tallies: make(map[pair]*tally), open: make(map[uint64]string),
	}
	for _, from := range callers {
		for _, to := range members {
			if from == to {
				continue
			}
			p := pair{from, to}
			l.tallies[p] = &tally{errors: make(map[string]int)}
			if w.machine(to).manager != nil {
				l.callers.Go(l.work)
				continue
			}
			for _, k := range kinds {
				l.add(p, k)
			}
		}
	}
	return l
}

// work makes calls of all kinds between the callers.
func (l *load) work() {
	for {
		select {
		case <-l.stop:
			return
		default:
		}
		in := phase(l.phase.Load())
		r := l.Add(draw(l.NextID()))
		p := pair{callers[r.From], callers[r.To]}
		r.Run(l.w.machine(p.from).manager, nil)
		l.Check(r)
		l.mu.Lock()
		l.tallies[p].ok[in]++ // else Check has found a problem
		l.mu.Unlock()
		time.Sleep(20 * time.Millisecond)
	}
}

// draw returns the call of a number between the callers.
func draw(id uint64) *workload.Call {
	c := workload.NewDrawer(1, id).Call(id, len(callers), 0, &workload.Brisk)
	if c.Kind == workload.TooLarge {
		c.Kind = workload.Request // these nodes take as much as others
	}
	return c
}

// healthy is what happens around the calls between callers: nothing.
type healthy struct{}

func (healthy) MayLose(int, int, time.Duration, time.Duration) bool { return false }
func (healthy) Removed(int, int, time.Duration, time.Duration) bool { return false }
func (healthy) Stopped(int, int, time.Duration, time.Duration) bool { return false }
func (healthy) Tampered(int, int) bool                              { return false }
func (healthy) Slowed(int, int) time.Duration                       { return 0 }
func (healthy) Loss(*workload.Call, *workload.Notes) string         { return "" }

// newWork returns the workload between callers.
func newWork(t *testing.T) *workload.Workload {
	window := workload.Window{In: 4, Out: 8}
	var names []string
	for _, name := range callers {
		names = append(names, gridName(name))
	}
	return workload.New(workload.Config{
		Names:        names,
		Windows:      [workload.Routes]workload.Window{window, window, window},
		Allowance:    allowance,
		Violated:     func(text string) { t.Error(text) },
		Redraw:       draw,
		Surroundings: healthy{},
	})
}

// add adds a caller.
func (l *load) add(p pair, k kind) {
	l.callers.Go(func() {
		pause := time.NewTicker(k.pause)
		defer pause.Stop()
		c := l.w.machine(p.from).manager.Connection(gridName(p.to))
		for {
			select {
			case <-l.stop:
				return
			case <-pause.C:
			}
			l.call(p, k, c)
		}
	})
}

// call makes a call and takes note of how it ended.
func (l *load) call(p pair, k kind, c *grid.Connection) {
	number, in := l.number.Add(1), phase(l.phase.Load())
	l.mu.Lock()
	l.open[number] = fmt.Sprintf("%s from %s to %s", k.name, p.from, p.to)
	l.mu.Unlock()
	began := time.Now()
	ctx, cancel := context.WithDeadline(context.Background(), began.Add(k.deadline))
	err := k.call(ctx, c, number, k.size)
	ended := time.Now()
	cancel()

	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.open, number)
	t := l.tallies[p]
	l.overdue = max(l.overdue, ended.Sub(began)-k.deadline)
	if late := ended.Sub(began) - k.deadline; late > allowance {
		l.problem("%s from %s to %s returned %v past its deadline of %v, with %v", k.name, p.from, p.to, late, k.deadline, err)
	}
	if err == nil {
		t.ok[in]++
		if in == after && t.recovered.IsZero() {
			t.recovered = ended
		}
		return
	}
	t.failed[in]++
	if k.deadline >= longDeadline {
		t.longFailed[in]++
	}
	text := errorKind(err)
	t.errors[text]++
	if text == "" {
		l.problem("%s from %s to %s: %v", k.name, p.from, p.to, err)
	}
}

// errorKind says which of the errors that a fault may cause one is, empty for none.
func errorKind(err error) string {
	switch o := workload.Classify(err); {
	case o == workload.OfLoss, o == workload.OfDeadline:
		return o.String()
	case o == workload.OfHandler && strings.Contains(err.Error(), context.DeadlineExceeded.Error()):
		return "deadline exceeded at the handler"
	}
	return ""
}

// problem takes note of what must not happen. l.mu is held.
func (l *load) problem(format string, a ...any) {
	if len(l.problems) < 20 {
		l.problems = append(l.problems, fmt.Sprintf(format, a...))
	}
}

// enter begins a phase.
func (l *load) enter(p phase) time.Time {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.phase.Store(int32(p))
	return time.Now()
}

// count returns the calls of a pair that began in a phase.
func (l *load) count(p pair, in phase) (ok, failed, longFailed int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	t := l.tallies[p]
	return t.ok[in], t.failed[in], t.longFailed[in]
}

// total returns all calls.
func (l *load) total() (ok, failed int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, t := range l.tallies {
		for in := range phases {
			ok += t.ok[in]
			failed += t.failed[in]
		}
	}
	return ok, failed
}

// recovered returns when the first call of a pair succeeded that began after the heal; zero for
// none.
func (l *load) recovered(p pair) time.Time {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.tallies[p].recovered
}

// settle waits until calls of all pairs succeed in a phase.
func (l *load) settle(in phase) {
	l.w.t.Helper()
	for p := range l.tallies {
		l.w.waitFor(fmt.Sprintf("calls from %s to %s", p.from, p.to), func() bool {
			ok, _, _ := l.count(p, in)
			return ok >= 5
		})
	}
}

// finish ends the calls, and reports those that do not end, and all that was wrong.
func (l *load) finish() {
	l.w.t.Helper()
	close(l.stop)
	go func() {
		l.callers.Wait()
		close(l.ended)
	}()
	select {
	case <-l.ended:
	case <-time.After(longDeadline + allowance + time.Second):
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, call := range l.open {
		l.w.t.Errorf("a call hangs: %s", call)
	}
	for _, problem := range l.problems {
		l.w.t.Error(problem)
	}
	var texts []string
	for p, t := range l.tallies {
		texts = append(texts, fmt.Sprintf("%s>%s: ok %v, failed %v, of these long %v %v", p.from, p.to, t.ok, t.failed, t.longFailed, t.errors))
	}
	slices.Sort(texts)
	l.w.t.Logf("calls before, during and after the fault:\n%s", strings.Join(texts, "\n"))
}
