package batch

import (
	"bytes"
	"net"
	"testing"
	"testing/synctest"

	"github.com/gridmesh/grid/internal/wsframe"
)

// addLarge puts a message of n bytes, all of them b, in line.
func addLarge(t *testing.T, w *Writer, b byte, n int, key uint64, opens bool) *item {
	t.Helper()
	x := &item{msg: bytes.Repeat([]byte{b}, n), opens: opens, done: make(chan error, 1)}
	if err := w.AddLarge(&x.Waiter, x, n, key); err != ErrQueued {
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
	for name, giveUp := range map[string]func(w *Writer, x *item) (gone, begun bool){
		"by its owner": func(w *Writer, x *item) (bool, bool) { return w.Withdraw(&x.Waiter) },
		"by its key":   func(w *Writer, x *item) (bool, bool) { return w.Cancel(7) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w, conn, peer := pair(testConfig)
				x := addLarge(t, w, 'a', 1<<20, 7, false)
				if gone, begun := giveUp(w, x); !gone || begun {
					t.Errorf("before it began: gone %v, begun %v", gone, begun)
				}
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
				go func() {
					for _, ok := next(); ok; _, ok = next() {
					}
				}()
				synctest.Wait() // the window is full
				if gone, begun := giveUp(w, x); !gone || !begun {
					t.Errorf("after it began: gone %v, begun %v", gone, begun)
				}
				if gone, _ := giveUp(w, x); gone {
					t.Error("it was given up twice")
				}
				w.Acknowledge(minWindow)
				y := addLarge(t, w, 'b', minWindow, 8, false)
				if err := <-y.done; err != nil {
					t.Errorf("the next one: %v", err)
				}
				if n := w.Backlog(); n != 0 {
					t.Errorf("%d bytes still wait", n)
				}
				if w.larges.begun != [2]int{} || w.larges.keys != nil {
					t.Errorf("it is not forgotten: %+v", w.larges)
				}
				conn.Close()
				w.Close()
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
		go w.CloseAfterFlush([]byte("\x82\x01!"))
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
		if w.larges.left != 0 || w.larges.begun != [2]int{} {
			t.Errorf("something is left: %+v", w.larges)
		}
		conn.Close()
	})
}
