package grid

import (
	"io"
	"net"
	"testing"
	"testing/synctest"
	"time"
)

// silentConn has nothing to read but what one who waits for it gets: a byte.
type silentConn struct{ net.Conn }

func (silentConn) Read([]byte) (int, error) { return 1, nil }

// pollTest is a poller whose looks take a microsecond each.
type pollTest struct {
	poller
	looks int
	look  func() (int, error) // what a look finds
}

func newPollTest(limit time.Duration) *pollTest {
	open := newActivity()
	p := &pollTest{poller: poller{Conn: silentConn{}, limit: limit, open: &open}}
	p.look = func() (int, error) { return 0, nil }
	p.readNow = func([]byte) (int, error) {
		p.looks++
		time.Sleep(time.Microsecond)
		return p.look()
	}
	return p
}

// occasion lets the poller read when more is expected. It returns how often that has looked.
func (p *pollTest) occasion() int {
	before := p.looks
	p.expects = true
	p.Read(make([]byte, 1))
	return p.looks - before
}

func TestPollsEndInTimeAndBecomeRareInVain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPollTest(50 * time.Microsecond)
		for _, rest := range []int{1, 3, 7, 15, 31, 63, 63, 63} {
			if n := p.occasion(); n != 50 {
				t.Fatalf("a poll in vain looked %d times, want 50", n)
			}
			for i := range rest {
				if n := p.occasion(); n != 0 {
					t.Fatalf("it polled after %d of %d occasions", i, rest)
				}
			}
		}
		p.look = func() (int, error) { return 1, nil }
		for range 10 {
			if n := p.occasion(); n != 1 {
				t.Fatalf("it looked %d times, want once, which found something", n)
			}
		}
		p.look = func() (int, error) { return 0, nil }
		if a, b, c := p.occasion(), p.occasion(), p.occasion(); a != 50 || b != 0 || c != 50 {
			t.Errorf("after success it looked %d, %d and %d times, want 50, 0 and 50", a, b, c)
		}
	})
}

func TestAReadThatExpectsNothingDoesNotPoll(t *testing.T) {
	p := newPollTest(time.Hour)
	for range 10 {
		if n, err := p.Read(make([]byte, 1)); n != 1 || err != nil || p.looks > 0 {
			t.Fatalf("%d bytes, %v, after %d looks", n, err, p.looks)
		}
	}
}

func TestPollsThatFollowEachOtherEndNowAndThen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPollTest(time.Hour)
		p.look = func() (int, error) { return 1, nil }
		for range 3 {
			start := time.Now()
			for p.occasion() > 0 {
			}
			if took := time.Since(start); took < maxPolled || took > maxPolled+2*time.Microsecond {
				t.Errorf("polls followed each other for %v, want %v", took, maxPolled)
			}
		}
	})
}

func TestACrowdIsNotPolledFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPollTest(time.Hour)
		p.look = func() (int, error) { return 1, nil }
		p.open.running.Store(fewCalls)
		if n := p.occasion(); n != 1 {
			t.Errorf("with few calls it looked %d times", n)
		}
		p.open.running.Store(fewCalls + 1)
		for range 2 * maxPollRest {
			if n := p.occasion(); n != 0 {
				t.Fatalf("with many calls it looked %d times", n)
			}
		}
		if n := p.missed.Load(); n != 0 {
			t.Errorf("%d polls in vain were begun", n)
		}
		p.open.running.Store(1)
		for range maxPollRest {
			p.occasion()
		}
		p.look = func() (int, error) { // a crowd comes
			p.open.running.Store(fewCalls + 1)
			return 0, nil
		}
		if n := p.occasion(); n != 1 {
			t.Errorf("with more and more calls it looked %d times", n)
		}
	})
}

func TestOneReaderPollsAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, other := newPollTest(50*time.Microsecond), newPollTest(50*time.Microsecond)
		p.look = func() (int, error) {
			if n := other.occasion(); n != 0 {
				t.Errorf("two readers poll")
			}
			return 0, io.ErrUnexpectedEOF
		}
		if n := p.occasion(); n != 1 {
			t.Errorf("it looked %d times, and the first look has found an error", n)
		}
		if n := other.occasion(); n != 50 {
			t.Errorf("when nobody polled the other looked %d times", n)
		}
	})
}
