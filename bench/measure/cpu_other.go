//go:build !linux

package measure

import (
	"errors"
	"time"
)

// CPU returns how long a process has run on a processor. It works on Linux only.
func CPU(int) (time.Duration, error) { return 0, errors.ErrUnsupported }

// PeakMemory returns the most bytes of memory that a process has had at once. It works on Linux
// only.
func PeakMemory(int) (int64, error) { return 0, errors.ErrUnsupported }

// OwnThread runs f and returns how long that took.
func OwnThread(f func()) time.Duration {
	began := time.Now()
	f()
	return time.Since(began)
}
