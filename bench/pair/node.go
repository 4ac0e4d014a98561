package pair

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"sync/atomic"

	"github.com/gridmesh/grid/bench/contender"
	"github.com/gridmesh/grid/bench/load"
)

const (
	// nodeVariable is set in the environment of a process that has nodes.
	nodeVariable = "GRIDBENCH_NODE"
	pipeFile     = 3 // the number of the pipe's file there

	// nodeFlag is for programs that do not know of the variable: they fail, instead of doing what
	// they do otherwise.
	nodeFlag = "-node"
)

// BeNode does nothing, unless this process was started by another one to have nodes of a
// contender: then it does as it is told, and ends the process.
func BeNode() {
	if os.Getenv(nodeVariable) == "" {
		return
	}
	n := &node{pipe: json.NewEncoder(os.NewFile(pipeFile, "pipe"))}
	orders := json.NewDecoder(os.NewFile(pipeFile, "pipe"))
	for {
		var o order
		if err := orders.Decode(&o); err != nil {
			os.Exit(0) // the other process wants no more of this one, or has ended
		}
		a, err := n.do(o)
		if err != nil {
			a.Err = err.Error()
		}
		if err := n.pipe.Encode(a); err != nil {
			os.Exit(1)
		}
	}
}

// node is the process that is told what to do.
type node struct {
	pipe      *json.Encoder
	listeners []net.Listener
	accepted  atomic.Int64
	nodes     contender.Nodes
	others    int
}

func (n *node) do(o order) (answer, error) {
	switch {
	case o.Listen != nil:
		return n.listen(o.Listen)
	case o.Start != nil:
		return answer{}, n.start(o.Start)
	case o.Run != nil:
		var told error
		var before int64
		began := func() {
			before = n.accepted.Load()
			told = n.pipe.Encode(answer{Began: true})
		}
		r, err := load.Run(load.Nodes{Nodes: n.nodes, Others: n.others, PIDs: o.PIDs}, *o.Run, began)
		r.Accepted = int(n.accepted.Load() - before)
		return answer{Result: &r}, errors.Join(err, told)
	case o.Count:
		return answer{Accepted: int(n.accepted.Load())}, nil
	}
	return answer{}, fmt.Errorf("unknown order %+v", o)
}

func (n *node) listen(o *listenOrder) (a answer, err error) {
	for range o.Nodes {
		l, err := net.Listen("tcp", net.JoinHostPort(o.Host, "0"))
		if err != nil {
			return a, err
		}
		n.listeners = append(n.listeners, countingListener{l, &n.accepted})
		a.Addrs = append(a.Addrs, l.Addr().String())
	}
	return a, nil
}

func (n *node) start(o *startOrder) error {
	c, err := contender.Find(o.Contender)
	if err != nil {
		return err
	}
	if !c.Apart {
		return fmt.Errorf("the nodes of %s cannot be in several processes", c.Name)
	}
	n.others = len(o.Addrs) - 1
	n.nodes, err = c.Start(contender.Setup{
		Nodes:  len(o.Addrs),
		Window: o.Window,
		Part:   &contender.Part{First: o.First, Listeners: n.listeners, Addrs: o.Addrs, Via: o.Via},
	})
	return err
}

// countingListener counts the connections that it accepts.
type countingListener struct {
	net.Listener
	accepted *atomic.Int64
}

func (l countingListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err == nil {
		l.accepted.Add(1)
	}
	return c, err
}
