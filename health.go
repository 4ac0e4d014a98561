package grid

import (
	"context"
	"encoding/json"
	"net/http"
	"path"
	"sync"
	"time"
)

// Health says which peers a node reaches.
type Health struct {
	// Local is this node's name, Time when the health was known.
	Local string    `json:"local"`
	Time  time.Time `json:"time"`
	// Shutdown says that this node is ending.
	Shutdown bool `json:"shutdown"`
	// Peers has every other node, in the order of ManagerOptions.Hosts.
	Peers []PeerHealth `json:"peers"`
}

// PeerHealth says whether a node reaches one other.
type PeerHealth struct {
	// Peer is its name.
	Peer string `json:"peer"`
	// Reachable says that it answered a ping that was on its way during the call.
	Reachable bool `json:"reachable"`
	// State is that of the connection, and Since when it began.
	State State     `json:"state"`
	Since time.Time `json:"since"`
	// RoundTrip is how long it took to answer; in nanoseconds in JSON, 0 where it did not.
	RoundTrip time.Duration `json:"round_trip_ns"`
	// LastPong is when it last answered a ping; zero for never.
	LastPong time.Time `json:"last_pong"`
	// Error says why it is not reachable, empty where it is.
	Error string `json:"error,omitempty"`
}

// Reachable returns the number of peers that are.
func (h Health) Reachable() (n int) {
	for _, p := range h.Peers {
		if p.Reachable {
			n++
		}
	}
	return n
}

// All says whether every peer is reachable.
func (h Health) All() bool { return !h.Shutdown && h.Reachable() == len(h.Peers) }

// Quorum says whether this node and the peers that it reaches are more than half of all nodes.
func (h Health) Quorum() bool { return !h.Shutdown && 2*(h.Reachable()+1) > len(h.Peers)+1 }

// Health finds out which peers are reachable: it sends each that is connected a ping, and waits for the answers until
// ctx ends. Calls at the same time share their pings. A peer that is not connected is not waited for.
// A connection can be up and its peer not reachable, for the 20 seconds in which a silent peer is not yet taken for dead.
// With a nil ctx nobody is asked, and no peer is reachable.
func (m *Manager) Health(ctx context.Context) Health {
	if m == nil {
		return Health{Shutdown: true}
	}
	if ctx != nil {
		bound, cancel := bounded(ctx)
		defer cancel()
		ctx = bound
	}
	h := Health{Local: m.node.Local, Shutdown: m.node.over()}
	targets := m.Targets()
	h.Peers = make([]PeerHealth, len(targets))
	var wg sync.WaitGroup
	for i, host := range targets {
		wg.Go(func() { h.Peers[i] = m.connections[host].health(ctx) })
	}
	wg.Wait()
	h.Time = time.Now()
	return h
}

// health pings the peer.
func (c *Connection) health(ctx context.Context) PeerHealth {
	err := error(ErrDisconnected)
	var rtt time.Duration
	if s := c.current.Load(); ctx == nil {
		err = errNilContext
	} else if s != nil {
		rtt, err = s.probe(ctx)
	}
	stats := c.Stats()
	h := PeerHealth{Peer: c.Remote, State: stats.State, Since: stats.Since, LastPong: stats.LastPong}
	switch {
	case err == nil:
		h.Reachable, h.RoundTrip = true, rtt
	case stats.State != StateConnected && stats.LastError != "":
		h.Error = stats.LastError
	default:
		h.Error = clip(err.Error())
	}
	return h
}

// Readiness says which nodes a ready node reaches.
type Readiness uint8

const (
	// ReadyQuorum asks for more than half of all nodes, this one counted.
	ReadyQuorum Readiness = iota
	// ReadyAll asks for every other node.
	ReadyAll
)

// HealthOptions configures a HealthHandler. Its zero value is sensible.
type HealthOptions struct {
	// Ready says when the node is ready. The default is ReadyQuorum.
	Ready Readiness
	// Timeout bounds the wait for answers of peers. The default is a second.
	Timeout time.Duration
}

// defaultHealthTimeout is HealthOptions.Timeout where that is 0.
const defaultHealthTimeout = time.Second

// healthBody is what a HealthHandler answers.
type healthBody struct {
	Status string `json:"status"` // "ok" or "unavailable"
	*Health
}

// HealthHandler answers the probes of whoever runs the process, with JSON. Its path is the last element of the URL's:
//
//   - live: 200 until the Manager has ended, 503 afterwards. It says nothing of peers: to start a node again does not help
//     where another one is down.
//   - ready: 200 where HealthOptions.Ready is met, else 503. The body is a Health with a status.
//
// Other paths get 404, and methods other than GET and HEAD 405. The names of the peers are in the body: do not serve
// it to strangers.
func (m *Manager) HealthHandler(o HealthOptions) http.Handler {
	if o.Timeout <= 0 {
		o.Timeout = defaultHealthTimeout
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			w.Header().Set("Allow", "GET, HEAD")
			http.Error(w, http.StatusText(http.StatusMethodNotAllowed), http.StatusMethodNotAllowed)
			return
		}
		switch path.Base(r.URL.Path) {
		case "live":
			writeHealth(w, m != nil && !m.node.over(), nil)
		case "ready":
			ctx, cancel := context.WithTimeout(r.Context(), o.Timeout)
			defer cancel()
			h := m.Health(ctx)
			ok := h.Quorum()
			if o.Ready == ReadyAll {
				ok = h.All()
			}
			writeHealth(w, ok, &h)
		default:
			http.NotFound(w, r)
		}
	})
}

func writeHealth(w http.ResponseWriter, ok bool, h *Health) {
	body, code := healthBody{Status: "ok", Health: h}, http.StatusOK
	if !ok {
		body.Status, code = "unavailable", http.StatusServiceUnavailable
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(code)
	json.NewEncoder(w).Encode(body)
}
