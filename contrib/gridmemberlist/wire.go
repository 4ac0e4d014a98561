package gridmemberlist

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"sync"
	"time"

	"github.com/gridmesh/grid"
	"github.com/hashicorp/memberlist"
)

const (
	maxPacket     = 64 << 10    // bytes, as in UDP; memberlist's have Config.UDPBufferSize, which is 1,400
	maxReceived   = 256         // packets that wait for memberlist, which has a queue of its own
	maxOnTheWay   = 32          // packets to a host; memberlist sends some tens per second to all
	packetTimeout = time.Second // until a packet counts as lost

	linger = 10 * time.Second // for a peer to end a stream that this node has ended
)

// wire is a memberlist.NodeAwareTransport: a Network while a Source uses it.
type wire struct {
	network *Network
	names   map[string]string // of the hosts of Source.Join, by their stand-ins
	packets chan *memberlist.Packet
	streams chan net.Conn
	ctx     context.Context // ends once it is shut down, and packets had their time
	cancel  context.CancelFunc
	work    sync.WaitGroup // of goroutines that start began

	mu       sync.Mutex     // Protects following.
	closed   bool           // nothing is sent and no stream begins
	onTheWay map[string]int // packets, by host
}

var _ memberlist.NodeAwareTransport = (*wire)(nil)

func newWire(n *Network, join []string) *wire {
	w := &wire{
		network:  n,
		names:    make(map[string]string),
		packets:  make(chan *memberlist.Packet, maxReceived),
		streams:  make(chan net.Conn),
		onTheWay: make(map[string]int),
	}
	w.ctx, w.cancel = context.WithCancel(context.Background())
	for _, host := range join {
		w.names[standInText(host)] = host
	}
	return w
}

// FinalAdvertiseAddr is part of memberlist.Transport.
func (w *wire) FinalAdvertiseAddr(string, int) (net.IP, int, error) {
	return standIn(w.network.m.HostName()), port, nil
}

func (w *wire) PacketCh() <-chan *memberlist.Packet { return w.packets }

func (w *wire) StreamCh() <-chan net.Conn { return w.streams }

// Shutdown is part of memberlist.Transport. It gives packets that are on their way the time to
// arrive, such as those that say goodbye. It may be called again.
func (w *wire) Shutdown() error {
	w.mu.Lock()
	w.closed = true
	w.mu.Unlock()
	w.network.wire.CompareAndSwap(w, nil)
	defer w.work.Wait()
	defer w.cancel()
	late := time.After(packetTimeout)
	for w.sending() {
		select {
		case <-late:
			return nil
		case <-time.After(5 * time.Millisecond):
		}
	}
	return nil
}

// sending reports whether packets are on their way.
func (w *wire) sending() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.onTheWay) > 0
}

// WriteTo is part of memberlist.Transport.
func (w *wire) WriteTo(b []byte, addr string) (time.Time, error) {
	return w.WriteToAddress(b, memberlist.Address{Addr: addr})
}

// WriteToAddress is part of memberlist.NodeAwareTransport. It never waits. As with UDP, there is no
// error for what is lost, such as all to a host that is not connected.
func (w *wire) WriteToAddress(b []byte, a memberlist.Address) (time.Time, error) {
	name, err := w.name(a)
	if err != nil {
		return time.Time{}, err
	}
	if len(b) > maxPacket {
		return time.Time{}, fmt.Errorf("packet to %s has %d bytes, at most %d are allowed", name, len(b), maxPacket)
	}
	conn := w.network.m.Connection(name)
	if conn == nil || conn.State() != grid.StateConnected || !w.reserve(name) {
		return time.Now(), nil
	}
	b = bytes.Clone(b) // which is memberlist's
	go w.send(conn, b)
	return time.Now(), nil
}

// reserve reports whether one more packet may be on its way to a host. Then it is until send ends.
func (w *wire) reserve(name string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed || w.onTheWay[name] >= maxOnTheWay {
		return false
	}
	w.onTheWay[name]++
	w.work.Add(1)
	return true
}

// send sends a packet for which there is a reservation.
func (w *wire) send(conn *grid.Connection, b []byte) {
	defer w.work.Done()
	ctx, cancel := context.WithTimeout(grid.WithPriority(w.ctx, grid.PriorityHigh), packetTimeout)
	defer cancel()
	_, _ = conn.Call(ctx, packetMethod, b) // memberlist finds out
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.onTheWay[conn.Remote]--; w.onTheWay[conn.Remote] == 0 {
		delete(w.onTheWay, conn.Remote)
	}
}

// receive passes a packet on, or loses it if memberlist is behind.
func (w *wire) receive(b []byte, from string) error {
	if len(b) == 0 || len(b) > maxPacket {
		return fmt.Errorf("gridmemberlist: packet of %d bytes", len(b))
	}
	select {
	case w.packets <- &memberlist.Packet{Buf: bytes.Clone(b), From: address(from), Timestamp: time.Now()}:
	default:
	}
	return nil
}

// name returns the host that has an address.
func (w *wire) name(a memberlist.Address) (string, error) {
	switch host := w.names[a.Addr]; {
	case a.Name != "":
		return a.Name, nil
	case host != "":
		return host, nil
	case isHost(a.Addr): // an address
		return a.Addr, nil
	}
	return "", fmt.Errorf("no host has the address %q", a.Addr)
}

// DialTimeout is part of memberlist.Transport.
func (w *wire) DialTimeout(addr string, timeout time.Duration) (net.Conn, error) {
	return w.DialAddressTimeout(memberlist.Address{Addr: addr}, timeout)
}

// DialAddressTimeout is part of memberlist.NodeAwareTransport.
func (w *wire) DialAddressTimeout(a memberlist.Address, timeout time.Duration) (net.Conn, error) {
	name, err := w.name(a)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancelCause(w.ctx) // of the stream
	late := time.AfterFunc(timeout, func() { cancel(os.ErrDeadlineExceeded) })
	conn, err := w.dial(ctx, cancel, name)
	if err == nil && !late.Stop() {
		_ = conn.Close()
		err = os.ErrDeadlineExceeded
	}
	if err != nil {
		cancel(nil)
		return nil, fmt.Errorf("gossip with %s: %w", name, err)
	}
	return conn, nil
}

// dial opens a stream to a host, which ends with ctx.
func (w *wire) dial(ctx context.Context, cancel context.CancelCauseFunc, name string) (net.Conn, error) {
	if name == w.network.m.HostName() {
		return w.dialSelf(ctx)
	}
	conn, leave, err := w.reach(ctx, name)
	if err != nil {
		return nil, err
	}
	st, err := conn.OpenStream(ctx, streamMethod, nil)
	if err != nil {
		leave()
		return nil, err
	}
	local, carrier := newPipe(address(name))
	if w.start(func() {
		defer leave()
		defer cancel(nil)
		carrier.run(ctx, st, func() {
			_ = st.CloseSend() // or it has ended
			time.AfterFunc(linger, func() { cancel(nil) })
		})
	}) {
		return local, nil
	}
	leave()
	return nil, net.ErrClosed
}

// reach returns a connection to a host, and what is to be called when it is not used anymore: as a
// guest, if there is none.
func (w *wire) reach(ctx context.Context, name string) (conn *grid.Connection, leave func(), err error) {
	m := w.network.m
	if conn := m.Connection(name); conn != nil && conn.State() == grid.StateConnected {
		return conn, func() {}, nil
	}
	o := w.network.guest
	o.Local = guestName(m.HostName())
	guest, err := grid.Join(w.ctx, name, o)
	if err != nil {
		return nil, nil, err
	}
	conn = guest.Connection(name)
	if err := conn.WaitForConnect(ctx); err != nil {
		for _, e := range guest.RecentErrors() {
			err = fmt.Errorf("%w; %s", err, e.Text)
		}
		guest.Close()
		return nil, nil, err
	}
	return conn, func() { guest.Close() }, nil
}

// dialSelf returns a stream to this node, which may be one of Source.Join.
func (w *wire) dialSelf(ctx context.Context) (net.Conn, error) {
	a, b := net.Pipe()
	select {
	case w.streams <- b:
		return a, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// start runs f on a goroutine for which Shutdown waits. It reports whether it does.
func (w *wire) start(f func()) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return false
	}
	w.work.Go(f)
	return true
}

// serve passes the stream of another node on, and carries it.
func (w *wire) serve(ctx context.Context, st *grid.RawStream, from string) error {
	local, carrier := newPipe(address(from))
	select {
	case w.streams <- local:
	case <-w.ctx.Done():
		return errNoGossip
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	carrier.run(w.ctx, st, st.CloseSend)
	return nil
}
