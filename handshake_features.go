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
	// featurePriorities marks a node that answers a call with FlagPriority before others.
	featurePriorities uint32 = 1 << 7

	// featureFacts marks a node that says of itself what it is, and which handlers it has.
	featureFacts uint32 = 1 << 8

	// featureAnswers marks a node that takes metadata and codes with the answers of handlers, and
	// several values of a key. Such a node has featureMetadata and featureErrors.
	featureAnswers uint32 = 1 << 9
	// featureHalves marks a node that is told when the messages of a stream's handler end before the
	// handler returns. Such a node has featureStreams.
	featureHalves uint32 = 1 << 10
	// featureHeaders marks a node that takes the header of a stream's handler ahead of its messages.
	// Such a node has featureAnswers.
	featureHeaders uint32 = 1 << 11

	nativeFeatures = featureNative | featureMetadata | featureErrors | featureStreams | featurePieces | featureWindows |
		featurePriorities | featureFacts | featureAnswers | featureHalves | featureHeaders
)

// featureNames are the names of features, by bit, as Peer has them.
var featureNames = [...]string{
	0: "native", 1: "metadata", 2: "errors", 4: "streams", 5: "pieces", 6: "windows", 7: "priorities", 8: "facts",
	9: "answers", 10: "halves", 11: "headers",
}

// agreement is what the two nodes of a session have told each other in the handshake.
type agreement struct {
	features       uint32 // that both nodes have
	maxMessage     int    // bytes of the largest message that both nodes take
	peerMaxMessage int    // what the peer takes, as it said; 0 if it did not
	maxMetadata    int    // bytes of the largest metadata that both nodes take
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
		a.features &^= featureWindows | featureHalves
	}
	if !a.has(featureMetadata) || !a.has(featureErrors) {
		a.features &^= featureAnswers
	}
	if !a.has(featureAnswers) {
		a.features &^= featureHeaders
	}
	a.maxMetadata = MaxMetadataSize
	if peerMax != 0 {
		a.peerMaxMessage = max(int(min(peerMax, maxSize)), minMessageSize)
		a.maxMessage = min(a.maxMessage, a.peerMaxMessage)
	}
	return a
}

// agreeMetadata adds what the two nodes have told of the largest metadata that they take, in bytes. A
// peer that says nothing takes MaxMetadataSize, and one without featureAnswers sends as much.
func (a agreement) agreeMetadata(most int, peerMost uint32) agreement {
	if !a.has(featureAnswers) {
		return a
	}
	if peerMost == 0 {
		peerMost = MaxMetadataSize
	}
	a.maxMetadata = min(most, int(min(peerMost, maxMetadata)))
	return a
}

// names returns the names of the features that both nodes have.
func (a *agreement) names() (names []string) {
	for bit, name := range featureNames {
		if a.has(1<<bit) && name != "" {
			names = append(names, name)
		}
	}
	return names
}

// has reports whether both nodes have a feature.
func (a *agreement) has(feature uint32) bool { return a.features&feature != 0 }
