package contender

import (
	"context"
	"errors"
	"io"
	"net"

	"storj.io/drpc"
	"storj.io/drpc/drpcconn"
	"storj.io/drpc/drpcpool"
	"storj.io/drpc/drpcserver"
)

const (
	drpcModule = "storj.io/drpc"
	drpcEcho   = "echo"
	drpcAsk    = "ask"
	drpcTalk   = "talk"
	drpcSource = "source"
)

var drpcPool = Contender{
	Name:    "drpc",
	About:   "storj.io/drpc with a codec of bytes and its pool, because a connection carries one call or stream at a time",
	Module:  drpcModule,
	Streams: true,
	TLS:     true,
	Shared:  true,
	Apart:   true,
	Start: func(s Setup) (Nodes, error) {
		return startDRPC(s, func(conn drpc.Conn) (Client, error) { return drpcClient{conn}, nil })
	},
}

var drpcStreaming = Contender{
	Name:   "drpc streaming",
	About:  "storj.io/drpc as above, where each caller keeps a stream open and calls over it",
	Module: drpcModule,
	TLS:    true,
	Start:  func(s Setup) (Nodes, error) { return startDRPC(s, newDRPCTalk) },
}

// drpcKey is a pair of nodes.
type drpcKey struct{ from, to int }

type drpcNodes struct {
	setup     Setup
	listeners []net.Listener
	addrs     []string
	stop      context.CancelFunc
	pool      *drpcpool.Pool[drpcKey, *drpcconn.Conn]
	client    func(drpc.Conn) (Client, error)
}

func startDRPC(s Setup, client func(drpc.Conn) (Client, error)) (Nodes, error) {
	listeners, addrs, err := s.listenSecure()
	if err != nil {
		return nil, err
	}
	ctx, stop := context.WithCancel(context.Background())
	n := &drpcNodes{
		setup:     s,
		listeners: listeners,
		addrs:     addrs,
		stop:      stop,
		pool:      drpcpool.New[drpcKey, *drpcconn.Conn](drpcpool.Options{}),
		client:    client,
	}
	for _, l := range listeners {
		go drpcserver.New(drpcHandler{}).Serve(ctx, l)
	}
	return n, nil
}

func (n *drpcNodes) Client(from, to int) (Client, error) {
	return n.client(n.pool.Get(context.Background(), drpcKey{from, to}, func(_ context.Context, k drpcKey) (*drpcconn.Conn, error) {
		c, err := n.setup.dial(n.addrs[k.to])
		if err != nil {
			return nil, err
		}
		return drpcconn.New(c), nil
	}))
}

func (n *drpcNodes) Close() error {
	err := n.pool.Close()
	n.stop()
	closeAll(n.listeners)
	return err
}

type drpcHandler struct{}

func (drpcHandler) HandleRPC(st drpc.Stream, rpc string) error {
	var m []byte
	switch rpc {
	case drpcEcho:
		if err := st.MsgRecv(&m, drpcCodec{}); err != nil {
			return err
		}
		return st.MsgSend(&m, drpcCodec{})
	case drpcAsk:
		if err := st.MsgRecv(&m, drpcCodec{}); err != nil {
			return err
		}
		answer, err := perform(m, zeros)
		if err != nil {
			return err
		}
		return st.MsgSend(&answer, drpcCodec{})
	case drpcTalk:
		for {
			if err := st.MsgRecv(&m, drpcCodec{}); err != nil {
				if errors.Is(err, io.EOF) {
					return nil
				}
				return err
			}
			if err := st.MsgSend(&m, drpcCodec{}); err != nil {
				return err
			}
		}
	}
	if err := st.MsgRecv(&m, drpcCodec{}); err != nil {
		return err
	}
	o, err := decodeOrder(m)
	if err != nil {
		return err
	}
	payload := make([]byte, o.Size)
	return o.produce(st.Context(), func() error { return st.MsgSend(&payload, drpcCodec{}) })
}

type drpcClient struct{ conn drpc.Conn }

func (c drpcClient) Echo(payload []byte) error {
	var answer []byte
	if err := c.conn.Invoke(context.Background(), drpcEcho, drpcCodec{}, &payload, &answer); err != nil {
		return err
	}
	return Check(payload, answer)
}

func (c drpcClient) Stream(ctx context.Context, o Order, each func(size int) bool) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	st, err := c.conn.NewStream(ctx, drpcSource, drpcCodec{})
	if err != nil {
		return err
	}
	defer st.Close()
	order := o.encode()
	if err := st.MsgSend(&order, drpcCodec{}); err != nil {
		return err
	}
	if err := st.CloseSend(); err != nil {
		return err
	}
	var m []byte
	return consume(func() (int, error) {
		err := st.MsgRecv(&m, drpcCodec{})
		return len(m), err
	}, each)
}

func (c drpcClient) Ask(request []byte) (int, error) {
	var answer []byte
	err := c.conn.Invoke(context.Background(), drpcAsk, drpcCodec{}, &request, &answer)
	return len(answer), err
}

func (drpcClient) Close() error { return nil }

// drpcTalker calls over a stream.
type drpcTalker struct {
	stream drpc.Stream
	answer []byte
}

func newDRPCTalk(conn drpc.Conn) (Client, error) {
	st, err := conn.NewStream(context.Background(), drpcTalk, drpcCodec{})
	if err != nil {
		return nil, err
	}
	return &drpcTalker{stream: st}, nil
}

func (c *drpcTalker) Echo(payload []byte) error {
	if err := c.stream.MsgSend(&payload, drpcCodec{}); err != nil {
		return err
	}
	if err := c.stream.MsgRecv(&c.answer, drpcCodec{}); err != nil {
		return err
	}
	return Check(payload, c.answer)
}

func (c *drpcTalker) Close() error { return c.stream.Close() }

// drpcCodec leaves bytes as they are. Messages are *[]byte.
type drpcCodec struct{}

func (drpcCodec) Marshal(m drpc.Message) ([]byte, error) { return *m.(*[]byte), nil }

func (drpcCodec) Unmarshal(b []byte, m drpc.Message) error {
	to := m.(*[]byte)
	*to = append((*to)[:0], b...)
	return nil
}
