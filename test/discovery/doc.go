// Package discovery tests nodes that find each other with a real DNS server, whose answers change
// while they run.
package discovery
