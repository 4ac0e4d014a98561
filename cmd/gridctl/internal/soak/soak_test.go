package soak

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/gridmesh/grid"
	"github.com/gridmesh/grid/internal/workload"
)

// quiet is a short soak without trouble.
var quiet = Config{
	Duration: 300 * time.Millisecond, Nodes: 2, Callers: 4, Seed: 3, Rest: time.Millisecond, CutEvery: time.Hour,
	RestartEvery: time.Hour, Allowance: time.Minute, Log: slog.New(slog.DiscardHandler),
}

func TestWhatIsLeftIsFound(t *testing.T) {
	config := quiet
	config.Allowance = time.Millisecond
	s := New(config)
	started := settledFootprint()
	wantOne := func(what, want string) {
		t.Helper()
		if r := s.Report(); r.Broken != 1 || !strings.Contains(r.First[0], want) {
			t.Errorf("%s: %q", what, r.First)
		}
		s.tally.broken, s.tally.first = 0, nil
	}
	stay := make(chan struct{})
	defer close(stay)
	go func() { <-stay }()
	s.compare("in the end", &Use{Before: started})
	wantOne("a goroutine that is left", "goroutines")

	kept := make([]byte, HeapBound+1<<20)
	s.compare("in the end", &Use{Before: Footprint{started.Goroutines + 1, started.Heap}})
	wantOne(fmt.Sprintf("%d bytes that are kept", len(kept)), "the heap has")
	runtime.KeepAlive(kept)

	if err := s.Start(); err != nil {
		t.Fatal(err)
	}
	defer s.Stop()
	running := make(chan struct{})
	stays := grid.HandlerUserFirst
	for _, n := range s.nodes {
		err := n.now.Load().RegisterSingleHandlerContext(stays, func(ctx context.Context, _ []byte) ([]byte, error) {
			close(running)
			<-ctx.Done()
			return nil, nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go s.nodes[0].now.Load().Connection(s.nodes[1].host).Request(ctx, stays, nil)
	<-running
	s.tally.idle.Before = Footprint{1 << 20, 1 << 40}
	s.settle()
	wantOne("a call that is left", "1 open calls")
}

func TestOverdueCallsAreReportedOnce(t *testing.T) {
	blocked, release := make(chan struct{}), make(chan struct{})
	config := quiet
	config.Allowance = time.Millisecond
	config.interceptors = []grid.Interceptor{{ClientRequest: func(ctx context.Context, info *grid.CallInfo, req []byte, next grid.RequestFunc) ([]byte, error) {
		if info.Handler != handlerReached {
			close(blocked)
			<-release // its context has ended long ago
		}
		return next(ctx, req)
	}}}
	s := New(config)
	if err := s.Start(); err != nil {
		t.Fatal(err)
	}
	defer s.Stop()
	r := s.Add(&workload.Call{ID: s.NextID(), To: 1, Kind: workload.Context, Cancel: 1})
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		r.Run(s.nodes[0].now.Load().Manager, nil)
	}()
	<-blocked
	s.callers[0].open.Store(r)
	for s.Report().Broken == 0 {
		s.watch()
	}
	s.watch()
	if got := s.Report(); got.Broken != 1 || !strings.Contains(got.First[0], "has not returned") {
		t.Errorf("an overdue call was reported %d times: %q", got.Broken, got.First)
	}
	close(release)
	<-ended
}

// A handler that misbehaves is found by the soak as a whole.
func TestPlantedMistakesAreFound(t *testing.T) {
	for name, c := range map[string]struct {
		plant grid.Interceptor
		want  string
	}{
		"the answer of another call": {grid.Interceptor{ServerRequest: func(ctx context.Context, _ *grid.CallInfo, payload []byte, next grid.ServeRequestFunc) ([]byte, error) {
			b, err := next(ctx, payload)
			if len(b) > 0 {
				b[0]++
			}
			return b, err
		}}, "the caller wanted message"},
		"a handler that runs twice": {grid.Interceptor{ServerRequest: func(ctx context.Context, _ *grid.CallInfo, payload []byte, next grid.ServeRequestFunc) ([]byte, error) {
			next(ctx, append([]byte(nil), payload...))
			return next(ctx, payload)
		}}, "runs again"},
		"an error that has no cause": {grid.Interceptor{ClientRequest: func(ctx context.Context, info *grid.CallInfo, req []byte, next grid.RequestFunc) ([]byte, error) {
			if b, err := next(ctx, req); err != nil || info.Handler == handlerReached {
				return b, err
			}
			return nil, errors.New("planted")
		}}, "nothing is known"},
		"a loss that has no cause": {grid.Interceptor{ClientRequest: func(ctx context.Context, info *grid.CallInfo, req []byte, next grid.RequestFunc) ([]byte, error) {
			if info.Handler == handlerReached {
				return next(ctx, req)
			}
			return nil, grid.ErrDisconnected
		}}, "nothing had happened"},
	} {
		t.Run(name, func(t *testing.T) {
			config := quiet
			config.interceptors = []grid.Interceptor{c.plant}
			s := New(config)
			if err := s.Start(); err != nil {
				t.Fatal(err)
			}
			s.Play(t.Context(), func() {})
			if r := s.Report(); !strings.Contains(strings.Join(r.First, "\n"), c.want) {
				t.Errorf("no %q in %q", c.want, r.First)
			}
		})
	}
}
