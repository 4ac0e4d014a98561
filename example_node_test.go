package grid_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/subtle"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"time"

	"github.com/gridmesh/grid"
)

// Two nodes in one process. A node's name is the URL at which the others find its HTTP server.
func ExampleNewManager() {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()                      // ends the nodes
	const token = "secret of this grid" // contrib/gridauth has better ones
	var listeners []net.Listener
	var hosts []string
	for range 2 {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			log.Fatal(err)
		}
		defer l.Close()
		listeners = append(listeners, l)
		hosts = append(hosts, "http://"+l.Addr().String())
	}
	var nodes []*grid.Manager
	for i, l := range listeners {
		m, err := grid.NewManager(ctx, grid.ManagerOptions{
			Local:   hosts[i],
			Hosts:   hosts, // the same on all nodes
			AddAuth: func(string) string { return token },
			AuthRequest: func(r *http.Request) error {
				if subtle.ConstantTimeCompare([]byte(r.Header.Get("Authorization")), []byte("Bearer "+token)) != 1 {
					return errors.New("wrong token")
				}
				return nil
			},
			Logger: slog.New(slog.DiscardHandler), // slog.Default without it
		})
		if err != nil {
			log.Fatal(err)
		}
		mux := http.NewServeMux() // for what else the program serves
		mux.Handle(grid.RoutePath, m.Handler())
		go http.Serve(l, mux)
		nodes = append(nodes, m)
	}

	conn := nodes[0].Connection(hosts[1])
	if err := conn.WaitForConnect(ctx); err != nil {
		log.Fatal(err)
	}
	fmt.Println(conn.State(), conn.Remote == hosts[1])
	// Output: Connected true
}

// With mutual TLS each node proves that it is the host it says it is.
func ExampleVerifyPeerCertificate() {
	certificate, roots := certificateFor("127.0.0.1")
	servers := []*httptest.Server{httptest.NewUnstartedServer(nil), httptest.NewUnstartedServer(nil)}
	var hosts []string
	for _, s := range servers {
		hosts = append(hosts, "https://"+s.Listener.Addr().String())
	}
	var nodes []*grid.Manager
	for i, s := range servers {
		m, err := grid.NewManager(context.Background(), grid.ManagerOptions{
			Local:       hosts[i],
			Hosts:       hosts,
			TLSConfig:   &tls.Config{RootCAs: roots, Certificates: []tls.Certificate{certificate}},
			AuthRequest: func(*http.Request) error { return nil }, // the TLS handshake has verified the certificate
			VerifyPeer:  grid.VerifyPeerCertificate,               // and this, that it is for the host
			Logger:      slog.New(slog.DiscardHandler),
		})
		if err != nil {
			log.Fatal(err)
		}
		defer m.Close()
		s.Config.Handler = m.Handler()
		s.TLS = &tls.Config{
			Certificates: []tls.Certificate{certificate},
			ClientAuth:   tls.RequireAndVerifyClientCert,
			ClientCAs:    roots,
		}
		s.StartTLS()
		defer s.Close()
		nodes = append(nodes, m)
	}

	conn := nodes[0].Connection(hosts[1])
	if err := conn.WaitForConnect(context.Background()); err != nil {
		log.Fatal(err)
	}
	fmt.Println(conn.State())
	// Output: Connected
}

// certificateFor makes a certificate that is its own authority. Programs load those of their
// operator.
func certificateFor(ip string) (tls.Certificate, *x509.CertPool) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		log.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		NotAfter:     time.Now().Add(time.Hour),
		IPAddresses:  []net.IP{net.ParseIP(ip)},
		KeyUsage:     x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		IsCA:         true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		log.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		log.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(cert)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, roots
}

func ExampleManager_Shutdown() {
	here, there, cleanup := pair()
	defer cleanup()

	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	fmt.Println(here.Shutdown(ctx)) // what runs may finish until ctx ends

	conn := here.Connection(there.HostName())
	_, err := conn.Request(context.Background(), handlerEcho, nil)
	fmt.Println(conn.State(), errors.Is(err, grid.ErrShutdown))
	// Output:
	// <nil>
	// Shutdown true
}

// What runs when a node leaves may finish, and its answers arrive.
func ExampleManager_Shutdown_running() {
	here, there, cleanup := pair()
	defer cleanup()
	begun, finish := make(chan struct{}), make(chan struct{})
	err := there.RegisterSingleHandler(handlerSlow, func([]byte) ([]byte, *grid.RemoteErr) {
		close(begun)
		<-finish
		return []byte("done"), nil
	})
	if err != nil {
		log.Fatal(err)
	}
	answered := make(chan string)
	go func() {
		answer, err := here.Connection(there.HostName()).Request(context.Background(), handlerSlow, nil)
		answered <- fmt.Sprintf("%s %v", answer, err)
	}()
	<-begun

	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	ended := make(chan error)
	go func() { ended <- there.Shutdown(ctx) }() // a program does so at SIGTERM, before it ends its HTTP server
	close(finish)
	fmt.Println(<-answered)
	fmt.Println(<-ended)
	// Output:
	// done <nil>
	// <nil>
}

func ExampleManager_Stats() {
	here, there, cleanup := pair()
	defer cleanup()
	err := there.RegisterSingleHandler(handlerEcho, func(payload []byte) ([]byte, *grid.RemoteErr) {
		return payload, nil
	})
	if err != nil {
		log.Fatal(err)
	}

	conn := here.Connection(there.HostName())
	for range 3 {
		answer, err := conn.Request(context.Background(), handlerEcho, []byte("hello"))
		if err != nil {
			log.Fatal(err)
		}
		grid.PutByteBuffer(answer)
	}
	stats := here.Stats()
	for _, p := range stats.Peers {
		fmt.Println(p.State, p.Connects, p.In.Messages >= 3, p.LastError == "")
	}
	for _, h := range stats.Handlers {
		if h.Role == grid.RoleClient {
			fmt.Println(h.Calls, h.Errors.Total(), h.Latency.Quantile(0.5) > 0)
		}
	}
	// Output:
	// Connected 1 true true
	// 3 0 true
}

func ExampleManager_HealthHandler() {
	here, _, cleanup := pair()
	defer cleanup()

	mux := http.NewServeMux()
	mux.Handle("/health/", here.HealthHandler(grid.HealthOptions{Ready: grid.ReadyAll}))
	server := httptest.NewServer(mux)
	defer server.Close()

	resp, err := http.Get(server.URL + "/health/ready")
	if err != nil {
		log.Fatal(err)
	}
	resp.Body.Close()
	fmt.Println(resp.Status)
	// Output:
	// 200 OK
}
