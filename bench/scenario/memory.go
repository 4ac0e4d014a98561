package scenario

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/gridmesh/grid/bench/contender"
	"github.com/gridmesh/grid/bench/measure"
)

func idleSection(o Options) Section {
	nodes, streams := 16, 500
	if o.Small {
		nodes, streams = 4, 20
	}
	return Section{
		Name:  "idle",
		Title: "Memory of idle connections and streams",
		Text: fmt.Sprintf("Heap and stacks after a garbage collection, both ends together. A pair is two of %d nodes in a full mesh that have called "+
			"each other once in both directions; all but `limit` and `grid` need two connections for that. A stream is one of %d on a connection, each after one message; "+
			"the count includes its consumer's goroutine.", nodes, streams),
		Cases: []Case{
			{
				Name:       "a pair",
				Columns:    []Column{{"memory", "KiB"}, {"goroutines", ""}},
				Contenders: []string{limitName, "grid", "grpc", "drpc", "ttrpc", "net/rpc", "yamux", "smux", "http/1.1", "h2c"},
				Baseline:   limitName,
				run: func(_ Options, c contender.Contender) ([]float64, error) {
					u, _, err := meshUse(c, nodes)
					u = u.Per(nodes * (nodes - 1) / 2)
					return []float64{u.Bytes / 1024, u.Goroutines}, err
				},
			},
			{
				Name:       "a stream",
				Columns:    []Column{{"memory", "KiB"}, {"goroutines", ""}},
				Contenders: names(func(c contender.Contender) bool { return c.Streams }),
				Baseline:   limitName,
				run: func(_ Options, c contender.Contender) ([]float64, error) {
					return idleStreams(c, streams)
				},
			},
		},
	}
}

// meshUse returns what a mesh holds whose nodes have all called each other, and how long that took.
func meshUse(c contender.Contender, nodes int) (used measure.Usage, took time.Duration, err error) {
	before, began := measure.Use(), time.Now()
	_, err = start(c, contender.Setup{Nodes: nodes}, func(n contender.Nodes) ([]float64, error) {
		clients, err := allPairs(n, nodes)
		if err != nil {
			return nil, err
		}
		took = time.Since(began)
		used = measure.Use().Minus(before)
		for _, c := range clients {
			c.Close()
		}
		return nil, nil
	})
	return used, took, err
}

// idleStreams opens streams that stay open after their first message.
func idleStreams(c contender.Contender, streams int) ([]float64, error) {
	return start(c, contender.Setup{Nodes: 2, Window: wideWindow}, func(n contender.Nodes) ([]float64, error) {
		var figures []float64
		err := withStreamer(n, func(st contender.Streamer) error {
			if err := st.Echo(randomBytes(small)); err != nil {
				return err
			}
			before := measure.Use()
			ctx, cancel := context.WithCancel(context.Background())
			opened, failed := make(chan struct{}, streams), make(chan error, streams)
			var wg sync.WaitGroup
			defer wg.Wait()
			defer cancel()
			for range streams {
				wg.Go(func() {
					failed <- st.Stream(ctx, contender.Order{Messages: 1, Size: small, Hold: true}, func(int) bool {
						opened <- struct{}{}
						return true
					})
				})
			}
			for range streams {
				select {
				case <-opened:
				case err := <-failed:
					return fmt.Errorf("a stream has ended early: %w", err)
				}
			}
			u := measure.Use().Minus(before).Per(streams)
			figures = []float64{u.Bytes / 1024, u.Goroutines}
			return nil
		})
		return figures, err
	})
}

func meshMemorySection(o Options) Section {
	s := Section{
		Name:  "meshmemory",
		Title: "Whole meshes",
		Extra: true,
		Text: "Heap, stacks and goroutines of a process with all nodes of a full mesh, after each node has called every other once, " +
			"and the seconds until then.",
	}
	sizes := []int{2, 8, 32, 100}
	if o.Small {
		sizes = []int{2, 4}
	}
	for _, nodes := range sizes {
		s.Cases = append(s.Cases, Case{
			Name:       fmt.Sprintf("%d nodes", nodes),
			Columns:    []Column{{"memory", "MiB"}, {"goroutines", ""}, {"seconds", ""}},
			Contenders: []string{limitName, "grid"},
			Baseline:   limitName,
			run: func(_ Options, c contender.Contender) ([]float64, error) {
				u, took, err := meshUse(c, nodes)
				return []float64{u.Bytes / (1 << 20), u.Goroutines, took.Seconds()}, err
			},
		})
	}
	return s
}
