package grid

import (
	"context"
	"testing"
	"testing/synctest"
	"time"
)

// A stream counts until its end is encoded. Where the end waits for room, because the peer does not
// read, the peer gets no other stream in its place: it cannot make a node wait with more of them
// than its limit.
func TestAStreamCountsUntilItsEndIsEncoded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const most = 10
		c := newPipes(1)
		n, host := startForFake(t, c, func(o *ManagerOptions) {
			o.Limits = Limits{MaxStreams: most, MaxQueuedBytes: 4 << 10, WriteTimeout: time.Hour, PeerTimeout: time.Hour}
		})
		c.stream(t, 0, 1, func(context.Context, []byte, <-chan []byte, chan<- []byte) *RemoteErr { return nil })
		conn := n.Connection(host)
		p := c.knock(t, n)
		p.introduce(t, host)
		if err := conn.WaitForConnect(t.Context()); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		for range 2 { // one is being written, as the peer reads nothing; the other takes all room
			go conn.Request(ctx, testSingle, make([]byte, 8<<10))
			synctest.Wait()
		}
		for id := range uint64(20 * most) {
			p.send(t, message{MuxID: id + 1, Handler: testStream, Op: OpConnectMux, Flags: FlagEOF})
		}
		synctest.Wait()
		if open := conn.Stats().IncomingStreams; open != most {
			t.Errorf("%d streams wait with their end, want %d", open, most)
		}
		if used := conn.streamQuota.used.Load() >> quotaShift; used != most {
			t.Errorf("%d streams count, want %d", used, most)
		}
	})
}
