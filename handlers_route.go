package grid

import (
	"crypto/sha256"
	"maps"
)

// joinRoute joins two parts of a route; an empty one adds nothing.
func joinRoute(a, b string) string {
	if a == "" || b == "" {
		return a + b
	}
	return a + "/" + b
}

// makeRouteID returns what a subroute of a handler is on the wire.
func makeRouteID(h HandlerID, route string) routeID {
	id := routeID(sha256.Sum256([]byte(route)))
	id[0], id[1] = byte(h), 0
	return id
}

// routes are the handlers on subroutes. A table is never changed: adding makes a new one. It is in
// two parts, of which only the small one is copied for that, so that registering many is not
// quadratic. Its zero value is ready.
type routes[H any] struct{ most, latest map[routeID]H }

func (t routes[H]) get(id routeID) H {
	if h, ok := t.most[id]; ok {
		return h
	}
	return t.latest[id]
}

// with returns the table with one more handler.
func (t routes[H]) with(id routeID, h H) routes[H] {
	if n := len(t.latest); n*n > len(t.most)+1 { // the larger part is copied once for about its root
		all := make(map[routeID]H, len(t.most)+n)
		maps.Copy(all, t.most)
		maps.Copy(all, t.latest)
		t = routes[H]{most: all}
	}
	latest := make(map[routeID]H, len(t.latest)+1)
	maps.Copy(latest, t.latest)
	latest[id] = h
	t.latest = latest
	return t
}
