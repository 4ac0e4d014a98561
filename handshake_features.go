package grid

// Features are what a node can do beyond the original. It announces them in the handshake field
// Grid, which the original skips and does not send. docs/protocol.md has the rules of each.
const (
	// featureNative marks a node of this project. Between two of them, mux IDs are odd and even; a
	// caller that gives up a request says so, and so does a node that leaves; every message has a
	// checksum unless TLS protects it; and one message grants many credits.
	featureNative uint32 = 1 << iota
	// featureMetadata marks a node that takes metadata.
	featureMetadata
	// featureErrors marks a node that distinguishes its own errors from those of its handlers.
	featureErrors

	// featureStreams marks a node that ends a stream without an error only if its handler returned
	// by itself, whose streams end without a credit, that learns of a handler's return before the
	// stream can end, and that states the capacities of a stream when it opens.
	featureStreams uint32 = 1 << 4
	// featurePieces marks a node that takes large messages in pieces.
	featurePieces uint32 = 1 << 5
	// featureWindows marks a node that counts how far one side of a stream may be ahead in bytes,
	// as its receiver grants them, and no longer in messages. Such a node has featureStreams.
	featureWindows uint32 = 1 << 6

	nativeFeatures = featureNative | featureMetadata | featureErrors | featureStreams | featurePieces | featureWindows
)

// agreement is what the two nodes of a session have told each other in the handshake.
type agreement struct {
	features       uint32 // that both nodes have
	maxMessage     int    // bytes of the largest message that both nodes take
	peerMaxMessage int    // what the peer takes, as it said; 0 if it did not
}

// agree returns what a node that takes messages of maxMessage bytes has in common with a peer that
// announces features and takes messages of peerMax bytes. Any feature makes the peer a node of this
// project. A peerMax of 0 says nothing; one below minMessageSize is not believed.
func agree(maxMessage int, features, peerMax uint32) agreement {
	a := agreement{features: features & nativeFeatures, maxMessage: maxMessage}
	if features != 0 {
		a.features |= featureNative
	}
	if !a.has(featureStreams) {
		a.features &^= featureWindows
	}
	if peerMax != 0 {
		a.peerMaxMessage = max(int(min(peerMax, maxSize)), minMessageSize)
		a.maxMessage = min(a.maxMessage, a.peerMaxMessage)
	}
	return a
}

// has reports whether both nodes have a feature.
func (a *agreement) has(feature uint32) bool { return a.features&feature != 0 }
