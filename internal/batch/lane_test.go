package batch

import (
	"bytes"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
)

// put queues a message in a lane where there has to be room.
func put(t *testing.T, w *Writer, in Lane, msg []byte) {
	t.Helper()
	slot, err := w.Begin(in)
	if err != nil {
		t.Fatal(err)
	}
	slot.Commit(append(slot.Open(len(msg)), msg...))
}

// A message in the lane High waits for the frame that is being written, and for no other, although
// all of them were taken before it came.
func TestHighPassesWhatIsTaken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := testConfig
		cfg.Limit = 256 << 10
		w, conn, peer := pair(cfg)
		for i := range byte(4) {
			put(t, w, Normal, bytes.Repeat([]byte{'0' + i}, 60_000))
		}
		go w.Run()
		synctest.Wait() // the first is being written
		put(t, w, High, []byte("high"))
		next := frames(peer)
		var order []byte
		for range 5 {
			b, ok := next()
			if !ok {
				t.Fatal("the end")
			}
			order = append(order, b[0])
		}
		if string(order) != "0h123" {
			t.Errorf("in this order: %s", order)
		}
		conn.Close()
		w.Close()
	})
}

// So do all pieces of a large message that the window has room for.
func TestPiecesOfHighPassWhatIsTaken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := testConfig
		cfg.Limit = 256 << 10
		w, conn, peer := pair(cfg)
		for i := range byte(3) {
			put(t, w, Normal, bytes.Repeat([]byte{'0' + i}, 60_000))
		}
		go w.Run()
		synctest.Wait() // the first is being written
		x := &item{msg: bytes.Repeat([]byte{'h'}, minWindow), done: make(chan error, 1)}
		if err := w.AddLarge(High, &x.Waiter, x, len(x.msg), 0); err != ErrQueued {
			t.Fatal(err)
		}
		next := frames(peer)
		var order []byte
		for len(order) == 0 || order[len(order)-1] != '2' {
			b, ok := next()
			if !ok {
				t.Fatal("the end")
			}
			order = append(order, b[0])
		}
		if !bytes.HasPrefix(order, []byte("0hhh")) || bytes.Contains(order, []byte("1h")) {
			t.Errorf("in this order: %s", order)
		}
		conn.Close()
		w.Close()
	})
}

// Messages that wait for room in the lane Normal do not hold up those of High.
func TestHighPassesTheLine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, conn, peer := pair(testConfig)
		fill(t, w)
		for range 100 {
			queueUp(t, w, bytes.Repeat([]byte{'n'}, 900))
		}
		var want []byte
		for i := range byte(30) { // in the end, High has a line as well
			x := &item{msg: bytes.Repeat([]byte{'A' + i}, 100), done: make(chan error, 1)}
			slot, err := w.BeginOrWait(High, &x.Waiter, x, len(x.msg))
			switch err {
			case nil:
				slot.Commit(append(slot.Open(len(x.msg)), x.msg...))
			case ErrQueued:
			default:
				t.Fatal(err)
			}
			want = append(want, 'A'+i)
		}
		if w.lanes[High].waiting.first == nil {
			t.Error("nobody waits")
		}
		go w.Run()
		next := frames(peer)
		var got []byte
		normal := 0
		for len(got) < len(want) {
			b, ok := next()
			if !ok {
				t.Fatal("the end")
			}
			for _, msg := range split(t, b) {
				switch {
				case len(msg) == 100:
					got = append(got, msg[0])
				case len(msg) > 0 && msg[0] == 'n':
					normal++
				}
			}
		}
		if !bytes.Equal(got, want) {
			t.Errorf("in this order: %s", got)
		}
		if normal > 5 {
			t.Errorf("%d of those who wait went first", normal)
		}
		conn.Close()
		w.Close()
	})
}

// A large message in the lane High passes one of Normal that has begun, and gets the window.
func TestHighPassesPieces(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, conn, peer := pair(testConfig)
		addLarge(t, w, 'n', 4<<20, 0, false)
		go w.Run()
		next := frames(peer)
		var order []byte
		high := 0
		for high < 1<<20 {
			b, ok := next()
			if !ok {
				t.Fatal("the end")
			}
			if order = append(order, b[0]); len(order) == 8 {
				x := &item{msg: bytes.Repeat([]byte{'h'}, 1<<20), done: make(chan error, 1)}
				if err := w.AddLarge(High, &x.Waiter, x, 1<<20, 0); err != ErrQueued {
					t.Fatal(err)
				}
			}
			if b[0] == 'h' {
				high += len(b)
			}
			w.Acknowledge(len(b))
		}
		n, h := bytes.Count(order[8:], []byte{'n'}), bytes.Count(order, []byte{'h'})
		if n > h/2 || !slices.Contains(order[8:11], 'h') {
			t.Errorf("in this order: %s", order)
		}
		conn.Close()
		w.Close()
	})
}

// A large message in the lane High that must wait until one of Normal is finished is sent then.
func TestHighBeginsWhenThereIsRoom(t *testing.T) {
	cfg := testConfig
	cfg.MaxBegun = 4 << 20
	w, conn, peer := pair(cfg)
	const size = 2<<20 - 1
	for range 2 {
		addLarge(t, w, 'n', size, 0, false)
	}
	go w.Run()
	next := frames(peer)
	first, ok := next()
	if !ok {
		t.Fatal("the end")
	}
	x := &item{msg: bytes.Repeat([]byte{'h'}, size), done: make(chan error, 1)}
	if err := w.AddLarge(High, &x.Waiter, x, size, 0); err != ErrQueued {
		t.Fatal(err)
	}
	w.Acknowledge(len(first))
	for left := 3*size - len(first); left > 0; {
		b, ok := next()
		if !ok {
			t.Fatal("the end")
		}
		left -= len(b)
		w.Acknowledge(len(b))
	}
	conn.Close()
	w.Close()
}

// A message that must not pass those of High does not, not even when High is ahead of its share.
func TestWhatComesBehindHighPassesNothing(t *testing.T) {
	for _, behind := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			w, conn, peer := pair(testConfig)
			w.lead = maxLead
			put(t, w, High, []byte("high"))
			put(t, w, Normal, []byte("1"))
			slot, err := w.BeginNow(Normal)
			if err != nil {
				t.Fatal(err)
			}
			if behind {
				slot.Behind()
			}
			slot.Commit(append(slot.Open(1), '2'))
			go w.Run()
			next := frames(peer)
			var order []byte
			for len(order) < 3 {
				b, ok := next()
				if !ok {
					t.Fatal("the end")
				}
				for _, msg := range split(t, b) {
					order = append(order, msg[0])
				}
			}
			if want := map[bool]string{false: "12h", true: "h12"}[behind]; string(order) != want {
				t.Errorf("in this order: %s, want %s", order, want)
			}
			conn.Close()
			w.Close()
		})
	}
}

// flood is a message that comes back as soon as it is sent.
type flood struct {
	item
	w    *Writer
	in   Lane
	size int
	b    byte
}

func (x *flood) Done(err error) {
	if err == nil {
		x.again()
	}
}

func (x *flood) again() {
	x.msg = bytes.Repeat([]byte{x.b}, x.size)
	if x.size > 64<<10 {
		_ = x.w.AddLarge(x.in, &x.Waiter, x, x.size, 0)
		return
	}
	for {
		slot, err := x.w.BeginOrWait(x.in, &x.Waiter, x, x.size)
		if err != nil {
			return
		}
		slot.Commit(append(slot.Open(x.size), x.msg...)) // its place is not needed yet
	}
}

// Both lanes always have more to send. Normal gets its share, and High the rest.
func TestNormalKeepsAShare(t *testing.T) {
	const small, medium, large = 100, 8000, 1 << 20
	for _, sizes := range [][2][]int{
		{{small}, {small}},
		{{small}, {medium}},
		{{medium}, {small}},
		{{large}, {medium}},
		{{medium}, {large}},
		{{large}, {large}},
		{{large}, {large, small}},
		{{large}, {large, large, large, large, large, large}},
		{{large, large, large}, {large, large, large, medium}},
	} {
		t.Run(fmt.Sprintf("%v beside %v bytes", sizes[Normal], sizes[High]), func(t *testing.T) {
			cfg := testConfig
			cfg.Limit = 256 << 10
			cfg.MaxBegun = 8 << 20 // 2 MiB for those that are not huge
			w, conn, peer := pair(cfg)
			for in, b := range []byte{'n', 'h'} {
				for _, size := range sizes[in] {
					for sum := 0; sum < 800_000; sum += size {
						(&flood{w: w, in: Lane(in), size: size, b: b}).again()
					}
				}
			}
			ran := make(chan error, 1)
			go func() { ran <- w.Run() }()
			next := frames(peer)
			var came [2]int
			total := 0
			for total < 24<<20 {
				b, ok := next()
				if !ok {
					t.Fatal("the end")
				}
				total += len(b)
				for _, msg := range split(t, b) {
					in := strings.IndexByte("nh", msg[0])
					came[in] += len(msg)
					if len(msg) != small && len(msg) != medium {
						w.Acknowledge(len(msg))
					}
				}
			}
			if share := float64(came[Normal]) / float64(total); share < 0.2 || share > 0.33 {
				t.Errorf("Normal had a share of %.2f", share)
			}
			conn.Close()
			w.Close()
			<-ran
		})
	}
}

// Large messages of both lanes wait for the window most of the time, and small ones of High fill the
// connection meanwhile. Normal gets its share of the window.
func TestNormalKeepsAShareOfTheWindow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // time stands still, and the window stays small
		w, conn, peer := pair(testConfig)
		const small, large = 100, 1 << 20
		(&flood{w: w, in: Normal, size: large, b: 'n'}).again()
		(&flood{w: w, in: High, size: large, b: 'h'}).again()
		for range 3 {
			(&flood{w: w, in: High, size: small, b: 's'}).again()
		}
		ran := make(chan error, 1)
		go func() { ran <- w.Run() }()
		next := frames(peer)
		var pieces [2]int
		unacknowledged, since := 0, 0
		for pieces[Normal]+pieces[High] < 8<<20 {
			b, ok := next()
			if !ok {
				t.Fatal("the end")
			}
			switch b[0] {
			case 'n', 'h':
				pieces[strings.IndexByte("nh", b[0])] += len(b)
				unacknowledged += len(b)
			default:
				since += len(b)
			}
			if since >= 20<<10 { // only now have acknowledgments come
				w.Acknowledge(unacknowledged)
				unacknowledged, since = 0, 0
			}
		}
		if share := float64(pieces[Normal]) / float64(8<<20); share < 0.2 {
			t.Errorf("Normal had a share of %.2f", share)
		}
		conn.Close()
		w.Close()
		<-ran
	})
}

// A lane that is alone has everything.
func TestHighAloneIsNotHeldUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, conn, peer := pair(testConfig)
		go w.Run()
		read := make(chan int64)
		go func() {
			n, _ := io.Copy(io.Discard, peer)
			read <- n
		}()
		const size, number = 900, 1000
		for range number {
			put(t, w, High, make([]byte, size))
			synctest.Wait()
			if n := w.Queued(); n != 0 {
				t.Fatalf("%d bytes are left", n)
			}
		}
		w.CloseAfterFlush(nil)
		synctest.Wait()
		conn.Close()
		if n := <-read; n < size*number {
			t.Errorf("%d bytes came", n)
		}
	})
}

// What both lanes have is sent before the end.
func TestAFlushSendsBothLanes(t *testing.T) {
	w, conn, peer := pair(testConfig)
	put(t, w, High, []byte("high"))
	put(t, w, Normal, []byte("normal"))
	for in, b := range []byte{'n', 'h'} {
		x := &item{msg: bytes.Repeat([]byte{b}, 100<<10), done: make(chan error, 1)}
		if err := w.AddLarge(Lane(in), &x.Waiter, x, len(x.msg), 0); err != ErrQueued {
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
	next := frames(peer)
	came := map[byte]int{}
	for b, ok := next(); ok; b, ok = next() {
		for _, msg := range split(t, b) {
			came[msg[0]] += len(msg)
			if len(msg) > 100 {
				w.Acknowledge(len(msg))
			}
		}
	}
	if want := 100 << 10; came['h'] != want+4 || came['n'] != want+6 {
		t.Errorf("came: %v", came)
	}
}

// A message of High that waits for room begins when the other end knows of the end that makes it,
// although it passes what Normal has queued.
func TestHighDoesNotPassTheEndThatMakesRoomForIt(t *testing.T) {
	const size = 2<<20 - 1
	for name, test := range map[string]struct {
		in  Lane
		end func(w *Writer, x *item)
	}{
		"of Normal, sent":     {Normal, func(*Writer, *item) {}},
		"of Normal, given up": {Normal, func(w *Writer, x *item) { w.Withdraw(&x.Waiter) }},
		"of High, given up":   {High, func(w *Writer, x *item) { w.Withdraw(&x.Waiter) }},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				cfg := testConfig
				cfg.MaxBegun = 4 << 20 // and three quarters of it for such messages
				w, conn, peer := pair(cfg)
				add := func(in Lane, b byte) *item {
					x := &item{msg: bytes.Repeat([]byte{b}, size), done: make(chan error, 1)}
					if err := w.AddLarge(in, &x.Waiter, x, size, 0); err != ErrQueued {
						t.Fatal(err)
					}
					return x
				}
				a := add(test.in, 'a')
				go w.Run()
				next := frames(peer)
				came := map[byte]int{}
				ended := false
				for came['h'] == 0 {
					synctest.Wait() // the next frame is being written
					if !ended && came['a'] > size/2 {
						add(High, 'h')
						test.end(w, a)
						put(t, w, High, []byte("small"))
						ended = true
					}
					b, ok := next()
					if !ok {
						t.Fatal("the end")
					}
					for _, one := range split(t, b) {
						switch string(one) {
						case "small":
						case "abandoned":
							came['a'] = size
						default:
							came[one[0]] += len(one)
							w.Acknowledge(len(one))
						}
					}
				}
				if came['a'] < size {
					t.Errorf("High has begun after %d bytes of %d", came['a'], size)
				}
				conn.Close()
				w.Close()
			})
		})
	}
}
