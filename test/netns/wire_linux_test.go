package netns

import (
	"container/heap"
	"encoding/binary"
	"math/rand/v2"
	"sync"
	"time"
)

// wire is the Ethernet that joins the machines. All of it can fail, for each two machines and each
// direction apart.
type wire struct {
	mu     sync.Mutex // Protects following.
	ports  map[mac]*port
	faults map[link]fault
	last   map[link]time.Time // when the last frame that was delayed in order is due
	held   held
	counts frames
	closed bool

	wake chan struct{} // has room for one signal: held has changed
}

// port is where a machine's cable is plugged in.
type port struct {
	name string // of the machine
	mac  mac
	tap  *tap
}

type mac [6]byte

// link is one direction between two machines.
type link struct{ from, to string }

// fault says what happens to frames on a link. The zero value is a link in good order.
type fault struct {
	drop bool // all frames

	// Each frame is delayed, by jitter more or less, and stays behind those before it.
	delay, jitter time.Duration

	// Parts of the frames, 0 to 1, to which this happens.
	loss    float64 // lost
	reorder float64 // overtaken by those behind it, for up to holdBack
	corrupt float64 // a bit is flipped
	forge   float64 // a bit of a TCP payload is flipped, and the TCP checksum is right again
}

// holdBack is how long frames may be held back to be overtaken.
const holdBack = 25 * time.Millisecond

// frames counts what has happened to frames.
type frames struct{ carried, dropped, lost, delayed, reordered, corrupted, forged int }

func (f frames) harmed() int {
	return f.dropped + f.lost + f.delayed + f.reordered + f.corrupted + f.forged
}

func newWire() *wire {
	w := &wire{
		ports:  make(map[mac]*port),
		faults: make(map[link]fault),
		last:   make(map[link]time.Time),
		wake:   make(chan struct{}, 1),
	}
	go w.deliver()
	return w
}

// plug connects a machine.
func (w *wire) plug(p *port) {
	w.mu.Lock()
	w.ports[p.mac] = p
	w.mu.Unlock()
	go w.read(p)
}

// unplug removes a machine for good.
func (w *wire) unplug(p *port) {
	w.mu.Lock()
	if w.ports[p.mac] == p {
		delete(w.ports, p.mac)
	}
	w.mu.Unlock()
	p.tap.file.Close()
}

// set makes the links between two machines fail, that from a to b and, with both, that back.
func (w *wire) set(a, b string, both bool, f fault) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.faults[link{a, b}] = f
	if both {
		w.faults[link{b, a}] = f
	}
}

// repair puts all links in good order.
func (w *wire) repair() {
	w.mu.Lock()
	defer w.mu.Unlock()
	clear(w.faults)
}

// seen returns what has happened to frames so far.
func (w *wire) seen() frames {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.counts
}

// close ends the wire.
func (w *wire) close() {
	w.mu.Lock()
	w.closed = true
	for _, p := range w.ports {
		p.tap.file.Close()
	}
	w.mu.Unlock()
	w.signal()
}

// read forwards what a machine sends.
func (w *wire) read(p *port) {
	buf := make([]byte, 64<<10)
	for {
		n, err := p.tap.file.Read(buf)
		if err != nil {
			return
		}
		if n >= etherHeader {
			w.forward(p, buf[:n])
		}
	}
}

// forward sends a frame to whom it is for. It keeps nothing of it.
func (w *wire) forward(from *port, frame []byte) {
	now := time.Now()
	w.mu.Lock()
	var direct []*port
	for address, to := range w.ports {
		if to != from && (address == mac(frame[:6]) || frame[0]&1 != 0) && w.pass(link{from.name, to.name}, to, frame, now) {
			direct = append(direct, to)
		}
	}
	w.mu.Unlock()
	for _, to := range direct {
		to.tap.file.Write(frame) // fails where the interface is down: then nobody is there
	}
}

// pass lets a frame suffer what the link does to it. It returns whether the frame goes on as it is,
// at once. w.mu is held.
func (w *wire) pass(l link, to *port, frame []byte, now time.Time) bool {
	f := w.faults[l]
	switch {
	case f.drop:
		w.counts.dropped++
		return false
	case hits(f.loss):
		w.counts.lost++
		return false
	}
	due, changed := now, frame
	if hits(f.corrupt) && corrupted(&changed) {
		w.counts.corrupted++
	}
	if hits(f.forge) && forged(&changed) {
		w.counts.forged++
	}
	if f.delay > 0 {
		due = now.Add(f.delay - f.jitter + rand.N(2*f.jitter+1))
		if last := w.last[l]; due.Before(last) {
			due = last
		}
		w.last[l] = due
		w.counts.delayed++
	}
	if hits(f.reorder) {
		due = due.Add(rand.N(holdBack))
		w.counts.reordered++
	}
	w.counts.carried++
	if due.Equal(now) && &changed[0] == &frame[0] {
		return true
	}
	if &changed[0] == &frame[0] {
		changed = append([]byte(nil), frame...)
	}
	heap.Push(&w.held, heldFrame{due, w.counts.carried, to, changed})
	w.signal()
	return false
}

func hits(part float64) bool { return part > 0 && rand.Float64() < part }

// heldFrame is a frame that is delivered later.
type heldFrame struct {
	due   time.Time
	order int
	to    *port
	frame []byte
}

// held is a heap, the frame that is due first on top.
type held []heldFrame

func (h held) Len() int      { return len(h) }
func (h held) Swap(i, j int) { h[i], h[j] = h[j], h[i] }
func (h held) Less(i, j int) bool {
	if h[i].due.Equal(h[j].due) {
		return h[i].order < h[j].order
	}
	return h[i].due.Before(h[j].due)
}
func (h *held) Push(x any) { *h = append(*h, x.(heldFrame)) }
func (h *held) Pop() any {
	last := (*h)[len(*h)-1]
	*h = (*h)[:len(*h)-1]
	return last
}

func (w *wire) signal() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// deliver delivers what is held when it is due.
func (w *wire) deliver() {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		w.mu.Lock()
		if w.closed {
			w.mu.Unlock()
			return
		}
		var ready []heldFrame
		now := time.Now()
		for len(w.held) > 0 && !w.held[0].due.After(now) {
			ready = append(ready, heap.Pop(&w.held).(heldFrame))
		}
		wait := time.Hour
		if len(w.held) > 0 {
			wait = w.held[0].due.Sub(now)
		}
		w.mu.Unlock()
		for _, f := range ready {
			f.to.tap.file.Write(f.frame)
		}
		timer.Reset(wait)
		select {
		case <-timer.C:
		case <-w.wake:
		}
	}
}

// Sizes of headers in bytes.
const (
	etherHeader = 14
	ipHeader    = 20 // without options, which the kernel sends none of here
)

// tcpSegment returns the IP packet of a frame, its TCP segment, and where the payload begins in the
// segment. ok is false for anything else.
func tcpSegment(frame []byte) (packet, segment []byte, payload int, ok bool) {
	if len(frame) < etherHeader+ipHeader+20 || binary.BigEndian.Uint16(frame[12:]) != 0x0800 {
		return nil, nil, 0, false
	}
	packet = frame[etherHeader:]
	total := int(binary.BigEndian.Uint16(packet[2:]))
	if packet[0] != 0x45 || packet[9] != 6 || total > len(packet) || total < ipHeader+20 {
		return nil, nil, 0, false
	}
	segment = packet[ipHeader:total]
	payload = int(segment[12]>>4) * 4
	return packet, segment, payload, payload <= len(segment)
}

// corrupted flips a bit of a copy of a TCP segment or its IP header. Others are left alone: on real
// Ethernet a checksum of the frame protects those too that have none of their own.
func corrupted(frame *[]byte) bool {
	if _, _, _, ok := tcpSegment(*frame); !ok {
		return false
	}
	b := append([]byte(nil), *frame...)
	packet, segment, _, _ := tcpSegment(b)
	flip(packet[:ipHeader+len(segment)])
	*frame = b
	return true
}

// forged flips a bit of a copy of a TCP payload so that TCP does not find out.
func forged(frame *[]byte) bool {
	if _, segment, payload, ok := tcpSegment(*frame); !ok || payload == len(segment) {
		return false
	}
	b := append([]byte(nil), *frame...)
	packet, segment, payload, _ := tcpSegment(b)
	flip(segment[payload:])
	segment[16], segment[17] = 0, 0
	binary.BigEndian.PutUint16(segment[16:], tcpChecksum(packet, segment))
	*frame = b
	return true
}

func flip(b []byte) { b[rand.IntN(len(b))] ^= 1 << rand.IntN(8) }

// tcpChecksum is that of a segment whose checksum field is 0.
func tcpChecksum(packet, segment []byte) uint16 {
	sum := uint32(6 + len(segment)) // of the pseudo header: protocol, length
	add := func(b []byte) {
		for ; len(b) >= 2; b = b[2:] {
			sum += uint32(b[0])<<8 | uint32(b[1])
		}
		if len(b) == 1 {
			sum += uint32(b[0]) << 8
		}
	}
	add(packet[12:20]) // the addresses
	add(segment)
	for sum>>16 != 0 {
		sum = sum&0xffff + sum>>16
	}
	return ^uint16(sum)
}
