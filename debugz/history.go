package debugz

import (
	"slices"
	"sync"
	"time"

	"github.com/gridmesh/grid"
)

// The history of a page.
const (
	historyLength = time.Minute
	historyStep   = 800 * time.Millisecond // least time between two samples
)

// history remembers the counters of the last minute. Its zero value is ready.
type history struct {
	mu      sync.Mutex // Protects following.
	samples []sample   // the oldest first; never changed, so that a reader keeps what it has
}

// sample is a set of counters at one time.
type sample struct {
	time     time.Time
	peers    map[string]flows
	handlers map[handlerKey]int64
}

// flows is a connection's traffic.
type flows struct{ in, out grid.FlowStats }

func bytesIn(f *flows) int64     { return f.in.Bytes }
func bytesOut(f *flows) int64    { return f.out.Bytes }
func messagesIn(f *flows) int64  { return f.in.Messages }
func messagesOut(f *flows) int64 { return f.out.Messages }

// handlerKey tells handlers apart.
type handlerKey struct {
	role     grid.Role
	id       grid.HandlerID
	name     string // tells methods apart
	subroute string
}

func keyOf(h *grid.HandlerStats) handlerKey { return handlerKey{h.Role, h.ID, h.Name, h.Subroute} }

// add takes a sample if the last one is old enough, and returns all of them.
func (h *history) add(stats *grid.Stats) []sample {
	h.mu.Lock()
	defer h.mu.Unlock()
	old := h.samples
	if n := len(old); n > 0 && stats.Time.Sub(old[n-1].time) < historyStep {
		return old
	}
	for len(old) > 0 && stats.Time.Sub(old[0].time) > historyLength {
		old = old[1:]
	}
	s := sample{
		time:     stats.Time,
		peers:    make(map[string]flows, len(stats.Peers)),
		handlers: make(map[handlerKey]int64, len(stats.Handlers)),
	}
	for _, p := range stats.Peers {
		s.peers[p.Remote] = flows{p.In, p.Out}
	}
	for i := range stats.Handlers {
		s.handlers[keyOf(&stats.Handlers[i])] = stats.Handlers[i].Calls
	}
	h.samples = append(slices.Clip(old), s)
	return h.samples
}

// point is a rate per second at the end of the time it holds for.
type point struct {
	time time.Time
	rate float64
}

// peerSeries is the rate of one of a connection's counters.
func peerSeries(samples []sample, peer string, v func(*flows) int64) []point {
	return series(samples, func(s *sample) (int64, bool) {
		f, ok := s.peers[peer]
		return v(&f), ok
	})
}

// handlerSeries returns the rate of a handler's calls. A handler that was not called yet has had no
// calls.
func handlerSeries(samples []sample, key handlerKey) []point {
	return series(samples, func(s *sample) (int64, bool) { return s.handlers[key], true })
}

func series(samples []sample, v func(*sample) (int64, bool)) (points []point) {
	for i := 1; i < len(samples); i++ {
		before, ok := v(&samples[i-1])
		after, ok2 := v(&samples[i])
		if d := samples[i].time.Sub(samples[i-1].time).Seconds(); ok && ok2 && d > 0 {
			points = append(points, point{samples[i].time, float64(after-before) / d})
		}
	}
	return points
}
