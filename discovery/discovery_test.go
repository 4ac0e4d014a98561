package discovery

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gridmesh/grid"
	"github.com/gridmesh/grid/internal/testkit"
)

const local = "http://local:9000"

// fakeNode notes which hosts it is given, and when.
type fakeNode struct {
	mu      sync.Mutex // Protects following.
	changes []change
	refuse  error
	initial []string
}

type change struct {
	at    time.Time
	hosts string // with spaces between the names
}

func (n *fakeNode) HostName() string  { return local }
func (n *fakeNode) Targets() []string { return n.initial }

func (n *fakeNode) SetHosts(hosts []string) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if hosts[0] != local {
		return errors.New("the node's own name is not the first")
	}
	n.changes = append(n.changes, change{time.Now(), strings.Join(hosts[1:], " ")})
	return n.refuse
}

// hosts returns those of the last change.
func (n *fakeNode) hosts() string {
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(n.changes) == 0 {
		return strings.Join(n.initial, " ")
	}
	return n.changes[len(n.changes)-1].hosts
}

func (n *fakeNode) count() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return len(n.changes)
}

// fakeSource finds what a test tells it.
type fakeSource struct {
	found  chan []string
	fail   chan error
	starts chan time.Time
}

func newFakeSource() *fakeSource {
	return &fakeSource{found: make(chan []string), fail: make(chan error), starts: make(chan time.Time, 1000)}
}

func (s *fakeSource) String() string { return "fake" }

func (s *fakeSource) Watch(ctx context.Context, found func([]string)) error {
	s.starts <- time.Now()
	for {
		select {
		case hosts := <-s.found:
			found(hosts)
			clear(hosts) // Run keeps nothing of them
		case err := <-s.fail:
			return err
		case <-ctx.Done():
			return errors.New("said after the end")
		}
	}
}

// world is a Runner with a fake on either side, in virtual time.
type world struct {
	*testing.T
	node   fakeNode
	source *fakeSource
	runner *Runner
	log    *testkit.LogLines
}

func simulate(t *testing.T, r *Runner, test func(w *world), initial ...string) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := &world{T: t, source: newFakeSource(), runner: r, log: testkit.NewLogLines()}
		w.node.initial = initial
		w.runner.Logger = slog.New(slog.NewTextHandler(w.log, nil))
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			w.runner.run(ctx, &w.node, w.source)
			close(done)
		}()
		test(w)
		cancel()
		<-done
		if strings.Contains(w.log.String(), "after the end") {
			t.Error("the end of the source with its context is a failure")
		}
	})
}

func (w *world) find(names ...string) {
	w.source.found <- names
	synctest.Wait()
}

func (w *world) fail() {
	w.source.fail <- errors.New("no idea")
	synctest.Wait()
}

// after waits, and compares the hosts.
func (w *world) after(d time.Duration, want string) {
	w.Helper()
	time.Sleep(d)
	synctest.Wait()
	if got := w.node.hosts(); got != want {
		w.Errorf("after %v: hosts %q, want %q\n%s", d, got, want, w.log)
	}
}

func TestTheFirstAnswerIsAppliedAtOnce(t *testing.T) {
	simulate(t, &Runner{}, func(w *world) {
		w.find("b", local, "a", "b")
		w.after(0, "a b")
	})
}

func TestManyChangesAreMadeTogether(t *testing.T) {
	simulate(t, &Runner{Settle: 2 * time.Second}, func(w *world) {
		w.find("a")
		for i := range 10 { // one every 100 ms
			w.find(append([]string{"a"}, names(i+1)...)...)
			w.after(100*time.Millisecond, "a")
		}
		w.after(time.Second-time.Millisecond, "a")
		w.after(time.Millisecond, "a "+strings.Join(names(10), " "))
		if n := w.node.count(); n != 2 {
			t.Errorf("%d changes, want 2", n)
		}
		for i := range 100 { // Without a rest, changes are made all the same.
			w.find(append(names(11), fmt.Sprint("x", i))...)
			time.Sleep(time.Second)
		}
		if n := w.node.count(); n < 40 || n > 60 {
			t.Errorf("%d changes in 100 seconds, want one every 2", n-2)
		}
	})
}

// names returns n0, n1 and so on.
func names(n int) (all []string) {
	for i := range n {
		all = append(all, fmt.Sprintf("n%02d", i))
	}
	return all
}

func TestWhatComesAndGoesWhileChangesAreCollectedIsNoChange(t *testing.T) {
	simulate(t, &Runner{Hold: -1}, func(w *world) {
		w.find("a")
		w.find("a", "b")
		time.Sleep(500 * time.Millisecond)
		w.find("a")
		time.Sleep(time.Minute)
		w.find("a", "c")
		w.after(999*time.Millisecond, "a") // the second begins with c
		w.after(time.Millisecond, "a c")
		for i := range 100 {
			w.find("a", "c", fmt.Sprint("x", i))
			w.find("a", "c")
		}
		if held := w.runner.Stats().Held; held != 0 {
			t.Errorf("%d hosts are held that were never in the set", held)
		}
		w.fail()
		w.after(time.Hour, "a c")
		if n := w.node.count(); n != 2 {
			t.Errorf("%d changes, want 2", n)
		}
	})
}

func TestAMissingHostIsHeld(t *testing.T) {
	simulate(t, &Runner{Settle: -1}, func(w *world) {
		w.find("a", "b")
		w.find("a")
		w.after(29*time.Second, "a b")
		w.find("a", "b") // was not dead
		w.after(time.Hour, "a b")
		w.find("a")
		if held := w.runner.Stats().Held; held != 1 {
			t.Errorf("%d held, want 1", held)
		}
		w.after(30*time.Second-time.Millisecond, "a b")
		w.after(time.Millisecond, "a")
		if s := w.runner.Stats(); s.Held != 0 || s.Hosts != 2 || s.Changes != 2 {
			t.Errorf("after the removal: %+v", s)
		}
	})
}

func TestHostsOfTheStartAreHeldToo(t *testing.T) {
	simulate(t, &Runner{Settle: -1}, func(w *world) {
		w.after(time.Hour, "a z")
		w.find("a", "b")
		w.after(29*time.Second, "a b z")
		w.after(time.Second, "a b")
	}, "a", "z")
}

func TestAFailureRemovesNothing(t *testing.T) {
	for name, fail := range map[string]func(w *world){
		"an error": func(w *world) { w.fail() },
		"no error": func(w *world) { w.source.fail <- nil; synctest.Wait() },
		"no hosts": func(w *world) { w.find() },
		"too many": func(w *world) { w.find(names(maxHosts + 1)...) },
	} {
		t.Run(name, func(t *testing.T) {
			simulate(t, &Runner{Settle: -1}, func(w *world) {
				w.find("a", "b")
				w.find("a")
				time.Sleep(29 * time.Second)
				fail(w)
				w.after(time.Hour, "a b")
				w.find("a") // and now b is missing anew
				w.after(29*time.Second, "a b")
				w.after(time.Second, "a")
				if s := w.runner.Stats(); s.Failures != 1 || s.LastError == "" || s.LastErrorTime.IsZero() || s.Answers != 3 {
					t.Errorf("%+v", s)
				}
			})
		})
	}
}

func TestTheLastHostThatIsThereIsThisNode(t *testing.T) {
	simulate(t, &Runner{Settle: -1}, func(w *world) {
		w.find("a", local)
		w.find(local) // is an answer, which has a host
		w.after(30*time.Second, "")
	})
}

func TestARefusedSetChangesNothing(t *testing.T) {
	simulate(t, &Runner{Settle: -1}, func(w *world) {
		w.find("a")
		w.node.mu.Lock()
		w.node.refuse = errors.New("no such scheme")
		w.node.mu.Unlock()
		w.find("a", "ftp:b")
		time.Sleep(time.Hour)
		if n := w.node.count(); n != 2 {
			t.Errorf("%d changes, want 2: the same is not tried again", n)
		}
		if s := w.runner.Stats(); s.Hosts != 2 || s.Changes != 1 || s.Failures != 1 || !strings.Contains(s.LastError, "no such scheme") {
			t.Errorf("%+v", s)
		}
		w.log.Wait(t, "WARN", "discovery failed", "no such scheme")
		w.node.mu.Lock()
		w.node.refuse = nil
		w.node.mu.Unlock()
		w.find("a", "c")
		w.after(0, "a c") // It was not in the set, so it is not held.
	})
}

func TestASourceThatFailsIsAskedLessAndLess(t *testing.T) {
	simulate(t, &Runner{}, func(w *world) {
		last := <-w.source.starts
		for i := range 20 {
			w.fail()
			next := <-w.source.starts
			want := min(minPause<<i, maxPause)
			if pause := next.Sub(last); pause < want*9/10 || pause > want*11/10 {
				t.Errorf("pause %d is %v, want about %v", i, pause, want)
			}
			last = next
		}
		w.find("a")
		w.fail()
		if pause := (<-w.source.starts).Sub(last); pause > minPause*11/10 {
			t.Errorf("the pause after an answer is %v", pause)
		}
	})
}

func TestASourceThatPanicsHasFailed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		log := testkit.NewLogLines()
		r := Runner{Logger: slog.New(slog.NewTextHandler(log, nil))}
		calls := 0
		var n fakeNode
		done := make(chan struct{})
		go func() {
			r.run(ctx, &n, &Poll{Find: func(context.Context) ([]string, error) {
				if calls++; calls == 2 {
					panic("oops\n")
				}
				return []string{fmt.Sprint(calls)}, nil
			}})
			close(done)
		}()
		time.Sleep(10 * time.Second)
		synctest.Wait()
		if got := n.hosts(); got != "1 3" {
			t.Errorf("hosts %q, want those of two answers", got)
		}
		if s := r.Stats(); s.Failures != 1 || s.LastError != `panicked: oops\n` {
			t.Errorf("%+v", s)
		}
		log.Wait(t, "ERROR", "grid: discovery panicked", "oops", "discovery_test.go")
		cancel()
		<-done
	})
}

func TestANodeThatDoesNotFindItselfSaysSo(t *testing.T) {
	simulate(t, &Runner{Settle: -1}, func(w *world) {
		const line = "grid: discovery does not find this node"
		lines := func(want int) {
			t.Helper()
			synctest.Wait()
			if n := strings.Count(w.log.String(), line); n != want {
				t.Fatalf("%d lines, want %d:\n%s", n, want, w.log)
			}
		}
		w.find("a")
		if w.runner.Stats().Listed {
			t.Error("listed")
		}
		time.Sleep(29 * time.Second)
		w.find("a", local) // It takes a while to be found after a start.
		if !w.runner.Stats().Listed {
			t.Error("not listed")
		}
		time.Sleep(time.Hour)
		w.find("a", "c\x1b[2J")
		time.Sleep(29 * time.Second)
		w.find(append(names(15), "c\x1b[2J")...)
		lines(0)
		time.Sleep(time.Second)
		lines(1)
		w.log.Wait(t, "WARN", line, "source=fake", "local="+local, `c\\u001b[2J n00`, "n08] and 6 more")
		time.Sleep(time.Hour)
		w.find("a")
		lines(1)
		w.find("a", local)
		w.find("a")
		time.Sleep(time.Minute)
		lines(2)
	})
}

func TestRunEndsWithTheManager(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := fakeNode{refuse: fmt.Errorf("grid: SetHosts: %w", grid.ErrShutdown)}
		var r Runner
		s := newFakeSource()
		done := make(chan struct{})
		go func() {
			r.run(t.Context(), &n, s)
			close(done)
		}()
		s.found <- []string{"a"}
		<-done
		if failures := r.Stats().Failures; failures != 0 {
			t.Errorf("%d failures", failures)
		}
	})
}

// It does so also where nothing changes: the source is to know that the node has gone.
func TestRunEndsWithAManagerWhoseHostsStay(t *testing.T) {
	m, err := grid.NewManager(context.Background(), grid.ManagerOptions{
		Local: local, AuthRequest: func(*http.Request) error { return nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	done := make(chan struct{})
	s := newFakeSource()
	go func() {
		Run(t.Context(), m, s)
		close(done)
	}()
	s.found <- []string{local}
	if err := m.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
	<-done
}

func TestFailuresAreLoggedOnceAMinute(t *testing.T) {
	simulate(t, &Runner{}, func(w *world) {
		for range 7 { // after 0, 1, 3, 7, 15, 31 and 61 seconds, or a tenth later
			w.fail()
		}
		time.Sleep(40 * time.Second)
		w.fail()
		text := w.log.String()
		if n := strings.Count(text, "grid: discovery failed"); n != 2 {
			t.Errorf("%d lines, want 2:\n%s", n, text)
		}
		w.source.fail <- errors.New("another") // soon after
		synctest.Wait()
		w.source.fail <- errors.New("another")
		time.Sleep(maxPause)
		w.source.fail <- errors.New("a third")
		w.log.Wait(t, "WARN", `reason="a third"`, "more=1")
		if strings.Contains(text, "answers again") {
			t.Errorf("there was no answer:\n%s", text)
		}
		w.log.Wait(t, "WARN", `reason="no idea"`, "more=0")
		w.find("a")
		w.log.Wait(t, "INFO", "grid: discovery answers again")
		w.find("a", "b")
		if n := strings.Count(w.log.String(), "answers again"); n != 1 {
			t.Errorf("%d lines, want 1:\n%s", n, w.log)
		}
	})
}

// Whatever a source says and when: a host that all answers have is never removed, one that is
// missing from all is, after Hold and not before, and the node is not told all the time.
func TestAnyAnswers(t *testing.T) {
	for seed := range uint64(200) {
		anyAnswers(t, seed)
	}
}

func anyAnswers(t *testing.T, seed uint64) {
	r := rand.New(rand.NewPCG(seed, 0))
	settle, hold := time.Duration(r.IntN(5000))*time.Millisecond, time.Duration(r.IntN(20000)+1)*time.Millisecond
	if settle == 0 {
		settle = -1
	}
	simulate(t, &Runner{Settle: settle, Hold: hold}, func(w *world) {
		<-w.source.starts
		stable := names(3)
		missing := make(map[string]time.Time) // since when, without a failure
		for range 100 {
			now := time.Now()
			if r.IntN(10) == 0 {
				w.fail()
				clear(missing)
				<-w.source.starts
				synctest.Wait()
				continue
			}
			answer := slices.Clone(stable)
			for i := range 5 {
				host := fmt.Sprint("x", i)
				if r.IntN(2) == 0 {
					answer = append(answer, host)
					delete(missing, host)
				} else if missing[host].IsZero() {
					missing[host] = now
				}
			}
			r.Shuffle(len(answer), func(i, j int) { answer[i], answer[j] = answer[j], answer[i] })
			asked := slices.Clone(answer)
			before := strings.Fields(w.node.hosts())
			w.find(answer...)
			time.Sleep(time.Duration(r.Int64N(int64(hold)*3/2 + 1)))
			synctest.Wait()
			after := strings.Fields(w.node.hosts())
			waited := time.Since(now)
			for _, host := range stable {
				if !slices.Contains(after, host) {
					t.Fatalf("seed %d: %s was removed", seed, host)
				}
			}
			for _, host := range asked {
				if waited > settle && !slices.Contains(after, host) {
					t.Fatalf("seed %d: %s was found %v ago, and not added", seed, host, waited)
				}
			}
			for _, host := range before {
				if gone := !slices.Contains(after, host); gone && (missing[host].IsZero() || time.Since(missing[host]) < hold) {
					t.Fatalf("seed %d: %s was removed, and missing only since %v", seed, host, missing[host])
				}
			}
			for host, since := range missing {
				if slices.Contains(after, host) && time.Since(since) > hold+max(settle, 0) {
					t.Fatalf("seed %d: %s is missing for %v, and not removed", seed, host, time.Since(since))
				}
			}
		}
		changes := w.node.changes
		for i := range max(0, len(changes)-1) {
			if pause := changes[i+1].at.Sub(changes[i].at); pause < settle {
				t.Fatalf("seed %d: two changes within %v, want %v between them", seed, pause, settle)
			}
		}
	})
}

// A guest is in no list of hosts, and does not look for itself.
func TestAGuestDoesNotLookForItself(t *testing.T) {
	now := time.Now()
	for local, want := range map[string]bool{"http://self:1": true, "probe 7": false} {
		p := newPlan(nil, 0, time.Minute)
		p.answer([]string{"http://other:1"}, local, now)
		if got := p.lost(now.Add(time.Hour)); got != want {
			t.Errorf("%s is missed: %v, want %v", local, got, want)
		}
	}
}
