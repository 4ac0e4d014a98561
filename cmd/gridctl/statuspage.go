package main

import (
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"syscall"
	"time"

	"github.com/gridmesh/grid"
	"github.com/gridmesh/grid/debugz"
)

// statusPage serves what debugz shows of nodes, and their health, on an address of its own.
type statusPage struct {
	listener net.Listener
	server   *http.Server
	mux      *http.ServeMux
}

// newStatusPage listens on address, without a page yet.
func newStatusPage(address string) (*statusPage, error) {
	l, err := net.Listen("tcp", address)
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return nil, cannotStart("-http %s is already in use; give another address", address)
	case err != nil:
		return nil, cannotStart("cannot listen on -http %s: %v", address, err)
	}
	p := &statusPage{listener: l, mux: http.NewServeMux()}
	p.server = &http.Server{
		Handler:           p.mux,
		ReadHeaderTimeout: requestTime,
		ReadTimeout:       requestTime,
		IdleTimeout:       time.Minute, // a page asks again each second, and less often in the background
		MaxHeaderBytes:    maxHeader,
		ErrorLog:          slog.NewLogLogger(slog.DiscardHandler, slog.LevelWarn),
	}
	return p, nil
}

// add shows a node under a path that starts and ends with a slash, at some more names than those
// that debugz knows.
func (p *statusPage) add(path string, m *grid.Manager, hosts ...string) {
	p.mux.Handle(path, debugz.Handler(m, debugz.Options{Cluster: true, Hosts: hosts}))
	p.mux.Handle(path+"health/", m.HealthHandler(grid.HealthOptions{}))
}

// serve starts to answer.
func (p *statusPage) serve() { go p.server.Serve(p.listener) }

// url is where a path is served.
func (p *statusPage) url(path string) string {
	host, port, err := net.SplitHostPort(p.listener.Addr().String())
	if err != nil {
		return p.listener.Addr().String()
	}
	if ip := net.ParseIP(host); ip.IsUnspecified() {
		host = "localhost"
	}
	return "http://" + net.JoinHostPort(host, port) + path
}

// urlAt is where others reach the page: at the host of a node's name if it is on all of its addresses.
func (p *statusPage) urlAt(node string) string {
	host, port, err := net.SplitHostPort(p.listener.Addr().String())
	if u, nodeErr := url.Parse(node); err == nil && nodeErr == nil && u.Host != "" && net.ParseIP(host).IsUnspecified() {
		return "http://" + net.JoinHostPort(u.Hostname(), port) + "/"
	}
	return p.url("/")
}

// close ends the pages. A nil page has none.
func (p *statusPage) close() {
	if p != nil {
		p.server.Close()
		p.listener.Close() // also where it was never served
	}
}
