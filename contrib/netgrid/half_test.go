package netgrid

import (
	"net"
	"os"
	"testing"
	"testing/synctest"
	"time"
)

func TestAHalfEndsAWaitAtItsDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var h half
		h.init()
		began := time.Now()
		for _, d := range []time.Duration{time.Hour, time.Minute, 2 * time.Minute} { // the last one counts
			if err := h.setDeadline(began.Add(d)); err != nil {
				t.Fatal(err)
			}
		}
		p, err := h.take()
		if err != nil {
			t.Fatal(err)
		}
		<-p.Done()
		if took := time.Since(began); took != 2*time.Minute || p.Err() != os.ErrDeadlineExceeded || !gaveUp(p.Err()) {
			t.Errorf("it ended after %v with %v", took, p.Err())
		}
		if _, err := h.take(); err != os.ErrDeadlineExceeded {
			t.Errorf("after the deadline: %v", err)
		}
		h.give()
	})
}

func TestADeadlineCanBeMovedWhileSomebodyWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var h half
		h.init()
		began := time.Now()
		p, _ := h.take()
		h.setDeadline(began.Add(time.Minute))
		synctest.Wait()
		time.Sleep(30 * time.Second)
		h.setDeadline(began.Add(time.Hour))
		time.Sleep(time.Minute)
		synctest.Wait()
		if p.Err() != nil {
			t.Error("the wait has ended at the first deadline")
		}
		h.setDeadline(began) // which has passed
		if p.Err() != os.ErrDeadlineExceeded {
			t.Error("the wait goes on after a deadline in the past")
		}
		h.setDeadline(time.Time{})
		if p.Err() != os.ErrDeadlineExceeded {
			t.Error("a wait that has ended goes on")
		}
		h.give()
		if p, err := h.take(); err != nil || p.Err() != nil {
			t.Errorf("without a deadline again: %v, %v", err, p.Err())
		}
	})
}

func TestWhoWaitsForTheTurnHasTheSameDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var h half
		h.init()
		if _, err := h.take(); err != nil {
			t.Fatal(err)
		}
		late := make(chan error)
		for range 2 {
			go func() {
				_, err := h.take()
				late <- err
			}()
		}
		synctest.Wait()
		h.setDeadline(time.Now().Add(time.Second))
		for range 2 {
			if err := <-late; err != os.ErrDeadlineExceeded {
				t.Errorf("without a turn: %v", err)
			}
		}
		h.close()
		h.close()
		if _, err := h.take(); err != net.ErrClosed {
			t.Errorf("closed: %v", err)
		}
		if err := h.setDeadline(time.Time{}); err != net.ErrClosed {
			t.Errorf("closed: %v", err)
		}
	})
}

func TestCloseEndsAWaitAndItsTimer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var h half
		h.init()
		p, _ := h.take()
		h.setDeadline(time.Now().Add(time.Second))
		h.close()
		if p.Err() != net.ErrClosed {
			t.Errorf("the wait ended with %v", p.Err())
		}
		time.Sleep(time.Minute)
		if p.Err() != net.ErrClosed {
			t.Errorf("later, the wait has ended with %v", p.Err())
		}
	})
}
