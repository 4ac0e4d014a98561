package netgrid

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/gridmesh/grid"
)

// Upload is the function Upload with the options of t.
func (t *Transfer) Upload(ctx context.Context, conn *grid.Connection, name string, meta []byte, r io.Reader) error {
	what := fmt.Sprintf("upload %s to %s", name, nodeOf(conn))
	return t.run(ctx, what, r == nil, t.Size, func(ctx context.Context, n *tally) error {
		return t.upload(ctx, conn, name, meta, r, n)
	})
}

func (t *Transfer) upload(ctx context.Context, conn *grid.Connection, name string, meta []byte, r io.Reader, n *tally) error {
	if n.size == 0 {
		n.size = sizeOf(r)
	}
	s, err := open(ctx, conn, name, opening{size: n.size, meta: meta}.encode())
	if err != nil {
		return err
	}
	want, err := receiveTerms(ctx, s)
	if err != nil {
		return err
	}
	t.Resumed = want.have.bytes
	if err = n.skip(ctx, s, r, want.have); err == nil {
		err = n.sendAll(ctx, s, r)
	}
	// What the handler says counts more than that nothing could be sent to it, but less than what
	// has gone wrong here.
	said := awaitEnd(ctx, s)
	return cmp.Or(n.failed, said, err)
}

// receiveTerms receives the first message of a handler.
func receiveTerms(ctx context.Context, s stream) (terms, error) {
	b, err := s.recv(ctx)
	if err != nil {
		return terms{}, unexpected(err)
	}
	defer grid.PutByteBuffer(b)
	return parseTerms(b)
}

// awaitEnd waits for the handler to return. It returns the handler's error.
func awaitEnd(ctx context.Context, s stream) error {
	b, err := s.recv(ctx)
	grid.PutByteBuffer(b)
	switch err {
	case nil:
		return errTransfer // there must not be anything more
	case io.EOF:
		return nil
	}
	return err
}

// HandleUpload registers a handler for uploads under a name, which must differ from those of all
// other methods of m. handle gets what comes in, and what its context tells of the caller, as other
// handlers do. If it returns an error, the upload fails with that.
//
// handle has all of an upload once in has returned io.EOF, and only then. If it returns nil before,
// the upload fails all the same.
func HandleUpload(m *grid.Manager, name string, handle func(ctx context.Context, in *Incoming) error) error {
	if handle == nil {
		return fmt.Errorf("netgrid: no handler for uploads of %s", name)
	}
	return serve(m, name, func(ctx context.Context, payload []byte, s stream) error {
		o, err := parseOpening(payload)
		if err != nil {
			return err
		}
		in := &Incoming{Meta: o.meta, Size: o.size, ctx: ctx, stream: s, tally: tally{size: o.size}}
		if err := handle(ctx, in); err != nil {
			return err
		}
		return in.finish()
	})
}

// Incoming is an upload at its handler: an io.Reader of what comes in. It belongs to one goroutine,
// and ends with the handler.
type Incoming struct {
	// Meta is what the uploader has told of it.
	Meta []byte
	// Size is how many bytes there will be, or -1 if that is unknown.
	Size int64

	ctx    context.Context
	stream stream
	tally  tally
	begun  bool   // the uploader has been told where to begin
	buffer []byte // of the pool
	unread []byte // part of buffer
	err    error  // io.EOF if all has come
}

var (
	errLate = errors.New("netgrid: an upload is resumed before its first Read, once")
	errLeft = errors.New("netgrid: the handler has returned before it had read everything")
)

// Resume skips what an earlier upload has left. It reads that to its end, which it returns: there the
// bytes go that are yet to come. They come only if what is there is the beginning of what the
// uploader has. Otherwise Read returns ErrMismatch, and Upload too.
//
// It is called before the first Read, once. If have cannot be read, nothing is skipped.
func (in *Incoming) Resume(have io.Reader) (offset int64, err error) {
	if in.begun {
		return 0, errLate
	}
	if err := in.tally.addAll(have); err != nil {
		in.tally = tally{size: in.Size} // a Read then gets all
		return 0, err
	}
	return in.tally.bytes, in.begin()
}

// begin tells the uploader where to begin.
func (in *Incoming) begin() error {
	if in.begun {
		return nil
	}
	in.begun = true
	t := terms{size: -1, have: in.tally.part()}
	return in.stream.send(in.ctx, t.encode())
}

// Read reads what comes in. It returns io.EOF once everything has come, and is what was sent.
func (in *Incoming) Read(b []byte) (n int, err error) {
	if err := in.fetch(); err != nil {
		return 0, err
	}
	n = copy(b, in.unread)
	in.consume(n)
	return n, nil
}

// WriteTo writes to w what comes in, until that is all. It is used by io.Copy.
func (in *Incoming) WriteTo(w io.Writer) (total int64, err error) {
	for {
		err := in.fetch()
		if err == io.EOF {
			return total, nil
		}
		if err != nil {
			return total, err
		}
		n, err := writeAll(w, in.unread)
		in.consume(n)
		total += int64(n)
		if err != nil {
			return total, err
		}
	}
}

// fetch sees to it that there is something unread.
func (in *Incoming) fetch() error {
	if len(in.unread) > 0 {
		return nil
	}
	if in.err == nil {
		in.err = in.begin()
	}
	if in.err == nil {
		in.buffer, in.err = in.tally.receive(in.ctx, in.stream)
		in.unread = in.buffer
	}
	return in.err
}

func (in *Incoming) consume(n int) {
	if in.unread = in.unread[n:]; len(in.unread) == 0 {
		grid.PutByteBuffer(in.buffer)
		in.buffer = nil
	}
}

// Sum is the hash of all bytes, once Read has returned io.EOF; before that, of those that have come.
func (in *Incoming) Sum() Sum { return in.tally.sum() }

// finish sees to it that everything has come, after the handler has returned nil.
func (in *Incoming) finish() error {
	switch err := in.fetch(); err {
	case io.EOF:
		return nil
	case nil:
		return fmt.Errorf("%w: %d bytes had come", errLeft, in.tally.bytes)
	default:
		return err
	}
}
