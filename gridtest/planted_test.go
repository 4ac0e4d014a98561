package gridtest

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gridmesh/grid"
)

// plantedFlag names a bug of a program, which TestPlantedBugs then has.
var plantedFlag = flag.String("planted", "", "the `bug` that TestPlantedBugs has")

// planted are bugs, and what is said of them.
var planted = map[string]struct {
	run  func(t *testing.T)
	want string
}{
	"a stream is left open": {
		bubble(func(_ *testing.T, w *World) {
			_, err := w.Node(0).To(1).OpenStream(context.Background(), "stream", nil)
			if err != nil {
				w.t.Error(err)
			}
		}, Setup(silent)),
		"node-0: a stream of stream to http://node-1:9000 is open for ",
	},
	"a handler panics": {
		bubble(func(t *testing.T, w *World) { _, _ = w.Node(0).To(1).Call(t.Context(), "panics", nil) }, Setup(panics)),
		"the handler of panics at node-1 has panicked: out of luck",
	},
	"a handler of a stream panics": {
		bubble(func(t *testing.T, w *World) {
			st, err := w.Node(0).To(1).OpenStream(t.Context(), "panics.too", nil)
			if err == nil {
				<-st.Done()
			}
		}, Setup(panics)),
		"the handler of panics.too at node-1 has panicked: out of luck",
	},
	"a goroutine is left": {
		bubble(func(*testing.T, *World) { go time.Sleep(time.Hour) }),
		"1 goroutines are left: goroutine ",
	},
	"a goroutine of a node does not end": {
		bubble(func(_ *testing.T, w *World) {
			w.Node(2).Go(func(context.Context) { time.Sleep(time.Hour) })
		}),
		"what Go has started for node-2 does not end: goroutine ",
	},
	"a test waits for ever": {
		bubble(func(*testing.T, *World) { select {} }, Limit(time.Hour)),
		"the test has taken 1h0m0s of virtual time",
	},
	"a call waits for ever": {
		bubble(func(_ *testing.T, w *World) {
			ctx := grid.WithoutDeadline(context.Background())
			_, err := w.Node(0).To(1).Call(ctx, "silent", nil)
			w.Logf("the call has ended: %v", err)
		}, Setup(silent), Limit(time.Hour)),
		`What is open: ["node-0: a request of silent to http://node-1:9000 is open for `,
	},
	"a setup fails": {
		bubble(func(*testing.T, *World) {}, Setup(func(*Node) error { return errors.New("no room") })),
		"gridtest: start of node-0: no room",
	},
	"a setup fails at a restart": {
		bubble(func(_ *testing.T, w *World) { w.Restart(0) }, Setup(func(n *Node) error {
			if n.purpose&1 == 1 {
				return errors.New("no room")
			}
			return nil
		})),
		"gridtest: start of node-0: no room",
	},
	"nodes do not let each other in": {
		func(t *testing.T) {
			var refuses atomic.Bool
			bubble(func(_ *testing.T, w *World) {
				refuses.Store(true)
				w.Restart(2)
			}, Managers(func(_ int, o *grid.ManagerOptions) {
				o.AuthRequest = func(*http.Request) error {
					if refuses.Load() {
						return errors.New("not anymore")
					}
					return nil
				}
			}))(t)
		},
		"is not connected to ",
	},
	"something does not come": {
		bubble(func(_ *testing.T, w *World) {
			w.Eventually(time.Minute, "pigs fly", func() bool { return false })
		}),
		"not within 1m0s: pigs fly",
	},
	"something does not last": {
		bubble(func(_ *testing.T, w *World) {
			w.Always(time.Second, "peace on earth", func() error {
				if time.Since(w.history.began) > time.Minute {
					return errors.New("war")
				}
				return nil
			})
			time.Sleep(time.Hour)
		}),
		"peace on earth: war",
	},
	"something is wrong with one seed": {
		func(t *testing.T) {
			Run(t, func(t *testing.T, w *World) {
				if w.config.seed == 13 {
					t.Error("that is bad luck")
				}
			}, Nodes(1))
		},
		"FAIL: TestPlantedBugs/seed=13",
	},
	"a seed hangs": {
		func(t *testing.T) {
			Run(t, func(t *testing.T, w *World) {
				for stop := new(atomic.Bool); w.config.seed == 3 && !stop.Load(); {
				}
			}, Nodes(1))
		},
		"panic: seed 3 hangs; go test ",
	},
	"there is no bubble": {func(t *testing.T) { New(t) }, "gridtest.New needs a bubble"},
	"there is no node":   {bubble(nil, Nodes(0)), "a world of 0 nodes"},

	// What only a bug of the library could cause.
	"a handler runs without a call": {
		bubble(func(t *testing.T, w *World) {
			if _, err := w.Node(0).To(1).Call(t.Context(), "fine", nil); err != nil {
				t.Error(err)
			}
			w.lives = w.lives[1:]
		}, Setup(func(n *Node) error {
			return n.Manager.Handle("fine", func(context.Context, []byte) ([]byte, error) { return nil, nil })
		})),
		"fine was handled 1 times, and called 0 times",
	},
	"what was sent is lost": {
		bubble(func(_ *testing.T, w *World) {
			w.net.Stall("node-1", "node-0", time.Minute)
			time.Sleep(10 * time.Second)
			w.net.Drop("node-0", "node-1")
			time.Sleep(time.Minute)
		}),
		"node-0 has sent node-1 {Bytes:",
	},
	"a connection is left": {
		bubble(func(t *testing.T, w *World) {
			if _, err := w.net.Dialer("somebody")(t.Context(), "tcp", "node-1:9000"); err != nil {
				t.Error(err)
			}
		}),
		"connections that nobody has closed: [",
	},
}

// bubble returns a test with a World.
func bubble(f func(t *testing.T, w *World), options ...Option) func(t *testing.T) {
	return func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) { f(t, New(t, options...)) })
	}
}

// silent registers handlers that do nothing until their context ends.
func silent(n *Node) error {
	return errors.Join(
		n.Manager.Handle("silent", func(ctx context.Context, _ []byte) ([]byte, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		}),
		n.Manager.HandleStream("stream", func(ctx context.Context, _ *grid.RawStream) error {
			<-ctx.Done()
			return ctx.Err()
		}),
	)
}

// panics registers handlers that do.
func panics(n *Node) error {
	return errors.Join(
		n.Manager.Handle("panics", func(context.Context, []byte) ([]byte, error) { panic("out of luck") }),
		n.Manager.HandleStream("panics.too", func(context.Context, *grid.RawStream) error { panic("out of luck") }),
	)
}

// Whatever goes wrong in a test fails it, with words that help, and with the command that repeats
// it.
func TestPlantedBugs(t *testing.T) {
	if bug, ok := planted[*plantedFlag]; ok {
		bug.run(t)
		return
	}
	for name, bug := range planted {
		t.Run(name, func(t *testing.T) {
			cmd := exec.Command(os.Args[0], "-test.run=^TestPlantedBugs$", "-planted="+name, "-gridtest.hangs=5s")
			out, err := cmd.CombinedOutput()
			if err == nil || !strings.Contains(strings.Join(strings.Fields(string(out)), " "), bug.want) {
				t.Fatalf("%v; %q is not in\n%s", err, bug.want, out)
			}
			if name != "there is no bubble" && name != "there is no node" && !strings.Contains(string(out), "go test ") {
				t.Errorf("no command is in\n%s", out)
			}
		})
	}
}

// The command that is printed runs the one seed, and fails as it did.
func TestTheCommandRepeatsTheSeed(t *testing.T) {
	if testing.Short() {
		t.Skip("compiles this package once more")
	}
	const name = "something is wrong with one seed"
	out, _ := exec.Command(os.Args[0], "-test.run=^TestPlantedBugs$", "-planted="+name).CombinedOutput()
	command := regexp.MustCompile(`(?m)to repeat: (.*)$`).FindSubmatch(out)
	if command == nil {
		t.Fatalf("no command is in\n%s", out)
	}
	sh, err := exec.LookPath("sh")
	if err != nil {
		t.Skip(err)
	}
	again, err := exec.Command(sh, "-c", string(command[1])).CombinedOutput()
	if err == nil || !strings.Contains(string(again), "that is bad luck") || strings.Contains(string(again), "seed=12") {
		t.Errorf("%s: %v\n%s", command[1], err, again)
	}
}

func TestRepeatCommand(t *testing.T) {
	got := repeatCommand("TestX/a_(b)/seed=1", 7)
	if want := `-run '^TestX$/^a_\(b\)$/^seed=1$' github.com/gridmesh/grid/gridtest -gridtest.seed=7`; !strings.Contains(got, want) {
		t.Errorf("got %s, want %s", got, want)
	}
}

// Run runs as many seeds as it is told to, from the first on, one at a time.
func TestRunRunsEachSeed(t *testing.T) {
	var seeds []uint64
	Run(t, func(_ *testing.T, w *World) { seeds = append(seeds, w.config.seed) }, Nodes(1), Seed(40), Seeds(3))
	Run(t, func(_ *testing.T, w *World) { seeds = append(seeds, w.config.seed) }, Nodes(1), Seed(7), Seeds(1))
	if fmt.Sprint(seeds) != "[40 41 42 7]" && *seedFlag == 0 && *seedsFlag == 0 {
		t.Errorf("ran %v", seeds)
	}
}
