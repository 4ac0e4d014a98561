package contender

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/gridmesh/grid"
)

const (
	gridEcho   = grid.HandlerUserFirst
	gridSource = grid.HandlerUserFirst + 1
	gridAsk    = grid.HandlerUserFirst + 2
)

// connectTime is how long the nodes of a mesh may take to connect to each other.
const connectTime = time.Minute

var gridRaw = Contender{
	Name:    "grid",
	About:   "this library, with handlers of bytes",
	Streams: true,
	TLS:     true,
	Shared:  true,
	Apart:   true,
	Start: func(s Setup) (Nodes, error) {
		return startGrid(s, 0, registerRaw, func(c *grid.Connection) Client { return gridClient{conn: c} })
	},
}

var gridHigh = Contender{
	Name:   "grid high",
	About:  "this library as grid; where there are small calls and others, the small ones have PriorityHigh",
	Shared: true,
	Apart:  true,
	Start: func(s Setup) (Nodes, error) {
		return startGrid(s, 0, registerRaw, func(c *grid.Connection) Client { return gridUrgentClient{gridClient{conn: c}} })
	},
}

// gridUrgentClient has a client whose calls pass its own.
type gridUrgentClient struct{ gridClient }

func (c gridUrgentClient) Urgent() Asker { return gridClient{c.conn, grid.PriorityHigh} }

// busyPoll is how long gridPolling looks for input before it waits.
const busyPoll = 200 * time.Microsecond

var gridPolling = Contender{
	Name:   "grid polling",
	About:  "this library as grid, with ManagerOptions.BusyPoll of 200 µs",
	Shared: true,
	Apart:  true,
	Start: func(s Setup) (Nodes, error) {
		return startGrid(s, busyPoll, registerRaw, func(c *grid.Connection) Client { return gridClient{conn: c} })
	},
}

var gridTyped = Contender{
	Name:    "grid typed",
	About:   "this library, with SingleHandler and StreamTypeHandler of grid.Bytes",
	Streams: true,
	TLS:     true,
	Shared:  true,
	Start: func(s Setup) (Nodes, error) {
		t := newGridTypes(s)
		return startGrid(s, 0, t.register, func(c *grid.Connection) Client { return gridTypedClient{t, c} })
	},
}

type gridNodes struct {
	hosts    []string
	managers []*grid.Manager // of the nodes here, all of them if Setup.Part is not set
	servers  []*http.Server
	client   func(*grid.Connection) Client
}

func startGrid(s Setup, poll time.Duration, register func(*grid.Manager, Setup) error, client func(*grid.Connection) Client) (_ Nodes, err error) {
	listeners, addrs, err := s.listenSecure()
	if err != nil {
		return nil, err
	}
	n := &gridNodes{client: client}
	defer func() {
		if err != nil {
			closeAll(listeners)
			n.Close()
		}
	}()
	scheme, tlsConfig := "http://", (*tls.Config)(nil)
	if s.TLS {
		scheme = "https://"
		if _, tlsConfig, err = tlsConfigs(); err != nil {
			return nil, err
		}
	}
	for _, addr := range addrs {
		n.hosts = append(n.hosts, scheme+addr)
	}
	ready := make(chan struct{})
	for i, l := range listeners {
		m, err := grid.NewManager(context.Background(), grid.ManagerOptions{
			Local:        n.hosts[s.first()+i],
			Hosts:        n.hosts,
			AuthRequest:  func(*http.Request) error { return nil },
			Dialer:       s.dialer(),
			BusyPoll:     poll,
			BlockConnect: ready,
			TLSConfig:    tlsConfig,
			Logger:       slog.New(slog.DiscardHandler),
		})
		if err != nil {
			return nil, err
		}
		n.managers = append(n.managers, m)
		if err := register(m, s); err != nil {
			return nil, err
		}
		mux := http.NewServeMux()
		mux.Handle(grid.RoutePath, m.Handler())
		server := &http.Server{Handler: mux}
		n.servers = append(n.servers, server)
		go server.Serve(l)
	}
	close(ready)
	if s.first() > 0 {
		return n, nil // node 0 waits
	}
	return n, n.waitConnected()
}

// dialer returns what opens the connections of nodes that are in several processes, nil for others.
func (s Setup) dialer() grid.ContextDialer {
	if s.Part == nil || len(s.Part.Via) == 0 {
		return nil // what users have
	}
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, s.via(addr))
	}
}

func (n *gridNodes) waitConnected() error {
	ctx, cancel := context.WithTimeoutCause(context.Background(), connectTime, errors.New("grid: the nodes did not connect"))
	defer cancel()
	for _, m := range n.managers {
		for _, host := range m.Targets() {
			m.Connection(host).WaitForConnect(ctx)
		}
	}
	return context.Cause(ctx)
}

func (n *gridNodes) Client(from, to int) (Client, error) {
	return n.client(n.managers[from].Connection(n.hosts[to])), nil
}

func (n *gridNodes) Close() error {
	for _, m := range n.managers {
		m.Close()
	}
	closeAll(n.servers)
	return nil
}

func registerRaw(m *grid.Manager, s Setup) error {
	err := m.RegisterSingleHandler(gridEcho, func(payload []byte) ([]byte, *grid.RemoteErr) { return payload, nil })
	if err != nil {
		return err
	}
	err = m.RegisterSingleHandler(gridAsk, func(request []byte) ([]byte, *grid.RemoteErr) {
		answer, err := perform(request, func(n int) []byte { return grid.GetByteBufferCap(n)[:n] })
		grid.PutByteBuffer(request)
		if err != nil {
			return nil, grid.NewRemoteErr(err)
		}
		return answer, nil
	})
	if err != nil {
		return err
	}
	return m.RegisterStreamingHandler(gridSource, grid.StreamHandler{
		OutCapacity: max(1, s.Window),
		Handle: func(ctx context.Context, payload []byte, _ <-chan []byte, out chan<- []byte) *grid.RemoteErr {
			return gridProduce(ctx, payload, func(size int) error {
				select {
				case out <- grid.GetByteBufferCap(size)[:size]:
					return nil
				case <-ctx.Done():
					return context.Cause(ctx)
				}
			})
		},
	})
}

func gridProduce(ctx context.Context, order []byte, send func(size int) error) *grid.RemoteErr {
	o, err := decodeOrder(order)
	if err == nil {
		err = o.produce(ctx, func() error { return send(o.Size) })
	}
	if err != nil {
		return grid.NewRemoteErr(err)
	}
	return nil
}

type gridClient struct {
	conn     *grid.Connection
	priority grid.Priority
}

// context returns that of its calls.
func (c gridClient) context() context.Context {
	if c.priority == grid.PriorityNormal {
		return context.Background()
	}
	return grid.WithPriority(context.Background(), c.priority)
}

func (c gridClient) Echo(payload []byte) error {
	answer, err := c.conn.Request(c.context(), gridEcho, payload)
	if err != nil {
		return err
	}
	err = Check(payload, answer)
	grid.PutByteBuffer(answer)
	return err
}

func (c gridClient) Ask(request []byte) (int, error) {
	answer, err := c.conn.Request(c.context(), gridAsk, request)
	if err != nil {
		return 0, err
	}
	n := len(answer)
	grid.PutByteBuffer(answer)
	return n, nil
}

func (c gridClient) Stream(ctx context.Context, o Order, each func(size int) bool) error {
	st, err := c.conn.NewStream(ctx, gridSource, o.encode())
	if err != nil {
		return err
	}
	for b, err := range st.All() {
		if err != nil {
			return err
		}
		size := len(b)
		grid.PutByteBuffer(b)
		if !each(size) {
			return nil
		}
	}
	return nil
}

func (gridClient) Close() error { return nil }

// gridTypes are the typed handlers of some nodes.
type gridTypes struct {
	echo   *grid.SingleHandler[*grid.Bytes, *grid.Bytes]
	source *grid.StreamTypeHandler[*grid.Bytes, grid.NoPayload, *grid.Bytes]
}

func newGridTypes(s Setup) *gridTypes {
	return &gridTypes{
		echo: grid.NewSingleHandler[*grid.Bytes, *grid.Bytes](gridEcho, grid.NewBytes, grid.NewBytes),
		source: grid.NewStream[*grid.Bytes, grid.NoPayload, *grid.Bytes](gridSource, grid.NewBytes, nil, grid.NewBytes).
			WithOutCapacity(max(1, s.Window)),
	}
}

func (t *gridTypes) register(m *grid.Manager, _ Setup) error {
	err := t.echo.Register(m, func(req *grid.Bytes) (*grid.Bytes, *grid.RemoteErr) { return req, nil })
	if err != nil {
		return err
	}
	return t.source.RegisterNoInput(m, func(ctx context.Context, order *grid.Bytes, out chan<- *grid.Bytes) *grid.RemoteErr {
		return gridProduce(ctx, *order, func(size int) error {
			b := t.source.NewResponse()
			*b = append((*b)[:0], make([]byte, size)...)
			select {
			case out <- b:
				return nil
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		})
	})
}

type gridTypedClient struct {
	types *gridTypes
	conn  *grid.Connection
}

func (c gridTypedClient) Echo(payload []byte) error {
	req := grid.Bytes(payload)
	resp, err := c.types.echo.Call(context.Background(), c.conn, &req)
	if err != nil {
		return err
	}
	err = Check(payload, *resp)
	c.types.echo.PutResponse(resp)
	return err
}

func (c gridTypedClient) Stream(ctx context.Context, o Order, each func(size int) bool) error {
	order := grid.Bytes(o.encode())
	st, err := c.types.source.Call(ctx, c.conn, &order)
	if err != nil {
		return err
	}
	for b, err := range st.All() {
		if err != nil {
			return err
		}
		size := len(*b)
		c.types.source.PutResponse(b)
		if !each(size) {
			return nil
		}
	}
	return nil
}

func (gridTypedClient) Close() error { return nil }
