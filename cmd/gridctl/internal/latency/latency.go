// Package latency counts durations.
package latency

import (
	"math"
	"math/bits"
	"time"
)

// Each power of two of nanoseconds has subBuckets buckets, so that a
// percentile is at most 1/32 too long.
const (
	subBits    = 5
	subBuckets = 1 << subBits
)

// Histogram counts durations. The zero value is empty. One
// goroutine at a time may use it.
type Histogram struct {
	counts [(64 - subBits + 1) * subBuckets]uint64
	total  uint64
}

// Add counts one duration.
func (l *Histogram) Add(d time.Duration) {
	l.counts[bucket(uint64(max(d, 0)))]++
	l.total++
}

// Merge adds all that o has counted.
func (l *Histogram) Merge(o *Histogram) {
	for i, n := range o.counts {
		l.counts[i] += n
	}
	l.total += o.total
}

// Percentile returns a duration that p percent of the counted ones do not
// exceed; 0 where there are none.
func (l *Histogram) Percentile(p float64) time.Duration {
	if l.total == 0 {
		return 0
	}
	rank := max(1, uint64(math.Ceil(float64(l.total)*p/100)))
	var seen uint64
	for i, n := range l.counts {
		seen += n
		if seen >= rank {
			return time.Duration(bucketEnd(i))
		}
	}
	return math.MaxInt64
}

// bucket is the index of a number of nanoseconds.
func bucket(ns uint64) int {
	if ns < subBuckets {
		return int(ns)
	}
	shift := bits.Len64(ns) - subBits - 1
	return (shift+1)*subBuckets + int(ns>>shift) - subBuckets
}

// bucketEnd is the largest number of a bucket.
func bucketEnd(i int) uint64 {
	if i < subBuckets {
		return uint64(i)
	}
	shift := i/subBuckets - 1
	return (uint64(i%subBuckets)+subBuckets+1)<<shift - 1
}

// Total returns how many durations were counted.
func (l *Histogram) Total() uint64 { return l.total }
