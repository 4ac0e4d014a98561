package measure

import (
	"bytes"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// CPU returns how long a process has run on a processor, as the kernel counts it. The process must
// not have ended.
func CPU(pid int) (time.Duration, error) {
	return cpuClock(int32(^pid<<3 | 2)) // see clock_getcpuclockid(3)
}

// OwnThread runs f and returns how long it has run on a processor. f must not start goroutines.
func OwnThread(f func()) time.Duration {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	before, _ := cpuClock(unix.CLOCK_THREAD_CPUTIME_ID)
	f()
	after, _ := cpuClock(unix.CLOCK_THREAD_CPUTIME_ID)
	return after - before
}

func cpuClock(clock int32) (time.Duration, error) {
	var ts unix.Timespec
	if err := unix.ClockGettime(clock, &ts); err != nil {
		return 0, fmt.Errorf("CPU time: %w", err)
	}
	return time.Duration(ts.Nano()), nil
}

// PeakMemory returns the most bytes of memory that a process has had at once.
func PeakMemory(pid int) (int64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	for line := range bytes.Lines(b) {
		if rest, ok := bytes.CutPrefix(line, []byte("VmHWM:")); ok {
			kib, err := strconv.ParseInt(string(bytes.TrimSpace(bytes.TrimSuffix(bytes.TrimSpace(rest), []byte("kB")))), 10, 64)
			return kib << 10, err
		}
	}
	return 0, fmt.Errorf("process %d has no VmHWM", pid)
}
