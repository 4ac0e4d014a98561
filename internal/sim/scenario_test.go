package sim

import (
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/gridmesh/grid/internal/simnet"
)

// scenario is everything that a seed decides: what there is and what is done to it, and when. All
// times count from the start. What comes of it also depends on how goroutines are scheduled.
type scenario struct {
	seed    uint64
	hosts   []string        // of the nodes
	late    []time.Duration // when each node starts
	settled bool            // calls begin when all nodes are connected
	links   []linkPlan
	streams [simRoutes]window
	encodes time.Duration // each message of a typed stream
	calls   []*callPlan
	faults  []faultPlan
	stops   []stopPlan
	length  time.Duration // of the part with calls, faults and stops
}

// linkPlan is how bytes travel from one node to another.
type linkPlan struct {
	from, to int
	simnet.Link
}

// window is the capacities of a streaming handler.
type window struct{ in, out int }

// simMaxMessage is Limits.MaxMessageSize of all nodes.
const simMaxMessage = 1 << 20

type callKind int

const (
	callRequest       callKind = iota // to a handler without a context
	callContext                       // to a handler with one
	callSubroute                      // to a handler on a nested subroute
	callTyped                         // a typed request
	callOneWay                        // a stream without input
	callTwoWay                        // a stream with input
	callTypedStream                   // a typed stream with input
	callUnknown                       // a request to a handler that nobody has
	callUnknownStream                 // a stream to a handler that the callee lacks
	callTooLarge                      // a request beyond Limits.MaxMessageSize
	callKinds
)

var callNames = [callKinds]string{
	"request", "context request", "subroute request", "typed request", "one-way stream", "two-way stream", "typed stream",
	"unknown request", "unknown stream", "too large request",
}

func (k callKind) String() string { return callNames[k] }

func (k callKind) stream() bool {
	return k == callOneWay || k == callTwoWay || k == callTypedStream || k == callUnknownStream
}

// callPlan is one call.
type callPlan struct {
	id       uint64
	at       time.Duration
	from, to int
	kind     callKind
	waits    bool          // for the connection, before the call
	size     int           // bytes of the payload
	deadline time.Duration // after at; 0 for none
	late     time.Duration // how far the end of the context is behind its deadline
	cancel   time.Duration // after at; 0 for never
	races    bool          // canceled when the answer comes in
	work     workPlan
	use      usePlan
}

// ends says whether the caller's context does.
func (p *callPlan) ends() bool { return p.deadline > 0 || p.cancel > 0 }

// until is when the caller's context ends, after at.
func (p *callPlan) until() time.Duration {
	switch {
	case p.deadline == 0:
		return p.cancel
	case p.cancel == 0:
		return p.deadline + p.late
	}
	return min(p.deadline+p.late, p.cancel)
}

type ending int

const (
	endWell    ending = iota
	endFailing        // with an error
	endPanicking
	endExiting   // by runtime.Goexit
	endWithCall  // when the call's context ends
	endingsCount // of them
)

type reading int

const (
	readNothing reading = iota
	readSome            // then no more
	readAll             // then answer
	readEcho            // and answer each
)

// workPlan is what the handler does.
type workPlan struct {
	end   ending
	pause time.Duration // before the answer, or between the messages of a stream
	size  int           // bytes of the answer, or of each message

	// Streams.
	read  reading
	some  int  // how many messages for readSome
	send  int  // messages sent, in addition to those of readEcho
	plain bool // sends without looking at its context
	quiet bool // returns no error when its context has ended
}

type leaving int

const (
	stay          leaving = iota
	leaveByError          // of the consumer
	leaveByPanic          // of the consumer
	leaveByLoop           // out of Stream.All
	stopReading           // until the context ends
	neverRead             // and wait for the end of the context
	leavingsCount         // of them
)

// usePlan is what the caller of a stream does.
type usePlan struct {
	send      int // messages
	size      int // bytes of each
	pause     time.Duration
	byChannel bool // sends on Requests, not with Send
	close     bool // ends the input
	gives     bool // ends the input also where it gives up sending
	calls     bool // CloseSend to end it
	leave     leaving
	leaveAt   int // after as many results
	slow      time.Duration
}

// newScenario draws the scenario of a seed.
func newScenario(seed uint64) *scenario {
	d := drawer{rand.New(rand.NewPCG(seed, 0x67726964))}
	s := &scenario{seed: seed, length: d.between(2*time.Second, 45*time.Second)}
	nodes := 2 + min(d.IntN(6), d.IntN(6))
	for i := range nodes {
		s.hosts = append(s.hosts, fmt.Sprintf("n%d-%d", i, seed))
		s.late = append(s.late, 0)
	}
	s.settled = d.chance(60)
	if !s.settled {
		for i := range s.late {
			if d.chance(30) {
				s.late[i] = d.between(0, s.length/2)
			}
		}
	}
	for i := range s.streams {
		s.streams[i] = window{in: d.pick(1, 1, 2, 3, 8, 64, 256), out: d.pick(1, 1, 2, 3, 8, 64, 256)}
	}
	s.streams[routeOneWay].in = 0
	s.drawLinks(d)
	s.drawCalls(d)
	if d.chance(75) {
		s.drawFaults(d)
		s.drawStops(d)
	}
	s.drawProxies(drawer{rand.New(rand.NewPCG(seed, 0x70726f78))})
	s.drawEndings(drawer{rand.New(rand.NewPCG(seed, 0x656e6473))})
	return s
}

// drawEndings draws how streams end that are cut short. It has numbers of its own, so that all else stays as it was.
func (s *scenario) drawEndings(d drawer) {
	if d.chance(50) {
		s.encodes = d.between(time.Microsecond, 10*time.Millisecond)
	}
	for _, p := range s.calls {
		if !p.kind.stream() {
			continue
		}
		p.work.quiet = d.chance(50)
		p.use.gives = d.chance(50)
		p.use.calls = d.chance(50)
		if w := &p.work; p.kind == callTypedStream && w.send > 0 && d.chance(50) {
			w.plain = false
			p.deadline = 1 + d.between(0, time.Duration(w.send)*(s.encodes+w.pause)) // while it sends
		}
		if p.deadline > 0 && d.chance(50) {
			p.late = d.between(0, 300*time.Millisecond)
		}
	}
}

// drawer draws from a seed.
type drawer struct{ *rand.Rand }

// chance is true in a percentage of cases.
func (d drawer) chance(percent int) bool { return d.IntN(100) < percent }

func (d drawer) pick(from ...int) int { return from[d.IntN(len(from))] }

func (d drawer) between(least, most time.Duration) time.Duration {
	return least + time.Duration(d.Int64N(int64(most-least)+1))
}

// short draws a time that is as likely small as large.
func (d drawer) short(most time.Duration) time.Duration {
	return d.between(0, most>>d.IntN(12))
}

// pair draws two nodes.
func (d drawer) pair(n int) (a, b int) {
	a = d.IntN(n)
	b = (a + 1 + d.IntN(n-1)) % n
	return a, b
}

func (s *scenario) drawLinks(d drawer) {
	far := d.chance(30)
	for from := range s.hosts {
		for to := range s.hosts {
			if from == to {
				continue
			}
			link := simnet.Link{
				Delay:   time.Duration(d.pick(0, 1, 2, 20)) * time.Millisecond,
				Jitter:  time.Duration(d.pick(0, 1, 5, 30)) * time.Millisecond,
				Segment: d.pick(0, 0, 64, 1460, 16<<10),
				Buffer:  d.pick(16, 64, 256) << 10,
			}
			if far {
				link.Delay += 100 * time.Millisecond
				link.Buffer = 512 << 10 // a write has to be through in three seconds
			}
			if d.chance(5) {
				link.Segment = 5
				link.Jitter = 0
			}
			s.links = append(s.links, linkPlan{from, to, link})
		}
	}
}

func (s *scenario) drawCalls(d drawer) {
	n := 20 + d.IntN(60)
	for len(s.calls) < n {
		at := d.between(0, s.length)
		heavy := d.chance(4)
		from, to := d.pair(len(s.hosts))
		for range d.pick(1, 1, 1, 2, 16) { // callers come in crowds
			p := s.drawCall(d, uint64(len(s.calls)+1), at)
			if heavy && p.kind < callUnknown { // more at once than the send queue takes
				p.from, p.to, p.size = from, to, 100_000
			}
			s.calls = append(s.calls, p)
		}
	}
}

// drawCall draws a call that ends by itself, or with its context, on a healthy network.
func (s *scenario) drawCall(d drawer, id uint64, at time.Duration) *callPlan {
	p := &callPlan{
		id:    id,
		at:    at,
		kind:  callKind(d.pick(0, 0, 0, 1, 1, 1, 2, 3, 3, 4, 4, 4, 5, 5, 5, 5, 6, 6, 7, 8, 9)),
		waits: d.chance(50),
		races: d.chance(10),
		size:  d.size(),
	}
	p.from, p.to = d.pair(len(s.hosts))
	if p.kind == callUnknownStream {
		p.from, p.to = 0, 1+d.IntN(len(s.hosts)-1) // the others lack it
	}
	if d.chance(40) {
		p.deadline = 1 + d.short(30*time.Second)
	}
	if d.chance(25) {
		p.cancel = 1 + d.short(20*time.Second)
	}
	p.work = d.work()
	if p.kind.stream() {
		s.drawStream(d, p)
		return p
	}
	if d.chance(25) {
		p.work.pause = d.short(90 * time.Second)
	}
	if p.kind == callRequest && p.work.end == endWithCall {
		p.work.end = endWell // has no context
	}
	return p
}

func (d drawer) work() workPlan {
	end := endWell
	if d.chance(35) {
		end = ending(d.IntN(int(endingsCount)))
	}
	return workPlan{end: end, size: d.size()}
}

// size draws the bytes of a message.
func (d drawer) size() int {
	switch n := d.IntN(100); {
	case n < 80:
		return d.IntN(1000)
	case n < 97:
		return d.IntN(10_000)
	default:
		return d.IntN(200_000)
	}
}

func (s *scenario) drawStream(d drawer, p *callPlan) {
	count := func(size int) int {
		if size > 10_000 {
			return d.IntN(10)
		}
		return d.IntN(d.pick(2, 10, 40, 300))
	}
	w, u := &p.work, &p.use
	w.send, w.plain = count(w.size), d.chance(40)
	u.leaveAt = d.IntN(20)
	if d.chance(25) {
		u.leave = leaving(d.IntN(int(leavingsCount)))
	}
	if d.chance(20) {
		u.slow = d.short(200 * time.Millisecond)
	}
	if d.chance(20) {
		w.pause = d.short(200 * time.Millisecond)
	}
	if p.kind != callOneWay {
		u.size = d.size()
		u.send = count(u.size)
		u.byChannel = d.chance(40)
		u.close = d.chance(80)
		if d.chance(20) {
			u.pause = d.short(200 * time.Millisecond)
		}
		w.read = reading(d.IntN(4))
		w.some = d.IntN(20)
	}
	waits := w.end == endWithCall || u.leave == stopReading || u.leave == neverRead || w.read != readNothing && !u.close
	if waits && !p.ends() {
		p.deadline = d.between(1, 25*time.Second)
	}
}
