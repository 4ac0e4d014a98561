package grid

import (
	"context"
	"errors"
	"net/http"
)

// Join starts a node that is no host, but a guest of servers: it dials them, and is dialed by nobody,
// so it may be behind a NAT, or a client of the cluster. Once it is connected, both sides call each
// other as hosts do. The servers need ManagerOptions.AcceptGuest.
//
// server is the URL of a server, such as "https://grid.example:443", which need not be its name
// among the hosts. On this side it is the name of the server, for Manager.Connection and all else.
// SetHosts replaces the servers, so a guest may have several, and package discovery can find them.
// Each URL must lead to a server of its own: of two connections of a guest to one server only one is
// accepted, that by its name among the hosts or else the earlier one.
//
// o is as for NewManager, except that Local is any name of at most MaxGuestNameSize bytes of
// printable text without a colon. No two guests of a server may have the same: of two processes, the
// one that is connected stays, as with hosts. Hosts and AcceptGuest must not be set. AuthRequest,
// VerifyPeer and AllowOrigin are not used, and Handler refuses everybody.
//
// A connection that is lost is dialed again within a second, and from then on after random pauses
// that grow to 5 to 10 seconds. The server need not be up yet. One that accepts no guests, as nodes
// of the original, rejects a guest as an unknown host; the log says so.
func Join(ctx context.Context, server string, o ManagerOptions) (*Manager, error) {
	if err := o.checkGuest(server); err != nil {
		return nil, err
	}
	o.Hosts = []string{server}
	o.AuthRequest = func(*http.Request) error { return errNobodyDials }
	return newManager(ctx, o)
}

var errNobodyDials = errors.New("nobody dials a guest")

// OnGuest calls f for each guest that is connected, and for each that connects from then on: see
// ManagerOptions.AcceptGuest. Each call is on a goroutine of its own, so f may serve the guest for as
// long as that is there. If f is given more than once, all of them are called.
//
// A guest is there until its connection is lost. Then, or when it was removed, the Connection is of
// no more use: calls that run then fail with ErrDisconnected, later ones with ErrRemoved.
// A guest that comes back gets another Connection, unless the loss had not been noticed: then f is
// called again with the same.
func (m *Manager) OnGuest(f func(guest *Connection)) {
	if m != nil && f != nil {
		m.guests.listen(f)
	}
}

// Guests returns the connections to the guests that are connected, in no particular order. Guests
// count for nothing else that is about hosts: not for Targets, Health, WaitForConnect and Events. The
// slice is the caller's.
func (m *Manager) Guests() []*Connection {
	if m == nil {
		return nil
	}
	return m.guests.connected()
}

// RemoveGuest ends the connection to a guest as SetHosts does with that to a host: new calls get
// ErrRemoved at both ends, and those that run may finish for ManagerOptions.RemovalGrace. It returns
// false if there is no such guest. The guest comes back, unless AcceptGuest keeps it out. One that
// AcceptGuest lets in at this moment may be connected afterwards; OnGuest tells.
func (m *Manager) RemoveGuest(name string) bool {
	if m == nil {
		return false
	}
	c := m.guests.remove(name)
	if c == nil {
		return false
	}
	c.leave()
	m.node.goWork(func() { m.retire(c, m.guests.forget) })
	return true
}
