package netgrid

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"

	"github.com/gridmesh/grid"
	"github.com/zeebo/xxh3"
)

var (
	// ErrCorrupt is the error of a transfer whose bytes are not those that were sent, by their
	// number or their hash.
	ErrCorrupt = errors.New("netgrid: what has arrived is not what was sent")
	// ErrMismatch is the error of a transfer that was to be resumed, where what the receiver has
	// is not the beginning of what the sender has.
	ErrMismatch = errors.New("netgrid: what is there already is not the beginning of this")
)

// Sum is the XXH3 hash of 128 bits of what was transferred, in the canonical order of its bytes. It
// tells damage, but not malice.
type Sum [16]byte

// String returns the sum in hexadecimal digits, as xxh128sum prints it.
func (s Sum) String() string { return hex.EncodeToString(s[:]) }

// Transfer is an upload or a download with options, and what has come of it. The zero value has
// none; each is for one transfer.
type Transfer struct {
	// Size is how many bytes an upload has. If it is 0, the reader is asked: an *os.File, a
	// *bytes.Reader and others know. A reader that does not know has as many as it has. If there
	// turn out to be more or less than were announced, the transfer fails.
	Size int64
	// Have is, for a download, what an earlier one has left. It is read to its end, and only what
	// follows is transferred, if it is the beginning of what the other node has: else the download
	// fails with ErrMismatch. For an upload, the handler decides: see Incoming.Resume.
	Have io.Reader
	// Progress is called after each MiB, and at the end, with the bytes that are there, counting
	// those that were there already, and how many there will be, or -1 if that is unknown. It is
	// called on the goroutine of the transfer, which it holds up.
	Progress func(bytes, size int64)

	// Bytes is how many bytes there are, once the transfer has ended without an error. Resumed is
	// how many of them were there before.
	Bytes, Resumed int64
	// Sum is the hash of all these bytes.
	Sum Sum
}

// Upload sends what r has to the handler that another node has for uploads under this name, with
// meta, which tells it what that is. It returns nil once the handler has got all of it, and returned
// without an error.
//
// It calls r on its own goroutine, and so does not return while a Read waits. The transfer ends
// with ctx. ctx may have a deadline, and metadata and a priority of the grid.
func Upload(ctx context.Context, conn *grid.Connection, name string, meta []byte, r io.Reader) error {
	return new(Transfer).Upload(ctx, conn, name, meta, r)
}

// Download writes to w what the handler that another node has for downloads under this name has for
// meta. If it returns an error, w may have got some of it. It returns nil once w has got all, and it
// is what was sent.
func Download(ctx context.Context, conn *grid.Connection, name string, meta []byte, w io.Writer) error {
	return new(Transfer).Download(ctx, conn, name, meta, w)
}

// run runs a transfer of size bytes, or -1, and keeps what has come of it. An error says what was to be
// done, and how far that was.
func (t *Transfer) run(ctx context.Context, what string, isNil bool, size int64, transfer func(ctx context.Context, n *tally) error) error {
	if ctx == nil || isNil {
		return fmt.Errorf("netgrid: %s: %w", what, errNil)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	n := &tally{size: size, progress: t.Progress}
	if err := transfer(ctx, n); err != nil {
		return fmt.Errorf("netgrid: %s, at byte %d: %w", what, n.bytes, err)
	}
	t.Bytes, t.Sum = n.bytes, n.sum()
	return nil
}

// tally counts and hashes the bytes of a transfer.
type tally struct {
	hash     xxh3.Hasher
	bytes    int64
	size     int64 // -1 if unknown
	told     int64 // bytes, at the last call of progress
	failed   error // why the sender has given up
	progress func(bytes, size int64)
}

// progressEvery is after how many bytes Progress is called.
const progressEvery = 1 << 20

func (t *tally) add(b []byte) {
	_, _ = t.hash.Write(b)
	t.bytes += int64(len(b))
	if t.progress != nil && t.bytes-t.told >= progressEvery {
		t.tell()
	}
}

// tell reports the progress, unless it is reported already.
func (t *tally) tell() {
	if t.progress != nil && (t.told != t.bytes || t.bytes == 0) {
		t.told = t.bytes
		t.progress(t.bytes, t.size)
	}
}

func (t *tally) sum() Sum { return t.hash.Sum128().Bytes() }

// addAll adds what r has.
func (t *tally) addAll(r io.Reader) error {
	told := t.progress
	t.progress = nil
	defer func() { t.progress, t.told = told, t.bytes }()
	_, err := io.Copy(adder{t}, r)
	return err
}

// adder is a tally as a writer.
type adder struct{ t *tally }

func (a adder) Write(b []byte) (int, error) {
	a.t.add(b)
	return len(b), nil
}

// part returns what there is.
func (t *tally) part() part {
	p := part{bytes: t.bytes}
	if p.bytes > 0 {
		p.sum = t.sum()
	}
	return p
}

// skip reads the part of r that the receiver has, if it is the beginning of r.
func (t *tally) skip(ctx context.Context, s stream, r io.Reader, have part) error {
	if have.bytes == 0 {
		return nil
	}
	if err := t.addAll(io.LimitReader(r, have.bytes)); err != nil {
		return t.giveUp(ctx, s, verdictFailed, err)
	}
	if t.part() != have {
		return t.giveUp(ctx, s, verdictMismatch, fmt.Errorf("%w: %d bytes", ErrMismatch, have.bytes))
	}
	return nil
}

// sendAll sends what r has as messages, and then the end.
func (t *tally) sendAll(ctx context.Context, s stream, r io.Reader) error {
	buf := newReadBuffer()
	defer func() { grid.PutByteBuffer(buf) }()
	for {
		n, err := fill(r, buf)
		if n > 0 {
			t.add(buf[:n])
			if err := s.send(ctx, buf[:n]); err != nil {
				return err
			}
		}
		switch err {
		case nil:
			buf = grown(buf)
		case io.EOF:
			if t.size >= 0 && t.bytes != t.size {
				err = fmt.Errorf("%w: there are %d bytes in place of %d", ErrCorrupt, t.bytes, t.size)
				return t.giveUp(ctx, s, verdictFailed, err)
			}
			t.tell()
			return t.sendEnd(ctx, s, ending{verdict: verdictWhole, bytes: t.bytes, sum: t.sum()})
		default:
			return t.giveUp(ctx, s, verdictFailed, err)
		}
	}
}

// fill reads until buf is full or r ends. Unlike io.ReadFull, it tells io.EOF of r from its
// io.ErrUnexpectedEOF, with which a body or an archive that was cut short ends.
func fill(r io.Reader, buf []byte) (n int, err error) {
	for n < len(buf) && err == nil {
		var more int
		more, err = r.Read(buf[n:])
		n += more
	}
	return n, err
}

// giveUp tells the other end why there is no more, and returns the error.
func (t *tally) giveUp(ctx context.Context, s stream, v verdict, err error) error {
	t.failed = err
	_ = t.sendEnd(ctx, s, ending{verdict: v, text: err.Error()}) // it learns of the end of the stream anyhow
	return err
}

// sendEnd sends what follows the bytes.
func (t *tally) sendEnd(ctx context.Context, s stream, e ending) error {
	if err := s.send(ctx, []byte{}); err != nil {
		return err
	}
	if err := s.send(ctx, e.encode()); err != nil {
		return err
	}
	return s.closeSend()
}

// receive returns the next bytes, which belong to the caller. It returns io.EOF once all of them
// have come, and are those that were sent.
func (t *tally) receive(ctx context.Context, s stream) ([]byte, error) {
	b, err := s.recv(ctx)
	switch {
	case err == io.EOF:
		return nil, fmt.Errorf("%w: it ended after %d bytes", ErrCorrupt, t.bytes)
	case err != nil:
		return nil, err
	case len(b) > 0:
		if t.add(b); t.size >= 0 && t.bytes > t.size {
			return nil, fmt.Errorf("%w: there are more than %d bytes", ErrCorrupt, t.size)
		}
		return b, nil
	}
	b, err = s.recv(ctx)
	if err != nil {
		return nil, unexpected(err)
	}
	defer grid.PutByteBuffer(b)
	e, err := parseEnding(b)
	switch {
	case err != nil:
		return nil, err
	case e.verdict == verdictMismatch:
		return nil, ErrMismatch
	case e.verdict != verdictWhole:
		return nil, fmt.Errorf("netgrid: the sender has failed: %.1000q", e.text)
	case e.bytes != t.bytes:
		return nil, fmt.Errorf("%w: %d bytes in place of %d", ErrCorrupt, t.bytes, e.bytes)
	case t.size >= 0 && t.size != t.bytes:
		return nil, fmt.Errorf("%w: %d bytes, announced were %d", ErrCorrupt, t.bytes, t.size)
	case e.sum != t.sum():
		return nil, fmt.Errorf("%w: XXH3 is %v in place of %v", ErrCorrupt, t.sum(), e.sum)
	}
	t.tell()
	return nil, io.EOF
}

// sizeOf returns how many bytes a reader has, and -1 if it does not know.
func sizeOf(r io.Reader) int64 {
	switch r := r.(type) {
	case interface{ Len() int }: // what is unread
		return int64(r.Len())
	case *io.LimitedReader:
		return -1 // it may have less
	case interface {
		io.Seeker
		Stat() (fs.FileInfo, error)
	}:
		info, err := r.Stat()
		if err != nil || !info.Mode().IsRegular() {
			return -1
		}
		at, err := r.Seek(0, io.SeekCurrent)
		if err != nil {
			return -1
		}
		return max(info.Size()-at, 0)
	}
	return -1
}

// unexpected replaces the end of a stream by an error.
func unexpected(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}
