package contender

import (
	"context"
	"net"

	"github.com/gridmesh/grid/bench/limit"
)

var limitContender = Contender{
	Name:    "limit",
	About:   "a bare multiplexer of some 160 lines, without checksum, mask, handlers and deadlines: about what is possible at all",
	Streams: true,
	TLS:     true,
	Shared:  true,
	Apart:   true,
	Start:   startLimit,
}

// limitNodes have one connection for each two nodes, for calls in both directions.
type limitNodes struct {
	setup     Setup
	listeners []net.Listener
	addrs     []string
	peers     [][]*limit.Peer // by node, and by the other node
	accepted  chan net.Conn
}

func startLimit(s Setup) (Nodes, error) {
	listeners, addrs, err := s.listenSecure()
	if err != nil {
		return nil, err
	}
	n := &limitNodes{setup: s, listeners: listeners, addrs: addrs, accepted: make(chan net.Conn)}
	for range s.Nodes {
		n.peers = append(n.peers, make([]*limit.Peer, s.Nodes))
	}
	if s.Part != nil {
		return n, n.startPart()
	}
	for _, l := range listeners {
		go accept(l, func(c net.Conn) { n.accepted <- c })
	}
	for from := range s.Nodes {
		for to := range from {
			if err := n.connect(from, to); err != nil {
				n.Close()
				return nil, err
			}
		}
	}
	return n, nil
}

// startPart connects node 0 to the others, which accept.
func (n *limitNodes) startPart() error {
	for _, l := range n.listeners {
		go accept(l, func(c net.Conn) { limit.NewAnswering(c, limitAnswer) })
	}
	if n.setup.first() > 0 {
		return nil
	}
	for to := 1; to < n.setup.Nodes; to++ {
		c, err := n.setup.dial(n.addrs[to])
		if err != nil {
			return err
		}
		n.peers[0][to] = limit.New(c)
	}
	return nil
}

// limitAnswer is nil for a request without a task.
func limitAnswer(request []byte) []byte {
	answer, _ := perform(request, zeros)
	return answer
}

func (n *limitNodes) connect(from, to int) error {
	accepted := make(chan *limit.Peer, 1)
	go func() { accepted <- limit.New(<-n.accepted) }()
	c, err := n.setup.dial(n.addrs[to])
	if err != nil {
		return err
	}
	n.peers[from][to] = limit.New(c)
	n.peers[to][from] = <-accepted
	return nil
}

func (n *limitNodes) Client(from, to int) (Client, error) {
	return limitClient{n.peers[from][to], n.setup.Window}, nil
}

func (n *limitNodes) Close() error {
	closeAll(n.listeners)
	for _, peers := range n.peers {
		for _, p := range peers {
			if p != nil {
				p.Close()
			}
		}
	}
	return nil
}

type limitClient struct {
	peer   *limit.Peer
	window int
}

func (c limitClient) Echo(payload []byte) error {
	return c.peer.Call(payload, func(answer []byte) error { return Check(payload, answer) })
}

func (c limitClient) Stream(ctx context.Context, o Order, each func(size int) bool) error {
	order := limit.Order{Messages: o.Messages, Size: o.Size, Hold: o.Hold, Window: max(1, c.window)}
	return c.peer.Stream(ctx, order, func(message []byte) bool { return each(len(message)) })
}

func (c limitClient) Ask(request []byte) (size int, err error) {
	err = c.peer.Ask(request, func(answer []byte) error {
		size = len(answer)
		return nil
	})
	return size, err
}

func (limitClient) Close() error { return nil }
