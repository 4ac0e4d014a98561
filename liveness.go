package grid

import (
	"time"

	"github.com/gridmesh/grid/internal/batch"
	"github.com/gridmesh/grid/internal/wsframe"
)

// minProgress is the number of bytes of an unfinished message that are a sign
// of life. So a message may come in as slowly as that many bytes in each
// PeerTimeout, 3 KiB/s with the default: no link in use is slower, and nobody
// can make this node hold a message forever with a byte now and then.
const minProgress = 64 << 10

// pulse tells a peer that is slow from one that is gone. It looks at what the
// reader and the flusher count anyway, once in each round of the janitor.
type pulse struct {
	heard time.Time // the last sign of life

	whole, bytes uint64 // received at that time
	seen         uint64 // bytes received at the last look
	flushes      uint64 // at the last look
}

// start takes note of what was received before the session. The reader calls it.
func (p *pulse) start(now time.Time, in *wsframe.Reader) {
	p.heard = now
	p.whole, p.bytes = in.Received()
	p.seen = p.bytes
}

// feel says for how long the peer has been silent, and whether the connection
// has been busy with a single large message since the last look, in either
// direction: then nothing else gets through, which is no stream's fault.
func (p *pulse) feel(now time.Time, in *wsframe.Reader, out *batch.Writer) (silent time.Duration, busy bool) {
	whole, bytes := in.Received()
	flushes, writing := out.Flushes()
	busy = whole == p.whole && bytes != p.seen || writing && flushes == p.flushes
	p.seen, p.flushes = bytes, flushes
	if whole != p.whole || bytes-p.bytes >= minProgress {
		p.heard, p.whole, p.bytes = now, whole, bytes
	}
	return now.Sub(p.heard), busy
}
