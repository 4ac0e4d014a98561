package dump

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/gridmesh/grid"
	"github.com/gridmesh/grid/cmd/gridctl/internal/wire"
)

// describe makes a line of a message.
func (h *half) describe(at time.Time, m *wire.Message) *Line {
	l := &Line{
		Time: at, From: h.from, To: h.to, Op: m.Op.String(), MuxID: m.MuxID, Seq: m.Seq,
		Size: len(m.Payload), Metadata: m.Metadata,
	}
	if m.Flags != 0 {
		l.Flags = m.Flags.String()
	}
	if m.Sum == wire.SumWrong {
		l.Wrong = "the checksum is wrong"
	}
	if h.options.Payloads {
		l.Payload = m.Payload
	}
	l.Handler = h.handler(m)
	l.Detail = h.detail(m)
	return l
}

// maxCalls bounds how many calls are remembered.
const maxCalls = 1 << 16

// calls are the handlers of the calls of one side, by mux ID.
type calls map[uint64]string

// handler returns the handler that a message is about, if that is known.
func (h *half) handler(m *wire.Message) string {
	side := h.side()
	switch m.Op {
	case grid.OpRequest, grid.OpConnectMux:
		name := h.names.of(m)
		if h.calls[side] == nil || len(h.calls[side]) >= maxCalls {
			h.calls[side] = make(calls)
		}
		h.calls[side][m.MuxID] = name
		return name
	case wire.OpPiece:
		if inner, _, err := wire.ParseHead(m.Payload); m.DeadlineMS > 0 && err == nil && (inner.Op == grid.OpRequest || inner.Op == grid.OpConnectMux) {
			if inner.Flags&grid.FlagSubroute != 0 { // it is in the last piece
				return ""
			}
			return h.names.of(&inner)
		}
		return cmp.Or(h.calls[side][m.MuxID], h.calls[1-side][m.MuxID])
	case grid.OpMuxClientMsg, grid.OpDisconnectServerMux, grid.OpUnblockSrvMux:
		return h.calls[side][m.MuxID]
	case grid.OpPing:
		if m.MuxID == 0 {
			return ""
		}
		return h.calls[side][m.MuxID]
	}
	name := h.calls[1-side][m.MuxID]
	if m.Op == grid.OpResponse || m.Op == grid.OpMuxConnectError || m.Op == grid.OpDisconnectClientMux {
		delete(h.calls[1-side], m.MuxID)
	}
	return name
}

// detail returns what else is worth a look.
func (h *half) detail(m *wire.Message) string {
	switch m.Op {
	case grid.OpConnect:
		c, err := wire.ParseConnect(m.Payload)
		if err != nil {
			return "malformed: " + err.Error()
		}
		text := "it is " + c.Host
		if c.To != "" {
			text += " and wants " + c.To
		}
		return text + said(c.Grid, c.Max)
	case grid.OpConnectResponse:
		r, err := wire.ParseResponse(m.Payload)
		switch {
		case err != nil:
			return "malformed: " + err.Error()
		case !r.Accepted:
			return "rejected: " + r.Reason
		}
		return "accepted by " + cmp.Or(r.Host, "it") + said(r.Grid, r.Max)
	case grid.OpMuxConnectError:
		return "error: " + wire.ErrorText(m.Payload)
	case grid.OpPong:
		if text := wire.PongError(m.Payload); text != "" {
			return "error: " + text
		}
		return ""
	case wire.OpFacts:
		return factsText(m)
	case wire.OpPiece:
		return pieceText(m)
	case wire.OpAckPieces:
		return fmt.Sprintf("%d bytes were read", m.Seq)
	case grid.OpAckMux:
		return fmt.Sprintf("takes %d ahead", m.DeadlineMS)
	case grid.OpUnblockSrvMux, grid.OpUnblockClMux:
		if m.Flags&grid.FlagEOF != 0 {
			return "the handler has returned" + errorText(m)
		}
		return fmt.Sprintf("grants %d", max(m.DeadlineMS, 1))
	case grid.OpConnectMux:
		text := fmt.Sprintf("takes %d ahead", m.Seq)
		if m.DeadlineMS > 0 {
			text += fmt.Sprintf(", within %v", time.Duration(m.DeadlineMS)*time.Millisecond)
		}
		return text
	case grid.OpRequest:
		if m.DeadlineMS == 0 {
			return ""
		}
		return fmt.Sprintf("within %v", time.Duration(m.DeadlineMS)*time.Millisecond)
	}
	return strings.TrimPrefix(errorText(m), ", ")
}

func errorText(m *wire.Message) string {
	if m.Flags&grid.FlagPayloadIsErr == 0 {
		return ""
	}
	return ", error: " + string(m.Payload)
}

// said lists what a node has said of what it can do.
func said(features, largest uint32) string {
	if features == 0 {
		return ", a node of the original"
	}
	return fmt.Sprintf(", with %s, messages of up to %d bytes", strings.Join(wire.FeatureNames(features), " "), largest)
}

func factsText(m *wire.Message) string {
	final := ""
	if m.Flags&grid.FlagEOF != 0 {
		final = ", and no others"
	}
	if len(m.Payload) == 0 {
		return "nothing new" + final
	}
	f, err := wire.ParseFacts(m.Payload)
	if err != nil {
		return "malformed: " + err.Error()
	}
	var parts []string
	if f.Version != "" {
		parts = append(parts, "version "+f.Version)
	}
	for _, key := range slices.Sorted(maps.Keys(f.Labels)) {
		parts = append(parts, key+"="+f.Labels[key])
	}
	if f.Draining {
		parts = append(parts, "draining")
	}
	requests, streams := len(f.Requests.IDs)+len(f.Requests.Routes), len(f.Streams.IDs)+len(f.Streams.Routes)
	return strings.Join(append(parts, fmt.Sprintf("%d handlers of requests and %d of streams%s", requests, streams, final)), ", ")
}

func pieceText(m *wire.Message) string {
	switch {
	case m.DeadlineMS == 0 && m.Seq == 0 && len(m.Payload) == 0:
		return "given up"
	case m.DeadlineMS == 0 && m.Seq == 0:
		return "the last one"
	case m.DeadlineMS == 0:
		return fmt.Sprintf("%d bytes follow", m.Seq)
	}
	what := "a message"
	if inner, _, err := wire.ParseHead(m.Payload); err == nil {
		what = inner.Op.String()
	}
	return fmt.Sprintf("the first one of %s with %d bytes, %d follow", what, m.DeadlineMS, m.Seq)
}

// names knows the names of handlers.
type names struct{ methods map[wire.RouteKey]string }

// ownMethods are those of package debugz.
var ownMethods = []string{"debugz.Cluster", "debugz.Status", "debugz.Handlers", "debugz.Traces"}

func newNames(methods []string) *names {
	n := &names{make(map[wire.RouteKey]string)}
	for _, name := range append(slices.Clone(ownMethods), methods...) {
		n.methods[wire.KeyOf(grid.HandlerNamed, name)] = name
	}
	return n
}

// of returns the name of the handler that a message calls. Of an unknown method that is its hash.
func (n *names) of(m *wire.Message) string {
	if m.Subroute == nil {
		return m.Handler.String()
	}
	key := wire.KeyOfSubroute(m.Subroute)
	if m.Handler != grid.HandlerNamed {
		return m.Handler.String() + " on #" + key.String()[2:]
	}
	if name, ok := n.methods[key]; ok {
		return name
	}
	return "#" + key.String()[2:]
}
