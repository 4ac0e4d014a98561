package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/gridmesh/grid"
)

// eachPair calls f with the connection of each node to each other node.
func (d *demo) eachPair(f func(n *demoNode, c *grid.Connection) error) (pairs int, err error) {
	for _, n := range d.nodes {
		for _, c := range connections(n.Manager) {
			if err := f(n, c); err != nil {
				return pairs, fmt.Errorf("%s -> %s: %w", n.name, d.name(c.Remote), err)
			}
			pairs++
		}
	}
	return pairs, nil
}

// connect waits until each node is connected to all others.
func (d *demo) connect(ctx context.Context) (string, error) {
	start := time.Now()
	pairs, err := d.eachPair(func(_ *demoNode, c *grid.Connection) error { return c.WaitForConnect(ctx) })
	return fmt.Sprintf("%d connections are up after %s, one for each two nodes", pairs/2, short(time.Since(start))), err
}

// requests sends bytes from each node to each other.
func (d *demo) requests(ctx context.Context) (string, error) {
	start := time.Now()
	pairs, err := d.eachPair(func(_ *demoNode, c *grid.Connection) error {
		answer, err := c.Request(ctx, handlerEcho, []byte("hello"))
		if err == nil && string(answer) != "hello" {
			err = fmt.Errorf("got %q, want hello", answer)
		}
		grid.PutByteBuffer(answer)
		return err
	})
	return fmt.Sprintf("%d requests with bytes, one in each direction, answered in %s", pairs, short(time.Since(start))), err
}

// typedRequests sends values from each node to each other.
func (d *demo) typedRequests(ctx context.Context) (string, error) {
	var last string
	pairs, err := d.eachPair(func(n *demoNode, c *grid.Connection) error {
		resp, err := greet.Call(ctx, c, grid.NewMSSWith(map[string]string{"name": n.name}))
		if err != nil {
			return err
		}
		defer greet.PutResponse(resp)
		last = resp.Get("greeting")
		if want := "hello " + n.name + ", I am " + d.name(c.Remote); last != want {
			return fmt.Errorf("got %q, want %q", last, want)
		}
		return nil
	})
	return fmt.Sprintf("%d requests with typed values; the last answer: %q", pairs, last), err
}

// streamDown receives a one-way stream from B at A.
func (d *demo) streamDown(ctx context.Context) (string, error) {
	const from = 1000
	start := time.Now()
	st, err := d.link(0, 1).NewStream(ctx, handlerCountdown, fmt.Append(nil, from))
	if err != nil {
		return "", err
	}
	next := from
	for b, err := range st.All() {
		if err != nil {
			return "", err
		}
		if want := fmt.Append(nil, next); !bytes.Equal(b, want) {
			return "", fmt.Errorf("got %s, want %s", b, want)
		}
		grid.PutByteBuffer(b)
		next--
	}
	if next != 0 {
		return "", fmt.Errorf("the stream ended %d messages early", next)
	}
	return fmt.Sprintf("B counted down for A: %s messages, in order, in %s", thousands(from), short(time.Since(start))), nil
}

// streamBoth sends words from C to D, which sends each back.
func (d *demo) streamBoth(ctx context.Context) (string, error) {
	words := strings.Fields("many calls share one wire")
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	st, err := d.link(2, 3).NewStream(ctx, handlerShout, nil)
	if err != nil {
		return "", err
	}
	go func() {
		defer close(st.Requests)
		for _, word := range words {
			if st.Send([]byte(word)) != nil {
				return // Results says why
			}
		}
	}()
	var got []string
	err = st.Results(func(b []byte) error {
		got = append(got, string(b))
		grid.PutByteBuffer(b)
		return nil
	})
	if err != nil {
		return "", err
	}
	sent, back := strings.Join(words, " "), strings.Join(got, " ")
	if back != strings.ToUpper(sent) {
		return "", fmt.Errorf("sent %q, got back %q", sent, back)
	}
	return fmt.Sprintf("C sent D %q, got back %q", sent, back), nil
}

// cut closes the socket between A and B under a running call, and waits until calls work again in
// both directions.
func (d *demo) cut(ctx context.Context) (string, error) {
	failed := make(chan error, 1)
	go func() {
		_, err := d.link(0, 1).Request(ctx, handlerStay, nil)
		failed <- err
	}()
	select {
	case <-d.nodes[1].stays:
	case err := <-failed:
		return "", fmt.Errorf("the call ended before the cut: %w", err)
	}
	start := time.Now()
	if !d.nodes[0].cables.cut(d.nodes[1].addr()) && !d.nodes[1].cables.cut(d.nodes[0].addr()) {
		return "", errors.New("found no socket between A and B")
	}
	lost := <-failed
	if !errors.Is(lost, grid.ErrDisconnected) {
		return "", fmt.Errorf("the running call got %w, want %w", lost, grid.ErrDisconnected)
	}
	noticed := time.Since(start)
	for _, c := range []*grid.Connection{d.link(0, 1), d.link(1, 0)} {
		if err := untilAnswered(ctx, c); err != nil {
			return "", err
		}
	}
	return fmt.Sprintf("the socket of A and B was closed: a running call was told so in %s, calls worked again after %s",
		short(noticed), short(time.Since(start))), nil
}

// untilAnswered calls until a call gets through.
func untilAnswered(ctx context.Context, c *grid.Connection) error {
	for {
		if err := c.WaitForConnect(ctx); err != nil {
			return err
		}
		_, err := c.Request(ctx, handlerEcho, nil)
		if !errors.Is(err, grid.ErrDisconnected) {
			return err
		}
		time.Sleep(time.Millisecond) // the loss may not have been noticed here
	}
}

// link is the connection from one node to another, by index.
func (d *demo) link(from, to int) *grid.Connection {
	return d.nodes[from].Connection(d.nodes[to].HostName())
}

// addr is where a node listens.
func (n *demoNode) addr() string { return n.listener.Addr().String() }
