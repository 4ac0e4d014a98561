package load

import (
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gridmesh/grid/bench/contender"
)

// maxRunning is how many calls of a pacer may run at once. Those beyond are late.
const maxRunning = 20_000

// pacer makes calls when they are due, each on a goroutine of its own.
type pacer struct {
	call     func() error
	rate     float64 // a second
	failed   func(error)
	sampled  bool // keep samples
	stopped  atomic.Bool
	stopping chan struct{} // closed when stopped

	running sync.WaitGroup
	slots   chan struct{}
	begun   uint64 // calls, of which some
	late    atomic.Uint64

	mu      sync.Mutex // Protects following.
	times   []time.Duration
	samples []Sample
}

func newPacer(rate float64, failed func(error), call func() error) *pacer {
	return &pacer{call: call, rate: rate, failed: failed, stopping: make(chan struct{}), slots: make(chan struct{}, maxRunning)}
}

// pace begins calls until stop is called, and returns then.
func (p *pacer) pace() {
	start := time.Now()
	for !p.stopped.Load() {
		due := start.Add(time.Duration(float64(p.begun) / p.rate * 1e9))
		if wait := time.Until(due); wait > 0 {
			time.Sleep(wait)
			continue
		}
		select {
		case p.slots <- struct{}{}:
		case <-p.stopping:
			return
		}
		p.begun++
		p.running.Add(1)
		go p.one(due)
	}
}

func (p *pacer) stop() {
	if !p.stopped.Swap(true) {
		close(p.stopping)
	}
}

func (p *pacer) one(due time.Time) {
	defer p.running.Done()
	began := time.Now()
	if began.Sub(due) > lateness {
		p.late.Add(1)
	}
	err := p.call()
	ended := time.Now()
	<-p.slots
	p.mu.Lock()
	if p.sampled {
		p.samples = append(p.samples, Sample{began, ended, err == nil})
	}
	if err == nil {
		p.times = append(p.times, ended.Sub(began))
	}
	p.mu.Unlock()
	if err != nil {
		p.failed(err)
	}
}

// paced warms up with calls of its rate, too, that do not count.
func (r *run) paced() error {
	c, err := r.client()
	if err != nil {
		return err
	}
	request := r.request()
	call := func() error { return r.call(c, request) }
	if err := r.paceFor(newPacer(r.Rate, func(error) {}, call), r.Warm); err != nil {
		return err
	}
	p := newPacer(r.Rate, r.failed, call)
	p.sampled = r.Timed
	var stuck error
	err = r.during(func() { stuck = r.paceFor(p, r.Time) })
	r.result.Done, r.result.Late = uint64(len(p.times)), p.late.Load()
	r.result.Samples = p.samples
	r.result.times(p.times)
	return errors.Join(err, stuck)
}

// paceFor lets a pacer begin calls for d, and waits for them.
func (r *run) paceFor(p *pacer, d time.Duration) error {
	timer := time.AfterFunc(d, p.stop)
	defer timer.Stop()
	p.pace()
	return wait(&p.running)
}

// beside measures large requests alone, and then with small calls beside them.
func (r *run) beside() error {
	c, err := r.client()
	if err != nil {
		return err
	}
	if _, err = r.bulk(c, 0, 1); err != nil { // buffers, and TCP's window, grow
		return err
	}
	if r.result.BulkAlone, err = r.bulk(c, r.Time, leastBulk); err != nil {
		return err
	}
	small, request := urgent(c), r.request()
	p := newPacer(r.Rate, r.failed, func() error { return r.call(small, request) })
	var stuck, failed error
	err = r.during(func() {
		go func() {
			defer p.stop()
			r.result.Bulk, failed = r.bulk(c, r.Time, leastBulk)
		}()
		p.pace()
		stuck = wait(&p.running)
	})
	r.result.Done, r.result.Late = uint64(len(p.times)), p.late.Load()
	r.result.times(p.times)
	return errors.Join(err, stuck, failed)
}

// crowd measures small calls while many callers make others.
func (r *run) crowd() error {
	c, err := r.client()
	if err != nil {
		return err
	}
	w := r.newWorkers()
	var callers sync.WaitGroup
	for i := range w.all {
		callers.Go(func() {
			request := randomBytes(r.CrowdSize)
			w.repeat(&w.all[i], func() error { return c.Echo(request) })
		})
	}
	time.Sleep(r.Warm)
	small, request := urgent(c), r.request()
	p := newPacer(r.Rate, r.failed, func() error { return r.call(small, request) })
	var stuck error
	before := sum(w.counts())
	err = r.during(func() { stuck = r.paceFor(p, r.Time) })
	r.result.CrowdCalls = float64(sum(w.counts())-before) / r.result.Seconds()
	w.stopped.Store(true)
	r.result.Done, r.result.Late = uint64(len(p.times)), p.late.Load()
	r.result.times(p.times)
	return errors.Join(err, stuck, wait(&callers))
}

// leastBulk is how many large requests are measured at least.
const leastBulk = 2

// bulk makes large requests for some time, but at least a few, and returns bytes a second.
func (r *run) bulk(c contender.Asker, d time.Duration, least int) (float64, error) {
	task, size := contender.Task{Answer: 1}, r.Spec.Bulk
	if r.BulkDown {
		task, size = contender.Task{Answer: r.Spec.Bulk}, 8
	}
	request := taskOf(task, size)
	start, n := time.Now(), 0
	for time.Since(start) < d || n < least {
		if err := ask(c, request, task.Answer); err != nil {
			return 0, err
		}
		n++
	}
	return float64(n) * float64(r.Spec.Bulk) / time.Since(start).Seconds(), nil
}
