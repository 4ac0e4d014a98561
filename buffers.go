package grid

import "github.com/gridmesh/grid/internal/bytepool"

// defaultBuffer is the least capacity of what GetByteBuffer returns, in bytes.
const defaultBuffer = 4 << 10

// GetByteBuffer returns an empty buffer with a capacity of at least 4096 bytes
// from a pool. A program may replace it, with PutByteBuffer, before it makes a Manager.
var GetByteBuffer = func() []byte { return bytepool.Get(defaultBuffer) }

// PutByteBuffer gives a buffer back that nobody uses any more. It takes any
// slice, pooled or not, and nil. A program may replace it, with GetByteBuffer,
// before it makes a Manager; it is then also given the buffers of GetByteBufferCap. It is called by the
// goroutines of connections too, which it must not hold up.
var PutByteBuffer = func(b []byte) { bytepool.Put(b) }

// GetByteBufferCap returns an empty buffer with a capacity of at least wantSz bytes, from this package's own pools.
func GetByteBufferCap(wantSz int) []byte {
	return bytepool.Get(max(wantSz, 0))
}
