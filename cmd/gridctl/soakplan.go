package main

import (
	"context"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"time"

	"github.com/gridmesh/grid"
)

// soakKind is what a call of a soak uses.
type soakKind int

const (
	soakRaw soakKind = iota
	soakRoute
	soakTyped
	soakContext
	soakDown  // a one-way stream
	soakBoth  // a two-way stream
	soakPairs // a two-way stream with typed values
	soakUnknown
	soakKinds
)

var soakKindNames = [soakKinds]string{"raw requests", "subroutes", "typed requests", "context requests", "one-way streams", "two-way streams",
	"typed streams", "unknown handlers"}

func (k soakKind) String() string { return soakKindNames[k] }

func (k soakKind) stream() bool { return k == soakDown || k == soakBoth || k == soakPairs }

// hasContext says whether the handler hears that its caller has gone.
func (k soakKind) hasContext() bool { return k == soakContext || k.stream() }

// soakEnd is how a handler ends.
type soakEnd int

const (
	endWell soakEnd = iota
	endWithError
	endWithPanic
	endWithCaller // waits until the caller has given up
)

// soakPlan is what a call is and does. Both sides draw it from the number of the call, so that none has to
// believe what came over the wire.
type soakPlan struct {
	id       uint64
	kind     soakKind
	from, to int
	end      soakEnd

	ask, answer    int // bytes of the payload, and of an answer or a message
	up, down       int // messages of a stream
	handlerPause   time.Duration
	consumerPause  time.Duration
	deadline       time.Duration // 0 for none
	cancelAfter    time.Duration // 0 for never
	leaveAfter     int           // messages after which the consumer leaves a stream; -1 for never
	expectMetadata bool
}

// soakPlanner draws plans.
type soakPlanner struct {
	seed  uint64
	nodes int
}

// plan returns what the call of a number is.
func (s soakPlanner) plan(id uint64) soakPlan {
	r := rand.New(rand.NewPCG(s.seed, id))
	chance := func(percent int) bool { return r.IntN(100) < percent }
	p := soakPlan{id: id, kind: soakKind(r.IntN(int(soakKinds))), from: r.IntN(s.nodes), leaveAfter: -1}
	p.to = (p.from + 1 + r.IntN(s.nodes-1)) % s.nodes
	p.ask, p.answer = drawSize(r), drawSize(r)
	switch {
	case chance(4):
		p.end = endWithError
	case chance(2):
		p.end = endWithPanic
	}
	if chance(15) {
		p.handlerPause = drawPause(r)
	}
	if p.kind.stream() {
		p.drawStream(r, chance)
	}
	if chance(40) || p.kind.stream() {
		p.deadline = time.Duration(20+r.IntN(10)) * time.Second
	}
	switch {
	case chance(4):
		p.deadline = time.Duration(1+r.IntN(300)) * time.Millisecond
	case chance(4):
		p.cancelAfter = time.Duration(1+r.IntN(300)) * time.Millisecond
	}
	short := p.cancelAfter > 0 || p.deadline > 0 && p.deadline < time.Second
	if short && p.kind.hasContext() && p.leaveAfter < 0 && chance(50) {
		p.end = endWithCaller
	}
	p.expectMetadata = p.kind == soakContext && chance(50)
	return p
}

func (p *soakPlan) drawStream(r *rand.Rand, chance func(int) bool) {
	p.down = r.IntN(40)
	if chance(5) {
		p.down += r.IntN(500)
	}
	if p.kind != soakDown {
		p.up = p.down // each is answered
	}
	if p.down > 40 || p.answer > 64<<10 {
		p.answer = min(p.answer, 1<<10)
	}
	if chance(10) {
		p.consumerPause = time.Duration(r.IntN(5)) * time.Millisecond
	}
	if chance(10) {
		p.leaveAfter = r.IntN(p.down + 1)
	}
}

// drawSize returns bytes: mostly few, now and then many.
func drawSize(r *rand.Rand) int {
	switch n := r.IntN(100); {
	case n < 1:
		return r.IntN(1 << 20)
	case n < 10:
		return r.IntN(64 << 10)
	}
	return r.IntN(1 << 10)
}

func drawPause(r *rand.Rand) time.Duration {
	if r.IntN(20) == 0 {
		return time.Duration(r.IntN(1000)) * time.Millisecond
	}
	return time.Duration(r.IntN(20)) * time.Millisecond
}

// failure is the text of the error that the handler returns.
func (p *soakPlan) failure() string { return fmt.Sprintf("call %d fails", p.id) }

// panicText is what the handler panics with.
func (p *soakPlan) panicText() string { return fmt.Sprintf("panic of call %d", p.id) }

// abandoned is the text of the error of a handler that heard that its caller has gone.
func (p *soakPlan) abandoned() string { return fmt.Sprintf("call %d was given up", p.id) }

func (p *soakPlan) String() string {
	return fmt.Sprintf("call %d, %v, node %d to %d", p.id, p.kind, p.from, p.to)
}

// soakSide says what a message is for, so that none is taken for another.
type soakSide byte

const (
	sideAsk soakSide = iota
	sideAnswer
	sideUp
	sideDown
)

// A message is the number of its call, its side, its number in the stream, its own size, anything, and a checksum of all.
const (
	soakHeader  = 8 + 1 + 4 + 4
	soakTrailer = 4
)

var (
	soakFill   = newSoakFill()
	castagnoli = crc32.MakeTable(crc32.Castagnoli)
)

func newSoakFill() []byte {
	b := make([]byte, 2<<20)
	for i := 0; i < len(b); i += 8 {
		binary.LittleEndian.PutUint64(b[i:], rand.Uint64())
	}
	return b
}

// message returns a message of the call, in a buffer of the caller's.
func (p *soakPlan) message(side soakSide, n, size int) []byte {
	size = max(size, soakHeader+soakTrailer)
	b := grid.GetByteBufferCap(size)[:0]
	b = binary.BigEndian.AppendUint64(b, p.id)
	b = append(b, byte(side))
	b = binary.BigEndian.AppendUint32(b, uint32(n))
	b = binary.BigEndian.AppendUint32(b, uint32(size))
	at := int((p.id*31 + uint64(n)*7919) % uint64(len(soakFill)/2))
	b = append(b, soakFill[at:at+size-len(b)-soakTrailer]...)
	return binary.BigEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
}

// verify says how b differs from the message that it has to be.
func (p *soakPlan) verify(b []byte, side soakSide, n, size int) error {
	size = max(size, soakHeader+soakTrailer)
	id, gotSide, gotN, err := parseSoak(b)
	switch {
	case err != nil:
		return err
	case id != p.id || gotSide != side || gotN != n || len(b) != size:
		return fmt.Errorf("got message %d of side %d of call %d with %d bytes, want %d of side %d with %d bytes", gotN, gotSide, id, len(b), n, side, size)
	}
	return nil
}

// parseSoak reads what a message says of itself.
func parseSoak(b []byte) (id uint64, side soakSide, n int, err error) {
	if len(b) < soakHeader+soakTrailer {
		return 0, 0, 0, fmt.Errorf("got %d bytes in place of a message", len(b))
	}
	body, sum := b[:len(b)-soakTrailer], binary.BigEndian.Uint32(b[len(b)-soakTrailer:])
	if crc32.Checksum(body, castagnoli) != sum {
		return 0, 0, 0, fmt.Errorf("got a message of %d bytes with a wrong checksum", len(b))
	}
	if size := binary.BigEndian.Uint32(b[13:]); int(size) != len(b) {
		return 0, 0, 0, fmt.Errorf("got %d bytes of a message with %d", len(b), size)
	}
	return binary.BigEndian.Uint64(b), soakSide(b[8]), int(binary.BigEndian.Uint32(b[9:])), nil
}

// sleepOr waits for d and returns false when ctx ends first.
func sleepOr(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return ctx.Err() == nil
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
