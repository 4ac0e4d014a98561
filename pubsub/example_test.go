package pubsub_test

import (
	"fmt"
	"log"

	"github.com/gridmesh/grid/pubsub"
)

// Kind is the type of an event: a bit for each.
type Kind uint64

const (
	Added Kind = 1 << iota
	Removed
)

type Event struct {
	Kind Kind
	Name string
}

// Mask makes Event an Item.
func (e Event) Mask() Kind { return e.Kind }

func Example() {
	events := pubsub.New[Event](8) // subscribers at a time
	done := make(chan struct{})
	defer close(done) // ends both subscriptions
	all := make(chan Event, 10)
	if err := events.Subscribe(Added|Removed, all, done, nil); err != nil {
		log.Fatal(err)
	}
	long := make(chan Event, 10)
	err := events.Subscribe(Added, long, done, func(e Event) bool { return len(e.Name) > 3 })
	if err != nil {
		log.Fatal(err)
	}

	events.Publish(Event{Added, "ann"})
	events.Publish(Event{Added, "bertha"})
	events.Publish(Event{Removed, "bertha"})
	fmt.Println(len(all), len(long), <-long)
	// Output: 3 1 {1 bertha}
}

// An event that nobody wants need not be made.
func ExamplePubSub_Wants() {
	events := pubsub.New[Event](0)
	if events.Wants(Added) {
		events.Publish(Event{Added, "what took long to find out"})
	}
	fmt.Println(events.NumSubscribers(Added))
	// Output: 0
}

// Publish waits for nobody: a subscriber who is too slow misses events, which are counted.
func ExamplePubSub_Dropped() {
	events := pubsub.New[Event](1)
	done := make(chan struct{})
	defer close(done)
	ch := make(chan Event, 1) // room for one
	if err := events.Subscribe(Added, ch, done, nil); err != nil {
		log.Fatal(err)
	}
	fmt.Println(events.Subscribe(Added, make(chan Event, 1), done, nil))

	events.Publish(Event{Added, "ann"})
	events.Publish(Event{Added, "bertha"})
	fmt.Println(<-ch, events.Dropped())
	// Output:
	// pubsub: too many subscribers
	// {1 ann} 1
}
