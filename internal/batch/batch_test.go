package batch

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gridmesh/grid/internal/wsframe"
)

// mergedHeader stands for the header of a merged message: a letter and the number of messages.
func mergedHeader(dst []byte, n int) []byte {
	return binary.BigEndian.AppendUint32(append(dst, 'M'), uint32(n))
}

var testConfig = Config{
	Limit:        1000,
	Reserve:      1000,
	MaxBegun:     128 << 20,
	Large:        256 << 10,
	Timeout:      3 * time.Second,
	MergedHeader: mergedHeader,
}

// appendMessage is what a sender does.
func appendMessage(w *Writer, cancel <-chan struct{}, msg []byte) error {
	slot, err := w.Begin(Normal)
	var x *item
	if err == ErrNoRoom {
		x = &item{msg: msg, done: make(chan error, 1)}
		slot, err = w.BeginOrWait(Normal, &x.Waiter, x, len(msg))
	}
	switch err {
	case nil:
		slot.Commit(append(slot.Open(len(msg)), msg...))
		return nil
	case ErrQueued:
	default:
		return err
	}
	select {
	case err := <-x.done:
		return err
	case <-cancel:
		if w.Withdraw(&x.Waiter) {
			return errCanceled
		}
		return <-x.done
	}
}

var errCanceled = errors.New("canceled")

// item is a message of a sender that waits.
type item struct {
	Waiter
	msg   []byte
	opens bool
	done  chan error
}

func (x *item) Opens() bool                         { return x.opens }
func (x *item) Admit(time.Time) (size int, ok bool) { return len(x.msg), true }
func (x *item) AppendTo(b []byte) []byte            { return append(b, x.msg...) }

// AppendPiece consumes the message.
func (x *item) AppendPiece(b []byte, n int) []byte {
	b = append(b, x.msg[:n]...)
	x.msg = x.msg[n:]
	return b
}

// AppendAbandoned appends a message that is no other's.
func (x *item) AppendAbandoned(b []byte) []byte { return append(b, "abandoned"...) }

func (x *item) Done(err error) { x.done <- err }

// messages reads frames until the connection ends and returns the messages in them.
func messages(t *testing.T, conn net.Conn, client bool) (all [][]byte) {
	t.Helper()
	r := wsframe.NewReader(conn, nil, wsframe.Config{Client: client})
	for {
		b, err := r.Next()
		if err != nil {
			return all
		}
		all = append(all, split(t, bytes.Clone(b))...)
	}
}

// split takes a frame apart where it is a merged one.
func split(t *testing.T, b []byte) (all [][]byte) {
	t.Helper()
	if len(b) == 0 || b[0] != 'M' {
		return [][]byte{b}
	}
	n := binary.BigEndian.Uint32(b[1:])
	b = b[5:]
	for range n {
		size, head := int(b[1]), 2
		switch b[0] {
		case 0xc5:
			size, head = int(binary.BigEndian.Uint16(b[1:])), 3
		case 0xc6:
			size, head = int(binary.BigEndian.Uint32(b[1:])), 5
		}
		all = append(all, b[head:head+size])
		b = b[head+size:]
	}
	if len(b) != 0 {
		t.Errorf("%d bytes behind the last message", len(b))
	}
	return all
}

// pair returns a writer whose Run is not started, and the reading end of its connection.
func pair(cfg Config) (*Writer, net.Conn, net.Conn) {
	here, there := net.Pipe()
	return New(here, cfg), here, there
}

func TestMessagesArriveWholeAndInOrder(t *testing.T) {
	for _, masked := range []bool{false, true} {
		for _, sizes := range [][]int{
			{0},
			{1},
			{255},
			{256},
			{65535},
			{65536},
			{200000},
			{1, 2},
			{0, 0, 0},
			{255, 256, 1},
			{65535, 65536, 1},
			{60000, 10000, 60000, 1},
			{1 << 20, 1, 1 << 20},
		} {
			t.Run(fmt.Sprintf("masked=%v sizes=%v", masked, sizes), func(t *testing.T) {
				cfg := testConfig
				cfg.Masked, cfg.Limit = masked, 10<<20
				w, conn, peer := pair(cfg)
				var want [][]byte
				for i, size := range sizes {
					msg := bytes.Repeat([]byte{byte('a' + i)}, size)
					want = append(want, msg)
					if err := appendMessage(w, nil, msg); err != nil {
						t.Fatal(err)
					}
				}
				w.CloseAfterFlush(nil)
				go func() {
					if err := w.Run(); err != nil {
						t.Error(err)
					}
					conn.Close()
				}()
				got := messages(t, peer, !masked)
				if len(got) != len(want) {
					t.Fatalf("%d messages came of %d", len(got), len(want))
				}
				for i := range want {
					if !bytes.Equal(got[i], want[i]) {
						t.Errorf("message %d of %d bytes came as one of %d", i, len(want[i]), len(got[i]))
					}
				}
			})
		}
	}
}

func TestSharedFramesStaySmallAndLargeMessagesAlone(t *testing.T) {
	cfg := testConfig
	cfg.Limit = 10 << 20
	w, conn, peer := pair(cfg)
	for range 300 {
		appendMessage(w, nil, make([]byte, 1000))
	}
	appendMessage(w, nil, make([]byte, 1<<20))
	w.CloseAfterFlush(nil)
	go func() {
		w.Run()
		conn.Close()
	}()
	r := wsframe.NewReader(peer, nil, wsframe.Config{Client: true})
	frames := 0
	for {
		b, err := r.Next()
		if err != nil {
			break
		}
		frames++
		if len(b) > maxShared+1000 && len(b) != 1<<20 {
			t.Errorf("a shared frame of %d bytes", len(b))
		}
	}
	if frames < 5 || frames > 7 {
		t.Errorf("%d frames for 300 kB of small messages and a large one", frames)
	}
}

// A large message is put together without the lock, and keeps nobody from sending.
func TestLargeMessagesArePutTogetherApart(t *testing.T) {
	for _, masked := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			cfg := testConfig
			cfg.Masked, cfg.Limit = masked, 400<<10
			w, a, b := pair(cfg)
			go func() {
				w.Run()
				a.Close()
			}()
			large := bytes.Repeat([]byte("large "), 50<<10)
			slot := must(w.Begin(Normal))
			if _, ok := slot.Detach(1000); ok {
				t.Fatal("a small message went apart")
			}
			buf, ok := slot.Detach(len(large))
			if !ok {
				t.Fatal("a large message did not go apart")
			}
			if n := w.Queued(); n != len(large) {
				t.Errorf("%d bytes are queued, want %d", n, len(large))
			}
			// Others get by, control messages too, while there is room: what is apart counts.
			if err := appendMessage(w, nil, []byte("small")); err != nil {
				t.Fatal(err)
			}
			answer := must(w.BeginNow(Normal))
			if _, ok := answer.Detach(len(large)); ok {
				t.Fatal("a control message went apart")
			}
			answer.Abort()
			other := must(w.Begin(Normal))
			second, _ := other.Detach(len(large))
			canceled := make(chan struct{})
			close(canceled)
			if err := appendMessage(w, canceled, nil); !errors.Is(err, errCanceled) {
				t.Errorf("Begin with all room taken: %v", err)
			}
			slot.Attach(append(buf, large...))
			w.CloseAfterFlush(nil)
			go func() {
				time.Sleep(time.Hour)
				other.Attach(append(second, large...)) // still gets out: it was there before the end
			}()
			got := messages(t, b, !masked)
			if len(got) != 3 || string(got[0]) != "small" || !bytes.Equal(got[1], large) || !bytes.Equal(got[2], large) {
				t.Errorf("%d messages", len(got))
			}
			if n := w.Queued(); n != 0 {
				t.Errorf("%d bytes are left", n)
			}
		})
	}
}

func TestAFullQueueHoldsSendersBackButNotControl(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, conn, peer := pair(testConfig)
		go w.Run()
		synctest.Wait()
		first := make([]byte, testConfig.Limit)
		appendMessage(w, nil, first) // taken by Run, which waits for the peer
		synctest.Wait()
		appendMessage(w, nil, first)

		var wg sync.WaitGroup
		cancel := make(chan struct{})
		var canceled, waited error
		wg.Go(func() { canceled = appendMessage(w, cancel, first) })
		wg.Go(func() { waited = appendMessage(w, nil, []byte("waited")) })
		synctest.Wait()
		if w.Queued() > 2*testConfig.Limit {
			t.Errorf("%d bytes are queued over a limit of %d", w.Queued(), testConfig.Limit)
		}
		close(cancel)
		synctest.Wait()
		if !errors.Is(canceled, errCanceled) {
			t.Errorf("a canceled sender got %v", canceled)
		}

		var err error
		control := 0
		for ; err == nil; control++ {
			var slot Slot
			if slot, err = w.BeginNow(Normal); err == nil {
				slot.Commit(append(slot.Open(10), make([]byte, 10)...))
			}
		}
		if !errors.Is(err, ErrFull) || control < testConfig.Reserve/20 {
			t.Errorf("after %d control messages: %v", control, err)
		}

		var got [][]byte
		read := make(chan struct{})
		go func() {
			got = messages(t, peer, true)
			close(read)
		}()
		wg.Wait()
		if waited != nil {
			t.Errorf("a sender that waited got %v", waited)
		}
		w.CloseAfterFlush(nil)
		synctest.Wait()
		conn.Close()
		<-read
		if want := 2 + control - 1 + 1; len(got) != want || string(got[want-1]) != "waited" {
			t.Errorf("%d messages came, want %d with the one that waited last", len(got), want)
		}
	})
}

func TestCloseReleasesEverybody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, conn, peer := pair(testConfig)
		defer peer.Close()
		ended := make(chan error, 3)
		go func() { ended <- w.Run() }()
		synctest.Wait()
		for range 2 {
			appendMessage(w, nil, make([]byte, testConfig.Limit))
			synctest.Wait()
		}
		go func() { ended <- appendMessage(w, nil, []byte("x")) }()
		synctest.Wait()
		w.Close()
		conn.Close()
		var closed, failed int
		for range 2 {
			if err := <-ended; errors.Is(err, ErrClosed) {
				closed++
			} else if err != nil {
				failed++
			}
		}
		if closed != 1 || failed != 1 {
			t.Errorf("%d senders were told, %d runs failed; want 1 and 1", closed, failed)
		}
		if _, err := w.BeginNow(Normal); !errors.Is(err, ErrClosed) {
			t.Errorf("BeginNow after Close: %v", err)
		}
		if _, err := w.Begin(Normal); !errors.Is(err, ErrClosed) {
			t.Errorf("Begin after Close: %v", err)
		}
	})
}

func TestAWriteThatTakesTooLongFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, _, peer := pair(testConfig)
		defer peer.Close()
		appendMessage(w, nil, []byte("nobody reads this"))
		start := time.Now()
		err := w.Run()
		if took := time.Since(start); err == nil || took > testConfig.Timeout {
			t.Errorf("after %v: %v", took, err)
		}
	})
}

// What counts is that bytes leave, not how long a message takes.
func TestASlowReaderIsWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, conn, peer := pair(testConfig)
		msg := make([]byte, 64<<10)
		appendMessage(w, nil, msg)
		w.CloseAfterFlush(nil)
		ended := make(chan error, 1)
		go func() {
			ended <- w.Run()
			conn.Close()
		}()
		read := 0
		for b := make([]byte, 4<<10); ; {
			time.Sleep(testConfig.Timeout - time.Second)
			n, err := peer.Read(b)
			if read += n; err != nil {
				break
			}
		}
		if err := <-ended; err != nil || read < len(msg) {
			t.Errorf("after %d bytes of %d: %v", read, len(msg), err)
		}
	})
}

// A reader that stops in the middle of a message has the timeout from the last byte that it took,
// and little more, whenever that was.
func TestAReaderThatStopsInMidMessageIsDroppedInTime(t *testing.T) {
	for stops := time.Duration(0); stops < 2*testConfig.Timeout; stops += testConfig.Timeout / 7 {
		synctest.Test(t, func(t *testing.T) {
			w, _, peer := pair(testConfig)
			defer peer.Close()
			appendMessage(w, nil, []byte("an older message")) // whose deadline there is already
			ended := make(chan error, 1)
			go func() { ended <- w.Run() }()
			peer.Read(make([]byte, 100))
			synctest.Wait()
			time.Sleep(testConfig.Timeout / 10)
			appendMessage(w, nil, make([]byte, 1<<20))
			synctest.Wait()
			began := time.Now()
			for {
				peer.Read(make([]byte, 100))
				if time.Since(began) >= stops {
					break
				}
				time.Sleep(testConfig.Timeout / 7)
			}
			stopped := time.Now()
			err := <-ended
			if held := time.Since(stopped); err == nil || held < testConfig.Timeout || held > testConfig.Timeout*5/4 {
				t.Errorf("one that stopped after %v was held for %v: %v", stops, held, err)
			}
		})
	}
}

// Bytes that the connection passes on while it takes none are progress, and the last of them
// decides.
func TestBytesThatAreAcknowledgedAreProgress(t *testing.T) {
	for passing := range 12 {
		synctest.Test(t, func(t *testing.T) {
			const each = 10 // bytes
			cfg := testConfig
			var held atomic.Int64
			cfg.Unacknowledged = func() (int, bool) { return int(held.Load()), true }
			w, _, peer := pair(cfg)
			defer peer.Close()
			held.Store(1000) // from before
			appendMessage(w, nil, make([]byte, 1<<20))
			ended := make(chan error, 1)
			go func() { ended <- w.Run() }()
			synctest.Wait()
			last := time.Now()
			for range passing {
				time.Sleep(cfg.Timeout * 9 / 10)
				last = time.Now()
				held.Add(-each)
			}
			err := <-ended
			if took := time.Since(last); err == nil || took < cfg.Timeout || took > cfg.Timeout*5/4 {
				t.Errorf("one that passed bytes on %d times was held for %v after the last: %v", passing, took, err)
			}
		})
	}
}

// A connection whose writes fail at once after a deadline, as those of TLS do, is not tried over
// and over.
func TestAConnectionThatCannotGoOnIsNotTriedForever(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		here, there := net.Pipe()
		defer there.Close()
		broken := &brokenByDeadline{Conn: here}
		w := New(broken, testConfig)
		appendMessage(w, nil, []byte("nobody reads this"))
		if err := w.Run(); err == nil || broken.writes > 3 {
			t.Errorf("%d writes, then %v", broken.writes, err)
		}
	})
}

// brokenByDeadline takes no more once a write has run into its deadline.
type brokenByDeadline struct {
	net.Conn
	err    error
	writes int
}

func (c *brokenByDeadline) Write(b []byte) (n int, err error) {
	c.writes++
	if c.err == nil {
		n, c.err = c.Conn.Write(b)
	}
	return n, c.err
}

// A write has the whole timeout, also where the deadline of the one before would end sooner.
func TestEachWriteHasTheWholeTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, _, peer := pair(testConfig)
		defer peer.Close()
		ended := make(chan error, 1)
		go func() { ended <- w.Run() }()
		appendMessage(w, nil, []byte("this is read"))
		peer.Read(make([]byte, 100))
		time.Sleep(testConfig.Timeout / 5)
		appendMessage(w, nil, []byte("and this is not"))
		start := time.Now()
		if err := <-ended; err == nil || time.Since(start) != testConfig.Timeout {
			t.Errorf("after %v: %v", time.Since(start), err)
		}
	})
}

func TestControlFramesGoFirstAndTheLastFrameLast(t *testing.T) {
	w, conn, peer := pair(testConfig)
	appendMessage(w, nil, []byte("message"))
	w.Control([]byte("older"))
	w.Control([]byte("pong"))
	w.CloseAfterFlush([]byte("close"))
	w.Control([]byte("late"))
	go func() {
		w.Run()
		conn.Close()
	}()
	var all bytes.Buffer
	all.ReadFrom(peer)
	if got, want := all.String(), "pong\x82\x07messageclose"; got != want {
		t.Errorf("sent %q, want %q", got, want)
	}
}

func TestManySendersAtOnce(t *testing.T) {
	const senders, each = 16, 200
	w, conn, peer := pair(testConfig)
	go w.Run()
	var wg sync.WaitGroup
	for s := range senders {
		wg.Go(func() {
			for i := range each {
				if err := appendMessage(w, nil, []byte{byte(s), byte(i)}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	go func() {
		wg.Wait()
		w.CloseAfterFlush(nil)
	}()
	next := make([]int, senders)
	r := wsframe.NewReader(peer, nil, wsframe.Config{Client: true})
	for total := 0; total < senders*each; {
		b, err := r.Next()
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range split(t, b) {
			if int(m[1]) != next[m[0]] {
				t.Fatalf("sender %d: message %d came when %d was due", m[0], m[1], next[m[0]])
			}
			next[m[0]]++
			total++
		}
	}
	conn.Close()
}

func TestAppendingDoesNotAllocate(t *testing.T) {
	here, there := net.Pipe()
	defer here.Close()
	defer there.Close()
	cfg := testConfig
	cfg.Limit = 100 << 20
	w := New(here, cfg)
	msg := make([]byte, 100)
	appendMessage(w, nil, make([]byte, 1<<20))
	if n := testing.AllocsPerRun(1000, func() { appendMessage(w, nil, msg) }); n != 0 {
		t.Errorf("%v allocations a message", n)
	}
}

// must returns the slot of a Begin that has to succeed.
func must(slot Slot, err error) Slot {
	if err != nil {
		panic(err)
	}
	return slot
}
