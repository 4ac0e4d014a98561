package grid

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
)

func TestPriorityIsAskedOfWhoKnowsItOnly(t *testing.T) {
	for name, test := range map[string]struct {
		features uint32
		flagged  bool
	}{
		"the original":                  {0, false},
		"a node from before priorities": {nativeFeatures &^ featurePriorities, false},
		"a node like this one":          {nativeFeatures, true},
	} {
		t.Run(name, func(t *testing.T) {
			c := &cluster{nodes: []*testNode{listenTCP(t, "127.0.0.1:0", "http://127.0.0.1")}}
			n, host := startForFake(t, c, nil)
			c.stream(t, 0, 1, echoBack)
			p := c.knock(t, n)
			p.introduceAs(t, host, test.features)
			conn := n.Connection(host)
			if err := conn.WaitForConnect(t.Context()); err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			ask := func(ctx context.Context, to Requester, want bool) {
				t.Helper()
				done := make(chan error, 1)
				go func() {
					_, err := to.Request(ctx, testSingle, nil)
					done <- err
				}()
				m := p.next(t)
				if got := m.Flags&FlagPriority != 0; m.Op != OpRequest || got != (want && test.flagged) {
					t.Errorf("%v has the flags %v", m.Op, m.Flags)
				}
				p.send(t, message{MuxID: m.MuxID, Op: OpResponse, Flags: FlagEOF | FlagCRCxxh3})
				if err := <-done; err != nil {
					t.Error(err)
				}
			}
			high := WithPriority(ctx, PriorityHigh)
			ask(ctx, conn, false)
			ask(high, conn, true)
			ask(WithPriority(high, PriorityNormal), conn, false)
			ask(WithMetadata(high, Metadata{"user": {"anna"}}), conn, true)
			both := WithPriority(WithMetadata(ctx, Metadata{"user": {"anna"}}), PriorityHigh)
			if md := OutgoingMetadata(both); md.Get("user") != "anna" {
				t.Errorf("the metadata is %v", md)
			}
			ask(both, conn, true)
			if err := n.SetPriority(PriorityHigh, testSingle, "beat"); err != nil {
				t.Fatal(err)
			}
			ask(ctx, conn, false)
			ask(ctx, conn.Subroute("beat"), true)
			ask(WithPriority(ctx, PriorityNormal), conn.Subroute("beat"), false)
			if err := n.SetPriority(PriorityHigh, testSingle); err != nil {
				t.Fatal(err)
			}
			ask(ctx, conn, true)
			if err := n.SetPriority(PriorityNormal, testSingle); err != nil {
				t.Fatal(err)
			}
			ask(ctx, conn, false)
			for ctx, want := range map[context.Context]bool{ctx: false, high: true} {
				if _, err := conn.NewStream(ctx, testStream, nil); err != nil {
					t.Fatal(err)
				}
				m := p.next(t)
				if got := m.Flags&FlagPriority != 0; m.Op != OpConnectMux || m.Flags&FlagEOF == 0 || got != (want && test.flagged) {
					t.Errorf("%v has the flags %v", m.Op, m.Flags)
				}
			}
		})
	}
}

// Calls of high priority have the bytes of testdata/native/priorities.json.
func TestCallsOfHighPriorityHaveTheirBytes(t *testing.T) {
	haveTheirBytes(t, "testdata/native/priorities.json", []namedMessage{
		{"a request", message{MuxID: 1, DeadlineMS: 60000, Handler: 128, Op: OpRequest, Flags: FlagEOF | FlagPriority, Payload: []byte("hi")}},
		{"a stream is opened, whose caller takes 65536 bytes ahead", message{MuxID: 5, Seq: minStreamWindow, DeadlineMS: 1000, Handler: 128, Op: OpConnectMux, Flags: FlagPriority, Payload: []byte("hi")}},
		{"one is opened without input", message{MuxID: 7, Seq: minStreamWindow, DeadlineMS: 1000, Handler: 128, Op: OpConnectMux, Flags: FlagEOF | FlagPriority}},
	})
}

func TestSetPriorityNamesWhatIsWrong(t *testing.T) {
	c := newPipes(1)
	n, _ := startForFake(t, c, nil)
	if err := n.SetPriority(PriorityHigh, handlerInvalid); !errors.Is(err, ErrUnknownHandler) {
		t.Errorf("for no handler: %v", err)
	}
	if err := n.SetPriority(7, testSingle); err == nil || !strings.Contains(err.Error(), "no priority 7") {
		t.Errorf("for a priority that does not exist: %v", err)
	}
	if err := (*Manager)(nil).SetPriority(PriorityHigh, testSingle); err == nil {
		t.Error("a nil Manager returned no error")
	}
}

// ops lists messages with their mux IDs, leaving out those of the connection itself.
func ops(all []message) (list []string) {
	for _, m := range all {
		if m.MuxID != 0 {
			list = append(list, fmt.Sprintf("%v %d", m.Op, m.MuxID))
		}
	}
	return list
}

// crowdedLimits let a few messages of 8 KiB wait in line.
func crowdedLimits(o *ManagerOptions) { o.Limits.MaxQueuedBytes = 4 << 10 }

const crowdSize = 8 << 10

// A request of high priority passes those that wait, and what tells the peer that its caller has
// given up comes behind it; that of another does not pass its own request.
func TestARequestOfHighPriorityPassesOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, p := startPieces(t, crowdedLimits)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		ask := func(ctx context.Context, size int) {
			go p.conn.Request(ctx, testSingle, make([]byte, size))
			synctest.Wait()
		}
		for range 3 { // 2, 4, 6: one is being written, one is queued, one waits
			ask(t.Context(), crowdSize)
		}
		ask(WithPriority(ctx, PriorityHigh), 10) // 8
		cancel()
		synctest.Wait()
		ask(WithPriority(t.Context(), PriorityHigh), crowdSize) // 10
		ask(WithPriority(t.Context(), PriorityHigh), 100)       // 12
		got := ops(p.reading(t)())
		want := []string{"Request 2", "Request 8", "DisconnectServerMux 8", "Request 10", "Request 12", "Request 4", "Request 6"}
		if !slices.Equal(got, want) {
			t.Errorf("in this order: %v", got)
		}
		p.socket.Close()
		synctest.Wait()
		if left := c.idle(); left != "" {
			t.Error(left)
		}
	})
}

// The sweep of overdue calls tells the peer in the lane of the request, too.
func TestGivingUpNeverPassesTheRequest(t *testing.T) {
	for _, priority := range []Priority{PriorityNormal, PriorityHigh} {
		synctest.Test(t, func(t *testing.T) {
			c, p := startPieces(t, crowdedLimits)
			ask := func(ctx context.Context) {
				go p.conn.Request(ctx, testSingle, make([]byte, 100))
				synctest.Wait()
			}
			ask(t.Context()) // 2, which is being written
			ctx, cancel := context.WithCancel(WithPriority(t.Context(), priority))
			ask(ctx) // 4
			cancel()
			synctest.Wait()
			got := ops(p.reading(t)())
			if i := slices.Index(got, "Request 4"); i < 0 || !slices.Contains(got[i:], "DisconnectServerMux 4") {
				t.Errorf("in this order: %v", got)
			}
			p.socket.Close()
			synctest.Wait()
			if left := c.idle(); left != "" {
				t.Error(left)
			}
		})
	}
}

// The answers to requests of high priority, and to those whose handler has it, pass others; so do
// refusals.
func TestAnswersOfHighPriorityPassOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, p := startPieces(t, crowdedLimits)
		c.handle(t, func(context.Context, []byte) ([]byte, error) { return make([]byte, crowdSize), nil })
		c.handle(t, func(context.Context, []byte) ([]byte, error) { return nil, nil }, "beat")
		if err := p.n.SetPriority(PriorityHigh, testSingle, "beat"); err != nil {
			t.Fatal(err)
		}
		for id := uint64(1); id <= 7; id += 2 {
			p.send(t, message{MuxID: id, Handler: testSingle, Op: OpRequest, Flags: FlagEOF})
			synctest.Wait()
		}
		p.send(t, message{MuxID: 9, Handler: testSingle, Op: OpRequest, Flags: FlagEOF | FlagPriority})
		synctest.Wait()
		p.send(t, message{MuxID: 11, Handler: testSingle, Op: OpRequest, Flags: FlagEOF, subroute: newRoute(testSingle, "beat", nil).wire()})
		synctest.Wait()
		p.send(t, message{MuxID: 13, Handler: 99, Op: OpRequest, Flags: FlagEOF | FlagPriority})
		synctest.Wait()
		got := ops(p.reading(t)())
		want := []string{"Response 1", "Response 9", "Response 11", "MuxConnectError 13", "Response 3", "Response 5", "Response 7"}
		slices.Sort(got[1:4]) // the refusal does not wait for room
		slices.Sort(want[1:4])
		if !slices.Equal(got, want) {
			t.Errorf("in this order: %v", got)
		}
		p.wantEmpty(t)
	})
}

// A stream of high priority passes others with all its messages, in both directions, and its end
// comes last.
func TestAStreamOfHighPriorityPassesOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, p := startPieces(t, crowdedLimits)
		c.handle(t, func(context.Context, []byte) ([]byte, error) { return make([]byte, crowdSize), nil })
		c.stream(t, 0, 3, func(_ context.Context, _ []byte, _ <-chan []byte, out chan<- []byte) *RemoteErr {
			for range 3 {
				out <- make([]byte, 1<<10) // so that all of it has room
			}
			return nil
		})
		for id := uint64(1); id <= 5; id += 2 {
			p.send(t, message{MuxID: id, Handler: testSingle, Op: OpRequest, Flags: FlagEOF})
			synctest.Wait()
		}
		p.send(t, message{MuxID: 7, Seq: minStreamWindow, Handler: testStream, Op: OpConnectMux, Flags: FlagEOF | FlagPriority})
		synctest.Wait()
		came := p.reading(t)
		got := came()
		if list := ops(got); list[0] != "Response 1" || !slices.Equal(list[len(list)-2:], []string{"Response 3", "Response 5"}) {
			t.Errorf("in this order: %v", list)
		}
		var stream []string
		for _, m := range got {
			if m.MuxID == 7 {
				stream = append(stream, fmt.Sprint(m.Op))
			}
		}
		want := []string{"AckMux", "MuxServerMsg", "MuxServerMsg", "MuxServerMsg", "MuxServerMsg", "DisconnectClientMux"}
		if !slices.Equal(stream, want) {
			t.Errorf("the stream came in this order: %v", stream)
		}
		p.socket.Close()
		synctest.Wait()
		if left := c.idle(); left != "" {
			t.Error(left)
		}
	})
}
