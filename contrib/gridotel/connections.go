package gridotel

import (
	"context"
	"errors"
	"slices"
	"strings"

	"github.com/gridmesh/grid"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
)

const (
	peerKey  = attribute.Key("grid.peer.name")
	localKey = attribute.Key("grid.local.name")
	stateKey = attribute.Key("grid.connection.state")
)

// ObserveConnections registers gauges for the connections of m, which are read when metrics are
// collected. Each has the attributes grid.local.name and grid.peer.name, the names of the two
// nodes; the gauge of the state also has grid.connection.state, the name of a state such as
// "connected". Unregister the result when m is closed.
func ObserveConnections(m *grid.Manager, opts ...Option) (metric.Registration, error) {
	if m == nil {
		return nil, errors.New("gridotel: nil Manager")
	}
	c := newConfig(opts)
	meter := c.meter()
	state, err := meter.Int64ObservableGauge("grid.connection.state", metric.WithUnit("{connection}"),
		metric.WithDescription("1 for the state that the connection to a peer has, 0 for the others."))
	if err != nil {
		return nil, err
	}
	roundTrip, err := meter.Float64ObservableGauge("grid.connection.round_trip", metric.WithUnit("s"),
		metric.WithDescription("How long the peer took to answer the last ping."))
	if err != nil {
		return nil, err
	}
	return meter.RegisterCallback(func(_ context.Context, o metric.Observer) error {
		stats := m.Stats()
		for i := range stats.Peers {
			conn := &stats.Peers[i]
			peer := []attribute.KeyValue{localKey.String(m.HostName()), peerKey.String(conn.Remote)}
			for s := grid.StateUnconnected; s <= grid.StateShutdown; s++ {
				is := int64(0)
				if s == conn.State {
					is = 1
				}
				name := stateKey.String(strings.ToLower(s.String()))
				o.ObserveInt64(state, is, metric.WithAttributes(append(slices.Clip(peer), name)...))
			}
			if rtt := conn.RoundTrip; rtt > 0 {
				o.ObserveFloat64(roundTrip, rtt.Seconds(), metric.WithAttributes(peer...))
			}
		}
		return nil
	}, state, roundTrip)
}
