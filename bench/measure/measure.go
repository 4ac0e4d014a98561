// Package measure runs a load and counts what it does, in rounds that take the
// contenders in turn, so that what else happens on the machine meets all of them.
//
//	rate, err := measure.Load(16, warm, time.Second, func(worker int, m *measure.Meter) error {
//		for m.Tick(worker) {
//			...
//		}
//		return nil
//	})
package measure

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Meter counts what the workers of a load do.
type Meter struct {
	measuring atomic.Bool
	stopped   atomic.Bool
	counts    []count
}

// count has a cache line of its own.
type count struct {
	atomic.Uint64
	_ [120]byte
}

// Tick counts one operation as done and reports whether to go on. The first
// call of a worker, before its first operation, may count one too many.
func (m *Meter) Tick(worker int) bool {
	m.counts[worker].Add(1)
	return !m.stopped.Load()
}

// Running reports whether to go on, without counting.
func (m *Meter) Running() bool { return !m.stopped.Load() }

// Measuring reports whether the load has warmed up and is not over.
func (m *Meter) Measuring() bool { return m.measuring.Load() }

// total is the sum of all workers' counts.
func (m *Meter) total() uint64 {
	var sum uint64
	for i := range m.counts {
		sum += m.counts[i].Load()
	}
	return sum
}

// Rate is what was done in some time.
type Rate struct {
	Operations uint64
	Elapsed    time.Duration
	Allocs     uint64 // objects allocated by the whole process
	Bytes      uint64 // bytes allocated by the whole process
}

// Nanoseconds returns the time of one operation. It is the time of all divided by their number,
// whatever their concurrency.
func (r Rate) Nanoseconds() float64 { return float64(r.Elapsed.Nanoseconds()) / float64(r.Operations) }

// AllocsPerOperation returns the objects allocated for one operation.
func (r Rate) AllocsPerOperation() float64 { return float64(r.Allocs) / float64(r.Operations) }

// BytesPerOperation returns the bytes allocated for one operation.
func (r Rate) BytesPerOperation() float64 { return float64(r.Bytes) / float64(r.Operations) }

const (
	// patience is how long workers may take for their first operations, and to return when the time
	// is up.
	patience = 30 * time.Second
	// enoughPoll is how often slow workers are looked at.
	enoughPoll = 5 * time.Millisecond
)

var (
	errStuck   = fmt.Errorf("workers have not returned %v after the end", patience)
	errNothing = errors.New("nothing was done in the time")
)

// Load runs workers at once. It lets them warm up, then measures for d, then
// stops them through the Meter and waits for them. Slow workers are measured
// until each could have done something. The first error of a worker is returned.
func Load(workers int, warm, d time.Duration, run func(worker int, m *Meter) error) (Rate, error) {
	m := &Meter{counts: make([]count, workers)}
	errs := make(chan error, workers)
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			if err := run(w, m); err != nil {
				m.stopped.Store(true)
				errs <- err
			}
		})
	}
	time.Sleep(warm)
	rate := m.during(d)
	m.stopped.Store(true)
	if err := waitFor(&wg); err != nil {
		return Rate{}, err
	}
	select {
	case err := <-errs:
		return Rate{}, err
	default:
	}
	if rate.Operations == 0 {
		return Rate{}, errNothing
	}
	return rate, nil
}

// during measures for d, and longer until there is an operation for each worker.
func (m *Meter) during(d time.Duration) Rate {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	m.measuring.Store(true)
	first, start := m.total(), time.Now()
	time.Sleep(d)
	for m.total()-first < uint64(len(m.counts)) && !m.stopped.Load() && time.Since(start) < patience {
		time.Sleep(enoughPoll)
	}
	done, elapsed := m.total()-first, time.Since(start)
	m.measuring.Store(false)
	runtime.ReadMemStats(&after)
	return Rate{
		Operations: done,
		Elapsed:    elapsed,
		Allocs:     after.Mallocs - before.Mallocs,
		Bytes:      after.TotalAlloc - before.TotalAlloc,
	}
}

func waitFor(wg *sync.WaitGroup) error {
	done := make(chan struct{})
	go func() {
		wg.Wait()
		close(done)
	}()
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-done:
		return nil
	case <-timer.C:
		return errStuck
	}
}

// Series are the figures of one contender, round by round.
type Series struct {
	Rounds [][]float64
	Err    error // the first; there are no figures then
}

// Interleave runs each of n contenders once a round, each round in another order.
func Interleave(rounds, n int, run func(contender int) ([]float64, error)) []Series {
	all := make([]Series, n)
	for range rounds {
		for _, i := range rand.Perm(n) {
			s := &all[i]
			if s.Err != nil {
				continue
			}
			figures, err := run(i)
			if err != nil {
				*s = Series{Err: err}
				continue
			}
			s.Rounds = append(s.Rounds, figures)
		}
	}
	return all
}

// Column returns one figure of all rounds.
func (s Series) Column(i int) []float64 {
	var all []float64
	for _, figures := range s.Rounds {
		all = append(all, figures[i])
	}
	return all
}

// Median returns the median of a figure.
func (s Series) Median(column int) float64 { return Median(s.Column(column)) }

// Spread returns how far the middle half of the rounds is apart, as a part of the median.
func (s Series) Spread(column int) float64 {
	v := s.Column(column)
	if len(v) == 0 {
		return math.NaN()
	}
	slices.Sort(v)
	n := len(v) - 1
	return (v[n-n/4] - v[n/4]) / Median(v)
}

// Ratio returns the median of the ratios of s to base, round by round.
func (s Series) Ratio(base Series, column int) float64 {
	a, b := s.Column(column), base.Column(column)
	var ratios []float64
	for i := range min(len(a), len(b)) {
		ratios = append(ratios, a[i]/b[i])
	}
	return Median(ratios)
}

// Median returns the middle of v, or the mean of the two in the middle; NaN if v is empty.
func Median(v []float64) float64 {
	if len(v) == 0 {
		return math.NaN()
	}
	v = slices.Sorted(slices.Values(v))
	n := len(v)
	return (v[(n-1)/2] + v[n/2]) / 2
}

// Quantile returns the value that a part q of v does not exceed; 0 if v is empty. It sorts v.
func Quantile(v []time.Duration, q float64) time.Duration {
	if len(v) == 0 {
		return 0
	}
	slices.Sort(v)
	return v[max(0, int(math.Ceil(q*float64(len(v))))-1)]
}
