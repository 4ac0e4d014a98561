package workload

import (
	"math/rand/v2"
	"time"
)

// Mix says of how much of what there is in calls that are drawn.
type Mix struct {
	Deadline Share
	Cancel   Share
	Pause    Share         // of handlers of requests
	Slow     Share         // between the messages of a stream, at each of its ends
	Endings  int           // percent of handlers that do not end well, perhaps
	Leavings int           // percent of consumers that leave, perhaps
	Waits    int           // percent of callers that wait for the connection
	Races    int           // percent of calls that are canceled when the answer comes in
	Stuck    time.Duration // the latest end of a stream that waits for its end
	Bound    time.Duration // the deadline of streams that have no end, where calls have to end soon; 0 for none
}

// Share is a percentage of calls, and the longest time that they get.
type Share struct {
	Percent int
	Most    time.Duration
}

// Wild is the mix of calls whose time is virtual.
var Wild = Mix{
	Deadline: Share{40, 30 * time.Second},
	Cancel:   Share{25, 20 * time.Second},
	Pause:    Share{25, 90 * time.Second},
	Slow:     Share{20, 200 * time.Millisecond},
	Endings:  35,
	Leavings: 25,
	Waits:    50,
	Races:    10,
	Stuck:    25 * time.Second,
}

// Brisk is the mix of calls whose time is real, so that few take long.
var Brisk = Mix{
	Deadline: Share{6, 500 * time.Millisecond},
	Cancel:   Share{6, 500 * time.Millisecond},
	Pause:    Share{15, 200 * time.Millisecond},
	Slow:     Share{5, 5 * time.Millisecond},
	Endings:  12,
	Leavings: 12,
	Waits:    5,
	Races:    5,
	Stuck:    200 * time.Millisecond,
	Bound:    20 * time.Second,
}

// Drawer draws plans.
type Drawer struct{ *rand.Rand }

// NewDrawer returns one whose numbers follow from the seed, and from what they are for.
func NewDrawer(seed, purpose uint64) Drawer { return Drawer{rand.New(rand.NewPCG(seed, purpose))} }

// Chance is true in a percentage of cases.
func (d Drawer) Chance(percent int) bool { return d.IntN(100) < percent }

// Pick returns one of the numbers.
func (d Drawer) Pick(from ...int) int { return from[d.IntN(len(from))] }

// Between draws a time.
func (d Drawer) Between(least, most time.Duration) time.Duration {
	return least + time.Duration(d.Int64N(int64(most-least)+1))
}

// Short draws a time that is as likely small as large.
func (d Drawer) Short(most time.Duration) time.Duration { return d.Between(0, most>>d.IntN(12)) }

// Pair draws two of n nodes.
func (d Drawer) Pair(n int) (a, b int) {
	a = d.IntN(n)
	return a, (a + 1 + d.IntN(n-1)) % n
}

func (d Drawer) share(s Share) time.Duration {
	if !d.Chance(s.Percent) {
		return 0
	}
	return 1 + d.Short(s.Most)
}

// size draws the bytes of a message.
func (d Drawer) size() int {
	switch n := d.IntN(100); {
	case n < 80:
		return d.IntN(1000)
	case n < 97:
		return d.IntN(10_000)
	}
	return d.IntN(200_000)
}

// count draws the number of messages of a size.
func (d Drawer) count(size int) int {
	if size > 10_000 {
		return d.IntN(10)
	}
	return d.IntN(d.Pick(2, 10, 40, 300))
}

// Call draws a call between two of a number of nodes that ends by itself, or with its context, on a
// healthy network. encodes is Config.Encodes.
func (d Drawer) Call(id uint64, nodes int, encodes time.Duration, mix *Mix) *Call {
	c := &Call{
		ID:       id,
		High:     id%5 == 3, // no draw: all else stays as it was
		Kind:     Kind(d.Pick(0, 0, 0, 1, 1, 1, 2, 3, 3, 4, 4, 4, 5, 5, 5, 5, 6, 6, 7, 8, 9)),
		Waits:    d.Chance(mix.Waits),
		Races:    d.Chance(mix.Races),
		Metadata: d.Chance(30),
		Size:     d.size(),
		Deadline: d.share(mix.Deadline),
		Cancel:   d.share(mix.Cancel),
	}
	c.From, c.To = d.Pair(nodes)
	if c.Kind == UnknownStream {
		c.From, c.To = 0, 1+d.IntN(nodes-1) // the others lack it
	}
	c.Work.Size = d.size()
	if d.Chance(mix.Endings) {
		c.Work.End = Ending(d.IntN(int(endings)))
	}
	if c.Kind.Stream() {
		d.stream(c, encodes, mix)
		if c.Kind == TwoWay && id%3 == 0 {
			c.named()
		}
	} else {
		c.Work.Pause = d.share(mix.Pause)
		switch {
		case c.Work.End != EndWithCall:
		case c.Kind == Request:
			c.Work.End = EndWell // has no context
		case mix.Bound > 0 && !c.Ends():
			c.Deadline = d.Between(1, mix.Stuck)
		}
	}
	return c
}

// named makes a stream one to a method. It draws with numbers of its own: all other calls stay as they
// were.
func (c *Call) named() {
	d := NewDrawer(c.ID, uint64(c.Size))
	c.Named = true
	if d.Chance(40) {
		c.Patience = d.Between(5*time.Millisecond, 2*time.Second)
	}
	c.Work.Half = d.Chance(40)
	c.Use.Recv = d.Chance(75)
	c.Use.Last = c.Use.Recv && c.Work.Half && c.Use.Leave != LeaveByLoop && d.Chance(50)
	c.Work.Early = d.Chance(40)
}

// stream draws what there is of a stream alone.
func (d Drawer) stream(c *Call, encodes time.Duration, mix *Mix) {
	w, u := &c.Work, &c.Use
	w.Send, w.Plain, w.Quiet = d.count(w.Size), d.Chance(40), d.Chance(50)
	w.Pause = d.share(mix.Slow)
	u.Slow = d.share(mix.Slow)
	u.LeaveAt = d.IntN(20)
	if d.Chance(mix.Leavings) {
		u.Leave = Leaving(d.IntN(int(leavings)))
	}
	if c.Kind != OneWay {
		u.Size = d.size()
		u.Send = d.count(u.Size)
		u.Pause = d.share(mix.Slow)
		u.ByChannel, u.Close, u.Gives, u.Calls = d.Chance(40), d.Chance(80), d.Chance(50), d.Chance(50)
		w.Read, w.Some = Reading(d.IntN(int(readings))), d.IntN(20)
	}
	if c.Kind == TypedStream && w.Send > 0 && d.Chance(mix.Deadline.Percent) { // it ends while the handler sends
		w.Plain = false
		c.Deadline = 1 + d.Between(0, time.Duration(w.Send)*(encodes+w.Pause))
	}
	stuck := w.End == EndWithCall || u.Leave == StopReading || u.Leave == NeverRead || w.Read != ReadNothing && !u.Close
	if stuck && !c.Ends() {
		c.Deadline = d.Between(1, mix.Stuck)
	}
	if mix.Bound > 0 && !c.Ends() {
		c.Deadline = mix.Bound
	}
	if c.Deadline > 0 && d.Chance(50) {
		c.Late = d.Between(0, 300*time.Millisecond)
	}
}
