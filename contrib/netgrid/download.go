package netgrid

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/gridmesh/grid"
)

// Download is the function Download with the options of t.
func (t *Transfer) Download(ctx context.Context, conn *grid.Connection, name string, meta []byte, w io.Writer) error {
	what := fmt.Sprintf("download %s from %s", name, nodeOf(conn))
	return t.run(ctx, what, w == nil, -1, func(ctx context.Context, n *tally) error {
		return t.download(ctx, conn, name, meta, w, n)
	})
}

func (t *Transfer) download(ctx context.Context, conn *grid.Connection, name string, meta []byte, w io.Writer, n *tally) error {
	if t.Have != nil {
		if err := n.addAll(t.Have); err != nil {
			return fmt.Errorf("reading what is there already: %w", err)
		}
	}
	have := n.part()
	t.Resumed = have.bytes
	s, err := open(ctx, conn, name, opening{size: -1, have: have, meta: meta}.encode())
	if err != nil {
		return err
	}
	if err := s.closeSend(); err != nil {
		return err
	}
	offer, err := receiveTerms(ctx, s)
	if err != nil {
		return err
	}
	if offer.have != have {
		return errTransfer
	}
	for n.size = offer.size; ; {
		b, err := n.receive(ctx, s)
		if err == io.EOF {
			return awaitEnd(ctx, s)
		}
		if err != nil {
			return err
		}
		_, err = writeAll(w, b)
		grid.PutByteBuffer(b)
		if err != nil {
			return err
		}
	}
}

// HandleDownload registers a handler for downloads under a name, which must differ from those of all
// other methods of m. handle returns what is to be sent for meta, as its context tells of the caller.
// What it returns is closed in the end, if it is an io.Closer. If it is an *os.File or a
// *bytes.Reader, say, the downloader learns the size at once. If handle returns an error, the
// download fails with that.
//
// A download that is resumed reads the beginning too, to compare it.
func HandleDownload(m *grid.Manager, name string, handle func(ctx context.Context, meta []byte) (io.Reader, error)) error {
	if handle == nil {
		return fmt.Errorf("netgrid: no handler for downloads of %s", name)
	}
	return serve(m, name, func(ctx context.Context, payload []byte, s stream) error {
		o, err := parseOpening(payload)
		if err != nil {
			return err
		}
		r, err := handle(ctx, o.meta)
		if err != nil {
			return err
		}
		if r == nil {
			return errNothing
		}
		if c, ok := r.(io.Closer); ok {
			defer c.Close()
		}
		n := &tally{size: sizeOf(r)}
		if err := s.send(ctx, terms{size: n.size, have: o.have}.encode()); err != nil {
			return err
		}
		if err := n.skip(ctx, s, r, o.have); err != nil {
			return err
		}
		return n.sendAll(ctx, s, r)
	})
}

var errNothing = errors.New("netgrid: the handler has returned nothing to download")

// writeAll writes b. An io.Writer need not be a good one.
func writeAll(w io.Writer, b []byte) (n int, err error) {
	n, err = w.Write(b)
	if n < 0 || n > len(b) {
		return 0, errors.New("netgrid: invalid count of a Write")
	}
	if err == nil && n < len(b) {
		err = io.ErrShortWrite
	}
	return n, err
}
