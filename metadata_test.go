package grid

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/gridmesh/grid/internal/race"
)

// metadataVectors are encodings of metadata that were not made by this package.
type metadataVectors struct {
	Metadata []struct {
		Name  string `json:"name"`
		Pairs []struct {
			Key   string   `json:"key"`
			Value hexBytes `json:"value_hex"`
		} `json:"pairs"`
		Encoded hexBytes `json:"encoded_hex"`
	} `json:"metadata"`
	Messages []struct {
		Name       string   `json:"name"`
		MuxID      uint64   `json:"mux_id"`
		Seq        uint32   `json:"seq"`
		DeadlineMS uint32   `json:"deadline_ms"`
		Handler    uint8    `json:"handler"`
		Op         uint8    `json:"op"`
		Flags      uint8    `json:"flags"`
		Payload    hexBytes `json:"payload_hex"`
		Metadata   hexBytes `json:"metadata_hex"`
		Subroute   hexBytes `json:"subroute_hex"`
		Frame      hexBytes `json:"frame_hex"`
	} `json:"messages"`
	Malformed []struct {
		Name    string   `json:"name"`
		Encoded hexBytes `json:"encoded_hex"`
	} `json:"malformed"`
}

func loadMetadataVectors(t testing.TB) (v metadataVectors) {
	t.Helper()
	b, err := os.ReadFile("testdata/native/metadata.json")
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, &v); err != nil {
		t.Fatal(err)
	}
	return v
}

// several is what two nodes have agreed on that know several values of a key, and single what others
// have.
var (
	several = agree(defaultMaxMessageSize, nativeFeatures, 0)
	single  = agree(defaultMaxMessageSize, nativeFeatures&^featureAnswers, 0)
)

func sameMetadata(a, b Metadata) bool {
	return maps.EqualFunc(a, b, slices.Equal)
}

func TestMetadataHasItsBytes(t *testing.T) {
	for _, v := range loadMetadataVectors(t).Metadata {
		md := make(Metadata)
		for _, pair := range v.Pairs {
			md.Add(pair.Key, string(pair.Value))
		}
		b, err := md.encode()
		if err != nil || !bytes.Equal(b, v.Encoded) {
			t.Errorf("%s: encoded to\n%x, %v, want\n%x", v.Name, b, err, v.Encoded)
		}
		if cap(b) != len(b) {
			t.Errorf("%s: %d bytes in a buffer of %d", v.Name, len(b), cap(b))
		}
		if err := several.checkMetadata(v.Encoded); err != nil {
			t.Errorf("%s: %v", v.Name, err)
		}
		if err := single.checkMetadata(v.Encoded); (err == nil) != (len(md) == len(v.Pairs)) {
			t.Errorf("%s: with one value of a key: %v", v.Name, err)
		}
		if got, err := decodeMetadata(v.Encoded); err != nil || !sameMetadata(got, md) {
			t.Errorf("%s: decoded to %q, %v, want %q", v.Name, got, err, md)
		}
	}
}

func TestMessagesWithMetadataHaveTheirBytes(t *testing.T) {
	for _, v := range loadMetadataVectors(t).Messages {
		for _, checksum := range []Flags{0, FlagCRCxxh3} {
			m := message{
				MuxID: v.MuxID, Seq: v.Seq, DeadlineMS: v.DeadlineMS, Handler: HandlerID(v.Handler), Op: Op(v.Op),
				Flags: Flags(v.Flags) | checksum, Payload: v.Payload, metadata: v.Metadata,
			}
			if len(v.Payload) == 0 {
				m.Payload = nil
			}
			if v.Subroute != nil {
				m.subroute = (*routeID)(v.Subroute)
			}
			frame := v.Frame
			if checksum != 0 {
				at := len(frame) - len(v.Subroute) - len(v.Metadata) - len(v.Payload) - 3
				frame[at] |= byte(checksum)
				frame = withChecksum(frame)
			}
			if b := m.appendTo(nil); !bytes.Equal(b, frame) || m.size() != len(b) {
				t.Errorf("%s: encoded to\n%x of size %d, want\n%x", v.Name, b, m.size(), frame)
			}
			var got message
			if err := got.parse(frame); err != nil || !sameMessage(got, m) {
				t.Errorf("%s: parsed as %+v, %v, want %+v", v.Name, got, err, m)
			}
		}
	}
}

func TestMalformedMetadataFails(t *testing.T) {
	for _, v := range loadMetadataVectors(t).Malformed {
		if err := several.checkMetadata(v.Encoded); err == nil {
			t.Errorf("%s: %.40x was taken", v.Name, []byte(v.Encoded))
		}
	}
	for _, v := range loadMetadataVectors(t).Metadata {
		for cut := range v.Encoded {
			if err := several.checkMetadata(v.Encoded[:cut]); err == nil {
				t.Errorf("%s: %d bytes of %d were taken", v.Name, cut, len(v.Encoded))
			}
		}
	}
}

func FuzzMetadata(f *testing.F) {
	v := loadMetadataVectors(f)
	for _, good := range v.Metadata {
		f.Add([]byte(good.Encoded))
	}
	for _, bad := range v.Malformed {
		f.Add([]byte(bad.Encoded))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		md, err := decodeMetadata(b)
		if checked := several.checkMetadata(b); (checked == nil) != (err == nil && len(b) <= MaxMetadataSize) {
			t.Fatalf("checked: %v, decoded: %v", checked, err)
		}
		if err != nil {
			return
		}
		encoded, err := md.encode()
		if err != nil || len(encoded) > len(b) {
			t.Fatalf("%x of %d bytes encodes to %d bytes, %v", b, len(b), len(encoded), err)
		}
		if len(md) == 0 {
			return
		}
		if again, err := decodeMetadata(encoded); err != nil || !sameMetadata(again, md) {
			t.Fatalf("%q, then %q, %v", md, again, err)
		}
	})
}

func TestReceivedMetadataIsCheckedWithoutAllocating(t *testing.T) {
	encoded, err := Metadata{"user": {"anna"}, "trace": {"42"}}.encode()
	if err != nil {
		t.Fatal(err)
	}
	if n := testing.AllocsPerRun(100, func() {
		if err := several.checkMetadata(encoded); err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// metadataCalls are all ways to call a handler that answers with the metadata it was called with,
// as fmt prints it.
func metadataCalls(t *testing.T, c *cluster) map[string]func(ctx context.Context, conn *Connection) (string, error) {
	t.Helper()
	show := func(ctx context.Context) []byte { return fmt.Append(nil, map[string][]string(MetadataFrom(ctx))) }
	c.handle(t, func(ctx context.Context, _ []byte) ([]byte, error) { return show(ctx), nil })
	c.handle(t, func(ctx context.Context, _ []byte) ([]byte, error) { return show(ctx), nil }, "a", "b")
	c.stream(t, 0, 1, func(ctx context.Context, _ []byte, _ <-chan []byte, out chan<- []byte) *RemoteErr {
		out <- show(ctx)
		return nil
	})
	typed := NewSingleHandler[NoPayload, *Bytes](testSingle, NewNoPayload, NewBytes)
	typedStream := NewStream[NoPayload, NoPayload, *Bytes](testStream, nil, nil, NewBytes)
	for _, n := range c.nodes {
		err := errors.Join(
			typed.RegisterContext(n.Manager, func(ctx context.Context, _ NoPayload) (*Bytes, error) {
				return NewBytesWith(show(ctx)), nil
			}, "typed"),
			typedStream.RegisterNoPayload(n.Manager, func(ctx context.Context, _ <-chan NoPayload, out chan<- *Bytes) *RemoteErr {
				out <- NewBytesWith(show(ctx))
				return nil
			}, "typed", "stream"))
		if err != nil {
			t.Fatal(err)
		}
	}
	return map[string]func(ctx context.Context, conn *Connection) (string, error){
		"a request": func(ctx context.Context, conn *Connection) (string, error) {
			b, err := conn.Request(ctx, testSingle, nil)
			return string(b), err
		},
		"a request on a subroute": func(ctx context.Context, conn *Connection) (string, error) {
			b, err := conn.Subroute("a").Subroute("b").Request(ctx, testSingle, nil)
			return string(b), err
		},
		"a stream": func(ctx context.Context, conn *Connection) (got string, err error) {
			st, err := conn.NewStream(ctx, testStream, nil)
			if err != nil {
				return "", err
			}
			err = st.Results(func(b []byte) error { got = string(b); return nil })
			return got, err
		},
		"a typed request": func(ctx context.Context, conn *Connection) (string, error) {
			resp, err := typed.Call(ctx, conn.Subroute("typed"), NewNoPayload())
			if err != nil {
				return "", err
			}
			return string(*resp), nil
		},
		"a typed stream": func(ctx context.Context, conn *Connection) (got string, err error) {
			st, err := typedStream.Call(ctx, conn.Subroute("typed/stream"), NewNoPayload())
			if err != nil {
				return "", err
			}
			err = st.Results(func(b *Bytes) error { got = string(*b); return nil })
			return got, err
		},
	}
}

func TestMetadataReachesHandlers(t *testing.T) {
	c := startCluster(t, 2, nil)
	calls := metadataCalls(t, c)
	md := Metadata{"user": {"anna"}, "größe": {"\x00\xff"}}
	outer := WithMetadata(t.Context(), md)
	md["user"][0] = "changed later"
	inner := WithMetadata(outer, Metadata{"user": {"ben"}, "more": {"yes"}})
	for _, test := range []struct {
		name string
		ctx  context.Context
		want Metadata
	}{
		{"none", t.Context(), nil},
		{"an empty one", WithMetadata(t.Context(), Metadata{}), nil},
		{"one", outer, Metadata{"user": {"anna"}, "größe": {"\x00\xff"}}},
		{"one in another", inner, Metadata{"user": {"ben"}, "größe": {"\x00\xff"}, "more": {"yes"}}},
		{"the outer one still", outer, Metadata{"user": {"anna"}, "größe": {"\x00\xff"}}},
	} {
		if got := OutgoingMetadata(test.ctx); !sameMetadata(got, test.want) {
			t.Errorf("%s: the context carries %q", test.name, got)
		}
		for way, call := range calls {
			for i := range 2 {
				got, err := call(test.ctx, c.conn(i, 1-i))
				if want := fmt.Sprint(map[string][]string(test.want)); err != nil || got != want {
					t.Errorf("%s, %s from node %d: got %q, %v, want %q", test.name, way, i, got, err, want)
				}
			}
		}
	}
}

// What a handler was called with is not sent on by its own calls, unless it says so.
func TestMetadataIsNotForwarded(t *testing.T) {
	c := startCluster(t, 2, nil)
	calls := metadataCalls(t, c)
	call := calls["a request"]
	const ask HandlerID = 125
	err := c.nodes[1].RegisterSingleHandlerContext(ask, func(ctx context.Context, p []byte) ([]byte, error) {
		if OutgoingMetadata(ctx) != nil {
			return nil, NewRemoteErrString("the handler's context carries metadata")
		}
		if len(p) > 0 {
			ctx = WithMetadata(ctx, MetadataFrom(ctx))
		}
		got, err := call(ctx, c.conn(1, 0))
		return []byte(got), NewRemoteErr(err)
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx := WithMetadata(t.Context(), Metadata{"user": {"anna"}})
	for payload, want := range map[string]string{"": "map[]", "forward": "map[user:[anna]]"} {
		if got, err := c.conn(0, 1).Request(ctx, ask, []byte(payload)); err != nil || string(got) != want {
			t.Errorf("%q: got %q, %v, want %q", payload, got, err, want)
		}
	}
}

func TestMetadataIsDecodedOnce(t *testing.T) {
	c := startCluster(t, 2, nil)
	c.handle(t, func(ctx context.Context, _ []byte) ([]byte, error) {
		first := MetadataFrom(ctx)
		derived, cancel := context.WithCancel(ctx)
		defer cancel()
		if again := MetadataFrom(derived); reflect.ValueOf(first).Pointer() != reflect.ValueOf(again).Pointer() {
			return nil, NewRemoteErrString("decoded twice")
		}
		return nil, nil
	})
	ctx := WithMetadata(t.Context(), Metadata{"user": {"anna"}})
	if _, err := c.conn(0, 1).Request(ctx, testSingle, nil); err != nil {
		t.Error(err)
	}
}

// A handler that looks at its metadata late finds its own: it is not in the buffer that the
// connection reads into.
func TestMetadataStaysWithItsHandler(t *testing.T) {
	c := startCluster(t, 2, nil)
	waits, look := make(chan struct{}), make(chan struct{})
	c.handle(t, func(ctx context.Context, p []byte) ([]byte, error) {
		if len(p) == 0 {
			close(waits)
			<-look
		}
		return []byte(MetadataFrom(ctx).Get("user")), nil
	})
	done := make(chan string, 1)
	go func() {
		got, err := c.conn(0, 1).Request(WithMetadata(t.Context(), Metadata{"user": {"anna"}}), testSingle, nil)
		done <- fmt.Sprintf("%s %v", got, err)
	}()
	<-waits
	for range 500 { // enough to use the whole read buffer again
		if _, err := c.conn(0, 1).Request(t.Context(), testSingle, bytes.Repeat([]byte("x"), 1000)); err != nil {
			t.Fatal(err)
		}
	}
	close(look)
	if got := <-done; got != "anna <nil>" {
		t.Errorf("got %s", got)
	}
}

func TestMetadataOfAnInterceptorOrTest(t *testing.T) {
	ctx := WithMetadata(t.Context(), Metadata{"user": {"anna"}})
	if md := MetadataFrom(ctx); md != nil {
		t.Errorf("no handler was called, but MetadataFrom gives %q", md)
	}
	md := Metadata{"user": {"ben"}}
	ctx = WithIncomingMetadata(ctx, md)
	md["user"][0] = "changed later"
	if got := MetadataFrom(ctx).Get("user"); got != "ben" {
		t.Errorf("got %q", got)
	}
	if got := OutgoingMetadata(ctx).Get("user"); got != "anna" {
		t.Errorf("got %q", got)
	}
	if got := MetadataFrom(WithIncomingMetadata(ctx, nil)); got != nil {
		t.Errorf("got %q", got)
	}
	if got := (Metadata{"b": {""}, "a": {""}}).Keys(); fmt.Sprint(got) != "[a b]" {
		t.Errorf("the keys are %v", got)
	}
	if clone := Metadata(nil).Clone(); clone != nil {
		t.Errorf("a clone of nil is %v", clone)
	}
}

// What may not be sent is refused with an error that says why, before the peer sees anything, and
// whoever the peer is.
func TestMetadataOverItsLimitsIsNotSent(t *testing.T) {
	c := startCluster(t, 2, nil)
	var called atomic.Int64
	c.handle(t, func(context.Context, []byte) ([]byte, error) { called.Add(1); return nil, nil })
	c.stream(t, 0, 1, func(context.Context, []byte, <-chan []byte, chan<- []byte) *RemoteErr { called.Add(1); return nil })
	many := make(Metadata)
	for i := range MaxMetadataPairs + 1 {
		many[fmt.Sprint(i)] = []string{""}
	}
	for _, test := range []struct {
		name string
		md   Metadata
		want string
	}{
		{"an empty key", Metadata{"": {"x"}}, "empty"},
		{"a key that is not UTF-8", Metadata{"\xff": {"x"}}, `"\xff" is not UTF-8`},
		{"too many pairs", many, "65 pairs, at most 64"},
		{"too many bytes", Metadata{"k": {strings.Repeat("v", MaxMetadataSize-5)}}, "8193 bytes, at most 8192"},
		{"far too many bytes", Metadata{"k": {strings.Repeat("v", 1<<20)}}, "at most 8192"},
	} {
		if err := test.md.Validate(); !errors.Is(err, ErrMetadata) {
			t.Errorf("%s: Validate gives %v", test.name, err)
		}
		ctx := WithMetadata(t.Context(), test.md)
		for range 2 {
			_, err := c.conn(0, 1).Request(ctx, testSingle, nil)
			if !errors.Is(err, ErrMetadata) || !strings.Contains(err.Error(), test.want) {
				t.Errorf("%s: a request got %v", test.name, err)
			}
			_, err = c.conn(0, 1).NewStream(ctx, testStream, nil)
			if !errors.Is(err, ErrMetadata) || !strings.Contains(err.Error(), test.want) {
				t.Errorf("%s: a stream got %v", test.name, err)
			}
		}
	}
	c.waitIdle(t)
	if n := called.Load(); n != 0 {
		t.Errorf("%d calls got through", n)
	}
	for _, h := range []HandlerID{testSingle, testStream} {
		if s := handlerStats(c.nodes[0].Stats().Handlers, RoleClient, h, ""); s.Calls != 10 || s.Errors.Total() != 10 {
			t.Errorf("%v: %d calls and %d errors are counted", h, s.Calls, s.Errors.Total())
		}
	}
	if err := (Metadata{"k": {strings.Repeat("v", MaxMetadataSize-6)}}).Validate(); err != nil {
		t.Errorf("as much as there may be: %v", err)
	}
}

func TestMetadataCountsForTheSizeOfAMessage(t *testing.T) {
	c := startCluster(t, 2, func(_ int, o *ManagerOptions) { o.Limits.MaxMessageSize = 4096 })
	c.handle(t, echo)
	ctx := WithMetadata(t.Context(), Metadata{"k": {strings.Repeat("v", 3000)}})
	if _, err := c.conn(0, 1).Request(ctx, testSingle, make([]byte, 900)); err != nil {
		t.Error(err)
	}
	if _, err := c.conn(0, 1).Request(ctx, testSingle, make([]byte, 1100)); !errors.Is(err, ErrMessageTooLarge) {
		t.Errorf("got %v", err)
	}
}

// introduceAs goes through the handshake with features of the test's choice.
func (p *fakePeer) introduceAs(t *testing.T, host string, features uint32) uint32 {
	t.Helper()
	resp := p.greet(t, &connectReq{Host: host, Grid: features})
	if !resp.Accepted {
		t.Fatalf("rejected: %s", resp.RejectedReason)
	}
	return resp.Grid
}

func TestMetadataIsSentToWhoTakesItOnly(t *testing.T) {
	for name, test := range map[string]struct{ features, want uint32 }{
		"the original":                       {0, 0},
		"a node from before metadata":        {featureNative, nativeFeatures},
		"a node like this one":               {nativeFeatures, nativeFeatures},
		"a node that does more":              {nativeFeatures | 1<<31, nativeFeatures},
		"a node that takes metadata only so": {featureMetadata, nativeFeatures},
	} {
		t.Run(name, func(t *testing.T) {
			c := &cluster{nodes: []*testNode{listenTCP(t, "127.0.0.1:0", "http://127.0.0.1")}}
			n, host := startForFake(t, c, nil)
			c.stream(t, 0, 1, echoBack)
			p := c.knock(t, n)
			if got := p.introduceAs(t, host, test.features); got != test.want {
				t.Errorf("the node has features %b, want %b", got, test.want)
			}
			conn := n.Connection(host)
			if err := conn.WaitForConnect(t.Context()); err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithCancel(WithMetadata(t.Context(), Metadata{"user": {"anna"}}))
			defer cancel()
			done := make(chan error, 1)
			go func() {
				_, err := conn.Request(ctx, testSingle, []byte("hi"))
				done <- err
			}()
			check := func(m message, want Op) {
				t.Helper()
				md, err := decodeMetadata(m.metadata)
				sent := m.Flags&FlagMetadata != 0 && err == nil && md.Get("user") == "anna"
				if takes := test.features&featureMetadata != 0; m.Op != want || sent != takes || !takes && (m.metadata != nil || m.Flags&FlagMetadata != 0) {
					t.Errorf("got %v with metadata %q", m.Op, md)
				}
			}
			m := p.next(t)
			check(m, OpRequest)
			p.send(t, message{MuxID: m.MuxID, Op: OpResponse, Flags: FlagEOF | FlagCRCxxh3})
			if err := <-done; err != nil {
				t.Error(err)
			}
			if _, err := conn.NewStream(ctx, testStream, nil); err != nil {
				t.Fatal(err)
			}
			check(p.next(t), OpConnectMux)
		})
	}
}

func TestMalformedMetadataEndsTheSession(t *testing.T) {
	ok, err := Metadata{"user": {"anna"}}.encode()
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name     string
		features uint32
		op       Op
		metadata []byte
		ends     bool
	}{
		{"metadata", nativeFeatures, OpRequest, ok, false},
		{"metadata cut off", nativeFeatures, OpRequest, ok[:len(ok)-1], true},
		{"no bytes", nativeFeatures, OpRequest, []byte{}, true},
		{"a stream's metadata cut off", nativeFeatures, OpConnectMux, ok[:len(ok)-1], true},
		{"metadata of an answer nobody waits for, cut off", nativeFeatures, OpResponse, ok[:len(ok)-1], true},
		{"metadata nobody agreed on", featureNative, OpRequest, ok, false},
		{"other bytes in its place", 0, OpRequest, ok[:len(ok)-1], false},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel() // a peer that does not answer a close frame is waited for
			c := &cluster{nodes: []*testNode{listenTCP(t, "127.0.0.1:0", "http://127.0.0.1")}}
			n, host := startForFake(t, c, nil)
			metadataCalls(t, c)
			p := c.knock(t, n)
			p.introduceAs(t, host, test.features)
			if err := n.Connection(host).WaitForConnect(t.Context()); err != nil {
				t.Fatal(err)
			}
			p.send(t, message{MuxID: 77, Op: test.op, Handler: testSingle, Flags: FlagEOF, metadata: test.metadata})
			if test.ends {
				eventually(t, "the end of the session", func() bool { return n.log.count("malformed message: metadata") == 1 }, n.log.String)
				return
			}
			want := "map[]"
			if test.features&featureMetadata != 0 {
				want = "map[user:[anna]]"
			}
			if m := p.next(t); m.Op != OpResponse || string(m.Payload) != want {
				t.Errorf("got %v %q, want %q", m.Op, m.Payload, want)
			}
		})
	}
}

func TestMetadataCountsForWhatAPeerHolds(t *testing.T) {
	c := startCluster(t, 2, func(_ int, o *ManagerOptions) {
		o.Limits.MaxMessageSize, o.Limits.MaxRequestBytes, o.Limits.MaxStreamBytes = 16<<10, 20<<10, 20<<10
	})
	goOn := make(chan struct{})
	c.handle(t, func(context.Context, []byte) ([]byte, error) { <-goOn; return nil, nil })
	c.stream(t, 0, 1, func(context.Context, []byte, <-chan []byte, chan<- []byte) *RemoteErr { <-goOn; return nil })
	ctx := WithMetadata(t.Context(), Metadata{"k": {strings.Repeat("v", 8000)}})
	outcomes := make(chan error, 6)
	for range 3 {
		go func() {
			_, err := c.conn(0, 1).Request(ctx, testSingle, nil)
			outcomes <- err
		}()
		go func() {
			st, err := c.conn(0, 1).NewStream(ctx, testStream, nil)
			outcomes <- drain(st, err)
		}()
	}
	for range 2 { // one of each
		if err := <-outcomes; !errors.Is(err, ErrOverloaded) {
			t.Errorf("got %v", err)
		}
	}
	close(goOn)
	for range 4 {
		if err := <-outcomes; err != nil {
			t.Error(err)
		}
	}
	c.waitIdle(t)
	eventually(t, "nothing to be held", func() bool {
		return c.conn(1, 0).requestQuota.used.Load() == 0 && c.conn(1, 0).streamQuota.used.Load() == 0
	})
}

func TestMetadataOfStreamMessagesIsDropped(t *testing.T) {
	c := &cluster{nodes: []*testNode{listenTCP(t, "127.0.0.1:0", "http://127.0.0.1")}}
	n, host := startForFake(t, c, nil)
	c.stream(t, 2, 1, echoBack)
	p := c.knock(t, n)
	p.introduceAs(t, host, nativeFeatures)
	md, err := Metadata{"user": {strings.Repeat("anna", 1000)}}.encode()
	if err != nil {
		t.Fatal(err)
	}
	p.send(t, message{MuxID: 77, Seq: minStreamWindow, Op: OpConnectMux, Handler: testStream, metadata: md})
	p.send(t, message{MuxID: 77, Op: OpMuxClientMsg, Seq: 1, Payload: []byte("hi"), metadata: md})
	p.send(t, message{MuxID: 77, Op: OpMuxClientMsg, Seq: 2, Flags: FlagPayloadIsErr, Payload: []byte("hi"), metadata: md}) // no error of a caller's
	p.send(t, message{MuxID: 77, Op: OpMuxClientMsg, Seq: 3, Flags: FlagEOF, metadata: md})
	seq := uint32(4)
	for {
		m := p.next(t)
		if m.Op == OpMuxServerMsg && m.Flags&FlagEOF == 0 {
			if string(m.Payload) != "hi" {
				t.Errorf("got %q", m.Payload)
			}
			p.send(t, message{MuxID: 77, Op: OpUnblockSrvMux, Seq: seq, metadata: md})
			seq++
		}
		if m.Op == OpMuxServerMsg && m.Flags&FlagEOF != 0 {
			if m.Flags&FlagPayloadIsErr != 0 || seq != 6 {
				t.Errorf("the stream ended with %q after %d messages", m.Payload, seq-4)
			}
			break
		}
	}
	c.waitIdle(t)
	eventually(t, "nothing to be held", func() bool { return n.Connection(host).streamQuota.used.Load() == 0 })
}

// A request with metadata allocates no more than one without, on either node, where the handler
// does not look at it.
func TestMetadataNobodyReadsAllocatesNothing(t *testing.T) {
	if race.Enabled {
		t.Skip("sync.Pool drops values at random under the race detector")
	}
	c := startCluster(t, 2, nil)
	for _, n := range c.nodes {
		if err := n.RegisterSingleHandler(testSingle, func(p []byte) ([]byte, *RemoteErr) { return p, nil }); err != nil {
			t.Fatal(err)
		}
	}
	conn, payload := c.conn(0, 1), make([]byte, 512)
	for name, ctx := range map[string]context.Context{
		"without": context.Background(),
		"with":    WithMetadata(context.Background(), Metadata{"user": {"anna"}}),
	} {
		runtime.GC()
		n := testing.AllocsPerRun(2000, func() {
			b, err := conn.Request(ctx, testSingle, payload)
			if err != nil {
				t.Fatal(err)
			}
			PutByteBuffer(b)
		})
		if n != 0 {
			t.Errorf("%s metadata: %v allocations a request", name, n)
		}
	}
}

func BenchmarkMetadata(b *testing.B) {
	g := benchGrid(b, 2)
	conn := g.Managers[0].Connection(g.Hosts[1])
	ctx := b.Context()
	for name, ctx := range map[string]context.Context{
		"none":              context.Background(),
		"none/cancelable":   ctx,
		"two pairs, reused": WithMetadata(context.Background(), Metadata{"user": {"anna"}, "trace": {"0123456789"}}),
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				resp, err := conn.Request(ctx, benchEcho, benchBytes)
				if err != nil {
					b.Fatal(err)
				}
				PutByteBuffer(resp)
			}
		})
	}
	b.Run("lookup", func(b *testing.B) {
		s := conn.current.Load()
		for b.Loop() {
			s.encodedMetadata(outgoingOf(context.Background()))
		}
	})
	b.Run("two pairs, new", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			ctx := WithMetadata(context.Background(), Metadata{"user": {"anna"}, "trace": {"0123456789"}})
			resp, err := conn.Request(ctx, benchEcho, benchBytes)
			if err != nil {
				b.Fatal(err)
			}
			PutByteBuffer(resp)
		}
	})
}
