// Package gridmemberlist lets the nodes of a grid find each other by gossip, with
// hashicorp/memberlist: nothing else has to run, and a node needs to know the address of one or two
// others only.
//
//	config := memberlist.DefaultLANConfig()
//	config.SecretKey = key // 32 bytes, the same on all nodes
//	source := &gridmemberlist.Source{Config: config, Local: m.HostName(), Join: []string{"10.0.0.1:7946", "10.0.0.2:7946"}}
//	go discovery.Run(ctx, m, source)
//
// Gossip is a grid of its own: it has its own port, on UDP and TCP, and its own key. Without a
// SecretKey, whoever reaches the port decides whom the nodes dial, and which names may connect to
// them. With or without it, ManagerOptions.AuthRequest and VerifyPeer decide who is a member.
//
// With a Network, gossip goes over the connections of the grid itself, and has no port:
//
//	network, err := gridmemberlist.NewNetwork(m, options) // those of m
//	if err != nil {
//		return err
//	}
//	go discovery.Run(ctx, m, &gridmemberlist.Source{Network: network, Join: []string{"https://node1.example:9000"}})
package gridmemberlist

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/gridmesh/grid/discovery"
	"github.com/hashicorp/memberlist"
)

const (
	aloneEvery  = time.Second      // between attempts to join while this node is alone
	rejoinEvery = 30 * time.Second // while it is not
	maxLeave    = time.Second      // for saying goodbye
)

// Source is a discovery.Source. Its fields must not change while it is used.
type Source struct {
	// Config is that of memberlist. nil is memberlist.DefaultLANConfig. Its Name becomes Local; it
	// is not changed otherwise. Its Events are called too.
	Config *memberlist.Config
	// Local is the name of this node, as in ManagerOptions.Local. It is required, unless there is a
	// Network, which has it.
	Local string
	// Join has the addresses of memberlist at some nodes, with or without a port, or names that
	// lead to such. This node's own may be among them. Until one was reached, or another node has
	// come by itself, this node has found nothing. Without any, it waits to be found. With a Network
	// they are URLs of nodes instead, as in ManagerOptions.Hosts, or others that lead to such.
	//
	// Every 30 seconds one of them is reached again, so that parts of a grid that have lost each
	// other meet once they can.
	Join []string
	// Network has the gossip go over the connections of a grid. nil is for memberlist's own network.
	// One Source at a time may use it, and not with a Config.Transport. Config.CIDRsAllowed must be
	// nil, and the addresses and ports of Config have no effect.
	Network *Network
}

var _ discovery.Source = (*Source)(nil)

// String returns what the log calls the source.
func (s *Source) String() string { return "memberlist" }

// Watch is part of discovery.Source. It takes part in the gossip, and finds the names of all members
// that are thought to be alive. When ctx ends, it tells the others that this node has left, which
// takes a second at most, two with a Network, or Config.TCPTimeout if it is just trying to join. It returns an error if
// memberlist cannot start.
func (s *Source) Watch(ctx context.Context, found func(hosts []string)) error {
	if err := s.check(); err != nil {
		return err
	}
	changed := make(chan struct{}, 1)
	config := s.config(changed)
	if s.Network != nil {
		w, err := s.Network.open(s.Join)
		if err != nil {
			return err
		}
		defer w.Shutdown() //nolint:errcheck // it has none
		config.Transport = w
	}
	list, err := memberlist.Create(config)
	if err != nil {
		return err
	}
	var joining sync.WaitGroup
	defer joining.Wait()
	defer list.Shutdown() //nolint:errcheck // says only that a socket was closed already
	joined := make(chan struct{})
	joining.Go(func() { s.keepJoined(ctx, list, joined) })
	for together := false; ; {
		select {
		case <-ctx.Done():
			_ = list.Leave(maxLeave) // Without it, the others find out by themselves.
			return context.Cause(ctx)
		case <-changed:
		case <-joined:
			together, joined = true, nil
		}
		if together = together || list.NumMembers() > 1; together {
			var hosts []string
			for _, member := range list.Members() {
				hosts = append(hosts, member.Name)
			}
			found(hosts)
		}
	}
}

// check returns what is wrong with the fields.
func (s *Source) check() error {
	switch {
	case s.Network == nil && s.Local == "":
		return errors.New("gridmemberlist: Source.Local is required")
	case s.Network == nil:
		return nil
	case s.Local != "" && s.Local != s.Network.m.HostName():
		return fmt.Errorf("gridmemberlist: Source.Local is %s, but the Network is that of %s", s.Local, s.Network.m.HostName())
	case s.Config != nil && s.Config.Transport != nil:
		return errors.New("gridmemberlist: Source.Network and Config.Transport are set")
	case s.Config != nil && s.Config.IPMustBeChecked():
		return errors.New("gridmemberlist: Config.CIDRsAllowed is set, but nodes of a Network have no addresses")
	}
	return nil
}

// config returns a copy of Config that tells changed what happens.
func (s *Source) config(changed chan<- struct{}) *memberlist.Config {
	config := memberlist.DefaultLANConfig()
	if s.Config != nil {
		*config = *s.Config
	}
	config.Name = s.Local
	if s.Network != nil {
		config.Name = s.Network.m.HostName()
	}
	config.Events = &events{EventDelegate: config.Events, changed: changed}
	return config
}

// keepJoined reaches the addresses of Join again and again until ctx ends. It closes joined after
// the first success, and at once if there is nothing to reach.
func (s *Source) keepJoined(ctx context.Context, list *memberlist.Memberlist, joined chan<- struct{}) {
	if len(s.Join) == 0 {
		close(joined)
		return
	}
	tick := time.NewTicker(aloneEvery)
	defer tick.Stop()
	var last time.Time
	for first := true; ; {
		var due []string
		switch {
		case first || list.NumMembers() < 2:
			due = s.Join
		case time.Since(last) >= rejoinEvery:
			due = []string{s.Join[rand.IntN(len(s.Join))]}
		}
		for _, address := range due {
			if ctx.Err() != nil {
				return
			}
			if s.Network != nil {
				address = standInText(address)
			}
			if n, _ := list.Join([]string{address}); n > 0 && first { // memberlist logs errors
				first = false
				close(joined)
			}
			last = time.Now()
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// events wakes Watch when a member comes or goes. memberlist holds a lock meanwhile.
type events struct {
	memberlist.EventDelegate // of the application, or nil

	changed chan<- struct{}
}

// NotifyJoin is part of memberlist.EventDelegate.
func (e *events) NotifyJoin(n *memberlist.Node) {
	if e.EventDelegate != nil {
		e.EventDelegate.NotifyJoin(n)
	}
	e.wake()
}

// NotifyLeave is part of memberlist.EventDelegate.
func (e *events) NotifyLeave(n *memberlist.Node) {
	if e.EventDelegate != nil {
		e.EventDelegate.NotifyLeave(n)
	}
	e.wake()
}

// NotifyUpdate is part of memberlist.EventDelegate.
func (e *events) NotifyUpdate(n *memberlist.Node) {
	if e.EventDelegate != nil {
		e.EventDelegate.NotifyUpdate(n)
	}
}

func (e *events) wake() {
	select {
	case e.changed <- struct{}{}:
	default:
	}
}
