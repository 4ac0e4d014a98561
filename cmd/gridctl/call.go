package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/gridmesh/grid"
	"github.com/gridmesh/grid/debugz"
)

// callConfig is the configuration of gridctl call.
type callConfig struct {
	target   targetConfig
	subroute string
	metadata metadataFlag
	file     string
	format   string
	timeout  time.Duration
	list     bool
	json     bool
	verbose  bool

	// Of streams.
	stream   bool
	messages string
	in, out  int

	// From the arguments.
	handler string
	body    []byte
}

func (c *callConfig) flags() *flag.FlagSet {
	c.timeout, c.in, c.out = 30*time.Second, defaultCapacity, defaultCapacity
	c.metadata = make(metadataFlag)
	fs := newFlags("call")
	c.target.addTo(fs, "the `URL` of the node to call")
	fs.StringVar(&c.subroute, "subroute", "", "the `route` that the handler is on, such as disks/sda (default: none)")
	fs.Var(c.metadata, "H", "`metadata` to send along, as \"key: value\"; once for each value")
	fs.StringVar(&c.file, "file", "", "a `file` with the body, - for standard input (default: the argument behind the handler, or none)")
	fs.StringVar(&c.format, "format", "raw", "the `form` of body and answer: raw bytes, json, or msgp: JSON here and MessagePack on the wire,\nwhere {\"$bytes\": \"aGk=\"} stands for bytes, here in base64")
	fs.Var((*duration)(&c.timeout), "timeout", "how long the call may take, a `time`; 0s for as long as it wants")
	fs.BoolVar(&c.list, "list", false, "list the node's handlers, in place of a call")
	fs.BoolVar(&c.json, "json", false, "print the answer, the code, header and trailer as JSON, in one line; that of each message of a stream in one before")
	fs.BoolVar(&c.verbose, "v", false, "print the code, header and trailer on standard error, also if all went well")
	fs.BoolVar(&c.stream, "stream", false, "open a stream and print its messages, one in each line")
	fs.StringVar(&c.messages, "messages", "", "a `file` with messages for a stream, one in each line, - for standard input (default: none)")
	fs.IntVar(&c.in, "in-capacity", c.in, "the InCapacity of a stream handler with a `number`; 0 if it takes no messages")
	fs.IntVar(&c.out, "out-capacity", c.out, "the OutCapacity of a stream handler with a `number`; it counts with nodes of the original")
	return fs
}

// defaultCapacity is what a node of the original has for streams that are opened by name.
const defaultCapacity = 16

// metadataFlag is a flag of metadata.
type metadataFlag grid.Metadata

func (m metadataFlag) String() string { return "" }

func (m metadataFlag) Set(text string) error {
	key, value, ok := strings.Cut(text, ":")
	if key = strings.TrimSpace(key); !ok || key == "" {
		return errors.New("want \"key: value\"")
	}
	grid.Metadata(m).Add(key, strings.TrimSpace(value))
	return nil
}

// parseMixed parses flags that may stand between, and behind, other arguments.
func parseMixed(fs *flag.FlagSet, args []string) (rest []string, err error) {
	for {
		err := fs.Parse(args)
		switch {
		case errors.Is(err, flag.ErrHelp):
			return nil, errHelp
		case err != nil:
			return nil, cannotStart("%v; see gridctl help %s", err, fs.Name())
		case fs.NArg() == 0:
			return rest, nil
		}
		if n := len(args) - fs.NArg(); n > 0 && args[n-1] == "--" {
			return append(rest, fs.Args()...), nil
		}
		rest, args = append(rest, fs.Arg(0)), fs.Args()[1:]
	}
}

// runCall calls a handler of a node.
func runCall(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	var c callConfig
	rest, err := parseMixed(c.flags(), args)
	if err != nil {
		return err
	}
	if err := c.check(rest); err != nil {
		return err
	}
	c.target.member.warn("call", stderr)
	n, err := c.target.connect(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = n.stop(time.Second) }() // nothing runs any more
	conn := n.Connection(c.target.targets[0])
	if c.list {
		return c.printHandlers(ctx, conn, stdout)
	}
	if len(c.metadata) > 0 {
		ctx = grid.WithMetadata(ctx, grid.Metadata(c.metadata))
	}
	p := &answerPrinter{stdout: stdout, stderr: stderr, config: &c, began: time.Now()}
	err = c.call(ctx, n, conn, p)
	if err := p.end(err); err != nil {
		return err
	}
	if ctx.Err() != nil {
		return errInterrupted
	}
	return c.explain(ctx, conn, err)
}

func (c *callConfig) check(args []string) error {
	switch {
	case c.list && len(args) > 0:
		return cannotStart("unexpected argument %q: -list lists all handlers", args[0])
	case c.list:
	case len(args) == 0:
		return cannotStart("the handler is missing; its name, such as kv.Get, or its number comes behind the flags, and -list lists all")
	case len(args) > 2:
		return cannotStart("unexpected argument %q: behind the handler comes the body, in one argument; see gridctl help call", args[2])
	case len(args) == 2 && c.file != "":
		return cannotStart("a body as an argument and -file; give one of them")
	case formats[c.format] == nil:
		return cannotStart("-format %s is not known; use raw, json or msgp", c.format)
	case c.timeout < 0:
		return cannotStart("-timeout %v is negative", c.timeout)
	case c.in < 0 || c.out < 0:
		return cannotStart("-in-capacity and -out-capacity cannot be negative")
	case c.messages != "" && !c.stream:
		return cannotStart("-messages is for streams; give -stream too")
	case c.messages == "-" && c.file == "-":
		return cannotStart("-file and -messages are both standard input")
	default:
		c.handler = args[0]
	}
	if err := c.target.check(); err != nil {
		return err
	}
	if len(c.target.targets) > 1 {
		return cannotStart("-to has several nodes; call one")
	}
	if c.list {
		return nil
	}
	return c.readBody(args[1:])
}

// readBody reads what to send.
func (c *callConfig) readBody(args []string) (err error) {
	var text []byte
	switch {
	case len(args) > 0:
		text = []byte(args[0])
	case c.file == "-":
		text, err = io.ReadAll(os.Stdin)
	case c.file != "":
		text, err = os.ReadFile(c.file)
	}
	if err != nil {
		return cannotStart("cannot read -file: %v", err)
	}
	if c.body, err = formats[c.format].encode(text); err != nil {
		return cannotStart("the body: %v", err)
	}
	return nil
}

// number returns the ID of a handler that is given as a number.
func number(handler string) (grid.HandlerID, bool) {
	n, err := strconv.ParseUint(handler, 10, 8)
	return grid.HandlerID(n), err == nil
}

// knowStream registers a handler as it is at the other node: streams with numbers need that. Nobody
// calls it here.
func (c *callConfig) knowStream(m *grid.Manager, id grid.HandlerID) error {
	return m.RegisterStreamingHandler(id, grid.StreamHandler{
		Subroute: c.subroute, InCapacity: c.in, OutCapacity: c.out,
		Handle: func(context.Context, []byte, <-chan []byte, chan<- []byte) *grid.RemoteErr {
			return grid.NewRemoteErrString("gridctl call serves nobody")
		},
	})
}

// callee is a connection, or a subroute of it.
type callee interface {
	grid.Caller
	grid.Opener
	grid.Requester
	grid.Streamer
}

// call makes the call.
func (c *callConfig) call(ctx context.Context, n *member, conn *grid.Connection, p *answerPrinter) error {
	if c.timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, c.timeout)
		defer cancel()
	} else {
		ctx = grid.WithoutDeadline(ctx)
	}
	id, numbered := c.id(ctx, conn)
	ctx, p.metadata = grid.WithAnswerMetadata(ctx)
	var to callee = conn
	if c.subroute != "" {
		to = conn.Subroute(c.subroute)
	}
	var b []byte
	var err error
	switch {
	case c.stream && numbered:
		if err := c.knowStream(n.Manager, id); err != nil {
			return err
		}
		return c.readStream(ctx, p, func(ctx context.Context) (*grid.Stream, error) { return to.NewStream(ctx, id, c.body) })
	case c.stream:
		return c.readStream(ctx, p, func(ctx context.Context) (*grid.Stream, error) { return to.OpenStream(ctx, c.handler, c.body) })
	case numbered:
		b, err = to.Request(ctx, id, c.body)
	default:
		b, err = to.Call(ctx, c.handler, c.body)
	}
	if err != nil {
		return err
	}
	return p.message(b)
}

// id returns the ID of the handler, if it is one with a number: given as such, or by the name that
// the node has for it.
func (c *callConfig) id(ctx context.Context, conn *grid.Connection) (id grid.HandlerID, ok bool) {
	if id, ok := number(c.handler); ok {
		return id, true
	}
	if conn.HandlesMethod(c.handler) || conn.Subroute(c.subroute).HandlesMethod(c.handler) {
		return 0, false
	}
	told, _ := debugz.Handlers(ctx, conn) // where it tells
	for _, h := range told {
		if h.Name == c.handler && h.Subroute == c.subroute && h.ID != grid.HandlerNamed {
			return h.ID, true
		}
	}
	for i := range int(grid.HandlerUserFirst) { // those of the original have one name everywhere
		if id := grid.HandlerID(i); id.String() == c.handler {
			return id, true
		}
	}
	return 0, false
}

// readStream opens a stream, sends what there is to send, and prints what comes.
func (c *callConfig) readStream(ctx context.Context, p *answerPrinter, open func(context.Context) (*grid.Stream, error)) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	st, err := open(ctx)
	if err != nil {
		return err
	}
	go func() {
		if err := c.send(st); err != nil {
			cancel(err)
		}
	}()
	return st.Results(p.message)
}

// send sends the messages of a stream, and ends them. It returns what is wrong with them.
func (c *callConfig) send(st *grid.Stream) error {
	in := io.Reader(os.Stdin)
	switch c.messages {
	case "":
		_ = st.CloseSend()
		return nil
	case "-":
	default:
		f, err := os.Open(c.messages)
		if err != nil {
			return err
		}
		defer f.Close()
		in = f
	}
	err := eachLine(in, func(line []byte) error {
		b, err := formats[c.format].encode(line)
		if err != nil {
			return fmt.Errorf("a message: %w", err)
		}
		if st.Send(b) != nil {
			return io.EOF // which Results tells
		}
		return nil
	})
	if err == nil {
		_ = st.CloseSend()
	}
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

// explain adds what helps to an error of a call.
func (c *callConfig) explain(ctx context.Context, conn *grid.Connection, err error) error {
	if err == nil {
		return nil
	}
	var e *grid.Error
	said := ""
	if errors.As(err, &e) && e.Remote {
		said = " (the handler says so)"
	}
	hint := ""
	if errors.Is(err, grid.ErrUnknownHandler) {
		id, numbered := c.id(ctx, conn)
		switch has := numbered && conn.Handles(id) || !numbered && conn.HandlesMethod(c.handler); {
		case has && c.stream:
			hint = "; it is a handler of requests: leave out -stream"
		case has:
			hint = "; it is a handler of streams: give -stream"
		default:
			hint = "; gridctl call -to " + conn.Remote + " -list lists its handlers"
		}
	}
	return fmt.Errorf("%s: %w%s%s", grid.CodeOf(err).String(), err, said, hint)
}
