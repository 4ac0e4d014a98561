package netgrid_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/zeebo/xxh3"

	"github.com/gridmesh/grid"
	"github.com/gridmesh/grid/contrib/netgrid"
)

const (
	up   = "test.Put"
	down = "test.Get"
)

// got is what a handler of uploads has got.
type got struct {
	meta string
	size int64
	body []byte
	sum  netgrid.Sum
	err  error
}

// receiver handles uploads to a node, and passes on what it got.
func receiver(t *testing.T, m *grid.Manager, read func(in *netgrid.Incoming) ([]byte, error)) <-chan got {
	t.Helper()
	all := make(chan got, 1)
	err := netgrid.HandleUpload(m, up, func(_ context.Context, in *netgrid.Incoming) error {
		body, err := read(in)
		all <- got{string(in.Meta), in.Size, body, in.Sum(), err}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func readAll(in *netgrid.Incoming) ([]byte, error) { return io.ReadAll(in) }

// copyAll reads with WriteTo.
func copyAll(in *netgrid.Incoming) ([]byte, error) {
	var b bytes.Buffer
	_, err := io.Copy(struct{ io.Writer }{&b}, in)
	return b.Bytes(), err
}

func sumOf(b []byte) netgrid.Sum { return xxh3.Hash128(b).Bytes() }

var sizes = []int{0, 1, 511, 32<<10 - 1, 32 << 10, 32<<10 + 1, 256<<10 - 257, 256<<10 - 256, 256<<10 - 255, 480<<10 - 256, 1 << 20, 3<<20 + 17}

// unsized is a reader that does not know its size.
type unsized struct{ io.Reader }

func TestUploadsArriveWhole(t *testing.T) {
	g := nodes(t, 2)
	read := readAll
	all := receiver(t, g.Managers[1], func(in *netgrid.Incoming) ([]byte, error) { return read(in) })
	for _, n := range sizes {
		for _, known := range []bool{false, true} {
			body := noise(n)
			var r io.Reader = bytes.NewReader(body)
			size := int64(n)
			if !known {
				r, size = unsized{iotest.HalfReader(r)}, -1
				read = copyAll
			}
			meta := fmt.Sprint(n, known)
			var progress []int64
			tr := netgrid.Transfer{Progress: func(bytes, total int64) {
				if total != size {
					t.Errorf("%s: progress of %d bytes", meta, total)
				}
				progress = append(progress, bytes)
			}}
			if err := tr.Upload(t.Context(), between(g, 0, 1), up, []byte(meta), r); err != nil {
				t.Fatalf("%s: %v", meta, err)
			}
			it := <-all
			if it.meta != meta || it.size != size || !bytes.Equal(it.body, body) || it.sum != sumOf(body) {
				t.Errorf("%s: %s, %d, %d bytes, %v", meta, it.meta, it.size, len(it.body), it.sum)
			}
			if tr.Bytes != int64(n) || tr.Resumed != 0 || tr.Sum != sumOf(body) {
				t.Errorf("%s: the uploader has %d, %d, %v", meta, tr.Bytes, tr.Resumed, tr.Sum)
			}
			checkProgress(t, progress, 0, int64(n))
			read = readAll
		}
	}
	nothingRuns(t, g)
}

// checkProgress checks that there is a report for each MiB, and one of the end.
func checkProgress(t *testing.T, progress []int64, from, to int64) {
	t.Helper()
	if len(progress) == 0 || progress[len(progress)-1] != to {
		t.Errorf("progress: %d, want up to %d", progress, to)
	}
	for i, n := range progress {
		if n-from > 1<<20+256<<10 || n < from || i > 0 && n == from {
			t.Errorf("progress: %d", progress)
		}
		from = n
	}
}

func TestDownloadsArriveWhole(t *testing.T) {
	g := nodes(t, 2)
	file := filepath.Join(t.TempDir(), "file")
	err := netgrid.HandleDownload(g.Managers[1], down, func(_ context.Context, meta []byte) (io.Reader, error) {
		body, err := os.ReadFile(file)
		if string(meta) == "unsized" {
			return unsized{iotest.OneByteReader(bytes.NewReader(body))}, err
		}
		if err != nil {
			return nil, err
		}
		return os.Open(file)
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range sizes {
		for _, meta := range []string{"sized", "unsized"} {
			body := noise(n)
			if err := os.WriteFile(file, body, 0o600); err != nil {
				t.Fatal(err)
			}
			want := int64(n)
			if meta == "unsized" {
				want = -1
			}
			var progress []int64
			tr := netgrid.Transfer{Progress: func(bytes, size int64) {
				if size != want {
					t.Errorf("%d %s: progress of %d bytes", n, meta, size)
				}
				progress = append(progress, bytes)
			}}
			var b bytes.Buffer
			if err := tr.Download(t.Context(), between(g, 0, 1), down, []byte(meta), &b); err != nil {
				t.Fatalf("%d %s: %v", n, meta, err)
			}
			if !bytes.Equal(b.Bytes(), body) || tr.Bytes != int64(n) || tr.Sum != sumOf(body) {
				t.Errorf("%d %s: %d bytes, %v", n, meta, tr.Bytes, tr.Sum)
			}
			checkProgress(t, progress, 0, int64(n))
		}
	}
	nothingRuns(t, g)
}

func TestTheSumIsWhatXxh128sumPrints(t *testing.T) {
	// printf hello | xxh128sum
	if got, want := sumOf([]byte("hello")).String(), "b5e9c1ad071b3e7fc779cfaa5e523818"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

func TestAnUploadIsResumedWhereTheLastOneEnded(t *testing.T) {
	g := nodes(t, 2)
	body := noise(3 << 20)
	var have []byte
	all := receiver(t, g.Managers[1], func(in *netgrid.Incoming) ([]byte, error) {
		offset, err := in.Resume(bytes.NewReader(have))
		if err != nil || offset != int64(len(have)) {
			return nil, fmt.Errorf("Resume: %d, %w", offset, err)
		}
		if _, err := in.Resume(bytes.NewReader(have)); err == nil {
			t.Error("an upload is resumed twice")
		}
		return io.ReadAll(in)
	})
	for _, n := range []int{0, 1, 1 << 20, len(body) - 1, len(body)} {
		have = body[:n]
		var progress []int64
		tr := netgrid.Transfer{Progress: func(bytes, _ int64) { progress = append(progress, bytes) }}
		if err := tr.Upload(t.Context(), between(g, 0, 1), up, nil, bytes.NewReader(body)); err != nil {
			t.Fatalf("%d: %v", n, err)
		}
		it := <-all
		if !bytes.Equal(it.body, body[n:]) || it.sum != sumOf(body) || it.size != int64(len(body)) {
			t.Errorf("%d: got %d of %d bytes, %v", n, len(it.body), it.size, it.sum)
		}
		if tr.Bytes != int64(len(body)) || tr.Resumed != int64(n) || tr.Sum != sumOf(body) {
			t.Errorf("%d: the uploader has %d, %d, %v", n, tr.Bytes, tr.Resumed, tr.Sum)
		}
		if n < len(body) {
			checkProgress(t, progress, int64(n), int64(len(body)))
		}
	}
	nothingRuns(t, g)
}

// What could not be read is not there: the handler may take all in its place.
func TestAnUploadIsWholeWhereItCouldNotBeResumed(t *testing.T) {
	g := nodes(t, 2)
	body, own := noise(100<<10), errors.New("out of paper")
	all := receiver(t, g.Managers[1], func(in *netgrid.Incoming) ([]byte, error) {
		have := io.MultiReader(bytes.NewReader(body[:1000]), iotest.ErrReader(own))
		if _, err := in.Resume(have); !errors.Is(err, own) {
			t.Errorf("Resume: %v", err)
		}
		return io.ReadAll(in)
	})
	if err := netgrid.Upload(t.Context(), between(g, 0, 1), up, nil, bytes.NewReader(body)); err != nil {
		t.Error(err)
	}
	if it := <-all; it.err != nil || !bytes.Equal(it.body, body) {
		t.Errorf("got %d bytes of %d, %v", len(it.body), len(body), it.err)
	}
}

func TestADownloadIsResumedWhereTheLastOneEnded(t *testing.T) {
	g := nodes(t, 2)
	body := noise(3 << 20)
	if err := netgrid.HandleDownload(g.Managers[1], down, func(context.Context, []byte) (io.Reader, error) {
		return bytes.NewReader(body), nil
	}); err != nil {
		t.Fatal(err)
	}
	for _, n := range []int{0, 1, 1 << 20, len(body) - 1, len(body)} {
		tr := netgrid.Transfer{Have: bytes.NewReader(body[:n])}
		var rest bytes.Buffer
		if err := tr.Download(t.Context(), between(g, 0, 1), down, nil, &rest); err != nil {
			t.Fatalf("%d: %v", n, err)
		}
		if !bytes.Equal(rest.Bytes(), body[n:]) || tr.Bytes != int64(len(body)) || tr.Resumed != int64(n) || tr.Sum != sumOf(body) {
			t.Errorf("%d: got %d; %d, %d, %v", n, rest.Len(), tr.Bytes, tr.Resumed, tr.Sum)
		}
	}
	nothingRuns(t, g)
}

func TestOnlyTheBeginningOfTheSameIsResumed(t *testing.T) {
	g := nodes(t, 2)
	body := noise(1 << 20)
	other := bytes.Clone(body[:1000])
	other[500] ^= 1
	var have []byte
	all := receiver(t, g.Managers[1], func(in *netgrid.Incoming) ([]byte, error) {
		if _, err := in.Resume(bytes.NewReader(have)); err != nil {
			return nil, err
		}
		return io.ReadAll(in)
	})
	if err := netgrid.HandleDownload(g.Managers[1], down, func(context.Context, []byte) (io.Reader, error) {
		return bytes.NewReader(body), nil
	}); err != nil {
		t.Fatal(err)
	}
	for _, have = range [][]byte{other, append(bytes.Clone(body), 'x')} {
		err := netgrid.Upload(t.Context(), between(g, 0, 1), up, nil, bytes.NewReader(body))
		if !errors.Is(err, netgrid.ErrMismatch) {
			t.Errorf("Upload: %v", err)
		}
		if it := <-all; !errors.Is(it.err, netgrid.ErrMismatch) || len(it.body) > 0 {
			t.Errorf("the handler got %d bytes and %v", len(it.body), it.err)
		}
		tr := netgrid.Transfer{Have: bytes.NewReader(have)}
		var b bytes.Buffer
		if err := tr.Download(t.Context(), between(g, 0, 1), down, nil, &b); !errors.Is(err, netgrid.ErrMismatch) || b.Len() > 0 {
			t.Errorf("Download: %v, with %d bytes", err, b.Len())
		}
	}
	nothingRuns(t, g)
}

func TestAnUploadFailsWithWhatWentWrong(t *testing.T) {
	own := errors.New("out of paper")
	broken := io.MultiReader(bytes.NewReader(noise(100<<10)), iotest.ErrReader(own))
	for _, c := range []struct {
		name    string
		read    func(*netgrid.Incoming) ([]byte, error)
		tr      netgrid.Transfer
		r       io.Reader
		text    string // in the error of Upload
		is      error
		handler string // in the error of the handler
	}{
		{
			"the handler fails at once", func(*netgrid.Incoming) ([]byte, error) { return nil, own },
			netgrid.Transfer{},
			bytes.NewReader(noise(64 << 20)), "out of paper", nil, "out of paper",
		},
		{"the handler fails later", func(in *netgrid.Incoming) ([]byte, error) {
			io.ReadFull(in, make([]byte, 1000))
			return nil, own
		}, netgrid.Transfer{}, bytes.NewReader(noise(64 << 20)), "out of paper", nil, "out of paper"},
		{"the handler returns too early", func(in *netgrid.Incoming) ([]byte, error) {
			b := make([]byte, 1000)
			_, err := io.ReadFull(in, b)
			return b, err
		}, netgrid.Transfer{}, bytes.NewReader(noise(64 << 20)), "before it had read everything", nil, ""},
		{"the reader fails", readAll, netgrid.Transfer{}, broken, "out of paper", own, "out of paper"},
		{"there is less", readAll, netgrid.Transfer{Size: 1001}, bytes.NewReader(noise(1000)), "1000", netgrid.ErrCorrupt, "1000"},
		{"there is more", readAll, netgrid.Transfer{Size: 999}, bytes.NewReader(noise(1000)), "999", netgrid.ErrCorrupt, "999"},
	} {
		t.Run(c.name, func(t *testing.T) {
			g := nodes(t, 2)
			all := receiver(t, g.Managers[1], c.read)
			err := c.tr.Upload(t.Context(), between(g, 0, 1), up, nil, c.r)
			if err == nil || c.is != nil && !errors.Is(err, c.is) || c.tr.Bytes != 0 {
				t.Errorf("%v, %d bytes", err, c.tr.Bytes)
			}
			for _, what := range []string{c.text, up, g.Hosts[1]} {
				if err != nil && !strings.Contains(err.Error(), what) {
					t.Errorf("%v, without %s", err, what)
				}
			}
			it := <-all
			if c.handler == "" && it.err != nil || c.handler != "" && (it.err == nil || !strings.Contains(it.err.Error(), c.handler)) {
				t.Errorf("the handler got %v, want %s", it.err, c.handler)
			}
			nothingRuns(t, g)
		})
	}
}

func TestAnUploadNeedNotBeReadBeyondItsSize(t *testing.T) {
	g := nodes(t, 2)
	all := receiver(t, g.Managers[1], func(in *netgrid.Incoming) ([]byte, error) {
		b := make([]byte, in.Size)
		_, err := io.ReadFull(in, b)
		return b, err
	})
	body := noise(1 << 20)
	if err := netgrid.Upload(t.Context(), between(g, 0, 1), up, nil, bytes.NewReader(body)); err != nil {
		t.Error(err)
	}
	if it := <-all; !bytes.Equal(it.body, body) {
		t.Error("something else has come")
	}
}

// writer calls a function for each Write.
type writer func(b []byte) (int, error)

func (w writer) Write(b []byte) (int, error) { return w(b) }

func TestADownloadFailsWithWhatWentWrong(t *testing.T) {
	own := errors.New("out of paper")
	big := func() io.Reader { return bytes.NewReader(noise(64 << 20)) }
	for _, c := range []struct {
		name string
		r    func() io.Reader
		err  error
		w    io.Writer
		have io.Reader
		is   error
		text string
	}{
		{"the handler fails", func() io.Reader { return nil }, own, io.Discard, nil, nil, "out of paper"},
		{"there is nothing", func() io.Reader { return nil }, nil, io.Discard, nil, nil, "nothing to download"},
		{"the reader fails", func() io.Reader { return io.MultiReader(big(), iotest.ErrReader(own)) }, nil, io.Discard, nil, nil, "out of paper"},
		{"the reader was cut short", func() io.Reader { return io.MultiReader(big(), iotest.ErrReader(io.ErrUnexpectedEOF)) }, nil, io.Discard, nil, nil, "unexpected EOF"},
		{"the writer fails", big, nil, &limitedWriter{1000, own}, nil, own, "out of paper"},
		{"the writer takes less", big, nil, &limitedWriter{1000, nil}, nil, io.ErrShortWrite, ""},
		{"what is there cannot be read", big, nil, io.Discard, iotest.ErrReader(own), own, "there already"},
	} {
		t.Run(c.name, func(t *testing.T) {
			g := nodes(t, 2)
			closed := make(chan struct{})
			if err := netgrid.HandleDownload(g.Managers[1], down, func(context.Context, []byte) (io.Reader, error) {
				r := c.r()
				if r == nil {
					close(closed)
					return nil, c.err
				}
				return closer{r, closed}, c.err
			}); err != nil {
				t.Fatal(err)
			}
			tr := netgrid.Transfer{Have: c.have}
			err := tr.Download(t.Context(), between(g, 0, 1), down, nil, c.w)
			if err == nil || c.is != nil && !errors.Is(err, c.is) || tr.Bytes != 0 {
				t.Errorf("%v, %d bytes", err, tr.Bytes)
			}
			for _, what := range []string{c.text, down, g.Hosts[1]} {
				if err != nil && !strings.Contains(err.Error(), what) {
					t.Errorf("%v, without %s", err, what)
				}
			}
			if c.have == nil {
				<-closed
			}
			nothingRuns(t, g)
		})
	}
}

type closer struct {
	io.Reader
	closed chan struct{}
}

func (c closer) Close() error { close(c.closed); return nil }

func TestATransferEndsWithItsContext(t *testing.T) {
	g := nodes(t, 2)
	ended := make(chan error, 1)
	if err := netgrid.HandleUpload(g.Managers[1], up, func(ctx context.Context, in *netgrid.Incoming) error {
		_, err := io.Copy(io.Discard, in)
		<-ctx.Done()
		ended <- err
		return err
	}); err != nil {
		t.Fatal(err)
	}
	if err := netgrid.HandleDownload(g.Managers[1], down, func(ctx context.Context, _ []byte) (io.Reader, error) {
		context.AfterFunc(ctx, func() { ended <- context.Cause(ctx) })
		return unsized{zeros{}}, nil
	}); err != nil {
		t.Fatal(err)
	}
	own := errors.New("changed my mind")
	for _, f := range []func(ctx context.Context, cancel func()) error{
		func(ctx context.Context, cancel func()) error {
			tr := netgrid.Transfer{Progress: func(bytes, _ int64) {
				if bytes > 5<<20 {
					cancel()
				}
			}}
			return tr.Upload(ctx, between(g, 0, 1), up, nil, zeros{})
		},
		func(ctx context.Context, cancel func()) error {
			tr := netgrid.Transfer{Progress: func(bytes, _ int64) {
				if bytes > 5<<20 {
					cancel()
				}
			}}
			return tr.Download(ctx, between(g, 0, 1), down, nil, io.Discard)
		},
	} {
		ctx, cancel := context.WithCancelCause(t.Context())
		if err := f(ctx, func() { cancel(own) }); !errors.Is(err, own) {
			t.Errorf("the caller got %v", err)
		}
		if err := <-ended; err == nil {
			t.Error("the handler got no error")
		}
	}
	nothingRuns(t, g)
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) { clear(b); return len(b), nil }

func TestALostConnectionEndsATransfer(t *testing.T) {
	for _, upload := range []bool{true, false} {
		g := nodes(t, 2)
		var err error
		if upload {
			all := receiver(t, g.Managers[1], func(in *netgrid.Incoming) ([]byte, error) {
				_, err := io.Copy(writer(func(b []byte) (int, error) {
					go g.Managers[1].Close()
					return len(b), nil
				}), in)
				return nil, err
			})
			err = netgrid.Upload(t.Context(), between(g, 0, 1), up, nil, zeros{})
			if it := <-all; it.err == nil {
				t.Error("the handler got no error")
			}
		} else {
			if err := netgrid.HandleDownload(g.Managers[1], down, func(context.Context, []byte) (io.Reader, error) { return zeros{}, nil }); err != nil {
				t.Fatal(err)
			}
			err = netgrid.Download(t.Context(), between(g, 0, 1), down, nil, writer(func(b []byte) (int, error) {
				go g.Managers[1].Close()
				return len(b), nil
			}))
		}
		if !errors.Is(err, grid.ErrDisconnected) {
			t.Errorf("upload %v: %v", upload, err)
		}
	}
}

func TestTransfersNeedWhatTheyAreGiven(t *testing.T) {
	r, w := strings.NewReader("x"), io.Discard
	conn := between(nodes(t, 2), 0, 1)
	var none context.Context
	for i, err := range []error{
		netgrid.Upload(none, conn, up, nil, r),
		netgrid.Upload(t.Context(), conn, up, nil, nil),
		netgrid.Upload(t.Context(), nil, up, nil, r),
		netgrid.Upload(t.Context(), conn, "", nil, r),
		netgrid.Download(none, conn, down, nil, w),
		netgrid.Download(t.Context(), conn, down, nil, nil),
		netgrid.Download(t.Context(), nil, down, nil, w),
		netgrid.Download(t.Context(), conn, "", nil, w),
	} {
		if err == nil {
			t.Errorf("%d: no error", i)
		}
	}
}

func TestHandlersOfTransfersAreRegisteredOnce(t *testing.T) {
	g := nodes(t, 1)
	put := func(context.Context, *netgrid.Incoming) error { return nil }
	get := func(context.Context, []byte) (io.Reader, error) { return strings.NewReader(""), nil }
	m := g.Managers[0]
	errs := []error{
		netgrid.HandleUpload(m, "a", put), netgrid.HandleDownload(m, "b", get),
		netgrid.HandleUpload(m, "b", put), netgrid.HandleDownload(m, "a", get),
		netgrid.HandleUpload(m, "c", nil), netgrid.HandleDownload(m, "d", nil),
		netgrid.HandleUpload(nil, "c", put), netgrid.HandleDownload(nil, "d", get),
	}
	if errs[0] != nil || errs[1] != nil || slices.Contains(errs[2:], nil) {
		t.Error(errs)
	}
}
