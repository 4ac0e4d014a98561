package simnet

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/bits"
	"net"
	"net/http"
	"os"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// in runs f in a bubble, with a connection from a to b.
func in(t *testing.T, edit func(n *Network), f func(t *testing.T, n *Network, a, b net.Conn)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		n := New(1)
		if edit != nil {
			edit(n)
		}
		l, err := n.Listen("b:80")
		if err != nil {
			t.Fatal(err)
		}
		a, err := n.Dialer("a")(t.Context(), "tcp", "b:80")
		if err != nil {
			t.Fatal(err)
		}
		b, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		f(t, n, a, b)
		a.Close()
		b.Close()
		l.Close()
		if open := n.Open(); len(open) > 0 {
			t.Errorf("left open: %v", open)
		}
	})
}

func both(link Link) func(n *Network) {
	return func(n *Network) {
		n.SetLink("a", "b", link)
		n.SetLink("b", "a", link)
	}
}

func write(t *testing.T, c net.Conn, b []byte) {
	t.Helper()
	if n, err := c.Write(b); n != len(b) || err != nil {
		t.Errorf("wrote %d bytes of %d: %v", n, len(b), err)
	}
}

func wantRead(t *testing.T, c net.Conn, want string) {
	t.Helper()
	got := make([]byte, len(want))
	if _, err := io.ReadFull(c, got); err != nil || string(got) != want {
		t.Errorf("got %q, %v, want %q", got, err, want)
	}
}

func wantError(t *testing.T, what string, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("%s: got %v, want %v", what, err, want)
	}
}

// took says how much virtual time f takes.
func took(f func()) time.Duration {
	start := time.Now()
	f()
	return time.Since(start)
}

func TestBytesArriveLateInPiecesAndInOrder(t *testing.T) {
	link := Link{Delay: 20 * time.Millisecond, Jitter: 30 * time.Millisecond, Segment: 100}
	in(t, both(link), func(t *testing.T, n *Network, a, b net.Conn) {
		sent := make([]byte, 20_000)
		for i := range sent {
			sent[i] = byte(i * i >> 3)
		}
		go func() {
			for rest := sent; len(rest) > 0; {
				k := min(777, len(rest))
				write(t, a, rest[:k])
				rest = rest[k:]
			}
			a.Close()
		}()
		var got []byte
		reads, first := 0, time.Duration(0)
		start := time.Now()
		buf := make([]byte, 64<<10)
		for {
			k, err := b.Read(buf)
			if first == 0 {
				first = time.Since(start)
			}
			if k > link.Segment {
				t.Fatalf("%d bytes arrived at once", k)
			}
			got = append(got, buf[:k]...)
			reads++
			if err == io.EOF {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		if !bytes.Equal(got, sent) {
			t.Error("what arrived is not what was sent")
		}
		if reads < len(sent)/link.Segment {
			t.Errorf("%d reads", reads)
		}
		if first < link.Delay {
			t.Errorf("the first bytes took %v", first)
		}
	})
}

func TestTheSameSeedGivesTheSameAccidents(t *testing.T) {
	trace := func(seed uint64) (trace string) {
		synctest.Test(t, func(t *testing.T) {
			n := New(seed)
			n.SetLink("a", "b", Link{Delay: time.Millisecond, Jitter: 50 * time.Millisecond, Segment: 300})
			n.Flip("a", "b", 3)
			l, _ := n.Listen("b:80")
			a, err := n.Dialer("a")(t.Context(), "tcp", "b:80")
			if err != nil {
				t.Fatal(err)
			}
			b, _ := l.Accept()
			for range 20 {
				write(t, a, make([]byte, 400))
			}
			a.Close()
			buf := make([]byte, 1000)
			for err == nil {
				var k int
				k, err = b.Read(buf)
				trace += fmt.Sprintln(time.Now().UnixNano(), k, bytes.IndexFunc(buf[:k], func(r rune) bool { return r != 0 }), err)
			}
			b.Close()
			l.Close()
		})
		return trace
	}
	if first, second := trace(1), trace(1); first != second {
		t.Error("one seed gave two traces")
	}
	if trace(1) == trace(2) {
		t.Error("two seeds gave one trace")
	}
}

func TestBandwidth(t *testing.T) {
	in(t, both(Link{Bandwidth: 1000, Delay: time.Second}), func(t *testing.T, n *Network, a, b net.Conn) {
		write(t, a, make([]byte, 4000))
		write(t, a, make([]byte, 1000))
		if d := took(func() { wantRead(t, b, string(make([]byte, 5000))) }); d != 6*time.Second {
			t.Errorf("5000 bytes took %v", d)
		}
	})
}

func TestBandwidthChangesForWhatWaits(t *testing.T) {
	in(t, both(Link{Bandwidth: 1000, Delay: time.Second, Segment: 100}), func(t *testing.T, n *Network, a, b net.Conn) {
		write(t, a, make([]byte, 5000))
		time.Sleep(2 * time.Second)
		n.SetLink("a", "b", Link{Bandwidth: 3000, Delay: time.Second})
		d := took(func() { wantRead(t, b, string(make([]byte, 5000))) })
		if d < 2*time.Second || d > 2100*time.Millisecond {
			t.Errorf("the other 3000 bytes took %v", d)
		}
	})
}

func TestAFullBufferHoldsUpTheWriter(t *testing.T) {
	in(t, both(Link{Buffer: 1000}), func(t *testing.T, n *Network, a, b net.Conn) {
		write(t, a, make([]byte, 900))
		a.SetWriteDeadline(time.Now().Add(time.Second))
		k, err := a.Write(make([]byte, 300))
		if k != 100 {
			t.Errorf("%d bytes got into a full buffer", k)
		}
		wantError(t, "Write", err, os.ErrDeadlineExceeded)
		a.SetWriteDeadline(time.Time{})
		go func() {
			time.Sleep(5 * time.Second)
			wantRead(t, b, string(make([]byte, 1000)))
		}()
		if d := took(func() { write(t, a, make([]byte, 500)) }); d != 5*time.Second {
			t.Errorf("the writer waited for %v", d)
		}
		synctest.Wait()
	})
}

func TestDeadlines(t *testing.T) {
	in(t, nil, func(t *testing.T, n *Network, a, b net.Conn) {
		a.SetReadDeadline(time.Now().Add(time.Minute))
		d := took(func() {
			_, err := a.Read(make([]byte, 1))
			wantError(t, "Read", err, os.ErrDeadlineExceeded)
			var timeout net.Error
			if !errors.As(err, &timeout) || !timeout.Timeout() {
				t.Errorf("%v is no timeout", err)
			}
		})
		if d != time.Minute {
			t.Errorf("waited %v", d)
		}
		a.SetDeadline(time.Time{})
		// A deadline ends a read that has begun before it was set.
		go func() {
			time.Sleep(time.Second)
			a.SetReadDeadline(time.Unix(1, 0))
		}()
		_, err := a.Read(make([]byte, 1))
		wantError(t, "Read", err, os.ErrDeadlineExceeded)
		// A deadline that has passed does not destroy anything.
		write(t, b, []byte("late"))
		a.SetReadDeadline(time.Time{})
		wantRead(t, a, "late")
	})
}

func TestHalfClose(t *testing.T) {
	in(t, both(Link{Delay: time.Second}), func(t *testing.T, n *Network, a, b net.Conn) {
		write(t, a, []byte("question"))
		if err := a.(*Conn).CloseWrite(); err != nil {
			t.Fatal(err)
		}
		_, err := a.Write([]byte("more"))
		wantError(t, "Write after CloseWrite", err, syscall.EPIPE)
		got, err := io.ReadAll(b)
		if string(got) != "question" || err != nil {
			t.Errorf("got %q, %v", got, err)
		}
		write(t, b, []byte("answer"))
		b.Close()
		got, err = io.ReadAll(a)
		if string(got) != "answer" || err != nil {
			t.Errorf("got %q, %v", got, err)
		}
	})
}

// A proxy takes the end of one direction for that of both.
func TestHalfCloseBehindAProxy(t *testing.T) {
	in(t, both(Link{Delay: time.Second, Proxied: true}), func(t *testing.T, n *Network, a, b net.Conn) {
		write(t, a, []byte("here"))
		time.Sleep(time.Second)
		if err := a.(*Conn).CloseWrite(); err != nil {
			t.Fatal(err)
		}
		wantRead(t, b, "here")
		if _, err := b.Read(make([]byte, 1)); err != io.EOF {
			t.Errorf("Read after the end: %v", err)
		}
		if _, err := a.Read(make([]byte, 1)); err != io.EOF {
			t.Errorf("Read of the other direction: %v", err)
		}
	})
	in(t, both(Link{Delay: time.Second, Proxied: true}), func(t *testing.T, n *Network, a, b net.Conn) {
		write(t, a, []byte("lost"))
		write(t, b, []byte("lost"))
		if err := a.(*Conn).CloseWrite(); err != nil {
			t.Fatal(err)
		}
		if _, err := a.Read(make([]byte, 1)); err != io.EOF {
			t.Errorf("Read of the other direction: %v", err)
		}
		_, err := b.Read(make([]byte, 1))
		wantError(t, "Read after the end", err, syscall.ECONNRESET)
	})
}

func TestCloseEndsWhatWaits(t *testing.T) {
	in(t, both(Link{Buffer: 10}), func(t *testing.T, n *Network, a, b net.Conn) {
		go func() {
			time.Sleep(time.Second)
			a.Close()
		}()
		done := make(chan struct{})
		go func() {
			_, err := a.Write(make([]byte, 11))
			wantError(t, "Write", err, net.ErrClosed)
			close(done)
		}()
		_, err := a.Read(make([]byte, 1))
		wantError(t, "Read", err, net.ErrClosed)
		<-done
		wantError(t, "Close", a.Close(), net.ErrClosed)
		wantError(t, "SetDeadline", a.SetDeadline(time.Now()), net.ErrClosed)
	})
}

func TestAClosedEndResetsWhoSendsToIt(t *testing.T) {
	link := Link{Delay: time.Second}
	in(t, both(link), func(t *testing.T, n *Network, a, b net.Conn) {
		b.Close()
		write(t, a, []byte("for nobody"))
		_, err := a.Read(make([]byte, 1))
		wantError(t, "Read before the reset", err, io.EOF)
		time.Sleep(2 * link.Delay)
		_, err = a.Write([]byte("more"))
		wantError(t, "Write after the reset", err, syscall.ECONNRESET)
	})
	in(t, both(link), func(t *testing.T, n *Network, a, b net.Conn) {
		write(t, a, []byte("not read"))
		write(t, b, []byte("lost with the reset"))
		b.Close()
		time.Sleep(2 * link.Delay)
		_, err := a.Read(make([]byte, 1))
		wantError(t, "Read", err, syscall.ECONNRESET)
	})
}

func TestAStallHoldsUpOneDirection(t *testing.T) {
	in(t, nil, func(t *testing.T, n *Network, a, b net.Conn) {
		write(t, a, []byte("on its way"))
		n.Stall("a", "b", 3*time.Second)
		n.Stall("a", "b", time.Second)
		write(t, b, []byte("the other way"))
		if d := took(func() { wantRead(t, a, "the other way") }); d != 0 {
			t.Errorf("the other direction was held up for %v", d)
		}
		if d := took(func() { wantRead(t, b, "on its way") }); d != 3*time.Second {
			t.Errorf("held up for %v", d)
		}
		n.Stall("a", "b", time.Hour)
		write(t, a, []byte("healed"))
		go func() {
			time.Sleep(time.Second)
			n.Heal()
		}()
		if d := took(func() { wantRead(t, b, "healed") }); d != time.Second {
			t.Errorf("held up for %v", d)
		}
	})
}

func TestABlockLastsUntilItIsEnded(t *testing.T) {
	in(t, nil, func(t *testing.T, n *Network, a, b net.Conn) {
		n.Block("a", "b")
		write(t, a, []byte("on its way"))
		write(t, b, []byte("the other way"))
		wantRead(t, a, "the other way")
		for _, end := range []func(){func() { n.Unblock("a", "b") }, n.Heal} {
			go func() {
				time.Sleep(time.Hour)
				end()
			}()
			if d := took(func() { wantRead(t, b, "on its way") }); d != time.Hour {
				t.Errorf("held up for %v", d)
			}
			n.Block("a", "b")
			write(t, a, []byte("on its way"))
		}
		n.Heal()
		wantRead(t, b, "on its way")
	})
}

// What is lost comes later, and holds up what was sent behind it.
func TestLossIsDelay(t *testing.T) {
	in(t, both(Link{Delay: time.Millisecond, Loss: 0.2}), func(t *testing.T, n *Network, a, b net.Conn) {
		late := make(map[time.Duration]int)
		for i := range 200 {
			write(t, a, []byte{byte(i)})
			late[took(func() { wantRead(t, b, string([]byte{byte(i)})) })]++
		}
		if prompt := late[time.Millisecond]; prompt < 120 || prompt > 190 {
			t.Errorf("%d of 200 were not lost: %v", prompt, late)
		}
		if once := late[201*time.Millisecond]; once < 10 || once > 60 {
			t.Errorf("%d of 200 were lost once: %v", once, late)
		}
		n.SetLink("a", "b", Link{Delay: time.Millisecond, Loss: 1})
		write(t, a, []byte("1"))
		n.SetLink("a", "b", Link{Delay: time.Millisecond})
		write(t, a, []byte("2"))
		if d := took(func() { wantRead(t, b, "12") }); d != time.Millisecond+(1<<8-1)*resendsData {
			t.Errorf("behind what was lost again and again it took %v", d)
		}
	})
}

func TestALostDialTakesLonger(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := New(1)
		n.SetLink("a", "b", Link{Loss: 1})
		l, err := n.Listen("b:80")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		if d := took(func() {
			c, err := n.Dialer("a")(t.Context(), "tcp", "b:80")
			if err != nil {
				t.Fatal(err)
			}
			c.Close()
		}); d != (1<<8-1)*resendsDial {
			t.Errorf("took %v", d)
		}
	})
}

func TestCut(t *testing.T) {
	in(t, both(Link{Buffer: 10}), func(t *testing.T, n *Network, a, b net.Conn) {
		go func() {
			time.Sleep(time.Second)
			n.Cut("b", "a")
		}()
		_, err := a.Write(make([]byte, 11))
		wantError(t, "Write", err, syscall.ECONNRESET)
		_, err = b.Read(make([]byte, 1))
		wantError(t, "Read", err, syscall.ECONNRESET)
	})
}

func TestDropIsSilent(t *testing.T) {
	in(t, nil, func(t *testing.T, n *Network, a, b net.Conn) {
		write(t, a, []byte("lost"))
		n.Drop("a", "b")
		write(t, a, []byte("lost too"))
		a.Close()
		b.SetReadDeadline(time.Now().Add(time.Hour))
		_, err := b.Read(make([]byte, 1))
		wantError(t, "Read", err, os.ErrDeadlineExceeded)
		b.SetWriteDeadline(time.Now().Add(time.Hour))
		_, err = b.Write(make([]byte, defaultBuffer+1))
		wantError(t, "Write", err, os.ErrDeadlineExceeded)
	})
}

func TestFlip(t *testing.T) {
	in(t, nil, func(t *testing.T, n *Network, a, b net.Conn) {
		n.Flip("a", "b", 2)
		flipped := 0
		for range 100 {
			sent := make([]byte, 50)
			write(t, a, sent)
			for _, c := range sent {
				if c != 0 {
					t.Fatal("the sender's buffer was changed")
				}
			}
			got := make([]byte, len(sent))
			if _, err := io.ReadFull(b, got); err != nil {
				t.Fatal(err)
			}
			for _, c := range got {
				flipped += bits.OnesCount8(c)
			}
		}
		if flipped != 2 {
			t.Errorf("%d bits are flipped", flipped)
		}
	})
}

func TestDialsThatFail(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := New(1)
		both(Link{Delay: time.Second})(n)
		dial := func(ctx context.Context) (err error) {
			c, err := n.Dialer("a")(ctx, "tcp", "b:80")
			if err == nil {
				c.Close()
			}
			return err
		}
		wantError(t, "nobody listens", dial(t.Context()), syscall.ECONNREFUSED)
		l, err := n.Listen("b:80")
		if err != nil {
			t.Fatal(err)
		}
		_, err = n.Listen("b:80")
		wantError(t, "a second listener", err, syscall.EADDRINUSE)
		n.Refuse("a", "b", 10*time.Second)
		wantError(t, "a refusal", dial(t.Context()), syscall.ECONNREFUSED)
		time.Sleep(10 * time.Second)
		if d := took(func() { wantError(t, "a dial", dial(t.Context()), nil) }); d != 2*time.Second {
			t.Errorf("a dial took %v", d)
		}
		for _, way := range []route{{"a", "b"}, {"b", "a"}} {
			n.Stall(way.from, way.to, time.Hour)
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
			wantError(t, "a dial on a stalled way", dial(ctx), context.DeadlineExceeded)
			cancel()
			n.Heal()
		}
		if got := n.Dials("a", "b"); got != 5 {
			t.Errorf("%d dials", got)
		}
		l.Close()
		_, err = l.Accept()
		wantError(t, "Accept", err, net.ErrClosed)
		if open := n.Open(); len(open) > 0 {
			t.Errorf("left open: %v", open)
		}
	})
}

func TestHTTPRunsOnIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := New(1)
		both(Link{Delay: 10 * time.Millisecond, Segment: 16})(n)
		l, err := n.Listen("b:80")
		if err != nil {
			t.Fatal(err)
		}
		server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			body, err := io.ReadAll(r.Body)
			if err != nil {
				t.Error(err)
			}
			w.Write(body)
		})}
		done := make(chan struct{})
		go func() {
			defer close(done)
			server.Serve(l)
		}()
		transport := &http.Transport{DialContext: n.Dialer("a")}
		client := http.Client{Transport: transport}
		for range 3 {
			resp, err := client.Post("http://b:80/", "text/plain", bytes.NewReader(bytes.Repeat([]byte("grid"), 1000)))
			if err != nil {
				t.Fatal(err)
			}
			got, err := io.ReadAll(resp.Body)
			resp.Body.Close()
			if len(got) != 4000 || err != nil {
				t.Errorf("got %d bytes, %v", len(got), err)
			}
		}
		transport.CloseIdleConnections()
		server.Close()
		<-done
		synctest.Wait()
		if open := n.Open(); len(open) > 0 {
			t.Errorf("left open: %v", open)
		}
	})
}

func TestMisroutedDialsReachAnotherHost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := New(1)
		reached := make(chan string)
		for _, address := range []string{"b:80", "c:80"} {
			l, err := n.Listen(address)
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			go func() {
				for {
					c, err := l.Accept()
					if err != nil {
						return
					}
					reached <- address
					c.Close()
				}
			}()
		}
		dial := func(want string) {
			t.Helper()
			c, err := n.Dialer("a")(t.Context(), "tcp", "b:80")
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			if got := <-reached; got != want || c.RemoteAddr().String() != "b:80" {
				t.Errorf("reached %s, taken for %v, want %s", got, c.RemoteAddr(), want)
			}
		}
		dial("b:80")
		n.Misroute("a", "b", "c", time.Minute)
		dial("c:80")
		time.Sleep(time.Minute)
		dial("b:80")
		n.Misroute("a", "b", "c", time.Minute)
		n.Heal()
		dial("b:80")
		if got := n.Dials("a", "b"); got != 4 {
			t.Errorf("%d dials were counted, want 4", got)
		}
	})
}

func TestAFrozenHostReadsAndWritesLater(t *testing.T) {
	in(t, nil, func(t *testing.T, n *Network, a, b net.Conn) {
		n.Freeze("b", 2*time.Second)
		n.Freeze("b", time.Second) // shortens nothing
		if d := took(func() { write(t, a, []byte("hello")) }); d != 0 {
			t.Errorf("to write to a frozen host took %v", d)
		}
		if d := took(func() { wantRead(t, b, "hello") }); d != 2*time.Second {
			t.Errorf("a frozen host has read after %v", d)
		}
		n.Freeze("b", time.Second)
		if d := took(func() { write(t, b, []byte("soup")) }); d != time.Second {
			t.Errorf("a frozen host has written after %v", d)
		}
		wantRead(t, a, "soup")
	})
}
