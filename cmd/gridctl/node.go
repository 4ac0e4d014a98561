package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"

	"github.com/gridmesh/grid"
	"github.com/gridmesh/grid/debugz"
	"github.com/gridmesh/grid/discovery"
)

// nodeConfig is the configuration of gridctl node.
type nodeConfig struct {
	member memberConfig
	http   string

	httpHosts string
	tools     bool
	discover  discoverConfig
}

func (c *nodeConfig) flags() *flag.FlagSet {
	fs := newFlags("node")
	c.member.addTo(fs)
	c.member.addGuests(fs)
	fs.StringVar(&c.httpHosts, "http-hosts", "", "`names` that -http is reached by, with commas between them, beside that of -local,\nlocalhost and addresses: the status page answers to no others")
	fs.BoolVar(&c.tools, "tools", false, "answer gridctl call -list and gridctl tap: whoever may connect can see who calls what")
	c.discover.addTo(fs)
	fs.StringVar(&c.http, "http", "", "an `address` for the status page and for /health/live and /health/ready, such as localhost:8080;\nwho reaches it can read all (default: none)")
	return fs
}

// runNode runs a node until ctx ends.
func runNode(ctx context.Context, args []string, _, stderr io.Writer) error {
	var c nodeConfig
	if err := parse(c.flags(), args); err != nil {
		return err
	}
	if c.discover.from != "" && c.member.hostList == "" && c.member.join == "" {
		c.member.hostList = c.member.local
	}
	if err := c.member.check(); err != nil {
		return err
	}
	source, err := c.discover.source(&c.member)
	if err != nil {
		return err
	}
	c.member.warn("node", stderr)
	var page *statusPage
	if c.http != "" {
		if page, err = newStatusPage(c.http); err != nil {
			return err
		}
		defer page.close()
		c.member.page = page.urlAt(c.member.local)
	}
	log := slog.New(slog.NewTextHandler(stderr, nil))
	n, err := c.start(log)
	if err != nil {
		return err
	}
	if c.member.secret == "" && c.member.join == "" {
		log.Warn("everybody who reaches this node can join; -secret-file keeps others out")
	}
	if page != nil {
		page.add("/", n.Manager, strings.FieldsFunc(c.httpHosts, func(r rune) bool { return r == ',' || r == ' ' })...)
		page.serve()
		log.Info("status page", "url", page.url("/"))
	}
	if source != nil {
		var discovering sync.WaitGroup
		defer discovering.Wait()
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		runner := discovery.Runner{Logger: log}
		discovering.Go(func() { runner.Run(ctx, n.Manager, source) })
	}
	select {
	case err := <-n.serveErr:
		n.Close()
		return fmt.Errorf("the server has ended: %w", err)
	case <-ctx.Done():
	}
	log.Info("node is stopping; a second signal ends it at once", "limit", shutdownTime)
	if err := n.stop(shutdownTime); err != nil {
		log.Warn("node did not wait any longer", "reason", err)
	}
	log.Info("node has stopped")
	return nil
}

// handlers returns what registers the handlers of the node.
func (c *nodeConfig) handlers() []func(*grid.Manager) error {
	all := []func(*grid.Manager) error{c.member.registerHandlers}
	if c.tools { // for whoever has the secret
		all = append(all, func(m *grid.Manager) error {
			return debugz.RegisterTools(m, func(string) bool { return true })
		})
	}
	return all
}

// start starts the node: a host that listens, or a guest, which does not.
func (c *nodeConfig) start(log *slog.Logger) (*member, error) {
	if c.member.join != "" {
		n, err := startGuest(&c.member, log, c.handlers()...)
		if err != nil {
			return nil, refused(err)
		}
		log.Info("guest is up", "local", c.member.local, "servers", strings.Join(n.Targets(), ","), "secret", c.member.secret != "")
		return n, nil
	}
	listener, err := listen(&c.member)
	if err != nil {
		return nil, err
	}
	n, err := startMember(&c.member, listener, nil, log, c.handlers()...)
	if err != nil {
		listener.Close()
		return nil, refused(err)
	}
	log.Info("node is up", "local", c.member.local, "listen", listener.Addr().String(), "others", strings.Join(n.Targets(), ","),
		"tls", c.member.serverTLS != nil, "secret", c.member.secret != "", "guests", c.member.acceptGuests)
	return n, nil
}
