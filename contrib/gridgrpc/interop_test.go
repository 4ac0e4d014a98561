package gridgrpc

import (
	"context"
	"fmt"
	"io"
	"os"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/grpclog"
	"google.golang.org/grpc/interop"
	testpb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// fatalPanics makes a panic of what would end the process: the interop cases fail that way.
type fatalPanics struct{ grpclog.LoggerV2 }

func (fatalPanics) Fatal(args ...any)                 { panic(fmt.Sprint(args...)) }
func (fatalPanics) Fatalln(args ...any)               { panic(fmt.Sprintln(args...)) }
func (fatalPanics) Fatalf(format string, args ...any) { panic(fmt.Sprintf(format, args...)) }

func TestMain(m *testing.M) {
	grpclog.SetLoggerV2(fatalPanics{grpclog.NewLoggerV2(io.Discard, io.Discard, io.Discard)})
	os.Exit(m.Run())
}

// newTestService returns a client of the server of the interop tests.
func newTestService(t *testing.T) (*Client, testpb.TestServiceClient) {
	t.Helper()
	p := newPair(t)
	testpb.RegisterTestServiceServer(NewServer(p.server), interop.NewTestServer())
	c := NewClient(p.conn)
	return c, testpb.NewTestServiceClient(c)
}

// TestInterop runs the cases of gRPC's interop-test-descriptions.md that are about calls. The others
// are about HTTP/2, compression, load balancing, and credentials of clouds.
func TestInterop(t *testing.T) {
	type call func(context.Context, testpb.TestServiceClient, ...grpc.CallOption)
	for name, run := range map[string]call{
		"empty_unary":                 interop.DoEmptyUnaryCall,
		"large_unary":                 interop.DoLargeUnaryCall,
		"client_streaming":            interop.DoClientStreaming,
		"server_streaming":            interop.DoServerStreaming,
		"ping_pong":                   interop.DoPingPong,
		"empty_stream":                interop.DoEmptyStream,
		"timeout_on_sleeping_server":  interop.DoTimeoutOnSleepingServer,
		"cancel_after_begin":          interop.DoCancelAfterBegin,
		"cancel_after_first_response": interop.DoCancelAfterFirstResponse,
		"status_code_and_message":     interop.DoStatusCodeAndMessage,
		"special_status_message":      interop.DoSpecialStatusMessage,
		"custom_metadata":             interop.DoCustomMetadata,
	} {
		t.Run(name, func(t *testing.T) {
			_, client := newTestService(t)
			defer failOnPanic(t)
			run(t.Context(), client)
		})
	}
	t.Run("unimplemented_method", func(t *testing.T) { // DoUnimplementedMethod wants a *grpc.ClientConn
		c, _ := newTestService(t)
		var req, reply proto.Message
		err := c.Invoke(t.Context(), "/grpc.testing.TestService/UnimplementedCall", req, reply)
		if status.Code(err) != codes.Unimplemented {
			t.Errorf("got %v, want code %v", err, codes.Unimplemented)
		}
	})
	t.Run("unimplemented_service", func(t *testing.T) {
		c, _ := newTestService(t)
		defer failOnPanic(t)
		interop.DoUnimplementedService(t.Context(), testpb.NewUnimplementedServiceClient(c))
	})
	t.Run("rpc_soak", func(t *testing.T) {
		_, client := newTestService(t)
		soak(t, client, 10, 20)
	})
}

func failOnPanic(t *testing.T) {
	if r := recover(); r != nil {
		t.Error(r)
	}
}

// soak makes large unary calls one after the other, with several callers: interop.DoSoakTest, which
// wants a *grpc.ClientConn.
func soak(t *testing.T, client testpb.TestServiceClient, callers, calls int) {
	const requestSize, responseSize = 271828, 314159
	var wg sync.WaitGroup
	for range callers {
		wg.Go(func() {
			for range calls {
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				var p peer.Peer
				reply, err := client.UnaryCall(ctx, &testpb.SimpleRequest{
					ResponseType: testpb.PayloadType_COMPRESSABLE,
					ResponseSize: responseSize,
					Payload:      interop.ClientNewPayload(testpb.PayloadType_COMPRESSABLE, requestSize),
				}, grpc.Peer(&p))
				if err != nil {
					t.Errorf("peer %v: %v", p.Addr, err)
					return
				}
				if got := len(reply.GetPayload().GetBody()); got != responseSize {
					t.Errorf("got %d bytes, want %d", got, responseSize)
				}
			}
		})
	}
	wg.Wait()
}
