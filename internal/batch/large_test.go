package batch

import (
	"bytes"
	"encoding/binary"
	"io"
	"math/rand/v2"
	"net"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gridmesh/grid/internal/wsframe"
)

// addLarge puts a message of n bytes, all of them b, in line.
func addLarge(t *testing.T, w *Writer, b byte, n int, key uint64, opens bool) *item {
	t.Helper()
	x := &item{msg: bytes.Repeat([]byte{b}, n), opens: opens, done: make(chan error, 1)}
	if err := w.AddLarge(Normal, &x.Waiter, x, n, key); err != ErrQueued {
		t.Fatal(err)
	}
	return x
}

// frames returns a function that reads the next frame, and false at the end.
func frames(conn net.Conn) func() ([]byte, bool) {
	r := wsframe.NewReader(conn, nil, wsframe.Config{Client: true})
	return func() ([]byte, bool) {
		b, err := r.Next()
		return bytes.Clone(b), err == nil
	}
}

func TestLargeMessagesTakeTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, conn, peer := pair(testConfig)
		const size = 200 << 10
		addLarge(t, w, 'a', size, 0, false)
		addLarge(t, w, 'b', size, 0, false)
		go w.Run()
		next := frames(peer)
		var order []byte
		came := map[byte]int{}
		for came['a']+came['b'] < 2*size {
			b, ok := next()
			if !ok {
				t.Fatal("the end")
			}
			order = append(order, b[0])
			came[b[0]] += len(b)
			if !w.Acknowledge(len(b)) {
				t.Fatalf("%d bytes were not sent", len(b))
			}
		}
		if !bytes.HasPrefix(order, []byte("ababababab")) {
			t.Errorf("in this order: %s", order)
		}
		if len(order) < 8 {
			t.Errorf("only %d pieces", len(order))
		}
		conn.Close()
		w.Close()
	})
}

func TestNoMoreThanTheWindowIsOnItsWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, conn, peer := pair(testConfig)
		x := addLarge(t, w, 'a', 1<<20, 0, false)
		go w.Run()
		next := frames(peer)
		sent := make(chan int, 100)
		go func() {
			for b, ok := next(); ok; b, ok = next() {
				sent <- len(b)
			}
		}()
		synctest.Wait()
		flight := 0
		for len(sent) > 0 {
			flight += <-sent
		}
		if flight != minWindow {
			t.Errorf("%d bytes are on their way, want %d", flight, minWindow)
		}
		// What else there is to send does not wait for the window.
		if err := appendMessage(w, nil, []byte("small")); err != nil {
			t.Fatal(err)
		}
		if n := <-sent; n != len("small") {
			t.Errorf("%d bytes came in place of the small message", n)
		}
		if w.Acknowledge(flight + 1) {
			t.Error("more was acknowledged than sent")
		}
		for got := flight; got < 1<<20; {
			if !w.Acknowledge(flight) {
				t.Fatal("what was sent was not acknowledged")
			}
			synctest.Wait()
			flight = 0
			for len(sent) > 0 {
				flight += <-sent
			}
			if got += flight; flight == 0 {
				t.Fatalf("nothing follows %d bytes", got)
			}
		}
		if err := <-x.done; err != nil {
			t.Error(err)
		}
		conn.Close()
		w.Close()
	})
}

func TestALargeMessageCanBeGivenUp(t *testing.T) {
	for name, giveUp := range map[string]func(w *Writer, x *item){
		"by its owner": func(w *Writer, x *item) { w.Withdraw(&x.Waiter) },
		"by its key":   func(w *Writer, x *item) { w.Cancel(7) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w, conn, peer := pair(testConfig)
				x := addLarge(t, w, 'a', 1<<20, 7, false)
				giveUp(w, x)
				if n := w.Backlog(); n != 0 {
					t.Errorf("%d bytes still wait", n)
				}
				if name == "by its key" {
					if err := <-x.done; err != ErrCanceled {
						t.Errorf("Done got %v", err)
					}
				}
				x = addLarge(t, w, 'a', 1<<20, 7, false)
				go w.Run()
				next := frames(peer)
				var came []string
				read := make(chan struct{})
				go func() {
					defer close(read)
					for b, ok := next(); ok; b, ok = next() {
						came = append(came, string(b))
					}
				}()
				synctest.Wait() // the window is full
				begun := len(came)
				giveUp(w, x)
				synctest.Wait()
				if begun == 0 || len(came) != begun+1 || came[begun] != "abandoned" {
					t.Errorf("%d pieces came, and then %.20q", begun, came[begun:])
				}
				giveUp(w, x) // once is enough
				w.Acknowledge(minWindow)
				y := addLarge(t, w, 'b', minWindow, 8, false)
				if err := <-y.done; err != nil {
					t.Errorf("the next one: %v", err)
				}
				synctest.Wait()
				for _, b := range came[begun+1:] {
					if b[0] != 'b' {
						t.Errorf("after that came %.20q", b)
					}
				}
				if n := w.Backlog(); n != 0 {
					t.Errorf("%d bytes still wait", n)
				}
				if w.lanes[Normal].begun != [2]int{} || w.larges.keys != nil {
					t.Errorf("it is not forgotten: %+v", w.larges)
				}
				conn.Close()
				w.Close()
				<-read
			})
		})
	}
}

func TestTheSumOfWhatIsBegunIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := testConfig
		cfg.MaxBegun = 16 << 20
		w, conn, peer := pair(cfg)
		for i := range byte(5) {
			addLarge(t, w, 'A'+i, 5<<20, 0, false) // two fit at once
		}
		for i := range byte(5) {
			addLarge(t, w, 'a'+i, 1<<20, 0, false) // four fit at once
		}
		go w.Run()
		next := frames(peer)
		open, left := map[byte]int{}, map[byte]int{}
		for done := 0; done < 10; {
			b, ok := next()
			if !ok {
				t.Fatal("the end")
			}
			who := b[0]
			if _, began := left[who]; !began {
				if left[who] = 1 << 20; who < 'a' {
					left[who] = 5 << 20
				}
				open[who] = left[who]
			}
			sum := 0
			for _, n := range open {
				sum += n
			}
			if sum > cfg.MaxBegun {
				t.Fatalf("%d bytes are begun: %v", sum, open)
			}
			if left[who] -= len(b); left[who] == 0 {
				delete(open, who)
				done++
			}
			w.Acknowledge(len(b))
		}
		conn.Close()
		w.Close()
	})
}

func TestAFlushFinishesWhatIsBegun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, conn, peer := pair(testConfig)
		answer := addLarge(t, w, 'a', 300<<10, 0, false)
		opener := addLarge(t, w, 'o', 300<<10, 0, true)
		waits := addLarge(t, w, 'w', 300<<10, 0, true)
		ran := make(chan error, 1)
		go func() { ran <- w.Run() }()
		next := frames(peer)
		came := map[byte]int{}
		read := func() {
			b, ok := next()
			if !ok {
				t.Fatal("the end")
			}
			came[b[0]] += len(b)
			w.Acknowledge(len(b))
		}
		for range 6 { // two of each
			read()
		}
		w.CloseAfterFlush([]byte("\x82\x01!"))
		for came['!'] == 0 {
			read()
		}
		if err := <-ran; err != nil {
			t.Fatal(err)
		}
		if err := <-answer.done; err != nil {
			t.Errorf("the answer: %v", err)
		}
		for _, x := range []*item{opener, waits} {
			if err := <-x.done; err != ErrClosed {
				t.Errorf("an opener: %v", err)
			}
		}
		if came['a'] != 300<<10 {
			t.Errorf("%d bytes of the answer came", came['a'])
		}
		if w.larges.left != 0 || w.lanes[Normal].begun != [2]int{} {
			t.Errorf("something is left: %+v", w.larges)
		}
		conn.Close()
	})
}

// The other end is told of what is given up before it gets anything that takes its place, also
// while a flush is under way. Otherwise it would have more to hold than was agreed.
func TestWhatIsGivenUpMakesRoomOnlyOnceTheOtherEndKnows(t *testing.T) {
	for name, giveUp := range map[string]func(w *Writer, x *item){
		"by its owner": func(w *Writer, x *item) { w.Withdraw(&x.Waiter) },
		"by its key":   func(w *Writer, x *item) { w.Cancel(7) },
		"by a flush":   func(w *Writer, x *item) { w.CloseAfterFlush(nil) },
		"in a flush": func(w *Writer, x *item) {
			x.opens = false
			w.CloseAfterFlush(nil)
			w.Withdraw(&x.Waiter)
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				cfg := testConfig
				cfg.MaxBegun = 4 << 20
				w, conn, peer := pair(cfg)
				x := addLarge(t, w, 'a', 2<<20, 7, true)
				addLarge(t, w, 'b', 2<<20, 8, false) // waits for its place
				go w.Run()
				next := frames(peer)
				var order []byte
				left := 2 << 20
				done := make(chan struct{})
				enough, given := make(chan struct{}), make(chan struct{})
				go func() {
					defer close(done)
					for left > 0 {
						b, ok := next()
						if !ok {
							t.Error("the end")
							return
						}
						switch {
						case string(b) == "abandoned":
							order = append(order, '!')
						case b[0] == 'b':
							left -= len(b)
							fallthrough
						default:
							if order = append(order, b[0]); len(order) == 8 {
								close(enough)
								<-given // else all of it could be sent by then
							}
							w.Acknowledge(len(b))
						}
					}
				}()
				<-enough
				giveUp(w, x)
				close(given)
				<-done
				if i := bytes.IndexByte(order, 'b'); i < 9 || bytes.IndexByte(order, '!') < 0 || bytes.ContainsAny(order[i:], "a!") {
					t.Errorf("in this order: %s", order)
				}
				conn.Close()
				w.Close()
			})
		})
	}
}

// largeItem is a large message that tells the other end which it is.
type largeItem struct {
	Waiter
	id, total, sent uint32
	busy            []byte // overwritten once the message is its owner's again
	opens           bool
	done            chan error
}

func (x *largeItem) Opens() bool                         { return x.opens }
func (x *largeItem) Admit(time.Time) (size int, ok bool) { return int(x.total), true }
func (x *largeItem) AppendTo([]byte) []byte              { panic("it is large") }
func (x *largeItem) Done(err error)                      { x.done <- err }

func (x *largeItem) AppendPiece(b []byte, n int) []byte {
	b = x.head(b)
	x.sent += uint32(n)
	return append(b, x.busy[:n]...)
}

func (x *largeItem) AppendAbandoned(b []byte) []byte { return x.head(b) }

func (x *largeItem) head(b []byte) []byte {
	b = binary.LittleEndian.AppendUint32(append(b, 'L'), x.id)
	return binary.LittleEndian.AppendUint32(b, x.total)
}

// Owners send large messages, wait or give them up, and use the same places again. The other end
// must always agree on what is begun.
func TestBothEndsAgreeOnWhatIsBegun(t *testing.T) {
	cfg := testConfig
	cfg.MaxBegun = 4 << 20
	w, conn, peer := pair(cfg)
	ran := make(chan error, 1)
	go func() { ran <- w.Run() }()
	next := frames(peer)
	var model struct {
		left, total map[uint32]int
		sum         int
	}
	model.left, model.total = make(map[uint32]int), make(map[uint32]int)
	read := make(chan struct{})
	go func() {
		defer close(read)
		take := func(b []byte) {
			id, total, n := binary.LittleEndian.Uint32(b[1:]), int(binary.LittleEndian.Uint32(b[5:])), len(b)-9
			left, begun := model.left[id]
			switch {
			case n == 0 && !begun:
				t.Errorf("%d is given up, and has not begun", id)
			case n == 0:
				left = 0
			case !begun:
				left = total - n
				model.sum += total
			default:
				left -= n
			}
			if model.sum > cfg.MaxBegun {
				t.Errorf("%d bytes are begun", model.sum)
			}
			if bytes.IndexByte(b[9:], 1) >= 0 {
				t.Errorf("%d was sent when it was its owner's again", id)
			}
			if left < 0 {
				t.Errorf("%d is too long", id)
			}
			if model.left[id] = left; left == 0 {
				delete(model.left, id)
				model.sum -= total
			}
			if !w.Acknowledge(n) {
				t.Error("what was sent was not acknowledged")
			}
		}
		for b, ok := next(); ok; b, ok = next() {
			for _, one := range split(t, b) {
				take(one)
			}
		}
	}()
	var ids atomic.Uint32
	var owners sync.WaitGroup
	for i := range 6 {
		owners.Go(func() {
			r := rand.New(rand.NewPCG(0, uint64(i)))
			x := &largeItem{done: make(chan error, 1), busy: make([]byte, 256<<10), opens: i%2 == 0}
			for range 15 {
				x.id, x.total, x.sent = ids.Add(1), uint32(40_000+r.IntN(2_000_000)), 0
				if w.AddLarge(Lane(i%2), &x.Waiter, x, int(x.total), uint64(x.id)) != ErrQueued {
					return // the flush has begun
				}
				for range r.IntN(100) {
					runtime.Gosched()
				}
				switch r.IntN(4) {
				case 0:
					<-x.done
				case 1:
					w.Cancel(uint64(x.id))
					<-x.done
				default:
					if !w.Withdraw(&x.Waiter) {
						<-x.done
					}
				}
				for j := range 8 { // nobody reads it anymore
					x.busy[j] = 1
				}
				for j := range 8 {
					x.busy[j] = 0
				}
			}
		})
	}
	for ids.Load() < 60 {
		runtime.Gosched()
	}
	w.CloseAfterFlush(nil)
	owners.Wait()
	if err := <-ran; err != nil {
		t.Error(err)
	}
	conn.Close()
	<-read
	if len(model.left) > 0 {
		t.Errorf("the other end waits for more of %v", model.left)
	}
	if l := &w.larges; l.left != 0 || w.begun(0) != 0 || w.begun(1) != 0 || l.keys != nil || w.lanes[Normal].turn.first != nil || w.lanes[High].turn.first != nil || l.window.inFlight != 0 {
		t.Errorf("something is left: %+v", l)
	}
}

// Nobody acknowledges anything once the reader has ended. What is queued is sent all the same.
func TestAFlushWithoutAReaderDoesNotWaitForTheWindow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, conn, peer := pair(testConfig)
		x := addLarge(t, w, 'a', 1<<20, 0, false)
		go w.Run()
		go io.Copy(io.Discard, peer)
		synctest.Wait() // the window is full
		w.CloseAfterFlush(nil)
		w.LiftWindow()
		if err := <-x.done; err != nil {
			t.Error(err)
		}
		conn.Close()
	})
}

// What is withdrawn may have been all that a flush waited for.
func TestAFlushEndsWhenWhatItWaitsForIsWithdrawn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, conn, peer := pair(testConfig)
		x := addLarge(t, w, 'a', 1<<20, 0, false)
		ran := make(chan error, 1)
		go func() { ran <- w.Run() }()
		go io.Copy(io.Discard, peer)
		synctest.Wait() // the window is full
		w.CloseAfterFlush(nil)
		w.Withdraw(&x.Waiter)
		if err := <-ran; err != nil {
			t.Error(err)
		}
		conn.Close()
	})
}

// Whoever withdraws a message while a piece of it is being encoded gets it back when that is done.
func TestWithdrawingWaitsForThePiece(t *testing.T) {
	w, conn, peer := pair(testConfig)
	x := &slowPiece{item: item{msg: make([]byte, 1<<20), done: make(chan error, 1)}, began: make(chan struct{}, 100)}
	if err := w.AddLarge(Normal, &x.Waiter, x, 1<<20, 0); err != ErrQueued {
		t.Fatal(err)
	}
	ran := make(chan error, 1)
	go func() { ran <- w.Run() }()
	go io.Copy(io.Discard, peer)
	<-x.began
	if !w.Withdraw(&x.Waiter) {
		t.Error("it is not given up")
	}
	if x.busy.Load() {
		t.Error("the message is its owner's again, and a piece of it is being encoded")
	}
	w.CloseAfterFlush(nil)
	if err := <-ran; err != nil {
		t.Error(err)
	}
	if l := &w.larges; l.left != 0 || w.lanes[Normal].begun != [2]int{} {
		t.Errorf("something is left: %+v", l)
	}
	conn.Close()
}

// slowPiece is an item whose pieces take their time to be encoded.
type slowPiece struct {
	item
	began chan struct{}
	busy  atomic.Bool
}

func (x *slowPiece) AppendPiece(b []byte, n int) []byte {
	x.busy.Store(true)
	x.began <- struct{}{}
	time.Sleep(10 * time.Millisecond)
	x.busy.Store(false)
	return x.item.AppendPiece(b, n)
}
