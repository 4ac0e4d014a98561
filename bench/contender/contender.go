// Package contender has the libraries that are compared, all behind one small
// interface: start some nodes, then call from one to another.
//
//	c, _ := contender.Find("grid")
//	nodes, err := c.Start(contender.Setup{Nodes: 2})
//	...
//	client, err := nodes.Client(0, 1)
//	...
//	err = client.Echo(payload)
package contender

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
)

// Contender is a way of calling other nodes.
type Contender struct {
	Name   string
	About  string // what is measured, in one sentence
	Module string // the path of its Go module, empty for the standard library and this repository

	// What it can do.
	Streams bool // clients are Streamers
	TLS     bool // nodes can be started with Setup.TLS
	Shared  bool // a client may be used by several goroutines at once
	Apart   bool // the nodes may be in several processes, see Setup.Part; clients are Askers

	// Start starts nodes that can call each other, on loopback unless Setup.Part is set.
	Start func(Setup) (Nodes, error)
}

// Setup says which nodes are to be started.
type Setup struct {
	Nodes  int  // at least 2
	TLS    bool // encrypt all connections
	Window int  // messages of a stream that may be on their way, where a library counts messages; 0 is 1

	// Part is what this process has of the nodes; nil is all of them.
	Part *Part
}

// Part is the share of one process in nodes that are in several. Node 0 is the only one that calls.
type Part struct {
	First     int               // the number of the first node here
	Listeners []net.Listener    // of the nodes here, which own them
	Addrs     []string          // at which each node of all processes listens
	Via       map[string]string // where to dial in place of some of Addrs, such as a relay
}

// Nodes are running nodes.
type Nodes interface {
	// Client returns a client at the node from that calls the node to, for
	// one goroutine unless Contender.Shared is set. Clients of the
	// same two nodes share a connection where the library can share one.
	Client(from, to int) (Client, error)

	// Close ends the nodes. No call may be running.
	Close() error
}

// Client calls one node.
type Client interface {
	// Echo sends payload and checks that it comes back. See Check.
	Echo(payload []byte) error

	// Close ends what belongs to the client alone.
	Close() error
}

// Streamer is a client that can open streams.
type Streamer interface {
	Client

	// Stream opens a stream, on which the other node sends what is ordered. It calls each with the
	// size of each message until the stream ends, each returns false, or ctx ends.
	Stream(ctx context.Context, o Order, each func(size int) bool) error
}

// Asker is a client that can call for more than an echo.
type Asker interface {
	Client

	// Ask sends a request that begins with a Task, and returns the size of the answer.
	Ask(request []byte) (int, error)
}

// Urgent is an Asker that has another whose calls pass its own.
type Urgent interface {
	Urgent() Asker
}

// All are the contenders, in the order of the report.
func All() []Contender {
	return []Contender{
		limitContender, tcpContender,
		gridRaw, gridHigh, gridPolling, gridTyped,
		grpcUnary, grpcStreaming, grpcProtobuf, gridProtobuf, gridProtobufPolling, gridMessages, gridMethods, drpcPool, drpcStreaming, ttrpcContender, netRPC, natsContender,
		yamuxContender, smuxContender, http1, h2c,
	}
}

// Find returns the contender with that name.
func Find(name string) (Contender, error) {
	for _, c := range All() {
		if c.Name == name {
			return c, nil
		}
	}
	return Contender{}, fmt.Errorf("no contender is named %q", name)
}

// ErrWrongAnswer is what Echo returns if something else has come back.
var ErrWrongAnswer = errors.New("the answer is not what was sent")

// checkedEnd is how many bytes of each end of a large payload are compared.
const checkedEnd = 512

// Check compares an answer with what was sent: all of it where it is small, both ends where it is
// large.
func Check(sent, answer []byte) error {
	if len(sent) != len(answer) {
		return ErrWrongAnswer
	}
	if n := len(sent); n > 2*checkedEnd {
		if !bytes.Equal(sent[:checkedEnd], answer[:checkedEnd]) {
			return ErrWrongAnswer
		}
		sent, answer = sent[n-checkedEnd:], answer[n-checkedEnd:]
	}
	if !bytes.Equal(sent, answer) {
		return ErrWrongAnswer
	}
	return nil
}
