package gridtest_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gridmesh/grid"
	"github.com/gridmesh/grid/gridtest"
)

// in runs f with nodes that echo, on links without a delay.
func in(t *testing.T, nodes int, f func(t *testing.T, w *gridtest.World)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		f(t, gridtest.New(t, gridtest.Nodes(nodes), gridtest.Setup(echo), gridtest.Links(gridtest.Link{})))
	})
}

// echo registers a handler that answers at once, and one that takes ten minutes.
func echo(n *gridtest.Node) error {
	return errors.Join(
		n.Manager.Handle("echo", func(_ context.Context, b []byte) ([]byte, error) { return b, nil }),
		n.Manager.Handle("slow", func(ctx context.Context, b []byte) ([]byte, error) {
			select {
			case <-time.After(10 * time.Minute):
			case <-ctx.Done():
			}
			return b, nil
		}),
	)
}

// call calls a node that has to answer within a time.
func call(w *gridtest.World, from, to int, method string, within time.Duration) (took time.Duration, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	began := time.Now()
	_, err = w.Node(from).To(to).Call(ctx, method, make([]byte, 1000))
	return time.Since(began), err
}

// wantCalls checks which nodes answer which.
func wantCalls(t *testing.T, w *gridtest.World, nodes int, reach func(from, to int) bool) {
	t.Helper()
	for from := range nodes {
		for to := range nodes {
			if from == to {
				continue
			}
			if _, err := call(w, from, to, "echo", time.Second); (err == nil) != reach(from, to) {
				t.Errorf("from %d to %d: %v", from, to, err)
			}
		}
	}
}

func everybody(int, int) bool { return true }

func TestNodesThatAreKeptApart(t *testing.T) {
	for _, test := range []struct {
		name    string
		inflict func(w *gridtest.World) (heal func())
		reach   func(from, to int) bool
	}{
		{
			"partition",
			func(w *gridtest.World) func() { return w.Partition(0, 1) },
			func(from, to int) bool { return (from < 2) == (to < 2) },
		},
		{
			"isolation",
			func(w *gridtest.World) func() { return w.Isolate(0, 1) },
			func(from, to int) bool { return from >= 2 && to >= 2 },
		},
		{
			"block", // answers do not arrive, where requests do
			func(w *gridtest.World) func() { return w.Block(2, 0) },
			func(from, to int) bool { return from+to != 2 || from == to },
		},
		{
			"block of all",
			func(w *gridtest.World) func() { return w.Block(gridtest.All, 3) },
			func(from, to int) bool { return from != 3 && to != 3 },
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			in(t, 4, func(t *testing.T, w *gridtest.World) {
				wantCalls(t, w, 4, everybody)
				heal := test.inflict(w)
				wantCalls(t, w, 4, test.reach)
				time.Sleep(time.Minute) // connections are lost
				wantCalls(t, w, 4, test.reach)
				w.WaitConnected() // does not wait for those that are kept apart
				heal()
				heal()
				w.WaitConnected()
				wantCalls(t, w, 4, everybody)
				test.inflict(w)
				w.Heal()
				w.WaitConnected()
				wantCalls(t, w, 4, everybody)
			})
		})
	}
}

// What a short partition holds up arrives when it ends.
func TestAShortPartitionLosesNothing(t *testing.T) {
	in(t, 2, func(t *testing.T, w *gridtest.World) {
		heal := w.Partition(0)
		time.AfterFunc(5*time.Second, heal)
		if took, err := call(w, 0, 1, "echo", time.Minute); err != nil || took != 5*time.Second {
			t.Errorf("took %v: %v", took, err)
		}
		if again := w.Node(0).To(1).Stats().Reconnects; again != 0 {
			t.Errorf("%d reconnects", again)
		}
	})
}

func TestALongPartitionFailsCalls(t *testing.T) {
	in(t, 2, func(t *testing.T, w *gridtest.World) {
		w.Partition(0)
		if took, err := call(w, 0, 1, "slow", time.Hour); !errors.Is(err, grid.ErrDisconnected) || took > time.Minute {
			t.Errorf("took %v: %v", took, err)
		}
	})
}

func TestFaultsAddUp(t *testing.T) {
	in(t, 3, func(t *testing.T, w *gridtest.World) {
		first := w.Partition(0)
		second := w.Isolate(0, 1)
		first()
		wantCalls(t, w, 3, func(int, int) bool { return false })
		second()
		w.WaitConnected()
		wantCalls(t, w, 3, everybody)

		w.Delay(0, 1, time.Second)
		heal := w.Delay(0, gridtest.All, time.Second)
		for _, want := range []time.Duration{4 * time.Second, 2 * time.Second, 0} {
			if took, err := call(w, 0, 1, "echo", time.Minute); took != want || err != nil {
				t.Errorf("took %v, want %v: %v", took, want, err)
			}
			heal()
			if want == 2*time.Second {
				w.Heal()
			}
			time.Sleep(time.Minute) // for what is still on its way: nothing overtakes it
		}
	})
}

func TestDelay(t *testing.T) {
	in(t, 3, func(t *testing.T, w *gridtest.World) {
		w.Delay(0, 1, 300*time.Millisecond)
		for from := range 3 {
			for to := range 3 {
				want := time.Duration(0)
				if from+to == 1 {
					want = 600 * time.Millisecond
				}
				if from == to {
					continue
				}
				if took, err := call(w, from, to, "echo", time.Minute); took != want || err != nil {
					t.Errorf("from %d to %d took %v, want %v: %v", from, to, took, want, err)
				}
			}
		}
	})
}

// A message that is lost is late, and no connection is.
func TestLoss(t *testing.T) {
	in(t, 2, func(t *testing.T, w *gridtest.World) {
		w.Loss(0, 1, 0.1)
		late := 0
		for range 200 {
			took, err := call(w, 0, 1, "echo", time.Minute)
			if err != nil {
				t.Fatal(err)
			}
			if took >= 200*time.Millisecond {
				late++
			} else if took != 0 {
				t.Errorf("took %v", took)
			}
		}
		if late < 15 || late > 80 {
			t.Errorf("%d of 200 calls were late, want about 38", late)
		}
		if again := w.Node(0).To(1).Stats().Reconnects; again != 0 {
			t.Errorf("%d reconnects", again)
		}
	})
}

func TestSlow(t *testing.T) {
	in(t, 2, func(t *testing.T, w *gridtest.World) {
		w.Slow(0, 1, 1000)
		if took, err := call(w, 0, 1, "echo", time.Minute); took < 2*time.Second || took > 3*time.Second || err != nil {
			t.Errorf("1000 bytes there and back took %v: %v", took, err)
		}
	})
}

func TestCutIsNoticedAtOnce(t *testing.T) {
	in(t, 3, func(t *testing.T, w *gridtest.World) {
		time.AfterFunc(time.Second, func() { w.Cut(1, gridtest.All) })
		if took, err := call(w, 0, 1, "slow", time.Hour); took != time.Second || !errors.Is(err, grid.ErrDisconnected) {
			t.Errorf("took %v: %v", took, err)
		}
		time.Sleep(5 * time.Second)
		wantCalls(t, w, 3, everybody)
		for to, want := range []int64{1: 1, 2: 0} {
			if to == 0 {
				continue
			}
			if again := w.Node(0).To(to).Stats().Reconnects; again != want {
				t.Errorf("%d reconnects from 0 to %d", again, to)
			}
		}
	})
}

// A crash is silent: only somebody who waits for long, or the next process, tells of it.
func TestCrash(t *testing.T) {
	in(t, 2, func(t *testing.T, w *gridtest.World) {
		before := w.Node(1)
		time.AfterFunc(time.Second, func() { w.Crash(1) })
		if took, err := call(w, 0, 1, "slow", time.Hour); took < 5*time.Second || took > time.Minute || !errors.Is(err, grid.ErrDisconnected) {
			t.Errorf("took %v: %v", took, err)
		}
		if before.Context().Err() == nil || w.Node(1) != before {
			t.Error("the life of a node has not ended, or another one has begun")
		}
		w.Crash(1) // is down
		w.Start(1)
		w.Start(1) // is up
		w.WaitConnected()
		if now := w.Node(1); now == before || now.Manager == before.Manager || now.Name != before.Name || now.Context().Err() != nil {
			t.Errorf("after a start: %+v", now)
		}
		wantCalls(t, w, 2, everybody)

		time.AfterFunc(time.Second, func() { w.Restart(1) })
		if took, err := call(w, 0, 1, "slow", time.Hour); took > 5*time.Second || !errors.Is(err, grid.ErrDisconnected) {
			t.Errorf("took %v: %v", took, err)
		}
	})
}

// What runs may finish when a node stops, and everybody is told.
func TestStop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const takes = 30 * time.Second
		w := gridtest.New(t, gridtest.Nodes(2), gridtest.Setup(func(n *gridtest.Node) error {
			return n.Manager.Handle("patient", func(_ context.Context, b []byte) ([]byte, error) {
				time.Sleep(takes)
				return b, nil
			})
		}))
		time.AfterFunc(time.Second, func() { w.Stop(1) })
		if took, err := call(w, 0, 1, "patient", time.Minute); took < takes || err != nil {
			t.Errorf("took %v: %v", took, err)
		}
		time.Sleep(time.Second)
		if _, err := call(w, 0, 1, "patient", time.Minute); err == nil {
			t.Error("a node that has stopped answers")
		}
	})
}

// What belongs to a life of a node ends with it, and Setup makes it anew.
func TestLives(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var ran []string
		w := gridtest.New(t, gridtest.Nodes(1), gridtest.Setup(echo), gridtest.Setup(func(n *gridtest.Node) error {
			n.Value = n.Rand().Uint64()
			if n.Value != n.Rand().Uint64() {
				t.Error("two sources of a life differ")
			}
			n.Go(func(ctx context.Context) {
				ran = append(ran, "begins")
				<-ctx.Done()
				time.Sleep(time.Second)
				ran = append(ran, "ends")
			})
			return nil
		}))
		first := w.Node(0)
		w.Restart(0)
		w.Stop(0)
		first.Go(func(context.Context) { t.Error("runs in a life that is over") })
		if len(ran) != 4 || ran[1] != "ends" || ran[3] != "ends" {
			t.Errorf("%q", ran)
		}
		if w.Node(0).Value == first.Value {
			t.Error("two lives have the same random numbers")
		}
		w.Start(0)
	})
}

// Options reach the nodes, at each start.
func TestManagerOptions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := gridtest.New(t, gridtest.Nodes(2), gridtest.Managers(func(i int, o *grid.ManagerOptions) {
			o.Version = o.Local
			o.Dialer, o.Local = nil, "http://somebody:1" // are not for the test
		}))
		w.Restart(1)
		w.WaitConnected()
		for i := range 2 {
			if got := w.Node(1 - i).To(i).Peer().Version; got != w.Name(i) || got != w.Node(i).Name {
				t.Errorf("node %d has version %q", i, got)
			}
		}
		if w.Rand().Uint64() == w.Rand().Uint64() {
			t.Error("two sources have the same numbers")
		}
	})
}
