package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gridmesh/grid"
)

// guestCalls is how many calls the fifth node answers before it leaves, and makes itself.
const guestCalls = 1000

// comeAndGo adds a fifth node and takes it away again, while all nodes call each other.
func (d *demo) comeAndGo(ctx context.Context, log *slog.Logger) (string, error) {
	stay := d.nodes
	among := newTraffic()
	defer among.stop()
	if _, err := d.eachPair(func(_ *demoNode, c *grid.Connection) error { among.add(ctx, c); return nil }); err != nil {
		return "", err
	}
	start := time.Now()
	if err := d.join(log); err != nil {
		return "", err
	}
	if _, err := d.eachPair(func(_ *demoNode, c *grid.Connection) error { return c.WaitForConnect(ctx) }); err != nil {
		return "", err
	}
	joined := time.Since(start)
	ended, err := d.leave(ctx, stay)
	if err != nil {
		return "", err
	}
	if _, err := d.requests(ctx); err != nil {
		return "", err
	}
	if err := among.end(); err != nil {
		return "", err
	}
	return fmt.Sprintf("E joined, and was connected to all in %s; it left once a running stream had ended;\n"+
		"%15smeanwhile %s calls with E and %s among the others, none of which failed",
		short(joined), "", thousands(uint64(ended)), thousands(uint64(among.calls.Load()))), nil
}

// join starts another node, and tells the others of it.
func (d *demo) join(log *slog.Logger) error {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	hosts := append(hostsOf(d.nodes), "http://"+l.Addr().String())
	n, err := d.startNode(len(d.nodes), hosts, l, log) // dials nodes that do not know it yet
	if err != nil {
		l.Close()
		return err
	}
	d.nodes = append(slices.Clip(d.nodes), n)
	return setHosts(d.nodes, hosts)
}

// leave has the newest node called, and takes it away without a failed call. The others stay.
func (d *demo) leave(ctx context.Context, stay []*demoNode) (calls int64, err error) {
	last := len(stay)
	goes := d.nodes[last]
	toIt, fromIt := newTraffic(), newTraffic()
	defer fromIt.stop()
	defer toIt.stop()
	for i, n := range stay {
		toIt.add(ctx, d.link(i, last))
		fromIt.add(ctx, goes.Connection(n.HostName()))
	}
	running, err := newTalk(ctx, d.link(0, last))
	if err != nil {
		return 0, err
	}
	defer running.stop()
	if err := running.say("hello"); err != nil {
		return 0, err
	}
	if err := errors.Join(toIt.reach(ctx, guestCalls), fromIt.reach(ctx, guestCalls)); err != nil {
		return 0, err
	}
	goes.Drain()
	toIt.callers.Wait() // they have seen that
	if err := errors.Join(toIt.end(), fromIt.end()); err != nil {
		return 0, err
	}
	kept := d.link(0, last)
	if err := setHosts(stay, hostsOf(stay)); err != nil {
		return 0, err
	}
	switch _, err := kept.Request(ctx, handlerEcho, nil); {
	case err == nil:
		return 0, errors.New("a new call to E was answered after it had been removed")
	case !errors.Is(err, grid.ErrRemoved):
		return 0, fmt.Errorf("a new call to E after it had been removed: %w", err)
	}
	if err := errors.Join(running.say("goodbye"), running.end()); err != nil {
		return 0, fmt.Errorf("the stream that ran when E left: %w", err)
	}
	for _, n := range stay {
		for n.Stats().Removed.Leaving > 0 {
			if err := context.Cause(ctx); err != nil {
				return 0, err
			}
			time.Sleep(time.Millisecond) // nobody tells when a host is gone
		}
	}
	d.nodes = stay
	return toIt.calls.Load() + fromIt.calls.Load(), goes.stop(time.Second)
}

func hostsOf(nodes []*demoNode) (hosts []string) {
	for _, n := range nodes {
		hosts = append(hosts, n.HostName())
	}
	return hosts
}

// setHosts tells nodes of all hosts, one after the other.
func setHosts(nodes []*demoNode, hosts []string) error {
	for _, n := range nodes {
		if err := n.SetHosts(hosts); err != nil {
			return fmt.Errorf("the hosts of %s: %w", n.name, err)
		}
	}
	return nil
}

// traffic is calls on some connections, one after the other on each, none of which may fail.
type traffic struct {
	calls   atomic.Int64
	callers sync.WaitGroup
	over    chan struct{}
	ending  sync.Once
	failure chan error // has room for the first
}

func newTraffic() *traffic { return &traffic{over: make(chan struct{}), failure: make(chan error, 1)} }

// add calls until the traffic ends, or the peer says that it is about to go.
func (t *traffic) add(ctx context.Context, c *grid.Connection) {
	t.callers.Go(func() {
		for !c.Peer().Draining {
			select {
			case <-t.over:
				return
			default:
			}
			answer, err := c.Request(ctx, handlerEcho, []byte("hello"))
			grid.PutByteBuffer(answer)
			if err != nil {
				select {
				case t.failure <- fmt.Errorf("a call from %s to %s: %w", c.Local, c.Remote, err):
				default:
				}
				return
			}
			t.calls.Add(1)
		}
	})
}

// reach waits until so many calls were made, or one has failed.
func (t *traffic) reach(ctx context.Context, calls int64) error {
	for t.calls.Load() < calls && len(t.failure) == 0 {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		time.Sleep(time.Millisecond)
	}
	return nil
}

// stop makes no more calls, and waits for those that run. It may be called again.
func (t *traffic) stop() {
	t.ending.Do(func() { close(t.over) })
	t.callers.Wait()
}

// end is stop, and returns the first failure.
func (t *traffic) end() error {
	t.stop()
	select {
	case err := <-t.failure:
		return err
	default:
		return nil
	}
}

// talk is a stream of shout that is open.
type talk struct {
	st   *grid.Stream
	next func() ([]byte, error, bool)
	stop func() // must be called in the end
}

func newTalk(ctx context.Context, c *grid.Connection) (*talk, error) {
	st, err := c.NewStream(ctx, handlerShout, nil)
	if err != nil {
		return nil, err
	}
	t := &talk{st: st}
	t.next, t.stop = iter.Pull2(st.All())
	return t, nil
}

// say sends a word and waits for it to come back.
func (t *talk) say(word string) error {
	if err := t.st.Send([]byte(word)); err != nil {
		return err
	}
	b, err, ok := t.next()
	defer grid.PutByteBuffer(b)
	switch {
	case err != nil:
		return err
	case !ok || string(b) != strings.ToUpper(word):
		return fmt.Errorf("sent %q, got back %q", word, b)
	}
	return nil
}

// end waits for the handler to return.
func (t *talk) end() error {
	if err := t.st.CloseSend(); err != nil {
		return err
	}
	if b, err, ok := t.next(); ok {
		return cmp.Or(err, fmt.Errorf("got %q at the end", b))
	}
	return nil
}
