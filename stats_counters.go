package grid

import (
	"math/bits"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"
)

// traffic counts what a Connection sends and receives, over all its sessions. Each half has one
// writer at a time, the reader or the flusher of the live session, which counts once per frame, not
// per message. The halves do not share a cache line.
type traffic struct {
	_       [64]byte
	flowIn  flow
	_       [64]byte
	flowOut flow
	_       [64]byte
}

// flow is one direction of a connection.
type flow struct {
	bytes    atomic.Int64
	messages atomic.Int64
	frames   atomic.Int64
	merged   atomic.Int64 // frames with more than one message
}

// add counts bytes.
func (f *flow) add(n int64) { f.bytes.Add(n) }

// frame counts a frame of n messages.
func (f *flow) frame(n int) {
	f.frames.Add(1)
	f.messages.Add(int64(n))
	if n > 1 {
		f.merged.Add(1)
	}
}

func (f *flow) stats() FlowStats {
	return FlowStats{
		Bytes:        f.bytes.Load(),
		Messages:     f.messages.Load(),
		Frames:       f.frames.Load(),
		MergedFrames: f.merged.Load(),
	}
}

// refusalCounters count the refusals of a Connection by limit.
type refusalCounters [limitCount]atomic.Int64

func (r *refusalCounters) stats() RefusalStats {
	return RefusalStats{
		MaxRequests:     r[limitRequests].Load(),
		MaxRequestBytes: r[limitRequestBytes].Load(),
		MaxStreams:      r[limitStreams].Load(),
		MaxStreamBytes:  r[limitStreamBytes].Load(),
	}
}

// handlerCounters count the calls of one handler over one connection in one direction. They are
// allocated with the first call and fill four cache lines of their own, so that connections do not
// disturb each other.
type handlerCounters struct {
	calls   atomic.Int64 // ended
	streams atomic.Int64 // of calls
	failure atomic.Pointer[failureCounters]
	nanos   atomic.Int64 // sum of what is in buckets
	buckets [LatencyBuckets]atomic.Int64
	_       [24]byte
}

// failureCounters count the failures of the calls in handlerCounters. They are allocated with the
// first failure.
type failureCounters struct {
	classes [errorClasses]atomic.Int64
	codes   [codes]atomic.Int64 // of those of handlers

	// The errors that disconnected calls return: requests, and streams.
	request, stream atomic.Pointer[callError]
}

// disconnected is where the error of disconnected calls is kept.
func (f *failureCounters) disconnected(stream bool) *atomic.Pointer[callError] {
	if stream {
		return &f.stream
	}
	return &f.request
}

// failures returns the counters of failures.
func (h *handlerCounters) failures() *failureCounters {
	if f := h.failure.Load(); f != nil {
		return f
	}
	h.failure.CompareAndSwap(nil, new(failureCounters))
	return h.failure.Load()
}

// Client latencies: the first calls of a handler to a peer are all timed, later ones by random
// sampling. Reading the clock costs several times as much as all other counting of a call.
const (
	timedCalls   = 256
	sampleWeight = 8 // one call in sampleWeight is timed, and counts that many times
)

// stopwatch times a call, unless its weight is 0.
type stopwatch struct {
	start  time.Time
	weight int64 // calls that this one stands for
}

// begin decides whether a call is timed.
func (h *handlerCounters) begin() (w stopwatch) {
	switch {
	case h.calls.Load() < timedCalls:
		w.weight = 1
	case rand.Uint32()%sampleWeight == 0:
		w.weight = sampleWeight
	default:
		return w
	}
	w.start = time.Now()
	return w
}

// end counts a call that was sent.
func (h *handlerCounters) end(w stopwatch) {
	h.calls.Add(1)
	if w.weight > 0 {
		h.observe(time.Since(w.start), w.weight)
	}
}

// ended counts a call and its duration.
func (h *handlerCounters) ended(d time.Duration) {
	h.calls.Add(1)
	h.observe(d, 1)
}

// streamEnded counts a stream, and how long it was open.
func (h *handlerCounters) streamEnded(d time.Duration) {
	h.streams.Add(1)
	h.ended(d)
}

func (h *handlerCounters) observe(d time.Duration, weight int64) {
	h.buckets[latencyBucket(d)].Add(weight)
	h.nanos.Add(int64(d) * weight)
}

// latencyBucket is the number of the bucket that d belongs to.
func latencyBucket(d time.Duration) int {
	if d <= 0 {
		return 0
	}
	return min(max(bits.Len64(uint64(d)-1)-firstLatencyBits, 0), LatencyBuckets-1)
}

// failed counts the error of a call.
func (h *handlerCounters) failed(class ErrorClass) { h.failures().classes[class].Add(1) }

// handlerFailed counts an error of the handler.
func (h *handlerCounters) handlerFailed(err error) {
	f := h.failures()
	f.classes[ErrorHandler].Add(1)
	f.codes[CodeOf(err).failure()].Add(1)
}

// add adds what is counted in another, which nothing changes anymore.
func (h *handlerCounters) add(other *handlerCounters) {
	h.calls.Add(other.calls.Load())
	h.streams.Add(other.streams.Load())
	if f := other.failure.Load(); f != nil {
		for class := range f.classes {
			h.failures().classes[class].Add(f.classes[class].Load())
		}
		for code := range f.codes {
			h.failures().codes[code].Add(f.codes[code].Load())
		}
	}
	h.nanos.Add(other.nanos.Load())
	for i := range h.buckets {
		h.buckets[i].Add(other.buckets[i].Load())
	}
}

// addTo adds what is counted to s.
func (h *handlerCounters) addTo(s *HandlerStats) {
	s.Calls += h.calls.Load()
	s.EndedStreams += h.streams.Load()
	if f := h.failure.Load(); f != nil {
		for class := range f.classes {
			*s.Errors.count(ErrorClass(class)) += f.classes[class].Load()
		}
		for code := range f.codes {
			s.Errors.Codes[code] += f.codes[code].Load()
		}
	}
	s.Latency.Sum += time.Duration(h.nanos.Load())
	for i := range h.buckets {
		s.Latency.Buckets[i] += h.buckets[i].Load()
	}
}

// counterTable holds handlerCounters by a small number. Looking one up costs two loads. Its zero
// value is ready.
type counterTable struct {
	list atomic.Pointer[counterList] // never changed: adding makes a new one
	mu   sync.Mutex                  // one addition at a time
}

// counterList has the counters of the numbers from first on, some of them nil: the IDs of an
// application's handlers follow each other, but do not begin with 0.
type counterList struct {
	first    int
	counters []*handlerCounters
}

// get returns the counters of a number, which it makes the first time.
func (t *counterTable) get(i int) *handlerCounters {
	if h := t.lookup(i); h != nil {
		return h
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if h := t.lookup(i); h != nil {
		return h
	}
	list := t.list.Load().with(i)
	h := new(handlerCounters)
	list.counters[i-list.first] = h
	t.list.Store(list)
	return h
}

// with returns a copy of a list, which may be nil, with room for a number.
func (l *counterList) with(i int) *counterList {
	if l == nil {
		return &counterList{i, make([]*handlerCounters, 1)}
	}
	first := min(l.first, i)
	end := max(l.first+len(l.counters), i+1)
	grown := &counterList{first, make([]*handlerCounters, end-first)}
	copy(grown.counters[l.first-first:], l.counters)
	return grown
}

// lookup returns nil if nothing was counted yet.
func (t *counterTable) lookup(i int) *handlerCounters {
	if l := t.list.Load(); l != nil {
		if at := uint(i - l.first); at < uint(len(l.counters)) {
			return l.counters[at]
		}
	}
	return nil
}

// all returns the counters by number. Some are nil.
func (t *counterTable) all() []*handlerCounters {
	l := t.list.Load()
	if l == nil {
		return nil
	}
	all := make([]*handlerCounters, l.first+len(l.counters))
	copy(all[l.first:], l.counters)
	return all
}
