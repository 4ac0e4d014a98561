package wsframe

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/gobwas/ws"
	"github.com/gridmesh/grid/internal/bytepool"
	"github.com/gridmesh/grid/internal/race"
)

func newRand() *rand.Rand { return rand.New(rand.NewPCG(5, 6)) }

// meter is a source that looks at the memory of its Reader before each read.
type meter struct {
	src      io.Reader
	r        *Reader
	early    int
	arrived  int
	reads    int
	overflow bool
}

func (m *meter) Read(p []byte) (int, error) {
	m.reads++
	if held(m.r) > 4*(m.arrived+m.early)+2*maxBuffer {
		m.overflow = true
	}
	n, err := m.src.Read(p)
	m.arrived += n
	return n, err
}

func held(r *Reader) int { return cap(r.buffer.buf) + cap(r.msg) }

func newMeter(src io.Reader, early []byte, c Config) (*meter, *Reader) {
	m := &meter{src: src, early: len(early)}
	m.r = NewReader(m, early, c)
	return m, m.r
}

func TestMemoryFollowsWhatArrivedAndNotTheHeader(t *testing.T) {
	claim := make([]byte, MaxHeaderSize)
	n := PutHeader(claim, ws.OpBinary, 60<<20, true, testKey)
	wire := append(claim[:n], "ten bytes."...)
	_, r := newMeter(bytes.NewReader(wire), nil, Config{})
	if _, err := r.Next(); err != io.ErrUnexpectedEOF {
		t.Fatalf("error %v", err)
	}
	if got := held(r); got > 48<<10 {
		t.Errorf("%d bytes are held for a header", got)
	}
	r.Release()

	// The same with more and more of the payload there.
	for sent := 1; sent <= 8<<20; sent *= 3 {
		_, r := newMeter(bytes.NewReader(append(wire, make([]byte, sent)...)), nil, Config{})
		if _, err := r.Next(); err != io.ErrUnexpectedEOF {
			t.Fatalf("error %v", err)
		}
		if got := held(r); got > 4*sent+48<<10+maxBuffer {
			t.Errorf("%d bytes are held for %d", got, sent)
		}
		r.Release()
	}
}

func TestEmptyFragmentsTakeNoMemory(t *testing.T) {
	one := nextPart("").append(nil, true)
	wire := append(firstPart("").append(nil, true), bytes.Repeat(one, 100000)...)
	_, r := newMeter(bytes.NewReader(wire), nil, Config{})
	if _, err := r.Next(); err != io.ErrUnexpectedEOF {
		t.Fatalf("error %v", err)
	}
	if r.msg != nil || cap(r.buffer.buf) > maxBuffer {
		t.Errorf("message of capacity %d, buffer of %d", cap(r.msg), cap(r.buffer.buf))
	}
}

func TestBufferGrowsWithUseAndShrinksAfterIt(t *testing.T) {
	var wire bytes.Buffer
	m, r := newMeter(&wire, nil, Config{Client: true})
	small := binaryFrame("x").append(nil, false)
	read := func(n int) {
		t.Helper()
		for range n {
			if _, err := r.Next(); err != nil {
				t.Fatal(err)
			}
		}
	}
	if got := r.buffer.size(); got != minBuffer {
		t.Fatalf("starts with %d bytes", got)
	}
	for range 100 {
		wire.Write(small)
		read(1)
	}
	if got := r.buffer.size(); got != minBuffer {
		t.Fatalf("%d bytes after small reads", got)
	}

	wire.Write(bytes.Repeat(small, 100000))
	m.reads = 0
	read(100000)
	if got := r.buffer.size(); got != maxBuffer {
		t.Fatalf("%d bytes after large reads", got)
	}
	if want := 100000*len(small)/maxBuffer + 4; m.reads > want {
		t.Errorf("%d reads, want at most %d", m.reads, want)
	}

	for range 4 * smallReads {
		wire.Write(small)
		read(1)
	}
	if got := r.buffer.size(); got != minBuffer {
		t.Fatalf("%d bytes after the rush", got)
	}
}

func TestLargeMessageIsNotKept(t *testing.T) {
	wire := encode([]frame{binaryFrame(repeat(1 << 20)), binaryFrame("a")}, false)
	r := NewReader(bytes.NewReader(wire), nil, Config{Client: true})
	for range 2 {
		if _, err := r.Next(); err != nil {
			t.Fatal(err)
		}
	}
	if got := held(r); got > maxBuffer {
		t.Errorf("%d bytes are held after a large message", got)
	}
}

func TestLargeMessagesTakeFewReads(t *testing.T) {
	wire := encode([]frame{binaryFrame(repeat(1 << 20))}, true)
	m, r := newMeter(bytes.NewReader(wire), nil, Config{})
	if _, err := r.Next(); err != nil {
		t.Fatal(err)
	}
	if m.reads > 12 {
		t.Errorf("%d reads for 1 MiB", m.reads)
	}
}

func TestLargeMessagesThatFollowEachOtherAreReadToTheirPlace(t *testing.T) {
	const size, messages = 200 << 10, 50
	wire := encode(slices.Repeat([]frame{binaryFrame(repeat(size))}, messages), true)
	m, r := newMeter(bytes.NewReader(wire), nil, Config{})
	r.SetAhead(size)
	for i := range messages {
		if _, err := r.Next(); err != nil {
			t.Fatal(err)
		}
		if got := bytepool.Size(size); cap(r.msg) != got {
			t.Fatalf("message %d in %d bytes, want %d", i, cap(r.msg), got)
		}
		if i > 0 && r.buffer.len() > peek {
			t.Errorf("%d bytes of the next message are in the buffer", r.buffer.len())
		}
	}
	if most := 2*messages + 10; m.reads > most {
		t.Errorf("%d reads, want at most %d", m.reads, most)
	}
}

func TestTheBufferGrowsForMessagesThatItCanHold(t *testing.T) {
	const messages = 50
	wire := encode(slices.Repeat([]frame{binaryFrame(repeat(maxBuffer / 2))}, messages), true)
	m, r := newMeter(bytes.NewReader(wire), nil, Config{})
	for range messages {
		if _, err := r.Next(); err != nil {
			t.Fatal(err)
		}
	}
	if got := r.buffer.size(); got != maxBuffer {
		t.Errorf("%d bytes", got)
	}
	if most := messages + 10; m.reads > most {
		t.Errorf("%d reads, want at most %d", m.reads, most)
	}
}

func TestOnlyWhatIsWithinTheLimitHasItsMemoryAhead(t *testing.T) {
	const ahead = 200 << 10
	for _, c := range []struct {
		wire []byte
		most int
	}{
		{encode([]frame{binaryFrame(repeat(ahead))}, true)[:100], bytepool.Size(ahead)},
		{encode([]frame{binaryFrame(repeat(ahead + 1))}, true)[:100], 2 * minDirect},
		{encode([]frame{{op: ws.OpBinary, more: true, payload: repeat(ahead)}}, true)[:100], 2 * minDirect},
	} {
		_, r := newMeter(bytes.NewReader(c.wire), nil, Config{})
		r.SetAhead(ahead)
		if _, err := r.Next(); err != io.ErrUnexpectedEOF {
			t.Fatalf("error %v", err)
		}
		if got := cap(r.msg); got > c.most {
			t.Errorf("%d bytes for a header, want at most %d", got, c.most)
		}
		r.Release()
	}
}

func TestKeepGivesABufferOnce(t *testing.T) {
	big, small := strings.Repeat("b", 100<<10), "small"
	wire := encode([]frame{binaryFrame(big), binaryFrame(small), firstPart(small), lastPart(big), binaryFrame(big)}, true)
	r := NewReader(bytes.NewReader(wire), nil, Config{})
	r.SetAhead(128 << 10)
	next := func(want string) []byte {
		t.Helper()
		msg, err := r.Next()
		if err != nil || string(msg) != want {
			t.Fatalf("%d bytes, %v, want %d", len(msg), err, len(want))
		}
		return msg
	}
	msg := next(big)
	if r.Keep(64<<10) != nil || r.Keep(256<<10) != nil {
		t.Error("a buffer of another size was given away")
	}
	kept := r.Keep(128 << 10)
	if cap(kept) != 128<<10 || &kept[0] != &msg[0] {
		t.Fatalf("kept %d bytes", cap(kept))
	}
	if r.Keep(128<<10) != nil {
		t.Error("given away twice")
	}
	next(small)
	if r.Keep(minBuffer) != nil || r.Keep(maxBuffer) != nil || r.Keep(0) != nil {
		t.Error("the read buffer was given away")
	}
	next(small + big)
	next(big)
	if string(kept[:len(big)]) != big {
		t.Error("somebody else wrote into the buffer")
	}
}

func TestMessageHasNoCapacityBeyondItself(t *testing.T) {
	wire := encode([]frame{binaryFrame("abc"), binaryFrame("def"), firstPart("g"), lastPart("h")}, false)
	r := NewReader(bytes.NewReader(wire), nil, Config{Client: true})
	for _, want := range []string{"abc", "def", "gh"} {
		msg, err := r.Next()
		if err != nil || string(msg) != want {
			t.Fatalf("got %q, %v, want %q", msg, err, want)
		}
		_ = append(msg, "overwrite"...)
	}
}

func TestReadErrorsComeThrough(t *testing.T) {
	broken := errors.New("broken")
	for _, wire := range []string{"", "\x82", "\x82\x03a", "\x82\x7f\x00\x00\x00\x00\x00\x10\x00\x00abc", "\x81\x03a"} {
		r := NewReader(io.MultiReader(bytes.NewReader([]byte(wire)), failing{broken}), nil, Config{Client: true})
		for range 2 {
			if msg, err := r.Next(); msg != nil || err != broken {
				t.Errorf("%q: %q, %v", wire, msg, err)
			}
		}
	}
	r := NewReader(failing{nil}, nil, Config{})
	if _, err := r.Next(); err != io.ErrNoProgress {
		t.Errorf("a source that gives nothing: %v", err)
	}
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

func TestReleasedReaderIsDead(t *testing.T) {
	r := NewReader(bytes.NewReader(binaryFrame("a").append(nil, true)), nil, Config{})
	r.Release()
	r.Release()
	if msg, err := r.Next(); msg != nil || err == nil {
		t.Errorf("%q, %v after Release", msg, err)
	}
}

func TestNextDoesNotAllocate(t *testing.T) {
	if race.Enabled {
		t.Skip("sync.Pool drops at random under the race detector")
	}
	pings := 0
	c := Config{OnPing: func([]byte) { pings++ }}
	for _, tc := range []struct {
		name     string
		frames   []frame
		messages int
	}{
		{"small messages", []frame{binaryFrame(repeat(512)), ping("p"), binaryFrame(""), binaryFrame("x")}, 3},
		{"fragments", []frame{firstPart(repeat(512)), ping("p"), lastPart(repeat(512))}, 1},
		{"64 KiB", []frame{binaryFrame(repeat(64 << 10))}, 1},
		{"1 MiB", []frame{binaryFrame(repeat(1 << 20))}, 1},
	} {
		src := &loop{wire: encode(tc.frames, true)}
		r := NewReader(src, nil, c)
		next := func() {
			for range tc.messages {
				if _, err := r.Next(); err != nil {
					t.Fatal(err)
				}
			}
		}
		for range 100 {
			next()
		}
		if a := testing.AllocsPerRun(200, next); a != 0 {
			t.Errorf("%s: %v allocations, want 0", tc.name, a)
		}
	}
}

// loop is a source that repeats wire forever.
type loop struct {
	wire []byte
	at   int
}

func (l *loop) Read(p []byte) (n int, err error) {
	for n < len(p) {
		k := copy(p[n:], l.wire[l.at:])
		n += k
		if l.at += k; l.at == len(l.wire) {
			l.at = 0
		}
	}
	return n, nil
}
