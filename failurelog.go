package grid

import (
	"log/slog"
	"time"
)

// How often repeated failures to reach one host are logged: with the same reason, and with another.
const (
	logEvery        = time.Minute
	logChangedEvery = 10 * time.Second
)

// failureLog logs the first of a row of failures to reach a host, and then one
// line a minute, or sooner where the reason changes. It belongs to one goroutine.
type failureLog struct {
	log         *slog.Logger
	peer, local string

	logged  time.Time // of the last line; zero at the start of a row
	reason  string    // in the last line
	skipped int       // failures since then
}

func (f *failureLog) add(err error) {
	now := time.Now()
	every := logEvery
	if err.Error() != f.reason {
		every = logChangedEvery
	}
	if !f.logged.IsZero() && now.Sub(f.logged) < every {
		f.skipped++
		return
	}
	f.log.Warn("grid: cannot connect", "peer", f.peer, "local", f.local, "reason", err, "more_failures", f.skipped)
	f.logged, f.reason, f.skipped = now, err.Error(), 0
}

func (f *failureLog) reset() { f.logged, f.skipped = time.Time{}, 0 }
