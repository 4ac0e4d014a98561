package grid

import "time"

// run collects messages of one stream that follow each other in a frame, so that they reach their
// consumer under one lock. It is the reader's alone.
type run struct {
	mux      *muxClient // nil for none
	payloads [][]byte   // room for maxRun, made for the first one
	bytes    int        // of memory that they hold
}

// maxRun is how many messages a run has at most.
const maxRun = 16

// joins reports whether a message may be one of a run: it has nothing but a payload.
func (m *message) joins() bool {
	return m.Op == OpMuxServerMsg && m.Flags&(FlagEOF|FlagPayloadIsErr|FlagMetadata) == 0 && !m.checked
}

// collect adds a message that came now to the run of its stream, which is the present one or begins.
func (x *muxes) collect(mux *muxClient, m *message, now time.Time) {
	r := &x.run
	if mux.late || !mux.inOrder(m) {
		return
	}
	if r.mux == nil {
		r.mux = mux
		mux.heard.Store(int64(now.Sub(x.began)))
	}
	if r.payloads == nil {
		r.payloads = make([][]byte, 0, maxRun)
	}
	b := m.ownPayload()
	r.payloads = append(r.payloads, b)
	if r.bytes += held(b); len(r.payloads) == maxRun || r.bytes >= maxLentBytes {
		x.deliverRun()
	}
}

// endRun delivers what is collected. It is called at the end of each frame, before any message
// that does not join a run, and so before the reader waits.
func (x *muxes) endRun() {
	x.deliverRun()
	x.run.mux = nil
}

// collecting reports whether a run is not delivered yet.
func (x *muxes) collecting() bool { return x.run.mux != nil }

// deliverRun hands what is collected to the stream.
func (x *muxes) deliverRun() {
	r := &x.run
	if len(r.payloads) == 0 {
		return
	}
	r.mux.deliverAll(r.payloads, r.bytes)
	clear(r.payloads)
	r.payloads, r.bytes = r.payloads[:0], 0
}
