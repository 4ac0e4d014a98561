// Package workload is calls of every kind that a grid offers, with a plan for each, handlers that
// do what the plan says, and a judge who knows what may become of it. Those who use it bring a
// network, a clock and trouble: the simulation, gridctl soak, and the tests in network namespaces.
//
// Both sides of a call take notes in its Record. Messages are numbered and have checksums, so that
// nothing false is taken for right.
//
//	w := workload.New(config)
//	err := w.Register(1, manager) // of node 1
//	r := w.Add(workload.NewDrawer(seed, 1).Call(1, nodes, 0, &workload.Wild))
//	r.Run(caller, nil)
//	w.Check(r)
package workload

import (
	"time"

	"github.com/gridmesh/grid"
)

// MaxMessage is Limits.MaxMessageSize of all nodes, in bytes, where Config says nothing else.
const MaxMessage = 1 << 20

// Kind is what a call uses.
type Kind int

const (
	Request       Kind = iota // to a handler without a context
	Context                   // to a handler with one
	Subroute                  // to a handler on a nested subroute
	Typed                     // a typed request
	OneWay                    // a stream without input
	TwoWay                    // a stream with input
	TypedStream               // a typed stream with input
	Unknown                   // a request to a handler that nobody has
	UnknownStream             // a stream to a handler that only node 0 has, from there
	TooLarge                  // a request that no node takes
	Kinds
)

var kindNames = [Kinds]string{
	"request", "context request", "subroute request", "typed request", "one-way stream", "two-way stream", "typed stream",
	"unknown request", "unknown stream", "too large request",
}

func (k Kind) String() string { return kindNames[k] }

// Stream reports whether it is one.
func (k Kind) Stream() bool {
	return k == OneWay || k == TwoWay || k == TypedStream || k == UnknownStream
}

// Call is the plan of one call. Nodes are numbers.
type Call struct {
	ID       uint64
	At       time.Duration // when it is made, for who makes many
	From, To int
	Kind     Kind
	Named    bool          // a two-way stream to a method, with a value at each end in place of channels
	Patience time.Duration // of a named one's ends, who then try again to receive and to send; 0 for any
	Waits    bool          // for the connection, before the call
	Metadata bool          // goes with it, where the handler has a context
	High     bool          // has a high priority
	Size     int           // bytes of the payload
	Deadline time.Duration // 0 for none
	Late     time.Duration // how far the end of the context is behind its deadline
	Cancel   time.Duration // 0 for never
	Races    bool          // canceled when the answer comes in
	Work     Work
	Use      Use
}

// Ends reports whether the caller's context does.
func (c *Call) Ends() bool { return c.Deadline > 0 || c.Cancel > 0 }

// lasts is how long the caller's context does; 0 for ever.
func (c *Call) lasts() time.Duration {
	switch {
	case c.Deadline == 0:
		return c.Cancel
	case c.Cancel == 0:
		return c.Deadline + c.Late
	}
	return min(c.Deadline+c.Late, c.Cancel)
}

// hears reports whether the handler is told of the end of the call.
func (c *Call) hears() bool { return c.Kind != Request && !(c.Kind.Stream() && c.Work.Plain) }

// Ending is how a handler ends.
type Ending int

const (
	EndWell    Ending = iota
	EndFailing        // with an error
	EndPanicking
	EndExiting  // by runtime.Goexit
	EndWithCall // when the call's context ends
	endings
)

var endingNames = [endings]string{"has failed", "fails", "panics", "exits", "was canceled"}

// Reading is what a handler takes of its input.
type Reading int

const (
	ReadNothing Reading = iota
	ReadSome            // then no more
	ReadAll             // then answer
	ReadEcho            // and answer each
	readings
)

// Work is what the handler does.
type Work struct {
	End   Ending
	Pause time.Duration // before the answer, or between the messages of a stream
	Size  int           // bytes of the answer, or of each message

	// Streams.
	Read  Reading
	Some  int  // how many messages for ReadSome
	Send  int  // messages sent, in addition to those of ReadEcho
	Plain bool // sends without looking at its context
	Half  bool // of a named one: sends first, ends its messages, and then reads without answers
	Early bool // of a named one: sends its header at once, for which the caller waits
	Quiet bool // returns no error when its context has ended
}

// Leaving is how the caller of a stream ends.
type Leaving int

const (
	Stay         Leaving = iota
	LeaveByError         // of the consumer
	LeaveByPanic         // of the consumer
	LeaveByLoop          // out of Stream.All
	StopReading          // until the context ends
	NeverRead            // and wait for the end of the context
	leavings
)

// Use is what the caller of a stream does.
type Use struct {
	Send      int // messages
	Size      int // bytes of each
	Pause     time.Duration
	ByChannel bool // sends on Requests, not with Send
	Close     bool // ends the input
	Gives     bool // ends the input also where it gives up sending
	Calls     bool // CloseSend to end it
	Recv      bool // of a named one: not Results
	Last      bool // of a named one: ends the input behind the handler's messages, where Work.Half ends those
	Leave     Leaving
	LeaveAt   int           // after as many results
	Slow      time.Duration // for each result
}

// librarysOwn are errors that a handler's text can be mistaken for.
var librarysOwn = []error{grid.ErrDisconnected, grid.ErrShutdown, grid.ErrOverloaded}

// coded reports whether an error of the handler has a code.
func (c *Call) coded() bool {
	return c.Work.End == EndFailing && (c.Kind == Context || c.Kind == Subroute || c.Kind == Typed || c.Named)
}

// code is that of the error of a handler that fails.
func (c *Call) code() grid.Code { return grid.Canceled + grid.Code(c.ID%uint64(grid.Unauthenticated)) }

// failure is the error of a handler that fails: one of its own, or one that it hands on, with the
// text of an error that the library could have told its caller.
func (c *Call) failure() *grid.RemoteErr {
	if i := c.ID % 6; i < uint64(len(librarysOwn)) {
		return grid.NewRemoteErr(librarysOwn[i])
	}
	return grid.NewRemoteErrf("call %d fails", c.ID)
}
