package grid

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
)

// Where windows are in bytes, only whether there is any input has to be the same.
func TestCapacitiesThatDifferEndAStreamByName(t *testing.T) {
	for _, windows := range []bool{false, true} {
		t.Run(fmt.Sprintf("windows in bytes %v", windows), func(t *testing.T) { testCapacitiesThatDiffer(t, windows) })
	}
}

func testCapacitiesThatDiffer(t *testing.T, windows bool) {
	type capacities struct{ in, out int }
	for _, test := range []struct {
		here, there capacities
		which       string
		runs        bool // the handler
		numbers     [2]int
	}{
		{capacities{0, 4}, capacities{0, 64}, "OutCapacity", false, [2]int{4, 64}},
		{capacities{1, 64}, capacities{1, 4}, "OutCapacity", false, [2]int{64, 4}},
		{capacities{0, 4}, capacities{2, 4}, "InCapacity", false, [2]int{0, 2}},
		{capacities{4, 4}, capacities{1, 4}, "InCapacity", true, [2]int{4, 1}},
		{capacities{1, 4}, capacities{4, 4}, "InCapacity", true, [2]int{1, 4}},
		{capacities{1, 4}, capacities{0, 4}, "InCapacity", true, [2]int{1, 0}},
		{capacities{2, 4}, capacities{2, 4}, "", true, [2]int{}},
	} {
		if windows && (test.here.in == 0) == (test.there.in == 0) {
			test.which, test.runs = "", true
		}
		for _, subroute := range []string{"", "attic/box"} {
			t.Run(fmt.Sprintf("%v here and %v there, on subroute %q", test.here, test.there, subroute), func(t *testing.T) {
				c := startCluster(t, 2, func(i int, o *ManagerOptions) {
					if i == 0 && !windows {
						o.lacks = featureWindows
					}
				})
				var runs atomic.Int32
				for i, n := range c.nodes {
					of := []capacities{test.here, test.there}[i]
					err := n.RegisterStreamingHandler(testStream, StreamHandler{
						Subroute: subroute, InCapacity: of.in, OutCapacity: of.out,
						Handle: func(ctx context.Context, _ []byte, in <-chan []byte, out chan<- []byte) *RemoteErr {
							runs.Add(1)
							if in == nil && test.which != "" {
								<-ctx.Done()
							}
							for in != nil {
								if _, ok := <-in; !ok {
									break
								}
							}
							return nil
						},
					})
					if err != nil {
						t.Fatal(err)
					}
				}
				var conn Streamer = c.conn(0, 1)
				if subroute != "" {
					conn = c.conn(0, 1).Subroute(subroute)
				}
				st, err := conn.NewStream(t.Context(), testStream, nil)
				if err != nil {
					t.Fatal(err)
				}
				if test.which == "" {
					st.CloseSend()
				}
				err = st.Results(func([]byte) error { return nil })
				switch {
				case test.which == "" && err != nil:
					t.Error(err)
				case test.which != "":
					for _, want := range []string{
						test.which, testStream.String(), subroute,
						fmt.Sprintf("%d at %s", test.numbers[0], c.nodes[0].host), fmt.Sprintf("%d at %s", test.numbers[1], c.nodes[1].host),
					} {
						if !strings.Contains(fmt.Sprint(err), want) {
							t.Errorf("the stream ended with %v, without %q", err, want)
						}
					}
				}
				c.waitIdle(t)
				if !test.runs && runs.Load() != 0 {
					t.Error("the handler has run")
				}
			})
		}
	}
}

func TestWhatIsTooLargeForThePeerIsNotSent(t *testing.T) {
	limits := []int{1 << 20, 8 << 10}
	c := startCluster(t, 2, func(i int, o *ManagerOptions) { o.Limits.MaxMessageSize = limits[i] })
	c.handle(t, func(_ context.Context, payload []byte) ([]byte, error) {
		if len(payload) == 0 {
			return make([]byte, 10<<10), nil
		}
		return payload, nil
	})
	c.stream(t, 4, 4, func(_ context.Context, payload []byte, in <-chan []byte, out chan<- []byte) *RemoteErr {
		if len(payload) > 0 {
			out <- make([]byte, 10<<10)
		}
		for range in {
		}
		return nil
	})
	large := make([]byte, 10<<10)
	names := func(what string, err error) {
		t.Helper()
		if !errors.Is(err, ErrMessageTooLarge) {
			t.Errorf("%s got %v", what, err)
		}
		for i, n := range c.nodes {
			if want := fmt.Sprintf("%d at %s", limits[i], n.host); !strings.Contains(fmt.Sprint(err), want) {
				t.Errorf("%s got %v, without %q", what, err, want)
			}
		}
	}
	for from := range c.nodes {
		_, err := c.conn(from, 1-from).Request(t.Context(), testSingle, large)
		names("a request", err)
		st, err := c.conn(from, 1-from).NewStream(t.Context(), testStream, nil)
		if err != nil {
			t.Fatal(err)
		}
		for err == nil {
			err = st.Send(large)
		}
		names("Send", err)
		_, err = c.conn(from, 1-from).NewStream(t.Context(), testStream, large)
		names("a stream", err)
	}
	_, err := c.conn(1, 0).Request(t.Context(), testSingle, nil)
	names("a request whose answer is too large", err)
	st, err := c.conn(1, 0).NewStream(t.Context(), testStream, []byte("large"))
	if err != nil {
		t.Fatal(err)
	}
	names("a stream whose message is too large", st.Results(func([]byte) error { return nil }))
	var callers sync.WaitGroup
	for range 100 { // share frames, which have to be small enough too
		callers.Go(func() {
			for range 20 {
				if _, err := c.conn(0, 1).Request(t.Context(), testSingle, large[:1000]); err != nil {
					t.Error(err)
				}
			}
		})
	}
	callers.Wait()
	for i := range c.nodes {
		if s := c.conn(i, 1-i).Stats(); s.Connects != 1 {
			t.Errorf("node %d: %d connects, %s", i, s.Connects, s.LastError)
		}
	}
}

// The messages of streams that only nodes of this project understand have the bytes of
// testdata/native/streams.json.
func TestStreamsBetweenNewNodesHaveTheirBytes(t *testing.T) {
	haveTheirBytes(t, "testdata/native/streams.json", []namedMessage{
		{"a stream is opened, whose caller takes 64 messages ahead", message{MuxID: 5, Seq: 64, DeadlineMS: 1000, Handler: 128, Op: OpConnectMux, Payload: []byte("hi")}},
		{"it is accepted, and 4 messages may come ahead", message{MuxID: 5, DeadlineMS: 4, Op: OpAckMux}},
		{"one is accepted that takes no messages", message{MuxID: 7, Op: OpAckMux}},
		{"the handler has returned", message{MuxID: 5, Seq: 3, Op: OpUnblockClMux, Flags: FlagEOF}},
		{"the handler has returned an error", message{MuxID: 5, Seq: 3, Op: OpUnblockClMux, Flags: FlagEOF | FlagPayloadIsErr, Payload: []byte("disk full")}},
		{"the handler's header, ahead of its messages", message{MuxID: 5, Seq: 1, Op: OpMuxServerHeader, metadata: (&answerPart{header: fuzzMetadata}).encode()}},
		{"an empty header", message{MuxID: 5, Seq: 1, Op: OpMuxServerHeader}},
		{"the handler sends no more messages", message{MuxID: 5, Seq: 3, Op: OpMuxServerEnd}},
		{"a stream is opened, whose caller takes 65536 bytes ahead", message{MuxID: 5, Seq: minStreamWindow, DeadlineMS: 1000, Handler: 128, Op: OpConnectMux, Payload: []byte("hi")}},
		{"it is accepted, and 65536 bytes may come ahead", message{MuxID: 5, DeadlineMS: minStreamWindow, Op: OpAckMux}},
		{"the caller grants 16384 bytes more", message{MuxID: 5, Seq: 1, DeadlineMS: minStreamWindow / 4, Op: OpUnblockSrvMux}},
		{"the handler's side grants 16384 bytes more", message{MuxID: 5, Seq: 1, DeadlineMS: minStreamWindow / 4, Op: OpUnblockClMux}},
	})
}

// namedMessage is one that testdata/native has the bytes of.
type namedMessage struct {
	name string
	message
}

// haveTheirBytes compares messages, with checksums, with the vectors in a file.
func haveTheirBytes(t *testing.T, file string, all []namedMessage) {
	t.Helper()
	type vector struct {
		Name    string `json:"name"`
		Encoded string `json:"encoded_hex"`
	}
	var got []vector
	for _, m := range all {
		m.Flags |= FlagCRCxxh3
		b := m.appendTo(nil)
		var back message
		if err := back.parse(b); err != nil || back.Op != m.Op || back.Seq != m.Seq || back.DeadlineMS != m.DeadlineMS ||
			back.Flags&^FlagMetadata != m.Flags || !bytes.Equal(back.metadata, m.metadata) {
			t.Errorf("%s: read as %+v, %v", m.name, back, err)
		}
		got = append(got, vector{m.name, hex.EncodeToString(b)})
	}
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var want struct{ Messages []vector }
	if err := json.Unmarshal(b, &want); err != nil {
		t.Fatal(err)
	}
	if fmt.Sprint(got) != fmt.Sprint(want.Messages) {
		t.Errorf("got %v, want %v", got, want.Messages)
	}
}

// What goes over the wire at the opening of a stream, towards each kind of peer.
func TestCapacitiesAreToldToThoseWhoLookForThem(t *testing.T) {
	for name, test := range map[string]struct {
		features uint32
		seq, ack uint32
	}{
		"an original":               {0, 0, 0},
		"a native node from before": {featureNative, 0, 0},
		"one that counts messages":  {nativeFeatures &^ featureWindows, 5, 3},
		"a node like this":          {nativeFeatures, minStreamWindow, minStreamWindow},
	} {
		t.Run(name, func(t *testing.T) {
			c := &cluster{nodes: []*testNode{listenTCP(t, "127.0.0.1:0", "http://127.0.0.1")}}
			n, host := startForFake(t, c, nil)
			c.stream(t, 3, 5, echoBack)
			p := c.knock(t, n)
			p.introduceAs(t, host, test.features)
			if err := n.Connection(host).WaitForConnect(t.Context()); err != nil {
				t.Fatal(err)
			}
			if _, err := n.Connection(host).NewStream(t.Context(), testStream, nil); err != nil {
				t.Fatal(err)
			}
			if m := p.next(t); m.Op != OpConnectMux || m.Seq != test.seq {
				t.Errorf("got %v with Seq %d, want %d", m.Op, m.Seq, test.seq)
			}
			p.send(t, message{MuxID: 1, Op: OpConnectMux, Handler: testStream, Seq: test.seq})
			if m := p.next(t); m.Op != OpAckMux || m.DeadlineMS != test.ack {
				t.Errorf("got %v with DeadlineMS %d, want %d", m.Op, m.DeadlineMS, test.ack)
			}
		})
	}
}

// A flipped bit in the handshake must not leave two nodes with different ideas of each other.
func TestAFlippedBitInTheHandshakeIsNoticed(t *testing.T) {
	req := connectReq{Host: "http://n1", Grid: nativeFeatures, To: "http://n2", Max: defaultMaxMessageSize}
	req.Sum = agreementSum(req.Grid, req.Max)
	resp := connectResp{Accepted: true, Grid: nativeFeatures, Host: "http://n2", Max: defaultMaxMessageSize}
	resp.Sum = agreementSum(resp.Grid, resp.Max)
	request, response := encoded(t, &req), encoded(t, &resp)
	for bit := range 8 * len(request) {
		b := bytes.Clone(request)
		b[bit/8] ^= 1 << (bit % 8)
		var got connectReq
		if unmarshalWhole(&got, b) == nil && checkAgreement(got.Grid, got.Max, got.Sum) == nil && (got.Grid != req.Grid || got.Max != req.Max) {
			t.Errorf("bit %d of the request: %+v", bit, got)
		}
	}
	for bit := range 8 * len(response) {
		b := bytes.Clone(response)
		b[bit/8] ^= 1 << (bit % 8)
		var got connectResp
		if unmarshalWhole(&got, b) == nil && checkAgreement(got.Grid, got.Max, got.Sum) == nil && (got.Grid != resp.Grid || got.Max != resp.Max) {
			t.Errorf("bit %d of the response: %+v", bit, got)
		}
	}
}
