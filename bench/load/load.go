// Package load has the loads that node 0 puts on the others where they are in another process, and
// counts what they do and cost.
package load

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/gridmesh/grid/bench/contender"
	"github.com/gridmesh/grid/bench/measure"
)

// Kind is a kind of load.
type Kind string

// The kinds.
const (
	// Calls is Callers that each make the next call when they have the answer to the last.
	Calls Kind = "calls"
	// Paced is Rate calls a second, however long they take.
	Paced Kind = "paced"
	// Fan is Callers that each call all nodes at once, and again when they have all answers.
	Fan Kind = "fan"
	// Streams is Callers that each take what comes on a stream.
	Streams Kind = "streams"
	// SlowStreams is Callers that each take Messages of a stream, with a Pause after each.
	SlowStreams Kind = "slow streams"
	// Beside is Paced beside Bulk, and Bulk alone before that.
	Beside Kind = "beside"
	// Crowd is Paced beside Calls with CrowdSize bytes.
	Crowd Kind = "crowd"
)

// Spec says what a load is like.
type Spec struct {
	Kind Kind
	Warm time.Duration // before the measurement
	Time time.Duration // of the measurement

	Callers int
	Rate    float64        // calls a second
	Size    int            // bytes of a request or of a message of a stream; of an echo with a zero Task
	Task    contender.Task // what a request asks for; the zero value is an echo
	Once    bool           // of Calls: each caller makes one call, however long it takes
	Timed   bool           // of Calls: how long does each take?

	Messages int
	Pause    time.Duration

	Bulk     int  // bytes of a large request
	BulkDown bool // the answer is large instead

	CrowdSize int // bytes
}

// Result is what a load has done. The zero value of a field is also that of a load which does not
// have it.
type Result struct {
	Done     uint64 // calls or messages within the time
	Failed   uint64 // calls or streams
	Failure  string // why the first failed
	Elapsed  time.Duration
	CPU      time.Duration // of both processes
	Peak     [2]int64      // bytes of memory of both processes, at most, since they have started
	Accepted int           // connections since the measurement has begun

	Fewest, Most uint64 // calls of a caller

	Mean, P50, P99, P999, Max time.Duration // of a call
	Late                      uint64        // calls that began later than they were due

	Bulk, BulkAlone float64 // bytes a second of large requests
	CrowdCalls      float64 // calls a second of the crowd

	Samples []Sample // of Paced, if Timed
}

// Sample is one call.
type Sample struct {
	Began, Ended time.Time
	OK           bool
}

// Seconds returns how long the measurement took.
func (r Result) Seconds() float64 { return r.Elapsed.Seconds() }

// PerSecond returns what was done in a second.
func (r Result) PerSecond() float64 { return float64(r.Done) / r.Seconds() }

// CPUEach returns the CPU time of one call or message.
func (r Result) CPUEach() time.Duration { return r.CPU / time.Duration(max(1, r.Done)) }

// Nodes are the nodes that a load is put on.
type Nodes struct {
	contender.Nodes
	Others int    // nodes of the other process, from node 1 on
	PIDs   [2]int // of both processes
}

const (
	// lateness is by how much a call may begin after it is due without being late.
	lateness = time.Millisecond
	// patience is how long what has been started may take to end when the time is up.
	patience = 2 * time.Minute
	// failurePause is how long a caller waits after a call that has failed.
	failurePause = time.Millisecond
)

var errStuck = fmt.Errorf("calls have not returned %v after the end", patience)

// Run puts a load on the nodes. It calls began when the measurement begins.
func Run(n Nodes, s Spec, began func()) (Result, error) {
	r := &run{Nodes: n, Spec: s, began: began}
	var err error
	switch s.Kind {
	case Calls:
		err = r.calls()
	case Paced:
		err = r.paced()
	case Fan:
		err = r.fan()
	case Streams:
		err = r.streams()
	case SlowStreams:
		err = r.slowStreams()
	case Beside:
		err = r.beside()
	case Crowd:
		err = r.crowd()
	default:
		err = fmt.Errorf("no load is named %q", s.Kind)
	}
	if err != nil {
		return Result{}, err
	}
	if r.result.Done == 0 && r.result.Failed > 0 {
		return Result{}, errors.New("all failed: " + r.result.Failure)
	}
	for i, pid := range n.PIDs {
		if r.result.Peak[i], err = measure.PeakMemory(pid); err != nil {
			return Result{}, err
		}
	}
	return r.result, nil
}

// run is a load that runs.
type run struct {
	Nodes
	Spec

	began func()

	mu     sync.Mutex // Protects following.
	result Result
}

// client returns a client of node 1 that has made a call.
func (r *run) client() (contender.Asker, error) {
	c, err := r.Client(0, 1)
	if err != nil {
		return nil, err
	}
	a, ok := c.(contender.Asker)
	if !ok {
		return nil, errors.New("its clients are no Askers")
	}
	return a, a.Echo(randomBytes(1))
}

// urgent returns the client whose calls pass others, where the contender has one, or else c.
func urgent(c contender.Asker) contender.Asker {
	if u, ok := c.(contender.Urgent); ok {
		return u.Urgent()
	}
	return c
}

// request returns what one caller sends.
func (r *run) request() []byte {
	if r.Task == (contender.Task{}) {
		return randomBytes(r.Size)
	}
	return taskOf(r.Task, r.Size)
}

func taskOf(t contender.Task, size int) []byte {
	b := randomBytes(max(size, 8))
	t.Put(b)
	return b
}

var errAnswerSize = errors.New("an answer of another size than asked for")

// call makes one call with a request of r.request.
func (r *run) call(c contender.Asker, request []byte) error {
	if r.Task == (contender.Task{}) {
		return c.Echo(request)
	}
	return ask(c, request, r.Task.Answer)
}

func ask(c contender.Asker, request []byte, answer int) error {
	n, err := c.Ask(request)
	if err == nil && n != answer {
		err = errAnswerSize
	}
	return err
}

// failed takes note of a failure.
func (r *run) failed(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.result.Failed == 0 {
		r.result.Failure = err.Error()
	}
	r.result.Failed++
}

// cost is the CPU time of both processes so far.
func (r *run) cost() (time.Duration, error) {
	a, err := measure.CPU(r.PIDs[0])
	if err != nil {
		return 0, err
	}
	b, err := measure.CPU(r.PIDs[1])
	return a + b, err
}

// during measures what f does.
func (r *run) during(f func()) error {
	r.began()
	before, err := r.cost()
	if err != nil {
		return err
	}
	start := time.Now()
	f()
	r.result.Elapsed = time.Since(start)
	after, err := r.cost()
	r.result.CPU = after - before
	return err
}

// times fills in how long calls took.
func (r *Result) times(all []time.Duration) {
	if len(all) == 0 {
		return
	}
	var sum time.Duration
	for _, t := range all {
		sum += t
	}
	r.Mean = sum / time.Duration(len(all))
	r.P50, r.P99, r.P999 = measure.Quantile(all, 0.5), measure.Quantile(all, 0.99), measure.Quantile(all, 0.999)
	r.Max = all[len(all)-1] // Quantile has sorted them
}

// wait waits for what has been started.
func wait(wg *sync.WaitGroup) error {
	done := make(chan struct{})
	go func() {
		wg.Wait()
		close(done)
	}()
	select {
	case <-done:
		return nil
	case <-time.After(patience):
		return errStuck
	}
}

func randomBytes(n int) []byte {
	b := make([]byte, 0, n+8)
	for rnd := rand.NewPCG(1, 2); len(b) < n; {
		b = binary.LittleEndian.AppendUint64(b, rnd.Uint64())
	}
	return b[:n:n]
}
