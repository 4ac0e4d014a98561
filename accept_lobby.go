package grid

import (
	"errors"
	"net"
	"net/netip"
	"slices"
	"sync"
)

// lobby holds the connections that AuthRequest has let in and whose handshake is not finished.
// Their number is bounded, so a client that opens connections and says nothing cannot exhaust the
// process. When the lobby is full, a newcomer takes a place from another network that holds more of
// them: no network keeps the others out.
type lobby struct {
	most int

	mu     sync.Mutex          // Protects following.
	guests map[string][]*guest // by network, the oldest first
	count  int
}

var errOusted = errors.New("no handshake in time: another connection needed its place (Limits.MaxHandshakes)")

// guest is a connection in the lobby.
type guest struct {
	network string

	socket net.Conn // nil until known; the lobby's mu protects it
	gone   bool     // it left or was ousted; the lobby's mu protects it
	ousted bool     // it lost its place to another; the lobby's mu protects it
}

// enter returns a place for a connection from an address. ok is false if there is none.
func (l *lobby) enter(remoteAddr string) (g *guest, ok bool) {
	g = &guest{network: networkOf(remoteAddr)}
	var ousted net.Conn
	defer func() {
		if ousted != nil {
			closeSocket(ousted)
		}
	}()
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.count >= l.most {
		crowd := l.largest()
		if len(crowd) < len(l.guests[g.network])+2 {
			return nil, false
		}
		ousted = crowd[0].socket
		crowd[0].ousted = true
		l.remove(crowd[0])
	}
	if l.guests == nil {
		l.guests = make(map[string][]*guest)
	}
	l.guests[g.network] = append(l.guests[g.network], g)
	l.count++
	return g, true
}

// largest returns the guests of the network that has the most. l.mu is held.
func (l *lobby) largest() (crowd []*guest) {
	for _, guests := range l.guests {
		if len(guests) > len(crowd) {
			crowd = guests
		}
	}
	return crowd
}

// remove removes a guest. l.mu is held.
func (l *lobby) remove(g *guest) {
	if g.gone {
		return
	}
	g.gone = true
	l.count--
	guests := l.guests[g.network]
	guests = slices.DeleteFunc(guests, func(other *guest) bool { return other == g })
	if l.guests[g.network] = guests; len(guests) == 0 {
		delete(l.guests, g.network)
	}
}

// use records the guest's socket. It returns false if the guest has already lost its place.
func (l *lobby) use(g *guest, socket net.Conn) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	g.socket = socket
	return !g.ousted
}

// lost reports whether the guest lost its place to another.
func (l *lobby) lost(g *guest) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return g.ousted
}

// leave gives the place back. It reports whether the guest still had it.
func (l *lobby) leave(g *guest) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.remove(g)
	return !g.ousted
}

// networkOf returns what counts as one client: the address without its port or, for IPv6, its /64
// network.
func networkOf(remoteAddr string) string {
	host := addressHost(remoteAddr)
	addr, err := netip.ParseAddr(host)
	if err != nil {
		return host
	}
	addr = addr.Unmap()
	if addr.Is6() {
		if prefix, err := addr.WithZone("").Prefix(64); err == nil {
			return prefix.String()
		}
	}
	return addr.String()
}
