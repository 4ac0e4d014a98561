package contender

import (
	"context"
	"io"
	"net"
	"sync"

	"github.com/hashicorp/yamux"
	"github.com/xtaci/smux"
)

var yamuxContender = Contender{
	Name:    "yamux",
	About:   "a yamux stream for each call",
	Module:  "github.com/hashicorp/yamux",
	Streams: true,
	TLS:     true,
	Shared:  true,
	Start:   func(s Setup) (Nodes, error) { return startMuxer(s, yamuxServer, yamuxClient) },
}

var smuxContender = Contender{
	Name:    "smux",
	About:   "a smux stream for each call",
	Module:  "github.com/xtaci/smux",
	Streams: true,
	TLS:     true,
	Shared:  true,
	Start:   func(s Setup) (Nodes, error) { return startMuxer(s, smuxServer, smuxClient) },
}

// muxSession is a connection that carries streams of bytes.
type muxSession interface {
	Open() (io.ReadWriteCloser, error)
	Accept() (io.ReadWriteCloser, error)
	Close() error
}

// What comes first on a stream.
const (
	muxEcho byte = iota
	muxSource
)

type muxerNodes struct {
	listeners []net.Listener
	links     *links[muxSession]
}

func startMuxer(s Setup, server, client func(net.Conn) (muxSession, error)) (Nodes, error) {
	listeners, addrs, err := s.listenSecure()
	if err != nil {
		return nil, err
	}
	for _, l := range listeners {
		go accept(l, func(c net.Conn) {
			session, err := server(c)
			if err != nil {
				c.Close()
				return
			}
			defer session.Close()
			for {
				st, err := session.Accept()
				if err != nil {
					return
				}
				go serveMuxStream(st)
			}
		})
	}
	return &muxerNodes{listeners, newLinks(func(_, to int) (muxSession, error) {
		c, err := s.dial(addrs[to])
		if err != nil {
			return nil, err
		}
		return client(c)
	})}, nil
}

func (n *muxerNodes) Client(from, to int) (Client, error) {
	session, err := n.links.get(from, to)
	return muxClient{session}, err
}

func (n *muxerNodes) Close() error {
	closeAll(n.listeners)
	return n.links.close()
}

// framedPool has the buffers of callers and handlers.
var framedPool = sync.Pool{New: func() any { return new(framed) }}

func serveMuxStream(st io.ReadWriteCloser) error {
	defer st.Close()
	f := framedPool.Get().(*framed)
	defer framedPool.Put(f)
	payload, err := f.read(st)
	if err != nil {
		return err
	}
	kind, payload := payload[0], payload[1:]
	if kind == muxEcho {
		return f.write(st, payload)
	}
	o, err := decodeOrder(payload)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	if o.Hold || o.Messages == 0 {
		go func() {
			st.Read(make([]byte, 1)) // until the other end closes
			st.Close()
			cancel()
		}()
	}
	message := make([]byte, o.Size)
	return o.produce(ctx, func() error { return f.write(st, message) })
}

type muxClient struct{ session muxSession }

func (c muxClient) Echo(payload []byte) error {
	st, err := c.session.Open()
	if err != nil {
		return err
	}
	defer st.Close()
	f := framedPool.Get().(*framed)
	defer framedPool.Put(f)
	if err := f.writeKind(st, muxEcho, payload); err != nil {
		return err
	}
	answer, err := f.read(st)
	if err != nil {
		return err
	}
	return Check(payload, answer)
}

func (c muxClient) Stream(ctx context.Context, o Order, each func(size int) bool) error {
	st, err := c.session.Open()
	if err != nil {
		return err
	}
	defer st.Close()
	defer context.AfterFunc(ctx, func() { st.Close() })()
	var f framed
	if err := f.writeKind(st, muxSource, o.encode()); err != nil {
		return err
	}
	return consume(func() (int, error) {
		b, err := f.read(st)
		return len(b), err
	}, each)
}

func (muxClient) Close() error { return nil }

// writeKind is write with a byte before the payload.
func (f *framed) writeKind(w io.Writer, kind byte, payload []byte) error {
	n := len(payload) + 1
	f.out = append(f.out[:0], byte(n), byte(n>>8), byte(n>>16), byte(n>>24), kind)
	f.out = append(f.out, payload...)
	_, err := w.Write(f.out)
	return err
}

type yamuxSession struct{ *yamux.Session }

func (s yamuxSession) Open() (io.ReadWriteCloser, error)   { return s.OpenStream() }
func (s yamuxSession) Accept() (io.ReadWriteCloser, error) { return s.AcceptStream() }

func yamuxServer(c net.Conn) (muxSession, error) {
	s, err := yamux.Server(c, yamuxConfig())
	return yamuxSession{s}, err
}

func yamuxClient(c net.Conn) (muxSession, error) {
	s, err := yamux.Client(c, yamuxConfig())
	return yamuxSession{s}, err
}

func yamuxConfig() *yamux.Config {
	config := yamux.DefaultConfig()
	config.LogOutput = io.Discard
	return config
}

type smuxSession struct{ *smux.Session }

func (s smuxSession) Open() (io.ReadWriteCloser, error)   { return s.OpenStream() }
func (s smuxSession) Accept() (io.ReadWriteCloser, error) { return s.AcceptStream() }

func smuxServer(c net.Conn) (muxSession, error) {
	s, err := smux.Server(c, smuxConfig())
	return smuxSession{s}, err
}

func smuxClient(c net.Conn) (muxSession, error) {
	s, err := smux.Client(c, smuxConfig())
	return smuxSession{s}, err
}

// smuxConfig has version 2, which has flow control for each stream.
func smuxConfig() *smux.Config {
	config := smux.DefaultConfig()
	config.Version = 2
	return config
}
