package scenario

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/gridmesh/grid/bench/contender"
	"github.com/gridmesh/grid/bench/link"
	"github.com/gridmesh/grid/bench/load"
	"github.com/gridmesh/grid/bench/pair"
)

// pairCase is a load on two processes.
type pairCase struct {
	config  pair.Config
	spec    load.Spec
	figures func(pair.Result) []float64
}

// run measures a contender.
func (p *pairCase) run(o Options, name string) ([]float64, error) {
	c, s := p.config, p.spec
	c.Contender, c.Procs = name, o.Procs
	if name == Before {
		c.Contender, c.Program = gridName, o.Before
	}
	s.Time, s.Warm = timesOr(s.Time, o.Time), timesOr(s.Warm, o.Warm)
	if o.Small {
		s.Time, s.Warm = o.Time, o.Warm
	}
	r, err := pair.Run(c, s)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return p.figures(r), nil
}

// timesOr returns d, or the other one if d is 0.
func timesOr(d, otherwise time.Duration) time.Duration {
	if d == 0 {
		return otherwise
	}
	return d
}

// pairSections are those that are measured in two processes.
func pairSections(o Options) []Section {
	all := []Section{callersSection(o)}
	for _, kind := range []link.Kind{link.Relay, link.Kernel} {
		all = append(all, besideSection(o, kind))
	}
	all = append(all, slowSection(o))
	return append(all, farSections(o)...)
}

// some returns the first and the last of all where everything is small.
func some[T any](o Options, all ...T) []T {
	if o.Small && len(all) > 2 {
		return []T{all[0], all[len(all)-1]}
	}
	return all
}

// unary are the contenders that make calls over few connections. Their order is that of the report.
var unary = []string{limitName, gridName, "grpc", "drpc", "ttrpc", "net/rpc", "nats"}

// without returns unary without some.
func without(names ...string) []string {
	return slices.DeleteFunc(slices.Clone(unary), func(name string) bool { return slices.Contains(names, name) })
}

// The units of figures.
func micros(d time.Duration) float64 { return float64(d) / 1e3 }
func millis(d time.Duration) float64 { return float64(d) / 1e6 }
func mebi(n float64) float64         { return n / (1 << 20) }

const pairText = "Two processes over loopback, GOMAXPROCS 2 each. CPU is that of both, as the kernel counts it. "

func callersSection(o Options) Section {
	s := Section{
		Name:  "callers",
		Title: "Callers in two processes",
		Text: pairText + "Callers of the one call the other as fast as answers come, with 512 bytes each way. drpc opens a connection for each " +
			"call that runs, and is left out where those would be too many.",
		Tables: []Table{
			{Title: "Calls a second", Columns: []int{0}},
			{Title: "CPU of a call, µs", Columns: []int{1}, Ratio: true},
			{Title: "Calls of the caller with the fewest / the most", Columns: []int{2, 3}},
			{Title: "Failed calls", Columns: []int{4}, NotZero: true},
		},
	}
	for _, n := range some(o, 1, 2, 4, 16, 64, 256, 1_000, 10_000) {
		contenders := unary
		if n >= 1_000 {
			contenders = without("drpc")
		}
		s.Cases = append(s.Cases, Case{
			Name:       number(n, "caller"),
			Columns:    []Column{{"calls/s", ""}, {"CPU", "µs"}, {"fewest", ""}, {"most", ""}, {"failed", ""}},
			Contenders: contenders,
			Baseline:   limitName,
			pair: &pairCase{
				spec: load.Spec{Kind: load.Calls, Callers: n, Size: small},
				figures: func(r pair.Result) []float64 {
					return []float64{r.PerSecond(), micros(r.CPUEach()), float64(r.Fewest), float64(r.Most), float64(r.Failed)}
				},
			},
		})
	}
	return s
}

// number returns "1 caller" or "2 callers".
func number(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	digits := fmt.Sprint(n)
	if len(digits) > 3 {
		digits = digits[:len(digits)-3] + "," + digits[len(digits)-3:]
	}
	return digits + " " + what + "s"
}

// bulkRoom is what a large message of 64 MiB leaves for what surrounds it: that is the most that a
// message of a grid may have, all in all.
const bulkRoom = 4 << 10

func besideSection(o Options, kind link.Kind) Section {
	s := Section{
		Tables: []Table{
			{Title: "Small calls, p50 / p99, ms", Columns: []int{0, 1}},
			{Title: "Large ones beside them / alone, MiB a second", Columns: []int{2, 3}},
			{Title: "CPU, ms for each MiB of large ones", Columns: []int{4}},
			{Title: "Peak memory of the node that calls / that answers, MiB", Columns: []int{5, 6}},
			{Title: "Failed small calls", Columns: []int{7}, NotZero: true},
		},
		Able: func() error { return link.Able(kind) },
	}
	const text = "100 calls a second of 512 bytes beside one caller that sends large requests (up) or gets large answers (down). A call is timed from " +
		"its start. "
	switch kind {
	case link.Relay:
		s.Name, s.Title = "beside-relay", "Small calls beside large ones, a slow reader"
		s.Text = text + "Between the two processes is a program with buffers of 32 KiB, which reads no faster than the rate: what the sender's kernel " +
			"takes is all before it."
	case link.Kernel:
		s.Name, s.Title = "beside-kernel", "Small calls beside large ones, a slow network card"
		s.Text = text + "The two processes are in two network namespaces, whose interfaces send no faster than the rate (tc tbf), with CUBIC."
	}
	for _, rate := range some(o, 1e8, 1e9) {
		for _, size := range some(o, 1, 16, 64) {
			for _, down := range []bool{false, true} {
				if o.Small && (rate < 1e9 || size > 1) {
					continue
				}
				s.Cases = append(s.Cases, besideCase(kind, rate, size, down))
			}
		}
	}
	return s
}

func besideCase(kind link.Kind, rate float64, size int, down bool) Case {
	direction, contenders := "up", without("drpc") // which opens another connection for the small calls
	if down {
		direction = "down"
	}
	if size > 1 {
		contenders = without("drpc", "ttrpc", "nats") // whose messages are smaller
	}
	return Case{
		Name:       fmt.Sprintf("%s, %d MiB %s", rateName(rate), size, direction),
		Columns:    []Column{{"p50", "ms"}, {"p99", "ms"}, {"MiB/s", ""}, {"alone", ""}, {"CPU", ""}, {"peak", ""}, {"peak", ""}, {"failed", ""}},
		Contenders: contenders,
		pair: &pairCase{
			config: pair.Config{Link: link.Spec{Kind: kind, Rate: rate}},
			spec: load.Spec{
				Kind: load.Beside, Rate: 100, Size: small, Time: 3 * time.Second,
				Bulk: size<<20 - bulkRoom, BulkDown: down,
			},
			figures: func(r pair.Result) []float64 {
				return []float64{
					millis(r.P50), millis(r.P99), mebi(r.Bulk), mebi(r.BulkAlone),
					millis(r.CPU) / mebi(r.Bulk*r.Seconds()), mebi(float64(r.Peak[0])), mebi(float64(r.Peak[1])), float64(r.Failed),
				}
			},
		},
	}
}

func rateName(rate float64) string {
	if rate >= 1e9 {
		return fmt.Sprintf("%.0f Gbit/s", rate/1e9)
	}
	return fmt.Sprintf("%.0f Mbit/s", rate/1e6)
}

func slowSection(o Options) Section {
	streams, messages, size, pause := 10, 40, 3<<20, 250*time.Millisecond
	if o.Small {
		streams, messages, size, pause = 2, 5, 64<<10, time.Millisecond
	}
	return Section{
		Name:  "slow",
		Title: "Slow readers",
		Text: fmt.Sprintf(pairText+"Each of %d streams brings %d messages of %d KiB, and its reader takes %v for each; the capacity is 32 messages, where a "+
			"library counts them.", streams, messages, size>>10, pause),
		Tables: []Table{
			{Title: "Streams that failed", Columns: []int{0}},
			{Title: "Peak memory of the node that reads / that sends, MiB", Columns: []int{1, 2}},
			{Title: "Seconds", Columns: []int{3}},
			{Title: "CPU of a message, ms", Columns: []int{4}},
		},
		Cases: []Case{{
			Name:       fmt.Sprintf("%d streams", streams),
			Columns:    []Column{{"failed", ""}, {"peak", ""}, {"peak", ""}, {"seconds", ""}, {"CPU", ""}},
			Contenders: []string{limitName, gridName, "grpc", "drpc"},
			pair: &pairCase{
				config: pair.Config{Window: 32},
				spec:   load.Spec{Kind: load.SlowStreams, Callers: streams, Messages: messages, Size: size, Pause: pause},
				figures: func(r pair.Result) []float64 {
					return []float64{float64(r.Failed), mebi(float64(r.Peak[0])), mebi(float64(r.Peak[1])), r.Seconds(), millis(r.CPUEach())}
				},
			},
		}},
	}
}

// farLinks are the links between two processes that are far from each other.
func farLinks(o Options) []link.Spec {
	var all []link.Spec
	for _, trip := range some(o, 20*time.Millisecond, 100*time.Millisecond) {
		for _, loss := range some(o, 0, 0.001) {
			if o.Small && (loss > 0 || trip > 20*time.Millisecond) {
				continue
			}
			all = append(all, link.Spec{Kind: link.Cable, RoundTrip: trip, Loss: loss})
		}
	}
	return all
}

func farSections(o Options) []Section {
	var all []Section
	for _, l := range farLinks(o) {
		all = append(all, farSection(o, l))
	}
	return all
}

func farSection(o Options, l link.Spec) Section {
	name := []string{"far", fmt.Sprint(l.RoundTrip.Milliseconds()) + "ms"}
	title := fmt.Sprintf("%d ms away", l.RoundTrip.Milliseconds())
	if l.Loss > 0 {
		name = append(name, "loss")
		title += fmt.Sprintf(", %.1f %% lost", l.Loss*100)
	}
	s := Section{
		Name:  strings.Join(name, "-"),
		Title: title,
		Text: "Two network namespaces with a cable between them that delays and loses packets and has the rate. It holds as much as a round " +
			"trip in its queue. TCP is that of the kernel, with CUBIC.",
		Tables: []Table{
			{Title: "Calls or messages a second", Columns: []int{0}},
			{Title: "MiB a second", Columns: []int{1}},
			{Title: "p50 / p99 of a call, ms", Columns: []int{2, 3}, NotZero: true},
			{Title: "CPU of a call or message, µs", Columns: []int{4}},
		},
		Able: func() error { return link.Able(link.Cable) },
	}
	add := func(name string, rate float64, window int, contenders []string, spec load.Spec) {
		spec.Time, spec.Warm = 3*time.Second, 2*time.Second
		to := l
		to.Rate = rate
		each := float64(spec.Size)
		s.Cases = append(s.Cases, Case{
			Name:       name + ", " + rateName(rate),
			Columns:    []Column{{"per second", ""}, {"MiB", ""}, {"p50", ""}, {"p99", ""}, {"CPU", ""}},
			Contenders: contenders,
			pair: &pairCase{
				config: pair.Config{Window: window, Link: to},
				spec:   spec,
				figures: func(r pair.Result) []float64 {
					return []float64{r.PerSecond(), mebi(r.PerSecond() * each), millis(r.P50), millis(r.P99), micros(r.CPUEach())}
				},
			},
		})
	}
	windowed, streams := []string{limitName, gridName}, []string{limitName, gridName, "grpc", "drpc"}
	for _, size := range some(o, small, 64<<10) {
		for _, window := range some(o, 1, 16, 256) {
			contenders := windowed
			if window == wideWindow {
				contenders = streams // those without a window of messages are in one column
			}
			spec := load.Spec{Kind: load.Streams, Callers: 1, Size: size}
			add(fmt.Sprintf("stream of %s, capacity %d", sizeName(size), window), 1e9, window, contenders, spec)
		}
	}
	upload := load.Spec{Kind: load.Calls, Callers: 1, Size: 1 << 20, Task: contender.Task{Answer: 1}, Timed: true}
	fan := load.Spec{Kind: load.Calls, Callers: 64, Size: small, Timed: true}
	for _, rate := range some(o, 1e9, 1e8) {
		if rate < 1e9 {
			add("stream of 64 KiB, capacity 256", rate, wideWindow, streams, load.Spec{Kind: load.Streams, Callers: 1, Size: 64 << 10})
		}
		add("requests of 1 MiB", rate, 1, without("drpc"), upload)
		add("64 callers of 512 bytes", rate, 1, without("drpc"), fan)
	}
	return s
}

func sizeName(n int) string {
	if n >= 1<<10 {
		return fmt.Sprintf("%d KiB", n>>10)
	}
	return fmt.Sprintf("%d bytes", n)
}
