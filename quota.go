package grid

import (
	"errors"
	"fmt"
	"math"
	"sync/atomic"

	"github.com/gridmesh/grid/internal/bytepool"
)

// limit is one of the Limits that a call can exceed.
type limit uint8

const (
	limitNone limit = iota
	limitRequests
	limitRequestBytes
	limitStreams
	limitStreamBytes

	limitCount
)

var limitNames = [limitCount]string{
	limitRequests:     "MaxRequests",
	limitRequestBytes: "MaxRequestBytes",
	limitStreams:      "MaxStreams",
	limitStreamBytes:  "MaxStreamBytes",
}

// quota bounds how many requests, or streams, of a peer run here at once, and the bytes they hold.
// It belongs to the Connection, because handlers may outlive the session that started them; guests of
// the same name have it together.
//
// Both counts share one word, so that a request costs one atomic operation when it comes and one
// when it goes.
type quota struct {
	used          atomic.Int64 // number << quotaShift | bytes
	most, maxHeld int64
	number, bytes limit // what they are called
}

// quotas are those of a peer.
type quotas struct{ requests, streams quota }

func newQuotas(l *Limits) *quotas {
	q := new(quotas)
	q.requests.init(limitRequests, l.MaxRequests, limitRequestBytes, l.MaxRequestBytes)
	q.streams.init(limitStreams, l.MaxStreams, limitStreamBytes, l.MaxStreamBytes)
	return q
}

const (
	quotaShift = 40
	quotaBytes = 1<<quotaShift - 1
	// maxHeld bounds a quota's bytes, far enough below 1<<quotaShift that no message on top of it
	// overflows into the number.
	maxHeld = math.MaxInt & (1<<38 - 1)
)

// init sets the limits on the number and on the bytes, and their names.
func (q *quota) init(number limit, most int, bytes limit, held int) {
	q.most, q.maxHeld = int64(most), int64(held)
	q.number, q.bytes = number, bytes
}

// enter counts one more call and the bytes it holds. If that exceeds a limit, it returns which, and
// counts nothing.
func (q *quota) enter(bytes int) limit {
	one := 1<<quotaShift + int64(bytes)
	used := q.used.Add(one)
	switch {
	case used>>quotaShift > q.most:
		q.used.Add(-one)
		return q.number
	case used&quotaBytes > q.maxHeld:
		q.used.Add(-one)
		return q.bytes
	}
	return limitNone
}

// leave stops counting one call and the bytes it holds.
func (q *quota) leave(bytes int) { q.used.Add(-(1<<quotaShift + int64(bytes))) }

// hold counts more bytes. It returns false if they are too many, but counts them all the same.
func (q *quota) hold(bytes int) bool { return q.used.Add(int64(bytes))&quotaBytes <= q.maxHeld }

// reserve counts more bytes, unless they are too many: alone, or with those that are held. The error of
// the latter is errOverQuota.
func (q *quota) reserve(bytes int) error {
	if int64(bytes) > q.maxHeld {
		return fmt.Errorf("the value may take %d bytes of memory, more than Limits.%s, which is %d", bytes, limitNames[q.bytes], q.maxHeld)
	}
	for {
		used := q.used.Load()
		if used&quotaBytes+int64(bytes) > q.maxHeld {
			return errOverQuota
		}
		if q.used.CompareAndSwap(used, used+int64(bytes)) {
			return nil
		}
	}
}

// free stops counting bytes.
func (q *quota) free(bytes int) { q.used.Add(-int64(bytes)) }

// exceeded reports whether more bytes are held than allowed.
func (q *quota) exceeded() bool { return q.used.Load()&quotaBytes > q.maxHeld }

// messageFootprint is what a message takes besides its buffer, in bytes: its place in a queue that
// may be half empty.
const messageFootprint = 64

// footprint returns the memory that a payload of n bytes holds.
func footprint(n int) int { return messageFootprint + bytepool.Size(n) }

// held returns the memory that a payload copied out of the read buffer holds, which is what
// footprint said.
func held(b []byte) int { return messageFootprint + cap(b) }

// room counts a value of a peer that is about to be decoded.
type room interface {
	// reserve counts bytes until whatever the value belongs to ends. An error means that they are
	// too many; then the value must not be decoded.
	reserve(bytes int) error
}

// errOverQuota is returned by reserve if the call is refused, or ended, because other calls of the
// peer hold too much.
var errOverQuota = errors.New("over a limit of this node")
