package griddrpc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"

	"github.com/gridmesh/grid"
	"github.com/gridmesh/grid/contrib/griddrpc/internal/testpb"
	"google.golang.org/protobuf/proto"
	"storj.io/drpc"
	"storj.io/drpc/drpcconn"
	"storj.io/drpc/drpcerr"
	"storj.io/drpc/drpcmetadata"
	"storj.io/drpc/drpcmux"
	"storj.io/drpc/drpcserver"
)

// service is a service whose methods are functions of a test.
type service struct {
	testpb.DRPCTestUnimplementedServer

	unary  func(context.Context, *testpb.Message) (*testpb.Message, error)
	output func(*testpb.Message, testpb.DRPCTest_OutputStream) error
	input  func(testpb.DRPCTest_InputStream) error
	duplex func(testpb.DRPCTest_DuplexStream) error
}

func (s service) Unary(ctx context.Context, in *testpb.Message) (*testpb.Message, error) {
	if s.unary == nil {
		return s.DRPCTestUnimplementedServer.Unary(ctx, in)
	}
	return s.unary(ctx, in)
}

func (s service) Output(in *testpb.Message, st testpb.DRPCTest_OutputStream) error {
	return s.output(in, st)
}

func (s service) Input(st testpb.DRPCTest_InputStream) error { return s.input(st) }

func (s service) Duplex(st testpb.DRPCTest_DuplexStream) error { return s.duplex(st) }

// both runs a test over drpc itself, and over a grid, with the same code.
func both(t *testing.T, s service, test func(t *testing.T, client testpb.DRPCTestClient)) {
	t.Helper()
	t.Run("drpc", func(t *testing.T) { test(t, testpb.NewDRPCTestClient(overDRPC(t, s))) })
	t.Run("grid", func(t *testing.T) { test(t, testpb.NewDRPCTestClient(overGrid(t, s))) })
}

func overDRPC(t testing.TB, s service) drpc.Conn {
	t.Helper()
	mux := drpcmux.New()
	check(t, testpb.DRPCRegisterTest(mux, s))
	l, err := net.Listen("tcp", "127.0.0.1:0")
	check(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error)
	go func() { served <- drpcserver.New(mux).Serve(ctx, l) }()
	client, err := net.Dial("tcp", l.Addr().String())
	check(t, err)
	conn := drpcconn.New(client)
	t.Cleanup(func() {
		_ = conn.Close()
		cancel()
		check(t, <-served)
	})
	return conn
}

func overGrid(t testing.TB, s service) *Conn {
	t.Helper()
	node, conn := newNodes(t)
	check(t, testpb.DRPCRegisterTest(NewMux(node), s))
	return NewConn(conn)
}

// newNodes returns a node, and a connection to it from another.
func newNodes(t testing.TB) (*grid.Manager, *grid.Connection) {
	t.Helper()
	nodes, err := grid.SetupTestGrid(2)
	check(t, err)
	t.Cleanup(nodes.Cleanup)
	return nodes.Managers[0], nodes.Managers[1].Connection(nodes.Hosts[0])
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func message(text string) *testpb.Message { return &testpb.Message{Text: text} }

func TestCallsOfAllKinds(t *testing.T) {
	s := service{
		unary: func(_ context.Context, in *testpb.Message) (*testpb.Message, error) {
			return message("to " + in.GetText()), nil
		},
		output: func(in *testpb.Message, st testpb.DRPCTest_OutputStream) error {
			for i := range in.GetNumber() {
				if err := st.Send(&testpb.Message{Number: i}); err != nil {
					return err
				}
			}
			return nil
		},
		input: func(st testpb.DRPCTest_InputStream) error {
			sum := new(testpb.Message)
			for {
				m, err := st.Recv()
				switch err {
				case nil:
					sum.Number += m.GetNumber()
				case io.EOF:
					return st.SendAndClose(sum)
				default:
					return err
				}
			}
		},
		duplex: func(st testpb.DRPCTest_DuplexStream) error {
			for {
				m, err := st.Recv()
				if err == io.EOF {
					return st.Send(message("the end"))
				} else if err != nil {
					return err
				}
				if err := st.Send(m); err != nil {
					return err
				}
			}
		},
	}
	large := strings.Repeat("x", 100_000)
	both(t, s, func(t *testing.T, client testpb.DRPCTestClient) {
		for _, text := range []string{"", "you", large} {
			if out, err := client.Unary(t.Context(), message(text)); err != nil || out.GetText() != "to "+text {
				t.Errorf("got %v, %v", out, err)
			}
		}

		output, err := client.Output(t.Context(), &testpb.Message{Number: 100})
		check(t, err)
		for i := range int64(100) {
			if m, err := output.Recv(); err != nil || m.GetNumber() != i {
				t.Errorf("got %v, %v", m, err)
			}
		}
		if _, err := output.Recv(); !errors.Is(err, io.EOF) {
			t.Errorf("after the last: %v", err)
		}
		check(t, output.Close())

		input, err := client.Input(t.Context())
		check(t, err)
		for range 100 {
			check(t, input.Send(&testpb.Message{Number: 2}))
		}
		if m, err := input.CloseAndRecv(); err != nil || m.GetNumber() != 200 {
			t.Errorf("got %v, %v", m, err)
		}
		<-input.Context().Done() // though nobody has received io.EOF
		check(t, input.Close())

		duplex, err := client.Duplex(t.Context())
		check(t, err)
		for _, text := range []string{"a", "", large} {
			check(t, duplex.Send(message(text)))
			if m, err := duplex.Recv(); err != nil || m.GetText() != text {
				t.Errorf("got %v, %v", m, err)
			}
		}
		check(t, duplex.CloseSend())
		if m, err := duplex.Recv(); err != nil || m.GetText() != "the end" {
			t.Errorf("got %v, %v", m, err)
		}
		if _, err := duplex.Recv(); !errors.Is(err, io.EOF) {
			t.Errorf("after the last: %v", err)
		}
		check(t, duplex.Close())
	})
}

func TestErrorsHaveTheirTextAndCode(t *testing.T) {
	for _, code := range []uint64{0, 1, 2, 5, 12, 16, 17, 1 << 60} {
		failed := drpcerr.WithCode(fmt.Errorf("no key: %w", errors.New("as asked")), code)
		s := service{
			unary:  func(context.Context, *testpb.Message) (*testpb.Message, error) { return nil, failed },
			output: func(*testpb.Message, testpb.DRPCTest_OutputStream) error { return failed },
			input:  func(testpb.DRPCTest_InputStream) error { return failed },
			duplex: func(st testpb.DRPCTest_DuplexStream) error {
				if err := st.Send(message("first")); err != nil {
					return err
				}
				return failed
			},
		}
		both(t, s, func(t *testing.T, client testpb.DRPCTestClient) {
			same := func(err error) {
				t.Helper()
				if err == nil || err.Error() != "no key: as asked" || drpcerr.Code(err) != code {
					t.Errorf("got %v with code %d, want code %d", err, drpcerr.Code(err), code)
				}
			}
			_, err := client.Unary(t.Context(), message(""))
			same(err)
			output, err := client.Output(t.Context(), message(""))
			check(t, err)
			_, err = output.Recv()
			same(err)
			input, err := client.Input(t.Context())
			check(t, err)
			_, err = input.CloseAndRecv()
			same(err)
			duplex, err := client.Duplex(t.Context())
			check(t, err)
			if m, err := duplex.Recv(); err != nil || m.GetText() != "first" {
				t.Errorf("got %v, %v", m, err)
			}
			_, err = duplex.Recv()
			same(err)
		})
	}
}

func TestAMethodWithoutAnImplementation(t *testing.T) {
	both(t, service{}, func(t *testing.T, client testpb.DRPCTestClient) {
		if _, err := client.Unary(t.Context(), message("")); drpcerr.Code(err) != drpcerr.Unimplemented {
			t.Errorf("got %v", err)
		}
	})
}

func TestMetadata(t *testing.T) {
	s := service{unary: func(ctx context.Context, in *testpb.Message) (*testpb.Message, error) {
		md, _ := drpcmetadata.Get(ctx)
		return message(fmt.Sprint(md)), nil
	}, duplex: func(st testpb.DRPCTest_DuplexStream) error {
		md, _ := drpcmetadata.Get(st.Context())
		return st.Send(message(fmt.Sprint(md)))
	}}
	both(t, s, func(t *testing.T, client testpb.DRPCTestClient) {
		for _, pairs := range []map[string]string{nil, {"a": "1", "B": "\x00"}} {
			ctx := drpcmetadata.AddPairs(t.Context(), pairs)
			want := fmt.Sprint(pairs)
			if m, err := client.Unary(ctx, message("")); err != nil || m.GetText() != want {
				t.Errorf("got %q, %v, want %q", m.GetText(), err, want)
			}
			st, err := client.Duplex(ctx)
			check(t, err)
			if m, err := st.Recv(); err != nil || m.GetText() != want {
				t.Errorf("got %q, %v, want %q", m.GetText(), err, want)
			}
			check(t, st.Close())
		}
	})
}

// TestCanceledCalls end at both ends.
func TestCanceledCalls(t *testing.T) {
	ended := make(chan error, 1)
	began := make(chan struct{}, 1)
	wait := func(ctx context.Context) error {
		began <- struct{}{}
		<-ctx.Done()
		ended <- ctx.Err()
		return ctx.Err()
	}
	s := service{
		unary:  func(ctx context.Context, _ *testpb.Message) (*testpb.Message, error) { return nil, wait(ctx) },
		duplex: func(st testpb.DRPCTest_DuplexStream) error { return wait(st.Context()) },
	}
	for name, call := range map[string]func(ctx context.Context, client testpb.DRPCTestClient) error{
		"unary": func(ctx context.Context, client testpb.DRPCTestClient) error {
			_, err := client.Unary(ctx, message(""))
			return err
		},
		"duplex": func(ctx context.Context, client testpb.DRPCTestClient) error {
			st, err := client.Duplex(ctx)
			if err != nil {
				return err
			}
			_, err = st.Recv()
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			both(t, s, func(t *testing.T, client testpb.DRPCTestClient) {
				ctx, cancel := context.WithCancelCause(t.Context())
				defer cancel(nil)
				go func() {
					<-began
					cancel(errors.New("a cause"))
				}()
				if err := call(ctx, client); !errors.Is(err, context.Canceled) {
					t.Errorf("the caller got %v", err)
				}
				if err := <-ended; !errors.Is(err, context.Canceled) {
					t.Errorf("the handler got %v", err)
				}
			})
		})
	}
}

// TestAClosedStreamEnds at both ends.
func TestAClosedStreamEnds(t *testing.T) {
	ended := make(chan struct{})
	s := service{duplex: func(st testpb.DRPCTest_DuplexStream) error {
		if err := st.Send(message("first")); err != nil {
			return err
		}
		_, err := st.Recv()
		<-st.Context().Done()
		ended <- struct{}{}
		return err
	}}
	both(t, s, func(t *testing.T, client testpb.DRPCTestClient) {
		st, err := client.Duplex(t.Context())
		check(t, err)
		_, err = st.Recv()
		check(t, err)
		check(t, st.Close())
		<-ended
		<-st.Context().Done()
		if _, err := st.Recv(); err == nil {
			t.Error("received after Close")
		}
		if err := st.Send(message("")); err == nil {
			t.Error("sent after Close")
		}
	})
}

// TestSendingToAHandlerThatHasReturned ends with io.EOF, and the reason comes from receiving.
func TestSendingToAHandlerThatHasReturned(t *testing.T) {
	s := service{duplex: func(testpb.DRPCTest_DuplexStream) error { return errors.New("enough") }}
	both(t, s, func(t *testing.T, client testpb.DRPCTestClient) {
		st, err := client.Duplex(t.Context())
		check(t, err)
		for err == nil {
			err = st.Send(message("more"))
		}
		if !errors.Is(err, io.EOF) {
			t.Errorf("got %v", err)
		}
		if _, err := st.Recv(); err == nil || err.Error() != "enough" {
			t.Errorf("got %v", err)
		}
	})
}

// TestManyAtOnce, which one connection of drpc does not have.
func TestManyAtOnce(t *testing.T) {
	s := service{duplex: func(st testpb.DRPCTest_DuplexStream) error {
		m, err := st.Recv()
		if err != nil {
			return err
		}
		return st.Send(m)
	}}
	client := testpb.NewDRPCTestClient(overGrid(t, s))
	streams := make([]testpb.DRPCTest_DuplexClient, 50)
	for i := range streams {
		var err error
		streams[i], err = client.Duplex(t.Context())
		check(t, err)
	}
	for i, st := range streams {
		check(t, st.Send(&testpb.Message{Number: int64(i)}))
		if m, err := st.Recv(); err != nil || m.GetNumber() != int64(i) {
			t.Errorf("got %v, %v", m, err)
		}
		if _, err := st.Recv(); err != io.EOF {
			t.Errorf("got %v", err)
		}
		check(t, st.Close())
	}
}

func TestAClosedConn(t *testing.T) {
	conn := overGrid(t, service{})
	client := testpb.NewDRPCTestClient(conn)
	check(t, conn.Close())
	check(t, conn.Close())
	<-conn.Closed()
	if _, err := client.Unary(t.Context(), message("")); !drpc.ClosedError.Has(err) {
		t.Errorf("got %v", err)
	}
	if _, err := client.Duplex(t.Context()); !drpc.ClosedError.Has(err) {
		t.Errorf("got %v", err)
	}
}

func TestErrorsOfTheGrid(t *testing.T) {
	node, conn := newNodes(t)
	client := testpb.NewDRPCTestClient(NewConn(conn))
	if _, err := client.Unary(t.Context(), message("")); !errors.Is(err, grid.ErrUnknownHandler) {
		t.Errorf("got %v", err)
	}
	check(t, testpb.DRPCRegisterTest(NewMux(node), service{unary: func(context.Context, *testpb.Message) (*testpb.Message, error) {
		return nil, nil
	}}))
	if _, err := client.Unary(t.Context(), message("")); !errors.Is(err, grid.Internal) {
		t.Errorf("got %v", err)
	}
	if err := testpb.DRPCRegisterTest(NewMux(node), service{}); !errors.Is(err, grid.ErrHandlerAlreadyExists) {
		t.Errorf("got %v", err)
	}
	none := testpb.NewDRPCTestClient(NewConn(nil))
	if _, err := none.Unary(t.Context(), message("")); !errors.Is(err, grid.ErrDisconnected) {
		t.Errorf("got %v", err)
	}
}

// TestTheOtherEndMayBeGrids calls a service of drpc with grid's own API.
func TestTheOtherEndMayBeGrids(t *testing.T) {
	node, conn := newNodes(t)
	mux := NewMux(node)
	wrapped := 0
	mux.Wrap = func(h drpc.Handler) drpc.Handler { wrapped++; return h }
	check(t, testpb.DRPCRegisterTest(mux, service{unary: func(_ context.Context, in *testpb.Message) (*testpb.Message, error) {
		return in, nil
	}}))
	b, err := proto.Marshal(message("hello"))
	check(t, err)
	answer, err := conn.Call(t.Context(), "griddrpc.test.Test/Unary", b)
	if err != nil || string(answer) != string(b) {
		t.Errorf("got %q, %v", answer, err)
	}
	if wrapped != 1 {
		t.Errorf("wrapped %d times", wrapped)
	}
}
