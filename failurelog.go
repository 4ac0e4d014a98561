package grid

import (
	"log/slog"
	"time"
)

// logEvery is how often repeated failures to reach one host are logged.
const logEvery = time.Minute

// failureLog logs the first of a row of failures to reach a host, and then one
// line a minute. It belongs to one goroutine.
type failureLog struct {
	log         *slog.Logger
	peer, local string

	logged  time.Time // of the last line; zero at the start of a row
	skipped int       // failures since then
}

func (f *failureLog) add(err error) {
	now := time.Now()
	if !f.logged.IsZero() && now.Sub(f.logged) < logEvery {
		f.skipped++
		return
	}
	f.log.Warn("grid: cannot connect", "peer", f.peer, "local", f.local, "reason", err, "more_failures", f.skipped)
	f.logged, f.skipped = now, 0
}

func (f *failureLog) reset() { f.logged, f.skipped = time.Time{}, 0 }
