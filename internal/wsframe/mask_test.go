package wsframe

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"testing"

	"github.com/gobwas/ws"
)

func TestMaskAgreesWithTheOtherImplementationAtEveryLengthAndAlignment(t *testing.T) {
	key := [4]byte{0x37, 0xfa, 0x21, 0x3d}
	for n := range 300 {
		for shift := range 9 {
			ours := testBytes(n + shift + 8)
			theirs := bytes.Clone(ours)
			Mask(ours[shift:shift+n], key)
			ws.Cipher(theirs[shift:shift+n], key, 0)
			if !bytes.Equal(ours, theirs) {
				t.Fatalf("%d bytes at %d differ", n, shift)
			}
		}
	}
}

func TestMaskingPieceByPieceIsMaskingAtOnce(t *testing.T) {
	key := [4]byte{1, 2, 3, 4}
	want := testBytes(400)
	ws.Cipher(want, key, 0)
	for a := range 150 {
		got := testBytes(400)
		k := mask(got[:a], binary.LittleEndian.Uint32(key[:]))
		k = mask(got[a:a+a], k)
		mask(got[a+a:], k)
		if !bytes.Equal(got, want) {
			t.Fatalf("cut at %d and %d", a, a+a)
		}
	}
}

func BenchmarkMask(b *testing.B) {
	key := [4]byte{0x37, 0xfa, 0x21, 0x3d}
	for _, n := range []int{16, 64, 125, 512, 4096, 65536, 1 << 20} {
		buf := testBytes(n)
		b.Run(fmt.Sprintf("%d/ours", n), func(b *testing.B) {
			b.SetBytes(int64(n))
			for b.Loop() {
				Mask(buf, key)
			}
		})
		b.Run(fmt.Sprintf("%d/gobwas", n), func(b *testing.B) {
			b.SetBytes(int64(n))
			for b.Loop() {
				ws.Cipher(buf, key, 0)
			}
		})
	}
}

// testBytes returns n bytes that differ from their neighbours.
func testBytes(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i*7 + i>>8)
	}
	return b
}
