// Package simnet is a network in memory for tests that run in a testing/synctest bubble, so that
// all its time is virtual.
//
// Connections are net.Conns that behave like TCP at its worst: bytes arrive late and in pieces, but
// always in order; a direction stalls, a connection is reset or goes silent without a word, dials
// are refused, bandwidth is short, a bit is flipped. What happens to the bytes of a connection
// follows from the network's seed and from what is written to it, and when.
//
//	n := simnet.New(seed)
//	n.SetLink("a", "b", simnet.Link{Delay: 20 * time.Millisecond, Segment: 1460})
//	l, err := n.Listen("b:80")
//	conn, err := n.Dialer("a")(ctx, "tcp", "b:80")
//	n.Stall("b", "a", 5*time.Second) // a hears nothing from b
//	n.Cut("a", "b")                  // resets what is open between the two
//
// A network has no goroutines of its own. It may be used by any number of goroutines of its bubble.
package simnet
