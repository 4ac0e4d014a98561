package load

import (
	"context"
	"errors"
	"os"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gridmesh/grid/bench/contender"
)

// fake is nodes and a client: each call takes a while and may fail.
type fake struct {
	contender.Nodes
	takes  time.Duration
	fails  func(call int64) error
	calls  atomic.Int64
	broken bool // streams end early
}

func (f *fake) Client(int, int) (contender.Client, error) { return f, nil }
func (f *fake) Close() error                              { return nil }

func (f *fake) Echo([]byte) error {
	time.Sleep(f.takes)
	if n := f.calls.Add(1); f.fails != nil {
		return f.fails(n)
	}
	return nil
}

func (f *fake) Ask(request []byte) (int, error) { return 1, f.Echo(request) }

func (f *fake) Stream(_ context.Context, o contender.Order, each func(int) bool) error {
	n := o.Messages
	if f.broken {
		n--
	}
	for i := 0; i < n || o.Messages == 0; i++ {
		time.Sleep(f.takes)
		if !each(o.Size) {
			return nil
		}
	}
	return nil
}

// runFake puts a load on fake nodes, with a clock of their own.
func runFake(t *testing.T, f *fake, s Spec) (r Result, err error) {
	t.Helper()
	synctest.Test(t, func(*testing.T) {
		r, err = Run(Nodes{Nodes: f, Others: 3, PIDs: [2]int{os.Getpid(), os.Getpid()}}, s, func() {})
	})
	if errors.Is(err, errors.ErrUnsupported) {
		t.Skip("SKIPPED: CPU time is known on Linux only")
	}
	return r, err
}

func TestCalls(t *testing.T) {
	r, err := runFake(t, &fake{takes: 10 * time.Millisecond}, Spec{
		Kind: Calls, Callers: 4, Size: 10, Warm: 5 * time.Millisecond, Time: time.Second, Timed: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	if r.Done != 400 || r.Fewest != 100 || r.Most != 100 || r.P50 != 10*time.Millisecond || r.Max != r.P50 || r.Elapsed != time.Second {
		t.Errorf("%+v", r)
	}
}

func TestFan(t *testing.T) {
	r, err := runFake(t, &fake{takes: 10 * time.Millisecond}, Spec{Kind: Fan, Callers: 1, Size: 10, Warm: time.Millisecond, Time: time.Second})
	if err != nil || r.Done != 100 {
		t.Errorf("%d rounds, %v; want 100", r.Done, err)
	}
}

func TestFailuresAreCounted(t *testing.T) {
	wrong := errors.New("wrong")
	third := func(n int64) error {
		if n%3 == 0 {
			return wrong
		}
		return nil
	}
	r, err := runFake(t, &fake{takes: time.Millisecond, fails: third}, Spec{Kind: Calls, Callers: 1, Size: 10, Time: time.Second})
	if err != nil || r.Failed == 0 || r.Failure != "wrong" || r.Done == 0 {
		t.Errorf("%+v, %v", r, err)
	}
	r, err = runFake(t, &fake{takes: time.Millisecond, fails: third}, Spec{Kind: Calls, Callers: 9, Size: 10, Once: true})
	if err != nil || r.Done != 6 || r.Failed != 3 {
		t.Errorf("%d done and %d failed of 9, %v; want 6 and 3", r.Done, r.Failed, err)
	}
}

func TestAllCallsFail(t *testing.T) {
	all := func(n int64) error {
		if n > 1 { // the first is before the measurement
			return errors.New("wrong")
		}
		return nil
	}
	if _, err := runFake(t, &fake{takes: time.Millisecond, fails: all}, Spec{Kind: Calls, Callers: 2, Size: 10, Once: true}); err == nil {
		t.Error("no error")
	}
}

// TestPacedDoesNotWait has calls that take ten times as long as there is between two.
func TestPacedDoesNotWait(t *testing.T) {
	r, err := runFake(t, &fake{takes: 100 * time.Millisecond}, Spec{Kind: Paced, Rate: 100, Size: 10, Time: time.Second, Timed: true})
	if err != nil {
		t.Fatal(err)
	}
	if r.Done < 99 || r.Done > 101 || r.Late > 0 || r.P99 != 100*time.Millisecond || uint64(len(r.Samples)) != r.Done {
		t.Errorf("%d calls, %d late, p99 %v, %d samples", r.Done, r.Late, r.P99, len(r.Samples))
	}
}

func TestStreams(t *testing.T) {
	r, err := runFake(t, &fake{takes: time.Millisecond}, Spec{Kind: Streams, Callers: 2, Size: 10, Time: time.Second})
	if err != nil || r.Done < 1998 || r.Done > 2002 {
		t.Errorf("%d messages, %v; want 2,000", r.Done, err)
	}
}

func TestSlowStreams(t *testing.T) {
	s := Spec{Kind: SlowStreams, Callers: 3, Size: 10, Messages: 5, Pause: time.Second}
	r, err := runFake(t, new(fake), s)
	if err != nil || r.Done != 15 || r.Failed != 0 || r.Elapsed != 5*time.Second {
		t.Errorf("%+v, %v", r, err)
	}
	r, err = runFake(t, &fake{broken: true}, s)
	if err != nil || r.Failed != 3 {
		t.Errorf("%d failed, %v; want 3: all have ended early", r.Failed, err)
	}
}

func TestBeside(t *testing.T) {
	r, err := runFake(t, &fake{takes: 100 * time.Millisecond}, Spec{Kind: Beside, Rate: 10, Size: 10, Time: time.Second, Bulk: 1000})
	if err != nil {
		t.Fatal(err)
	}
	if r.Bulk != 10_000 || r.BulkAlone != 10_000 || r.Done < 9 || r.Done > 11 {
		t.Errorf("%+v", r)
	}
}

func TestCrowd(t *testing.T) {
	r, err := runFake(t, &fake{takes: 100 * time.Millisecond}, Spec{Kind: Crowd, Rate: 10, Size: 10, Time: time.Second, Callers: 20, CrowdSize: 1000})
	if err != nil {
		t.Fatal(err)
	}
	if r.CrowdCalls < 150 || r.CrowdCalls > 250 || r.Done < 9 || r.Done > 11 {
		t.Errorf("%+v", r)
	}
}
