package gridprom

import (
	"runtime/debug"
	"sync"

	"github.com/gridmesh/grid"
	"github.com/prometheus/client_golang/prometheus"
)

// messages are those of the lines that a Manager logs. They count from 0 on, so that the first line
// shows as an increase.
var messages = []string{
	"connected", "connection closed", "connection lost", "cannot connect", "peer is absent", "two processes with one name",
	"peer refused", "peer rejected", "upgrade failed", "hosts changed", "calls of a removed peer were cut", "overloaded",
	"handler panicked", "stream observer panicked", "callback panicked", "unexpected operation ignored",
}

func collectNode(ch chan<- prometheus.Metric, s *grid.Stats) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	library, goVersion := build()
	gauge(buildInfo, 1, library, goVersion)
	gauge(nodeInfo, 1, s.Local, s.Version)
	gauge(nodeDraining, flag(s.Draining))
	gauge(startTime, seconds(s.Started))
	for name, v := range limits(&s.Limits) {
		gauge(limit, float64(v), name)
	}
	for _, message := range messages {
		ch <- newCounter(logLines, s.Logged["grid: "+message], s.Started, message)
	}
}

// limits are those that other metrics can come near to, by their names in Limits.
func limits(l *grid.Limits) map[string]int {
	return map[string]int{
		"MaxQueuedBytes":  l.MaxQueuedBytes,
		"MaxRequests":     l.MaxRequests,
		"MaxRequestBytes": l.MaxRequestBytes,
		"MaxStreams":      l.MaxStreams,
		"MaxStreamBytes":  l.MaxStreamBytes,
		"MaxGuests":       l.MaxGuests,
	}
}

// build returns the versions of the library and of Go that the program was built with.
var build = sync.OnceValues(func() (library, goVersion string) {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown", "unknown"
	}
	return libraryVersion(info), info.GoVersion
})

// libraryVersion returns the version of the library, such as "v1.2.3", or "(devel)".
func libraryVersion(info *debug.BuildInfo) string {
	const path = "github.com/gridmesh/grid"
	for _, m := range append(info.Deps, &info.Main) {
		switch {
		case m.Path != path:
		case m.Replace != nil && m.Replace.Version == "": // a directory
			return "(devel)"
		case m.Replace != nil:
			return m.Replace.Version
		default:
			return m.Version
		}
	}
	return "unknown"
}
