package wsframe

import (
	"bytes"
	"io"
	"slices"
	"strings"
	"testing"
	"unsafe"
)

// growthMeter is a source of one frame for each read, or less, that sees by its Reader's message
// how often that moves to another buffer, and how many bytes are copied there.
type growthMeter struct {
	r      *Reader
	frames [][]byte
	at     *byte // where the message was at the last read
	length int   // of it
	copied int
	moves  int
	excess int // the most capacity beyond four times what had come
}

func (m *growthMeter) Read(p []byte) (int, error) {
	m.look()
	if len(m.frames) == 0 {
		return 0, io.EOF
	}
	n := copy(p, m.frames[0])
	if m.frames[0] = m.frames[0][n:]; len(m.frames[0]) == 0 {
		m.frames = m.frames[1:]
	}
	return n, nil
}

func (m *growthMeter) look() {
	if at := unsafe.SliceData(m.r.msg); at != m.at {
		m.copied += m.length
		m.moves++
		m.at = at
	}
	m.length = len(m.r.msg)
	m.excess = max(m.excess, cap(m.r.msg)-4*len(m.r.msg)) // twice, rounded up to a power of two
}

// A message in fragments is copied about once, however it is cut: room for a fragment is made with
// twice what has come, not with what the fragment says.
func TestFragmentsAreNotCopiedAgainForEachOfThem(t *testing.T) {
	const mb = 1 << 20
	many := func(n, size int) []frame {
		parts := make([]frame, n)
		part := strings.Repeat("x", size)
		for i := range parts {
			parts[i] = nextPart(part)
		}
		return parts
	}
	for _, tc := range []struct {
		name   string
		frames []frame
	}{
		{"a large first fragment and small ones", append([]frame{firstPart(repeat(8 * mb))}, many(500, 1)...)},
		{"a small first fragment and large ones", append([]frame{firstPart("x")}, many(64, 256<<10)...)},
		{"fragments below what is read at once", append([]frame{firstPart(repeat(5 * mb))}, many(300, 10_000)...)},
		{"fragments with pings between them", append([]frame{firstPart(repeat(5 * mb)), ping("a")}, many(300, 20_000)...)},
		{"fragments of all sizes", append([]frame{firstPart("")}, append(many(2000, 100), many(40, 200<<10)...)...)},
	} {
		for _, limit := range []int{DefaultMaxMessage, 0} {
			frames := append(slices.Clip(tc.frames), lastPart("the end"))
			var want []byte
			m := new(growthMeter)
			for _, f := range frames {
				m.frames = append(m.frames, f.append(nil, true))
				if !f.op.IsControl() {
					want = append(want, f.payload...)
				}
			}
			if limit == 0 {
				limit = len(want) // just enough
			}
			m.r = NewReader(m, nil, Config{MaxMessage: limit})
			got, err := m.r.Next()
			m.look()
			if err != nil || !bytes.Equal(got, want) {
				t.Fatalf("%s: %d bytes, %v, want %d", tc.name, len(got), err, len(want))
			}
			// Doubling copies 1 + 1/2 + 1/4 … times what there is in the end.
			if m.copied > 2*len(want) || m.moves > 24 {
				t.Errorf("%s, limit %d: %d bytes in %d fragments were copied %d times, %d bytes in all",
					tc.name, limit, len(want), len(frames), m.moves, m.copied)
			}
			if m.excess > maxBuffer {
				t.Errorf("%s: room for %d bytes beyond four times what had come", tc.name, m.excess)
			}
			m.r.Release()
		}
	}
}
