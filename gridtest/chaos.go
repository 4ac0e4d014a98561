package gridtest

import (
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"time"
)

// Kind is a kind of faults of Chaos.
type Kind int

// The kinds of faults, named after the methods of World.
const (
	Partitions Kind = iota
	Isolations
	Blocks
	Cuts
	Delays
	Losses
	Slowness
	Crashes // each with a Start later
	Stops   // each with a Start later
	kinds
)

// Chaos lets faults happen at random, drawn from the seed, for d: of the given kinds, or of all if
// none is given. They come some seconds apart, and last from some milliseconds to half a minute,
// several at a time. It returns when d is over and all that it has done is undone: its faults are
// healed, and the nodes that it has stopped run.
func (w *World) Chaos(d time.Duration, of ...Kind) {
	rng := w.Rand()
	if len(of) == 0 {
		for k := range kinds {
			of = append(of, k)
		}
	}
	if len(w.hosts) < 2 { // nothing is between nodes
		of = slices.DeleteFunc(slices.Clone(of), func(k Kind) bool { return k < Crashes })
	}
	end := time.Now().Add(d)
	var all sync.WaitGroup
	for len(of) > 0 {
		time.Sleep(spread(rng, 20*time.Millisecond, 10*time.Second))
		left := time.Until(end)
		if left <= 0 {
			break
		}
		lasts := min(left, spread(rng, 10*time.Millisecond, 30*time.Second))
		begin := w.draw(rng, of[rng.IntN(len(of))])
		all.Go(func() {
			undo := begin()
			time.Sleep(lasts)
			undo()
		})
	}
	time.Sleep(time.Until(end))
	all.Wait()
}

// draw draws a fault. begin lets it happen, and returns what undoes it.
func (w *World) draw(rng *rand.Rand, k Kind) (begin func() (undo func())) {
	n := len(w.hosts)
	a := rng.IntN(n)
	b := (a + 1 + rng.IntN(max(n-1, 1))) % n
	other := b // for what may be with one node or with all
	if rng.IntN(2) == 0 {
		other = All
	}
	switch k {
	case Partitions:
		side := rng.Perm(n)[:1+rng.IntN(max(n-1, 1))]
		slices.Sort(side)
		return func() func() { return w.Partition(side...) }
	case Isolations:
		return func() func() { return w.Isolate(a) }
	case Blocks:
		return func() func() { return w.Block(a, b) }
	case Delays:
		d := spread(rng, 10*time.Millisecond, 5*time.Second)
		return func() func() { return w.Delay(a, other, d) }
	case Losses:
		p := rng.Float64() * rng.Float64()
		return func() func() { return w.Loss(a, other, p) }
	case Slowness:
		bandwidth := 1 << (10 + rng.IntN(10))
		return func() func() { return w.Slow(a, other, bandwidth) }
	case Crashes:
		return func() func() { w.Crash(a); return func() { w.Start(a) } }
	case Stops:
		return func() func() { w.Stop(a); return func() { w.Start(a) } }
	}
	return func() func() { w.Cut(a, other); return func() {} }
}

// spread draws a duration: short ones are as likely as long ones.
func spread(rng *rand.Rand, least, most time.Duration) time.Duration {
	return time.Duration(float64(least) * math.Pow(float64(most)/float64(least), rng.Float64()))
}
