package gridotel

import (
	"errors"
	"net/url"
	"strconv"

	"github.com/gridmesh/grid"
	"go.opentelemetry.io/otel/attribute"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
)

// errorType returns one of a small number of names for an error: that of its class if the grid has
// one.
func errorType(err error, class grid.ErrorClass) string {
	switch {
	case errors.Is(err, errPanicked):
		return "panic"
	case class == grid.ErrorOther: // such as that of an interceptor
		return semconv.ErrorType(err).Value.AsString()
	}
	return class.String()
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
