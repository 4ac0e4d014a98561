package grid

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// runs counts how often handlers run, by the unique ID of the call.
type runs struct {
	mu sync.Mutex // Protects following.
	n  map[uint64]int
}

func (r *runs) add(payload []byte) {
	id := binary.BigEndian.Uint64(payload)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.n[id]++
}

// Whatever callers cancel and the network cuts: each call has one outcome, a
// handler runs at most once for it, what a stream delivers is a prefix of what
// was sent, and nothing is left behind.
func TestStress(t *testing.T) {
	for _, nodes := range []int{2, 4} {
		for _, cuts := range []bool{false, true} {
			t.Run(fmt.Sprintf("%d nodes, cuts %v", nodes, cuts), func(t *testing.T) { stress(t, nodes, cuts) })
		}
	}
}

const (
	stressTime     = 500 * time.Millisecond
	stressMessages = 50 // of a stream
)

var (
	errStressCanceled = errors.New("canceled by the test")
	errStressLeft     = errors.New("left by the test")
)

func stress(t *testing.T, nodes int, cuts bool) {
	c := startCluster(t, nodes, nil)
	handled := &runs{n: make(map[uint64]int)}
	c.handle(t, func(_ context.Context, payload []byte) ([]byte, error) {
		handled.add(payload)
		return payload, nil
	})
	for _, n := range c.nodes {
		for _, h := range []StreamHandler{
			{Subroute: "one-way", OutCapacity: 3, Handle: func(ctx context.Context, payload []byte, _ <-chan []byte, out chan<- []byte) *RemoteErr {
				handled.add(payload)
				return count(ctx, binary.BigEndian.AppendUint64(nil, stressMessages), nil, out)
			}},
			{Subroute: "two-way", OutCapacity: 3, InCapacity: 4, Handle: func(ctx context.Context, payload []byte, in <-chan []byte, out chan<- []byte) *RemoteErr {
				handled.add(payload)
				return echoBack(ctx, payload, in, out)
			}},
		} {
			if err := n.RegisterStreamingHandler(testStream, h); err != nil {
				t.Fatal(err)
			}
		}
	}

	s := stressed{t: t, cuts: cuts, outcomes: make(map[uint64]error)}
	ctx, cancel := context.WithTimeout(t.Context(), stressTime)
	defer cancel()
	var callers sync.WaitGroup
	for i := range nodes {
		for j := range nodes {
			if i == j {
				continue
			}
			for kind := range 6 {
				callers.Go(func() {
					for ctx.Err() == nil {
						s.call(c.conn(i, j), kind%3)
					}
				})
			}
		}
	}
	if cuts {
		callers.Go(func() {
			tick := time.NewTicker(stressTime / 8)
			defer tick.Stop()
			for {
				select {
				case <-tick.C:
					c.cut()
				case <-ctx.Done():
					return
				}
			}
		})
	}
	within(t, "the end of all calls", callers.Wait)
	c.waitIdle(t)

	done := 0
	for id, err := range s.outcomes {
		if err == nil {
			done++
			if handled.n[id] != 1 {
				t.Errorf("call %d succeeded and ran %d times", id, handled.n[id])
			}
		}
	}
	for id, n := range handled.n {
		if n > 1 {
			t.Errorf("call %d ran %d times", id, n)
		}
		if _, ok := s.outcomes[id]; !ok {
			t.Errorf("call %d was handled and has no outcome", id)
		}
	}
	if done == 0 {
		t.Error("no call succeeded")
	}
	t.Logf("%d calls, %d succeeded, %d were handled", len(s.outcomes), done, len(handled.n))
	for _, n := range c.nodes {
		n.Close()
	}
	waitGoroutines(t, 0)
}

// stressed makes calls and keeps their outcomes.
type stressed struct {
	t    *testing.T
	cuts bool
	ids  atomic.Uint64

	mu       sync.Mutex // Protects following.
	outcomes map[uint64]error
}

// call makes a call of a kind, half of them with a cancellation somewhere on the way.
func (s *stressed) call(c *Connection, kind int) {
	ctx, cancel := context.WithCancelCause(s.t.Context())
	defer cancel(nil)
	if rand.N(2) == 0 {
		stop := time.AfterFunc(rand.N(2*time.Millisecond), func() { cancel(errStressCanceled) })
		defer stop.Stop()
	}
	id := s.ids.Add(1)
	payload := binary.BigEndian.AppendUint64(nil, id)
	var err error
	switch kind {
	case 0:
		err = s.request(ctx, c, payload, id)
	case 1:
		err = s.oneWay(ctx, c, payload)
	case 2:
		err = s.twoWay(ctx, c, payload)
	}
	switch {
	case err == nil, errors.Is(err, errStressCanceled), errors.Is(err, errStressLeft):
	case s.cuts && errors.Is(err, ErrDisconnected):
		c.WaitForConnect(ctx)
	default:
		s.t.Errorf("%v: a call of kind %d ended with %v", c, kind, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, twice := s.outcomes[id]; twice {
		s.t.Errorf("call %d has two outcomes", id)
	}
	s.outcomes[id] = err
}

func (s *stressed) request(ctx context.Context, c *Connection, payload []byte, id uint64) error {
	got, err := c.Request(ctx, testSingle, append(payload, make([]byte, rand.N(3000))...))
	if err != nil {
		return err
	}
	if answered := binary.BigEndian.Uint64(got); answered != id {
		s.t.Errorf("call %d got the answer of call %d", id, answered)
	}
	PutByteBuffer(got)
	return nil
}

func (s *stressed) oneWay(ctx context.Context, c *Connection, payload []byte) error {
	st, err := c.Subroute("one-way").NewStream(ctx, testStream, payload)
	if err != nil {
		return err
	}
	return s.results(st)
}

func (s *stressed) twoWay(ctx context.Context, c *Connection, payload []byte) error {
	st, err := c.Subroute("two-way").NewStream(ctx, testStream, payload)
	if err != nil {
		return err
	}
	var sender sync.WaitGroup
	sender.Go(func() {
		defer close(st.Requests)
		for i := range stressMessages {
			if st.Send(number(i)) != nil {
				return
			}
		}
	})
	defer sender.Wait()
	return s.results(st)
}

// results reads a stream, a few of them not to the end.
func (s *stressed) results(st *Stream) error {
	leave := rand.N(4 * stressMessages)
	got := 0
	next := expectNumbers(&got)
	err := st.Results(func(b []byte) error {
		if got == leave {
			return errStressLeft
		}
		return next(b)
	})
	if err == nil && got != stressMessages {
		s.t.Errorf("a stream ended well after %d of %d messages", got, stressMessages)
	}
	return err
}
