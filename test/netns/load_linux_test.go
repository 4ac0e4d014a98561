package netns

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gridmesh/grid"
)

// kind is a kind of call that is made again and again.
type kind struct {
	name     string
	deadline time.Duration
	pause    time.Duration // between two calls
	call     func(ctx context.Context, c *grid.Connection, payload []byte) error
	size     int // bytes of the payload
}

// kinds are the calls from each caller to each other member. They are small: a network that is out must not have the socket
// buffers filled before the peer's silence is noticed, which is another scenario.
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

var errWrong = errors.New("wrong answer")

// echo makes a request.
func echo(ctx context.Context, c *grid.Connection, payload []byte) error {
	answer, err := c.Request(ctx, handlerEcho, payload)
	if err != nil {
		return err
	}
	defer grid.PutByteBuffer(answer)
	if !bytes.Equal(answer, payload) {
		return fmt.Errorf("%w: %d bytes for %d, or others", errWrong, len(answer), len(payload))
	}
	return nil
}

// receive receives a short stream.
func receive(ctx context.Context, c *grid.Connection, payload []byte) error {
	const messages = 5
	st, err := c.NewStream(ctx, handlerSource, fmt.Appendf(nil, "%d %d", messages, len(payload)))
	if err != nil {
		return err
	}
	got, want := 0, make([]byte, len(payload))
	err = st.Results(func(b []byte) error {
		defer grid.PutByteBuffer(b)
		if got++; !bytes.Equal(b, want) {
			return fmt.Errorf("%w: message %d of a stream", errWrong, got)
		}
		return nil
	})
	if err == nil && got != messages {
		err = fmt.Errorf("%w: a stream of %d messages, want %d", errWrong, got, messages)
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

// load is the calls of a scenario.
type load struct {
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
	l := &load{w: w, stop: make(chan struct{}), ended: make(chan struct{}), tallies: make(map[pair]*tally), open: make(map[uint64]string)}
	for _, from := range callers {
		for _, to := range members {
			if from == to {
				continue
			}
			p := pair{from, to}
			l.tallies[p] = &tally{errors: make(map[string]int)}
			for _, k := range kinds {
				if k.name == "stream" && w.machine(to).manager != nil {
					continue // callers have no source
				}
				l.add(p, k)
			}
		}
	}
	return l
}

// add adds a caller.
func (l *load) add(p pair, k kind) {
	l.callers.Go(func() {
		pause := time.NewTicker(k.pause)
		defer pause.Stop()
		payload := bytes.Repeat([]byte(p.from+p.to+k.name), k.size)[:k.size]
		c := l.w.machine(p.from).manager.Connection(gridName(p.to))
		for {
			select {
			case <-l.stop:
				return
			case <-pause.C:
			}
			l.call(p, k, c, payload)
		}
	})
}

// call makes a call and takes note of how it ended.
func (l *load) call(p pair, k kind, c *grid.Connection, payload []byte) {
	number, in := l.number.Add(1), phase(l.phase.Load())
	binary.BigEndian.PutUint64(payload, number)
	l.mu.Lock()
	l.open[number] = fmt.Sprintf("%s from %s to %s", k.name, p.from, p.to)
	l.mu.Unlock()
	began := time.Now()
	ctx, cancel := context.WithDeadline(context.Background(), began.Add(k.deadline))
	err := k.call(ctx, c, payload)
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
	switch {
	case errors.Is(err, grid.ErrDisconnected):
		return "disconnected"
	case errors.Is(err, context.DeadlineExceeded):
		return "deadline exceeded"
	case grid.IsRemoteErr(err) != nil && strings.Contains(err.Error(), context.DeadlineExceeded.Error()):
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

// recovered returns when the first call of a pair succeeded that began after the heal; zero for none.
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
