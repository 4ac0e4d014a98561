package pair

import (
	"errors"
	"runtime"

	"golang.org/x/sys/unix"
)

// AblePlaces returns why processes cannot be Apart here, or nil.
func AblePlaces() error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	return onProcessor(Apart, 0, func() error { return nil })
}

// onProcessor runs start, on this thread, which must be locked, so that the process which it starts
// is where c says.
func onProcessor(place Place, side int, start func() error) (err error) {
	if place == Anywhere {
		return start()
	}
	var all unix.CPUSet
	if err := unix.SchedGetaffinity(0, &all); err != nil {
		return err
	}
	var cpus []int
	for cpu := range len(all) * 64 {
		if all.IsSet(cpu) {
			cpus = append(cpus, cpu)
		}
	}
	if len(cpus) < 2 {
		return errors.New("there is one processor only")
	}
	cpu := cpus[0]
	if place == Apart {
		cpu = cpus[side]
	}
	var one unix.CPUSet
	one.Set(cpu)
	if err := unix.SchedSetaffinity(0, &one); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unix.SchedSetaffinity(0, &all)) }()
	return start()
}
