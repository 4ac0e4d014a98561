package batch

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gobwas/ws"
	"github.com/gridmesh/grid/internal/wsframe"
)

// numbered is a message that says whose it is, which one, and how long.
type numbered struct {
	Waiter
	owner, number uint32
	total, sent   int
	opens, skip   bool
	done          chan error
}

const numberedHead = 13

func (x *numbered) Opens() bool                         { return x.opens }
func (x *numbered) Admit(time.Time) (size int, ok bool) { return x.total, !x.skip }
func (x *numbered) AppendTo(b []byte) []byte {
	return append(x.head(b, 'm'), make([]byte, x.total-numberedHead)...)
}
func (x *numbered) AppendAbandoned(b []byte) []byte { return x.head(b, 'p') }
func (x *numbered) Done(err error)                  { x.done <- err }

func (x *numbered) AppendPiece(b []byte, n int) []byte {
	x.sent += n
	return append(x.head(b, 'p'), make([]byte, n)...)
}

func (x *numbered) head(b []byte, kind byte) []byte {
	b = binary.BigEndian.AppendUint32(append(b, kind), x.owner)
	b = binary.BigEndian.AppendUint32(b, x.number)
	return binary.BigEndian.AppendUint32(b, uint32(x.total))
}

// fate is what became of a message, as its owner knows.
type fate uint8

const (
	isSent    fate = iota // or is, unless the connection is cut
	isUnsent              // not a byte
	isGivenUp             // at most a part
)

// model is a writer with both lanes, owners of messages, and what the other end knows.
type model struct {
	t       *testing.T
	cfg     Config
	w       *Writer
	mostly  int  // from 0 for few large messages to 4 for many
	flushes bool // the writer is closed by a flush

	mu    sync.Mutex
	fates map[[2]uint32]fate

	came  map[[2]uint32]bool // whole ones
	begun map[uint32]*partialMessage
	last  map[uint32]uint32 // number, by owner
	sum   int               // bytes of what is begun
}

type partialMessage struct {
	number      uint32
	total, left int
}

func (m *model) settle(x *numbered, f fate) {
	m.mu.Lock()
	m.fates[[2]uint32{x.owner, x.number}] = f
	m.mu.Unlock()
}

// own sends messages one after another in a lane, as long as the writer takes any.
func (m *model) own(r *rand.Rand, owner uint32, in Lane) {
	w, done := m.w, make(chan error, 1)
	x := &numbered{owner: owner, done: done, opens: owner%3 == 0}
	for x.number < 40 {
		x.number++
		x.sent, x.skip = 0, false
		x.total = numberedHead + r.IntN(1<<r.IntN(13))
		var slot Slot
		var err error
		large := false
		switch kind := r.IntN(8); {
		case kind <= m.mostly:
			x.total = numberedHead + r.IntN(1<<(10+r.IntN(12)))
			large = true
			err = w.AddLarge(in, &x.Waiter, x, x.total, uint64(owner)<<32|uint64(x.number))
		case kind == 5:
			if slot, err = w.BeginNow(in); err == ErrFull {
				m.settle(x, isUnsent)
				continue
			}
		case kind == 6:
			slot, err = w.BeginAdvice(in)
		case kind == 7:
			x.skip = r.IntN(2) == 0
			fallthrough
		default:
			if slot, err = w.BeginOrWait(in, &x.Waiter, x, x.total); err == nil && x.skip {
				x.skip = false
			}
		}
		switch err {
		case nil:
			m.commit(r, slot, x)
			m.settle(x, isSent)
		case ErrQueued:
			m.settle(x, m.await(r, x, large))
		default:
			m.settle(x, isUnsent)
			return
		}
		if r.IntN(3) == 0 {
			time.Sleep(time.Duration(r.IntN(5000)) * time.Microsecond)
		}
	}
}

func (m *model) commit(r *rand.Rand, slot Slot, x *numbered) {
	if r.IntN(2) == 0 {
		slot.Hurry()
	}
	buf, ok := slot.Detach(x.total)
	if !ok {
		slot.Commit(x.AppendTo(slot.Open(x.total)))
		return
	}
	time.Sleep(time.Duration(r.IntN(3)) * time.Millisecond)
	slot.Attach(x.AppendTo(buf))
}

// await waits for a message in line, or gives it up.
func (m *model) await(r *rand.Rand, x *numbered, large bool) fate {
	timer := time.NewTimer(time.Duration(r.IntN(100)) * time.Millisecond)
	defer timer.Stop()
	patient := r.IntN(2) == 0
	for {
		select {
		case err := <-x.done:
			switch {
			case err == nil && !x.skip:
				return isSent
			case err == nil:
				return isUnsent
			case err == ErrClosed && m.flushes && !x.opens:
				m.t.Errorf("%d of %d was dropped by a flush", x.number, x.owner)
			}
			if large {
				return isGivenUp
			}
			return isUnsent
		case <-timer.C:
		}
		switch {
		case patient:
		case large && r.IntN(2) == 0:
			m.w.Cancel(uint64(x.owner)<<32 | uint64(x.number))
		case m.w.Withdraw(&x.Waiter):
			if large {
				return isGivenUp
			}
			return isUnsent
		}
	}
}

// read takes what comes, and acknowledges it some time later.
func (m *model) read(r *rand.Rand, conn net.Conn) {
	frames := wsframe.NewReader(conn, nil, wsframe.Config{Client: true})
	acks := make(chan int, 1<<16)
	pause := rand.New(rand.NewPCG(r.Uint64(), 0))
	var acker sync.WaitGroup
	defer acker.Wait()
	defer close(acks)
	acker.Go(func() {
		for n := range acks {
			time.Sleep(time.Duration(r.IntN(3)) * time.Millisecond)
			if !m.w.Acknowledge(n) {
				m.t.Error("what was not sent was acknowledged")
			}
		}
	})
	for {
		b, err := frames.Next()
		if err != nil {
			return
		}
		n := 0
		for _, one := range split(m.t, b) {
			n += m.take(one)
		}
		if n > 0 {
			acks <- n
		}
		if pause.IntN(20) == 0 {
			time.Sleep(time.Duration(pause.IntN(20)) * time.Millisecond)
		}
	}
}

// take takes one message. It returns the bytes to be acknowledged.
func (m *model) take(b []byte) int {
	owner, number := binary.BigEndian.Uint32(b[1:]), binary.BigEndian.Uint32(b[5:])
	total, n := int(binary.BigEndian.Uint32(b[9:])), len(b)-numberedHead
	p := m.begun[owner]
	if p == nil || p.number != number {
		if p != nil {
			m.t.Errorf("%d of %d comes within %d", number, owner, p.number)
		}
		if number <= m.last[owner] {
			m.t.Errorf("%d of %d comes behind %d", number, owner, m.last[owner])
		}
		m.last[owner] = number
	}
	if b[0] == 'm' {
		if len(b) != total {
			m.t.Errorf("%d of %d has %d bytes of %d", number, owner, len(b), total)
		}
		m.came[[2]uint32{owner, number}] = true
		return 0
	}
	if p == nil {
		if n == 0 {
			m.t.Errorf("%d of %d is given up, and has not begun", number, owner)
		}
		p = &partialMessage{number, total, total}
		m.begun[owner] = p
		if m.sum += total; m.sum > m.cfg.MaxBegun {
			m.t.Errorf("%d bytes are begun", m.sum)
		}
	}
	if p.left -= n; p.left < 0 {
		m.t.Errorf("%d of %d is too long", number, owner)
	}
	if p.left == 0 || n == 0 {
		m.came[[2]uint32{owner, number}] = p.left == 0
		m.sum -= p.total
		delete(m.begun, owner)
	}
	return n
}

// check compares what came with what the owners know. cut is set if the connection did not live to
// the end of a flush.
func (m *model) check(cut bool) {
	for id, f := range m.fates {
		whole, begun := m.came[id]
		switch {
		case f == isUnsent && begun:
			m.t.Errorf("%v came, and was not sent", id)
		case f == isSent && !whole && !cut:
			m.t.Errorf("%v was sent, and did not come", id)
		}
	}
	if cut {
		return
	}
	if len(m.begun) > 0 {
		m.t.Errorf("the other end waits for more of %d messages", len(m.begun))
	}
	w := m.w
	for in := range w.lanes {
		l := &w.lanes[in]
		if l.queued() != 0 || len(l.frames) > 0 || l.waiting.first != nil || l.waiting.bytes != 0 || l.larges() || l.begun != [2]int{} || l.over != [2]int{} {
			m.t.Errorf("in the lane %d something is left: %+v", in, l)
		}
	}
	if w.larges.left != 0 || w.larges.keys != nil || w.answers.Load() != 0 {
		m.t.Errorf("something is left: %+v", w.larges)
	}
}

// Owners send in both lanes what they like, wait or give up, and the other end reads and
// acknowledges late. Nobody waits forever, all that was sent comes in the order of its owner, and
// nothing else, and in the end nothing is left.
func TestLanesKeepTheirOrder(t *testing.T) {
	for seed := range uint64(30) {
		t.Run(fmt.Sprint("seed=", seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { runModel(t, seed) })
		})
	}
}

func runModel(t *testing.T, seed uint64) {
	r := rand.New(rand.NewPCG(seed, 0))
	cfg := testConfig
	cfg.Limit = 1 << (9 + r.IntN(8))
	cfg.Reserve = 1 << (9 + r.IntN(8))
	cfg.Large = 1 << (8 + r.IntN(6))
	cfg.MaxBegun = 4<<20 + r.IntN(4<<20)
	how := r.IntN(5)
	here, there := net.Pipe()
	w := New(here, cfg)
	m := &model{
		t: t, cfg: cfg, w: w, mostly: r.IntN(5), flushes: how < 3,
		fates: make(map[[2]uint32]fate), came: make(map[[2]uint32]bool),
		begun: make(map[uint32]*partialMessage), last: make(map[uint32]uint32),
	}
	var owners, reader sync.WaitGroup
	source := func() *rand.Rand { return rand.New(rand.NewPCG(seed, r.Uint64())) }
	ran := make(chan error, 1)
	go func() { ran <- w.Run() }()
	own, read := make([]*rand.Rand, 3+r.IntN(12)), source()
	for i := range own {
		own[i] = source()
	}
	reader.Go(func() { m.read(read, there) })
	for i, r := range own {
		owners.Go(func() { m.own(r, uint32(i), Lane(i%2)) })
	}
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-stop:
				return
			case <-time.After(3 * time.Millisecond):
				frame := make([]byte, wsframe.HeaderSize(0, false))
				wsframe.PutHeader(frame, ws.OpPong, 0, false, [4]byte{})
				w.Control(frame)
				w.WaitReserve()
			}
		}
	}()
	if how > 0 {
		time.Sleep(time.Duration(r.IntN(200)) * time.Millisecond)
	} else {
		owners.Wait()
	}
	switch how {
	case 0, 1:
		w.CloseAfterFlush(nil)
	case 2:
		w.CloseAfterFlush(nil)
		time.Sleep(time.Duration(r.IntN(20)) * time.Millisecond)
		w.LiftWindow()
	case 3:
		w.Close()
		here.Close()
	case 4:
		here.Close()
	}
	owners.Wait()
	err := <-ran
	close(stop)
	<-done
	if how < 3 && err != nil {
		t.Error(err)
	}
	here.Close()
	reader.Wait()
	m.check(how >= 3)
}
