// Package compat tests nodes of this state of the library with nodes of earlier ones: each is a
// process, whose program is in folder node, built with the library of its state.
package compat
