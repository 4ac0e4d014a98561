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
	fixed   bool // its times are as they are, whatever the options
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
	if o.Small && !p.fixed {
		s.Time, s.Warm = o.Time, o.Warm
	}
	r, err := pair.Run(c, s)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	if r.Failed > 0 && o.Tell != nil {
		o.Tell(fmt.Sprintf("%s: %d failed: %s", name, r.Failed, r.Failure))
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
	all := []Section{callersSection(o), sizesSection(o), placesSection(o), openSection(o), pairStreamsSection(o), fanSection(o)}
	for _, kind := range []link.Kind{link.Relay, link.Kernel} {
		all = append(all, besideSection(o, kind))
	}
	all = append(all, crowdSection(o), slowSection(o), computeSection(o))
	return append(append(all, farSections(o)...), outageSection(o))
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
		Tables: append(callTables(), fewestAndMost),
	}
	counts := []int{1, 2, 4, 16, 64, 256, 1_000, 10_000}
	if o.Small {
		counts = []int{1, 64}
	}
	for _, n := range counts {
		c := callsCase(number(n, "caller"), n, small)
		if n >= manyCallers {
			c.pair.spec.Time = 2 * time.Second // so that there are some calls of each
		}
		s.Cases = append(s.Cases, c)
	}
	return s
}

// slowRounds is how often what takes long is measured.
const slowRounds = 3

// manyCallers is how many are too many for a connection each.
const manyCallers = 1_000

var fewestAndMost = Table{Title: "Calls of the caller with the fewest / the most", Columns: []int{3, 4}}

func callTables() []Table {
	return []Table{
		{Title: "Calls a second", Columns: []int{0}},
		{Title: "CPU of a call, µs", Columns: []int{1}, Ratio: true},
		{Title: "Failed calls", Columns: []int{2}, NotZero: true},
	}
}

func callsCase(name string, callers, size int) Case {
	contenders := unary
	if callers >= manyCallers {
		contenders = without("drpc")
	}
	return Case{
		Name:       name,
		Columns:    []Column{{"calls/s", ""}, {"CPU", "µs"}, {"failed", ""}, {"fewest", ""}, {"most", ""}},
		Contenders: contenders,
		Baseline:   limitName,
		pair: &pairCase{
			spec: load.Spec{Kind: load.Calls, Callers: callers, Size: size},
			figures: func(r pair.Result) []float64 {
				return []float64{r.PerSecond(), micros(r.CPUEach()), float64(r.Failed), float64(r.Fewest), float64(r.Most)}
			},
		},
	}
}

func sizesSection(o Options) Section {
	s := Section{
		Name:   "sizes",
		Title:  "Larger messages in two processes",
		Text:   pairText + "Callers get back what they send. 10,000 of 32 KiB are more than grid's Limits.MaxRequestBytes, 256 MiB by default: it refuses the rest.",
		Tables: append(callTables(), fewestAndMost),
	}
	type load struct{ callers, size int }
	for _, l := range some(o, load{16, 4_000}, load{64, 4_000}, load{10_000, 4_000}, load{64, 32 << 10}, load{10_000, 32 << 10}, load{16, 64 << 10}, load{16, 1 << 20}) {
		c := callsCase(number(l.callers, "caller")+", "+sizeName(l.size), l.callers, l.size)
		if l.callers >= manyCallers {
			c.pair.spec.Time = 5 * time.Second
		}
		s.Cases = append(s.Cases, c)
	}
	return s
}

func placesSection(o Options) Section {
	s := Section{
		Name:  "places",
		Title: "Few callers, and where the processes run",
		Text: "Two processes over loopback, with 512 bytes each way: apart, on a core each; together, on one core; or where the kernel decides, with " +
			"GOMAXPROCS 2 each. Apart, a sleeping core has to be woken for each message, which takes most of the time of a lone call. A grid can look for input " +
			"instead of waiting (`grid polling`).",
		Tables: []Table{
			{Title: "p50 / p99 of a call, µs", Columns: []int{0, 1}},
			{Title: "Calls a second", Columns: []int{2}},
			{Title: "CPU of a call, µs", Columns: []int{3}, Ratio: true},
		},
		Able: pair.AblePlaces,
	}
	for _, place := range some(o, pair.Apart, pair.Together, pair.Anywhere) {
		for _, callers := range some(o, 1, 2, 4) {
			s.Cases = append(s.Cases, Case{
				Name:       number(callers, "caller") + ", " + placeName(place),
				Columns:    []Column{{"p50", ""}, {"p99", ""}, {"calls/s", ""}, {"CPU", ""}},
				Contenders: append([]string{pollingName}, unary...),
				Baseline:   limitName,
				pair: &pairCase{
					config: pair.Config{Place: place},
					spec:   load.Spec{Kind: load.Calls, Callers: callers, Size: small, Timed: true},
					figures: func(r pair.Result) []float64 {
						return []float64{micros(r.P50), micros(r.P99), r.PerSecond(), micros(r.CPUEach())}
					},
				},
			})
		}
	}
	return s
}

func placeName(place pair.Place) string {
	if place == pair.Anywhere {
		return "as the kernel decides"
	}
	return string(place)
}

func openSection(o Options) Section {
	s := Section{
		Name:  "open",
		Title: "Calls at a rate",
		Text: pairText + "Calls of 512 bytes begin at a rate, however long they take. A call is timed from its start. One that starts more than a " +
			"millisecond after it is due is late: timers are no more exact, and a caller that lacks CPU is later. At most 20,000 run at once.",
		Tables: []Table{
			{Title: "p50 / p99 / p99.9 of a call, µs", Columns: []int{0, 1, 2}},
			{Title: "Calls a second, and per cent of them late", Columns: []int{3, 4}},
			{Title: "CPU of a call, µs", Columns: []int{5}, Ratio: true},
			{Title: "Failed calls", Columns: []int{6}, NotZero: true},
		},
	}
	for _, rate := range some(o, 2_000, 20_000, 100_000) {
		s.Cases = append(s.Cases, Case{
			Name:       number(rate, "call") + " a second",
			Columns:    []Column{{"p50", ""}, {"p99", ""}, {"p99.9", ""}, {"calls/s", ""}, {"late", ""}, {"CPU", ""}, {"failed", ""}},
			Contenders: without("drpc"),
			Baseline:   limitName,
			pair: &pairCase{
				spec: load.Spec{Kind: load.Paced, Rate: float64(rate), Size: small, Time: 2 * time.Second},
				figures: func(r pair.Result) []float64 {
					return []float64{
						micros(r.P50), micros(r.P99), micros(r.P999), r.PerSecond(),
						100 * float64(r.Late) / float64(max(1, r.Done+r.Failed)), micros(r.CPUEach()), float64(r.Failed),
					}
				},
			},
		})
	}
	return s
}

func pairStreamsSection(Options) Section {
	s := Section{
		Name:  "streams",
		Title: "One-way streams in two processes",
		Text:  pairText + "Messages of 512 bytes; up to 256 may be in flight, where a library counts messages.",
		Tables: []Table{
			{Title: "Messages a second", Columns: []int{0}},
			{Title: "CPU of a message, µs", Columns: []int{1}, Ratio: true},
			{Title: "Failed streams", Columns: []int{2}, NotZero: true},
		},
	}
	for _, n := range []int{1, 32} {
		s.Cases = append(s.Cases, Case{
			Name:       number(n, "stream"),
			Columns:    []Column{{"messages/s", ""}, {"CPU", ""}, {"failed", ""}},
			Contenders: []string{limitName, gridName, "grpc", "drpc"},
			Baseline:   limitName,
			pair: &pairCase{
				config: pair.Config{Window: wideWindow},
				spec:   load.Spec{Kind: load.Streams, Callers: n, Size: small},
				figures: func(r pair.Result) []float64 {
					return []float64{r.PerSecond(), micros(r.CPUEach()), float64(r.Failed)}
				},
			},
		})
	}
	return s
}

// fanNodes is how many nodes are called at once.
const fanNodes = 16

func fanSection(o Options) Section {
	s := Section{
		Name:  "fan",
		Title: "Calls to 16 nodes at once",
		Text: pairText + "A caller calls all of 16 nodes, which are in the other process, with 512 bytes, and again when it has all answers. The time " +
			"and the CPU are those of all 16 calls.",
		Tables: []Table{
			{Title: "p50 / p99, µs", Columns: []int{0, 1}},
			{Title: "Rounds of 16 calls a second", Columns: []int{2}},
			{Title: "CPU of 16 calls, µs", Columns: []int{3}, Ratio: true},
		},
	}
	for _, n := range some(o, 1, 4, 16) {
		s.Cases = append(s.Cases, Case{
			Name:       number(n, "caller"),
			Columns:    []Column{{"p50", ""}, {"p99", ""}, {"rounds/s", ""}, {"CPU", ""}},
			Contenders: unary,
			Baseline:   limitName,
			pair: &pairCase{
				config: pair.Config{Others: fanNodes},
				spec:   load.Spec{Kind: load.Fan, Callers: n, Size: small, Timed: true},
				figures: func(r pair.Result) []float64 {
					return []float64{micros(r.P50), micros(r.P99), r.PerSecond(), micros(r.CPUEach())}
				},
			},
		})
	}
	return s
}

func computeSection(o Options) Section {
	callers, compute, lasts := 300, 100*time.Millisecond, 40*time.Second
	if o.Small {
		callers, compute, lasts = 20, 2*time.Millisecond, 40*time.Millisecond
	}
	return Section{
		Name:   "compute",
		Title:  "Handlers that compute",
		Rounds: slowRounds,
		Text:   fmt.Sprintf(pairText+"%d callers keep as many handlers busy, each of which computes for %v.", callers, compute),
		Tables: []Table{
			{Title: "Failed calls / connections that had to be made again", Columns: []int{0, 1}},
			{Title: "Mean / longest time of a call, s", Columns: []int{2, 3}},
			{Title: "CPU of a call, ms", Columns: []int{4}},
		},
		Cases: []Case{{
			Name:       number(callers, "caller"),
			Columns:    []Column{{"failed", ""}, {"connections", ""}, {"mean", ""}, {"longest", ""}, {"CPU", ""}},
			Contenders: without(limitName, "drpc", "nats"), // they have no handlers that run at once, or many connections
			pair: &pairCase{
				spec: load.Spec{
					Kind: load.Calls, Callers: callers, Size: small, Time: lasts, Timed: true,
					Task: contender.Task{Answer: small, Compute: compute},
				},
				figures: func(r pair.Result) []float64 {
					return []float64{float64(r.Failed), float64(r.Accepted), r.Mean.Seconds(), r.Max.Seconds(), millis(r.CPUEach())}
				},
			},
		}},
	}
}

func outageSection(o Options) Section {
	s := Section{
		Name:   "outage",
		Title:  "After an outage",
		Rounds: slowRounds,
		Text: "100 calls a second of 512 bytes over a cable with 1 Gbit/s that loses everything for some time. How long after the outage comes the " +
			"first answer, and how long after it are all calls over that began before its end?",
		Tables: []Table{
			{Title: "First answer / all calls over, ms", Columns: []int{0, 1}},
			{Title: "Failed calls / connections that had to be made again", Columns: []int{2, 3}},
			{Title: "CPU of a call, µs", Columns: []int{4}},
		},
		Able: func() error { return link.Able(link.Cable) },
	}
	type outage struct{ trip, lasts time.Duration }
	outages := []outage{{20 * time.Millisecond, time.Second}, {100 * time.Millisecond, time.Second}, {20 * time.Millisecond, 5 * time.Second}}
	after, contenders := 4*time.Second, without("drpc", "nats")
	if o.Small {
		contenders = []string{gridName, "grpc"}
		outages, after = []outage{{time.Millisecond, 50 * time.Millisecond}}, time.Second
	}
	for _, out := range outages {
		s.Cases = append(s.Cases, Case{
			Name:       fmt.Sprintf("out for %v, round trip %v", out.lasts, out.trip),
			Columns:    []Column{{"first", ""}, {"all", ""}, {"failed", ""}, {"connections", ""}, {"CPU", ""}},
			Contenders: contenders,
			pair: &pairCase{
				config: pair.Config{Link: link.Spec{Kind: link.Cable, Rate: 1e9, RoundTrip: out.trip}, Outage: out.lasts},
				spec:   load.Spec{Kind: load.Paced, Rate: 100, Size: small, Timed: true, Time: out.lasts + after},
				fixed:  true,
				figures: func(r pair.Result) []float64 {
					first, all := r.Recovery()
					if first < 0 { // none came as long as anybody waited
						first = all
					}
					return []float64{millis(first), millis(all), float64(r.Failed), float64(r.Accepted), micros(r.CPUEach())}
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
		Rounds: slowRounds,
		Able:   func() error { return link.Able(kind) },
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
	direction, contenders := "up", withHigh(without("drpc")) // which opens another connection for the small calls
	if down {
		direction = "down"
	}
	if size > 1 {
		contenders = withHigh(without("drpc", "ttrpc", "nats")) // whose messages are smaller
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
		Name:   "slow",
		Title:  "Slow readers",
		Rounds: slowRounds,
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
		Name:   strings.Join(name, "-"),
		Title:  title,
		Rounds: slowRounds,
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
	windowed, streams, calling := []string{limitName, gridName}, []string{limitName, gridName, "grpc", "drpc"}, without("drpc")
	if o.Small {
		streams, calling = streams[:3], []string{gridName, "grpc"}
	}
	for _, size := range some(o, small, 64<<10) {
		for _, window := range some(o, 1, 16, 256) {
			if o.Small && (size > small) != (window > 1) {
				continue
			}
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
		if o.Small && rate < 1e9 {
			continue
		}
		if rate < 1e9 {
			add("stream of 64 KiB, capacity 256", rate, wideWindow, streams, load.Spec{Kind: load.Streams, Callers: 1, Size: 64 << 10})
		}
		add("requests of 1 MiB", rate, 1, calling, upload)
		add("64 callers of 512 bytes", rate, 1, calling, fan)
	}
	return s
}

func sizeName(n int) string {
	switch {
	case n >= 1<<20 && n%(1<<20) == 0:
		return fmt.Sprintf("%d MiB", n>>20)
	case n >= 1<<10 && n%(1<<10) == 0:
		return fmt.Sprintf("%d KiB", n>>10)
	}
	return number(n, "byte")
}
