package grid

import (
	"slices"
	"sync"
	"time"

	"github.com/gridmesh/grid/internal/visible"
)

// What a Manager remembers of errors.
const (
	recentErrors   = 64
	recentRejected = 16  // besides those, about strangers
	recentErrorLen = 256 // bytes of a text
)

// RecentError is an error that has happened on a node, together with its repetitions: those with
// the same peer, handler and text.
type RecentError struct {
	// Time is when it last happened, First when it first happened.
	Time, First time.Time
	// Count is how often it has happened.
	Count int64
	// Peer is the name of the other node, or the network address of a stranger that was refused.
	Peer string
	// Handler is the name of the handler, empty if the error is one of the connection.
	Handler string
	// Role is the side of the call, if there is a handler.
	Role Role
	// Text is the text of the error, cut to 256 bytes. Control characters, invisible characters and
	// those that change the direction of text are escaped, such as \u001b.
	Text string
}

func newestFirst(a, b RecentError) int { return b.Time.Compare(a.Time) }

// errorRing holds the most recent errors. Strangers have a separate one, so that they cannot
// displace what is known about peers. Its zero value is ready.
type errorRing struct {
	mu   sync.Mutex // Protects following.
	ring []RecentError
}

// add records an error. handler is 0 if there is none.
func (r *errorRing) add(peer string, role Role, handler HandlerID, text string) {
	text, _ = visible.Cut(text, recentErrorLen)
	peer, _ = visible.Cut(peer, recentErrorLen) // of a stranger, from a request that a middleware may have changed
	e := RecentError{Time: time.Now(), Count: 1, Peer: peer, Role: role, Text: text}
	if handler != handlerInvalid {
		e.Handler = handler.String()
	}
	e.First = e.Time
	r.mu.Lock()
	defer r.mu.Unlock()
	for i := range r.ring {
		known := &r.ring[i]
		if known.Text == e.Text && known.Peer == e.Peer && known.Handler == e.Handler && known.Role == e.Role {
			known.Time = e.Time
			known.Count++
			return
		}
	}
	if len(r.ring) < recentErrors {
		r.ring = append(r.ring, e)
		return
	}
	r.ring[r.dispensable()] = e
}

// dispensable returns the position of the oldest error of the peers that have the most, so that a
// peer whose errors keep changing displaces only its own. r.mu is held.
func (r *errorRing) dispensable() (place int) {
	counts := make(map[string]int, len(r.ring))
	most := 0
	for i := range r.ring {
		counts[r.ring[i].Peer]++
		most = max(most, counts[r.ring[i].Peer])
	}
	place = -1
	for i := range r.ring {
		if counts[r.ring[i].Peer] == most && (place < 0 || r.ring[i].Time.Before(r.ring[place].Time)) {
			place = i
		}
	}
	return place
}

func (r *errorRing) list() []RecentError {
	r.mu.Lock()
	all := slices.Clone(r.ring)
	r.mu.Unlock()
	slices.SortFunc(all, newestFirst)
	return all
}
