package gridgrpc

import (
	"context"
	"errors"
	"io"
	"testing"

	"github.com/gridmesh/grid/internal/testkit"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	testpb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// TestTheInputMayEndFirst has a handler answer only once it has all of its input.
func TestTheInputMayEndFirst(t *testing.T) {
	_, client := newTestService(t)
	ctx, cancel := context.WithTimeout(t.Context(), testkit.Patience)
	defer cancel()
	stream, err := client.HalfDuplexCall(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for size := range int32(5) {
		err := stream.Send(&testpb.StreamingOutputCallRequest{ResponseParameters: []*testpb.ResponseParameters{{Size: size}, {Size: size}}})
		if err != nil {
			t.Fatal(err)
		}
	}
	for range 2 {
		if err := stream.CloseSend(); err != nil {
			t.Fatal(err)
		}
	}
	for i := range int32(10) {
		reply, err := stream.Recv()
		if err != nil || len(reply.GetPayload().GetBody()) != int(i/2) {
			t.Errorf("message %d: %v, %v", i, reply, err)
		}
	}
	for range 2 {
		if _, err := stream.Recv(); err != io.EOF {
			t.Errorf("at the end: %v", err)
		}
	}
	if err := stream.CloseSend(); err != nil {
		t.Error(err)
	}
}

func TestNothingIsSentAfterTheEndOfTheInput(t *testing.T) {
	_, client := newTestService(t)
	stream, err := client.FullDuplexCall(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.CloseSend(); err != nil {
		t.Fatal(err)
	}
	if err := stream.Send(new(testpb.StreamingOutputCallRequest)); status.Code(err) != codes.Internal {
		t.Errorf("got %v, want code %v", err, codes.Internal)
	}
}

// TestAHandlerMayReturnEarly wants Send to fail with io.EOF then, and Recv to have the reason.
func TestAHandlerMayReturnEarly(t *testing.T) {
	for _, want := range []error{nil, status.Error(codes.Aborted, "enough")} {
		_, client := serve(t, service{
			duplex: func(testpb.TestService_FullDuplexCallServer) error { return want },
			input: func(stream testpb.TestService_StreamingInputCallServer) error {
				if want != nil {
					return want
				}
				return stream.SendAndClose(&testpb.StreamingInputCallResponse{AggregatedPayloadSize: 5})
			},
		})
		duplex, err := client.FullDuplexCall(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for err == nil {
			err = duplex.Send(&testpb.StreamingOutputCallRequest{Payload: &testpb.Payload{Body: make([]byte, 10_000)}})
		}
		if err != io.EOF {
			t.Errorf("Send: got %v, want %v", err, io.EOF)
		}
		if err := drain(duplex); status.Code(err) != status.Code(want) {
			t.Errorf("Recv: got %v, want %v", err, want)
		}

		input, err := client.StreamingInputCall(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for err == nil {
			err = input.Send(&testpb.StreamingInputCallRequest{Payload: &testpb.Payload{Body: make([]byte, 10_000)}})
		}
		if err != io.EOF {
			t.Errorf("Send: got %v, want %v", err, io.EOF)
		}
		reply, err := input.CloseAndRecv()
		if status.Code(err) != status.Code(want) || want == nil && reply.GetAggregatedPayloadSize() != 5 {
			t.Errorf("CloseAndRecv: got %v, %v, want %v", reply, err, want)
		}
	}
}

// TestOneAnswerIsOne refuses none, and two, where the description of the method says one.
func TestOneAnswerIsOne(t *testing.T) {
	for answers := range 3 {
		_, client := serve(t, service{input: func(stream testpb.TestService_StreamingInputCallServer) error {
			for range answers {
				if err := stream.SendMsg(new(testpb.StreamingInputCallResponse)); err != nil {
					return err
				}
			}
			return nil
		}})
		stream, err := client.StreamingInputCall(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		want := codes.Internal
		if answers == 1 {
			want = codes.OK
		}
		if _, err := stream.CloseAndRecv(); status.Code(err) != want {
			t.Errorf("%d answers: got %v, want code %v", answers, err, want)
		}
	}
}

// TestHeaderWaitsForTheHeader and takes no message from whoever receives then.
func TestHeaderWaitsForTheHeader(t *testing.T) {
	goOn := make(chan struct{})
	_, client := serve(t, service{duplex: func(stream testpb.TestService_FullDuplexCallServer) error {
		if err := stream.SetHeader(metadata.Pairs("a", "1")); err != nil {
			return err
		}
		if err := stream.SendHeader(metadata.Pairs("b", "2")); err != nil {
			return err
		}
		<-goOn
		stream.SetTrailer(metadata.Pairs("c", "3"))
		return stream.Send(&testpb.StreamingOutputCallResponse{Payload: &testpb.Payload{Body: []byte("message")}})
	}})
	stream, err := client.FullDuplexCall(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	headers := make(chan metadata.MD, 2)
	for range 2 {
		go func() {
			header, err := stream.Header()
			if err != nil {
				t.Error(err)
			}
			headers <- header
		}()
	}
	for range 2 {
		if header := <-headers; len(header["a"]) != 1 || len(header["b"]) != 1 {
			t.Errorf("header %v", header)
		}
	}
	close(goOn)
	if reply, err := stream.Recv(); err != nil || string(reply.GetPayload().GetBody()) != "message" {
		t.Errorf("got %v, %v", reply, err)
	}
	if err := drain(stream); err != nil {
		t.Error(err)
	}
	if trailer := stream.Trailer(); len(trailer["c"]) != 1 {
		t.Errorf("trailer %v", trailer)
	}
}

// TestACallerMaySendOnceItHasTheHeader has callers of both kinds of streams with input wait for the header
// before they send anything, and their handlers for what they send. An empty header counts.
func TestACallerMaySendOnceItHasTheHeader(t *testing.T) {
	for name, md := range map[string]metadata.MD{"empty": nil, "some": metadata.Pairs("a", "1")} {
		t.Run(name, func(t *testing.T) {
			_, client := serve(t, service{
				duplex: func(stream testpb.TestService_FullDuplexCallServer) error {
					if err := stream.SendHeader(md); err != nil {
						return err
					}
					if _, err := stream.Recv(); err != nil {
						return err
					}
					return stream.Send(new(testpb.StreamingOutputCallResponse))
				},
				input: func(stream testpb.TestService_StreamingInputCallServer) error {
					if err := grpc.SendHeader(stream.Context(), md); err != nil {
						return err
					}
					if _, err := stream.Recv(); err != nil {
						return err
					}
					return stream.SendAndClose(new(testpb.StreamingInputCallResponse))
				},
			})
			duplex, err := client.FullDuplexCall(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if header, err := duplex.Header(); err != nil || header == nil || len(header["a"]) != len(md) {
				t.Errorf("header %v, %v", header, err)
			}
			if err := duplex.Send(new(testpb.StreamingOutputCallRequest)); err != nil {
				t.Error(err)
			}
			if err := drain(duplex); err != nil {
				t.Error(err)
			}
			input, err := client.StreamingInputCall(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if header, err := input.Header(); err != nil || header == nil || len(header["a"]) != len(md) {
				t.Errorf("header %v, %v", header, err)
			}
			if err := input.Send(new(testpb.StreamingInputCallRequest)); err != nil {
				t.Error(err)
			}
			if _, err := input.CloseAndRecv(); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestHeaderEndsWithItsStream also where no header comes: RecvMsg tells why, unless the caller gave up.
func TestHeaderEndsWithItsStream(t *testing.T) {
	entered := make(chan struct{}, 1)
	_, client := serve(t, service{
		output: func(*testpb.StreamingOutputCallRequest, testpb.TestService_StreamingOutputCallServer) error {
			return status.Error(codes.Aborted, "enough")
		},
		duplex: func(stream testpb.TestService_FullDuplexCallServer) error {
			entered <- struct{}{}
			<-stream.Context().Done()
			return nil
		},
	})
	output, err := client.StreamingOutputCall(t.Context(), new(testpb.StreamingOutputCallRequest))
	if err != nil {
		t.Fatal(err)
	}
	if header, err := output.Header(); err != nil || len(header) > 0 {
		t.Errorf("header %v, %v", header, err)
	}
	if _, err := output.Recv(); status.Code(err) != codes.Aborted {
		t.Errorf("got %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	duplex, err := client.FullDuplexCall(ctx)
	if err != nil {
		t.Fatal(err)
	}
	<-entered
	go cancel()
	if header, err := duplex.Header(); status.Code(err) != codes.Canceled {
		t.Errorf("header %v, %v", header, err)
	}
}

// TestAFirstMessageCarriesTheHeader which the handler has only set.
func TestAFirstMessageCarriesTheHeader(t *testing.T) {
	_, client := serve(t, service{output: func(_ *testpb.StreamingOutputCallRequest, stream testpb.TestService_StreamingOutputCallServer) error {
		if err := stream.SetHeader(metadata.Pairs("a", "1")); err != nil {
			return err
		}
		if err := stream.Send(new(testpb.StreamingOutputCallResponse)); err != nil {
			return err
		}
		if err := stream.SetHeader(metadata.Pairs("a", "2")); err == nil {
			return errors.New("the header was set after the first message")
		}
		<-stream.Context().Done()
		return nil
	}})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	stream, err := client.StreamingOutputCall(ctx, new(testpb.StreamingOutputCallRequest))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); err != nil {
		t.Fatal(err)
	}
	if header, err := stream.Header(); err != nil || len(header["a"]) != 1 {
		t.Errorf("header %v, %v", header, err)
	}
}

// TestAHandlerWithOneRequestGetsNoMore wants io.EOF after it.
func TestAHandlerWithOneRequestGetsNoMore(t *testing.T) {
	_, client := serve(t, service{output: func(_ *testpb.StreamingOutputCallRequest, stream testpb.TestService_StreamingOutputCallServer) error {
		for range 2 {
			if err := stream.RecvMsg(new(testpb.StreamingOutputCallRequest)); err != io.EOF {
				return err
			}
		}
		return nil
	}})
	if err := calls["output"](t.Context(), client); err != nil {
		t.Error(err)
	}
}

// TestAStreamNeedsItsRequest tells misuse that generated code cannot have.
func TestAStreamNeedsItsRequest(t *testing.T) {
	c, _ := newTestService(t)
	desc := &grpc.StreamDesc{StreamName: "StreamingOutputCall", ServerStreams: true}
	stream, err := c.NewStream(t.Context(), desc, testpb.TestService_StreamingOutputCall_FullMethodName)
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.CloseSend(); err != nil {
		t.Error(err)
	}
	if md := stream.Trailer(); len(md) > 0 {
		t.Error(md)
	}
	if _, err := stream.Header(); status.Code(err) != codes.Internal {
		t.Error(err)
	}
	if err := stream.RecvMsg(new(testpb.StreamingOutputCallResponse)); status.Code(err) != codes.Internal {
		t.Error(err)
	}
}
