package contender

import (
	"context"
	"errors"
	"io"
	"runtime"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/mem"
)

const (
	grpcModule = "google.golang.org/grpc"
	grpcEcho   = "/bench.Echo/Echo"
	grpcAsk    = "/bench.Echo/Ask"
	grpcTalk   = "/bench.Echo/Talk"
	grpcSource = "/bench.Echo/Source"
	grpcLimit  = 65 << 20 // bytes of a message
)

var grpcUnary = Contender{
	Name:    "grpc",
	About:   "gRPC-go with a codec of bytes in place of protobuf, and stream workers: unary calls, and streams",
	Module:  grpcModule,
	Streams: true,
	TLS:     true,
	Shared:  true,
	Apart:   true,
	Start: func(s Setup) (Nodes, error) {
		return startGRPC(s, grpcBytes, func(cc *grpc.ClientConn) (Client, error) { return grpcClient{cc}, nil })
	},
}

var grpcStreaming = Contender{
	Name:   "grpc streaming",
	About:  "gRPC-go as above, where each caller keeps a stream open and calls over it",
	Module: grpcModule,
	TLS:    true,
	Start: func(s Setup) (Nodes, error) {
		return startGRPC(s, grpcBytes, newGRPCTalk)
	},
}

type grpcNodes struct {
	servers []*grpc.Server
	links   *links[*grpc.ClientConn]
	client  func(*grpc.ClientConn) (Client, error)
}

// grpcUse says how gRPC is used.
type grpcUse struct {
	server   []grpc.ServerOption
	calls    []grpc.CallOption
	register func(grpc.ServiceRegistrar)
}

var grpcBytes = grpcUse{
	server:   []grpc.ServerOption{grpc.ForceServerCodecV2(grpcCodec{})},
	calls:    []grpc.CallOption{grpc.ForceCodecV2(grpcCodec{})},
	register: func(r grpc.ServiceRegistrar) { r.RegisterService(&grpcService, nil) },
}

func startGRPC(s Setup, use grpcUse, client func(*grpc.ClientConn) (Client, error)) (Nodes, error) {
	listeners, addrs, err := s.listen()
	if err != nil {
		return nil, err
	}
	serverTLS, clientTLS := insecure.NewCredentials(), insecure.NewCredentials()
	if s.TLS {
		server, client, err := tlsConfigs()
		if err != nil {
			closeAll(listeners)
			return nil, err
		}
		serverTLS, clientTLS = credentials.NewTLS(server), credentials.NewTLS(client)
	}
	n := &grpcNodes{client: client}
	for _, l := range listeners {
		server := grpc.NewServer(append([]grpc.ServerOption{
			grpc.NumStreamWorkers(uint32(runtime.NumCPU())),
			grpc.MaxRecvMsgSize(grpcLimit),
			grpc.Creds(serverTLS),
		}, use.server...)...)
		use.register(server)
		n.servers = append(n.servers, server)
		go server.Serve(l)
	}
	n.links = newLinks(func(_, to int) (*grpc.ClientConn, error) {
		return grpc.NewClient(s.via(addrs[to]),
			grpc.WithTransportCredentials(clientTLS),
			grpc.WithDefaultCallOptions(append([]grpc.CallOption{grpc.MaxCallRecvMsgSize(grpcLimit)}, use.calls...)...))
	})
	return n, nil
}

func (n *grpcNodes) Client(from, to int) (Client, error) {
	cc, err := n.links.get(from, to)
	if err != nil {
		return nil, err
	}
	return n.client(cc)
}

func (n *grpcNodes) Close() error {
	err := n.links.close()
	for _, s := range n.servers {
		s.Stop()
	}
	return err
}

var grpcService = grpc.ServiceDesc{
	ServiceName: "bench.Echo",
	HandlerType: (*any)(nil),
	Methods: []grpc.MethodDesc{{
		MethodName: "Echo",
		Handler: func(_ any, _ context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
			m := new(grpcMessage)
			return m, decode(m)
		},
	}, {
		MethodName: "Ask",
		Handler: func(_ any, _ context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
			m := new(grpcMessage)
			if err := decode(m); err != nil {
				return nil, err
			}
			defer m.data.Free()
			answer, err := perform(m.head(), zeros)
			return newGRPCMessage(answer), err
		},
	}},
	Streams: []grpc.StreamDesc{
		{StreamName: "Talk", ServerStreams: true, ClientStreams: true, Handler: func(_ any, st grpc.ServerStream) error {
			for {
				m := new(grpcMessage)
				if err := st.RecvMsg(m); err != nil {
					if errors.Is(err, io.EOF) {
						return nil
					}
					return err
				}
				if err := st.SendMsg(m); err != nil {
					return err
				}
			}
		}},
		{StreamName: "Source", ServerStreams: true, Handler: func(_ any, st grpc.ServerStream) error {
			m := new(grpcMessage)
			if err := st.RecvMsg(m); err != nil {
				return err
			}
			o, err := decodeOrder(m.take())
			if err != nil {
				return err
			}
			payload := make([]byte, o.Size)
			return o.produce(st.Context(), func() error { return st.SendMsg(newGRPCMessage(payload)) })
		}},
	},
}

type grpcClient struct{ conn *grpc.ClientConn }

func (c grpcClient) Echo(payload []byte) error {
	answer := new(grpcMessage)
	if err := c.conn.Invoke(context.Background(), grpcEcho, newGRPCMessage(payload), answer); err != nil {
		return err
	}
	return answer.check(payload)
}

func (c grpcClient) Stream(ctx context.Context, o Order, each func(size int) bool) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	st, err := c.conn.NewStream(ctx, &grpcService.Streams[1], grpcSource)
	if err != nil {
		return err
	}
	if err := st.SendMsg(newGRPCMessage(o.encode())); err != nil {
		return err
	}
	if err := st.CloseSend(); err != nil {
		return err
	}
	return consume(func() (int, error) {
		m := new(grpcMessage)
		if err := st.RecvMsg(m); err != nil {
			return 0, err
		}
		size := m.data.Len()
		m.data.Free()
		return size, nil
	}, each)
}

func (c grpcClient) Ask(request []byte) (int, error) {
	answer := new(grpcMessage)
	if err := c.conn.Invoke(context.Background(), grpcAsk, newGRPCMessage(request), answer); err != nil {
		return 0, err
	}
	defer answer.data.Free()
	return answer.data.Len(), nil
}

func (grpcClient) Close() error { return nil }

// grpcTalker calls over a stream.
type grpcTalker struct {
	stream grpc.ClientStream
	cancel context.CancelFunc
}

func newGRPCTalk(cc *grpc.ClientConn) (Client, error) {
	ctx, cancel := context.WithCancel(context.Background())
	st, err := cc.NewStream(ctx, &grpcService.Streams[0], grpcTalk)
	if err != nil {
		cancel()
		return nil, err
	}
	return &grpcTalker{st, cancel}, nil
}

func (c *grpcTalker) Echo(payload []byte) error {
	if err := c.stream.SendMsg(newGRPCMessage(payload)); err != nil {
		return err
	}
	answer := new(grpcMessage)
	if err := c.stream.RecvMsg(answer); err != nil {
		return err
	}
	return answer.check(payload)
}

func (c *grpcTalker) Close() error {
	c.cancel()
	return nil
}

// grpcMessage is a message as gRPC holds it, so that an echo needs no copy.
type grpcMessage struct{ data mem.BufferSlice }

func newGRPCMessage(payload []byte) *grpcMessage {
	return &grpcMessage{mem.BufferSlice{mem.SliceBuffer(payload)}}
}

// take returns a copy of the message and gives its buffers back.
func (m *grpcMessage) take() []byte {
	b := m.data.Materialize()
	m.data.Free()
	return b
}

// head returns a copy of the first bytes, those of a Task.
func (m *grpcMessage) head() []byte {
	b := make([]byte, taskSize)
	r := m.data.Reader()
	defer r.Close()
	n, _ := io.ReadFull(r, b)
	return b[:n]
}

func (m *grpcMessage) check(sent []byte) error {
	defer m.data.Free()
	if len(m.data) == 1 {
		return Check(sent, m.data[0].ReadOnlyData())
	}
	return Check(sent, m.data.Materialize())
}

// grpcCodec leaves bytes as they are.
type grpcCodec struct{}

func (grpcCodec) Name() string { return "bytes" }

func (grpcCodec) Marshal(v any) (mem.BufferSlice, error) { return v.(*grpcMessage).data, nil }

func (grpcCodec) Unmarshal(data mem.BufferSlice, v any) error {
	data.Ref()
	v.(*grpcMessage).data = data
	return nil
}
