package load

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gridmesh/grid/bench/contender"
)

// worker is a caller, or the consumer of a stream. It has cache lines of its own.
type worker struct {
	done  atomic.Uint64
	times []time.Duration
	_     [96]byte
}

// workers are what runs until the time is up.
type workers struct {
	*run
	all       []worker
	measuring atomic.Bool
	stopped   atomic.Bool
}

func (r *run) newWorkers() *workers { return &workers{run: r, all: make([]worker, r.Callers)} }

// perform runs work for each worker and measures it.
func (w *workers) perform(work func(*worker)) error {
	var wg sync.WaitGroup
	for i := range w.all {
		wg.Go(func() { work(&w.all[i]) })
	}
	time.Sleep(w.Warm)
	before := w.counts()
	w.measuring.Store(true)
	var after []uint64
	if err := w.during(func() {
		time.Sleep(w.Time)
		after = w.counts()
		for start := time.Now(); sum(after)-sum(before) < uint64(len(after)) && time.Since(start) < patience/4; after = w.counts() {
			time.Sleep(5 * time.Millisecond) // until there is something for each
		}
	}); err != nil {
		return err
	}
	w.measuring.Store(false)
	w.stopped.Store(true)
	if err := wait(&wg); err != nil {
		return err
	}
	w.result.Done = sum(after) - sum(before)
	w.result.Fewest = after[0] - before[0]
	var times []time.Duration
	for i := range after {
		n := after[i] - before[i]
		w.result.Fewest, w.result.Most = min(w.result.Fewest, n), max(w.result.Most, n)
		times = append(times, w.all[i].times...)
	}
	w.result.times(times)
	return nil
}

func (w *workers) counts() []uint64 {
	all := make([]uint64, len(w.all))
	for i := range w.all {
		all[i] = w.all[i].done.Load()
	}
	return all
}

func sum(all []uint64) (n uint64) {
	for _, v := range all {
		n += v
	}
	return n
}

// repeat makes calls, one after the other, until the time is up.
func (w *workers) repeat(me *worker, call func() error) {
	for !w.stopped.Load() {
		var start time.Time
		if w.Timed {
			start = time.Now()
		}
		if err := call(); err != nil {
			w.failed(err)
			time.Sleep(failurePause)
			continue
		}
		me.done.Add(1)
		if w.Timed && w.measuring.Load() {
			me.times = append(me.times, time.Since(start))
		}
	}
}

func (r *run) calls() error {
	c, err := r.client()
	if err != nil {
		return err
	}
	if r.Once {
		return r.callsOnce(c)
	}
	w := r.newWorkers()
	return w.perform(func(me *worker) {
		request := r.request()
		w.repeat(me, func() error { return r.call(c, request) })
	})
}

// callsOnce measures one call of each caller.
func (r *run) callsOnce(c contender.Asker) error {
	times := make([]time.Duration, r.Callers)
	var stuck error
	err := r.during(func() {
		var wg sync.WaitGroup
		for i := range times {
			wg.Go(func() {
				start := time.Now()
				if err := r.call(c, r.request()); err != nil {
					r.failed(err)
					return
				}
				times[i] = time.Since(start)
			})
		}
		stuck = wait(&wg)
	})
	if err = errors.Join(err, stuck); err != nil {
		return err
	}
	var ok []time.Duration
	for _, t := range times {
		if t > 0 {
			ok = append(ok, t)
		}
	}
	r.result.Done = uint64(len(ok))
	r.result.times(ok)
	return nil
}

func (r *run) fan() error {
	var clients []contender.Client
	for i := range r.Others {
		c, err := r.Client(0, 1+i)
		if err != nil {
			return err
		}
		if err := c.Echo(randomBytes(1)); err != nil {
			return err
		}
		clients = append(clients, c)
	}
	w := r.newWorkers()
	return w.perform(func(me *worker) {
		request := r.request()
		errs := make([]error, len(clients))
		w.repeat(me, func() error {
			var wg sync.WaitGroup
			for i, c := range clients {
				wg.Go(func() { errs[i] = c.Echo(request) })
			}
			wg.Wait()
			return errors.Join(errs...)
		})
	})
}

func (r *run) streamer() (contender.Streamer, error) {
	c, err := r.client()
	if err != nil {
		return nil, err
	}
	st, ok := c.(contender.Streamer)
	if !ok {
		return nil, errors.New("it has no streams")
	}
	return st, nil
}

func (r *run) streams() error {
	st, err := r.streamer()
	if err != nil {
		return err
	}
	w := r.newWorkers()
	return w.perform(func(me *worker) {
		for !w.stopped.Load() {
			err := st.Stream(context.Background(), contender.Order{Size: r.Size}, func(int) bool {
				me.done.Add(1)
				return !w.stopped.Load()
			})
			if err != nil {
				r.failed(err)
				time.Sleep(failurePause)
			}
		}
	})
}

func (r *run) slowStreams() error {
	st, err := r.streamer()
	if err != nil {
		return err
	}
	var done atomic.Uint64
	var stuck error
	err = r.during(func() {
		var wg sync.WaitGroup
		for range r.Callers {
			wg.Go(func() {
				got := 0
				err := st.Stream(context.Background(), contender.Order{Messages: r.Messages, Size: r.Size}, func(int) bool {
					got++
					done.Add(1)
					time.Sleep(r.Pause)
					return true
				})
				if err == nil && got != r.Messages {
					err = fmt.Errorf("a stream has ended after %d messages of %d", got, r.Messages)
				}
				if err != nil {
					r.failed(err)
				}
			})
		}
		stuck = wait(&wg)
	})
	r.result.Done = done.Load()
	return errors.Join(err, stuck)
}
