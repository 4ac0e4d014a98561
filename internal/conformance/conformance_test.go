// Package conformance holds nodes against RFC 6455 and the upgrade of HTTP, over real sockets: as
// the server and as the client, with the exported API on this side and raw bytes on the other.
package conformance
