package scenario

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/gridmesh/grid/bench/contender"
	"github.com/gridmesh/grid/bench/measure"
)

// wideWindow is a window that is large enough not to be waited for often, in messages.
const wideWindow = 256

func streamSection() Section {
	s := Section{
		Name:  "stream",
		Title: "One-way streams of 512-byte messages",
		Text: "Time and allocations per message. The window is how many messages may be in flight. Only `limit` and " +
			"`grid` count messages; the others count bytes or rely on TCP, with their own defaults.",
	}
	streams := names(func(c contender.Contender) bool { return c.Streams })
	windowed := []string{limitName, "grid", "grid typed"}
	for _, n := range []int{1, 32} {
		s.Cases = append(s.Cases,
			streamCase(n, wideWindow, false, streams),
			streamCase(n, 1, false, windowed))
	}
	return s
}

func secureStreamSection() Section {
	s := Section{
		Name:  "tls-stream",
		Title: "One-way streams of 512-byte messages over TLS",
		Text:  "The same over TLS 1.3 of the standard library.",
	}
	streams := names(func(c contender.Contender) bool { return c.Streams && c.TLS })
	for _, n := range []int{1, 32} {
		s.Cases = append(s.Cases, streamCase(n, wideWindow, true, streams))
	}
	return s
}

func streamCase(streams, window int, secure bool, contenders []string) Case {
	return Case{
		Name:       fmt.Sprintf("%d × window %d", streams, window),
		Columns:    callColumns,
		Contenders: contenders,
		Baseline:   limitName,
		run: func(o Options, c contender.Contender) ([]float64, error) {
			return start(c, contender.Setup{Nodes: 2, TLS: secure, Window: window}, func(n contender.Nodes) ([]float64, error) {
				return callFigures(measure.Load(streams, o.Warm, o.Time, func(worker int, m *measure.Meter) error {
					return withStreamer(n, func(st contender.Streamer) error {
						return st.Stream(context.Background(), contender.Order{Size: small},
							func(int) bool { return m.Tick(worker) })
					})
				}))
			})
		},
	}
}

func withStreamer(n contender.Nodes, use func(contender.Streamer) error) error {
	return withClient(n, 0, 1, func(c contender.Client) error {
		st, ok := c.(contender.Streamer)
		if !ok {
			return errors.New("it has no streams")
		}
		return use(st)
	})
}

// shortMessages is the length of a short stream.
const shortMessages = 10

func shortStreamSection() Section {
	return Section{
		Name:  "short",
		Title: "Short streams",
		Text:  "Time and allocations for opening a stream, sending ten messages of 512 bytes and ending it.",
		Cases: []Case{{
			Name:       "64 callers",
			Columns:    callColumns,
			Contenders: names(func(c contender.Contender) bool { return c.Streams }),
			Baseline:   limitName,
			run:        shortStreams,
		}},
	}
}

func shortStreams(o Options, c contender.Contender) ([]float64, error) {
	return start(c, contender.Setup{Nodes: 2, Window: shortMessages}, func(n contender.Nodes) ([]float64, error) {
		return callFigures(measure.Load(64, o.Warm, o.Time, func(worker int, m *measure.Meter) error {
			return withStreamer(n, func(st contender.Streamer) error {
				for m.Tick(worker) {
					got := 0
					err := st.Stream(context.Background(), contender.Order{Messages: shortMessages, Size: small},
						func(int) bool { got++; return true })
					if err == nil && got != shortMessages {
						err = fmt.Errorf("%d messages of %d", got, shortMessages)
					}
					if err != nil {
						return err
					}
				}
				return nil
			})
		}))
	})
}

// The load of the mixed section.
const (
	mixedCallers = 4       // that send small requests
	mixedSize    = 1 << 20 // bytes of the large requests of one more caller
)

func mixedSection() Section {
	return Section{
		Name:  "mixed",
		Title: "Small requests beside large ones",
		Text: "Four callers echo 512 bytes while one more echoes 1 MiB on the same connection (drpc: on another). " +
			"The time is that of a small call from start to end. A library can be fast here by starving the large requests: compare both.",
		Cases: []Case{{
			Name:       "p99.9",
			Columns:    []Column{{"p99.9", "µs"}, {"median µs", ""}, {"small/s", ""}, {"large/s", ""}},
			Contenders: []string{limitName, "grid", "grid typed", "grpc", "drpc", "ttrpc", "net/rpc", "nats", "yamux", "smux", "h2c"},
			Baseline:   limitName,
			run:        mixed,
		}},
	}
}

func mixed(o Options, c contender.Contender) ([]float64, error) {
	return start(c, contender.Setup{Nodes: 2}, func(n contender.Nodes) ([]float64, error) {
		var (
			times [mixedCallers][]time.Duration
			large int
		)
		// p99.9 needs many calls.
		rate, err := measure.Load(mixedCallers+1, o.Warm, 2*o.Time, func(worker int, m *measure.Meter) error {
			return withClient(n, 0, 1, func(c contender.Client) error {
				if worker == mixedCallers {
					payload := randomBytes(mixedSize)
					for m.Tick(worker) {
						if err := c.Echo(payload); err != nil {
							return err
						}
						if m.Measuring() {
							large++
						}
					}
					return nil
				}
				payload := randomBytes(small)
				for m.Tick(worker) {
					began := time.Now()
					if err := c.Echo(payload); err != nil {
						return err
					}
					if m.Measuring() {
						times[worker] = append(times[worker], time.Since(began))
					}
				}
				return nil
			})
		})
		if err != nil {
			return nil, err
		}
		var all []time.Duration
		for _, t := range times {
			all = append(all, t...)
		}
		seconds := rate.Elapsed.Seconds()
		micro := func(q float64) float64 { return float64(measure.Quantile(all, q).Nanoseconds()) / 1000 }
		return []float64{micro(0.999), micro(0.5), float64(len(all)) / seconds, float64(large) / seconds}, nil
	})
}
