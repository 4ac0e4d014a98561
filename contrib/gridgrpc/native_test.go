package gridgrpc

import (
	"context"
	"errors"
	"io"
	"testing"

	"github.com/gridmesh/grid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	testpb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// TestACallerMayBeGrids calls services of gRPC with grid's own API.
func TestACallerMayBeGrids(t *testing.T) {
	p := newPair(t)
	testpb.RegisterTestServiceServer(NewServer(p.server), payload())
	answer, err := p.conn.Call(t.Context(), "grpc.testing.TestService/UnaryCall", encode(t, &testpb.SimpleRequest{ResponseSize: 7}))
	if err != nil {
		t.Fatal(err)
	}
	var reply testpb.SimpleResponse
	if err := proto.Unmarshal(answer, &reply); err != nil || len(reply.GetPayload().GetBody()) != 7 {
		t.Errorf("got %v, %v", &reply, err)
	}
	_, err = p.conn.Call(t.Context(), "grpc.testing.TestService/UnaryCall", []byte{0xff})
	if e, ok := errors.AsType[*grid.Error](err); !ok || !e.Remote || !errors.Is(err, grid.Internal) {
		t.Errorf("got %v", err)
	}

	stream, err := p.conn.OpenStream(t.Context(), "grpc.testing.TestService/FullDuplexCall", nil)
	if err != nil {
		t.Fatal(err)
	}
	err = stream.Send(encode(t, &testpb.StreamingOutputCallRequest{ResponseParameters: []*testpb.ResponseParameters{{Size: 1}, {Size: 2}}}))
	if err != nil {
		t.Fatal(err)
	}
	for size := range 2 {
		b, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		var reply testpb.StreamingOutputCallResponse
		if err := proto.Unmarshal(b, &reply); err != nil || len(reply.GetPayload().GetBody()) != size+1 {
			t.Errorf("got %v, %v", &reply, err)
		}
	}
}

// TestAHandlerMayBeGrids has a client of gRPC call handlers of grid's own API.
func TestAHandlerMayBeGrids(t *testing.T) {
	p := newPair(t)
	err := p.server.Handle("grpc.testing.TestService/UnaryCall", func(ctx context.Context, payload []byte) ([]byte, error) {
		if err := grid.SetTrailer(ctx, grid.Metadata{"Where": {"here"}}); err != nil {
			return nil, err
		}
		if len(payload) == 0 {
			return nil, grid.Errorf(grid.FailedPrecondition, "%w", errors.New("nothing to do"))
		}
		return payload[:0], nil
	})
	if err != nil {
		t.Fatal(err)
	}
	err = p.server.HandleStream("grpc.testing.TestService/FullDuplexCall", func(_ context.Context, stream *grid.RawStream) error {
		for {
			b, err := stream.Recv()
			if err == io.EOF {
				stream.CloseSend() // the outcome comes after it
				return grid.NewError(grid.Aborted, "enough")
			} else if err != nil {
				return err
			}
			if err := stream.Send(b); err != nil {
				return err
			}
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	client := testpb.NewTestServiceClient(NewClient(p.conn))
	var trailer metadata.MD
	_, err = client.UnaryCall(t.Context(), &testpb.SimpleRequest{ResponseSize: 1}, grpc.Trailer(&trailer))
	if err != nil || len(trailer.Get("where")) != 1 {
		t.Errorf("got %v, trailer %v", err, trailer)
	}
	_, err = client.UnaryCall(t.Context(), new(testpb.SimpleRequest))
	if st := status.Convert(err); st.Code() != codes.FailedPrecondition || st.Message() != "nothing to do" {
		t.Errorf("got %v", err)
	}

	stream, err := client.FullDuplexCall(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Send(new(testpb.StreamingOutputCallRequest)); err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); err != nil {
		t.Error(err)
	}
	if err := stream.CloseSend(); err != nil {
		t.Error(err)
	}
	if err := drain(stream); status.Code(err) != codes.Aborted {
		t.Errorf("got %v, want code %v", err, codes.Aborted)
	}
}

func encode(t *testing.T, m proto.Message) []byte {
	t.Helper()
	b, err := proto.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestErrorsOfTheGridHaveCodes where no handler has returned them.
func TestErrorsOfTheGridHaveCodes(t *testing.T) {
	p := newPair(t)
	client := testpb.NewTestServiceClient(NewClient(p.conn))
	want := func(want codes.Code) {
		t.Helper()
		for kind, call := range calls {
			if err := call(t.Context(), client); status.Code(err) != want {
				t.Errorf("%s: got %v, want code %v", kind, err, want)
			}
		}
	}
	want(codes.Unimplemented)
	testpb.RegisterTestServiceServer(NewServer(p.server), returning(func(context.Context) error { panic("as asked") }))
	want(codes.Internal)
	p.server.Close()
	want(codes.Unavailable)
	none := testpb.NewTestServiceClient(NewClient(nil))
	if _, err := none.UnaryCall(t.Context(), new(testpb.SimpleRequest)); status.Code(err) != codes.Unavailable {
		t.Errorf("got %v, want code %v", err, codes.Unavailable)
	}
}
