package sim

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/gridmesh/grid"
)

// record is what both sides of a call have seen of it.
type record struct {
	w    *world
	plan *callPlan

	mu sync.Mutex // Protects following.

	// The caller.
	began, ended time.Duration // the caller's
	until        time.Duration // when its context ends; 0 for never
	outcomes     int
	err          error
	got          int           // messages of a stream that its consumer got
	offered      int           // messages that it tried to send
	sent         int           // messages that were taken
	closedInput  bool          // it has ended, or is about to end, the input
	fed          time.Duration // when it had sent all, or could send no more

	// The handler.
	runs         int
	running      bool
	handlerBegan time.Duration
	handlerEnded time.Duration
	handlerErr   *grid.RemoteErr // that it returned, or is about to panic with
	cut          bool            // it returned because its context had ended
	returned     bool            // a result, or no result by panic or Goexit
	answering    int             // messages that it tried to send
	answered     int             // messages that were taken
	received     int             // messages that it got
}

// begin takes note of the call. stops is how long its context lasts; 0 for ever.
func (r *record) begin(lasts time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.began = r.w.now()
	if lasts > 0 {
		r.until = r.began + lasts
	}
}

// end takes note of the outcome.
func (r *record) end(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ended = r.w.now()
	r.outcomes++
	r.err = err
}

// arrive takes note that the handler runs.
func (r *record) arrive() {
	r.w.pilots.Add(1)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.runs++
	r.running = true
	r.handlerBegan = r.w.now()
}

// leave takes note of the handler's end.
func (r *record) leave() {
	r.mu.Lock()
	r.running = false
	r.handlerEnded = r.w.now()
	r.mu.Unlock()
	r.w.pilots.Add(-1)
}

// returns takes note of what the handler returns.
func (r *record) returns(err *grid.RemoteErr) *grid.RemoteErr {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.returned, r.handlerErr = true, err
	return err
}

// returnsCut takes note of a handler that returns because its context has ended.
func (r *record) returnsCut(format string, args ...any) *grid.RemoteErr {
	r.mu.Lock()
	r.cut = true
	r.mu.Unlock()
	if r.plan.work.quiet {
		return r.returns(nil)
	}
	return r.returns(grid.NewRemoteErrf(format, args...))
}

func (r *record) hasReturned() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.returned
}

// count adds one to a number of the record and returns what it was.
func (r *record) count(n *int) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	*n++
	return *n - 1
}

// feeds takes note of the end of sending.
func (r *record) feeds() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.fed = r.w.now()
}

func (r *record) closesInput() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.closedInput = true
}

// violate takes note of a promise that was broken for the call.
func (r *record) violate(format string, args ...any) {
	p := r.plan
	r.w.violate("call %d (%v, %s to %s): %s", p.id, p.kind, r.w.nodes[p.from].host, r.w.nodes[p.to].host, fmt.Sprintf(format, args...))
}

// side says what a message is for, so that none is taken for another.
type side byte

const (
	sidePayload side = iota
	sideAnswer
	sideRequest  // of a stream
	sideResponse // of a stream
)

// simHeader is the least size of a message: call, side, number and size.
const simHeader = 8 + 1 + 4 + 4

// newMessage returns the nth message of a side of a call, in a buffer of the caller's.
func newMessage(id uint64, s side, n, size int) []byte {
	size = max(size, simHeader)
	b := grid.GetByteBufferCap(size)[:0]
	b = binary.BigEndian.AppendUint64(b, id)
	b = append(b, byte(s))
	b = binary.BigEndian.AppendUint32(b, uint32(n))
	b = binary.BigEndian.AppendUint32(b, uint32(size))
	x := id<<32 ^ uint64(s)<<24 ^ uint64(n)*0x9e3779b97f4a7c15
	for len(b)+8 <= size {
		x ^= x << 13
		x ^= x >> 7
		x ^= x << 17
		b = binary.LittleEndian.AppendUint64(b, x)
	}
	for len(b) < size {
		b = append(b, byte(len(b)))
	}
	return b
}

// verify compares a message to what it has to be.
func verify(b []byte, id uint64, s side, n, size int) error {
	want := newMessage(id, s, n, size)
	defer grid.PutByteBuffer(want)
	if bytes.Equal(b, want) {
		return nil
	}
	if len(b) < simHeader {
		return fmt.Errorf("got %d bytes in place of a message", len(b))
	}
	return fmt.Errorf("wanted message %d of side %d and call %d with %d bytes, got %d of side %d and call %d with %d bytes of %d",
		n, s, id, len(want), binary.BigEndian.Uint32(b[9:]), b[8], binary.BigEndian.Uint64(b), len(b), binary.BigEndian.Uint32(b[13:]))
}

// recordOf finds the record of a call by the payload that a handler was given.
func (w *world) recordOf(payload []byte) (*record, error) {
	if len(payload) < simHeader {
		return nil, fmt.Errorf("a payload of %d bytes", len(payload))
	}
	r := w.record(binary.BigEndian.Uint64(payload))
	if r == nil {
		return nil, errors.New("a payload of no call")
	}
	return r, verify(payload, r.plan.id, sidePayload, 0, r.plan.size)
}
