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
	// Handler is the name of the method or the handler, empty if the error is one of the connection.
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
	mu     sync.Mutex // Protects following.
	ring   []RecentError
	counts map[string]int // of the errors in ring, by peer
}

// add records an error. to is noHandler if there is none.
func (r *errorRing) add(peer string, role Role, to target, text string) {
	text, _ = visible.Cut(text, recentErrorLen)
	peer, _ = visible.Cut(peer, recentErrorLen) // of a stranger, from a request that a middleware may have changed
	e := RecentError{Time: time.Now(), Count: 1, Peer: peer, Role: role, Text: text}
	if to != noHandler {
		e.Handler = to.String()
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
	} else {
		old := &r.ring[r.dispensable()]
		if r.counts[old.Peer]--; r.counts[old.Peer] == 0 {
			delete(r.counts, old.Peer)
		}
		*old = e
	}
	if r.counts == nil {
		r.counts = make(map[string]int)
	}
	r.counts[e.Peer]++
}

// dispensable returns the position of the oldest error of the peers that have the most, so that a
// peer whose errors keep changing displaces only its own. r.mu is held.
func (r *errorRing) dispensable() (place int) {
	most := 0
	for i := range r.ring {
		count := r.counts[r.ring[i].Peer]
		if count > most || count == most && r.ring[i].Time.Before(r.ring[place].Time) {
			most, place = count, i
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
