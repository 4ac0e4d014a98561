package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"strings"

	"github.com/gridmesh/grid/cmd/gridctl/internal/dump"
)

// dumpConfig is the configuration of gridctl dump.
type dumpConfig struct {
	names    string
	payloads bool
	json     bool
	listen   string
	to       string
}

func (c *dumpConfig) flags() *flag.FlagSet {
	fs := newFlags("dump")
	fs.StringVar(&c.names, "names", "", "the `names` of methods, with commas between them: the wire has hashes of them, which\nare shown as #0123 for others")
	fs.BoolVar(&c.payloads, "payloads", false, "show payloads and metadata too, which may be secret")
	fs.BoolVar(&c.json, "json", false, "print a line of JSON for each message")
	fs.StringVar(&c.listen, "listen", "", "stand in front of a node, in place of reading a capture: the `address` to listen on, host:port")
	fs.StringVar(&c.to, "to", "", "with -listen, the `address` of the node, to which all is passed on")
	return fs
}

// runDump prints what nodes say to each other, in a capture or through a relay.
func runDump(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	var c dumpConfig
	rest, err := parseMixed(c.flags(), args)
	switch {
	case err != nil:
		return err
	case c.listen != "" || c.to != "":
		if len(rest) > 0 || c.listen == "" || c.to == "" {
			return cannotStart("to stand in front of a node, give -listen and -to, and no capture; see gridctl help dump")
		}
		return c.relay(ctx, stdout, stderr)
	case len(rest) != 1:
		return cannotStart("give one capture, in the pcap or the pcapng format, or - for standard input; see gridctl help dump")
	}
	return c.read(ctx, rest[0], stdout, stderr)
}

// read prints what a capture has.
func (c *dumpConfig) read(ctx context.Context, file string, stdout, stderr io.Writer) error {
	in := io.Reader(os.Stdin)
	if file != "-" {
		f, err := os.Open(file)
		if err != nil {
			return cannotStart("cannot read the capture: %v", err)
		}
		defer f.Close()
		in = f
	}
	sum, err := dump.Read(in, c.options(func(l *dump.Line) error {
		if ctx.Err() != nil {
			return errInterrupted
		}
		return c.print(stdout, l)
	}))
	if err != nil {
		return err
	}
	fmt.Fprintf(stderr, "gridctl dump: %s messages on %d of %d connections, in %s packets\n",
		thousands(uint64(sum.Messages)), sum.Grid, sum.Connections, thousands(uint64(sum.Packets)))
	if sum.Messages == 0 && sum.TLS == 0 {
		return errors.New("there is no grid in it; was the right port captured, with all bytes of the packets (tcpdump -s 0)?")
	}
	return nil
}

// relay prints what goes to and from a node, until the program is to end.
func (c *dumpConfig) relay(ctx context.Context, stdout, stderr io.Writer) error {
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", c.listen)
	if err != nil {
		return cannotStart("cannot listen: %v", err)
	}
	fmt.Fprintf(stderr, "gridctl dump: passing on what comes to %s to %s\n", l.Addr(), c.to)
	sum, err := dump.Relay(ctx, l, c.to, c.options(func(l *dump.Line) error { return c.print(stdout, l) }))
	fmt.Fprintf(stderr, "gridctl dump: %s messages on %d of %d connections\n", thousands(uint64(sum.Messages)), sum.Grid, sum.Connections)
	return err
}

func (c *dumpConfig) options(each func(*dump.Line) error) dump.Options {
	o := dump.Options{Payloads: c.payloads, Each: each}
	for name := range strings.SplitSeq(c.names, ",") {
		if name = strings.TrimSpace(name); name != "" {
			o.Names = append(o.Names, name)
		}
	}
	return o
}

func (c *dumpConfig) print(w io.Writer, l *dump.Line) error {
	if c.json {
		if !c.payloads {
			l.Metadata = nil
		}
		return json.NewEncoder(w).Encode(l)
	}
	parts := []string{l.Time.Local().Format("15:04:05.000000"), l.From + " > " + l.To}
	if l.Op != "-" {
		parts = append(parts, l.Op)
	}
	if l.MuxID != 0 {
		parts = append(parts, fmt.Sprintf("mux %d", l.MuxID))
	}
	if l.Handler != "" {
		parts = append(parts, l.Handler)
	}
	if l.Flags != "" {
		parts = append(parts, l.Flags)
	}
	if l.Size > 0 {
		parts = append(parts, fmt.Sprintf("%d B", l.Size))
	}
	if l.Detail != "" {
		parts = append(parts, l.Detail)
	}
	if len(l.Payload) > 0 {
		parts = append(parts, fmt.Sprintf("%q", l.Payload))
	}
	if c.payloads && len(l.Metadata) > 0 {
		parts = append(parts, fmt.Sprintf("metadata %q", l.Metadata))
	}
	if l.Wrong != "" {
		parts = append(parts, "WRONG: "+l.Wrong)
	}
	_, err := fmt.Fprintln(w, oneLine(errors.New(strings.Join(parts, "  "))))
	return err
}
