package contender

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
)

// httpIdle is how many connections a client keeps, enough for all callers.
const httpIdle = 256

var http1 = Contender{
	Name:   "http/1.1",
	About:  "net/http with a kept connection for each caller",
	Shared: true,
	Start: func(s Setup) (Nodes, error) {
		var p http.Protocols
		p.SetHTTP1(true)
		return startHTTP(s, &p)
	},
}

var h2c = Contender{
	Name:   "h2c",
	About:  "net/http with HTTP/2 without TLS, one connection",
	Shared: true,
	Start: func(s Setup) (Nodes, error) {
		var p http.Protocols
		p.SetUnencryptedHTTP2(true)
		return startHTTP(s, &p)
	},
}

type httpNodes struct {
	listeners []net.Listener
	servers   []*http.Server
	clients   []*http.Client // by node
}

func startHTTP(s Setup, p *http.Protocols) (Nodes, error) {
	listeners, _, err := s.listen()
	if err != nil {
		return nil, err
	}
	n := &httpNodes{listeners: listeners}
	for _, l := range listeners {
		server := &http.Server{Handler: http.HandlerFunc(echoHTTP), Protocols: p}
		n.servers = append(n.servers, server)
		go server.Serve(l)
		n.clients = append(n.clients, &http.Client{Transport: &http.Transport{
			Protocols:           p,
			MaxIdleConns:        0,
			MaxIdleConnsPerHost: httpIdle,
			DisableCompression:  true,
		}})
	}
	return n, nil
}

var httpBuffers = sync.Pool{New: func() any { return new(bytes.Buffer) }}

func echoHTTP(w http.ResponseWriter, r *http.Request) {
	b := httpBuffers.Get().(*bytes.Buffer)
	defer httpBuffers.Put(b)
	b.Reset()
	if _, err := b.ReadFrom(r.Body); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	w.Header().Set("Content-Length", fmt.Sprint(b.Len()))
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Write(b.Bytes())
}

func (n *httpNodes) Client(from, to int) (Client, error) {
	return httpClient{n.clients[from], "http://" + n.listeners[to].Addr().String() + "/echo"}, nil
}

func (n *httpNodes) Close() error {
	var errs []error
	for _, c := range n.clients {
		c.CloseIdleConnections()
	}
	for _, s := range n.servers {
		errs = append(errs, s.Close())
	}
	return errors.Join(errs...)
}

type httpClient struct {
	client *http.Client
	url    string
}

func (c httpClient) Echo(payload []byte) error {
	resp, err := c.client.Post(c.url, "application/octet-stream", bytes.NewReader(payload))
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	b := httpBuffers.Get().(*bytes.Buffer)
	defer httpBuffers.Put(b)
	b.Reset()
	if _, err := io.Copy(b, resp.Body); err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return errors.New(resp.Status)
	}
	return Check(payload, b.Bytes())
}

func (httpClient) Close() error { return nil }
