// Package pubsub hands published items to whoever is subscribed, and costs next to nothing while
// nobody is.
//
//	ps := pubsub.New[grid.TraceInfo, grid.TraceType](8)
//	traces := make(chan grid.TraceInfo, 100)
//	if err := ps.Subscribe(grid.TraceInternode, traces, ctx.Done(), nil); err != nil { … }
//	for {
//		select {
//		case t := <-traces:
//			fmt.Println(t.Handler, t.Duration)
//		case <-ctx.Done():
//			return
//		}
//	}
package pubsub

import (
	"errors"
	"slices"
	"sync"
	"sync/atomic"
)

// ErrTooManySubscribers is returned by Subscribe when the limit set by New is reached.
var ErrTooManySubscribers = errors.New("pubsub: too many subscribers")

// Mask is a set of item types, one bit each.
type Mask interface{ ~uint64 }

// Item is what is published. Its mask tells of which types it is.
type Item[M Mask] interface{ Mask() M }

// PubSub hands each published item to the subscribers whose mask shares a bit with it. All methods
// may be called by any number of goroutines. A nil PubSub has no subscribers.
type PubSub[T Item[M], M Mask] struct {
	maxSubscribers int
	wanted         atomic.Uint64 // the union of all masks
	subscribers    atomic.Pointer[[]*subscriber[T, M]]
	dropped        atomic.Int64

	mu sync.Mutex // one change of subscribers at a time
}

type subscriber[T Item[M], M Mask] struct {
	mask   M
	ch     chan<- T
	done   <-chan struct{}
	filter func(T) bool
}

// ended reports whether the subscriber has closed done, even if its goroutine has not noticed yet.
func (s *subscriber[T, M]) ended() bool {
	select {
	case <-s.done:
		return true
	default:
		return false
	}
}

// New returns a PubSub that accepts at most maxSubscribers at a time; 0 means any number.
func New[T Item[M], M Mask](maxSubscribers int) *PubSub[T, M] {
	return &PubSub[T, M]{maxSubscribers: maxSubscribers}
}

// Wants reports whether anybody is subscribed to one of the types. It costs one atomic load.
func (p *PubSub[T, M]) Wants(mask M) bool {
	return p != nil && p.wanted.Load()&uint64(mask) != 0
}

// NumSubscribers returns the number of subscribers to one of the types.
func (p *PubSub[T, M]) NumSubscribers(mask M) (n int) {
	for _, s := range p.list() {
		if s.mask&mask != 0 {
			n++
		}
	}
	return n
}

// Dropped returns how many items subscribers have missed because their channels were full or their
// filters panicked.
func (p *PubSub[T, M]) Dropped() int64 {
	if p == nil {
		return 0
	}
	return p.dropped.Load()
}

// Publish hands item to its subscribers. It never waits: a subscriber whose channel is full misses
// it.
func (p *PubSub[T, M]) Publish(item T) {
	if !p.Wants(item.Mask()) {
		return
	}
	for _, s := range p.list() {
		if s.mask&item.Mask() == 0 || s.ended() {
			continue
		}
		if s.filter != nil {
			wanted, ok := s.wants(item)
			if !ok {
				p.dropped.Add(1)
			}
			if !wanted {
				continue
			}
		}
		select {
		case s.ch <- item:
		default:
			p.dropped.Add(1)
		}
	}
}

// wants calls the filter. ok is false if that panics.
func (s *subscriber[T, M]) wants(item T) (wanted, ok bool) {
	defer func() { _ = recover() }()
	return s.filter(item), true
}

// Subscribe sends items of the types in mask to ch until done is closed; with a filter only those
// for which it returns true. ch is never closed. An item that is being published when done is
// closed may still arrive. filter runs on the goroutine that publishes; it must be quick and safe
// for concurrent use. If it panics, the item is dropped. Subscribe returns ErrTooManySubscribers
// beyond the limit.
func (p *PubSub[T, M]) Subscribe(mask M, ch chan<- T, done <-chan struct{}, filter func(item T) bool) error {
	switch {
	case p == nil:
		return errors.New("pubsub: subscribe to a nil PubSub")
	case ch == nil || done == nil:
		return errors.New("pubsub: subscribe needs two channels")
	}
	s := &subscriber[T, M]{mask: mask, ch: ch, done: done, filter: filter}
	if !p.add(s) {
		return ErrTooManySubscribers
	}
	go func() {
		<-done
		p.remove(s)
	}()
	return nil
}

func (p *PubSub[T, M]) list() []*subscriber[T, M] {
	if p == nil {
		return nil
	}
	if list := p.subscribers.Load(); list != nil {
		return *list
	}
	return nil
}

func (p *PubSub[T, M]) add(s *subscriber[T, M]) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	list := p.list()
	if p.maxSubscribers > 0 && len(list) >= p.maxSubscribers {
		return false
	}
	p.set(append(slices.Clone(list), s))
	return true
}

func (p *PubSub[T, M]) remove(s *subscriber[T, M]) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.set(slices.DeleteFunc(slices.Clone(p.list()), func(o *subscriber[T, M]) bool { return o == s }))
}

// set publishes a list of subscribers that nobody changes any more. p.mu is held.
func (p *PubSub[T, M]) set(list []*subscriber[T, M]) {
	var wanted M
	for _, s := range list {
		wanted |= s.mask
	}
	p.subscribers.Store(&list)
	p.wanted.Store(uint64(wanted))
}
