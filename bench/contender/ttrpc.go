package contender

import (
	"context"
	"net"

	"github.com/containerd/ttrpc"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

const (
	ttrpcService = "bench.Echo"
	ttrpcEcho    = "Echo"
	ttrpcAsk     = "Ask"
)

var ttrpcContender = Contender{
	Name:   "ttrpc",
	About:  "containerd's ttrpc with protobuf's BytesValue, because it takes no other codec",
	Module: "github.com/containerd/ttrpc",
	TLS:    true,
	Shared: true,
	Apart:  true,
	Start:  startTTRPC,
}

type ttrpcNodes struct {
	servers []*ttrpc.Server
	links   *links[*ttrpc.Client]
}

func startTTRPC(s Setup) (Nodes, error) {
	listeners, addrs, err := s.listenSecure()
	if err != nil {
		return nil, err
	}
	n := new(ttrpcNodes)
	for _, l := range listeners {
		server, err := ttrpc.NewServer()
		if err != nil {
			closeAll(listeners)
			return nil, err
		}
		server.RegisterService(ttrpcService, &ttrpc.ServiceDesc{Methods: map[string]ttrpc.Method{
			ttrpcEcho: func(_ context.Context, decode func(any) error) (any, error) {
				m := new(wrapperspb.BytesValue)
				return m, decode(m)
			},
			ttrpcAsk: func(_ context.Context, decode func(any) error) (any, error) {
				m := new(wrapperspb.BytesValue)
				if err := decode(m); err != nil {
					return nil, err
				}
				answer, err := perform(m.Value, zeros)
				return wrapperspb.Bytes(answer), err
			},
		}})
		n.servers = append(n.servers, server)
		go serveTTRPC(server, l)
	}
	n.links = newLinks(func(_, to int) (*ttrpc.Client, error) {
		c, err := s.dial(addrs[to])
		if err != nil {
			return nil, err
		}
		return ttrpc.NewClient(c), nil
	})
	return n, nil
}

func serveTTRPC(s *ttrpc.Server, l net.Listener) {
	defer l.Close()
	s.Serve(context.Background(), l)
}

func (n *ttrpcNodes) Client(from, to int) (Client, error) {
	c, err := n.links.get(from, to)
	return ttrpcClient{c}, err
}

func (n *ttrpcNodes) Close() error {
	err := n.links.close()
	closeAll(n.servers)
	return err
}

type ttrpcClient struct{ client *ttrpc.Client }

func (c ttrpcClient) Echo(payload []byte) error {
	var answer wrapperspb.BytesValue
	if err := c.client.Call(context.Background(), ttrpcService, ttrpcEcho, wrapperspb.Bytes(payload), &answer); err != nil {
		return err
	}
	return Check(payload, answer.Value)
}

func (c ttrpcClient) Ask(request []byte) (int, error) {
	var answer wrapperspb.BytesValue
	err := c.client.Call(context.Background(), ttrpcService, ttrpcAsk, wrapperspb.Bytes(request), &answer)
	return len(answer.Value), err
}

func (ttrpcClient) Close() error { return nil }
