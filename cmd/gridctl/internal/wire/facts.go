package wire

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"

	"github.com/gridmesh/grid"
)

// Facts are the payload of OpFacts: what a node says of itself.
type Facts struct {
	Version  string
	Labels   map[string]string
	Draining bool
	Requests Handlers
	Streams  Handlers
	More     bool // there are more handlers on subroutes
}

// Handlers are those of requests, or of streams, that a node has.
type Handlers struct {
	IDs    []grid.HandlerID // without a subroute
	Routes []RouteKey       // on subroutes, methods among them
}

// RouteKey is how a node tells of a handler on a subroute.
type RouteKey [8]byte

// KeyOf returns the key of a handler on a route.
func KeyOf(h grid.HandlerID, route string) (k RouteKey) {
	sum := sha256.Sum256([]byte(route))
	k[0] = byte(h)
	copy(k[1:], sum[2:9])
	return k
}

// Handler is the handler's ID.
func (k RouteKey) Handler() grid.HandlerID { return grid.HandlerID(k[0]) }

// String returns the key as hexadecimal digits.
func (k RouteKey) String() string { return hex.EncodeToString(k[:]) }

// KeyOfSubroute is KeyOf for the part of a message that stands for both.
func KeyOfSubroute(subroute []byte) (k RouteKey) {
	if len(subroute) >= 9 {
		k[0] = subroute[0]
		copy(k[1:], subroute[2:9])
	}
	return k
}

// SubrouteOf returns the part of a message that stands for a handler on a route.
func SubrouteOf(h grid.HandlerID, route string) []byte {
	sum := sha256.Sum256([]byte(route))
	sum[0], sum[1] = byte(h), 0
	return sum[:]
}

// ParseFacts reads the payload of an OpFacts.
func ParseFacts(b []byte) (f Facts, err error) {
	m, err := readMap(b)
	if err != nil {
		return f, err
	}
	f.Version = m.text("Version")
	if labels, ok := m["Labels"].(map[string]any); ok {
		f.Labels = make(map[string]string, len(labels))
		for key, value := range labels {
			f.Labels[key], _ = value.(string)
		}
	}
	f.Draining, _ = m["Draining"].(bool)
	f.More, _ = m["More"].(bool)
	f.Requests = m.handlers("Requests", "RequestRoutes")
	f.Streams = m.handlers("Streams", "StreamRoutes")
	return f, nil
}

func (f fieldMap) handlers(ids, routes string) (h Handlers) {
	bits, _ := f[ids].([]byte)
	for i := range min(len(bits)*8, 256) {
		if bits[i/8]&(1<<(i%8)) != 0 {
			h.IDs = append(h.IDs, grid.HandlerID(i))
		}
	}
	keys, _ := f[routes].([]byte)
	for ; len(keys) >= 8; keys = keys[8:] {
		var k RouteKey
		binary.BigEndian.PutUint64(k[:], binary.BigEndian.Uint64(keys))
		h.Routes = append(h.Routes, k)
	}
	return h
}
