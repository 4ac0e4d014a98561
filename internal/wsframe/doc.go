// Package wsframe reads and writes the frames of RFC 6455 for an endpoint that exchanges binary
// messages without extensions. The upgrade is done elsewhere; the package starts with the first
// byte after it.
//
//	r := wsframe.NewReader(conn, early, wsframe.Config{Client: true, MaxMessage: 16 << 20, OnPing: pong})
//	defer r.Release()
//	for {
//		msg, err := r.Next() // valid until the next call
//		if err != nil {
//			return err
//		}
//		handle(msg)
//	}
//
// A Reader takes as many frames as one read of the source holds and returns messages in place. Its
// memory follows what has arrived, never what a header claims. For writing, functions lay out
// headers and control frames in the caller's own buffers.
package wsframe
