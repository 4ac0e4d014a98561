package scenario

import (
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/gridmesh/grid/bench/contender"
	"github.com/gridmesh/grid/bench/measure"
)

func echoSection() Section {
	s := Section{
		Name:  "echo",
		Title: "Echo of 512 bytes",
		Text: "Callers on one node call another as fast as answers come. The time is per call: the time of all calls divided " +
			"by their number.",
	}
	all := names(func(c contender.Contender) bool { // those are for few callers, and for several kinds of calls
		return c.Name != pollingName && c.Name != protobufPollingName && c.Name != highName
	})
	for _, callers := range []int{2, 16, 64} {
		s.Cases = append(s.Cases, echoCase(callers, false, all))
	}
	return s
}

func secureSection() Section {
	s := Section{
		Name:  "tls",
		Title: "Echo of 512 bytes over TLS",
		Text:  "The same over TLS 1.3 of the standard library.",
	}
	all := []string{limitName, "grid", "grid typed", "grpc", "drpc", "ttrpc", "yamux", "smux"}
	for _, callers := range []int{2, 16, 64} {
		s.Cases = append(s.Cases, echoCase(callers, true, all))
	}
	return s
}

// largeCallers is how many send large requests at once.
const largeCallers = 16

func largeSection() Section {
	s := Section{
		Name:  "large",
		Title: "Large requests",
		Text: "16 callers get back what they send. Ratios are to `tcp`, a bare TCP connection per caller; most others " +
			"share one connection.",
	}
	all := []string{limitName, tcpName, "grid", "grid typed", "grpc", "drpc", "ttrpc", "nats", "yamux", "smux", "http/1.1", "h2c"}
	for _, size := range []int{64 << 10, 1 << 20} {
		c := Case{Name: fmt.Sprintf("%d KiB", size>>10), Contenders: all, Baseline: tcpName}
		c.Columns = []Column{{"time", "µs"}, {"KiB allocated", ""}}
		c.run = func(o Options, ct contender.Contender) ([]float64, error) {
			return start(ct, contender.Setup{Nodes: 2}, func(n contender.Nodes) ([]float64, error) {
				r, err := echoLoad(o, n, largeCallers, size)
				if err != nil {
					return nil, err
				}
				return []float64{r.Nanoseconds() / 1000, r.BytesPerOperation() / 1024}, nil
			})
		}
		s.Cases = append(s.Cases, c)
	}
	return s
}

// echoCase is calls from one node to another.
func echoCase(callers int, secure bool, contenders []string) Case {
	return Case{
		Name:       fmt.Sprintf("%d callers", callers),
		Columns:    callColumns,
		Contenders: contenders,
		Baseline:   limitName,
		run: func(o Options, c contender.Contender) ([]float64, error) {
			return start(c, contender.Setup{Nodes: 2, TLS: secure}, func(n contender.Nodes) ([]float64, error) {
				return callFigures(echoLoad(o, n, callers, small))
			})
		},
	}
}

// echoLoad has callers on node 0 that call node 1.
func echoLoad(o Options, n contender.Nodes, callers, size int) (measure.Rate, error) {
	return measure.Load(callers, o.Warm, o.Time, func(worker int, m *measure.Meter) error {
		return withClient(n, 0, 1, func(c contender.Client) error {
			payload := randomBytes(size)
			for m.Tick(worker) {
				if err := c.Echo(payload); err != nil {
					return err
				}
			}
			return nil
		})
	})
}

func withClient(n contender.Nodes, from, to int, use func(contender.Client) error) error {
	c, err := n.Client(from, to)
	if err != nil {
		return err
	}
	defer c.Close()
	return use(c)
}

func randomBytes(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(rand.Uint32())
	}
	return b
}

func meshSection(o Options) Section {
	s := Section{
		Name:  "mesh",
		Title: "Echo of 512 bytes in a full mesh",
		Text: "Each call goes from a random node to another random node. Every pair of nodes shares one " +
			"connection; gRPC needs one per direction.",
	}
	sizes := []int{8, 32}
	if o.Small {
		sizes = []int{4}
	}
	for _, nodes := range sizes {
		for _, callers := range []int{16, 64} {
			s.Cases = append(s.Cases, meshCase(nodes, callers))
		}
	}
	return s
}

func meshCase(nodes, callers int) Case {
	return Case{
		Name:       fmt.Sprintf("%d nodes, %d callers", nodes, callers),
		Columns:    callColumns,
		Contenders: []string{limitName, "grid", "grid typed", "grpc"},
		Baseline:   limitName,
		run: func(o Options, c contender.Contender) ([]float64, error) {
			return start(c, contender.Setup{Nodes: nodes}, func(n contender.Nodes) ([]float64, error) {
				clients, err := allPairs(n, nodes)
				if err != nil {
					return nil, err
				}
				return callFigures(measure.Load(callers, o.Warm, o.Time, func(worker int, m *measure.Meter) error {
					payload := randomBytes(small)
					rnd := rand.New(rand.NewPCG(uint64(worker), uint64(time.Now().UnixNano())))
					for m.Tick(worker) {
						if err := clients[rnd.IntN(len(clients))].Echo(payload); err != nil {
							return err
						}
					}
					return nil
				}))
			})
		},
	}
}

// allPairs returns a client for each ordered pair of nodes, each of which has made a call.
func allPairs(n contender.Nodes, nodes int) ([]contender.Client, error) {
	payload := randomBytes(small)
	var clients []contender.Client
	for from := range nodes {
		for to := range nodes {
			if from == to {
				continue
			}
			c, err := n.Client(from, to)
			if err != nil {
				return nil, err
			}
			if err := c.Echo(payload); err != nil {
				return nil, err
			}
			clients = append(clients, c)
		}
	}
	return clients, nil
}
