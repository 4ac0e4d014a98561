package grid

import "crypto/sha256"

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
