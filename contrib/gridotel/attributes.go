package gridotel

import (
	"net/url"
	"strconv"

	"github.com/gridmesh/grid"
	"go.opentelemetry.io/otel/attribute"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
)

// outcome is how a call ended.
type outcome struct {
	code   grid.Code
	kind   string // error.type
	failed bool   // as seen from the side it is of; only then the kind counts
}

// outcome returns how a call ended, from its error. A caller's call fails with any error. A handler
// has failed only if the code of its error says so: a caller may give up when it likes, or ask for
// what does not exist. These are the rules of the conventions for gRPC, which has the same codes.
func (c *call) outcome(err error) outcome {
	if err == errPanicked {
		return outcome{grid.Internal, "panic", true}
	}
	class := c.classify(err)
	o := outcome{code: codeOf(class, err), kind: class.String()}
	switch {
	case class == grid.ErrorNone, class == grid.ErrorLeft:
	case c.client():
		o.failed = true
	default:
		switch o.code {
		case grid.Unknown, grid.DeadlineExceeded, grid.Unimplemented, grid.Internal, grid.Unavailable, grid.DataLoss:
			o.failed = true
		}
	}
	return o
}

// classify is grid.Classify on the caller's side. On the other side every RemoteErr is the
// handler's own, whatever its text, and so is an error that another interceptor returned in place
// of the handler.
func (c *call) classify(err error) grid.ErrorClass {
	class := grid.Classify(c.ctx, err)
	if !c.client() {
		if _, said := err.(*grid.RemoteErr); said || class == grid.ErrorOther {
			return grid.ErrorHandler
		}
	}
	return class
}

// codeOf is grid.CodeOf, also for an error that is the cause of a context.
func codeOf(class grid.ErrorClass, err error) grid.Code {
	switch class {
	case grid.ErrorCanceled, grid.ErrorLeft:
		return grid.Canceled
	case grid.ErrorDeadline:
		return grid.DeadlineExceeded
	}
	return grid.CodeOf(err)
}

// serverAttributes are the address and port of a node.
func serverAttributes(node string) []attribute.KeyValue {
	host, port := address(node)
	return []attribute.KeyValue{semconv.ServerAddress(host), semconv.ServerPort(port)}
}

// address splits a node's name, which is a URL.
func address(node string) (host string, port int) {
	u, err := url.Parse(node)
	if err != nil {
		return node, 0
	}
	if port, err = strconv.Atoi(u.Port()); err != nil {
		port = map[string]int{"http": 80, "https": 443}[u.Scheme]
	}
	return u.Hostname(), port
}
