package gridgrpc

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/encoding"
	testpb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
)

func TestBothEndsKnowTheirPeer(t *testing.T) {
	check := func(p *peer.Peer) error {
		if p == nil {
			return errors.New("no peer")
		}
		for _, a := range []net.Addr{p.Addr, p.LocalAddr} {
			if tcp, ok := a.(*net.TCPAddr); !ok || !tcp.IP.IsLoopback() || tcp.Port == 0 {
				return fmt.Errorf("address %v (%T)", a, a)
			}
		}
		return nil
	}
	forAllKinds(t, func(ctx context.Context) error {
		p, _ := peer.FromContext(ctx)
		return check(p)
	}, func(t *testing.T, call func(ctx context.Context, opts ...grpc.CallOption) error) {
		var p peer.Peer
		if err := call(t.Context(), grpc.Peer(&p)); err != nil {
			t.Errorf("the handler: %v", err)
		}
		if err := check(&p); err != nil {
			t.Errorf("the caller: %v", err)
		}
	})
}

func TestHandlersKnowTheirMethod(t *testing.T) {
	forAllKinds(t, func(ctx context.Context) error {
		method, _ := grpc.Method(ctx)
		return status.Error(codes.Aborted, method)
	}, func(t *testing.T, call func(ctx context.Context, opts ...grpc.CallOption) error) {
		got := status.Convert(call(t.Context())).Message()
		if !strings.HasPrefix(got, "/grpc.testing.TestService/") {
			t.Errorf("got %q", got)
		}
	})
}

func TestDeadlinesTravel(t *testing.T) {
	forAllKinds(t, func(ctx context.Context) error {
		deadline, ok := ctx.Deadline()
		if md, _ := metadata.FromIncomingContext(ctx); len(md.Get("deadline")) == 0 {
			if ok {
				return fmt.Errorf("a deadline: %v", deadline)
			}
			return nil
		}
		if left := time.Until(deadline); !ok || left > time.Hour || left < 30*time.Minute {
			return fmt.Errorf("deadline in %v", left)
		}
		return nil
	}, func(t *testing.T, call func(ctx context.Context, opts ...grpc.CallOption) error) {
		if err := call(t.Context()); err != nil {
			t.Error(err)
		}
		ctx, cancel := context.WithTimeout(metadata.AppendToOutgoingContext(t.Context(), "deadline", "an hour"), time.Hour)
		defer cancel()
		if err := call(ctx); err != nil {
			t.Error(err)
		}
	})
}

// TestTheEndOfAContextEndsItsCall also for the handler, and whatever the cause of the context is.
func TestTheEndOfAContextEndsItsCall(t *testing.T) {
	var running, ended chan struct{}
	forAllKinds(t, func(ctx context.Context) error {
		close(running)
		<-ctx.Done()
		close(ended)
		return nil
	}, func(t *testing.T, call func(ctx context.Context, opts ...grpc.CallOption) error) {
		for name, cause := range map[string]error{
			"no cause": nil, "cause": errors.New("nobody cares"), "cause of another call": status.Error(codes.NotFound, "no such key"),
		} {
			running, ended = make(chan struct{}), make(chan struct{})
			ctx, cancel := context.WithCancelCause(t.Context())
			go func() {
				<-running
				cancel(cause)
			}()
			if err := call(ctx); status.Code(err) != codes.Canceled {
				t.Errorf("%s: got %v, want code %v", name, err, codes.Canceled)
			}
			<-ended
			if err := call(ctx); status.Code(err) != codes.Canceled {
				t.Errorf("%s: at once: got %v, want code %v", name, err, codes.Canceled)
			}
		}
	})
}

func TestADeadlineEndsItsCall(t *testing.T) {
	forAllKinds(t, func(ctx context.Context) error {
		<-ctx.Done()
		return nil
	}, func(t *testing.T, call func(ctx context.Context, opts ...grpc.CallOption) error) {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
		defer cancel()
		if err := call(ctx); status.Code(err) != codes.DeadlineExceeded {
			t.Errorf("got %v, want code %v", err, codes.DeadlineExceeded)
		}
	})
}

// payload answers with as many bytes as it was asked for.
func payload() service {
	answer := func(size int32) *testpb.Payload { return &testpb.Payload{Body: make([]byte, size)} }
	return service{
		unary: func(_ context.Context, req *testpb.SimpleRequest) (*testpb.SimpleResponse, error) {
			return &testpb.SimpleResponse{Payload: answer(req.GetResponseSize())}, nil
		},
		duplex: func(stream testpb.TestService_FullDuplexCallServer) error {
			for {
				req, err := stream.Recv()
				if err != nil {
					return err
				}
				for _, p := range req.GetResponseParameters() {
					if err := stream.Send(&testpb.StreamingOutputCallResponse{Payload: answer(p.GetSize())}); err != nil {
						return err
					}
				}
			}
		},
	}
}

func TestMessagesAreLimited(t *testing.T) {
	_, client := serve(t, payload())
	large := &testpb.Payload{Body: make([]byte, 1000)}
	limits := []grpc.CallOption{grpc.MaxCallSendMsgSize(100), grpc.MaxCallRecvMsgSize(100)}
	for name, req := range map[string]*testpb.SimpleRequest{
		"sent":     {Payload: large},
		"received": {ResponseSize: 1000},
	} {
		if _, err := client.UnaryCall(t.Context(), req, limits...); status.Code(err) != codes.ResourceExhausted {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := client.UnaryCall(t.Context(), req); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}

	stream, err := client.FullDuplexCall(t.Context(), limits...)
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Send(&testpb.StreamingOutputCallRequest{Payload: large}); status.Code(err) != codes.ResourceExhausted {
		t.Errorf("sent: %v", err)
	}
	stream, err = client.FullDuplexCall(t.Context(), limits...)
	if err != nil {
		t.Fatal(err)
	}
	err = stream.Send(&testpb.StreamingOutputCallRequest{ResponseParameters: []*testpb.ResponseParameters{{Size: 1000}}})
	if err != nil {
		t.Error(err)
	}
	for range 2 { // it is over
		if _, err := stream.Recv(); status.Code(err) != codes.ResourceExhausted {
			t.Errorf("received: %v", err)
		}
	}
}

// jsonCodec is a codec of an application.
type jsonCodec struct{ name string }

func (jsonCodec) Marshal(v any) ([]byte, error)      { return json.Marshal(v) }
func (jsonCodec) Unmarshal(data []byte, v any) error { return json.Unmarshal(data, v) }
func (c jsonCodec) Name() string                     { return c.name }

func init() { encoding.RegisterCodec(jsonCodec{"json"}) }

func TestCodecsOfTheApplication(t *testing.T) {
	var got string
	_, client := serve(t, returning(func(ctx context.Context) error {
		got = strings.Join(metadata.ValueFromIncomingContext(ctx, "content-type"), ",")
		return nil
	}))
	for name, test := range map[string]struct {
		opts []grpc.CallOption
		code codes.Code
		want string
	}{
		"none":                      {nil, codes.OK, ""},
		"subtype":                   {[]grpc.CallOption{grpc.CallContentSubtype("JSON")}, codes.OK, "application/grpc+json"},
		"forced":                    {[]grpc.CallOption{grpc.ForceCodec(jsonCodec{"json"})}, codes.OK, "application/grpc+json"},
		"forced, with a subtype":    {[]grpc.CallOption{grpc.ForceCodec(jsonCodec{"x"}), grpc.CallContentSubtype("json")}, codes.OK, "application/grpc+json"},
		"protobuf":                  {[]grpc.CallOption{grpc.ForceCodecV2(encoding.GetCodecV2("proto"))}, codes.OK, ""},
		"not registered":            {[]grpc.CallOption{grpc.CallContentSubtype("yaml")}, codes.Internal, ""},
		"not registered there":      {[]grpc.CallOption{grpc.ForceCodec(jsonCodec{"yaml"})}, codes.Internal, ""},
		"registered by that name":   {[]grpc.CallOption{grpc.CallContentSubtype("proto")}, codes.OK, ""},
		"not what the subtype says": {[]grpc.CallOption{grpc.ForceCodec(jsonCodec{"proto"})}, codes.Internal, ""},
	} {
		for kind, call := range calls {
			got = ""
			err := call(t.Context(), client, test.opts...)
			if kind == "input" || kind == "duplex" { // no message is sent that could not be read
				if name == "not registered there" || name == "not what the subtype says" {
					continue
				}
			}
			if status.Code(err) != test.code || got != test.want {
				t.Errorf("%s, %s: got %v and %q, want code %v and %q", name, kind, err, got, test.code, test.want)
			}
		}
	}
}

func TestWhatAGridDoesNotHaveIsRefused(t *testing.T) {
	forAllKinds(t, func(context.Context) error { return nil },
		func(t *testing.T, call func(ctx context.Context, opts ...grpc.CallOption) error) {
			for name, option := range map[string]grpc.CallOption{
				"UseCompressor": grpc.UseCompressor("gzip"),
				"CallAuthority": grpc.CallAuthority("other"),
			} {
				err := call(t.Context(), option)
				if status.Code(err) != codes.Unimplemented || !strings.Contains(err.Error(), name) {
					t.Errorf("%s: %v", name, err)
				}
			}
			for name, option := range map[string]grpc.CallOption{
				"no compressor":  grpc.UseCompressor(encoding.Identity),
				"of nobody":      grpc.EmptyCallOption{},
				"interceptor's":  struct{ grpc.EmptyCallOption }{},
				"static method":  grpc.StaticMethod(),
				"retry buffer":   grpc.MaxRetryRPCBufferSize(1),
				"wait for ready": grpc.WaitForReady(true),
			} {
				if err := call(t.Context(), option); err != nil {
					t.Errorf("%s: %v", name, err)
				}
			}
		})
}

// token are credentials.
type token struct {
	secure bool
	err    error
	uri    *string
}

func (c token) GetRequestMetadata(ctx context.Context, uri ...string) (map[string]string, error) {
	*c.uri = strings.Join(uri, ",")
	info, ok := credentials.RequestInfoFromContext(ctx)
	if !ok || !strings.HasPrefix(info.Method, "/grpc.testing.TestService/") {
		return nil, fmt.Errorf("the request is %+v", info)
	}
	if err := credentials.CheckSecurityLevel(info.AuthInfo, credentials.PrivacyAndIntegrity); err == nil {
		return nil, errors.New("there is no TLS")
	}
	if err := credentials.CheckSecurityLevel(info.AuthInfo, credentials.NoSecurity); err != nil {
		return nil, err
	}
	return map[string]string{"Authorization": "Bearer x"}, c.err
}

func (c token) RequireTransportSecurity() bool { return c.secure }

var _ credentials.PerRPCCredentials = token{}

func TestCredentialsGoWithACall(t *testing.T) {
	var got string
	forAllKinds(t, func(ctx context.Context) error {
		got = strings.Join(metadata.ValueFromIncomingContext(ctx, "authorization"), ",")
		return nil
	}, func(t *testing.T, call func(ctx context.Context, opts ...grpc.CallOption) error) {
		var uri string
		if err := call(t.Context(), grpc.PerRPCCredentials(token{uri: &uri})); err != nil || got != "Bearer x" {
			t.Errorf("got %q, %v", got, err)
		}
		if !strings.HasPrefix(uri, "http://127.0.0.1:") || !strings.HasSuffix(uri, "/grpc.testing.TestService") {
			t.Errorf("uri %q", uri)
		}
		for name, test := range map[string]struct {
			token token
			code  codes.Code
		}{
			"without TLS":     {token{secure: true}, codes.Unauthenticated},
			"failed":          {token{err: errors.New("x")}, codes.Internal},
			"failed, status":  {token{err: status.Error(codes.Unavailable, "x")}, codes.Unavailable},
			"code of handler": {token{err: status.Error(codes.NotFound, "x")}, codes.Internal},
		} {
			test.token.uri = &uri
			if err := call(t.Context(), grpc.PerRPCCredentials(test.token)); status.Code(err) != test.code {
				t.Errorf("%s: got %v, want code %v", name, err, test.code)
			}
		}
	})
}

func TestOnFinishIsCalledOnce(t *testing.T) {
	want := status.Error(codes.Aborted, "x")
	for _, outcome := range []error{nil, want} {
		forAllKinds(t, func(context.Context) error { return outcome },
			func(t *testing.T, call func(ctx context.Context, opts ...grpc.CallOption) error) {
				ctx, cancel := context.WithCancel(t.Context())
				var got []error
				err := call(ctx, grpc.OnFinish(func(err error) { got = append(got, err) }))
				cancel()
				if len(got) != 1 || got[0] != err || status.Code(err) != status.Code(outcome) {
					t.Errorf("got %v, called with %v", err, got)
				}
			})
	}
}

// TestOnFinishIsCalledForWhatIsLeft wants it called for a stream that nobody reads to its end.
func TestOnFinishIsCalledForWhatIsLeft(t *testing.T) {
	_, client := serve(t, returning(func(ctx context.Context) error {
		<-ctx.Done()
		return nil
	}))
	ctx, cancel := context.WithCancel(t.Context())
	finished := make(chan error)
	if _, err := client.FullDuplexCall(ctx, grpc.OnFinish(func(err error) { finished <- err })); err != nil {
		t.Fatal(err)
	}
	cancel()
	if err := <-finished; status.Code(err) != codes.Canceled {
		t.Errorf("got %v", err)
	}
}

func TestTheOptionsOfAClientGoFirst(t *testing.T) {
	c, client := serve(t, payload())
	c.CallOptions = []grpc.CallOption{grpc.MaxCallRecvMsgSize(100)}
	req := &testpb.SimpleRequest{ResponseSize: 1000}
	if _, err := client.UnaryCall(t.Context(), req); status.Code(err) != codes.ResourceExhausted {
		t.Error(err)
	}
	if _, err := client.UnaryCall(t.Context(), req, grpc.MaxCallRecvMsgSize(10000)); err != nil {
		t.Error(err)
	}
}

func TestWhatIsNotAServiceIsNotRegistered(t *testing.T) {
	p := newPair(t)
	s := NewServer(p.server)
	panics := func(what string, f func()) {
		t.Helper()
		defer func() {
			if r, _ := recover().(string); !strings.Contains(r, "gridgrpc: service grpc.testing.TestService") {
				t.Errorf("%s: %q", what, r)
			}
		}()
		f()
		t.Errorf("%s: registered", what)
	}
	panics("other type", func() { s.RegisterService(&testpb.TestService_ServiceDesc, 1) })
	testpb.RegisterTestServiceServer(s, service{})
	panics("twice", func() { testpb.RegisterTestServiceServer(s, service{}) })
	panics("twice, with another server", func() { testpb.RegisterTestServiceServer(NewServer(p.server), service{}) })
}
