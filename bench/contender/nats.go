package contender

import (
	"errors"
	"net"
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
	About:  "NATS request-reply through a server in the process of the node that answers: two hops each way",
	Module: "github.com/nats-io/nats-server/v2",
	Shared: true,
	Apart:  true,
	Start:  startNATS,
}

type natsNodes struct {
	server *server.Server // nil where it is in another process
	conns  []*nats.Conn   // of the nodes here
}

func startNATS(s Setup) (Nodes, error) {
	if s.Part != nil {
		return startNATSPart(s)
	}
	n, err := startNATSServer("127.0.0.1", server.RANDOM_PORT)
	if err != nil {
		return nil, err
	}
	for i := range s.Nodes {
		if err := n.add(i, n.server.ClientURL()); err != nil {
			n.Close()
			return nil, err
		}
	}
	return n, nil
}

// startNATSPart starts a server beside node 1, at whose address it listens.
func startNATSPart(s Setup) (Nodes, error) {
	closeAll(s.Part.Listeners)
	at := s.Part.Addrs[1]
	if s.first() == 0 {
		n := new(natsNodes)
		return n, n.add(0, "nats://"+s.via(at))
	}
	host, text, err := net.SplitHostPort(at)
	if err != nil {
		return nil, err
	}
	port, err := strconv.Atoi(text)
	if err != nil {
		return nil, err
	}
	n, err := startNATSServer(host, port)
	if err != nil {
		return nil, err
	}
	for i := 1; i < s.Nodes; i++ {
		if err := n.add(i, n.server.ClientURL()); err != nil {
			n.Close()
			return nil, err
		}
	}
	return n, nil
}

func startNATSServer(host string, port int) (*natsNodes, error) {
	srv, err := server.NewServer(&server.Options{
		Host:       host,
		Port:       port,
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
	return n, nil
}

func (n *natsNodes) add(node int, url string) error {
	c, err := nats.Connect(url)
	if err != nil {
		return err
	}
	n.conns = append(n.conns, c)
	if _, err := c.Subscribe(natsSubject(node), func(m *nats.Msg) { m.Respond(m.Data) }); err != nil {
		return err
	}
	if _, err := c.Subscribe(natsTasks(node), func(m *nats.Msg) {
		answer, _ := perform(m.Data, zeros)
		m.Respond(answer)
	}); err != nil {
		return err
	}
	return c.Flush() // the server knows the subscription now
}

func natsSubject(node int) string { return "node." + strconv.Itoa(node) }

func natsTasks(node int) string { return natsSubject(node) + ".tasks" }

func (n *natsNodes) Client(from, to int) (Client, error) {
	return natsClient{n.conns[from], natsSubject(to), natsTasks(to)}, nil
}

func (n *natsNodes) Close() error {
	for _, c := range n.conns {
		c.Close()
	}
	if n.server != nil {
		n.server.Shutdown()
		n.server.WaitForShutdown()
	}
	return nil
}

type natsClient struct {
	conn           *nats.Conn
	subject, tasks string
}

func (c natsClient) Echo(payload []byte) error {
	m, err := c.conn.Request(c.subject, payload, natsPatience)
	if err != nil {
		return err
	}
	return Check(payload, m.Data)
}

func (c natsClient) Ask(request []byte) (int, error) {
	m, err := c.conn.Request(c.tasks, request, natsPatience)
	if err != nil {
		return 0, err
	}
	return len(m.Data), nil
}

func (natsClient) Close() error { return nil }
