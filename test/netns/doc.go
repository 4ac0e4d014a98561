// Package netns tests nodes of a grid on a network that fails. Each node has a network namespace,
// and with it a TCP stack and addresses of its own; its cable ends in the test, which carries,
// delays, loses or spoils what goes over it.
//
// It is a module of its own because of what it needs of the operating system: README.md says what.
package netns
