package grid

import "context"

// Call sends one request to a method of the peer, such as "kv.Get", which Manager.Handle has
// registered there, and waits for its answer. It is Request with a name in place of a number, and
// costs the same: each name is hashed once, unless a program calls more than 1,024 different ones.
// What cannot be a name gets ErrUnknownHandler.
func (c *Connection) Call(ctx context.Context, method string, req []byte) ([]byte, error) {
	to, err := calledMethods.to(method)
	if err != nil {
		return nil, err
	}
	return c.request(ctx, HandlerNamed, to, req)
}

// OpenStream opens a stream to a method of the peer, which Manager.HandleStream has registered there.
// It is NewStream with a name in place of a number, but for two things: this node need not know the
// method, and the stream has no Requests, so that it takes no goroutine: use Send and Recv. If the
// peer is a node of the original, the method's InCapacity and OutCapacity there must be 16.
func (c *Connection) OpenStream(ctx context.Context, method string, payload []byte) (*Stream, error) {
	to, err := calledMethods.to(method)
	if err != nil {
		return nil, err
	}
	return c.openStream(ctx, HandlerNamed, to, payload, true)
}

// HandlesMethod is Handles for a method.
func (c *Connection) HandlesMethod(method string) bool {
	to, err := calledMethods.to(method)
	return err == nil && c.handlesRoute(HandlerNamed, to)
}

// handlesRoute is Handles on a route, which is nil for none.
func (c *Connection) handlesRoute(h HandlerID, to *route) bool {
	return c.handles(h, to, false) || c.handles(h, to, true)
}

// Call is Connection.Call with the subroute in front of the name: on the subroute "disks/sda",
// "Stat" calls the method "disks/sda/Stat".
func (s *Subroute) Call(ctx context.Context, method string, req []byte) ([]byte, error) {
	if s == nil {
		return nil, ErrDisconnected
	}
	to, err := s.toMethod(method)
	if err != nil {
		return nil, err
	}
	return s.Connection.request(ctx, HandlerNamed, to, req)
}

// OpenStream is Connection.OpenStream with the subroute in front of the name.
func (s *Subroute) OpenStream(ctx context.Context, method string, payload []byte) (*Stream, error) {
	if s == nil {
		return nil, ErrDisconnected
	}
	to, err := s.toMethod(method)
	if err != nil {
		return nil, err
	}
	return s.Connection.openStream(ctx, HandlerNamed, to, payload, true)
}

// HandlesMethod is Connection.HandlesMethod with the subroute in front of the name.
func (s *Subroute) HandlesMethod(method string) bool {
	if s == nil {
		return false
	}
	to, err := s.toMethod(method)
	return err == nil && s.handlesRoute(HandlerNamed, to)
}

// subrouteMethod is a method that was called on a subroute. It is never changed.
type subrouteMethod struct {
	name string // without the subroute
	to   *route
	next *subrouteMethod
	size int // of the list
}

// maxSubrouteMethods is how many methods a Subroute knows the routes to. The others take a look at
// those that the process knows, by a name that has to be put together.
const maxSubrouteMethods = 32

// toMethod returns the route to a method on the subroute.
func (s *Subroute) toMethod(name string) (*route, error) {
	first := s.methods.Load()
	for m := first; m != nil; m = m.next {
		if m.name == name {
			return m.to, nil
		}
	}
	whole := name // also where that is empty, which is no name
	if name != "" {
		whole = joinRoute(s.route, name)
	}
	to, err := calledMethods.to(whole)
	if err != nil {
		return nil, err
	}
	m := &subrouteMethod{name: name, to: to, next: first, size: 1}
	if first != nil {
		m.size += first.size
	}
	if m.size <= maxSubrouteMethods {
		s.methods.CompareAndSwap(first, m) // or the next call does
	}
	return to, nil
}
