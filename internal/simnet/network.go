package simnet

import (
	"cmp"
	"fmt"
	"hash/fnv"
	"maps"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"time"
)

// Network connects hosts that are known by name alone. Create one with New.
type Network struct {
	seed uint64

	mu        sync.Mutex // Protects following, and all that belongs to conns, listeners and paths.
	listeners map[string]*Listener
	paths     map[route]*path
	frozen    map[string]time.Time // hosts whose reads and writes wait until then
	open      map[*Conn]struct{}   // not yet closed by their owner
	ports     int                  // handed out to dialers
	numbers   int                  // of conns and pipes
}

// Link says how bytes travel one way between two hosts. Its zero value is a
// link without delay, splitting or limit but that of its buffer.
type Link struct {
	// Delay is how long a byte travels. At random, up to Jitter is added to it for
	// each write, and up to as much between the pieces of a write.
	Delay, Jitter time.Duration
	// Segment is the most bytes that arrive at once, in pieces of random size; 0 leaves each write
	// whole.
	Segment int
	// Bandwidth is in bytes per second for each connection; 0 is without limit.
	Bandwidth int
	// Buffer bounds the bytes that are written and not yet read; a write beyond it waits. 0 means
	// 64 KiB.
	Buffer int
	// Proxied says that a proxy is in between, which takes CloseWrite for the end of both
	// directions, as many do. Where something is on its way back, all that has not arrived is
	// dropped, in both directions, and the other end is reset; so it is when it writes later on.
	Proxied bool
	// Loss is how likely a piece is lost on its way. As TCP does, the sender sends it again: first
	// after 200 ms, then after twice as long each time, at most eight times. All that follows waits
	// for it. For a dial it begins with a second.
	Loss float64
}

const defaultBuffer = 64 << 10

// route is a pair of hosts, one way.
type route struct{ from, to string }

// path is the state of a route.
type path struct {
	link    Link
	rng     *rand.Rand
	stalled time.Time // nothing arrives until then
	blocked bool      // nothing arrives
	refused time.Time // dials fail until then
	astray  time.Time // dials reach another host until then
	via     string    // that host
	flips   int       // bits to be flipped in what is written from now on
	dials   int
	pipes   map[*pipe]struct{}
	changed chan struct{} // closed and replaced when stalled or blocked changes
}

// New returns a network whose accidents follow from seed.
func New(seed uint64) *Network {
	return &Network{
		seed:      seed,
		listeners: make(map[string]*Listener),
		paths:     make(map[route]*path),
		frozen:    make(map[string]time.Time),
		open:      make(map[*Conn]struct{}),
		ports:     40000,
	}
}

// SetLink changes how bytes travel from one host to another, for what is written from now on.
// The bandwidth changes also for what still waits for it.
func (n *Network) SetLink(from, to string, link Link) {
	n.mu.Lock()
	defer n.mu.Unlock()
	p := n.path(from, to)
	old := p.link.Bandwidth
	p.link = link
	if link.Bandwidth != old {
		for _, pipe := range inOrder(p.pipes) {
			pipe.reschedule(time.Now())
		}
	}
	p.notify() // there may be more room
}

// Link returns how bytes travel from one host to another.
func (n *Network) Link(from, to string) Link {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.path(from, to).link
}

// Stall lets nothing arrive for d on the way from one host to another, dials and the ends of
// connections included. Afterwards all of it arrives. A stall never shortens another.
func (n *Network) Stall(from, to string, d time.Duration) {
	n.mu.Lock()
	defer n.mu.Unlock()
	p := n.path(from, to)
	if until := time.Now().Add(d); until.After(p.stalled) {
		p.stalled = until
	}
	p.notify()
}

// Block lets nothing arrive on the way from one host to another until Unblock or Heal, as a Stall
// without an end.
func (n *Network) Block(from, to string) { n.setBlocked(from, to, true) }

// Unblock ends a Block. All that was sent meanwhile arrives.
func (n *Network) Unblock(from, to string) { n.setBlocked(from, to, false) }

func (n *Network) setBlocked(from, to string, blocked bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	p := n.path(from, to)
	p.blocked = blocked
	p.notify()
}

// Refuse lets dials from one host to another fail for d.
func (n *Network) Refuse(from, to string, d time.Duration) {
	n.mu.Lock()
	defer n.mu.Unlock()
	p := n.path(from, to)
	if until := time.Now().Add(d); until.After(p.refused) {
		p.refused = until
	}
}

// Misroute lets dials from one host to another reach a third for d, on the same port, as a name
// does that is resolved to the address of somebody else.
func (n *Network) Misroute(from, to, third string, d time.Duration) {
	n.mu.Lock()
	defer n.mu.Unlock()
	p := n.path(from, to)
	p.astray, p.via = time.Now().Add(d), third
}

// Freeze lets nobody on a host read or write for d, as if its processes got no time. What is sent
// to it arrives, as far as there is room.
func (n *Network) Freeze(host string, d time.Duration) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if until := time.Now().Add(d); until.After(n.frozen[host]) {
		n.frozen[host] = until
	}
}

// Flip flips count bits in what is written from one host to another from now on, at most one bit a
// write.
func (n *Network) Flip(from, to string, count int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.path(from, to).flips += count
}

// Heal ends all stalls, blocks, refusals and wrong routes, and flips no more bits. Connections that
// were dropped stay so.
func (n *Network) Heal() {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, p := range n.paths {
		p.stalled, p.refused, p.astray, p.flips = time.Time{}, time.Time{}, time.Time{}, 0
		p.blocked = false
		p.notify()
	}
}

// Cut resets all connections between two hosts: at once, for both ends, with what is on its way.
func (n *Network) Cut(a, b string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, c := range inOrder(n.open) {
		if c.between(a, b) {
			c.breakOff()
		}
	}
}

// Drop makes all connections between two hosts go silent for ever: nothing
// arrives any more, no end either. New connections are as good as any.
func (n *Network) Drop(a, b string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, c := range inOrder(n.open) {
		if c.between(a, b) {
			c.in.lost, c.out.lost = true, true
			c.in.notify()
			c.out.notify()
		}
	}
}

// Dials returns how often one host has dialed another, in vain or not.
func (n *Network) Dials(from, to string) int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.path(from, to).dials
}

// Open returns the ends of connections that their owners have not closed.
func (n *Network) Open() []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	var open []string
	for _, c := range inOrder(n.open) {
		open = append(open, fmt.Sprintf("%v of a connection to %v", c.local, c.remote))
	}
	return open
}

// path returns the state of a route. n.mu is held.
func (n *Network) path(from, to string) *path {
	r := route{from, to}
	p := n.paths[r]
	if p == nil {
		h := fnv.New64a()
		fmt.Fprintf(h, "%s>%s", from, to)
		p = &path{
			rng:     rand.New(rand.NewPCG(n.seed, h.Sum64())),
			pipes:   make(map[*pipe]struct{}),
			changed: make(chan struct{}),
		}
		n.paths[r] = p
	}
	return p
}

// notify tells everybody who waits for something on the path to look again. The network's lock is
// held.
func (p *path) notify() {
	close(p.changed)
	p.changed = make(chan struct{})
	for _, pipe := range inOrder(p.pipes) {
		pipe.notify()
	}
}

// delay draws how long the next bytes travel. The network's lock is held.
func (p *path) delay() time.Duration {
	d := p.link.Delay
	if p.link.Jitter > 0 {
		d += time.Duration(p.rng.Int64N(int64(p.link.Jitter)))
	}
	return d
}

// numbered has a number of its own in the network.
type numbered interface {
	comparable
	order() int
}

// inOrder returns what is in a set, in the order in which it came: what happens first must not depend
// on a map.
func inOrder[T numbered](set map[T]struct{}) []T {
	return slices.SortedFunc(maps.Keys(set), func(a, b T) int { return cmp.Compare(a.order(), b.order()) })
}

// number returns a new one. n.mu is held.
func (n *Network) number() int {
	n.numbers++
	return n.numbers
}

// How long it takes until what was lost is sent again the first time.
const (
	resendsData = 200 * time.Millisecond
	resendsDial = time.Second
)

// resends draws how long it takes until what is sent is not lost. The network's lock is held.
func (p *path) resends(rng *rand.Rand, first time.Duration) (late time.Duration) {
	if p.link.Loss <= 0 {
		return 0
	}
	for n := 0; n < 8 && rng.Float64() < p.link.Loss; n++ {
		late += first << n
	}
	return late
}

// hostOf returns the host of an address.
func hostOf(address string) (string, error) {
	host, _, err := net.SplitHostPort(address)
	return host, err
}
