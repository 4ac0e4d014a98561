package grid

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"
	"unicode"
	"unicode/utf8"

	"github.com/gridmesh/grid/internal/mpack"
	"github.com/tinylib/msgp/msgp"
)

// Limits on what a node tells others of itself, checked by both of them.
const (
	// MaxVersionSize is the maximum length of ManagerOptions.Version in bytes.
	MaxVersionSize = 128
	// MaxLabels is the maximum number of ManagerOptions.Labels.
	MaxLabels = 64
	// MaxLabelsSize is the maximum length of all keys and values of labels together, in bytes. It
	// leaves room for the rest in the smallest message.
	MaxLabelsSize = 2048

	// maxListedRoutes is how many handlers on subroutes a node tells others of.
	maxListedRoutes = 4096
	// maxFactsSize bounds the payload of an OpFacts, in bytes. Nodes of today send at most 36 KiB.
	maxFactsSize = 64 << 10
)

// facts are what a node says of itself. They are never changed.
type facts struct {
	version  string
	labels   map[string]string
	draining bool
	handlers handlerList
	// final is set where the node registers no more handlers before it has said so, and that has
	// been acknowledged.
	final bool
}

// lacks reports whether there is certainly no handler of requests, or of streams.
func (f *facts) lacks(stream bool, h HandlerID, route *routeID) bool {
	return f != nil && f.final && !f.handlers.more && !f.handlers.of(stream).has(h, route)
}

// handlerList names the handlers of a node.
type handlerList struct {
	singles, streams handlerSet
	more             bool // there are more on subroutes
}

func (l *handlerList) of(stream bool) *handlerSet {
	if stream {
		return &l.streams
	}
	return &l.singles
}

// routes returns the number of handlers on subroutes.
func (l *handlerList) routes() int { return len(l.singles.routes) + len(l.streams.routes) }

// add adds a handler, unless there are too many.
func (l *handlerList) add(stream bool, h HandlerID, route *routeID) {
	if route != nil && l.routes() == maxListedRoutes {
		l.more = true
		return
	}
	set := l.of(stream)
	*set = set.with(h, route)
}

// handlerSet is a set of handlers. Its slice is never changed.
type handlerSet struct {
	ids    [32]byte // a bit for each ID without a subroute
	routes []routeKey
}

// routeKey is the part of a routeID that is told. Two subroutes may have the same, which makes one
// of them look as if it were there: its calls are then refused by the peer.
type routeKey uint64

func (r *routeID) key() routeKey {
	return routeKey(r[0])<<56 | routeKey(binary.BigEndian.Uint64(r[1:])&(1<<56-1))
}

func (s *handlerSet) has(h HandlerID, route *routeID) bool {
	if route == nil {
		return s.ids[h/8]&(1<<(h%8)) != 0
	}
	_, ok := slices.BinarySearch(s.routes, route.key())
	return ok
}

func (s handlerSet) with(h HandlerID, route *routeID) handlerSet {
	if route == nil {
		s.ids[h/8] |= 1 << (h % 8)
		return s
	}
	key := route.key()
	if i, ok := slices.BinarySearch(s.routes, key); !ok {
		routes := append(make([]routeKey, 0, len(s.routes)+1), s.routes[:i]...)
		s.routes = append(append(routes, key), s.routes[i:]...)
	}
	return s
}

// The fields of an OpFacts.
const (
	factVersion       = "Version"
	factLabels        = "Labels"
	factDraining      = "Draining"
	factRequests      = "Requests"
	factStreams       = "Streams"
	factRequestRoutes = "RequestRoutes"
	factStreamRoutes  = "StreamRoutes"
	factMore          = "More"
)

// encode returns the facts as they go over the wire, in at most so many bytes: without the handlers
// on subroutes if these do not fit.
func (f *facts) encode(limit int) []byte {
	b := f.appendTo(nil, true)
	if len(b) > limit {
		b = f.appendTo(b[:0], false)
	}
	return b
}

func (f *facts) appendTo(b []byte, routes bool) []byte {
	l := &f.handlers
	more := l.more || !routes
	fields := uint32(0)
	b = append(b, 0x80) // for the number of fields
	field := func(present bool, name string, value func()) {
		if present {
			fields++
			b = msgp.AppendString(b, name)
			value()
		}
	}
	field(f.version != "", factVersion, func() { b = msgp.AppendString(b, f.version) })
	field(len(f.labels) > 0, factLabels, func() {
		b = msgp.AppendMapHeader(b, uint32(len(f.labels)))
		for _, key := range slices.Sorted(maps.Keys(f.labels)) {
			b = msgp.AppendString(msgp.AppendString(b, key), f.labels[key])
		}
	})
	field(f.draining, factDraining, func() { b = msgp.AppendBool(b, true) })
	for _, set := range []struct {
		*handlerSet
		ids, routes string
	}{{&l.singles, factRequests, factRequestRoutes}, {&l.streams, factStreams, factStreamRoutes}} {
		field(set.handlerSet.ids != [32]byte{}, set.ids, func() { b = msgp.AppendBytes(b, set.handlerSet.ids[:]) })
		field(routes && len(set.handlerSet.routes) > 0, set.routes, func() {
			b = mpack.AppendBinHeader(b, 8*len(set.handlerSet.routes))
			for _, key := range set.handlerSet.routes {
				b = binary.BigEndian.AppendUint64(b, uint64(key))
			}
		})
	}
	field(more, factMore, func() { b = msgp.AppendBool(b, true) })
	b[0] |= byte(fields)
	return b
}

// parseFacts is the reverse of encode, for what a peer has sent.
func parseFacts(b []byte) (f *facts, err error) {
	defer recoverMsgp(&err)
	if len(b) > maxFactsSize {
		return nil, fmt.Errorf("%d bytes, at most %d are taken", len(b), maxFactsSize)
	}
	rest, err := mpack.Skip(b, maxProtocolDepth)
	switch {
	case err != nil:
		return nil, err
	case len(rest) > 0:
		return nil, fmt.Errorf("%d bytes behind the last field", len(rest))
	}
	n, b, err := msgp.ReadMapHeaderBytes(b)
	if err != nil {
		return nil, err
	}
	f = new(facts)
	for range n {
		var name []byte
		if name, b, err = msgp.ReadStringZC(b); err != nil {
			return nil, err
		}
		if b, err = f.parseField(string(name), b); err != nil {
			return nil, fmt.Errorf("%.20q: %w", name, err)
		}
	}
	if n := f.handlers.routes(); n > maxListedRoutes {
		return nil, fmt.Errorf("%d handlers on subroutes, at most %d are taken", n, maxListedRoutes)
	}
	return f, nil
}

// parseField reads the value of a field.
func (f *facts) parseField(name string, b []byte) (rest []byte, err error) {
	l := &f.handlers
	switch name {
	case factVersion:
		if f.version, rest, err = msgp.ReadStringBytes(b); err == nil {
			err = checkVersion(f.version)
		}
	case factLabels:
		f.labels, rest, err = parseLabels(b)
	case factDraining:
		f.draining, rest, err = msgp.ReadBoolBytes(b)
	case factMore:
		l.more, rest, err = msgp.ReadBoolBytes(b)
	case factRequests:
		rest, err = l.singles.parseIDs(b)
	case factStreams:
		rest, err = l.streams.parseIDs(b)
	case factRequestRoutes:
		rest, err = l.singles.parseRoutes(b)
	case factStreamRoutes:
		rest, err = l.streams.parseRoutes(b)
	default: // of a later version
		rest, err = mpack.Skip(b, maxProtocolDepth)
	}
	return rest, err
}

func (s *handlerSet) parseIDs(b []byte) (rest []byte, err error) {
	ids, rest, err := msgp.ReadBytesZC(b)
	if err == nil && len(ids) != len(s.ids) {
		err = fmt.Errorf("%d bytes, and there are %d", len(ids), len(s.ids))
	}
	copy(s.ids[:], ids)
	return rest, err
}

func (s *handlerSet) parseRoutes(b []byte) (rest []byte, err error) {
	all, rest, err := msgp.ReadBytesZC(b)
	if err != nil {
		return nil, err
	}
	if len(all)%8 != 0 || len(all)/8 > maxListedRoutes {
		return nil, fmt.Errorf("%d bytes, not 8 for each of at most %d", len(all), maxListedRoutes)
	}
	s.routes = make([]routeKey, len(all)/8)
	for i := range s.routes {
		s.routes[i] = routeKey(binary.BigEndian.Uint64(all[8*i:]))
		if i > 0 && s.routes[i] <= s.routes[i-1] {
			return nil, errors.New("not in order")
		}
	}
	return rest, nil
}

// parseLabels reads labels, which are in the order of their keys.
func parseLabels(b []byte) (labels map[string]string, rest []byte, err error) {
	n, b, err := msgp.ReadMapHeaderBytes(b)
	if err != nil {
		return nil, nil, err
	}
	if n > MaxLabels {
		return nil, nil, fmt.Errorf("%d labels, at most %d are taken", n, MaxLabels)
	}
	labels = make(map[string]string, n)
	var key, value, last []byte
	for range n {
		if key, b, err = msgp.ReadStringZC(b); err != nil {
			return nil, nil, err
		}
		if value, b, err = msgp.ReadStringZC(b); err != nil {
			return nil, nil, err
		}
		if bytes.Compare(key, last) <= 0 { // also one that is there twice, or empty
			return nil, nil, errors.New("not in order")
		}
		last = key
		labels[string(key)] = string(value)
	}
	return labels, b, checkLabels(labels)
}

// checkVersion returns an error that says what is wrong with a version.
func checkVersion(version string) error {
	if len(version) > MaxVersionSize {
		return fmt.Errorf("%d bytes, at most %d are allowed", len(version), MaxVersionSize)
	}
	return checkPrintable(version)
}

// checkLabels returns an error that says what is wrong with labels, and with which one.
func checkLabels(labels map[string]string) error {
	if len(labels) > MaxLabels {
		return fmt.Errorf("%d labels, at most %d are allowed", len(labels), MaxLabels)
	}
	size := 0
	for _, key := range slices.Sorted(maps.Keys(labels)) {
		if key == "" {
			return fmt.Errorf("label %q: its key is empty", key)
		}
		for _, text := range []string{key, labels[key]} {
			if err := checkPrintable(text); err != nil {
				return fmt.Errorf("label %.60q: %w", key, err)
			}
		}
		if size += len(key) + len(labels[key]); size > MaxLabelsSize {
			return fmt.Errorf("label %.60q: together with those before it %d bytes, at most %d are allowed",
				key, size, MaxLabelsSize)
		}
	}
	return nil
}

// checkPrintable keeps out what others could not show.
func checkPrintable(text string) error {
	if !utf8.ValidString(text) {
		return errors.New("not UTF-8")
	}
	for _, r := range text {
		if !unicode.IsPrint(r) {
			return fmt.Errorf("%q cannot be printed", r)
		}
	}
	return nil
}
