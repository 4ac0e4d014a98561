package grid

// Features are what a node can do beyond the original. It says so in the handshake, in the field
// Grid, which the original skips and does not send. docs/protocol.md has the rules of each.
const (
	// featureNative is a node of this project: between two of them mux IDs are odd and even, a
	// caller who gives a request up says so, and so does a node that leaves; every message has a
	// checksum where there is no TLS, and one message grants many credits.
	featureNative uint32 = 1 << iota
	// featureMetadata is a node that takes metadata.
	featureMetadata
	// featureErrors is a node that tells its own errors from those of its handlers.
	featureErrors

	// featureStreams is a node that ends a stream without an error only where its handler was done
	// by itself, whose streams end without a credit, which hears that a handler has returned before
	// the stream can end, and which says the capacities of a stream when that opens.
	featureStreams uint32 = 1 << 4

	nativeFeatures = featureNative | featureMetadata | featureErrors | featureStreams
)

// agreement is what the two nodes of a session have told each other in the handshake.
type agreement struct {
	features       uint32 // that both nodes have
	maxMessage     int    // bytes of the largest message that both nodes take
	peerMaxMessage int    // what the peer has said of that; 0 where it has not
}

// agree returns what a node that takes messages of maxMessage bytes has in common with a peer that
// says it has features and takes messages of peerMax bytes. Any feature makes the peer a node of
// this project. A peerMax of 0 says nothing, and what is less than any node takes is not believed.
func agree(maxMessage int, features, peerMax uint32) agreement {
	a := agreement{features: features & nativeFeatures, maxMessage: maxMessage}
	if features != 0 {
		a.features |= featureNative
	}
	if peerMax != 0 {
		a.peerMaxMessage = max(int(min(peerMax, maxSize)), minMessageSize)
		a.maxMessage = min(a.maxMessage, a.peerMaxMessage)
	}
	return a
}

// has reports whether both nodes have a feature.
func (a *agreement) has(feature uint32) bool { return a.features&feature != 0 }
