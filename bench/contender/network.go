package contender

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"math/big"
	"net"
	"sync"
	"time"
)

// listen returns a listener for each node of this process, and the addresses of all nodes.
func (s Setup) listen() (here []net.Listener, addrs []string, err error) {
	if s.Part != nil {
		return s.Part.Listeners, s.Part.Addrs, nil
	}
	for range s.Nodes {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			closeAll(here)
			return nil, nil, err
		}
		here = append(here, l)
		addrs = append(addrs, l.Addr().String())
	}
	return here, addrs, nil
}

// listenSecure is listen, with TLS if that is asked for.
func (s Setup) listenSecure() (here []net.Listener, addrs []string, err error) {
	here, addrs, err = s.listen()
	if err != nil || !s.TLS {
		return here, addrs, err
	}
	server, _, err := tlsConfigs()
	if err != nil {
		closeAll(here)
		return nil, nil, err
	}
	for i, l := range here {
		here[i] = tls.NewListener(l, server)
	}
	return here, addrs, nil
}

// first returns the number of the first node of this process.
func (s Setup) first() int {
	if s.Part == nil {
		return 0
	}
	return s.Part.First
}

// via returns where to dial for the node that listens at addr.
func (s Setup) via(addr string) string {
	if s.Part != nil {
		if other, ok := s.Part.Via[addr]; ok {
			return other
		}
	}
	return addr
}

// dial connects to a listener of listenSecure.
func (s Setup) dial(addr string) (net.Conn, error) {
	addr = s.via(addr)
	if !s.TLS {
		return net.Dial("tcp", addr)
	}
	_, client, err := tlsConfigs()
	if err != nil {
		return nil, err
	}
	return tls.Dial("tcp", addr, client)
}

// tlsConfigs returns the sides of a TLS connection to 127.0.0.1, with a certificate for this
// process.
func tlsConfigs() (server, client *tls.Config, err error) {
	s, err := newTLSSides()
	return s.server, s.client, err
}

type tlsSides struct{ server, client *tls.Config }

var newTLSSides = sync.OnceValues(func() (sides tlsSides, err error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return sides, err
	}
	template := &x509.Certificate{
		SerialNumber:          big.NewInt(1),
		NotAfter:              time.Now().Add(24 * time.Hour),
		IPAddresses:           []net.IP{net.IPv4(127, 0, 0, 1)},
		IsCA:                  true,
		BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return sides, err
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return sides, err
	}
	roots := x509.NewCertPool()
	roots.AddCert(leaf)
	sides.server = &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}
	sides.client = &tls.Config{RootCAs: roots}
	return sides, nil
})

// links has a connection for each ordered pair of nodes, made when it is first asked for.
type links[C io.Closer] struct {
	dial func(from, to int) (C, error)

	mu  sync.Mutex // Protects following.
	all map[[2]int]C
}

func newLinks[C io.Closer](dial func(from, to int) (C, error)) *links[C] {
	return &links[C]{dial: dial, all: make(map[[2]int]C)}
}

func (l *links[C]) get(from, to int) (C, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if c, ok := l.all[[2]int{from, to}]; ok {
		return c, nil
	}
	c, err := l.dial(from, to)
	if err == nil {
		l.all[[2]int{from, to}] = c
	}
	return c, err
}

func (l *links[C]) close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	var errs []error
	for _, c := range l.all {
		errs = append(errs, c.Close())
	}
	clear(l.all)
	return errors.Join(errs...)
}

func closeAll[C io.Closer](all []C) {
	for _, c := range all {
		c.Close()
	}
}

// accept gives each connection of l to serve, on a goroutine of its own, until l is closed.
func accept(l net.Listener, serve func(net.Conn)) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go serve(c)
	}
}
