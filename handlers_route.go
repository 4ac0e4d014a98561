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

// joinRoutes joins the parts of a route.
func joinRoutes(parts []string) (all string) {
	for _, part := range parts {
		all = joinRoute(all, part)
	}
	return all
}

// wire returns what the route of a handler is on the wire; nil for none.
func (t target) wire() *routeID {
	if t.route == "" {
		return nil
	}
	id := makeRouteID(t.id, t.route)
	return &id
}

// route leads to a handler on a subroute. It is never changed.
type route struct {
	name   string
	id     routeID
	number int    // of the counters of the calls
	next   *route // to another handler on the same subroute
}

// newRoute returns the route to a handler, which counts by its ID, with next, which may be nil, behind it.
func newRoute(h HandlerID, name string, next *route) *route {
	r := &route{name: name, number: int(h), next: next}
	if next == nil {
		r.id = makeRouteID(h, name)
		return r
	}
	r.id = next.id // but for the handler
	r.id[0] = byte(h)
	return r
}

func (r *route) leadsTo(h HandlerID) bool { return r.id[0] == byte(h) }

// target returns what a call to a handler on the route, which is nil for none, is to.
func (r *route) target(h HandlerID) target {
	if r == nil {
		return target{id: h, number: int(h)}
	}
	return target{h, r.name, r.number}
}

// counter returns the number of the target.
func (r *route) counter(h HandlerID) int {
	if r == nil {
		return int(h)
	}
	return r.number
}

// wire returns what a route is on the wire; nil for none.
func (r *route) wire() *routeID {
	if r == nil {
		return nil
	}
	return &r.id
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
