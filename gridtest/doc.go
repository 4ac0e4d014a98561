// Package gridtest runs whole grids in tests: on a virtual network, in virtual time, with handlers
// of your own, while the network fails and nodes crash.
//
// A World is some nodes in a bubble of testing/synctest. Setup makes of each node what it is in
// your program, and is called again at each restart. The test calls the nodes and lets things go
// wrong:
//
//	func TestCounter(t *testing.T) {
//		gridtest.Run(t, counter, gridtest.Nodes(3), gridtest.Setup(func(n *gridtest.Node) error {
//			return NewCounter(n.Manager).Register()
//		}))
//	}
//
//	func counter(t *testing.T, w *gridtest.World) {
//		w.Partition(0)               // node 0 and the others do not hear of each other
//		time.Sleep(time.Minute)      // takes no time
//		w.Heal()
//		w.Chaos(10 * time.Minute)    // all that can go wrong, drawn from the seed
//		w.Eventually(time.Minute, "all count the same", func() bool { ... })
//	}
//
// Run repeats the test with one seed after the other. What goes wrong, and when, follows from the
// seed. A test that fails prints its seed, the command that repeats it, and what has happened, with
// the time of each line. Of more seeds more can be seen: go test . -gridtest.seeds=10000
//
// At the end of each test, the World heals, ends its nodes, and checks what holds for every
// program: that the nodes find each other again, that every call was answered or has failed and no
// stream is left open, that no handler has run more often than it was called, and none has
// panicked, that what one node has sent the other has received, and that neither a goroutine nor a
// connection is left.
//
// # What a seed determines
//
// The faults and their times, what the network does to the bytes of a connection, and the pauses of
// grid between attempts to connect. The order of what happens at the very same moment is that of
// Go's scheduler; so that it is mostly the same, the program runs on one processor while there is a
// World. What depends on more, such as the order of a map, of a select or math/rand, is not the
// same, nor is anything with the race detector, which shuffles goroutines. A failure that depends on
// it may need several attempts: add -count=20. World.Rand and Node.Rand have random numbers that
// follow from the seed.
//
// # What is simulated
//
// Connections behave as those of TCP: what is sent arrives, in order, or the connection breaks. So
// Loss does not lose messages, it delays them, and all that follow. A partition is silent: nodes
// notice it when the other has not answered for Limits.PeerTimeout, and what was sent in the
// meantime arrives if it ends before that.
//
// All nodes have one clock. A goroutine cannot be killed: when a node crashes its connections go
// silent and its contexts end, but code that does not look at its context goes on.
//
// Time passes when all goroutines of the test wait. One that waits for something that is no part of
// the bubble, such as a file, a process or a lock that somebody holds who waits for time to pass,
// keeps it from passing; see testing/synctest.
//
// The folder examples/election has a whole program that is tested so, with a bug to be found.
//
// Start is for tests with real sockets and in real time.
package gridtest
