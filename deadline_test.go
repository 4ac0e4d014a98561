package grid

import (
	"context"
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
		c.handle(t, func(ctx context.Context, _ []byte) ([]byte, *RemoteErr) {
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
		c.handle(t, func(ctx context.Context, _ []byte) ([]byte, *RemoteErr) {
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
