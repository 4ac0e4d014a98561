package grid

import (
	"sync/atomic"
	"time"
)

// muxes are the streams of a session, in both directions.
type muxes struct {
	*sender
	registry *atomic.Pointer[registry]
	began    time.Time            // of the session; stream times count from here
	tick     time.Duration        // between rounds of the janitor
	clients  muxTable[*muxClient] // opened here
	servers  muxTable[*muxServer] // opened by the peer
	run      run                  // of messages that are about to be queued; the reader's alone
	heaviest heaviest             // the streams with the most waiting; the reader's alone
}

func (x *muxes) init(s *sender, handlers *atomic.Pointer[registry], began time.Time, tick time.Duration) {
	x.sender, x.registry, x.began, x.tick = s, handlers, began, tick
}

// toServer hands a message of the peer's caller to the handler's side of its stream. It reports
// whether there is a stream with that ID.
func (x *muxes) toServer(m *message, now time.Time) bool {
	mux, ok := x.servers.get(m.MuxID)
	switch {
	case ok:
		mux.receive(m, now)
	case m.Op == OpMuxClientMsg:
		x.replyBehind(message{MuxID: m.MuxID, Op: OpDisconnectClientMux})
	case m.Op == OpPing:
		payload, _ := (&pongMsg{NotFound: true}).MarshalMsg(nil)
		x.replyBehind(message{MuxID: m.MuxID, Seq: m.Seq, Op: OpPong, Payload: payload})
	}
	return ok
}

// toClient hands a message of the peer's handler to the caller's side of its stream.
func (x *muxes) toClient(m *message, now time.Time) {
	mux, ok := x.run.mux, true
	if mux == nil || mux.id != m.MuxID {
		x.endRun()
		mux, ok = x.clients.get(m.MuxID)
	}
	switch {
	case ok && m.joins():
		x.collect(mux, m, now)
	case ok:
		mux.receive(m, now)
	case m.Op == OpAckMux, m.Op == OpPong, m.Op == OpMuxServerHeader, m.Op == OpMuxServerEnd, m.Op == OpMuxServerMsg && m.Flags&FlagEOF == 0:
		// Never DisconnectClientMux: it would concern a mux of the peer's own numbering.
		x.replyBehind(message{MuxID: m.MuxID, Op: OpDisconnectServerMux})
	}
}

// handlers returns what is registered now.
func (x *muxes) handlers() *registry { return x.registry.Load() }

// receiveFirst handles the first piece of a message of a stream that the reader got now. It reports
// whether the message is wanted.
func (x *muxes) receiveFirst(m *message, now time.Time) bool {
	if m.Op == OpMuxClientMsg {
		if mux, ok := x.servers.get(m.MuxID); ok {
			return mux.receiveFirst(m, now)
		}
		x.toServer(m, now) // says that there is no such stream
		return false
	}
	if mux, ok := x.clients.get(m.MuxID); ok {
		return mux.receiveFirst(m, now)
	}
	x.toClient(m, now)
	return false
}

// refused ends a stream that the peer did not accept.
func (x *muxes) refused(id uint64, err error) {
	if mux, ok := x.clients.get(id); ok {
		mux.cancel(err)
	}
}

// close ends all streams, because the connection is lost, and accepts no more.
func (x *muxes) close() {
	for _, m := range x.clients.close() {
		m.abort(ErrDisconnected)
	}
	for _, m := range x.servers.close() {
		m.abort(ErrDisconnected)
	}
}

// checkAlive pings the peers of streams and ends the streams whose peer is silent. The janitor
// calls it.
func (x *muxes) checkAlive(l *look) {
	for _, m := range x.clients.all() {
		m.checkAlive(l)
	}
	for _, m := range x.servers.all() {
		m.checkAlive(l)
	}
}

// hold counts the bytes of a message that a stream is about to queue. If streams hold too much, it
// ends those with the most waiting: they belong to slow consumers. If that is own itself, it
// returns false and counts nothing. The reader calls it.
func (x *muxes) hold(own holder, bytes int) bool {
	for ok := x.streamQuota.hold(bytes); !ok; ok = !x.streamQuota.exceeded() {
		if most := x.heaviest.get(x.streams); most != nil && most != own && most.waiting() > own.waiting()+bytes {
			most.overload()
			continue
		}
		x.streamQuota.free(bytes)
		return false
	}
	return true
}

// holdMessage counts the payload of a message that a stream is about to queue, unless that was done
// when its first piece came. If streams hold too much, own may end; then it returns false. The
// reader calls it.
func (x *muxes) holdMessage(own holder, m *message) bool {
	if m.counted > 0 {
		return true
	}
	size := m.footprint()
	if !x.hold(own, size) {
		own.overload()
		return false
	}
	m.counted = size
	return true
}

// streams returns a snapshot of all streams.
func (x *muxes) streams() (all []holder) {
	for _, m := range x.servers.all() {
		all = append(all, m)
	}
	for _, m := range x.clients.all() {
		all = append(all, m)
	}
	return all
}

// forgetClient and forgetServer remove an ended stream from its table.
func (x *muxes) forgetClient(id uint64) { x.clients.remove(id) }
func (x *muxes) forgetServer(id uint64) { x.servers.remove(id) }

// count returns the numbers of open streams, opened here and by the peer.
func (x *muxes) count() (clients, servers int) { return x.clients.len(), x.servers.len() }

// appendOpen appends the open streams; now is a time of the session.
func (x *muxes) appendOpen(open []OpenCall, now time.Duration) []OpenCall {
	add := func(role Role, to target, began time.Duration) {
		call := openCall(role, to, now-began)
		call.Stream = true
		open = append(open, call)
	}
	for _, m := range x.clients.all() {
		add(RoleClient, m.to, m.began)
	}
	for _, m := range x.servers.all() {
		add(RoleServer, m.handler.target, m.began)
	}
	return open
}

// Stream liveness, as peers expect it.
const (
	muxPingInterval  = 15 * time.Second // between pings of a stream with no deadline or a more distant one
	muxPeerTimeout   = 30 * time.Second // without any message from the handler's side
	muxCallerTimeout = 60 * time.Second // without a ping from the caller's side
)
