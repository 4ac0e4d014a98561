package contender

import (
	"encoding/binary"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gridmesh/grid/bench/measure"
)

// Task is what a node does for a request of Asker.
type Task struct {
	Answer  int           // bytes of the answer
	Compute time.Duration // of CPU, before it answers
}

const taskSize = 8 // bytes

// Put writes the task to the beginning of a request of at least 8 bytes.
func (t Task) Put(request []byte) {
	binary.LittleEndian.PutUint32(request, uint32(t.Answer))
	binary.LittleEndian.PutUint32(request[4:], uint32(t.Compute.Microseconds()))
}

var errBadTask = errors.New("request without a task")

// perform carries out the task of a request. The answer is from buffer.
func perform(request []byte, buffer func(n int) []byte) ([]byte, error) {
	if len(request) < taskSize {
		return nil, errBadTask
	}
	if micros := binary.LittleEndian.Uint32(request[4:]); micros > 0 {
		compute(time.Duration(micros) * time.Microsecond)
	}
	return buffer(int(binary.LittleEndian.Uint32(request))), nil
}

// allZeros is what zeros returns parts of.
var allZeros atomic.Pointer[[]byte]

// zeros returns n bytes that must not be written to.
func zeros(n int) []byte {
	b := allZeros.Load()
	if b == nil || len(*b) < n {
		more := make([]byte, n)
		b = &more
		allZeros.Store(b)
	}
	return (*b)[:n:n]
}

// perMilli is how many steps take a millisecond of CPU.
var perMilli = sync.OnceValue(func() float64 {
	const steps = 1 << 22
	took := measure.OwnThread(func() { spin(steps) })
	return steps / (float64(max(took, time.Microsecond)) / float64(time.Millisecond))
})

// compute takes CPU, as much as d on a machine that does nothing else: of the goroutine, however
// long it has to wait for a processor meanwhile.
func compute(d time.Duration) {
	spin(int(perMilli() * float64(d) / float64(time.Millisecond)))
}

var spun atomic.Uint64 // so that spin is not left out

func spin(steps int) {
	x := uint64(88172645463325252)
	for range steps {
		x ^= x << 13
		x ^= x >> 7
		x ^= x << 17
	}
	spun.Store(x)
}
