// Package scale tests a grid that grows and shrinks under load. Its nodes are processes with a
// network namespace each, which find each other in DNS or by gossip.
//
// It is a module of its own because of memberlist, and of what it needs of the operating system:
// README.md says what.
package scale
