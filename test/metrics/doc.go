// Package metrics tests the rules of package gridprom with a real Prometheus, which scrapes nodes
// that fail.
package metrics
