package netgrid

import (
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// half is one direction of a Conn: whose turn it is, and what ends a wait.
type half struct {
	turn    chan struct{} // holds a token while nobody reads, or writes
	present atomic.Pointer[patience]
	life    *patience // that of close alone

	mu       sync.Mutex // Protects following, and changes of present.
	deadline time.Time  // to come; zero for none
	timer    *time.Timer
}

func (h *half) init() {
	h.turn = make(chan struct{}, 1)
	h.turn <- struct{}{}
	h.life = newPatience()
	h.present.Store(newPatience())
}

// take waits for the turn of the caller, who gives it back with give. It returns how long he may
// wait for other things.
func (h *half) take() (*patience, error) { return h.takeWithin(h.present.Load()) }

// takeWithin is take with another patience: life is for who does not mind a deadline.
func (h *half) takeWithin(p *patience) (*patience, error) {
	if err := p.Err(); err != nil {
		return nil, err
	}
	select {
	case <-h.turn:
		return p, nil
	default:
	}
	select {
	case <-h.turn:
		return p, nil
	case <-p.Done():
		return nil, p.Err()
	}
}

func (h *half) give() { h.turn <- struct{}{} }

// setDeadline ends waits at t, or never if t is zero.
func (h *half) setDeadline(t time.Time) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if err := h.life.Err(); err != nil {
		return err
	}
	if h.timer != nil {
		h.timer.Stop() // if it has fired already, expire sees that its time has not come
	}
	h.deadline = time.Time{}
	left := time.Until(t)
	switch {
	case t.IsZero():
		h.renew()
	case left <= 0:
		h.present.Load().end(os.ErrDeadlineExceeded)
	default:
		h.renew()
		h.deadline = time.Now().Add(left) // on the clock of the timer, also where t has only the wall's
		if h.timer == nil {
			h.timer = time.AfterFunc(left, h.expire)
		} else {
			h.timer.Reset(left)
		}
	}
	return nil
}

// expire is called by the timer.
func (h *half) expire() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.deadline.IsZero() && !time.Now().Before(h.deadline) {
		h.present.Load().end(os.ErrDeadlineExceeded)
	}
}

// renew lets later waits wait again. h.mu is held.
func (h *half) renew() {
	if h.present.Load().Err() != nil {
		h.present.Store(newPatience())
	}
}

// close ends waits for good.
func (h *half) close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.life.Err() != nil {
		return
	}
	h.life.end(net.ErrClosed)
	h.deadline = time.Time{}
	if h.timer != nil {
		h.timer.Stop()
	}
	h.renew()
	h.present.Load().end(net.ErrClosed)
}

// patience is a context that ends with a deadline, or when a Conn is closed.
type patience struct {
	done chan struct{}
	err  error // os.ErrDeadlineExceeded or net.ErrClosed, once done is closed
}

func newPatience() *patience { return &patience{done: make(chan struct{})} }

// end ends it, unless it has ended. The mutex of its half is held.
func (p *patience) end(err error) {
	if p.Err() == nil {
		p.err = err
		close(p.done)
	}
}

// Done is part of context.Context.
func (p *patience) Done() <-chan struct{} { return p.done }

// Err is part of context.Context.
func (p *patience) Err() error {
	select {
	case <-p.done:
		return p.err
	default:
		return nil
	}
}

// Deadline is part of context.Context. There is none that is known, because it can be moved.
func (p *patience) Deadline() (time.Time, bool) { return time.Time{}, false }

// Value is part of context.Context.
func (p *patience) Value(any) any { return nil }

// gaveUp reports whether err is that of a patience, and not of the stream that was waited for.
func gaveUp(err error) bool { return err == os.ErrDeadlineExceeded || err == net.ErrClosed }
