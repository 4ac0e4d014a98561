package grid

import (
	"runtime"
	"testing"
	"testing/synctest"

	"github.com/gobwas/ws"
)

// sendMerged sends messages in one frame.
func (p *fakePeer) sendMerged(t *testing.T, all []message) {
	t.Helper()
	merged := appendMergedHeader(nil, len(all))
	for _, m := range all {
		one := m.appendTo(nil)
		merged = append(merged, 0xc5, byte(len(one)>>8), byte(len(one)))
		merged = append(merged, one...)
	}
	if err := ws.WriteFrame(p.socket, ws.MaskFrame(ws.NewBinaryFrame(merged))); err != nil {
		t.Fatal(err)
	}
}

// requests returns n requests to be sent in one frame; the payload of each is its number.
func requests(n int) (all []message) {
	for i := range n {
		all = append(all, message{
			MuxID: uint64(i + 1), Handler: testSingle, Op: OpRequest, Flags: FlagEOF | FlagCRCxxh3, Payload: []byte{byte(i)},
		})
	}
	return all
}

func TestNoRequestOfAFrameWaitsForTheHandlerOfAnother(t *testing.T) {
	const n = 20
	for name, blocks := range map[string]func(i int) bool{
		"all block":      func(i int) bool { return true },
		"the last block": func(i int) bool { return i >= n/2 },
		"some block":     func(i int) bool { return i%3 == 0 },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := newPipes(1)
				node, host := startForFake(t, c, nil)
				release := make(chan struct{})
				running := make(chan int, n)
				err := node.RegisterSingleHandler(testSingle, func(b []byte) ([]byte, *RemoteErr) {
					i := int(b[0])
					running <- i
					if blocks(i) {
						<-release
					}
					return b, nil
				})
				if err != nil {
					t.Fatal(err)
				}
				p := c.knock(t, node)
				p.introduce(t, host)
				p.sendMerged(t, requests(n))
				for range n {
					<-running // synctest ends this where nobody can run any more
				}
				close(release)
				for range n {
					if m := p.next(t); m.Op != OpResponse || m.Flags&FlagPayloadIsErr != 0 {
						t.Fatalf("got %v %q", m.Op, m.Payload)
					}
				}
			})
		})
	}
}

func TestAHandlerThatEndsItsGoroutineLeavesTheOtherRequestsAlone(t *testing.T) {
	const n = 20
	synctest.Test(t, func(t *testing.T) {
		c := newPipes(1)
		node, host := startForFake(t, c, nil)
		err := node.RegisterSingleHandler(testSingle, func(b []byte) ([]byte, *RemoteErr) {
			if b[0]%2 == 0 {
				runtime.Goexit()
			}
			return b, nil
		})
		if err != nil {
			t.Fatal(err)
		}
		p := c.knock(t, node)
		p.introduce(t, host)
		p.sendMerged(t, requests(n))
		for range n {
			m := p.next(t)
			if m.Op != OpResponse {
				t.Fatalf("got %v", m.Op)
			}
			if failed := m.Flags&FlagPayloadIsErr != 0; failed != (m.MuxID%2 == 1) {
				t.Errorf("request %d was answered with %q", m.MuxID-1, m.Payload)
			}
		}
	})
}
