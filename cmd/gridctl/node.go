package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"strings"
)

// nodeConfig is the configuration of gridctl node.
type nodeConfig struct {
	member memberConfig
	http   string

	httpHosts string
}

func (c *nodeConfig) flags() *flag.FlagSet {
	fs := newFlags("node")
	c.member.addTo(fs)
	fs.StringVar(&c.httpHosts, "http-hosts", "", "`names` that -http is reached by, with commas between them, beside that of -local,\nlocalhost and addresses: the status page answers to no others")
	fs.StringVar(&c.http, "http", "", "an `address` for the status page and for /health/live and /health/ready, such as localhost:8080;\nwho reaches it can read all (default: none)")
	return fs
}

// runNode runs a node until ctx ends.
func runNode(ctx context.Context, args []string, _, stderr io.Writer) error {
	var c nodeConfig
	if err := parse(c.flags(), args); err != nil {
		return err
	}
	if err := c.member.check(); err != nil {
		return err
	}
	c.member.warn("node", stderr)
	listener, err := listen(&c.member)
	if err != nil {
		return err
	}
	var page *statusPage
	if c.http != "" {
		if page, err = newStatusPage(c.http); err != nil {
			listener.Close()
			return err
		}
		defer page.close()
	}
	log := slog.New(slog.NewTextHandler(stderr, nil))
	n, err := startMember(&c.member, listener, nil, log)
	if err != nil {
		listener.Close()
		return refused(err)
	}
	log.Info("node is up", "local", c.member.local, "listen", listener.Addr().String(),
		"others", strings.Join(n.Targets(), ","), "tls", c.member.serverTLS != nil, "secret", c.member.secret != "")
	if c.member.secret == "" {
		log.Warn("everybody who reaches this node can join; -secret-file keeps others out")
	}
	if page != nil {
		page.add("/", n.Manager, strings.FieldsFunc(c.httpHosts, func(r rune) bool { return r == ',' || r == ' ' })...)
		page.serve()
		log.Info("status page", "url", page.url("/"))
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
