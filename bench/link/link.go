// Package link has the networks between the two processes of a measurement: loopback, a relay that
// limits the rate, and, for root on Linux, network namespaces with a rate limit in the kernel or
// with a long cable between them.
//
//	l, err := link.Open(link.Spec{Kind: link.Relay, Rate: 100_000_000})
//	...
//	defer l.Close()
package link

import (
	"fmt"
	"time"
)

// Kind is a kind of network.
type Kind string

// The kinds.
const (
	// Loopback is without limits.
	Loopback Kind = ""
	// Relay is a program between the two, which reads slowly, with small buffers.
	Relay Kind = "relay"
	// Kernel is two network namespaces whose interfaces limit what they send, as a network card
	// does.
	Kernel Kind = "kernel"
	// Cable is two network namespaces with a cable between them that limits the rate behind a short
	// queue, delays and loses.
	Cable Kind = "cable"
)

// Spec says what a network is like. What a kind cannot do is ignored.
type Spec struct {
	Kind      Kind
	Rate      float64       // bits a second in each direction, 0 is as many as there can be
	RoundTrip time.Duration // of Cable
	Loss      float64       // of Cable: the part of the packets that is lost, from 0 to 1
}

// Link is a network between two sides, 0 and 1.
type Link interface {
	// Host returns the IP address at which nodes of a side listen.
	Host(side int) string

	// Run runs f on a thread of the side. The processes that it starts are there.
	Run(side int, f func() error) error

	// Via returns what each side has to dial in place of the addresses of the other side.
	Via(addrs [2][]string) ([2]map[string]string, error)

	// SetDown loses everything that is sent from now on, or no longer does. Only a Cable can.
	SetDown(down bool)

	// Close removes the network. The processes there have ended.
	Close()
}

// Open makes a network.
func Open(s Spec) (Link, error) {
	switch s.Kind {
	case Loopback:
		return loopback{}, nil
	case Relay:
		return &relay{rate: s.Rate}, nil
	case Kernel:
		return openKernel(s)
	case Cable:
		return openCable(s)
	}
	return nil, fmt.Errorf("no kind of link is named %q", s.Kind)
}

// Able returns why a kind of network cannot be made here, or nil.
func Able(k Kind) error {
	l, err := Open(Spec{Kind: k, Rate: 1e9, RoundTrip: time.Millisecond})
	if err == nil {
		l.Close()
	}
	return err
}

// loopback is also what the others are where they do nothing of their own.
type loopback struct{}

func (loopback) Host(int) string                                   { return "127.0.0.1" }
func (loopback) Run(_ int, f func() error) error                   { return onThread(f) }
func (loopback) Via([2][]string) (v [2]map[string]string, _ error) { return v, nil }
func (loopback) SetDown(bool)                                      {}
func (loopback) Close()                                            {}
