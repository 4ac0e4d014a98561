package grid

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

// A handler whose deadline came before its caller's would end a stream that the caller still waits
// for.
func TestAHandlersDeadlineIsNotBeforeItsCallers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := startPipes(t, 2, nil)
		deadlines := make(chan time.Time, 1)
		note := func(ctx context.Context) {
			deadline, ok := ctx.Deadline()
			if !ok {
				t.Error("the handler has no deadline")
			}
			deadlines <- deadline
		}
		c.handle(t, func(ctx context.Context, _ []byte) ([]byte, error) {
			note(ctx)
			return nil, nil
		})
		c.stream(t, 0, 1, func(ctx context.Context, _ []byte, _ <-chan []byte, _ chan<- []byte) *RemoteErr {
			note(ctx)
			return nil
		})
		for _, left := range []time.Duration{1, time.Millisecond - 1, time.Millisecond, time.Millisecond + 1, 3999 * time.Microsecond, time.Hour + 1} {
			ctx, cancel := context.WithTimeout(t.Context(), left)
			caller, _ := ctx.Deadline()
			check := func(kind string) {
				if handler := <-deadlines; handler.Before(caller) || handler.Sub(caller) >= time.Millisecond {
					t.Errorf("%s with %v left: the handler's deadline is %v after the caller's", kind, left, handler.Sub(caller))
				}
			}
			if _, err := c.conn(0, 1).Request(ctx, testSingle, nil); err != nil {
				t.Error(err)
			}
			check("a request")
			st, err := c.conn(0, 1).NewStream(ctx, testStream, nil)
			if err == nil {
				err = st.Results(func([]byte) error { return nil })
			}
			if err != nil {
				t.Error(err)
			}
			check("a stream")
			cancel()
		}
	})
}

// On the wire a deadline is a number of milliseconds in 32 bits. A longer one must not become one
// of hours.
func TestADeadlineBeyondTheLongestIsCut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := startPipes(t, 2, nil)
		left := make(chan time.Duration, 1)
		note := func(ctx context.Context) {
			deadline, _ := ctx.Deadline()
			left <- time.Until(deadline)
		}
		c.handle(t, func(ctx context.Context, _ []byte) ([]byte, error) {
			note(ctx)
			return nil, nil
		})
		c.stream(t, 0, 1, func(ctx context.Context, _ []byte, _ <-chan []byte, _ chan<- []byte) *RemoteErr {
			note(ctx)
			return nil
		})
		for _, deadline := range []time.Duration{MaxDeadline, MaxDeadline + 1, 50 * 24 * time.Hour, 1<<63 - 1} {
			ctx, cancel := context.WithTimeout(t.Context(), deadline)
			if _, err := c.conn(0, 1).Request(ctx, testSingle, nil); err != nil {
				t.Error(err)
			}
			if got := <-left; got != MaxDeadline {
				t.Errorf("a handler had %v for a request with %v", got, deadline)
			}
			st, err := c.conn(0, 1).NewStream(ctx, testStream, nil)
			if err == nil {
				err = st.Results(func([]byte) error { return nil })
			}
			if err != nil {
				t.Error(err)
			}
			if got := <-left; got != MaxDeadline {
				t.Errorf("a handler had %v for a stream with %v", got, deadline)
			}
			cancel()
		}
	})
}

func TestARequestMayHaveNoDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := startPipes(t, 2, nil)
		c.handle(t, func(ctx context.Context, payload []byte) ([]byte, error) {
			if deadline, ok := ctx.Deadline(); ok {
				t.Errorf("the handler has a deadline in %v", time.Until(deadline))
			}
			select {
			case <-time.After(100 * time.Hour):
				return payload, nil
			case <-ctx.Done():
				return nil, context.Cause(ctx)
			}
		})
		large := make([]byte, 300<<10) // goes in pieces
		for _, payload := range [][]byte{nil, large} {
			answer, err := c.conn(0, 1).Request(WithoutDeadline(WithoutDeadline(t.Context())), testSingle, payload)
			if err != nil || len(answer) != len(payload) {
				t.Errorf("%d bytes: got %d bytes, %v", len(payload), len(answer), err)
			}
		}

		ctx, cancel := context.WithCancel(WithoutDeadline(t.Context()))
		time.AfterFunc(10*time.Hour, cancel)
		if _, err := c.conn(0, 1).Request(ctx, testSingle, nil); !errors.Is(err, context.Canceled) {
			t.Errorf("canceled: got %v", err)
		}
		time.AfterFunc(10*time.Hour, c.cut)
		//lint:ignore SA1012 what a nil context stands for
		if _, err := c.conn(0, 1).Request(WithoutDeadline(nil), testSingle, nil); !errors.Is(err, ErrDisconnected) { //nolint:staticcheck // the same
			t.Errorf("cut: got %v", err)
		}
		synctest.Wait()
		if left := c.idle(); left != "" {
			t.Error(left)
		}
	})
}

// A deadline that the context has is kept, also one that is set later.
func TestWithoutDeadlineKeepsTheContextsOwn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := startPipes(t, 2, nil)
		c.handle(t, func(ctx context.Context, _ []byte) ([]byte, error) {
			<-ctx.Done()
			return nil, nil
		})
		ctx, cancel := context.WithTimeout(WithoutDeadline(t.Context()), time.Second)
		defer cancel()
		start := time.Now()
		_, err := c.conn(0, 1).Request(ctx, testSingle, nil)
		if took := time.Since(start); !errors.Is(err, context.DeadlineExceeded) || took > 2*time.Second {
			t.Errorf("got %v after %v", err, took)
		}
	})
}

// A node of the original may take 0 for something else: it gets the minute.
func TestANodeOfTheOriginalGetsADeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newPipes(1)
		n, host := startForFake(t, c, nil)
		peer := c.knock(t, n)
		peer.introduce(t, host)
		conn := n.Connection(host)
		if err := conn.WaitForConnect(t.Context()); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(WithoutDeadline(t.Context()))
		go conn.Request(ctx, testSingle, nil)
		if m := peer.next(t); m.Op != OpRequest || m.DeadlineMS != 60_000 {
			t.Errorf("%v with a DeadlineMS of %d", m.Op, m.DeadlineMS)
		}
		cancel()
		synctest.Wait()
	})
}
