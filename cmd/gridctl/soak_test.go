package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/gridmesh/grid"
)

// quickSoak is a soak with much trouble.
var quickSoak = []string{"soak", "-nodes", "3", "-callers", "8", "-seed", "7", "-cut-every", "100ms", "-restart-every", "1s",
	"-ping-interval", "100ms", "-peer-timeout", "1s", "-allowance", "20s"}

func TestSoakKeepsItsPromises(t *testing.T) {
	p := start(t, append(quickSoak, "-duration", "3s")...)
	code := p.wait(t)
	out := p.stdout.String()
	if code != exitOK || p.stderr.String() != "" {
		t.Fatalf("exit code %d\n%s%s", code, out, p.stderr.String())
	}
	for _, want := range []string{"the seed is 7", "\ncalls ", "\n  typed streams", "\nerrors ", "\ncuts ", "\nrestarts ", "\ngoroutines, nodes idle", "\nheap, nodes stopped",
		"garbage collections", "\na node whose handlers compute ", "\n  net/rpc", "No promise was broken."} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
}

func TestSoakEndsInGoodOrderWhenInterrupted(t *testing.T) {
	p := start(t, append(quickSoak, "-duration", "1h")...)
	until(t, "the start", func() bool { return p.stdout.String() != "" })
	p.signal(t, syscall.SIGINT)
	if code := p.wait(t); code != exitInterrupted {
		t.Errorf("exit code %d, want %d", code, exitInterrupted)
	}
	if out := p.stdout.String(); !strings.Contains(out, "No promise was broken.") {
		t.Errorf("no results in\n%s%s", out, p.stderr.String())
	}
}

func TestSoakJudgesOutcomes(t *testing.T) {
	remote := func(format string, a ...any) error { return grid.NewRemoteErrf(format, a...) }
	request := soakPlan{id: 5, kind: soakContext, leaveAfter: -1}
	stream := soakPlan{id: 5, kind: soakBoth, up: 3, down: 3, leaveAfter: -1, deadline: 20 * time.Second}
	with := func(p soakPlan, change func(p *soakPlan)) soakPlan {
		change(&p)
		return p
	}
	failing := with(request, func(p *soakPlan) { p.end = endWithError })
	panicking := with(request, func(p *soakPlan) { p.end = endWithPanic })
	waiting := with(request, func(p *soakPlan) { p.end, p.deadline = endWithCaller, time.Second })
	canceled := with(request, func(p *soakPlan) { p.cancelAfter = time.Second })
	leaving := with(stream, func(p *soakPlan) { p.leaveAfter = 1 })
	unknown := with(request, func(p *soakPlan) { p.kind = soakUnknown })
	for _, c := range []struct {
		name string
		o    soakOutcome
		want string // a part of what is wrong; empty for nothing
	}{
		{"an answer", soakOutcome{soakPlan: request, ran: true}, ""},
		{"an answer without a handler", soakOutcome{soakPlan: request}, "has not run"},
		{"an answer of a handler that failed", soakOutcome{soakPlan: failing, ran: true}, "has failed"},
		{"an answer of nobody", soakOutcome{soakPlan: unknown, ran: true}, "no such handler"},
		{"too late", soakOutcome{soakPlan: request, ran: true, took: 80 * time.Second}, "took 1m20s"},
		{"too late after a cancellation", soakOutcome{soakPlan: canceled, err: errSoakCanceled, took: 13 * time.Second}, "took 13s"},
		{"late, on a busy machine", soakOutcome{soakPlan: canceled, err: errSoakCanceled, took: 9 * time.Second}, ""},
		{"wrong content", soakOutcome{soakPlan: request, ran: true, err: fmt.Errorf("%w: of another", errSoakWrong)}, "of another"},
		{"a whole stream", soakOutcome{soakPlan: stream, ran: true, got: 3}, ""},
		{"a part of a stream", soakOutcome{soakPlan: stream, ran: true, got: 2}, "2 of 3"},
		{"more than a stream", soakOutcome{soakPlan: stream, ran: true, got: 4}, "4 of 3"},
		{"a consumer that left", soakOutcome{soakPlan: leaving, ran: true, got: 1, err: errSoakLeft}, ""},
		{"a consumer that stayed", soakOutcome{soakPlan: stream, ran: true, got: 1, err: errSoakLeft}, "nobody has left"},
		{"a loss with a cut", soakOutcome{soakPlan: request, err: grid.ErrDisconnected, lost: true}, ""},
		{"a loss with a restart", soakOutcome{soakPlan: request, err: grid.ErrDisconnected, stopped: true}, ""},
		{"a loss without a cut", soakOutcome{soakPlan: request, err: grid.ErrDisconnected}, "nothing has happened"},
		{"a shutdown", soakOutcome{soakPlan: request, err: grid.ErrShutdown, stopped: true}, ""},
		{"a shutdown of nobody", soakOutcome{soakPlan: request, err: grid.ErrShutdown, lost: true}, "no node was stopping"},
		{"a deadline", soakOutcome{soakPlan: waiting, err: context.DeadlineExceeded, took: time.Second}, ""},
		{"a deadline too early", soakOutcome{soakPlan: waiting, err: context.DeadlineExceeded, took: time.Second - 1}, "not over"},
		{"a deadline that was not given", soakOutcome{soakPlan: request, err: context.DeadlineExceeded, took: time.Second}, "not over"},
		{"a cancellation", soakOutcome{soakPlan: canceled, err: errSoakCanceled, took: time.Second}, ""},
		{"a cancellation of nobody", soakOutcome{soakPlan: request, err: errSoakCanceled}, "nobody has canceled"},
		{"an unknown handler", soakOutcome{soakPlan: unknown, err: grid.ErrUnknownHandler}, ""},
		{"a known handler that is unknown", soakOutcome{soakPlan: request, err: grid.ErrUnknownHandler}, "is there"},
		{"a handler's error", soakOutcome{soakPlan: failing, ran: true, err: remote("call 5 fails")}, ""},
		{"another handler's error", soakOutcome{soakPlan: failing, ran: true, err: remote("call 6 fails")}, "does not fail so"},
		{"an error of a handler that did not run", soakOutcome{soakPlan: failing, err: remote("call 5 fails")}, "has not run"},
		{"an error of a handler that went well", soakOutcome{soakPlan: request, ran: true, err: remote("call 5 fails")}, "does not fail so"},
		{"an error before the last message", soakOutcome{soakPlan: with(stream, func(p *soakPlan) { p.end = endWithError }), ran: true, got: 1, err: remote("call 5 fails")}, "1 of 3"},
		{"a panic", soakOutcome{soakPlan: panicking, ran: true, err: remote("handler x panicked: panic of call 5")}, ""},
		{"another panic", soakOutcome{soakPlan: panicking, ran: true, err: remote("handler x panicked: nil map")}, "does not fail so"},
		{"given up", soakOutcome{soakPlan: waiting, ran: true, err: remote("call 5 was given up"), took: time.Second}, ""},
		{"given up for no reason", soakOutcome{soakPlan: waiting, ran: true, err: remote("call 5 was given up")}, "nobody has given it up"},
		{"overloaded", soakOutcome{soakPlan: request, ran: true, err: grid.ErrOverloaded}, "does not fail so"},
		{"out of order", soakOutcome{soakPlan: stream, ran: true, err: grid.ErrIncorrectSequence}, "nothing is known"},
		{"any other error", soakOutcome{soakPlan: request, ran: true, err: io.EOF}, "nothing is known"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := c.o.judge(10 * time.Second)
			if (got == "") != (c.want == "") || !strings.Contains(got, c.want) {
				t.Errorf("judged %q, want %q", got, c.want)
			}
		})
	}
}

func TestSoakFindsWrongMessages(t *testing.T) {
	p := soakPlan{id: 5}
	for _, size := range []int{0, 100, 1 << 20} {
		if err := p.verify(p.message(sideUp, 3, size), sideUp, 3, size); err != nil {
			t.Errorf("%d bytes: %v", size, err)
		}
	}
	other := soakPlan{id: 6}
	flipped := p.message(sideUp, 3, 100)
	flipped[50] ^= 1
	for name, b := range map[string][]byte{
		"of another call":   other.message(sideUp, 3, 100),
		"of the other side": p.message(sideDown, 3, 100),
		"the next one":      p.message(sideUp, 4, 100),
		"a shorter one":     p.message(sideUp, 3, 99),
		"cut off":           p.message(sideUp, 3, 100)[:60],
		"with a bit turned": flipped,
		"none":              nil,
	} {
		if p.verify(b, sideUp, 3, 100) == nil {
			t.Errorf("a message %s was taken", name)
		}
	}
}

func TestSoakFindsHandlersThatRunAgain(t *testing.T) {
	w := newRanWindow()
	first := w.next()
	if w.hasRun(first) || w.run(first) != nil || !w.hasRun(first) {
		t.Error("a handler did not run once")
	}
	if w.run(first) == nil {
		t.Error("a handler ran twice")
	}
	if w.run(first+1) == nil || w.run(0) == nil {
		t.Error("a handler ran for no call")
	}
	for range soakWindow - 1 {
		w.next()
	}
	if w.run(first) == nil {
		t.Error("a handler ran long after its call")
	}
	if id := w.next(); w.hasRun(id) || w.run(id) != nil {
		t.Error("a call has run whose place another one had")
	}
}

func TestSoakFindsWhatIsLeft(t *testing.T) {
	s := newSoak(soakConfig{nodes: 2, concurrency: 1, allowance: time.Millisecond, seed: 1}, slog.New(slog.DiscardHandler))
	started := settledFootprint()
	stay := make(chan struct{})
	defer close(stay)
	go func() { <-stay }()
	s.compare("in the end", &soakUse{before: started})
	if _, first := s.broken.all(); len(first) != 1 || !strings.Contains(first[0], "goroutines") {
		t.Errorf("a goroutine that is left: %q", first)
	}
	s.broken = broken{}
	kept := make([]byte, heapBound+1<<20)
	defer runtime.KeepAlive(kept)
	s.compare("in the end", &soakUse{before: footprint{started.goroutines + 1, started.heap}})
	if _, first := s.broken.all(); len(first) != 1 || !strings.Contains(first[0], "the heap has") {
		t.Errorf("%d bytes that are kept: %q", len(kept), first)
	}
	s.broken = broken{}
	s.handlers.Add(1)
	s.tally.idle.before = footprint{started.goroutines + 1, 1 << 40}
	s.settle()
	if _, first := s.broken.all(); len(first) != 1 || !strings.Contains(first[0], "1 handlers run") {
		t.Errorf("a handler that is left: %q", first)
	}
}

func TestSoakFindsCallsThatDoNotReturn(t *testing.T) {
	s := newSoak(soakConfig{nodes: 2, concurrency: 1, allowance: time.Second, seed: 1}, slog.New(slog.DiscardHandler))
	began := time.Now()
	s.callers[0].open.Store(&openSoak{soakPlan: soakPlan{deadline: 2 * time.Second}, began: began})
	s.watch(began.Add(3 * time.Second))
	if count, _ := s.broken.all(); count != 0 {
		t.Error("a call was overdue within the allowance")
	}
	s.watch(began.Add(4 * time.Second))
	s.watch(began.Add(5 * time.Second))
	if count, first := s.broken.all(); count != 1 || !strings.Contains(first[0], "has not returned") {
		t.Errorf("an overdue call was reported %d times: %q", count, first)
	}
}

// A handler that misbehaves is found by the soak as a whole.
func TestSoakFindsAPlantedMistake(t *testing.T) {
	for name, c := range map[string]struct {
		plant grid.Interceptor
		want  string
	}{
		"the answer of another call": {grid.Interceptor{ServerRequest: func(ctx context.Context, _ *grid.CallInfo, payload []byte, next grid.SingleHandlerContextFn) ([]byte, *grid.RemoteErr) {
			b, err := next(ctx, payload)
			if len(b) > 0 {
				b[0]++
			}
			return b, err
		}}, "wrong checksum"},
		"a handler that runs twice": {grid.Interceptor{ServerRequest: func(ctx context.Context, _ *grid.CallInfo, payload []byte, next grid.SingleHandlerContextFn) ([]byte, *grid.RemoteErr) {
			next(ctx, append([]byte(nil), payload...))
			return next(ctx, payload)
		}}, "runs again"},
		"an error that has no cause": {grid.Interceptor{ClientRequest: func(ctx context.Context, info *grid.CallInfo, req []byte, next grid.RequestFunc) ([]byte, error) {
			if b, err := next(ctx, req); err != nil || info.Handler != handlerSoakRaw {
				return b, err
			}
			return nil, errors.New("planted")
		}}, "nothing is known"},
		"a loss that has no cause": {grid.Interceptor{ClientRequest: func(ctx context.Context, info *grid.CallInfo, req []byte, next grid.RequestFunc) ([]byte, error) {
			if info.Handler != handlerSoakRaw {
				return next(ctx, req)
			}
			return nil, grid.ErrDisconnected
		}}, "nothing has happened"},
	} {
		t.Run(name, func(t *testing.T) {
			config := soakConfig{duration: 300 * time.Millisecond, nodes: 2, concurrency: 4, seed: 3, rest: time.Millisecond, cutEvery: time.Hour,
				restartEvery: time.Hour, allowance: patience}
			s := newSoak(config, slog.New(slog.DiscardHandler))
			s.interceptors = []grid.Interceptor{c.plant}
			if err := s.startAll(); err != nil {
				t.Fatal(err)
			}
			s.play(t.Context(), newStatusLine(io.Discard, true))
			var out strings.Builder
			s.print(&out)
			if !strings.Contains(out.String(), c.want) {
				t.Errorf("no %q in\n%s", c.want, out.String())
			}
		})
	}
}
