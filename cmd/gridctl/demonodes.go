package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/gridmesh/grid"
)

// Handlers that only the nodes of the demonstration have.
const (
	handlerGreet = handlerSource + 1 + iota
	handlerShout
	handlerCountdown
	handlerStay
)

// greet is a typed handler: requests and answers are maps.
var greet = grid.NewSingleHandler[*grid.MSS, *grid.MSS](handlerGreet, grid.NewMSS, grid.NewMSS)

// demoNode is a node of the demonstration.
type demoNode struct {
	*member
	name   string
	cables *cables
	stays  chan struct{} // told when handlerStay runs
}

// start starts all nodes, on free ports of the loopback interface.
func (d *demo) start(log *slog.Logger) (string, error) {
	var hosts, ports []string
	var listeners []net.Listener
	for range demoNodes {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			closeAll(listeners)
			return "", err
		}
		listeners = append(listeners, l)
		hosts = append(hosts, "http://"+l.Addr().String())
	}
	for i, l := range listeners {
		n, err := d.startNode(i, hosts, l, log)
		if err != nil {
			closeAll(listeners[i:])
			return "", err
		}
		d.nodes = append(d.nodes, n)
		ports = append(ports, n.name+" at "+strings.TrimPrefix(hosts[i], "http://"))
	}
	return strings.Join(ports, ", "), nil
}

func closeAll(listeners []net.Listener) {
	for _, l := range listeners {
		l.Close()
	}
}

// startNode starts a node, which has a status page if the others do.
func (d *demo) startNode(i int, hosts []string, l net.Listener, log *slog.Logger) (*demoNode, error) {
	n := &demoNode{
		name:   string(rune('A' + i)),
		cables: newCables(),
		stays:  make(chan struct{}, 1),
	}
	config := &memberConfig{local: hosts[i], hosts: hosts, secret: "demo"}
	if d.page != nil && i < demoNodes {
		config.page = d.page.url("/" + n.name + "/")
	}
	var err error
	n.member, err = startMember(config, l, n.cables.dial, log.With("node", n.name), n.register, config.registerHandlers)
	return n, err
}

// register registers the handlers of the demonstration.
func (n *demoNode) register(m *grid.Manager) error {
	return errors.Join(
		grid.NameHandler(handlerGreet, "greet"),
		grid.NameHandler(handlerShout, "shout"),
		grid.NameHandler(handlerCountdown, "countdown"),
		grid.NameHandler(handlerStay, "stay"),
		greet.Register(m, func(req *grid.MSS) (*grid.MSS, *grid.RemoteErr) {
			resp := greet.NewResponse()
			resp.Set("greeting", "hello "+req.Get("name")+", I am "+n.name)
			return resp, nil
		}),
		m.RegisterStreamingHandler(handlerShout, grid.StreamHandler{Handle: shout, InCapacity: 8, OutCapacity: 8}),
		m.RegisterStreamingHandler(handlerCountdown, grid.StreamHandler{Handle: countdown, OutCapacity: 16}),
		m.RegisterSingleHandlerContext(handlerStay, func(ctx context.Context, _ []byte) ([]byte, error) {
			n.stays <- struct{}{}
			<-ctx.Done()
			return nil, grid.NewRemoteErr(context.Cause(ctx))
		}),
	)
}

// shout sends each word back in capitals.
func shout(ctx context.Context, _ []byte, in <-chan []byte, out chan<- []byte) *grid.RemoteErr {
	for word := range in {
		select {
		case out <- []byte(strings.ToUpper(string(word))):
		case <-ctx.Done():
			return grid.NewRemoteErr(context.Cause(ctx))
		}
	}
	return nil
}

// countdown sends the numbers from the one in payload down to 1.
func countdown(ctx context.Context, payload []byte, _ <-chan []byte, out chan<- []byte) *grid.RemoteErr {
	var from int
	if _, err := fmt.Sscan(string(payload), &from); err != nil {
		return grid.NewRemoteErr(err)
	}
	for i := from; i > 0; i-- {
		select {
		case out <- fmt.Append(nil, i):
		case <-ctx.Done():
			return grid.NewRemoteErr(context.Cause(ctx))
		}
	}
	return nil
}

// stop ends all nodes in good order. Calling it again does nothing.
func (d *demo) stop() error {
	if d.stopped {
		return nil
	}
	d.stopped = true
	errs := make([]error, len(d.nodes))
	var wg sync.WaitGroup
	for i, n := range d.nodes {
		wg.Go(func() { errs[i] = n.stop(time.Second) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

// cables dials as net.Dialer does, and keeps what it has dialed last, to be cut.
type cables struct {
	mu     sync.Mutex // Protects following.
	byAddr map[string]net.Conn
}

func newCables() *cables { return &cables{byAddr: make(map[string]net.Conn)} }

// dial is a grid.ContextDialer.
func (c *cables) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	conn, err := new(net.Dialer).DialContext(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.byAddr[addr] = conn
	return conn, nil
}

// cut closes the socket to addr and reports whether there was one.
func (c *cables) cut(addr string) bool {
	c.mu.Lock()
	conn := c.byAddr[addr]
	delete(c.byAddr, addr)
	c.mu.Unlock()
	return conn != nil && conn.Close() == nil
}
