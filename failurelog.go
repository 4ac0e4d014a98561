package grid

import (
	"log/slog"
	"sync"
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

// burstLines is how many lines a burstLog writes within logChangedEvery.
const burstLines = 10

// burstLog bounds the lines that others can make a node log: those beyond
// burstLines in logChangedEvery are counted, and the count is in the next line. The zero value is ready.
type burstLog struct {
	mu      sync.Mutex // Protects following.
	began   time.Time
	lines   int // since began
	skipped int // since the last line
}

func (b *burstLog) warn(log *slog.Logger, text string, args ...any) {
	if skipped, ok := b.take(time.Now()); ok {
		log.Warn(text, append(args, "more", skipped)...)
	}
}

// take says whether a line may be written now, and how many could not since the last one.
func (b *burstLog) take(now time.Time) (skipped int, ok bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.began.IsZero() || now.Sub(b.began) >= logChangedEvery {
		b.began, b.lines = now, 0
	}
	if b.lines == burstLines {
		b.skipped++
		return 0, false
	}
	b.lines++
	skipped, b.skipped = b.skipped, 0
	return skipped, true
}
