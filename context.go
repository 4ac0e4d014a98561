package grid

import "context"

// RemoteClient is the peer that called a handler.
type RemoteClient struct {
	// Name is the peer's name, its base URL.
	Name string
}

// GetCaller returns the peer that called the handler which was given ctx, or
// nil where ctx is no handler's. It must not be changed.
func GetCaller(ctx context.Context) *RemoteClient {
	caller, _ := ctx.Value(callerKey{}).(*RemoteClient)
	return caller
}

// GetSubroute returns the subroute on which the handler that was given ctx was
// called, empty for none.
func GetSubroute(ctx context.Context) string {
	subroute, _ := ctx.Value(subrouteKey{}).(string)
	return subroute
}

type (
	callerKey   struct{}
	subrouteKey struct{}
)

// callerContext carries what a handler may ask of its context.
type callerContext struct {
	context.Context
	caller   *RemoteClient
	subroute string
	metadata *incomingMetadata // nil for none
}

func (c callerContext) Value(key any) any {
	switch key.(type) {
	case callerKey:
		return c.caller
	case subrouteKey:
		return c.subroute
	case incomingKey:
		return c.metadata
	}
	return c.Context.Value(key)
}
