package gridotel

import (
	"net"
	"strconv"
	"sync"

	"github.com/gridmesh/grid"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"
)

// maxLabels bounds how many labels are kept: peers that are guests come and go.
const maxLabels = 4096

// labels are what all calls of one method between two nodes have in common.
type labels struct {
	address   string // of the network, of the other node
	start     []trace.SpanStartOption
	duration  []attribute.KeyValue  // of the durations, without those of the outcome
	succeeded []metric.RecordOption // of a duration without an error
	record    []metric.RecordOption // of all other metrics
	add       []metric.AddOption    // the same
}

// labelKey is what labels depend on besides the address, which changes with each connection.
type labelKey struct{ local, remote, method string }

// labelCache keeps labels, because they take longer to make than all else that is done for a call.
type labelCache struct {
	mu  sync.RWMutex // Protects following.
	all map[labelKey]*labels
}

// of returns the labels of a call, which it makes the first time.
func (s *side) of(info *grid.CallInfo) *labels {
	key := labelKey{info.Local, info.Remote, info.Method}
	c := &s.cache
	c.mu.RLock()
	l := c.all[key]
	c.mu.RUnlock()
	if l != nil && l.address == info.RemoteAddr {
		return l
	}
	l = s.labels(info)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.all == nil || len(c.all) >= maxLabels {
		c.all = make(map[labelKey]*labels)
	}
	c.all[key] = l
	return l
}

// labels makes the labels of a call.
func (s *side) labels(info *grid.CallInfo) *labels {
	method := []attribute.KeyValue{semconv.RPCSystemNameKey.String("grid"), semconv.RPCMethod(info.Method)}
	of := attribute.NewSet(append(method, s.metricAttrs...)...)
	l := &labels{
		address:  info.RemoteAddr,
		duration: of.ToSlice(),
		record:   []metric.RecordOption{metric.WithAttributeSet(of)},
		add:      []metric.AddOption{metric.WithAttributeSet(of)},
	}
	span := append(method, networkAttributes(info.RemoteAddr)...)
	if s.kind == trace.SpanKindClient {
		server := serverAttributes(info.Remote)
		span = append(span, server...)
		l.duration = append(l.duration, server...)
	} else {
		span = append(span, serverAttributes(info.Local)...)
		if host, _ := address(info.Remote); host != "" {
			span = append(span, semconv.ClientAddress(host))
		}
	}
	l.succeeded = []metric.RecordOption{metric.WithAttributeSet(l.with(statusCode(grid.OK)))}
	l.start = []trace.SpanStartOption{trace.WithSpanKind(s.kind), trace.WithAttributes(append(span, s.spanAttrs...)...)}
	return l
}

// with returns the attributes of a duration with those of an outcome.
func (l *labels) with(outcome ...attribute.KeyValue) attribute.Set {
	return attribute.NewSet(append(outcome, l.duration...)...)
}

func statusCode(c grid.Code) attribute.KeyValue { return semconv.RPCResponseStatusCode(c.String()) }

// networkAttributes are the address and port that the other node has on the network.
func networkAttributes(address string) []attribute.KeyValue {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil
	}
	attrs := []attribute.KeyValue{semconv.NetworkPeerAddress(host)}
	if n, err := strconv.Atoi(port); err == nil {
		attrs = append(attrs, semconv.NetworkPeerPort(n))
	}
	return attrs
}
