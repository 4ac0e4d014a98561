package grid

import (
	"context"

	"github.com/gridmesh/grid/internal/batch"
)

// Priority says which calls pass others where they wait to be sent.
type Priority uint8

const (
	// PriorityNormal is the priority of calls that have no other.
	PriorityNormal Priority = iota
	// PriorityHigh is for small messages that others depend on, such as heartbeats, leases, and the
	// messages of a consensus protocol.
	PriorityHigh
)

// WithPriority returns a context whose requests and streams have a priority, in place of that of
// Manager.SetPriority. A nil ctx stands for context.Background.
//
// The messages of a call with PriorityHigh, and its answers, pass those of other calls that wait to
// be sent on the same connection: in line for room in the send queue, in the queue, and between the
// pieces of large messages. They keep their own order. As long as others wait, at least a quarter of
// the bytes is theirs, so that they do not starve. What the kernel has taken is not passed, nor does
// a handler run earlier.
//
// If a peer does not support priorities, such as a node of the original, its answers have none. A
// handler's own calls do not have the priority with which it was called.
func WithPriority(ctx context.Context, p Priority) context.Context {
	if ctx == nil {
		ctx = context.Background()
	}
	return changeOutgoing(ctx, func(out *outgoing) { out.priority, out.prioritized = p, true })
}

// outgoing is what a caller's context says of the calls that are made with it.
type outgoing struct {
	metadata    *outgoingMetadata // nil for none
	priority    Priority
	prioritized bool            // priority is set
	endless     bool            // requests need no deadline
	answer      *AnswerMetadata // where the metadata of answers goes; nil for nowhere
}

type outgoingKey struct{}

// outgoingOf returns what ctx says; nil for nothing.
func outgoingOf(ctx context.Context) *outgoing {
	out, _ := ctx.Value(outgoingKey{}).(*outgoing)
	return out
}

// changeOutgoing returns a context that says something else than ctx, and otherwise the same.
func changeOutgoing(ctx context.Context, change func(*outgoing)) context.Context {
	out := outgoing{}
	if outer := outgoingOf(ctx); outer != nil {
		out = *outer
	}
	change(&out)
	return context.WithValue(ctx, outgoingKey{}, &out)
}

// lane returns the lane for messages of a priority.
func (p Priority) lane() batch.Lane {
	if p >= PriorityHigh {
		return batch.High
	}
	return batch.Normal
}

// priorityFlag returns the flag that asks for answers in the same lane, if the peer knows it.
func (a *agreement) priorityFlag(l batch.Lane) Flags {
	if l == batch.High && a.has(featurePriorities) {
		return FlagPriority
	}
	return 0
}

// takePriority puts a call of the peer, and so its answers, in the lane that the peer asks for.
func (a *agreement) takePriority(m *message) {
	if m.opens() && m.Flags&FlagPriority != 0 && a.has(featurePriorities) {
		m.lane = batch.High
	}
}
