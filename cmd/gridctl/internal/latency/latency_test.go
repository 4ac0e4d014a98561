package latency

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

func TestPercentilesAreAtMostATwentiethTooLong(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	for _, n := range []int{1, 2, 99, 1000, 100_000} {
		var a, b, all Histogram
		var exact []time.Duration
		for i := range n {
			d := time.Duration(math.Exp(rnd.Float64() * 25))
			exact = append(exact, d)
			if i%3 == 0 {
				a.Add(d)
			} else {
				b.Add(d)
			}
		}
		all.Merge(&a)
		all.Merge(&b)
		slices.Sort(exact)
		for _, p := range []float64{0, 1, 50, 99, 99.9, 100} {
			want := exact[max(0, int(math.Ceil(float64(n)*p/100))-1)]
			if got := all.Percentile(p); got < want || float64(got) > float64(want)*1.05 {
				t.Errorf("percentile %v of %d: %v, want %v", p, n, got, want)
			}
		}
	}
}

func TestLatenciesAtTheirLimits(t *testing.T) {
	var l Histogram
	if got := l.Percentile(50); got != 0 {
		t.Errorf("percentile of nothing: %v", got)
	}
	l.Add(-time.Second)
	if got := l.Percentile(100); got != 0 {
		t.Errorf("a negative duration counts as %v, want 0", got)
	}
	l.Add(math.MaxInt64)
	if got := l.Percentile(100); got != math.MaxInt64 {
		t.Errorf("the longest duration counts as %v", got)
	}
}

func TestEveryBucketEndsWhereTheNextBegins(t *testing.T) {
	var l Histogram
	last := bucket(math.MaxInt64)
	if last >= len(l.counts) {
		t.Fatalf("the last bucket is %d of %d", last, len(l.counts))
	}
	for i := range last {
		end := bucketEnd(i)
		if bucket(end) != i || bucket(end+1) != i+1 {
			t.Fatalf("bucket %d ends at %d, which is in %d; the next is in %d", i, end, bucket(end), bucket(end+1))
		}
	}
}
