package grid

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"runtime"
	"runtime/debug"
	"sync"
	"testing"

	"github.com/gridmesh/grid/internal/race"
)

// inUse returns what the process holds: bytes on the heap, bytes of stacks, and this package's
// goroutines.
func inUse() (heap, stacks int64, goroutines int) {
	for range 4 {
		runtime.GC() // empties the pools, and shrinks stacks one step at a time
	}
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	return int64(stats.HeapAlloc), int64(stats.StackInuse), len(ownGoroutines())
}

func TestAnIdleConnectionIsSmall(t *testing.T) {
	measure := func(n int) (heap, stacks int64) {
		g, err := SetupTestGrid(n)
		if err != nil {
			t.Fatal(err)
		}
		defer g.Cleanup()
		eventually(t, "the handshakes to end", func() bool { return len(ownGoroutines()) == n*(n-1)/2*perConnection }, func() string {
			return fmt.Sprint(len(ownGoroutines()), " goroutines")
		})
		heap, stacks, _ = inUse()
		return heap, stacks
	}
	smallHeap, smallStacks := measure(2)
	heap, stacks := measure(10)
	const ends = 10*9 - 2*1
	heap, stacks = (heap-smallHeap)/ends, (stacks-smallStacks)/ends
	t.Logf("%d bytes of heap and %d of stacks for each end of an idle connection, with net/http's part", heap, stacks)
	if heap > 20<<10 {
		t.Errorf("each end takes %d bytes of heap, more than 20 KiB", heap)
	}
	if !race.Enabled && heap+stacks > 48<<10 {
		t.Errorf("each end takes %d bytes of heap and stacks, more than 48 KiB", heap+stacks)
	}
}

func TestAnIdleStreamIsSmall(t *testing.T) {
	const streams = 1000
	c := newTCPPair(t)
	c.start(t, nil)
	c.waitConnected(t)
	c.stream(t, 1, 1, func(ctx context.Context, _ []byte, in <-chan []byte, out chan<- []byte) *RemoteErr {
		<-ctx.Done()
		return nil
	})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	eventually(t, "the handshake to end", func() bool { return len(ownGoroutines()) == perConnection })
	noHeap, noStacks, _ := inUse()
	var open []*Stream
	for range streams {
		st, err := c.conn(0, 1).NewStream(ctx, testStream, nil)
		if err != nil {
			t.Fatal(err)
		}
		open = append(open, st)
	}
	eventually(t, "the streams", func() bool { return len(ownGoroutines()) == perConnection+3*streams }, func() string {
		return fmt.Sprintf("%d goroutines for %d streams", len(ownGoroutines())-perConnection, streams)
	})
	heap, stacks, _ := inUse()
	runtime.KeepAlive(open)
	heap, stacks = (heap-noHeap)/streams, (stacks-noStacks)/streams
	t.Logf("%d bytes of heap and %d of stacks for both ends of an idle two-way stream", heap, stacks)
	if !race.Enabled && heap+stacks > 16<<10 {
		t.Errorf("both ends take %d bytes, more than 16 KiB", heap+stacks)
	}
}

// allocations returns the objects that the whole process allocates for each of
// n operations, which callers share, once all is warm. run does as many operations as it is told.
//
// Queues are at times longer than in all rounds before, and what stands in them then is new. So a
// round with more than enough objects is repeated a few times: the least is what the operations
// themselves allocate.
func allocations(t *testing.T, n, callers int, enough float64, run func(n int) error) float64 {
	t.Helper()
	all := func(n int) {
		var wg sync.WaitGroup
		for range callers {
			wg.Go(func() {
				if err := run(n / callers); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
	}
	all(n) // fills the pools
	least := math.Inf(1)
	for range 5 {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		all(n)
		runtime.ReadMemStats(&after)
		least = min(least, float64(after.Mallocs-before.Mallocs)/float64(n))
		if least <= enough {
			break
		}
	}
	return least
}

func TestWhatCallsAndStreamsAllocate(t *testing.T) {
	if race.Enabled {
		t.Skip("pools drop values at random under the race detector")
	}
	defer debug.SetGCPercent(debug.SetGCPercent(-1)) // a collection empties the pools
	c := newTCPPair(t)
	c.start(t, nil)
	c.waitConnected(t)
	echo := NewSingleHandler[*Bytes, *Bytes](testSingle, NewBytes, NewBytes)
	for _, n := range c.nodes {
		err := errors.Join(
			n.RegisterSingleHandler(testSingle, func(b []byte) ([]byte, *RemoteErr) { return b, nil }),
			n.RegisterSingleHandlerContext(testSingle, func(_ context.Context, b []byte) ([]byte, error) { return b, nil }, "context"),
			echo.Register(n.Manager, func(b *Bytes) (*Bytes, *RemoteErr) { return b, nil }, "typed"),
		)
		if err != nil {
			t.Fatal(err)
		}
	}
	c.stream(t, 0, 256, func(ctx context.Context, payload []byte, _ <-chan []byte, out chan<- []byte) *RemoteErr {
		n := int(binary.BigEndian.Uint32(payload))
		PutByteBuffer(payload)
		for range n {
			select {
			case out <- GetByteBufferCap(512)[:512]:
			case <-ctx.Done():
			}
		}
		return nil
	})
	conn, payload, request := c.conn(0, 1), make([]byte, 512), NewBytesWith(make([]byte, 512))
	typed := conn.Subroute("typed")
	calls := func(ctx context.Context, r Requester) func(n int) error {
		return func(n int) error {
			for range n {
				b, err := r.Request(ctx, testSingle, payload)
				if err != nil {
					return err
				}
				PutByteBuffer(b)
			}
			return nil
		}
	}
	stream := func(messages int) error {
		st, err := conn.NewStream(context.Background(), testStream, binary.BigEndian.AppendUint32(nil, uint32(messages)))
		if err != nil {
			return err
		}
		return st.Results(func(b []byte) error {
			PutByteBuffer(b)
			return nil
		})
	}
	withCancel, cancel := context.WithCancel(context.Background())
	defer cancel()
	for _, test := range []struct {
		name string
		run  func(n int) error
		most float64 // for each operation
	}{
		{"a raw call", calls(context.Background(), conn), 0},
		{"a raw call that can be canceled", calls(withCancel, conn), 0},
		{"a raw call to a handler with a context", calls(context.Background(), conn.Subroute("context")), 12},
		{"a typed call on a subroute", func(n int) error {
			for range n {
				resp, err := echo.Call(context.Background(), typed, request)
				if err != nil {
					return err
				}
				echo.PutResponse(resp)
			}
			return nil
		}, 0},
		{"a message of a stream", func(n int) error { return stream(10 * n) }, 0.9}, // far less than one: buffers that stand in a queue for the first time
		{"a stream of ten messages", func(n int) error {
			for range n {
				if err := stream(10); err != nil {
					return err
				}
			}
			return nil
		}, 25},
	} {
		for _, callers := range []int{1, 64} {
			most := test.most + 0.1 // what is left of warming up
			n := allocations(t, 10_000, callers, most, test.run)
			t.Logf("%s, %d at once: %.2f allocations", test.name, callers, n)
			if n > most {
				t.Errorf("%s, %d at once: %.2f allocations, more than %v", test.name, callers, n, test.most)
			}
		}
	}
}
