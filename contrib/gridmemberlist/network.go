package gridmemberlist

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"
	"sync/atomic"

	"github.com/gridmesh/grid"
)

// The methods of a node that gossips over its grid.
const (
	packetMethod = "gridmemberlist.packet" // a request
	streamMethod = "gridmemberlist.stream"
)

// guestPrefix begins the names of guests that join the gossip.
const guestPrefix = "gossip/"

// Network has the gossip go over the connections of a grid, in place of a port of its own. The
// handshake of the grid decides who takes part, and its TLS protects it.
//
// Packets go to hosts that are connected; others are lost, as with UDP. Streams go to any node: to
// one that is no host yet, or whose connection is lost, this node connects as a guest, for that
// stream only. So a new node introduces itself, and a connection that is lost makes nobody dead. All
// nodes need ManagerOptions.AcceptGuest, which uses GuestOf.
type Network struct {
	m     *grid.Manager
	guest grid.ManagerOptions
	wire  atomic.Pointer[wire] // of the Source that runs; nil if there is none
}

// NewNetwork returns a Network over the connections of m, for Source.Network. o are the options that m
// was made with: this node dials as a guest with their AddAuth, TLSConfig and the like. It registers
// two methods at m, so it fails for one that has a Network already.
func NewNetwork(m *grid.Manager, o grid.ManagerOptions) (*Network, error) {
	o.Hosts, o.AcceptGuest, o.BlockConnect = nil, nil, nil
	n := &Network{m: m, guest: o}
	if err := m.Handle(packetMethod, n.packet); err != nil {
		return nil, err
	}
	if err := m.HandleStream(streamMethod, n.stream); err != nil {
		return nil, err
	}
	return n, nil
}

// GuestOf returns the name of the host that joins the gossip by a guest of that name. ok is false for
// all other guests. It is for ManagerOptions.AcceptGuest, and for a VerifyPeer that checks who is the
// host. The name is only what the guest says.
func GuestOf(name string) (host string, ok bool) {
	_, escaped, ok := strings.Cut(strings.TrimPrefix(name, guestPrefix), "/")
	if !ok || !strings.HasPrefix(name, guestPrefix) {
		return "", false
	}
	host, err := url.QueryUnescape(escaped)
	return host, err == nil && isHost(host)
}

// guestName returns a name of a guest, which has no colon. A node may be several guests at once.
func guestName(host string) string {
	return guestPrefix + rand.Text()[:12] + "/" + url.QueryEscape(host)
}

// isHost reports whether a name is that of a host: no guest has a colon in its name.
func isHost(name string) bool { return strings.Contains(name, "://") }

// packet handles a packet of another host.
func (n *Network) packet(ctx context.Context, b []byte) ([]byte, error) {
	from := grid.GetCaller(ctx).Name
	switch w := n.wire.Load(); {
	case !isHost(from):
		return nil, errStranger
	case w == nil:
		return nil, errNoGossip
	default:
		return nil, w.receive(b, from)
	}
}

// stream handles a stream of another host, or of one that wants to be.
func (n *Network) stream(ctx context.Context, st *grid.RawStream) error {
	from := grid.GetCaller(ctx).Name
	if host, ok := GuestOf(from); ok {
		from = host
	}
	switch w := n.wire.Load(); {
	case !isHost(from):
		return errStranger
	case w == nil:
		return errNoGossip
	default:
		return w.serve(ctx, st, from)
	}
}

var (
	errStranger = errors.New("gridmemberlist: only hosts gossip, and guests that want to be hosts")
	errNoGossip = errors.New("gridmemberlist: this node does not gossip now")
	errBusy     = errors.New("gridmemberlist: a Source uses this Network already")
)

// open returns what memberlist uses, until its Shutdown.
func (n *Network) open(join []string) (*wire, error) {
	w := newWire(n, join)
	if !n.wire.CompareAndSwap(nil, w) {
		w.cancel()
		return nil, errBusy
	}
	return w, nil
}

// address is the remote end of a connection, or where a packet is from: the name of a host.
type address string

func (a address) Network() string { return "grid" }
func (a address) String() string  { return string(a) }

// port is that of all stand-ins.
const port = 1

// standIn returns the address that a host has for memberlist, which knows nodes by IP addresses. It is
// made of the name, in a range for private use, and leads nowhere.
func standIn(host string) net.IP {
	hash := sha256.Sum256([]byte(host))
	ip := net.IP(hash[:net.IPv6len])
	ip[0] = 0xfd
	return ip
}

// standInText is a stand-in as memberlist writes it.
func standInText(host string) string {
	return net.JoinHostPort(standIn(host).String(), fmt.Sprint(port))
}
