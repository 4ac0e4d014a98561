package gridtest

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/gridmesh/grid"
)

// Node is a node in one of its lives: each start makes a new one.
type Node struct {
	// Manager is that of this life.
	Manager *grid.Manager
	// Index is the number of the node, Name its name in the grid. It keeps both.
	Index int
	Name  string
	// Value is for the test, such as for what Setup has made. Only Setup may set it.
	Value any

	w      *World
	ctx    context.Context
	cancel context.CancelFunc
	server *http.Server
	served chan struct{} // closed when server has ended

	purpose uint64 // of its random numbers

	mu    sync.Mutex // Protects following.
	ended bool       // no more work is started
	work  sync.WaitGroup
}

// Context returns a context that ends when this life of the node does.
func (n *Node) Context() context.Context { return n.ctx }

// Go runs f on a goroutine that belongs to this life of the node: it has to end when ctx does, and
// the end of the node waits for it. If that has come, f does not run.
func (n *Node) Go(f func(ctx context.Context)) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if !n.ended {
		n.work.Go(func() { f(n.ctx) })
	}
}

// Rand returns a source of random numbers, which follow from the seed of the World, the node, and
// how often it has started: the same for each call.
func (n *Node) Rand() *rand.Rand { return newRand(n.w.config.seed, n.purpose) }

// To returns the connection to another node of the World; nil if that is none of the hosts of this
// one.
func (n *Node) To(i int) *grid.Connection { return n.Manager.Connection(n.w.Name(i)) }

// endWork ends what Go has started. It returns false if that takes too long; 0 is never.
func (n *Node) endWork(limit time.Duration) bool {
	n.mu.Lock()
	n.ended = true
	n.mu.Unlock()
	n.cancel()
	if limit == 0 {
		n.work.Wait()
		return true
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		n.work.Wait()
	}()
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case <-ended:
		return true
	case <-timer.C:
		return false
	}
}

// unserve ends the node's server.
func (n *Node) unserve() {
	n.server.Close()
	<-n.served
}

// host is a node over all its lives. Who changes its state from down or up to another is the only
// one who may change it again, and does so soon.
type host struct {
	index int
	short string // in the network
	name  string // in the grid

	mu      sync.Mutex // Protects following.
	state   state
	settled chan struct{} // closed when the state is none in between anymore
	starts  uint64
	node    *Node // of the present life, or of the last one; nil before the first
}

type state int

const (
	down state = iota
	starting
	up
	stopping
	gone // for good
)

const port = "9000"

func newHost(i int) *host {
	short := fmt.Sprintf("node-%d", i)
	return &host{index: i, short: short, name: "http://" + net.JoinHostPort(short, port)}
}

// claim changes the state, once it is none in between. It returns false if it is another one then.
func (h *host) claim(from, to state) bool {
	for {
		h.mu.Lock()
		is, settled := h.state, h.settled
		if is == from {
			h.state, h.settled = to, make(chan struct{})
		}
		h.mu.Unlock()
		if is != starting && is != stopping {
			return is == from
		}
		<-settled
	}
}

// settle ends what claim has begun.
func (h *host) settle(s state, n *Node) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.state = s
	if n != nil {
		h.node = n
		h.starts++
	}
	close(h.settled)
}

func (h *host) isUp() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.state == up
}

// purpose is what the random numbers of the next life are for.
func (h *host) purpose() uint64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	return uint64(h.index+1)<<32 + h.starts
}

func (h *host) present() *Node {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.node
}

// Crash ends a node as if its machine lost power: nobody is told, its connections go silent, and
// open calls fail when that is noticed. Its context ends, and what Go has started is waited for. It
// does nothing to a node that is down.
func (w *World) Crash(i int) {
	h := w.hosts[i]
	if !h.claim(up, stopping) {
		return
	}
	w.Logf("%s crashes", h.short)
	w.harmNode(i)
	for _, other := range w.hosts {
		if other != h {
			w.net.Drop(h.short, other.short)
		}
	}
	n := h.present()
	n.cancel()
	n.Manager.Close()
	n.unserve()
	n.endWork(0)
	h.settle(down, nil)
}

// Stop ends a node in good order: its context ends, what Go has started is waited for, then its
// Manager is shut down, which lets calls finish for up to a minute. It does nothing to a node that
// is down.
func (w *World) Stop(i int) {
	h := w.hosts[i]
	if !h.claim(up, stopping) {
		return
	}
	w.Logf("%s stops", h.short)
	w.harmNode(i)
	n := h.present()
	n.endWork(0)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := n.Manager.Shutdown(ctx); err != nil {
		w.Logf("%s has stopped with calls that were running: %v", h.short, err)
	}
	n.unserve()
	h.settle(down, nil)
}

// Start starts a node that is down, with the same name and nothing of its earlier life. It does
// nothing to one that runs.
func (w *World) Start(i int) {
	h := w.hosts[i]
	w.mu.Lock()
	over := w.over
	w.mu.Unlock()
	if over || h.isUp() {
		return
	}
	w.Logf("%s starts", h.short)
	if err := w.start(h, nil); err != nil {
		w.failf("%v", err)
	}
}

// Restart lets a node crash and start again at once.
func (w *World) Restart(i int) {
	w.Crash(i)
	w.Start(i)
}

// start starts a node that is down. It dials when ready is closed; nil is at once.
func (w *World) start(h *host, ready chan struct{}) error {
	if !h.claim(down, starting) {
		return nil
	}
	n, err := w.live(h, ready)
	if err != nil {
		h.settle(down, nil)
		return fmt.Errorf("gridtest: start of %s: %w", h.short, err)
	}
	h.settle(up, n)
	return nil
}

// live begins a life of a node.
func (w *World) live(h *host, ready chan struct{}) (*Node, error) {
	set := make(chan struct{})
	if ready == nil {
		ready = set
	}
	m, err := grid.NewManager(context.Background(), w.optionsOf(h, ready))
	if err != nil {
		return nil, err
	}
	n := &Node{Manager: m, Index: h.index, Name: h.name, w: w, served: make(chan struct{}), purpose: h.purpose()}
	n.ctx, n.cancel = context.WithCancel(context.Background())
	n.server = &http.Server{
		Handler:     m.Handler(),
		ErrorLog:    slog.NewLogLogger(slog.DiscardHandler, slog.LevelError),
		ReadTimeout: 5 * time.Second, IdleTimeout: 5 * time.Second, // end with the upgrade
	}
	if err := w.begin(n); err != nil {
		n.endWork(0)
		m.Close()
		return nil, err
	}
	l, err := w.net.Listen(net.JoinHostPort(h.short, port))
	if err != nil {
		panic(err) // an earlier life still listens
	}
	go func() {
		defer close(n.served)
		n.server.Serve(l)
	}()
	close(set)
	return n, nil
}

// begin lets Setup make of a node what it is.
func (w *World) begin(n *Node) error {
	w.mu.Lock()
	over := w.over
	w.lives = append(w.lives, n)
	w.mu.Unlock()
	if over {
		return grid.ErrShutdown
	}
	for _, setup := range w.config.setup {
		if err := setup(n); err != nil {
			return err
		}
	}
	return nil
}

// finish ends a node for good. If it is whole, that has to succeed.
func (w *World) finish(h *host, whole bool) {
	if h.claim(down, gone) {
		h.settle(gone, nil)
		return
	}
	if !h.claim(up, stopping) {
		return
	}
	n := h.present()
	if whole {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		if err := n.Manager.Shutdown(ctx); err != nil {
			w.failf("%s does not shut down although nothing is open: %v", h.short, err)
		}
		cancel()
	}
	n.Manager.Close()
	n.unserve()
	h.settle(gone, nil)
}

// optionsOf are the options of a node. It dials when ready is closed.
func (w *World) optionsOf(h *host, ready chan struct{}) grid.ManagerOptions {
	o := grid.ManagerOptions{
		AddAuth:      func(string) string { return "gridtest" },
		AuthRequest:  func(*http.Request) error { return nil },
		Local:        h.name,
		BlockConnect: ready,
		Logger:       slog.New(nodeLog{w.history, h.short}),
	}
	for _, h := range w.hosts {
		o.Hosts = append(o.Hosts, h.name)
	}
	for _, edit := range w.config.edit {
		edit(h.index, &o)
	}
	o.Local, o.Dialer = h.name, w.net.Dialer(h.short)
	if !w.config.panics {
		o.Interceptors = append(o.Interceptors, w.panicFinder(h.short)) // innermost
	}
	return o
}
