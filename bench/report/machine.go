package report

import (
	"bufio"
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
)

const busyLoad = 0.25

// Machine is where the measurement was made.
type Machine struct {
	CPU      string
	Cores    int
	Procs    int // GOMAXPROCS
	OS       string
	Load     string // the load average of the last minute, empty if it is not known
	Go       string
	Versions map[string]string // of the modules in this program, by path
}

// ThisMachine describes the machine and the program that calls it.
func ThisMachine() Machine {
	m := Machine{
		CPU:      lineAfter("/proc/cpuinfo", "model name", ":"),
		Cores:    runtime.NumCPU(),
		Procs:    runtime.GOMAXPROCS(0),
		OS:       lineAfter("/etc/os-release", "PRETTY_NAME", "="),
		Go:       runtime.Version(),
		Versions: make(map[string]string),
	}
	if m.CPU == "" {
		m.CPU = runtime.GOARCH
	}
	if m.OS == "" {
		m.OS = runtime.GOOS
	}
	if kernel, err := os.ReadFile("/proc/sys/kernel/osrelease"); err == nil {
		m.OS += ", Linux " + strings.TrimSpace(string(kernel))
	}
	if load, err := os.ReadFile("/proc/loadavg"); err == nil {
		m.Load, _, _ = strings.Cut(string(load), " ")
	}
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, dep := range info.Deps {
			m.Versions[dep.Path] = dep.Version
		}
	}
	return m
}

// Busy reports whether other programs kept more than a quarter of a core busy before the start.
func (m Machine) Busy() bool {
	load, err := strconv.ParseFloat(m.Load, 64)
	return err == nil && load > busyLoad
}

// lineAfter returns what follows key in a file, without quotes; empty if there is nothing.
func lineAfter(file, key, separator string) string {
	f, err := os.Open(file)
	if err != nil {
		return ""
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		k, v, ok := strings.Cut(s.Text(), separator)
		if ok && strings.TrimSpace(k) == key {
			return strings.Trim(strings.TrimSpace(v), `"`)
		}
	}
	return ""
}
