package grid

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gorilla/mux"
)

func TestWrongOptionsAreNamedAndNothingIsStarted(t *testing.T) {
	before := len(ownGoroutines())
	accept := func(*http.Request) error { return nil }
	const a, b = "http://a:1", "http://b:1"
	for _, test := range []struct {
		name  string
		o     ManagerOptions
		names string
	}{
		{"no AuthRequest", ManagerOptions{Local: a, Hosts: []string{a, b}}, "AuthRequest"},
		{"no Local", ManagerOptions{Hosts: []string{a, b}, AuthRequest: accept}, "Local"},
		{"Local not among Hosts", ManagerOptions{Local: "http://c:1", Hosts: []string{a, b}, AuthRequest: accept}, "http://c:1"},
		{"neither Local nor Hosts", ManagerOptions{AuthRequest: accept}, "Local"},
		{"a negative RemovalGrace", ManagerOptions{Local: a, AuthRequest: accept, RemovalGrace: -1}, "RemovalGrace"},
		{"Local twice", ManagerOptions{Local: a, Hosts: []string{a, b, a}, AuthRequest: accept}, a},
		{"a host twice", ManagerOptions{Local: a, Hosts: []string{a, b, b}, AuthRequest: accept}, b},
		{"an empty host", ManagerOptions{Local: a, Hosts: []string{a, ""}, AuthRequest: accept}, "Hosts[1]"},
		{"a host without scheme", ManagerOptions{Local: a, Hosts: []string{a, "b:1"}, AuthRequest: accept}, "b:1"},
		{"a host with another scheme", ManagerOptions{Local: a, Hosts: []string{a, "ftp://b"}, AuthRequest: accept}, "ftp://b"},
		{"a host with a path", ManagerOptions{Local: a, Hosts: []string{a, b + "/x"}, AuthRequest: accept}, b + "/x"},
		{"a host that is no URL", ManagerOptions{Local: a, Hosts: []string{a, "http://[::1"}, AuthRequest: accept}, "http://[::1"},
		{"a route path without slash", ManagerOptions{Local: a, Hosts: []string{a, b}, AuthRequest: accept, RoutePath: "grid"}, "RoutePath"},
		{"a negative time to poll", ManagerOptions{Local: a, Hosts: []string{a, b}, AuthRequest: accept, BusyPoll: -1}, "BusyPoll: -1ns"},
		{"a long time to poll", ManagerOptions{Local: a, Hosts: []string{a, b}, AuthRequest: accept, BusyPoll: time.Second}, "BusyPoll: 1s"},
		{"a tiny limit", ManagerOptions{Local: a, Hosts: []string{a, b}, AuthRequest: accept, Limits: Limits{MaxMessageSize: 10}}, "MaxMessageSize"},
		{"a negative limit", ManagerOptions{Local: a, Hosts: []string{a, b}, AuthRequest: accept, Limits: Limits{MaxMessageSize: -1}}, "MaxMessageSize"},
	} {
		test.o.Dialer = func(context.Context, string, string) (net.Conn, error) {
			t.Errorf("%s: dialed", test.name)
			return nil, io.EOF
		}
		m, err := NewManager(t.Context(), test.o)
		if err == nil || m != nil || !strings.Contains(err.Error(), test.names) {
			t.Errorf("%s: got %v", test.name, err)
		}
	}
	var none context.Context
	if _, err := NewManager(none, ManagerOptions{Local: a, Hosts: []string{a}, AuthRequest: accept}); err == nil {
		t.Error("a nil context was taken")
	}
	if n := len(ownGoroutines()); n > before {
		t.Errorf("%d goroutines were started", n-before)
	}
}

func TestNilReceiversAreNeverConnected(t *testing.T) {
	ctx := t.Context()
	var c *Connection
	var sub *Subroute
	var st *Stream
	var m *Manager
	never := func([]byte) error { t.Error("called"); return nil }
	request := func(r Requester) error { _, err := r.Request(ctx, testSingle, nil); return err }
	stream := func(s Streamer) error { _, err := s.NewStream(ctx, testStream, nil); return err }
	all := func() (err error) {
		for _, e := range st.All() {
			err = e
		}
		return err
	}
	for name, err := range map[string]error{
		"Connection.Request":            request(c),
		"Connection.NewStream":          stream(c),
		"Connection.WaitForConnect":     c.WaitForConnect(ctx),
		"Connection.Subroute.Request":   request(c.Subroute("a").Subroute("b")),
		"Connection.Subroute.NewStream": stream(c.Subroute("a")),
		"Subroute.Request":              request(sub),
		"Subroute.NewStream":            stream(sub),
		"Subroute.WaitForConnect":       sub.WaitForConnect(ctx),
		"an empty Subroute's Request":   request(&Subroute{}),
		"Stream.Send":                   st.Send(nil),
		"Stream.Results":                st.Results(never),
		"Stream.All":                    all(),
		"a nil Manager's connection":    request(m.Connection("http://a:1")),
	} {
		if !errors.Is(err, ErrDisconnected) {
			t.Errorf("%s: got %v", name, err)
		}
	}
	if c.State() != StateUnconnected || sub.State() != StateUnconnected {
		t.Error("a nil connection has a state")
	}
	if c.Stats() != (ConnectionStats{}) || sub.Stats() != (ConnectionStats{}) {
		t.Error("a nil connection counts something")
	}
	for _, s := range []string{c.String(), c.StringReverse(), sub.String(), sub.StringReverse()} {
		if s != "<nil>" {
			t.Errorf("a nil connection is called %q", s)
		}
	}
	if m.HostName() != "" || m.Targets() != nil || m.Close() != nil || m.Shutdown(ctx) != nil {
		t.Error("a nil Manager does something")
	}
	if err := m.RegisterSingleHandler(testSingle, func(b []byte) ([]byte, *RemoteErr) { return b, nil }); err == nil {
		t.Error("a nil Manager took a handler")
	}
	if err := m.RegisterStreamingHandler(testStream, StreamHandler{Handle: echoBack}); err == nil {
		t.Error("a nil Manager took a stream handler")
	}
}

// Also methods that one type has from another are safe.
func TestNoMethodOfANilReceiverPanics(t *testing.T) {
	for _, receiver := range []any{(*Manager)(nil), (*Connection)(nil), (*Subroute)(nil), (*Stream)(nil), (*TypedStream[*note, *note])(nil)} {
		v := reflect.ValueOf(receiver)
		for i := range v.NumMethod() {
			method := v.Type().Method(i)
			args := []reflect.Value{v}
			for k := 1; k < method.Type.NumIn(); k++ {
				arg := reflect.Zero(method.Type.In(k))
				if arg.Type() == reflect.TypeFor[*mux.Router]() {
					arg = reflect.ValueOf(mux.NewRouter())
				}
				args = append(args, arg)
			}
			func() {
				defer func() {
					if r := recover(); r != nil {
						t.Errorf("%v.%s panics: %v", v.Type(), method.Name, r)
					}
				}()
				if method.Type.IsVariadic() {
					method.Func.CallSlice(args)
				} else {
					method.Func.Call(args)
				}
			}()
		}
	}
}

func TestANilManagerAnswersThatItIsUnavailable(t *testing.T) {
	var m *Manager
	router := mux.NewRouter()
	m.AddToMux(router)
	for name, h := range map[string]http.Handler{"Handler": m.Handler(), "AddToMux": router} {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, RoutePath, nil))
		if w.Code != http.StatusServiceUnavailable {
			t.Errorf("%s: answered with %d", name, w.Code)
		}
	}
}

func TestUseAfterTheEndGivesErrShutdown(t *testing.T) {
	for name, end := range map[string]func(n *testNode, cancel func()) error{
		"Close":    func(n *testNode, _ func()) error { return n.Close() },
		"Shutdown": func(n *testNode, _ func()) error { return n.Shutdown(context.Background()) },
		"the end of NewManager's context": func(_ *testNode, cancel func()) error {
			cancel()
			return nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			c := newTCPPair(t)
			ctx, cancel := context.WithCancel(context.Background())
			defer cancel()
			n := c.nodes[0]
			c.startNodeContext(ctx, t, n, func(*ManagerOptions) {})
			c.startNode(t, c.nodes[1], func(*ManagerOptions) {})
			c.waitConnected(t)
			c.stream(t, 0, 1, count)
			if err := end(n, cancel); err != nil {
				t.Error(err)
			}
			conn := c.conn(0, 1)
			eventually(t, "the end", func() bool { return conn.State() == StateShutdown })
			within(t, "use after the end", func() {
				if _, err := conn.Request(t.Context(), testSingle, nil); !errors.Is(err, ErrShutdown) {
					t.Errorf("a request got %v", err)
				}
				if _, err := conn.NewStream(t.Context(), testStream, nil); !errors.Is(err, ErrShutdown) {
					t.Errorf("a stream got %v", err)
				}
				if err := conn.WaitForConnect(t.Context()); !errors.Is(err, ErrShutdown) {
					t.Errorf("WaitForConnect got %v", err)
				}
				if err := errors.Join(n.Close(), n.Shutdown(t.Context()), n.Close()); err != nil {
					t.Errorf("a second end got %v", err)
				}
			})
			c.nodes[1].Close()
			waitGoroutines(t, 0)
		})
	}
}

func TestAManagerMayBeMadeWithAContextThatIsOver(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	for range 50 {
		c := newTCPPair(t)
		c.startNodeContext(ctx, t, c.nodes[0], func(*ManagerOptions) {})
		within(t, "Close", func() { c.nodes[0].Close() })
		if st := c.conn(0, 1).State(); st != StateShutdown {
			t.Fatalf("the state is %v", st)
		}
	}
	waitGoroutines(t, 0)
}

func TestShutdownWaitsForWhatRunsAndRefusesTheRest(t *testing.T) {
	c := startCluster(t, 2, nil)
	entered, release := make(chan struct{}), make(chan struct{})
	c.handle(t, func(_ context.Context, payload []byte) ([]byte, error) {
		entered <- struct{}{}
		<-release
		return payload, nil
	})
	c.stream(t, 0, 1, func(_ context.Context, _ []byte, _ <-chan []byte, out chan<- []byte) *RemoteErr {
		entered <- struct{}{}
		<-release
		out <- []byte("done")
		return nil
	})
	here, there := c.conn(0, 1), c.conn(1, 0)
	var running sync.WaitGroup
	running.Go(func() {
		if got, err := there.Request(t.Context(), testSingle, []byte("done")); err != nil || string(got) != "done" {
			t.Errorf("a request that ran got %q, %v", got, err)
		}
	})
	running.Go(func() {
		st, err := there.NewStream(t.Context(), testStream, nil)
		if err != nil {
			t.Error(err)
			return
		}
		n := 0
		if err := st.Results(func([]byte) error { n++; return nil }); err != nil || n != 1 {
			t.Errorf("a stream that ran got %d messages and %v", n, err)
		}
	})
	<-entered
	<-entered
	ends := make(chan error, 3)
	for range cap(ends) {
		go func() { ends <- c.nodes[0].Shutdown(context.Background()) }()
	}
	eventually(t, "the shutdown to begin", func() bool { return here.active.stopped() })
	calls := map[string]func() error{
		"a request from here":  func() error { _, err := here.Request(t.Context(), testSingle, nil); return err },
		"a stream from here":   func() error { _, err := here.NewStream(t.Context(), testStream, nil); return err },
		"a request from there": func() error { _, err := there.Request(t.Context(), testSingle, nil); return err },
		"a stream from there": func() error {
			st, err := there.NewStream(t.Context(), testStream, nil)
			if err != nil {
				return err
			}
			return st.Results(func([]byte) error { return nil })
		},
	}
	for name, call := range calls {
		if err := call(); !errors.Is(err, ErrShutdown) {
			t.Errorf("%s got %v", name, err)
		}
	}
	if len(ends) != 0 {
		t.Error("Shutdown did not wait")
	}
	close(release)
	within(t, "Shutdown", func() {
		running.Wait()
		for range cap(ends) {
			if err := <-ends; err != nil {
				t.Error(err)
			}
		}
	})
	c.nodes[1].Close()
	waitGoroutines(t, 0)
}

// A node that leaves on purpose loses nothing, and says so at both ends.
func TestShutdownIsNoLossInTheLog(t *testing.T) {
	c := startCluster(t, 3, nil)
	if err := c.nodes[0].Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
	eventually(t, "the peers to have noticed", func() bool {
		return c.nodes[1].log.count("connection closed") == 1 && c.nodes[2].log.count("connection closed") == 1
	})
	for i, want := range []int{2, 1, 1} {
		if log := c.nodes[i].log; log.count("connection lost") > 0 || log.count("connection closed") != want {
			t.Errorf("node %d logs\n%s", i, log)
		}
	}
}

func TestShutdownGivesUpWithItsContext(t *testing.T) {
	c := startCluster(t, 2, nil)
	entered := make(chan struct{})
	c.handle(t, func(ctx context.Context, _ []byte) ([]byte, error) {
		close(entered)
		<-ctx.Done()
		return nil, nil
	})
	done := make(chan error, 2)
	go func() {
		_, err := c.conn(1, 0).Request(t.Context(), testSingle, nil)
		done <- err
	}()
	<-entered
	ctx, cancel := context.WithCancelCause(t.Context())
	hurry := errors.New("hurry")
	cancel(hurry)
	within(t, "Shutdown", func() {
		if err := c.nodes[0].Shutdown(ctx); err != hurry {
			t.Errorf("got %v", err)
		}
		if err := <-done; !errors.Is(err, ErrDisconnected) {
			t.Errorf("the caller got %v", err)
		}
	})
	c.nodes[1].Close()
	waitGoroutines(t, 0)
}
