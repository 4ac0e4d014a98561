package batch

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// queueUp puts a message into line, where there has to be one.
func queueUp(t *testing.T, w *Writer, msg []byte, opens ...bool) *item {
	t.Helper()
	x := &item{msg: msg, opens: slices.Contains(opens, true), done: make(chan error, 1)}
	if _, err := w.BeginOrWait(Normal, &x.Waiter, x, len(msg)); err != ErrQueued {
		t.Fatalf("a message for which there is no room: %v", err)
	}
	return x
}

// fill takes all room.
func fill(t *testing.T, w *Writer) {
	t.Helper()
	for w.Queued() < w.cfg.Limit {
		if err := appendMessage(w, nil, make([]byte, w.cfg.Limit)); err != nil {
			t.Fatal(err)
		}
	}
}

func TestWhoCameFirstGoesFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, conn, peer := pair(testConfig)
		fill(t, w)
		var want []byte
		var line []*item
		for i := range byte(200) {
			line = append(line, queueUp(t, w, bytes.Repeat([]byte{i}, 100)))
			want = append(want, i)
		}
		var got []byte
		read := make(chan struct{})
		go func() {
			for _, msg := range messages(t, peer, true) {
				if len(msg) == 100 {
					got = append(got, msg[0])
				}
			}
			close(read)
		}()
		go w.Run()
		if err := <-line[0].done; err != nil { // others still wait, and who comes now goes behind them
			t.Fatal(err)
		}
		appendMessage(w, nil, bytes.Repeat([]byte{200}, 100))
		want = append(want, 200)
		synctest.Wait()
		w.CloseAfterFlush(nil)
		synctest.Wait()
		conn.Close()
		<-read
		if !bytes.Equal(got, want) {
			t.Errorf("%d messages came as %d", want, got)
		}
	})
}

// What waits in line shows, also where the queue has just been taken, and no longer than it waits.
func TestTheBacklogHasWhatWaitsInLine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, conn, peer := pair(testConfig)
		look := func(when string, queued, backlog int) {
			t.Helper()
			if q, b := w.Queued(), w.Backlog(); q != queued || b != backlog {
				t.Errorf("%s: %d bytes in the queue, %d with the line; want %d and %d", when, q, b, queued, backlog)
			}
		}
		look("nothing", 0, 0)
		fill(t, w)
		queued := w.Queued()
		var line []*item
		for range 5 {
			line = append(line, queueUp(t, w, make([]byte, 600)))
		}
		look("five in line", queued, queued+5*600)
		w.Withdraw(&line[2].Waiter)
		look("one withdrawn", queued, queued+4*600)
		go w.Run()
		synctest.Wait() // the write does not end
		look("two taken with the queue", 0, 2*600)
		go messages(t, peer, true)
		synctest.Wait()
		look("all written", 0, 0)
		w.Close()
		conn.Close()

		w, _, _ = pair(testConfig)
		fill(t, w)
		queueUp(t, w, make([]byte, 600))
		queueUp(t, w, make([]byte, 600), true)
		w.CloseAfterFlush(nil)
		look("a flush", queued, queued+600)
		w.Close()
		look("closed", queued, queued)
	})
}

func TestWhoIsWithdrawnIsNotSent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, conn, peer := pair(testConfig)
		fill(t, w)
		var line []*item
		for i := range byte(9) {
			line = append(line, queueUp(t, w, []byte{i}))
		}
		for _, i := range []int{0, 4, 8} { // the first, one between others, and the last
			if !w.Withdraw(&line[i].Waiter) {
				t.Errorf("%d was not in line", i)
			}
			if w.Withdraw(&line[i].Waiter) {
				t.Errorf("%d was in line twice", i)
			}
		}
		again := queueUp(t, w, []byte("again"))
		go w.Run()
		got := make(chan [][]byte)
		go func() { got <- messages(t, peer, true) }()
		synctest.Wait()
		if w.Withdraw(&again.Waiter) {
			t.Error("a message was withdrawn that was sent")
		}
		w.CloseAfterFlush(nil)
		synctest.Wait()
		conn.Close()
		var came []byte
		for _, msg := range (<-got)[1:] {
			came = append(came, msg...)
		}
		if string(came) != "\x01\x02\x03\x05\x06\x07again" {
			t.Errorf("came %q", came)
		}
	})
}

func TestClosingEndsTheWait(t *testing.T) {
	for name, test := range map[string]struct {
		end   func(w *Writer)
		opens bool
	}{
		"at once":                       {func(w *Writer) { w.Close() }, false},
		"after a flush, where it opens": {func(w *Writer) { w.CloseAfterFlush(nil) }, true},
		"after a flush, cut short": {func(w *Writer) {
			w.CloseAfterFlush(nil)
			w.Close()
		}, false},
	} {
		t.Run(name, func(t *testing.T) {
			w, _, _ := pair(testConfig)
			fill(t, w)
			first, second := queueUp(t, w, []byte("a"), test.opens), queueUp(t, w, []byte("b"), test.opens)
			test.end(w)
			for _, x := range []*item{first, second} {
				if err := <-x.done; !errors.Is(err, ErrClosed) {
					t.Errorf("who waited got %v", err)
				}
				if w.Withdraw(&x.Waiter) {
					t.Error("somebody is in line after the end")
				}
			}
		})
	}
}

// A flush at the end takes in what waits in line, as far as it opens nothing.
func TestAFlushTakesInWhoWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, conn, peer := pair(testConfig)
		fill(t, w)
		var want []byte
		var kept, dismissed []*item
		for i := range byte(100) { // many times what one flush takes out of the line
			kept = append(kept, queueUp(t, w, bytes.Repeat([]byte{i}, 700)))
			want = append(want, i)
			dismissed = append(dismissed, queueUp(t, w, make([]byte, 700), true))
		}
		gone := queueUp(t, w, []byte("gone"))
		w.CloseAfterFlush([]byte("close"))
		for i, x := range dismissed {
			select {
			case err := <-x.done:
				if !errors.Is(err, ErrClosed) {
					t.Errorf("what opens something got %v", err)
				}
			default:
				t.Errorf("%d of %d that open something were dismissed", i, len(dismissed))
			}
		}
		if !w.Withdraw(&gone.Waiter) {
			t.Error("who waits for the flush cannot withdraw")
		}
		if _, err := w.BeginOrWait(Normal, &gone.Waiter, gone, 4); !errors.Is(err, ErrClosed) {
			t.Errorf("who comes after the end got %v", err)
		}
		ended := make(chan error, 1)
		go func() {
			ended <- w.Run()
			conn.Close()
		}()
		sent := new(bytes.Buffer)
		var got []byte
		all := messages(t, recorded{peer, sent}, true)
		for _, msg := range all[1:] { // the first has filled the queue
			got = append(got, msg[0])
		}
		if !bytes.Equal(got, want) {
			t.Errorf("%d messages came as %d", want, got)
		}
		if !bytes.HasSuffix(sent.Bytes(), []byte("close")) {
			t.Error("the last frame did not come last")
		}
		if err := <-ended; err != nil {
			t.Error(err)
		}
		for _, x := range kept {
			if err := <-x.done; err != nil {
				t.Errorf("who waited for the flush got %v", err)
			}
		}
	})
}

// recorded keeps what is read.
type recorded struct {
	net.Conn
	all *bytes.Buffer
}

func (c recorded) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.all.Write(b[:n])
	return n, err
}

// A flush at the end that a peer does not take ends the wait of those who are still in line.
func TestAFlushThatIsCutShortEndsTheWait(t *testing.T) {
	for name, cut := range map[string]func(w *Writer, conn net.Conn){
		"by a close": func(w *Writer, conn net.Conn) {
			w.Close()
			conn.Close()
		},
		"by the end of the connection": func(_ *Writer, conn net.Conn) { conn.Close() },
		"by the timeout":               func(*Writer, net.Conn) {},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w, conn, peer := pair(testConfig)
				defer peer.Close()
				fill(t, w)
				var line []*item
				for range 10 {
					line = append(line, queueUp(t, w, make([]byte, 700)))
				}
				ended := make(chan error, 1)
				go func() { ended <- w.Run() }()
				w.CloseAfterFlush(nil)
				synctest.Wait()
				still := 0
				for _, x := range line {
					select {
					case err := <-x.done: // was taken out of the line by the flush that is stuck
						if err != nil {
							t.Errorf("who was taken got %v", err)
						}
					default:
						still++
					}
				}
				if still < 5 {
					t.Errorf("%d of %d wait for a flush that is stuck", still, len(line))
				}
				cut(w, conn)
				if err := <-ended; err == nil {
					t.Error("Run ended without an error")
				}
				for _, x := range line[len(line)-still:] {
					if err := <-x.done; !errors.Is(err, ErrClosed) {
						t.Errorf("who waited got %v", err)
					}
				}
			})
		})
	}
}

// Each message is sent once, or withdrawn and not sent, whoever is faster.
func TestWithdrawingRacesWithSending(t *testing.T) {
	cfg := testConfig
	cfg.Limit, cfg.Large = 2000, 4000
	w, conn, peer := pair(cfg)
	ran := make(chan error, 1)
	go func() { ran <- w.Run() }()
	got := make(chan map[uint64]int)
	go func() {
		came := make(map[uint64]int)
		for _, msg := range messages(t, peer, true) {
			came[binary.BigEndian.Uint64(msg)]++
		}
		got <- came
	}()
	var wg sync.WaitGroup
	var sent sync.Map
	var next atomic.Uint64
	for range 16 {
		wg.Go(func() {
			for range 300 {
				id := next.Add(1)
				msg := binary.BigEndian.AppendUint64(make([]byte, 0, 5000), id)
				msg = msg[:8+rand.IntN(5000-8)]
				cancel := make(chan struct{})
				if rand.IntN(3) == 0 {
					close(cancel)
				}
				if appendMessage(w, cancel, msg) == nil {
					sent.Store(id, true)
				}
				clear(msg) // it is the sender's again
			}
		})
	}
	wg.Wait()
	w.CloseAfterFlush(nil)
	if err := <-ran; err != nil {
		t.Fatal(err)
	}
	conn.Close()
	came := <-got
	for id := range next.Load() {
		id++
		_, ok := sent.Load(id)
		if n := came[id]; n > 1 || (n == 1) != ok {
			t.Errorf("message %d, sent: %v, came %d times", id, ok, n)
		}
	}
}

// slowDone is an item whose Done takes its time.
type slowDone struct {
	item
	entered, leave chan struct{}
}

func (x *slowDone) Done(error) {
	close(x.entered)
	<-x.leave
}

// Done of one may be slow, as it may call the application. Others who withdraw do not wait for it.
func TestASlowDoneHoldsUpNobodyWhoWithdraws(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, conn, peer := pair(testConfig)
		fill(t, w)
		slow := &slowDone{item{msg: []byte("slow")}, make(chan struct{}), make(chan struct{})}
		if _, err := w.BeginOrWait(Normal, &slow.Waiter, slow, 4); err != ErrQueued {
			t.Fatal(err)
		}
		next := queueUp(t, w, []byte("next"))
		go messages(t, peer, true)
		go w.Run()
		<-slow.entered
		if next.encoding.TryLock() { // what Withdraw waits for; a test that did would hang
			next.encoding.Unlock()
		} else {
			t.Error("who withdraws waits for another's Done")
		}
		close(slow.leave)
		<-next.done
		w.CloseAfterFlush(nil)
		synctest.Wait()
		conn.Close()
	})
}

// A large message has a buffer of its own, and takes no room in the one that is shared as well.
func TestALargeMessageThatWaitedTakesItsMemoryOnce(t *testing.T) {
	cfg := testConfig
	cfg.Large = 64 << 10
	w, _, _ := pair(cfg)
	fill(t, w)
	large := queueUp(t, w, make([]byte, 1<<20))
	_, q := w.take(Normal)
	if err := <-large.done; err != nil {
		t.Fatal(err)
	}
	if cap(q.buf) >= 1<<20 {
		t.Errorf("a shared buffer of %d bytes for messages of %d", cap(q.buf), len(q.buf))
	}
}

// Whatever comes while one write does not end, the reader waits for it once where the reserve is
// used up.
func TestAFullReserveIsWaitedForOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := testConfig
		cfg.Timeout = time.Minute
		w, conn, _ := pair(cfg)
		go w.Run()
		answer := func() {
			slot := must(w.BeginNow(Normal))
			slot.Commit(append(slot.Open(600), make([]byte, 600)...))
		}
		answer() // is being written
		synctest.Wait()
		answer()
		answer()
		began := time.Now()
		w.WaitReserve()
		if waited := time.Since(began); waited != fullPatience {
			t.Errorf("waited %v for a write that does not end", waited)
		}
		began = time.Now()
		for range 10 {
			w.WaitReserve()
		}
		if waited := time.Since(began); waited != 0 {
			t.Errorf("waited %v more for the same write", waited)
		}
		w.Close()
		conn.Close()
	})
}

// Answers may come faster than they are written from the very first on.
func TestTheReserveIsWaitedForBeforeTheFirstFlush(t *testing.T) {
	for _, used := range []int{testConfig.Reserve/2 + 1, testConfig.Reserve} {
		synctest.Test(t, func(t *testing.T) {
			w, conn, peer := pair(testConfig)
			go messages(t, peer, true)
			slot := must(w.BeginNow(Normal))
			slot.Commit(append(slot.Open(used), make([]byte, used)...))
			waited := make(chan struct{})
			go func() {
				w.WaitReserve()
				close(waited)
			}()
			synctest.Wait()
			select {
			case <-waited:
				t.Errorf("nobody waits with %d bytes of %d used", used, testConfig.Reserve)
			default:
			}
			go w.Run()
			<-waited
			w.Close()
			conn.Close()
		})
	}
}

// A flush takes the answers that fill the reserve: there is the whole of it again, not what the
// last ones have left.
func TestAFlushMakesTheWholeReserveFree(t *testing.T) {
	w, _, _ := pair(testConfig)
	answer := make([]byte, testConfig.Reserve/2)
	for range 3 {
		for range 2 {
			slot := must(w.BeginNow(Normal))
			slot.Commit(append(slot.Open(len(answer)), answer...))
		}
		if _, err := w.BeginNow(Normal); err != ErrFull {
			t.Fatalf("with the reserve used an answer got %v", err)
		}
		if _, q := w.take(Normal); len(q.frames) == 0 {
			t.Fatal("nothing was flushed")
		}
	}
}
