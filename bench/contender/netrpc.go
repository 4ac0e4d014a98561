package contender

import (
	"net"
	"net/rpc"
)

const (
	netRPCEcho = "Echo.Echo"
	netRPCAsk  = "Echo.Ask"
)

var netRPC = Contender{
	Name:   "net/rpc",
	About:  "net/rpc of the standard library, with gob",
	TLS:    true,
	Shared: true,
	Apart:  true,
	Start:  startNetRPC,
}

type netRPCNodes struct {
	listeners []net.Listener
	links     *links[*rpc.Client]
}

// netRPCService has the methods that callers find by name.
type netRPCService struct{}

// Echo returns what it gets.
func (netRPCService) Echo(payload []byte, answer *[]byte) error {
	*answer = payload
	return nil
}

// Ask carries a Task out.
func (netRPCService) Ask(request []byte, answer *[]byte) (err error) {
	*answer, err = perform(request, zeros)
	return err
}

func startNetRPC(s Setup) (Nodes, error) {
	listeners, addrs, err := s.listenSecure()
	if err != nil {
		return nil, err
	}
	for _, l := range listeners {
		server := rpc.NewServer()
		if err := server.RegisterName("Echo", netRPCService{}); err != nil {
			closeAll(listeners)
			return nil, err
		}
		go accept(l, func(c net.Conn) { server.ServeConn(c) })
	}
	return &netRPCNodes{listeners, newLinks(func(_, to int) (*rpc.Client, error) {
		c, err := s.dial(addrs[to])
		if err != nil {
			return nil, err
		}
		return rpc.NewClient(c), nil
	})}, nil
}

func (n *netRPCNodes) Client(from, to int) (Client, error) {
	c, err := n.links.get(from, to)
	return netRPCClient{c}, err
}

func (n *netRPCNodes) Close() error {
	closeAll(n.listeners)
	return n.links.close()
}

type netRPCClient struct{ client *rpc.Client }

func (c netRPCClient) Echo(payload []byte) error {
	var answer []byte
	if err := c.client.Call(netRPCEcho, payload, &answer); err != nil {
		return err
	}
	return Check(payload, answer)
}

func (c netRPCClient) Ask(request []byte) (int, error) {
	var answer []byte
	err := c.client.Call(netRPCAsk, request, &answer)
	return len(answer), err
}

func (netRPCClient) Close() error { return nil }
