package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gridmesh/grid"
	"github.com/gridmesh/grid/cmd/gridctl/internal/latency"
)

// load describes what is sent over each connection.
type load struct {
	op       string // a key of operations
	size     int    // bytes of a payload
	callers  int    // per connection
	duration time.Duration
}

// operations are what a worker does until a time, by name.
var operations = map[string]func(w *worker, ctx context.Context, until time.Time) error{
	"echo":   (*worker).echo,
	"sink":   (*worker).sink,
	"source": (*worker).source,
}

const (
	// sourceMessages is how many messages a stream of the source has.
	sourceMessages = 100
	// drainTime is how long calls may take that are still running when the time is up.
	drainTime = 10 * time.Second
	// retryPause is how long a worker waits after an error, at the least.
	retryPause = 10 * time.Millisecond
)

var errNoAnswer = fmt.Errorf("no answer within %v of the end", drainTime)

// counts are the calls of a worker, or of several.
type counts struct{ calls, bytes, errors uint64 }

func (c counts) plus(o counts) counts {
	return counts{c.calls + o.calls, c.bytes + o.bytes, c.errors + o.errors}
}

// result is how the load on one connection went.
type result struct {
	counts
	local, remote string
	elapsed       time.Duration
	latencies     latency.Histogram
	failure       error // the first of the errors
}

func (r *result) perSecond() float64 { return float64(r.calls) / r.elapsed.Seconds() }
func (r *result) megabytes() float64 { return float64(r.bytes) / 1e6 / r.elapsed.Seconds() }

// drive puts the load on all connections at the same time. Once a second it
// tells progress, which may be nil, what has been done so far. The end of ctx
// cuts it short; the calls that this interrupts are not counted.
func (l load) drive(ctx context.Context, conns []*grid.Connection, progress func(sum counts, elapsed time.Duration)) []result {
	workers := make([]*worker, 0, len(conns)*l.callers)
	for _, conn := range conns {
		for range l.callers {
			workers = append(workers, &worker{conn: conn, load: l})
		}
	}
	start := time.Now()
	end := start.Add(l.duration)
	ctx, cancel := context.WithDeadlineCause(ctx, end.Add(drainTime), errNoAnswer)
	defer cancel()
	var wg sync.WaitGroup
	for _, w := range workers {
		wg.Go(func() { w.run(ctx, end) })
	}
	report(&wg, func() {
		if progress != nil {
			progress(sum(workers), time.Since(start))
		}
	})
	return l.results(conns, workers, time.Since(start))
}

// report calls tick once a second until wg is done.
func report(wg *sync.WaitGroup, tick func()) {
	done := make(chan struct{})
	go func() {
		wg.Wait()
		close(done)
	}()
	ticker := time.NewTicker(time.Second)
	defer ticker.Stop()
	for {
		select {
		case <-done:
			return
		case <-ticker.C:
			tick()
		}
	}
}

func sum(workers []*worker) (total counts) {
	for _, w := range workers {
		total = total.plus(w.counts())
	}
	return total
}

// results sums up what the workers have done, by connection. They have ended.
func (l load) results(conns []*grid.Connection, workers []*worker, elapsed time.Duration) []result {
	all := make([]result, len(conns))
	for i, conn := range conns {
		r := &all[i]
		r.local, r.remote, r.elapsed = conn.Local, conn.Remote, elapsed
		for _, w := range workers[i*l.callers : (i+1)*l.callers] {
			r.counts = r.counts.plus(w.counts())
			r.latencies.Merge(&w.latencies)
			if r.failure == nil {
				r.failure = w.failure
			}
		}
	}
	return all
}

// total is the sum of results that ran at the same time.
func total(results []result) result {
	all := result{local: "all", remote: "all"}
	for i := range results {
		r := &results[i]
		all.counts = all.counts.plus(r.counts)
		all.latencies.Merge(&r.latencies)
		all.elapsed = max(all.elapsed, r.elapsed)
		if all.failure == nil {
			all.failure = r.failure
		}
	}
	return all
}

// worker is one caller on one connection.
type worker struct {
	conn *grid.Connection
	load load

	calls, bytes, errors atomic.Uint64 // read while it runs

	// Read after it has ended.
	latencies latency.Histogram
	failure   error
}

func (w *worker) counts() counts {
	return counts{w.calls.Load(), w.bytes.Load(), w.errors.Load()}
}

// run calls until the time is up, whatever fails.
func (w *worker) run(ctx context.Context, until time.Time) {
	for ctx.Err() == nil && time.Now().Before(until) {
		err := operations[w.load.op](w, ctx, until)
		if err == nil {
			continue
		}
		if ctx.Err() != nil && !errors.Is(context.Cause(ctx), errNoAnswer) {
			return
		}
		w.errors.Add(1)
		if w.failure == nil {
			w.failure = err
		}
		w.settle(ctx, until)
	}
}

// settle waits after an error until calls make sense again. The pause is
// first, since a call may know of a loss before the connection's state does.
func (w *worker) settle(ctx context.Context, until time.Time) {
	ctx, cancel := context.WithDeadline(ctx, until)
	defer cancel()
	select {
	case <-time.After(retryPause):
	case <-ctx.Done():
	}
	_ = w.conn.WaitForConnect(ctx) // the next call tells what is wrong
}

// done counts one call that was good.
func (w *worker) done(since time.Time) {
	w.latencies.Add(time.Since(since))
	w.calls.Add(1)
}

// carried counts payload bytes.
func (w *worker) carried(n int) { w.bytes.Add(uint64(n)) }

// echo makes one request after another.
func (w *worker) echo(ctx context.Context, until time.Time) error {
	payload := make([]byte, w.load.size)
	for start := time.Now(); start.Before(until); start = time.Now() {
		answer, err := w.conn.Request(ctx, handlerEcho, payload)
		if err != nil {
			return err
		}
		n := len(answer)
		grid.PutByteBuffer(answer)
		if n != w.load.size {
			return fmt.Errorf("echo: %d bytes came back of %d", n, w.load.size)
		}
		w.carried(n)
		w.done(start)
	}
	return nil
}

// sink sends messages up one stream, and counts each when its receipt is back.
func (w *worker) sink(ctx context.Context, until time.Time) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	st, err := w.conn.NewStream(ctx, handlerSink, nil)
	if err != nil {
		return err
	}
	sent := make(chan time.Time, streamWindow) // of the messages without a receipt
	go w.feed(ctx, st, sent, until)
	var last receipt
	err = st.Results(func(b []byte) error {
		got, err := parseReceipt(b)
		grid.PutByteBuffer(b)
		last.messages++
		last.bytes += uint64(w.load.size)
		switch {
		case err != nil:
			return err
		case got != last:
			return fmt.Errorf("sink: it got %d messages of %d bytes, want %d of %d", got.messages, got.bytes, last.messages, last.bytes)
		}
		select {
		case start := <-sent:
			w.carried(w.load.size)
			w.done(start)
			return nil
		default:
			return errors.New("sink: a receipt for a message that was not sent")
		}
	})
	if err != nil {
		return err
	}
	if n := len(sent); n > 0 {
		return fmt.Errorf("sink: the stream ended without %d receipts", n)
	}
	return nil
}

// feed sends the messages of a sink's stream until the time is up or the stream has ended.
func (w *worker) feed(ctx context.Context, st *grid.Stream, sent chan<- time.Time, until time.Time) {
	defer close(st.Requests)
	for start := time.Now(); start.Before(until); start = time.Now() {
		select {
		case sent <- start:
		case <-ctx.Done():
			return
		}
		if st.Send(zeros(w.load.size)) != nil {
			return
		}
	}
}

// source receives one stream.
func (w *worker) source(ctx context.Context, _ time.Time) error {
	start := time.Now()
	want := sourceRequest{sourceMessages, w.load.size}
	st, err := w.conn.NewStream(ctx, handlerSource, []byte(want.String()))
	if err != nil {
		return err
	}
	messages, bytes := 0, 0
	err = st.Results(func(b []byte) error {
		messages++
		bytes += len(b)
		w.carried(len(b))
		grid.PutByteBuffer(b)
		return nil
	})
	switch {
	case err != nil:
		return err
	case messages != want.messages || bytes != want.messages*want.size:
		return fmt.Errorf("source: %d messages of %d bytes in all, want %d of %d", messages, bytes, want.messages, want.messages*want.size)
	}
	w.done(start)
	return nil
}
