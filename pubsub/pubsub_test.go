package pubsub

import (
	"errors"
	"sync"
	"testing"
	"testing/synctest"
)

type kind uint64

type event struct {
	kind kind
	n    int
}

func (e event) Mask() kind { return e.kind }

func TestSubscribersGetWhatTheyAskFor(t *testing.T) {
	p := New[event, kind](0)
	done := make(chan struct{})
	defer close(done)
	odd := make(chan event, 10)
	if err := p.Subscribe(1, odd, done, func(e event) bool { return e.n%2 == 1 }); err != nil {
		t.Fatal(err)
	}
	if !p.Wants(3) || p.Wants(2) || p.NumSubscribers(1) != 1 || p.NumSubscribers(2) != 0 {
		t.Error("wrong masks are wanted")
	}
	for i := range 4 {
		p.Publish(event{kind: 1, n: i})
		p.Publish(event{kind: 2, n: i})
	}
	if len(odd) != 2 || (<-odd).n != 1 || (<-odd).n != 3 {
		t.Error("the subscriber did not get items 1 and 3 of its type")
	}
}

func TestPublishNeverWaits(t *testing.T) {
	p := New[event, kind](0)
	done := make(chan struct{})
	defer close(done)
	full := make(chan event, 1)
	if err := p.Subscribe(1, full, done, nil); err != nil {
		t.Fatal(err)
	}
	for i := range 5 {
		p.Publish(event{kind: 1, n: i})
	}
	if len(full) != 1 || p.Dropped() != 4 {
		t.Errorf("%d items came and %d were dropped, want 1 and 4", len(full), p.Dropped())
	}
}

func TestClosingDoneEndsTheSubscription(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := New[event, kind](1)
		done := make(chan struct{})
		ch := make(chan event, 1)
		if err := p.Subscribe(1, ch, done, nil); err != nil {
			t.Fatal(err)
		}
		if err := p.Subscribe(1, ch, done, nil); !errors.Is(err, ErrTooManySubscribers) {
			t.Errorf("second subscriber of one: %v", err)
		}
		close(done)
		synctest.Wait()
		p.Publish(event{kind: 1})
		if p.Wants(1) || len(ch) != 0 {
			t.Error("the subscription goes on")
		}
		again := make(chan struct{})
		if err := p.Subscribe(1, ch, again, nil); err != nil {
			t.Error("the place was not freed:", err)
		}
		close(again)
	}) // fails if a goroutine is left
}

func TestNothingComesOnceDoneIsClosed(t *testing.T) {
	for range 100 {
		p := New[event, kind](0)
		done := make(chan struct{})
		ch := make(chan event, 1)
		if err := p.Subscribe(1, ch, done, nil); err != nil {
			t.Fatal(err)
		}
		close(done)
		p.Publish(event{kind: 1})
		if len(ch) != 0 {
			t.Fatal("an item came after the end")
		}
	}
}

func TestNilPubSubIsSafe(t *testing.T) {
	var p *PubSub[event, kind]
	p.Publish(event{kind: 1})
	if p.Wants(1) || p.NumSubscribers(1) != 0 || p.Dropped() != 0 {
		t.Error("a nil PubSub has subscribers")
	}
	if p.Subscribe(1, make(chan event), make(chan struct{}), nil) == nil {
		t.Error("one can subscribe to a nil PubSub")
	}
}

func TestPublishersAndSubscribersMayRunAtOnce(t *testing.T) {
	p := New[event, kind](0)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for i := range 200 {
				p.Publish(event{kind: 1, n: i})
			}
		})
		wg.Go(func() {
			for range 50 {
				done := make(chan struct{})
				ch := make(chan event, 1)
				if err := p.Subscribe(1, ch, done, nil); err != nil {
					t.Error(err)
				}
				close(done)
			}
		})
	}
	wg.Wait()
}

func TestNobodySubscribedCostsNoAllocation(t *testing.T) {
	p := New[event, kind](0)
	if n := testing.AllocsPerRun(100, func() { p.Publish(event{kind: 1}) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// A filter that panics costs its subscriber the item, and nobody else anything.
func TestAFilterThatPanicsDropsTheItem(t *testing.T) {
	p := New[event, kind](0)
	done := make(chan struct{})
	defer close(done)
	bad, good := make(chan event, 1), make(chan event, 1)
	if err := p.Subscribe(1, bad, done, func(event) bool { panic("filter") }); err != nil {
		t.Fatal(err)
	}
	if err := p.Subscribe(1, good, done, nil); err != nil {
		t.Fatal(err)
	}
	p.Publish(event{kind: 1})
	if len(bad) != 0 || len(good) != 1 || p.Dropped() != 1 {
		t.Errorf("%d and %d items came, %d were dropped, want 0, 1 and 1", len(bad), len(good), p.Dropped())
	}
}
