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
	places map[string][]*place // by network, the oldest first
	count  int
}

var errOusted = errors.New("no handshake in time: another connection needed its place (Limits.MaxHandshakes)")

// place is that of a connection in the lobby.
type place struct {
	network string

	socket net.Conn // nil until known; the lobby's mu protects it
	gone   bool     // it left or was ousted; the lobby's mu protects it
	ousted bool     // it lost its place to another; the lobby's mu protects it
}

// enter returns a place for a connection from an address. ok is false if there is none.
func (l *lobby) enter(remoteAddr string) (p *place, ok bool) {
	p = &place{network: networkOf(remoteAddr)}
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
		if len(crowd) < len(l.places[p.network])+2 {
			return nil, false
		}
		ousted = crowd[0].socket
		crowd[0].ousted = true
		l.remove(crowd[0])
	}
	if l.places == nil {
		l.places = make(map[string][]*place)
	}
	l.places[p.network] = append(l.places[p.network], p)
	l.count++
	return p, true
}

// largest returns the places of the network that has the most. l.mu is held.
func (l *lobby) largest() (crowd []*place) {
	for _, places := range l.places {
		if len(places) > len(crowd) {
			crowd = places
		}
	}
	return crowd
}

// remove removes a place. l.mu is held.
func (l *lobby) remove(p *place) {
	if p.gone {
		return
	}
	p.gone = true
	l.count--
	places := l.places[p.network]
	places = slices.DeleteFunc(places, func(other *place) bool { return other == p })
	if l.places[p.network] = places; len(places) == 0 {
		delete(l.places, p.network)
	}
}

// use records the socket of a place. It returns false if that is already another's.
func (l *lobby) use(p *place, socket net.Conn) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	p.socket = socket
	return !p.ousted
}

// lost reports whether the place was lost to another.
func (l *lobby) lost(p *place) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return p.ousted
}

// leave gives the place back. It reports whether it was not lost before.
func (l *lobby) leave(p *place) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.remove(p)
	return !p.ousted
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
