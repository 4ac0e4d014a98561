package main

import (
	"context"
	"fmt"
	"math"
	"sync"
	"time"

	"github.com/gridmesh/grid"
)

// Paces of the traffic that keeps the status pages of a demonstration alive.
const (
	liveStep     = 20 * time.Millisecond
	livePeriod   = 40 * time.Second // of the waves that the traffic comes in
	liveCut      = 20 * time.Second // between cuts of a cable
	liveMistake  = 3 * time.Second  // between calls that fail
	liveStayTime = 8 * time.Second  // of a call that waits
)

// live keeps the nodes busy until ctx ends: calls that come in waves, streams, calls that wait or
// fail, and now and then a cable that is cut.
func (d *demo) live(ctx context.Context) {
	var wg sync.WaitGroup
	for i := range d.nodes {
		for k := range d.nodes {
			if i == k {
				continue
			}
			wg.Go(func() { d.liveCalls(ctx, i, k) })
			wg.Go(func() { d.liveMistakes(ctx, i, k) })
			wg.Go(func() { d.liveStream(ctx, i, k) })
		}
		wg.Go(func() { d.liveStays(ctx, i, (i+1)%len(d.nodes)) })
	}
	wg.Go(func() {
		every(ctx, liveCut, func() {
			if !d.nodes[0].cables.cut(d.nodes[1].addr()) {
				d.nodes[1].cables.cut(d.nodes[0].addr())
			}
		})
	})
	wg.Wait()
}

// every calls f at an interval until ctx ends.
func every(ctx context.Context, interval time.Duration, f func()) {
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			f()
		case <-ctx.Done():
			return
		}
	}
}

// liveCalls sends requests from one node to another, more and fewer in turn.
func (d *demo) liveCalls(ctx context.Context, from, to int) {
	c := d.link(from, to)
	start := time.Now()
	phase := float64(3*from + to)
	every(ctx, liveStep, func() {
		wave := 1 + math.Sin(phase+2*math.Pi*time.Since(start).Seconds()/livePeriod.Seconds())
		for range int(4 * wave) {
			b, err := c.Request(ctx, handlerEcho, zeros(64<<int(2*wave)))
			if err != nil {
				return
			}
			grid.PutByteBuffer(b)
		}
		if resp, err := greet.Call(ctx, c, grid.NewMSSWith(map[string]string{"name": d.nodes[from].name})); err == nil {
			greet.PutResponse(resp)
		}
	})
}

// liveMistakes makes calls that fail.
func (d *demo) liveMistakes(ctx context.Context, from, to int) {
	every(ctx, liveMistake+time.Duration(from+to)*time.Second, func() {
		st, err := d.link(from, to).NewStream(ctx, handlerCountdown, []byte("nothing"))
		if err != nil {
			return
		}
		_ = st.Results(func(b []byte) error { grid.PutByteBuffer(b); return nil })
	})
}

// liveStream keeps a stream open, and opens another where it is lost.
func (d *demo) liveStream(ctx context.Context, from, to int) {
	for ctx.Err() == nil {
		c := d.link(from, to)
		if c.WaitForConnect(ctx) != nil {
			return
		}
		st, err := c.NewStream(ctx, handlerShout, nil)
		if err != nil {
			continue
		}
		done := make(chan struct{})
		go func() {
			defer close(done)
			_ = st.Results(func(b []byte) error { grid.PutByteBuffer(b); return nil })
		}()
		talk, stop := context.WithCancel(ctx)
		go func() {
			<-done
			stop()
		}()
		every(talk, time.Second, func() { _ = st.Send(fmt.Append(nil, "hello")) })
		stop()
		<-done
	}
}

// liveStays makes calls that wait, one after the other.
func (d *demo) liveStays(ctx context.Context, from, to int) {
	every(ctx, liveStayTime+time.Second, func() {
		go func() { <-d.nodes[to].stays }()
		stay, cancel := context.WithTimeout(ctx, liveStayTime)
		defer cancel()
		_, _ = d.link(from, to).Request(stay, handlerStay, nil)
	})
}
