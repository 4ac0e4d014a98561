package bytepool

import (
	"bytes"
	"fmt"
	"math/bits"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/quick"

	"github.com/gridmesh/grid/internal/race"
)

func TestGetGivesTheSmallestClassThatHoldsTheRequest(t *testing.T) {
	for _, c := range []struct{ n, wantCap int }{
		{-1, 256},
		{0, 256},
		{1, 256},
		{255, 256},
		{256, 256},
		{257, 512},
		{512, 512},
		{513, 1024},
		{4096, 4096},
		{4097, 8192},
		{1<<20 + 1, 2 << 20},
		{4<<20 - 1, 4 << 20},
		{4 << 20, 4 << 20},
		{4<<20 + 1, 4<<20 + 1},
		{5 << 20, 5 << 20},
	} {
		b := Get(c.n)
		if len(b) != 0 {
			t.Errorf("Get(%d) has length %d, want 0", c.n, len(b))
		}
		// A plain make is exact; a class is, too.
		if cap(b) != c.wantCap {
			t.Errorf("Get(%d) has capacity %d, want %d", c.n, cap(b), c.wantCap)
		}
		Put(b)
	}
}

func TestPutUsesTheLargestClassThatTheCapacityFills(t *testing.T) {
	if race.Enabled {
		t.Skip("sync.Pool drops at random under the race detector")
	}
	for _, c := range []struct {
		name       string
		cap, class int // class -1: dropped
	}{
		{"nil", 0, -1},
		{"one byte below the smallest class", 255, -1},
		{"the smallest class", 256, 256},
		{"one byte below a class", 1023, 512},
		{"exactly a class", 1024, 1024},
		{"one byte above a class", 1025, 1024},
		{"the largest class", MaxSize, MaxSize},
		{"one byte above the largest class", MaxSize + 1, -1},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.class < 0 {
				Put(make([]byte, c.cap)) // must not panic, nor be handed out below
				return
			}
			// The goroutine may move between Put and Get, and a collection may empty the pool; once
			// in several tries is proof.
			for range 100 {
				in := make([]byte, 1, c.cap)
				Put(in)
				out := Get(c.class)[:1]
				if cap(out) != c.class {
					t.Fatalf("capacity %d, want %d", cap(out), c.class)
				}
				if &in[0] == &out[0] {
					return
				}
			}
			t.Fatal("the buffer never came back")
		})
	}
}

func TestAnyCapacityGivenBackKeepsThePromiseOfGet(t *testing.T) {
	holds := func(putCap uint32, want uint32) bool {
		Put(make([]byte, 0, putCap%(3*MaxSize/2)))
		n := int(want % (3 * MaxSize / 2))
		b := Get(n)
		ok := len(b) == 0 && cap(b) >= n && cap(b) >= MinSize
		if n <= MaxSize {
			ok = ok && bits.OnesCount(uint(cap(b))) == 1
		}
		b = b[:cap(b)]
		b[0], b[len(b)-1] = 1, 2 // the whole capacity is ours
		Put(b)
		return ok
	}
	if err := quick.Check(holds, &quick.Config{MaxCount: 300}); err != nil {
		t.Fatal(err)
	}
}

func TestNoTwoOwnersShareABuffer(t *testing.T) {
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			rnd := rand.New(rand.NewPCG(uint64(g), 1))
			mark := bytes.Repeat([]byte{byte(g + 1)}, 1<<12)
			for range 2000 {
				n := rnd.IntN(len(mark)) + 1
				b := append(Get(n), mark[:n]...)
				if !bytes.Equal(b, mark[:n]) {
					t.Error("somebody else wrote into the buffer")
					return
				}
				Put(b[:rnd.IntN(n)]) // the length does not matter
			}
		})
	}
	wg.Wait()
}

func TestGetAndPutDoNotAllocate(t *testing.T) {
	if race.Enabled {
		t.Skip("sync.Pool drops at random under the race detector")
	}
	for _, n := range []int{1, 256, 4096, 65536, MaxSize} {
		if a := testing.AllocsPerRun(200, func() { Put(Get(n)) }); a != 0 {
			t.Errorf("%d bytes: %v allocations, want 0", n, a)
		}
	}
}

func BenchmarkGetPut(b *testing.B) {
	for _, n := range []int{256, 4096, 65536, 1 << 20} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				Put(Get(n))
			}
		})
	}
}

func BenchmarkGetPutParallel(b *testing.B) {
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			Put(Get(4096))
		}
	})
}
