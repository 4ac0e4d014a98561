package grid

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"
)

func TestSmoke(t *testing.T) {
	g, err := SetupTestGrid(3)
	if err != nil {
		t.Fatal(err)
	}
	defer g.Cleanup()
	for _, m := range g.Managers {
		m.RegisterSingleHandler(127, func(p []byte) ([]byte, *RemoteErr) { return p, nil })
		m.RegisterSingleHandler(127, func(p []byte) ([]byte, *RemoteErr) { return nil, NewRemoteErrString("no") }, "a", "b")
		err := m.RegisterStreamingHandler(126, StreamHandler{InCapacity: 2, OutCapacity: 3, Handle: func(ctx context.Context, payload []byte, in <-chan []byte, out chan<- []byte) *RemoteErr {
			for b := range in {
				out <- b
			}
			return nil
		}})
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, a := range g.Managers {
		for _, host := range a.Targets() {
			c := a.Connection(host)
			b, err := c.Request(context.Background(), 127, []byte("hello"))
			if err != nil || string(b) != "hello" {
				t.Fatal(b, err)
			}
			_, err = c.Subroute("a").Subroute("b").Request(context.Background(), 127, []byte("hello"))
			if err == nil || err.Error() != "no" {
				t.Fatal(err)
			}
			var wg sync.WaitGroup
			for range 10 {
				wg.Go(func() {
					st, err := c.NewStream(context.Background(), 126, nil)
					if err != nil {
						t.Error(err)
						return
					}
					go func() {
						for i := range 100 {
							st.Requests <- []byte(fmt.Sprint(i))
						}
						close(st.Requests)
					}()
					i := 0
					err = st.Results(func(b []byte) error {
						if !bytes.Equal(b, []byte(fmt.Sprint(i))) {
							t.Error(string(b), i)
						}
						i++
						return nil
					})
					if err != nil || i != 100 {
						t.Error(i, err)
					}
				})
			}
			wg.Wait()
			ctx, cancel := context.WithTimeout(context.Background(), 10*time.Millisecond)
			st, err := c.NewStream(ctx, 126, nil)
			if err != nil {
				t.Fatal(err)
			}
			err = st.Results(func(b []byte) error { return nil })
			if !errors.Is(err, context.DeadlineExceeded) {
				t.Fatal(err)
			}
			cancel()
		}
	}
}

func BenchmarkSmoke(b *testing.B) {
	g, err := SetupTestGrid(2)
	if err != nil {
		b.Fatal(err)
	}
	defer g.Cleanup()
	for _, m := range g.Managers {
		m.RegisterSingleHandler(127, func(p []byte) ([]byte, *RemoteErr) { return p, nil })
	}
	c := g.Managers[0].Connection(g.Hosts[1])
	for _, n := range []int{1, 8, 32} {
		b.Run(fmt.Sprint(n*2), func(b *testing.B) {
			b.ReportAllocs()
			b.SetParallelism(n)
			payload := make([]byte, 512)
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					r, err := c.Request(context.Background(), 127, payload)
					if err != nil {
						b.Error(err)
						return
					}
					PutByteBuffer(r)
				}
			})
		})
	}
}
