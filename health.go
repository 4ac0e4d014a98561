package grid

import (
	"context"
	"encoding/json"
	"net/http"
	"path"
	"sync"
	"time"
)

// Health reports which peers a node reaches.
type Health struct {
	// Local is the name of this node, Time when the result was complete.
	Local string    `json:"local"`
	Time  time.Time `json:"time"`
	// Shutdown reports whether this node is ending.
	Shutdown bool `json:"shutdown"`
	// Draining reports whether this node is about to end: see Manager.Drain.
	Draining bool `json:"draining"`
	// Peers has every other node, in the order of the hosts.
	Peers []PeerHealth `json:"peers"`
}

// PeerHealth reports whether a node reaches one other.
type PeerHealth struct {
	// Peer is the name of the peer.
	Peer string `json:"peer"`
	// Reachable reports whether the peer answered a ping that was in flight during the call.
	Reachable bool `json:"reachable"`
	// State is the state of the connection, Since when it began.
	State State     `json:"state"`
	Since time.Time `json:"since"`
	// RoundTrip is how long the answer took, 0 if there was none. In JSON it is in nanoseconds.
	RoundTrip time.Duration `json:"round_trip_ns"`
	// LastPong is when the peer last answered a ping; zero if never.
	LastPong time.Time `json:"last_pong"`
	// Draining reports whether the peer is about to end: see Peer.Draining.
	Draining bool `json:"draining,omitempty"`
	// Error is why the peer is not reachable, empty if it is.
	Error string `json:"error,omitempty"`
}

// Reachable returns the number of reachable peers.
func (h Health) Reachable() (n int) {
	for _, p := range h.Peers {
		if p.Reachable {
			n++
		}
	}
	return n
}

// All reports whether every peer is reachable, and this node is not ending. It may be draining.
func (h Health) All() bool { return !h.Shutdown && h.Reachable() == len(h.Peers) }

// Quorum reports whether this node and the peers it reaches are more than half of all nodes, and
// this node is not ending. It may be draining. All nodes are the hosts at the moment of the call:
// where a majority decides about data, ask what agrees on the members of that, not what a node has
// been told of.
func (h Health) Quorum() bool { return !h.Shutdown && 2*(h.Reachable()+1) > len(h.Peers)+1 }

// Health checks which peers are reachable: it pings each connected peer and waits for the answers
// until ctx ends. Concurrent calls share their pings. Peers that are not connected are not waited
// for.
//
// A connection can be up while its peer is not reachable, until a silent peer is dropped after
// Limits.PeerTimeout. With a nil ctx no peer is pinged, and none is reachable.
func (m *Manager) Health(ctx context.Context) Health {
	if m == nil {
		return Health{Shutdown: true}
	}
	if ctx != nil {
		bound, cancel := bounded(ctx)
		defer cancel()
		ctx = bound
	}
	h := Health{Local: m.node.Local, Shutdown: m.isSealed() || m.node.over(), Draining: m.says.now().draining}
	list := m.members.Load().list
	h.Peers = make([]PeerHealth, len(list))
	var wg sync.WaitGroup
	for i, c := range list {
		wg.Go(func() { h.Peers[i] = c.health(ctx) })
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
	h := PeerHealth{Peer: c.Remote, State: stats.State, Since: stats.Since, LastPong: stats.LastPong, Draining: stats.Draining}
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

// Readiness is how many nodes a node must reach to be ready.
type Readiness uint8

const (
	// ReadyQuorum requires more than half of all nodes, counting this one.
	ReadyQuorum Readiness = iota
	// ReadyAll requires every other node.
	ReadyAll
)

// HealthOptions configures a HealthHandler. Its zero value selects the defaults.
type HealthOptions struct {
	// Ready is when the node is ready. The default is ReadyQuorum.
	Ready Readiness
	// Timeout bounds the wait for answers of peers. The default is a second.
	Timeout time.Duration
}

// defaultHealthTimeout is used if HealthOptions.Timeout is 0.
const defaultHealthTimeout = time.Second

// healthBody is the JSON body of a HealthHandler's answers.
type healthBody struct {
	Status string `json:"status"` // "ok" or "unavailable"
	*Health
}

// HealthHandler returns an HTTP handler that answers health probes with JSON. The last element of
// the URL path selects the probe:
//
//   - live: 200 until the Manager has ended, 503 afterwards. It says nothing about peers, because
//     restarting a node does not help if another one is down.
//   - ready: 200 if HealthOptions.Ready is met and the node is not draining, otherwise 503. The body
//     is a Health with a status.
//
// Other paths get 404, and methods other than GET and HEAD get 405. The body contains the names of
// the peers: do not serve it to strangers.
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
			writeHealth(w, ok && !h.Draining, &h)
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
	_ = json.NewEncoder(w).Encode(body) //nolint:errchkjson // the client may be gone, and the times are those of a clock
}
