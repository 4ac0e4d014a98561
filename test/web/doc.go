// Package web holds tests of nodes behind the routers and middleware that servers in Go have. They
// are in a module of their own, so that the library does not depend on them.
package web
