package link

import (
	"io"
	"net"
	"testing"
	"testing/synctest"
	"time"
)

func TestBucketKeepsTheRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := bucket{perByte: time.Microsecond}
		time.Sleep(time.Second) // what was not used by then is lost
		start, bytes := time.Now(), 0
		for time.Since(start) < time.Second {
			time.Sleep(b.take(1000))
			bytes += 1000
		}
		if most := int(time.Since(start)/time.Microsecond) + int(relayBurst/time.Microsecond); bytes > most || bytes < most-3000 {
			t.Errorf("%d bytes in %v, want %d", bytes, time.Since(start), most)
		}
	})
}

// connect returns the ends of a connection from side 0 to side 1.
func connect(t *testing.T, l Link) (from, to net.Conn) {
	t.Helper()
	var listener net.Listener
	err := l.Run(1, func() (err error) {
		listener, err = net.Listen("tcp", l.Host(1)+":0")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	addr := listener.Addr().String()
	via, err := l.Via([2][]string{nil, {addr}})
	if err != nil {
		t.Fatal(err)
	}
	if other, ok := via[0][addr]; ok {
		addr = other
	}
	if err := l.Run(0, func() (err error) { from, err = net.Dial("tcp", addr); return err }); err != nil {
		t.Fatal(err)
	}
	to, err = listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { from.Close(); to.Close() })
	return from, to
}

// TestLinksHaveTheirRate sends so much that buffers and bursts are next to nothing.
func TestLinksHaveTheirRate(t *testing.T) {
	const rate, size = 50e6, 2 << 20
	for _, kind := range []Kind{Relay, Kernel, Cable} {
		t.Run(string(kind), func(t *testing.T) {
			l := open(t, Spec{Kind: kind, Rate: rate})
			from, to := connect(t, l)
			for _, way := range [][2]net.Conn{{from, to}, {to, from}} {
				start := time.Now()
				go way[0].Write(make([]byte, size))
				if _, err := io.ReadFull(way[1], make([]byte, size)); err != nil {
					t.Fatal(err)
				}
				if took, least := time.Since(start).Seconds(), 0.8*size*8/rate; took < least {
					t.Errorf("%d bytes in %.3f s, want at least %.3f", size, took, least)
				}
			}
		})
	}
}

func open(t *testing.T, s Spec) Link {
	t.Helper()
	if err := Able(s.Kind); err != nil {
		t.Skip("SKIPPED: ", err)
	}
	l, err := Open(s)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.Close)
	return l
}

func TestCableDelays(t *testing.T) {
	const trip = 30 * time.Millisecond
	l := open(t, Spec{Kind: Cable, Rate: 1e9, RoundTrip: trip})
	from, to := connect(t, l)
	go io.Copy(to, to)
	start := time.Now()
	from.Write([]byte{1})
	if _, err := io.ReadFull(from, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(start); took < trip {
		t.Errorf("there and back in %v, want %v at least", took, trip)
	}
}

func TestCableLosesWhatIsSentWhileItIsDown(t *testing.T) {
	l := open(t, Spec{Kind: Cable, Rate: 1e9})
	from, to := connect(t, l)
	got := make(chan time.Time, 1)
	go func() {
		io.ReadFull(to, make([]byte, 1))
		got <- time.Now()
	}()
	l.SetDown(true)
	from.Write([]byte{1})
	time.Sleep(50 * time.Millisecond) // for what must not come
	up := time.Now()
	l.SetDown(false)
	if at := <-got; at.Before(up) {
		t.Error("it has come over a cable that was down")
	}
}

func TestNoSuchLink(t *testing.T) {
	if _, err := Open(Spec{Kind: "string"}); err == nil {
		t.Error("no error")
	}
}
