package grid

import "github.com/gridmesh/grid/internal/bytepool"

// defaultBuffer is the least capacity of what GetByteBuffer returns, in bytes.
const defaultBuffer = 4 << 10

// GetByteBuffer returns an empty buffer with a capacity of at least 4096 bytes from a pool. A
// program may replace it, together with PutByteBuffer, before it makes a Manager. A replacement
// must be safe for concurrent use.
var GetByteBuffer = func() []byte { return bytepool.Get(defaultBuffer) }

// PutByteBuffer returns a buffer to the pool; nobody may use it afterwards. It accepts any slice,
// pooled or not, and nil. A program may replace it, together with GetByteBuffer, before it makes a
// Manager; the replacement also gets the buffers of GetByteBufferCap. The goroutines of connections
// call it too, so it must not block, and must be safe for concurrent use.
var PutByteBuffer = func(b []byte) { bytepool.Put(b) }

// GetByteBufferCap returns an empty buffer with a capacity of at least wantSz bytes, from this
// package's own pools.
func GetByteBufferCap(wantSz int) []byte {
	return bytepool.Get(max(wantSz, 0))
}
