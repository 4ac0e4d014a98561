package contender

import (
	"errors"
	"strconv"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
)

const (
	natsMaxPayload = 8 << 20 // bytes
	natsPatience   = time.Minute
)

var natsContender = Contender{
	Name:   "nats",
	About:  "NATS request-reply through a server in the same process: two hops each way",
	Module: "github.com/nats-io/nats-server/v2",
	Shared: true,
	Start:  startNATS,
}

type natsNodes struct {
	server *server.Server
	conns  []*nats.Conn
}

func startNATS(s Setup) (Nodes, error) {
	srv, err := server.NewServer(&server.Options{
		Host:       "127.0.0.1",
		Port:       server.RANDOM_PORT,
		MaxPayload: natsMaxPayload,
		MaxPending: 256 << 20,
		NoLog:      true,
		NoSigs:     true,
	})
	if err != nil {
		return nil, err
	}
	go srv.Start()
	n := &natsNodes{server: srv}
	if !srv.ReadyForConnections(natsPatience) {
		n.Close()
		return nil, errors.New("nats: the server does not start")
	}
	for i := range s.Nodes {
		if err := n.add(i); err != nil {
			n.Close()
			return nil, err
		}
	}
	return n, nil
}

func (n *natsNodes) add(node int) error {
	c, err := nats.Connect(n.server.ClientURL())
	if err != nil {
		return err
	}
	n.conns = append(n.conns, c)
	if _, err := c.Subscribe(natsSubject(node), func(m *nats.Msg) { m.Respond(m.Data) }); err != nil {
		return err
	}
	return c.Flush() // the server knows the subscription now
}

func natsSubject(node int) string { return "node." + strconv.Itoa(node) }

func (n *natsNodes) Client(from, to int) (Client, error) {
	return natsClient{n.conns[from], natsSubject(to)}, nil
}

func (n *natsNodes) Close() error {
	for _, c := range n.conns {
		c.Close()
	}
	n.server.Shutdown()
	n.server.WaitForShutdown()
	return nil
}

type natsClient struct {
	conn    *nats.Conn
	subject string
}

func (c natsClient) Echo(payload []byte) error {
	m, err := c.conn.Request(c.subject, payload, natsPatience)
	if err != nil {
		return err
	}
	return Check(payload, m.Data)
}

func (natsClient) Close() error { return nil }
