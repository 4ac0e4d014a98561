package grid

import (
	"context"
	"errors"
	"strings"
	"testing"
)

// servedTraces has the traces of what a node serves sent to a channel.
func servedTraces(t *testing.T, n *testNode, filter func(TraceInfo) bool) <-chan TraceInfo {
	t.Helper()
	traces := make(chan TraceInfo, 20)
	if err := n.Traces().Subscribe(TraceServed, traces, t.Context().Done(), filter); err != nil {
		t.Fatal(err)
	}
	return traces
}

func TestTracesOfWhatIsServed(t *testing.T) {
	c := startCluster(t, 2, nil)
	caller, server := c.nodes[0], c.nodes[1]
	noLuck := errors.New("no luck")
	err := errors.Join(
		server.Handle("kv.Get", func(ctx context.Context, b []byte) ([]byte, error) {
			switch string(b) {
			case "fail":
				return nil, noLuck
			case "wait":
				<-ctx.Done()
			}
			return []byte("value"), nil
		}),
		server.HandleStream("kv.Watch", func(_ context.Context, st *RawStream) error {
			if len(st.Payload()) > 0 {
				return noLuck
			}
			return st.Send([]byte("event"))
		}),
	)
	if err != nil {
		t.Fatal(err)
	}
	c.stream(t, 0, 1, func(context.Context, []byte, <-chan []byte, chan<- []byte) *RemoteErr { return nil })
	traces := servedTraces(t, server, nil)
	conn := c.conn(0, 1)
	read := func(st *Stream, err error) {
		if err != nil {
			t.Fatal(err)
		}
		_ = st.Results(func([]byte) error { return nil })
	}
	canceled, cancel := context.WithCancel(t.Context())
	for _, step := range []struct {
		name      string
		call      func()
		handler   string
		in, out   int
		errorText string
	}{
		{"a request", func() { _, _ = conn.Call(t.Context(), "kv.Get", []byte("k")) }, "kv.Get", 1, 5, ""},
		{"one that fails", func() { _, _ = conn.Call(t.Context(), "kv.Get", []byte("fail")) }, "kv.Get", 4, 0, "no luck"},
		{"one that is given up", func() {
			go func() { _, _ = conn.Call(canceled, "kv.Get", []byte("wait")) }()
			eventually(t, "the call", func() bool { return c.conn(1, 0).Stats().IncomingRequests == 1 })
			cancel()
		}, "kv.Get", 4, 0, "context canceled"},
		{"a stream", func() { read(conn.OpenStream(t.Context(), "kv.Watch", nil)) }, "kv.Watch", 0, 0, ""},
		{"one that fails", func() { read(conn.OpenStream(t.Context(), "kv.Watch", []byte("x"))) }, "kv.Watch", 0, 0, "no luck"},
		{"one with channels", func() { read(conn.NewStream(t.Context(), testStream, nil)) }, testStream.String(), 0, 0, ""},
	} {
		step.call()
		info := <-traces
		if info.Type != TraceServed || info.Handler != "grid."+step.handler || info.Local != server.host || info.Remote != caller.host ||
			info.BytesIn != step.in || info.BytesOut != step.out || info.Duration <= 0 || info.Time.IsZero() ||
			(info.Error == "") != (step.errorText == "") || !strings.Contains(info.Error, step.errorText) {
			t.Errorf("%s: %+v", step.name, info)
		}
	}
	c.waitIdle(t)
	if len(traces) > 0 {
		t.Errorf("one more: %+v", <-traces)
	}
}

// Calls are answered, and nothing is left of them, whatever a filter does.
func TestFiltersOfServedTracesThatMisbehave(t *testing.T) {
	for how, misbehave := range misbehaves {
		t.Run(how, func(t *testing.T) {
			c := startCluster(t, 2, nil)
			c.handle(t, func(_ context.Context, b []byte) ([]byte, error) { return b, nil })
			c.stream(t, 0, 1, func(_ context.Context, _ []byte, _ <-chan []byte, out chan<- []byte) *RemoteErr {
				out <- []byte("x")
				return nil
			})
			if err := c.nodes[1].HandleStream("raw", func(_ context.Context, st *RawStream) error { return st.Send([]byte("x")) }); err != nil {
				t.Fatal(err)
			}
			servedTraces(t, c.nodes[1], func(TraceInfo) bool {
				misbehave()
				return true
			})
			conn := c.conn(0, 1)
			if b, err := conn.Request(t.Context(), testSingle, []byte("x")); string(b) != "x" || err != nil {
				t.Errorf("%q, %v", b, err)
			}
			for range 2 {
				for name, open := range map[string]func() (*Stream, error){
					"channels": func() (*Stream, error) { return conn.NewStream(t.Context(), testStream, nil) },
					"raw":      func() (*Stream, error) { return conn.OpenStream(t.Context(), "raw", nil) },
				} {
					st, err := open()
					if err != nil {
						t.Fatal(err)
					}
					n := 0
					if err := st.Results(func([]byte) error { n++; return nil }); err != nil || n != 1 {
						t.Errorf("%s: %d messages, %v", name, n, err)
					}
				}
			}
			checkLeftNothing(t, c)
		})
	}
}
