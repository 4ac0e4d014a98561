package grid

import (
	"maps"
	"sync"
	"time"
)

// registrationsEnd is after how long without a new handler a node says that it has no others. One
// that comes later takes the time until all peers have learned that there may be more.
const registrationsEnd = 100 * time.Millisecond

// bulletin is what a node tells its peers of itself, and how far each of them knows.
//
// A peer is always told all of it, and again only once it has acknowledged the last of that. So it
// learns the newest, however often something changes, and there is never more than one message on
// its way. A peer refuses calls to handlers that it knows to be missing only while the list is
// final. It trusts in that from when it is told so, until it has acknowledged that it is not; what
// registers a handler waits for that.
type bulletin struct {
	handlers func() *handlerList // that are registered now
	patience time.Duration       // for a peer that trusts

	mu       sync.Mutex // Protects following.
	told     facts      // without handlers
	revision uint32     // of it and the handlers
	readers  map[*reader]struct{}
	timer    *time.Timer // for the end of registrations; nil before open and after close
	encoded  []byte      // the newest revision, for readers that take limit bytes
	limit    int
}

// reader is a peer that a bulletin tells. Its bulletin's lock guards it, but for the first two.
type reader struct {
	send  func(m message) // without waiting
	limit int             // bytes of a payload

	known  uint32        // the revision that was sent last
	final  bool          // it was sent as final
	unread bool          // it was not acknowledged yet
	read   uint32        // the revision that was acknowledged last
	trusts bool          // the peer may take what it has for final
	late   bool          // it has made somebody wait too long, and has not answered since
	next   chan struct{} // closed with the next acknowledgment, or the end; nil where nobody waits for that
}

// letter is a message to a reader.
type letter struct {
	to *reader
	m  message
}

func newBulletin(version string, labels map[string]string, patience time.Duration) *bulletin {
	return &bulletin{
		handlers: func() *handlerList { return new(handlerList) },
		patience: patience,
		told:     facts{version: version, labels: maps.Clone(labels)},
		readers:  make(map[*reader]struct{}),
	}
}

// open begins to tell of the handlers.
func (b *bulletin) open(handlers func() *handlerList) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.handlers = handlers
	b.timer = time.AfterFunc(registrationsEnd, b.settle)
}

// close stops the timer.
func (b *bulletin) close() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.timer != nil {
		b.timer.Stop()
		b.timer = nil
	}
}

// now returns what is told, without the handlers.
func (b *bulletin) now() facts {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.told
}

// first returns what a new peer, which takes so many bytes, is told before anything else.
func (b *bulletin) first(limit int) (payload []byte, revision uint32) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.encode(limit), b.revision
}

// join begins to tell a peer what changes. It has the revision r.known.
func (b *bulletin) join(r *reader) {
	b.mu.Lock()
	r.read = r.known
	b.readers[r] = struct{}{}
	letters := b.due(nil, r)
	b.mu.Unlock()
	post(letters)
}

// leave ends what join has begun.
func (b *bulletin) leave(r *reader) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.readers, r)
	r.trusts = false
	r.tell()
}

// acknowledged notes that a peer has read a revision, and tells it of the next. It reports whether
// the peer was sent that.
func (b *bulletin) acknowledged(r *reader, revision uint32) bool {
	b.mu.Lock()
	if !r.unread || r.known != revision {
		b.mu.Unlock()
		return false
	}
	r.unread, r.late, r.read = false, false, revision
	r.trusts = r.final
	r.tell()
	letters := b.due(nil, r)
	b.mu.Unlock()
	post(letters)
	return true
}

// change changes what is told, and tells it.
func (b *bulletin) change(f func(told *facts)) {
	b.mu.Lock()
	f(&b.told)
	letters := b.publish()
	b.mu.Unlock()
	post(letters)
}

// registered tells of a new handler. It returns when no peer that is connected takes a list without
// it for final; a peer that does not answer is waited for until patience ends, and the next time not
// at all.
func (b *bulletin) registered() {
	b.mu.Lock()
	b.told.final = false
	if b.timer != nil {
		b.timer.Reset(registrationsEnd)
	}
	letters, revision := b.publish(), b.revision
	var trusting []*reader
	for r := range b.readers {
		if r.trusts && !r.late {
			trusting = append(trusting, r)
		}
	}
	b.mu.Unlock()
	post(letters)
	if len(trusting) == 0 {
		return
	}
	timer := time.NewTimer(b.patience)
	defer timer.Stop()
	for _, r := range trusting {
		for next := b.misses(r, revision); next != nil; next = b.misses(r, revision) {
			select {
			case <-next:
			case <-timer.C:
				b.giveUp(trusting, revision)
				return
			}
		}
	}
}

// misses returns nil if a peer does not take a list before a revision for final. Otherwise it returns
// a channel that is closed when that may have changed.
func (b *bulletin) misses(r *reader, revision uint32) <-chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	return r.misses(revision)
}

// giveUp notes which of some peers have not answered in time.
func (b *bulletin) giveUp(trusting []*reader, revision uint32) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, r := range trusting {
		r.late = r.late || r.misses(revision) != nil
	}
}

// settle says that there are no more handlers.
func (b *bulletin) settle() {
	b.mu.Lock()
	var letters []letter
	if b.timer != nil {
		b.told.final = true
		letters = b.dueAll()
	}
	b.mu.Unlock()
	post(letters)
}

// publish makes a new revision of what is told. b.mu is held.
func (b *bulletin) publish() []letter {
	b.revision++
	b.encoded = nil
	return b.dueAll()
}

func (b *bulletin) dueAll() (letters []letter) {
	for r := range b.readers {
		letters = b.due(letters, r)
	}
	return letters
}

// due appends what a reader is to be sent now, if anything. b.mu is held.
func (b *bulletin) due(letters []letter, r *reader) []letter {
	if r.unread || r.known == b.revision && r.final == b.told.final {
		return letters
	}
	m := message{Seq: b.revision, Op: OpFacts}
	if r.known != b.revision {
		m.Payload = b.encode(r.limit)
	}
	if b.told.final {
		m.Flags |= FlagEOF
		r.trusts = true
	}
	r.known, r.final, r.unread = b.revision, b.told.final, true
	return append(letters, letter{r, m})
}

// encode returns the newest revision in at most so many bytes. b.mu is held.
func (b *bulletin) encode(limit int) []byte {
	if b.encoded == nil || b.limit != limit {
		all := b.told
		all.handlers = *b.handlers()
		b.encoded, b.limit = all.encode(limit), limit
	}
	return b.encoded
}

// misses is misses of the bulletin, whose lock is held.
func (r *reader) misses(revision uint32) chan struct{} {
	if !r.trusts || int32(r.read-revision) >= 0 {
		return nil
	}
	if r.next == nil {
		r.next = make(chan struct{})
	}
	return r.next
}

// tell wakes those who wait for the peer.
func (r *reader) tell() {
	if r.next != nil {
		close(r.next)
		r.next = nil
	}
}

// post sends letters. A reader has one at a time, so they cannot overtake each other.
func post(letters []letter) {
	for _, l := range letters {
		l.to.send(l.m)
	}
}
