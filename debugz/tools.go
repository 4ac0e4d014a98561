package debugz

import (
	"context"
	"crypto/rand"
	"errors"
	"iter"
	"slices"
	"time"

	"github.com/gridmesh/grid"
)

// HandlerInfo is a handler of a node, as the node tells others.
type HandlerInfo struct {
	// ID and Name are those of the handler. A method has its own name, and grid.HandlerNamed as ID.
	ID   grid.HandlerID
	Name string
	// Subroute is that of the handler; a method has none.
	Subroute string `json:",omitempty"`
	// Stream reports whether it is a handler of streams.
	Stream bool `json:",omitempty"`
}

// TapOptions chooses the calls to watch. Its zero value chooses all but those of this package's own
// methods.
type TapOptions struct {
	// Handler is a pattern of the handlers' names, as path.Match has them, such as "kv.*"; here a *
	// also stands for slashes.
	Handler string `json:",omitempty"`
	// Peer is a part of the name of the other node.
	Peer string `json:",omitempty"`
	// Errors leaves out calls that went well.
	Errors bool `json:",omitempty"`
	// Slower leaves out calls that took less.
	Slower time.Duration `json:",omitempty"`
	// Types are those of the traces; 0 stands for all.
	Types grid.TraceType `json:",omitempty"`
}

// Tapped are the calls that have ended since the last look, in the order in which they ended.
type Tapped struct {
	Traces []grid.TraceInfo
	// Dropped is how many calls were left out since the tap began, because whoever watches is too
	// slow.
	Dropped int64
}

// toolPrefix begins the names of this package's methods.
const toolPrefix = "debugz."

var (
	handlersMethod = grid.NewMethodCodec[struct{}, []HandlerInfo](toolPrefix+"Handlers", grid.JSONCodec)
	tracesMethod   = grid.NewMethodCodec[tapRequest, Tapped](toolPrefix+"Traces", grid.JSONCodec)
)

// tapRequest is a look at what a tap has seen. The first one begins it.
type tapRequest struct {
	ID string // chosen at random by whoever watches
	TapOptions
	End bool // it is the last look
}

// RegisterTools lets operators ask this node over the grid: which handlers it has, as gridctl call
// -list does, and which calls it makes and serves, as they end, as gridctl tap does. These are the
// methods "debugz.Handlers" and "debugz.Traces".
//
// Traces show who calls what, and the texts of errors. So allow decides who may ask, by the name with
// which the caller was let in; nil stands for the hosts, and not for guests. Eight may watch at the
// same time. Calls wait for none of them.
func RegisterTools(m *grid.Manager, allow func(caller string) bool) error {
	if m == nil {
		return errors.New("debugz: no manager")
	}
	if allow == nil {
		allow = func(caller string) bool { return slices.Contains(m.Targets(), caller) }
	}
	// allowed returns who asks, who may.
	allowed := func(ctx context.Context) (caller string, err error) {
		if c := grid.GetCaller(ctx); c != nil && allow(c.Name) {
			return c.Name, nil
		}
		return "", grid.NewError(grid.PermissionDenied, "this node does not tell that to everybody; see debugz.RegisterTools")
	}
	t := &taps{m: m, open: make(map[tapKey]*tap)}
	return errors.Join(
		handlersMethod.Handle(m, func(ctx context.Context, _ *struct{}) (*[]HandlerInfo, error) {
			if _, err := allowed(ctx); err != nil {
				return nil, err
			}
			all := handlersOf(m)
			return &all, nil
		}),
		tracesMethod.Handle(m, func(ctx context.Context, r *tapRequest) (*Tapped, error) {
			caller, err := allowed(ctx)
			if err != nil {
				return nil, err
			}
			return t.look(ctx, caller, r)
		}),
	)
}

func handlersOf(m *grid.Manager) (all []HandlerInfo) {
	for _, h := range m.Stats().Handlers {
		if h.Role == grid.RoleServer {
			all = append(all, HandlerInfo{h.ID, h.Name, h.Subroute, h.Stream})
		}
	}
	return all
}

// Handlers asks a node for its handlers. The node must have called RegisterTools.
func Handlers(ctx context.Context, node grid.Caller) ([]HandlerInfo, error) {
	all, err := handlersMethod.Call(ctx, node, &struct{}{})
	if err != nil {
		return nil, err
	}
	return *all, nil
}

// Tap watches the calls of a node until ctx ends or the loop is left. The node must have called
// RegisterTools. An error is the last element. A Tapped without traces comes about once a second while
// there are none.
func Tap(ctx context.Context, node grid.Caller, o TapOptions) iter.Seq2[*Tapped, error] {
	return func(yield func(*Tapped, error) bool) {
		r := &tapRequest{ID: rand.Text(), TapOptions: o}
		defer func() {
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), tapWait)
			defer cancel()
			r.End = true
			_, _ = tracesMethod.Call(ctx, node, r) // else it ends by itself
		}()
		for {
			got, err := tracesMethod.Call(ctx, node, r)
			if !yield(got, err) || err != nil {
				return
			}
		}
	}
}
