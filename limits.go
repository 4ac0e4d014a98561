package grid

import (
	"fmt"
	"time"
)

// Limits bounds what one peer can make a node do, and how long it may take. A
// field that is 0 has the default that is named at it; what is out of its
// range makes NewManager fail with an error that names the field.
//
// # Memory
//
// Nothing is allocated by a length that a message claims, only by bytes that
// have come in. Whatever one peer does, this node holds for it at the most
//
//	2 × MaxMessageSize                                      for what is being received
//	+ 4 × (MaxMessageSize + MaxQueuedBytes + MaxQueuedControlBytes)  for what is being sent
//	+ MaxRequestBytes + MaxStreamBytes                      for payloads, and what they are decoded to
//	+ MaxRequests × 4 KiB + MaxStreams × 16 KiB             for goroutines and tables
//
// beside what handlers allocate and answer, the answers that this node asked for, and 16 MiB in the whole process for decoding nested
// values. That is 1.5 GiB with the
// defaults, and a few kilobytes for a peer that sends nothing. Before its
// handshake a connection can make a node hold 2 × MaxHandshakeSize, for as long as HandshakeTimeout, and MaxHandshakes of them do.
//
// # Decoded values
//
// A decoded value can take more than a hundred times the bytes of its message: a map with a single pair takes 350 bytes
// of memory and 3 of a message. So typed handlers estimate what a request, or a message of a stream, takes before they decode
// it, and count that in MaxRequestBytes or MaxStreamBytes where it is more than the message. The estimate is 72 bytes for each value, elements
// and keys included, 336 for each array and map that is not empty, and 9/8 of the bytes; less for MSS, URLValues and
// Bytes, and for the elements of an Array by their type. It is never too small for the payload types of this package, and for code that msgp
// generates as long as no element of a slice or map, and nothing behind a pointer, is larger than 72 bytes. A type with larger ones may take as many times
// more: so many bytes for each of its elements, of which a message has one for each byte at the most. In a JSON within such a type only the bytes count.
// For an Array of T and a JSON of T the same holds of T.
//
// A value that would take more than the limit alone is an error that says so, and so is an answer that would take more than 16 × MaxMessageSize.
// What is nested in more than 1,000 levels is not decoded at all (WithMaxDepth of typed handlers and of JSONPool).
//
// # Overload
//
// A request or a stream over a limit is refused with ErrOverloaded, without running its handler.
type Limits struct {
	// MaxMessageSize is the largest message, in bytes, that is taken and sent: 64 MiB. 96 of these bytes are set aside for
	// what surrounds the payload. A larger one is refused before it is sent (ErrMessageTooLarge), also where only the
	// peer's limit is lower: nodes of this project tell each other. It closes the
	// connection with WebSocket status 1009 where a peer sends it. All nodes should use the same. From 4 KiB to 1 GiB.
	MaxMessageSize int
	// MaxHandshakeSize is the largest message, in bytes, that a peer may send before it is accepted: 64 KiB. It also bounds
	// the peer's HTTP answer to an upgrade. A peer that sends more is not accepted. From 1 KiB to 1 MiB.
	MaxHandshakeSize int
	// MaxHandshakes is the number of connections that AuthRequest has let in and whose handshake may be unfinished at once: 1,024.
	// One more is answered with 503, or takes the place of one from another address that has more of them; behind a proxy all
	// have the proxy's. At most 65,536.
	MaxHandshakes int

	// MaxRequests is the number of requests of one peer that may run here at once: 65,536. A request
	// counts until its answer is on its way, or, where its caller has given up, until its handler returns. At most 4,194,304.
	MaxRequests int
	// MaxStreams is the number of streams of one peer that may run here at once: 16,384. A stream counts until
	// its handler has returned. Streams opened by this node do not count. At most 4,194,304.
	MaxStreams int
	// MaxRequestBytes bounds the payloads and metadata of the requests that run, and what they are decoded to, in bytes of memory (64 and the buffer,
	// a power of two from 256 on up to 4 MiB; see above for what is decoded): 256 MiB, or what one largest message takes. At least that.
	MaxRequestBytes int
	// MaxStreamBytes bounds, in the same way, what streams with a peer hold here: the
	// payloads that open them, messages that wait for their consumer, and the last one that a handler got, and what handlers' payloads and messages are decoded to. 256 MiB,
	// or what one largest message takes. At least that. A message over it ends the stream that has most of them
	// waiting, with ErrOverloaded: a slow consumer's own.
	MaxStreamBytes int

	// MaxQueuedBytes is the number of bytes queued for sending on a connection from which messages wait in
	// line: 256 KiB. Who came first goes first. What waits stays in its owner's buffer and does not count
	// here, though it shows in ConnectionStats.BytesQueued; when the queue is written, as many bytes again of
	// what waits are written with it. A message is queued whole. From 4 KiB to 1 GiB.
	MaxQueuedBytes int
	// MaxQueuedControlBytes is the number of bytes, beyond that, of what answers the peer and cannot wait,
	// such as refusals: 4 MiB. From half of it on this node reads no faster than the peer does. A peer that
	// reads nothing and causes more is dropped. What this node says of its own accord, such as that calls are
	// canceled, is not counted: there is no more of it than there were calls. From 64 KiB to 1 GiB.
	MaxQueuedControlBytes int

	// DialTimeout bounds opening a network connection and upgrading it to a WebSocket: 2 s. From 1 ms to 1 h, as all times.
	DialTimeout time.Duration
	// HandshakeTimeout bounds the handshake that follows, on both sides, however slowly its bytes come: 10 s.
	HandshakeTimeout time.Duration
	// WriteTimeout is how long a network connection may take no byte that is to be sent: 3 s. One that takes
	// none for that long is dropped, a quarter of this time later at the latest; one that takes any, however
	// slowly, is kept. On Linux the bytes count that the peer's kernel has taken. Elsewhere, and where
	// ManagerOptions.Dialer returns other connections than those of package net, those count that the
	// connection has taken from this process: it may have much to send before it takes more. With TLS this
	// is the time for writing 64 KiB. Time in which this process stands still does not count.
	WriteTimeout time.Duration
	// PingInterval is the time between the pings that ask a peer for a sign of life: 10 s.
	PingInterval time.Duration
	// PeerTimeout is how long a peer may be silent: 20 s, or twice PingInterval. At least that. It is dropped within
	// the last eighth of that time. A sign of life is a whole message, ping or pong, or 64 KiB of a message that is still coming in:
	// a large message may take its time, and one that trickles in cannot be held forever. A tenth of this time, at least a
	// second, is the longest between two retransmissions of TCP, where the kernel lets itself be told (Linux from 6.15):
	// so long may it take to notice that a network is back which was out for less than PeerTimeout.
	//
	// What keeps this node itself from running, such as handlers that compute or a process that stands still, does not count as
	// silence of the peer's: a dead peer is then noticed later.
	PeerTimeout time.Duration
}

// The defaults.
const (
	defaultMaxMessageSize        = 64 << 20
	defaultMaxHandshakeSize      = 64 << 10
	defaultMaxHandshakes         = 1 << 10
	defaultMaxRequests           = 1 << 16
	defaultMaxStreams            = 1 << 14
	defaultMaxHeldBytes          = 256 << 20 // of requests, and of streams
	defaultMaxQueuedBytes        = 256 << 10
	defaultMaxQueuedControlBytes = 4 << 20
	defaultDialTimeout           = 2 * time.Second
	defaultHandshakeTimeout      = 10 * time.Second
	defaultWriteTimeout          = 3 * time.Second
	defaultPingInterval          = 10 * time.Second
	defaultPeerTimeout           = 20 * time.Second
)

// The ranges.
const (
	minTime        = time.Millisecond
	maxTime        = time.Hour
	maxSize        = 1 << 30 // bytes
	maxRunning     = 1 << 22 // requests or streams
	maxGuests      = 1 << 16 // connections before the end of their handshake
	minMessageSize = 4 << 10 // bytes
)

// maxOverhead is what a message takes beside its payload and metadata, in bytes, at the most.
const maxOverhead = 96

func (l Limits) withDefaults() Limits {
	setDefault(&l.MaxMessageSize, defaultMaxMessageSize)
	setDefault(&l.MaxHandshakeSize, defaultMaxHandshakeSize)
	setDefault(&l.MaxHandshakes, defaultMaxHandshakes)
	setDefault(&l.MaxRequests, defaultMaxRequests)
	setDefault(&l.MaxStreams, defaultMaxStreams)
	setDefault(&l.MaxRequestBytes, max(defaultMaxHeldBytes, l.leastHeld()))
	setDefault(&l.MaxStreamBytes, max(defaultMaxHeldBytes, l.leastHeld()))
	setDefault(&l.MaxQueuedBytes, defaultMaxQueuedBytes)
	setDefault(&l.MaxQueuedControlBytes, defaultMaxQueuedControlBytes)
	setDefault(&l.DialTimeout, defaultDialTimeout)
	setDefault(&l.HandshakeTimeout, defaultHandshakeTimeout)
	setDefault(&l.WriteTimeout, defaultWriteTimeout)
	setDefault(&l.PingInterval, defaultPingInterval)
	setDefault(&l.PeerTimeout, max(defaultPeerTimeout, 2*l.PingInterval))
	return l
}

func setDefault[T int | time.Duration](field *T, value T) {
	if *field == 0 {
		*field = value
	}
}

// leastHeld is the number of bytes that the largest message counts for.
func (l Limits) leastHeld() int { return footprint(l.MaxMessageSize) }

// check says which field is wrong.
func (l Limits) check() error {
	all := l.withDefaults()
	for _, f := range []struct {
		name               string
		value, least, most int
		unit               string
	}{
		{"MaxMessageSize", all.MaxMessageSize, minMessageSize, maxSize, " bytes"},
		{"MaxHandshakeSize", all.MaxHandshakeSize, 1 << 10, 1 << 20, " bytes"},
		{"MaxHandshakes", all.MaxHandshakes, 1, maxGuests, ""},
		{"MaxRequests", all.MaxRequests, 1, maxRunning, ""},
		{"MaxStreams", all.MaxStreams, 1, maxRunning, ""},
		{"MaxRequestBytes", all.MaxRequestBytes, all.leastHeld(), maxHeld, " bytes, which one message of MaxMessageSize takes"},
		{"MaxStreamBytes", all.MaxStreamBytes, all.leastHeld(), maxHeld, " bytes, which one message of MaxMessageSize takes"},
		{"MaxQueuedBytes", all.MaxQueuedBytes, 4 << 10, maxSize, " bytes"},
		{"MaxQueuedControlBytes", all.MaxQueuedControlBytes, 64 << 10, maxSize, " bytes"},
	} {
		switch {
		case f.value < f.least:
			return fmt.Errorf("grid: Limits.%s: %d is less than %d%s", f.name, f.value, f.least, f.unit)
		case f.value > f.most:
			return fmt.Errorf("grid: Limits.%s: %d is more than %d", f.name, f.value, f.most)
		}
	}
	for _, f := range []struct {
		name               string
		value, least, most time.Duration
	}{
		{"DialTimeout", all.DialTimeout, minTime, maxTime},
		{"HandshakeTimeout", all.HandshakeTimeout, minTime, maxTime},
		{"WriteTimeout", all.WriteTimeout, minTime, maxTime},
		{"PingInterval", all.PingInterval, minTime, maxTime},
		{"PeerTimeout", all.PeerTimeout, 2 * all.PingInterval, 2 * maxTime},
	} {
		switch {
		case f.value < f.least && f.name == "PeerTimeout":
			return fmt.Errorf("grid: Limits.%s: %v is less than %v, which is twice PingInterval: a peer has to have the time to answer a ping",
				f.name, f.value, f.least)
		case f.value < f.least:
			return fmt.Errorf("grid: Limits.%s: %v is less than %v", f.name, f.value, f.least)
		case f.value > f.most:
			return fmt.Errorf("grid: Limits.%s: %v is more than %v", f.name, f.value, f.most)
		}
	}
	return nil
}

// maxTick is the longest time between two looks of a session at what is overdue.
const maxTick = 2500 * time.Millisecond

// tick is the time between two looks of a session at what is overdue.
func (l *Limits) tick() time.Duration {
	return min(l.PingInterval/4, l.PeerTimeout/20, maxTick)
}
