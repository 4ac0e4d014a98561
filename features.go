package grid

// Features are what a node can do beyond the original. It says so in the handshake, in the field
// Grid, which the original skips and does not send. docs/protocol.md has the rules of each.
const (
	// featureNative is a node of this project: between two of them mux IDs are odd and even, a caller
	// who gives a request up says so, and so does a node that leaves; every message has a checksum
	// where there is no TLS, and one message grants many credits.
	featureNative uint32 = 1 << iota
	// featureMetadata is a node that takes metadata.
	featureMetadata
	// featureErrors is a node that tells its own errors from those of its handlers.
	featureErrors

	// featureStreams is a node that ends a stream without an error only where its handler was done by
	// itself, whose streams end without a credit, which hears that a handler has returned before
	// the stream can end, and which says the capacities of a stream when that opens.
	featureStreams uint32 = 1 << 4

	nativeFeatures = featureNative | featureMetadata | featureErrors | featureStreams
)

// takesUpTo takes note of the largest message, in bytes, that the peer takes, where that is less than this node does; 0
// says nothing. What is less than any node takes is not believed. It is called before the session runs.
func (s *session) takesUpTo(peer uint32) {
	if peer == 0 {
		return
	}
	s.peerMaxMessage = max(int(min(peer, maxSize)), minMessageSize)
	if s.peerMaxMessage < s.maxMessage {
		s.maxMessage = s.peerMaxMessage
		s.out = s.newWriter() // puts fewer messages into a frame
	}
}

// agree takes note of the features of the peer, of which those count that this node has too. Any
// feature makes the peer a node of this project. It is called before the session runs.
func (s *session) agree(peer uint32) {
	s.native = peer != 0
	s.features = peer & nativeFeatures
	if s.native && s.checksum != 0 {
		s.frames.SetOnPong(func(payload []byte) { s.forged = s.forged || len(payload) > 0 })
	}
}

// has reports whether both nodes have a feature.
func (s *session) has(feature uint32) bool { return s.features&feature != 0 }
