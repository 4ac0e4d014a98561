package gridotel

import (
	"context"
	"errors"
	"net/url"
	"strconv"

	"github.com/gridmesh/grid"
	"go.opentelemetry.io/otel/attribute"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
)

// errorTypes are the names of the errors that every grid knows. The first that matches counts.
var errorTypes = []struct {
	err  error
	name string
}{
	{errPanicked, "panic"},
	{context.Canceled, "canceled"},
	{context.DeadlineExceeded, "deadline_exceeded"},
	{grid.ErrUnknownHandler, "unknown_handler"},
	{grid.ErrMessageTooLarge, "message_too_large"},
	{grid.ErrMetadata, "invalid_metadata"},
	{grid.ErrIncorrectSequence, "incorrect_sequence"},
	{grid.ErrDisconnected, "disconnected"},
	{grid.ErrShutdown, "shutdown"},
}

// errorType is a name for an error out of a small number of them.
func errorType(err error) string {
	for _, known := range errorTypes {
		if errors.Is(err, known.err) {
			return known.name
		}
	}
	if grid.IsRemoteErr(err) != nil {
		return "handler_error"
	}
	return semconv.ErrorType(err).Value.AsString()
}

// serverAttributes are the address and port of a node.
func serverAttributes(node string) []attribute.KeyValue {
	host, port := address(node)
	return []attribute.KeyValue{semconv.ServerAddress(host), semconv.ServerPort(port)}
}

// address takes a node's name, which is a URL, apart.
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
