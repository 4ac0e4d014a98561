package grid

import (
	"bytes"
	"context"
	"log/slog"
	"runtime/pprof"
	"strings"
	"sync"
	"testing"

	"github.com/gridmesh/grid/internal/testkit"
)

type spanKey struct{}

// spanLog notes what the contexts of lines about panics have for spanKey.
type spanLog struct {
	slog.Handler
	mu    *sync.Mutex // Protects following.
	spans *[]any
}

func (l spanLog) Handle(ctx context.Context, r slog.Record) error {
	if r.Message == "grid: handler panicked" {
		l.mu.Lock()
		defer l.mu.Unlock()
		*l.spans = append(*l.spans, ctx.Value(spanKey{}))
	}
	return nil
}

// The log has a panic with the context of its handler, as the interceptors have made it, so that it
// can be found from a trace.
func TestPanicsAreLoggedWithTheContextOfTheHandler(t *testing.T) {
	log := spanLog{slog.NewTextHandler(testkit.NewLogLines(), nil), new(sync.Mutex), new([]any)}
	c := startCluster(t, 2, func(i int, o *ManagerOptions) {
		if i == 0 {
			return
		}
		o.Logger = slog.New(log)
		o.Interceptors = []Interceptor{{
			ServerRequest: func(ctx context.Context, info *CallInfo, payload []byte, next ServeRequestFunc) ([]byte, error) {
				return next(context.WithValue(ctx, spanKey{}, info.Method), payload)
			},
			ServerStream: func(ctx context.Context, info *StreamInfo, payload []byte, next ServeStreamFunc) error {
				return next(context.WithValue(ctx, spanKey{}, info.Method), payload)
			},
		}}
	})
	there, conn := c.nodes[1], c.conn(0, 1)
	if err := there.Handle("panic.Request", func(context.Context, []byte) ([]byte, error) { panic("oops") }); err != nil {
		t.Fatal(err)
	}
	if err := there.HandleStream("panic.Raw", func(context.Context, *RawStream) error { panic("oops") }); err != nil {
		t.Fatal(err)
	}
	c.stream(t, 0, 1, func(context.Context, []byte, <-chan []byte, chan<- []byte) *RemoteErr { panic("oops") })
	open := map[string]func() (*Stream, error){
		"panic.Raw":         func() (*Stream, error) { return conn.OpenStream(t.Context(), "panic.Raw", nil) },
		testStream.String(): func() (*Stream, error) { return conn.NewStream(t.Context(), testStream, nil) },
	}
	if _, err := conn.Call(t.Context(), "panic.Request", nil); CodeOf(err) != Internal {
		t.Error(err)
	}
	want := []any{"panic.Request"}
	for name, open := range open {
		st, err := open()
		if err != nil {
			t.Fatal(err)
		}
		if err := st.Results(func([]byte) error { return nil }); CodeOf(err) != Internal {
			t.Errorf("%s: %v", name, err)
		}
		want = append(want, name)
	}
	eventually(t, "the lines", func() bool {
		log.mu.Lock()
		defer log.mu.Unlock()
		return len(*log.spans) == len(want)
	})
	for i, got := range *log.spans {
		if got != want[i] {
			t.Errorf("the panic of %v is logged with the context of %v", want[i], got)
		}
	}
}

// labeledGoroutines returns the labels of goroutines that have one of handlers.
func labeledGoroutines(t *testing.T) string {
	t.Helper()
	var b bytes.Buffer
	if err := pprof.Lookup("goroutine").WriteTo(&b, 1); err != nil {
		t.Fatal(err)
	}
	var labels strings.Builder
	for line := range strings.Lines(b.String()) {
		if strings.Contains(line, handlerLabel) {
			labels.WriteString(line)
		}
	}
	return labels.String()
}

// While a handler runs, its goroutine and its context have its name as a label, if that is wanted.
func TestProfileHandlers(t *testing.T) {
	for _, on := range []bool{true, false} {
		c := startCluster(t, 2, func(i int, o *ManagerOptions) {
			o.ProfileHandlers = on
			if i == 1 {
				o.Interceptors = []Interceptor{{
					ServerRequest: func(ctx context.Context, _ *CallInfo, payload []byte, next ServeRequestFunc) ([]byte, error) {
						return next(ctx, payload)
					},
				}}
			}
		})
		there, conn := c.nodes[1], c.conn(0, 1)
		check := func(ctx context.Context, name string) {
			label, ok := "", false
			if ctx != nil {
				label, ok = pprof.Label(ctx, handlerLabel)
			}
			if ctx != nil && ok != on || ok && label != name {
				t.Errorf("profiles are %v: the context of %s has the label %q", on, name, label)
			}
			if got := labeledGoroutines(t); strings.Contains(got, `"`+name+`"`) != on {
				t.Errorf("profiles are %v: while %s runs, the labels are %s", on, name, got)
			}
		}
		c.handle(t, func(ctx context.Context, b []byte) ([]byte, error) {
			check(ctx, testSingle.String())
			return b, nil
		})
		err := there.RegisterSingleHandler(testSingle, func(b []byte) ([]byte, *RemoteErr) {
			check(nil, testSingle.String()+" on subroute plain")
			return b, nil
		}, "plain")
		if err != nil {
			t.Fatal(err)
		}
		err = there.HandleStream("profile.Raw", func(ctx context.Context, _ *RawStream) error {
			check(ctx, "profile.Raw")
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		c.stream(t, 0, 1, func(ctx context.Context, _ []byte, _ <-chan []byte, _ chan<- []byte) *RemoteErr {
			check(ctx, testStream.String())
			return nil
		})
		for range 3 { // on goroutines that are used again
			if _, err := conn.Request(t.Context(), testSingle, nil); err != nil {
				t.Error(err)
			}
			if _, err := conn.Subroute("plain").Request(t.Context(), testSingle, nil); err != nil {
				t.Error(err)
			}
		}
		for _, open := range []func() (*Stream, error){
			func() (*Stream, error) { return conn.OpenStream(t.Context(), "profile.Raw", nil) },
			func() (*Stream, error) { return conn.NewStream(t.Context(), testStream, nil) },
		} {
			st, err := open()
			if err != nil {
				t.Fatal(err)
			}
			if err := st.Results(func([]byte) error { return nil }); err != nil {
				t.Error(err)
			}
		}
		c.waitIdle(t)
		eventually(t, "the labels to be gone", func() bool { return labeledGoroutines(t) == "" })
	}
}

// What labels cost a request.
func BenchmarkProfileHandlers(b *testing.B) {
	h := target{id: testSingle}
	for name, labels := range map[string]context.Context{"off": nil, "on": labelsOf(h)} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				func() {
					if labels != nil {
						defer profiled(labels, h)()
					}
				}()
			}
		})
	}
}
