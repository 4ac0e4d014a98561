package main

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strconv"

	"github.com/gridmesh/grid"
)

const (
	handlerEcho = grid.HandlerUserFirst + iota
	handlerWho
	handlerRoute
	handlerFail
	handlerPanic
	handlerWait
	handlerState
	handlerMetadata
	handlerHash
	handlerGive
	handlerNobody

	handlerCount
	handlerAdd
	handlerMirror
	handlerFailLate
	handlerEarly
	handlerWaitStream
	handlerHold
	handlerNoStream

	handlerTyped
	handlerShallow
	handlerTypedStream
)

var (
	typed       = grid.NewSingleHandler(handlerTyped, grid.NewMSS, grid.NewMSS)
	shallow     = grid.NewSingleHandler(handlerShallow, grid.NewMSS, grid.NewMSS).WithMaxDepth(2)
	typedStream = grid.NewStream(handlerTypedStream, grid.NewMSS, grid.NewMSS, grid.NewMSS).WithInCapacity(2).WithOutCapacity(3)
)

// stream is a handler's side of a stream.
type stream interface {
	Recv() ([]byte, error)
	Send(b []byte) error
	CloseSend()
}

// register registers all handlers.
func (n *node) register() error {
	raw := func(h func(ctx context.Context, payload []byte, in <-chan []byte, out chan<- []byte) error, id grid.HandlerID, in, out int) error {
		return n.RegisterStreamingHandler(id, grid.StreamHandler{
			InCapacity: in, OutCapacity: out,
			Handle: func(ctx context.Context, payload []byte, in <-chan []byte, out chan<- []byte) *grid.RemoteErr {
				return grid.NewRemoteErr(h(ctx, payload, in, out))
			},
		})
	}
	single := func(h func(ctx context.Context, payload []byte) ([]byte, error), id grid.HandlerID, subroute ...string) error {
		return n.RegisterSingleHandlerContext(id, answering(h), subroute...)
	}
	return errors.Join(
		n.RegisterSingleHandler(handlerEcho, func(b []byte) ([]byte, *grid.RemoteErr) { return b, nil }),
		single(who, handlerWho),
		single(route, handlerRoute, "disks", "sda"),
		single(fail, handlerFail),
		single(func(context.Context, []byte) ([]byte, error) { panic("as it was told") }, handlerPanic),
		single(n.wait, handlerWait),
		single(n.stateOf, handlerState),
		single(metadata, handlerMetadata),
		single(hash, handlerHash),
		single(give, handlerGive),

		raw(count, handlerCount, 0, 4),
		raw(add, handlerAdd, 4, 1),
		raw(mirror, handlerMirror, 3, 5),
		raw(failLate, handlerFailLate, 0, 1),
		raw(early, handlerEarly, 1, 1),
		raw(n.waitStream, handlerWaitStream, 1, 1),
		raw(n.holdOn, handlerHold, 0, 1),

		typed.Register(n.Manager, func(req *grid.MSS) (*grid.MSS, *grid.RemoteErr) {
			return grid.NewMSSWith(map[string]string{"was": req.Get("is")}), nil
		}),
		shallow.Register(n.Manager, func(*grid.MSS) (*grid.MSS, *grid.RemoteErr) {
			return nil, grid.NewRemoteErrString("the handler has run")
		}),
		typedStream.Register(n.Manager, func(_ context.Context, p *grid.MSS, in <-chan *grid.MSS, out chan<- *grid.MSS) *grid.RemoteErr {
			for req := range in {
				out <- grid.NewMSSWith(map[string]string{"got": p.Get("prefix") + req.Get("n")})
			}
			return nil
		}),

		registerMethod(n.Manager, "compat.Echo", func(_ context.Context, payload []byte) ([]byte, error) { return payload, nil }),
		registerMethod(n.Manager, "disks/sda/compat.Echo", func(_ context.Context, payload []byte) ([]byte, error) { return payload, nil }),
		registerMethod(n.Manager, "compat.Fail", func(context.Context, []byte) ([]byte, error) { return nil, notFound("no key 1", "in the index") }),
		registerMethod(n.Manager, "compat.Tell", tell),
		registerMethodStream(n.Manager, "compat.Mirror", mirrorMethod),
		registerMethodStream(n.Manager, "compat.Halves", halves),
		registerMethodStream(n.Manager, "compat.Wait", n.waitMethod),
	)
}

func who(ctx context.Context, _ []byte) ([]byte, error) {
	_, bounded := ctx.Deadline()
	return fmt.Appendf(nil, "%s, deadline: %v", grid.GetCaller(ctx).Name, bounded), nil
}

func route(ctx context.Context, _ []byte) ([]byte, error) {
	return []byte(grid.GetSubroute(ctx)), nil
}

func fail(_ context.Context, payload []byte) ([]byte, error) {
	return nil, fmt.Errorf("no key %q", payload)
}

// metadata answers with the first value of a key, or with all where the payload asks for them.
func metadata(ctx context.Context, payload []byte) ([]byte, error) {
	md := grid.MetadataFrom(ctx)
	if len(payload) > 0 {
		return fmt.Append(nil, md["user"]), nil
	}
	return []byte(md.Get("user")), nil
}

func hash(_ context.Context, payload []byte) ([]byte, error) {
	return fmt.Appendf(nil, "%x", sha256.Sum256(payload)), nil
}

// give answers with as many bytes as the payload says.
func give(_ context.Context, payload []byte) ([]byte, error) {
	size, err := strconv.Atoi(string(payload))
	return pattern(size), err
}

// pattern returns bytes of which no two stretches are alike.
func pattern(size int) []byte {
	b := make([]byte, 0, size+8)
	for i := uint64(0); len(b) < size; i++ {
		b = binary.LittleEndian.AppendUint64(b, i*0x9e3779b97f4a7c15)
	}
	return b[:size]
}

// States of a handler that waits for the end of its context, which stateOf tells.
const (
	isRunning = "running"
	hasEnded  = "has ended"
)

func (n *node) wait(ctx context.Context, key []byte) ([]byte, error) {
	n.setState(key, isRunning)
	<-ctx.Done()
	n.setState(key, hasEnded)
	return nil, nil
}

func (n *node) setState(key []byte, state string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.states[string(key)] = state
}

func (n *node) stateOf(_ context.Context, key []byte) ([]byte, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return []byte(n.states[string(key)]), nil
}

// tell answers with metadata.
func tell(ctx context.Context, _ []byte) ([]byte, error) {
	setHeader(ctx, "served-by", "the handler")
	setTrailer(ctx, "took", "no time")
	return []byte("told"), nil
}

// count sends as many numbers as the payload says.
func count(ctx context.Context, payload []byte, _ <-chan []byte, out chan<- []byte) error {
	last, err := strconv.Atoi(string(payload))
	for i := range last {
		select {
		case out <- strconv.AppendInt(nil, int64(i), 10):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return err
}

// add returns the sum of what it receives.
func add(_ context.Context, _ []byte, in <-chan []byte, out chan<- []byte) error {
	sum := 0
	for b := range in {
		i, err := strconv.Atoi(string(b))
		if err != nil {
			return err
		}
		sum += i
	}
	out <- strconv.AppendInt(nil, int64(sum), 10)
	return nil
}

func mirror(_ context.Context, _ []byte, in <-chan []byte, out chan<- []byte) error {
	for b := range in {
		out <- b
	}
	return nil
}

func failLate(_ context.Context, _ []byte, _ <-chan []byte, out chan<- []byte) error {
	out <- []byte("one")
	out <- []byte("two")
	return errors.New("no third one")
}

// early returns while its caller still sends.
func early(_ context.Context, _ []byte, in <-chan []byte, _ chan<- []byte) error {
	<-in
	return errors.New("one is enough")
}

func (n *node) waitStream(ctx context.Context, key []byte, _ <-chan []byte, out chan<- []byte) error {
	out <- []byte("running")
	_, err := n.wait(ctx, key)
	return err
}

// holdOn runs until the node is told to release it.
func (n *node) holdOn(_ context.Context, _ []byte, _ <-chan []byte, out chan<- []byte) error {
	out <- []byte("running")
	<-n.release
	out <- []byte("done")
	return nil
}

func mirrorMethod(ctx context.Context, _ []byte, st stream) error {
	setHeader(ctx, "served-by", "the handler")
	setTrailer(ctx, "took", "no time")
	for {
		b, err := st.Recv()
		if err != nil {
			return atEnd(err)
		}
		if err := st.Send(b); err != nil {
			return err
		}
	}
}

// halves ends its messages, and then counts those of the caller.
func halves(_ context.Context, _ []byte, st stream) error {
	if err := st.Send([]byte("no more")); err != nil {
		return err
	}
	st.CloseSend()
	for n := 0; ; n++ {
		if _, err := st.Recv(); err != nil {
			if err := atEnd(err); err != nil {
				return err
			}
			return fmt.Errorf("%d came", n)
		}
	}
}

func (n *node) waitMethod(ctx context.Context, key []byte, st stream) error {
	if err := st.Send([]byte("running")); err != nil {
		return err
	}
	_, err := n.wait(ctx, key)
	return err
}

// atEnd is no error at the end of a caller's messages.
func atEnd(err error) error {
	if err == io.EOF {
		return nil
	}
	return err
}
