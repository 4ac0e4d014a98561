// Command node is a node that others of earlier and later states of the library are tested with. It
// is built with each of them, so it keeps to what they have in common; files with build tags have
// what differs.
//
// The first line of its input is a config, in JSON. Each other one is a command. It writes reports,
// in JSON too, and ends in good order when the command "shutdown" has been carried out, or at once
// at the end of its input.
package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/gridmesh/grid"
)

// patience bounds every wait for what has to come.
const patience = 30 * time.Second

// config is what a node has to know.
type config struct {
	Local      string
	Hosts      []string
	Guest      bool // of the first host
	MaxMessage int  // bytes
	Cert, Key  string
}

// report is a line of the output.
type report struct {
	Kind      string
	Name      string // of the scenario
	Got, Want string
}

type node struct {
	*grid.Manager
	release chan struct{} // closed when handlers that hold may return

	mu     sync.Mutex // Protects following.
	out    *json.Encoder
	states map[string]string // of handlers that wait, by the keys of their calls
}

func main() {
	log.SetFlags(log.Lmicroseconds)
	input := bufio.NewScanner(os.Stdin)
	input.Scan()
	var c config
	if err := json.Unmarshal(input.Bytes(), &c); err != nil {
		log.Fatal(err)
	}
	n := &node{release: make(chan struct{}), out: json.NewEncoder(os.Stdout), states: make(map[string]string)}
	if err := n.start(c); err != nil {
		log.Fatal(err)
	}
	n.tell(report{Kind: "up"})
	for input.Scan() {
		command := strings.Fields(input.Text())
		switch command[0] {
		case "check":
			atOnce, err := strconv.Atoi(command[2])
			if err != nil {
				log.Fatal(err)
			}
			n.check(command[1], atOnce, command[3:])
		case "hold":
			n.hold(command[1])
		case "refused":
			n.refused(command[1])
		case "shutdown":
			go n.shutdown()
		case "release":
			close(n.release)
		}
	}
}

// start starts the node and its server.
func (n *node) start(c config) (err error) {
	pool := x509.NewCertPool()
	if pem, err := os.ReadFile(c.Cert); err == nil {
		pool.AppendCertsFromPEM(pem)
	}
	o := grid.ManagerOptions{
		Local:       c.Local,
		Hosts:       c.Hosts,
		AuthRequest: func(*http.Request) error { return nil },
		TLSConfig:   &tls.Config{RootCAs: pool},
		Limits:      grid.Limits{MaxMessageSize: c.MaxMessage},
		Logger:      slog.New(slog.NewTextHandler(os.Stderr, nil)),
	}
	if c.Guest {
		n.Manager, err = join(c.Hosts[0], o)
		return err
	}
	if n.Manager, err = grid.NewManager(context.Background(), o); err != nil {
		return err
	}
	if err := n.register(); err != nil {
		return err
	}
	local, err := url.Parse(c.Local)
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp", local.Host)
	if err != nil {
		return err
	}
	routes := http.NewServeMux()
	routes.Handle(grid.RoutePath, n.Handler())
	server := &http.Server{Handler: routes, ReadHeaderTimeout: patience, TLSNextProto: map[string]func(*http.Server, *tls.Conn, http.Handler){}}
	if local.Scheme == "https" {
		go func() { log.Fatal(server.ServeTLS(l, c.Cert, c.Key)) }()
	} else {
		go func() { log.Fatal(server.Serve(l)) }()
	}
	return nil
}

func (n *node) tell(r report) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if err := n.out.Encode(r); err != nil {
		log.Fatal(err)
	}
}

// hold opens a stream that ends when the peer is told to release it. It returns once its handler
// runs.
func (n *node) hold(peer string) {
	st, err := n.Connection(peer).NewStream(context.Background(), handlerHold, nil)
	if err != nil {
		n.tell(report{Kind: "held", Got: err.Error()})
		return
	}
	go func() {
		var got []string
		err := st.Results(func(b []byte) error {
			if string(b) == "running" {
				n.tell(report{Kind: "held", Got: string(b), Want: "running"})
			}
			got = append(got, string(b))
			return nil
		})
		n.tell(report{Kind: "released", Got: fmt.Sprint(got, err), Want: "[running done] <nil>"})
	}()
}

// refused calls a peer that shuts down until it refuses calls.
func (n *node) refused(peer string) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for {
		_, err := n.Connection(peer).Request(ctx, handlerEcho, nil)
		if err != nil {
			n.tell(report{Kind: "refused", Got: fmt.Sprint(errors.Is(err, grid.ErrShutdown), err), Want: "true " + err.Error()})
			return
		}
	}
}

func (n *node) shutdown() {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := n.Shutdown(ctx); err != nil {
		log.Fatal(err)
	}
	n.tell(report{Kind: "down"})
	os.Exit(0)
}
