package debugz

import (
	"slices"
	"sync"
	"time"

	"github.com/gridmesh/grid"
)

// The windows of a page end when it is taken. They are differences between what has been counted by
// then and at a mark, which is made when somebody looks. So they cost calls nothing.
const (
	shortWindow = 10 * time.Second
	minute      = time.Minute
	longWindow  = 5 * time.Minute
	// markStep is the least time between two marks of the last minute, oldMarkStep that between
	// older ones: how much longer than its name says a window may be.
	markStep    = 5 * time.Second
	oldMarkStep = 30 * time.Second
	// maxTracked bounds the pairs of a peer and a handler that have windows: those with the most
	// calls. A mark takes some 350 bytes for each of which something was counted since the last
	// mark, and there are up to 24 marks.
	maxTracked = 2048
)

// Window is what was counted during a while that ended when the status was taken.
type Window struct {
	// Over is how long that while was: up to 5 seconds longer than the window's name says, or 30 in
	// case of FiveMinutes. It is shorter where nobody has looked for so long, and 0 if nothing is
	// known, because nobody has looked before. The start of the node is as good as a look.
	Over time.Duration
	// Calls is the number of calls that ended, Errors how many of them failed.
	Calls, Errors int64
	// P50 and P99 are how long half of the calls took at most, and all but one in a hundred, as far
	// as grid.Latency can tell. They are 0 if no call was timed, and for streams, whose times are no
	// latencies.
	P50, P99 time.Duration
}

// CallRate returns calls per second, 0 if nothing is known.
func (w Window) CallRate() float64 { return perWindow(w.Calls, w.Over) }

// Windows are what was counted lately.
type Windows struct {
	TenSeconds, Minute, FiveMinutes Window
}

// PeerWindow is a Window of the calls from this node to a peer, with what went over the connection.
type PeerWindow struct {
	Window
	BytesIn, BytesOut, MessagesIn, MessagesOut int64
}

func perWindow(n int64, over time.Duration) float64 {
	if over <= 0 {
		return 0
	}
	return float64(n) / over.Seconds()
}

// tally is what has been counted of something by some time. It is not changed once it is marked.
type tally struct {
	calls, errors int64
	latency       grid.Latency // of requests
	flows         flows        // of a peer
	removals      int          // how often the counters have begun anew, because their peer was removed
}

// tallyKey says what is counted: a handler with all peers if there is no peer, all calls to a peer if
// there is no handler.
type tallyKey struct {
	peer string
	handlerKey
}

type tallies map[tallyKey]*tally

// newTally counts the calls of a handler.
func newTally(h *grid.HandlerStats) *tally {
	t := &tally{calls: h.Calls, errors: h.Errors.Total()}
	if !hasStreams(h) {
		t.latency = h.Latency
	}
	return t
}

// hasStreams reports whether what a handler's Latency has is how long streams were open.
func hasStreams(h *grid.HandlerStats) bool { return h.EndedStreams > 0 || h.Streams > 0 }

// add adds what was counted of calls.
func (t *tally) add(o *tally) {
	t.calls += o.calls
	t.errors += o.errors
	t.latency.Sum += o.latency.Sum
	for i, n := range o.latency.Buckets {
		t.latency.Buckets[i] += n
	}
}

// since returns what was counted since an earlier tally: all, if the counters have begun anew since.
func (t *tally) since(earlier *tally) tally {
	if earlier == nil || t.removals != earlier.removals {
		return *t
	}
	d := *t
	d.calls -= earlier.calls
	d.errors = max(d.errors-earlier.errors, 0)
	d.latency.Sum = max(d.latency.Sum-earlier.latency.Sum, 0)
	for i, n := range earlier.latency.Buckets {
		d.latency.Buckets[i] = max(d.latency.Buckets[i]-n, 0)
	}
	d.flows.in.Bytes -= earlier.flows.in.Bytes
	d.flows.in.Messages -= earlier.flows.in.Messages
	d.flows.out.Bytes -= earlier.flows.out.Bytes
	d.flows.out.Messages -= earlier.flows.out.Messages
	return d
}

func (t *tally) window(over time.Duration) Window {
	return Window{over, t.calls, t.errors, t.latency.Quantile(0.5), t.latency.Quantile(0.99)}
}

// mark is what had been counted by some time.
type mark struct {
	time    time.Time
	tallies tallies
}

// marks remembers what was counted in the last five minutes. Its zero value is ready.
type marks struct {
	mu  sync.Mutex // Protects following.
	all []mark     // the oldest first; never changed, so that a reader keeps what it has
}

// add makes a mark if the last one is old enough, and returns the marks before now.
func (m *marks) add(now mark, started time.Time) []mark {
	m.mu.Lock()
	defer m.mu.Unlock()
	before := m.all
	if before == nil {
		before = []mark{{time: started}} // when nothing had been counted
	}
	last := before[len(before)-1]
	now.follow(last)
	if m.all == nil || now.time.Sub(last.time) >= markStep {
		m.all = thinOut(append(slices.Clip(before), now), now.time)
	}
	return before
}

// follow tells tallies that have begun anew since another mark, and shares those that have not changed.
func (m mark) follow(earlier mark) {
	for key, t := range m.tallies {
		old := earlier.tallies[key]
		if old == nil {
			continue
		}
		t.removals = old.removals
		if t.calls < old.calls || t.flows.in.Bytes < old.flows.in.Bytes {
			t.removals++
		}
		if *t == *old {
			m.tallies[key] = old
		}
	}
}

// thinOut returns the marks that are still needed.
func thinOut(all []mark, now time.Time) (kept []mark) {
	for i, m := range all {
		age := now.Sub(m.time)
		switch next := i + 1; {
		case next == len(all) || age <= minute+markStep:
			return append(kept, all[i:]...)
		case now.Sub(all[next].time) >= longWindow:
			continue // the next one serves as well
		case len(kept) > 0 && m.time.Sub(kept[len(kept)-1].time) < oldMarkStep && now.Sub(all[next].time) > minute:
			continue
		}
		kept = append(kept, m)
	}
	return kept
}

// base returns the mark that a window of some length begins with. It is nil if nothing is known.
func base(marks []mark, now time.Time, length time.Duration) (b *mark) {
	for i := range slices.Backward(marks) {
		age := now.Sub(marks[i].time)
		if age <= 0 { // a look at the same time, or just after it
			continue
		}
		if age > length+length/4 {
			break
		}
		if b = &marks[i]; age >= length {
			break
		}
	}
	return b
}

// recent has the windows that end at a time.
type recent struct {
	now                   mark
	short, minute, longer *mark // where they begin; nil if that is not known
	last                  []mark
}

func newRecent(now mark, before []mark) *recent {
	return &recent{
		now:    now,
		short:  base(before, now.time, shortWindow),
		minute: base(before, now.time, minute),
		longer: base(before, now.time, longWindow),
		last:   before,
	}
}

// since returns what was counted since a mark, and for how long that is.
func (r *recent) since(from *mark, key tallyKey) (tally, time.Duration) {
	now := r.now.tallies[key]
	if from == nil || now == nil {
		return tally{}, 0
	}
	return now.since(from.tallies[key]), r.now.time.Sub(from.time)
}

// windows returns the windows of a handler, with one peer or all.
func (r *recent) windows(key tallyKey) (w Windows) {
	for _, at := range []struct {
		from *mark
		to   *Window
	}{{r.short, &w.TenSeconds}, {r.minute, &w.Minute}, {r.longer, &w.FiveMinutes}} {
		t, over := r.since(at.from, key)
		*at.to = t.window(over)
	}
	return w
}

// peerWindow returns the window of a peer that begins at a mark.
func (r *recent) peerWindow(from *mark, peer string) PeerWindow {
	t, over := r.since(from, tallyKey{peer: peer})
	in, out := t.flows.in, t.flows.out
	return PeerWindow{t.window(over), in.Bytes, out.Bytes, in.Messages, out.Messages}
}

// latency returns how long the calls of five minutes took.
func (r *recent) latency(key tallyKey) grid.Latency {
	t, _ := r.since(r.longer, key)
	return t.latency
}

// p99s returns the 99th percentiles between the marks of the last minute, in nanoseconds.
func (r *recent) p99s(key tallyKey) (points []point) {
	for i, m := range r.last {
		next := r.now
		if i+1 < len(r.last) {
			next = r.last[i+1]
		}
		t := next.tallies[key]
		if t == nil || r.now.time.Sub(m.time) > minute+markStep || next.time.Sub(m.time) > 3*markStep {
			continue
		}
		if d := t.since(m.tallies[key]); d.latency.Count() > 0 {
			points = append(points, point{next.time, float64(d.latency.Quantile(0.99))})
		}
	}
	return points
}

// rate is a number of things in some time.
type rate struct {
	n    int64
	over time.Duration
}

// text returns the rate per second as text makes it, a dash if nothing is known.
func (r rate) text(text func(float64) string) string {
	if r.over <= 0 {
		return "–"
	}
	return text(perWindow(r.n, r.over))
}

// reach returns how long it is since a mark; 0 if there is none.
func (r *recent) reach(from *mark) time.Duration {
	if from == nil {
		return 0
	}
	return r.now.time.Sub(from.time)
}

// looking says how long the window of a minute is; it is empty if it is long enough.
func (r *recent) looking() string {
	switch reach := r.reach(r.minute); {
	case reach == 0:
		return "of the last minute, of which nothing is known yet"
	case reach < minute:
		return "of the last minute, of which " + age(reach) + " are known"
	}
	return ""
}

// sumOfHandlers returns the rate of the calls of all handlers since a mark.
func (r *recent) sumOfHandlers(from *mark, role grid.Role) rate {
	return r.sum(from, func(key tallyKey, t *tally) int64 {
		if key.peer != "" || key.role != role || key.id == 0 {
			return 0
		}
		return t.calls
	})
}

// sumOfPeers returns the rate of what went over all connections since a mark.
func (r *recent) sumOfPeers(from *mark, of func(*flows) int64) rate {
	return r.sum(from, func(key tallyKey, t *tally) int64 {
		if key.id != 0 {
			return 0
		}
		return of(&t.flows)
	})
}

func (r *recent) sum(from *mark, of func(tallyKey, *tally) int64) rate {
	s := rate{over: r.reach(from)}
	if from == nil {
		return s
	}
	for key := range r.now.tallies {
		d := r.now.tallies[key].since(from.tallies[key])
		s.n += of(key, &d)
	}
	return s
}
