package contender

import (
	"bufio"
	"io"
	"net"
)

var tcpContender = Contender{
	Name:  "tcp",
	About: "a TCP connection for each caller: write the payload behind its length, read it back",
	TLS:   true,
	Start: startTCP,
}

const tcpReadBuffer = 64 << 10 // bytes

type tcpNodes struct {
	setup     Setup
	listeners []net.Listener
	addrs     []string
}

func startTCP(s Setup) (Nodes, error) {
	listeners, addrs, err := s.listenSecure()
	if err != nil {
		return nil, err
	}
	for _, l := range listeners {
		go accept(l, func(c net.Conn) {
			defer c.Close()
			var f framed
			r := bufio.NewReaderSize(c, tcpReadBuffer)
			for {
				b, err := f.read(r)
				if err != nil {
					return
				}
				if err := f.write(c, b); err != nil {
					return
				}
			}
		})
	}
	return &tcpNodes{s, listeners, addrs}, nil
}

func (n *tcpNodes) Client(_, to int) (Client, error) {
	c, err := n.setup.dial(n.addrs[to])
	if err != nil {
		return nil, err
	}
	return &tcpClient{conn: c, reader: bufio.NewReaderSize(c, tcpReadBuffer)}, nil
}

func (n *tcpNodes) Close() error {
	closeAll(n.listeners)
	return nil
}

type tcpClient struct {
	conn   net.Conn
	reader *bufio.Reader
	buf    framed
}

func (c *tcpClient) Echo(payload []byte) error {
	return c.buf.echo(c.conn, c.reader, payload)
}

func (c *tcpClient) Close() error { return c.conn.Close() }

// framed reads and writes payloads behind their length, with buffers that are used again.
type framed struct {
	in, out []byte
}

func (f *framed) echo(w io.Writer, r io.Reader, payload []byte) error {
	if err := f.write(w, payload); err != nil {
		return err
	}
	answer, err := f.read(r)
	if err != nil {
		return err
	}
	return Check(payload, answer)
}

func (f *framed) write(w io.Writer, payload []byte) error {
	n := len(payload)
	f.out = append(f.out[:0], byte(n), byte(n>>8), byte(n>>16), byte(n>>24))
	f.out = append(f.out, payload...)
	_, err := w.Write(f.out)
	return err
}

// read returns a payload that is valid until the next read.
func (f *framed) read(r io.Reader) ([]byte, error) {
	var head [4]byte
	f.in = append(f.in[:0], head[:]...)
	if _, err := io.ReadFull(r, f.in); err != nil {
		return nil, err
	}
	n := int(f.in[0]) | int(f.in[1])<<8 | int(f.in[2])<<16 | int(f.in[3])<<24
	if cap(f.in) < n {
		f.in = make([]byte, n)
	}
	f.in = f.in[:n]
	_, err := io.ReadFull(r, f.in)
	return f.in, err
}
