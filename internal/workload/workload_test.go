package workload

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/gridmesh/grid"
)

// around is what happens around a call.
type around struct{ lost, stopped, removed, tampered bool }

func (a around) MayLose(int, int, time.Duration, time.Duration) bool { return a.lost || a.stopped }
func (a around) Stopped(int, int, time.Duration, time.Duration) bool { return a.stopped }
func (a around) Removed(int, int, time.Duration, time.Duration) bool { return a.removed }
func (a around) Tampered(int, int) bool                              { return a.tampered }
func (a around) Slowed(int, int) time.Duration                       { return 0 }
func (a around) Loss(*Call, *Notes) string                           { return "" }

func TestTheJudgeKnowsWhatMayBecomeOfACall(t *testing.T) {
	const s = time.Second
	failed := grid.NewRemoteErrString("call 5 fails")
	request, stream := Call{ID: 5, Kind: Context}, Call{ID: 5, Kind: TwoWay, Deadline: 20 * s}
	with := func(c Call, change func(c *Call)) Call {
		change(&c)
		return c
	}
	failing := with(request, func(c *Call) { c.Work.End = EndFailing })
	coded := grid.NewError(failing.code(), failed.Error()).WithDetails([]byte(strconv.FormatUint(failing.ID, 10)))
	panicking := with(request, func(c *Call) { c.Work.End = EndPanicking })
	waiting := with(request, func(c *Call) { c.Work.End, c.Deadline = EndWithCall, s })
	canceled := with(request, func(c *Call) { c.Cancel = s })
	leaving := with(stream, func(c *Call) { c.Use.Leave = LeaveByError })
	unknown := with(request, func(c *Call) { c.Kind = Unknown })
	large := with(request, func(c *Call) { c.Kind = TooLarge })
	well := Notes{Runs: 1, Returned: true}
	after := func(n Notes, d time.Duration, err error) Notes {
		n.Ended, n.Err = d, err
		return n
	}
	heFailed := Notes{Runs: 1, Returned: true, HandlerErr: failed}
	cut := Notes{Runs: 1, Returned: true, Cut: true, HandlerErr: failed}
	for _, test := range []struct {
		name string
		call Call
		n    Notes
		around
		want string // a part of what is wrong; empty for nothing
	}{
		{"an answer", request, well, around{}, ""},
		{"an answer without a handler", request, Notes{}, around{}, "ran 0 times"},
		{"an answer of two", request, Notes{Runs: 2, Returned: true}, around{}, "ran 2 times"},
		{"an answer of a handler that failed", request, heFailed, around{}, "has returned: true, with call 5 fails"},
		{"an answer of a handler that was cut short", request, Notes{Runs: 1, Returned: true, Cut: true}, around{}, "cut short"},
		{"an answer of nobody", unknown, well, around{}, "could not succeed"},
		{"an answer to what is too large", large, well, around{}, "could not succeed"},
		{"a whole stream", stream, Notes{Runs: 1, Returned: true, Got: 3, Answered: 3}, around{}, ""},
		{"a part of a stream", stream, Notes{Runs: 1, Returned: true, Got: 2, Answered: 3}, around{}, "2 of 3"},
		{"a consumer that left", leaving, after(well, 0, errLeft), around{}, ""},
		{"a consumer that stayed", stream, after(well, 0, errLeft), around{}, "nobody left"},
		{"a loss with a fault", request, after(Notes{}, 0, grid.ErrDisconnected), around{lost: true}, ""},
		{"a loss with a stop", request, after(Notes{}, 0, grid.ErrDisconnected), around{stopped: true}, ""},
		{"a loss without", request, after(Notes{}, 0, grid.ErrDisconnected), around{}, "nothing had happened"},
		{"a shutdown", request, after(Notes{}, 0, grid.ErrShutdown), around{stopped: true}, ""},
		{"a shutdown of nobody", request, after(Notes{}, 0, grid.ErrShutdown), around{lost: true}, "nobody shuts down"},
		{"a removal", request, after(Notes{}, 0, grid.ErrRemoved), around{removed: true}, ""},
		{"a removal of a call that ran", request, after(well, 0, grid.ErrRemoved), around{removed: true}, "the handler ran"},
		{"a removal of nobody", request, after(Notes{}, 0, grid.ErrRemoved), around{lost: true}, "neither node"},
		{"a deadline", waiting, after(Notes{}, s, context.DeadlineExceeded), around{}, ""},
		{"a deadline too early", waiting, after(Notes{}, s-1, context.DeadlineExceeded), around{}, "too early"},
		{"a deadline that was not given", request, after(Notes{}, s, context.DeadlineExceeded), around{}, "too early"},
		{"the default deadline", request, after(Notes{}, time.Minute, context.DeadlineExceeded), around{}, ""},
		{"a cancellation", canceled, after(Notes{}, s, errCanceled), around{}, ""},
		{"a cancellation too early", canceled, after(Notes{}, s-1, errCanceled), around{}, "nobody canceled"},
		{"a cancellation of nobody", request, after(Notes{}, s, errCanceled), around{}, "nobody canceled"},
		{"an unknown handler", unknown, after(Notes{}, 0, grid.ErrUnknownHandler), around{}, ""},
		{"a known handler that is unknown", request, after(Notes{}, 0, grid.ErrUnknownHandler), around{}, "is there"},
		{"too large", large, after(Notes{}, 0, grid.ErrMessageTooLarge), around{}, ""},
		{"too large, and is not", request, after(Notes{}, 0, grid.ErrMessageTooLarge), around{}, "was not"},
		{"a handler's error", failing, after(heFailed, 0, coded), around{}, ""},
		{"a handler's error without its code", failing, after(heFailed, 0, failed), around{}, "the code Unknown"},
		{"a handler's error without its details", failing, after(heFailed, 0, coded.WithDetails(nil)), around{}, "it has the code"},
		{"another handler's error", failing, after(heFailed, 0, grid.NewRemoteErrString("call 6 fails")), around{}, "has failed with"},
		{"an error of a handler that did not run", failing, after(Notes{}, 0, failed), around{}, "has not failed"},
		{"an error before the last message", stream, after(Notes{Runs: 1, Returned: true, HandlerErr: failed, Got: 1, Answered: 3}, 0, failed), around{}, "1 of 3"},
		{"a panic", panicking, after(heFailed, 0, grid.NewRemoteErrString("handler x panicked: call 5 fails")), around{}, ""},
		{"another panic", panicking, after(heFailed, 0, grid.NewRemoteErrString("handler x panicked: nil map")), around{}, "has failed with"},
		{"cut short by the deadline", waiting, after(cut, s, failed), around{}, ""},
		{"cut short by a fault", request, after(cut, 0, failed), around{lost: true}, ""},
		{"cut short for no reason", waiting, after(cut, 0, failed), around{}, "nobody has given it up"},
		{"a gap with a fault", stream, after(well, 0, grid.ErrIncorrectSequence), around{tampered: true}, ""},
		{"a gap without", stream, after(well, 0, grid.ErrIncorrectSequence), around{}, "nobody has tampered"},
		{"an error of nobody", request, after(well, 0, errors.New("soup")), around{}, "nothing is known"},
	} {
		got := test.n.judge(&test.call, test.around)
		if test.want == "" && got != "" || !strings.Contains(got, test.want) {
			t.Errorf("%s: the judge says %q, want %q", test.name, got, test.want)
		}
	}
}

func TestLateReturnsAreFound(t *testing.T) {
	const s = time.Second
	for _, test := range []struct {
		name string
		call Call
		n    Notes
		want string
	}{
		{"in time", Call{}, Notes{Until: s, Ended: 3 * s}, ""}, // the allowance is 2 seconds
		{"after its context", Call{}, Notes{Until: s, Ended: 3*s + 1}, "after its context"},
		{"after the default deadline", Call{Work: Work{Pause: 1}}, Notes{Ended: 71 * s}, "a request took 1m11s"},
		{"after a while", Call{}, Notes{Ended: 18 * s}, "on a healthy connection"},
		{"the handler", Call{Kind: Context, Work: Work{Pause: 1}}, Notes{Runs: 1, HandlerEnded: 6 * s}, "the handler ended 6s after"},
		{"Send", Call{Kind: TwoWay}, Notes{Runs: 1, Fed: 6 * s}, "Send waited for 6s"},
	} {
		var problems []string
		w := New(Config{Names: []string{"a"}, Allowance: 2 * s, Surroundings: around{}, Violated: func(text string) { problems = append(problems, text) }})
		r := w.Add(&test.call)
		test.n.Outcomes, test.n.Runs, test.n.Returned, test.n.Began = 1, 1, true, 0
		r.Notes = test.n
		w.Check(r)
		if all := fmt.Sprint(problems); test.want == "" && len(problems) > 0 || !strings.Contains(all, test.want) {
			t.Errorf("%s: %s, want %q", test.name, all, test.want)
		}
	}
}

func TestCallsThatDoNotReturnAreFound(t *testing.T) {
	w := New(Config{Allowance: time.Second, Surroundings: around{}})
	r := w.Add(&Call{Deadline: 2 * time.Second})
	if r.Overdue() != 0 {
		t.Error("a call is overdue that has not begun")
	}
	r.begin()
	if r.Overdue() != 0 {
		t.Error("a call is overdue at once")
	}
	w.began = w.began.Add(-4 * time.Second)
	if got := r.Overdue(); got < 2*time.Second-time.Millisecond {
		t.Errorf("a call of 2s is overdue by %v after 4s", got)
	}
	r.end(nil)
	if r.Overdue() != 0 {
		t.Error("a call is overdue that has returned")
	}
}

func TestWrongMessagesAreFound(t *testing.T) {
	for _, size := range []int{0, 100, 1 << 20} {
		if err := Verify(Message(5, SideRequest, 3, size), 5, SideRequest, 3, size); err != nil {
			t.Errorf("%d bytes: %v", size, err)
		}
	}
	flipped := Message(5, SideRequest, 3, 100)
	flipped[50] ^= 1
	for name, b := range map[string][]byte{
		"of another call":   Message(6, SideRequest, 3, 100),
		"of the other side": Message(5, SideResponse, 3, 100),
		"the next one":      Message(5, SideRequest, 4, 100),
		"a shorter one":     Message(5, SideRequest, 3, 99),
		"cut off":           Message(5, SideRequest, 3, 100)[:60],
		"with a bit turned": flipped,
		"none":              nil,
	} {
		if Verify(b, 5, SideRequest, 3, 100) == nil {
			t.Errorf("a message %s was taken", name)
		}
	}
}

func TestHandlersThatRunAgainAreFound(t *testing.T) {
	w := newWindow()
	first := w.next()
	if w.run(first) != nil {
		t.Error("a handler did not run once")
	}
	if w.run(first) == nil {
		t.Error("a handler ran twice")
	}
	if w.run(first+1) == nil || w.run(0) == nil {
		t.Error("a handler ran for no call")
	}
	for range windowSize - 1 {
		w.next()
	}
	if w.run(first) == nil {
		t.Error("a handler ran long after its call")
	}
	if id := w.next(); w.run(id) != nil {
		t.Error("a call has run whose place another one had")
	}
}

// A seed draws the same calls again, and all that is there to be drawn.
func TestPlansFollowFromTheirSeeds(t *testing.T) {
	kinds, ends, leaves := make(map[Kind]bool), make(map[Ending]bool), make(map[Leaving]bool)
	for id := range uint64(3000) {
		for _, mix := range []*Mix{&Wild, &Brisk} {
			c := NewDrawer(1, id).Call(id, 3, time.Millisecond, mix)
			if again := NewDrawer(1, id).Call(id, 3, time.Millisecond, mix); *c != *again {
				t.Fatalf("%+v was drawn again as %+v", *c, *again)
			}
			if c.From == c.To || max(c.From, c.To) > 2 {
				t.Fatalf("a call from %d to %d", c.From, c.To)
			}
			if mix == &Brisk && c.Kind.Stream() && !c.Ends() {
				t.Fatalf("a stream without an end: %+v", *c)
			}
			kinds[c.Kind], ends[c.Work.End], leaves[c.Use.Leave] = true, true, true
		}
	}
	if len(kinds) != int(Kinds) || len(ends) != int(endings) || len(leaves) != int(leavings) {
		t.Errorf("%d kinds, %d endings, %d leavings were drawn", len(kinds), len(ends), len(leaves))
	}
}
