package measure

import (
	"runtime"
	"time"
)

// Usage is what the process holds.
type Usage struct {
	Bytes      float64 // live heap and stacks
	Goroutines float64
}

// settleTime is how long goroutines get to end and buffers to be given back.
const settleTime = 50 * time.Millisecond

// Use collects garbage, pools included, and returns what is left.
func Use() Usage {
	for range 3 { // a pool needs two collections to let go
		time.Sleep(settleTime)
		runtime.GC()
	}
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return Usage{Bytes: float64(m.HeapAlloc + m.StackInuse), Goroutines: float64(runtime.NumGoroutine())}
}

// Minus returns the difference to an earlier usage.
func (u Usage) Minus(o Usage) Usage { return Usage{u.Bytes - o.Bytes, u.Goroutines - o.Goroutines} }

// Per returns the share of one of n.
func (u Usage) Per(n int) Usage { return Usage{u.Bytes / float64(n), u.Goroutines / float64(n)} }
