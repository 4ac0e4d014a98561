package grid

import "testing"

func TestBuffersAreEmptyAndLargeEnough(t *testing.T) {
	if b := GetByteBuffer(); len(b) != 0 || cap(b) < defaultBuffer {
		t.Errorf("GetByteBuffer: len %d, cap %d", len(b), cap(b))
	}
	for _, n := range []int{-1, 0, 1, 511, 4096, 4097, 1 << 20, 64 << 20} {
		b := GetByteBufferCap(n)
		if len(b) != 0 || cap(b) < n {
			t.Errorf("GetByteBufferCap(%d): len %d, cap %d", n, len(b), cap(b))
		}
		PutByteBuffer(b)
	}
}

func TestAnyBufferMayBeGivenBack(t *testing.T) {
	for _, b := range [][]byte{nil, {}, make([]byte, 3), make([]byte, 5000, 5001), make([]byte, 100)[50:]} {
		PutByteBuffer(b)
	}
}
