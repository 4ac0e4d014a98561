package gridprom

import (
	"slices"
	"strconv"
	"time"

	"github.com/gridmesh/grid"
	"github.com/prometheus/client_golang/prometheus"
)

// causes are the classes of errors that calls are counted by.
var causes = [...]grid.ErrorClass{
	grid.ErrorHandler, grid.ErrorCanceled, grid.ErrorDeadline, grid.ErrorDisconnected, grid.ErrorOverloaded,
	grid.ErrorShutdown, grid.ErrorRemoved, grid.ErrorUnknownHandler, grid.ErrorOther,
}

// failures returns the numbers of failed calls, in the order of causes.
func failures(e *grid.ErrorStats) [len(causes)]int64 {
	return [len(causes)]int64{
		e.Handler, e.Canceled, e.TimedOut, e.Disconnected, e.Overloaded,
		e.Shutdown, e.Removed, e.UnknownHandler, e.Other,
	}
}

func collectHandler(ch chan<- prometheus.Metric, h *grid.HandlerStats, began time.Time) {
	labels := []string{h.Role.String(), strconv.Itoa(int(h.ID)), h.Name, h.Subroute}
	gauge := func(d *prometheus.Desc, v int) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, float64(v), labels...)
	}
	ch <- newCounter(handlerCalls, h.Calls, began, labels...)
	for i, n := range failures(&h.Errors) {
		ch <- newCounter(handlerErrors, n, began, append(slices.Clip(labels), causes[i].String())...)
	}
	for code, n := range h.Errors.Codes {
		if n > 0 {
			ch <- newCounter(handlerCodes, n, began, append(slices.Clip(labels), grid.Code(code).String())...)
		}
	}
	gauge(handlerInFlight, h.InFlight)
	gauge(handlerStreams, h.Streams)
	ch <- newHistogram(handlerDuration, &h.Latency, 1, began, labels...)
}
