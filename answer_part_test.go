package grid

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"reflect"
	"strings"
	"testing"
)

type answerVectors struct {
	Parts []struct {
		Name       string              `json:"name"`
		Code       Code                `json:"code"`
		Details    string              `json:"details"`
		Header     map[string][]string `json:"header"`
		Trailer    map[string][]string `json:"trailer"`
		EncodedHex string              `json:"encoded_hex"`
	} `json:"parts"`
	Malformed []struct {
		Name       string `json:"name"`
		EncodedHex string `json:"encoded_hex"`
	} `json:"malformed"`
}

func loadAnswerVectors(t testing.TB) (v answerVectors) {
	t.Helper()
	b, err := os.ReadFile("testdata/native/answers.json")
	if err == nil {
		err = json.Unmarshal(b, &v)
	}
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestAnswerPartsHaveTheirBytes(t *testing.T) {
	for _, v := range loadAnswerVectors(t).Parts {
		header, err1 := Metadata(v.Header).encode()
		trailer, err2 := Metadata(v.Trailer).encode()
		if err := errors.Join(err1, err2); err != nil {
			t.Fatal(err)
		}
		p := answerPart{header: header, trailer: trailer, code: v.Code, details: []byte(v.Details)}
		if got := hex.EncodeToString(p.encode()); got != v.EncodedHex {
			t.Errorf("%s: encoded to %s, want %s", v.Name, got, v.EncodedHex)
		}
		got, err := several.readAnswerPart(unhex(t, v.EncodedHex))
		if err != nil || got.code != p.code || !bytes.Equal(got.details, p.details) || !bytes.Equal(got.header, header) || !bytes.Equal(got.trailer, trailer) {
			t.Errorf("%s: read as %+v, %v", v.Name, got, err)
		}
	}
	for _, v := range loadAnswerVectors(t).Malformed {
		if p, err := several.readAnswerPart(unhex(t, v.EncodedHex)); err == nil {
			t.Errorf("%s: read as %+v", v.Name, p)
		}
	}
}

func FuzzAnswerPart(f *testing.F) {
	for _, v := range loadAnswerVectors(f).Parts {
		f.Add(unhex(f, v.EncodedHex))
	}
	for _, v := range loadAnswerVectors(f).Malformed {
		f.Add(unhex(f, v.EncodedHex))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := several.readAnswerPart(b)
		if err != nil {
			return
		}
		if p.code >= codes || len(p.details) > several.maxDetails() {
			t.Fatalf("%x is read as %+v", b, p)
		}
		encoded := p.encode()
		if encoded == nil {
			return
		}
		again, err := several.readAnswerPart(encoded)
		if err != nil || !reflect.DeepEqual(normal(again), normal(p)) {
			t.Fatalf("%x is read as %+v, then %+v, %v", b, p, again, err)
		}
	})
}

// normal makes equal parts look the same.
func normal(p answerPart) answerPart {
	if len(p.details) == 0 {
		p.details = nil
	}
	return p
}

// answering is a cluster whose handlers set metadata, send messages and fail as the payload of a call
// says. After each message they wait until it is taken.
func answering(t *testing.T, taken <-chan struct{}) *cluster {
	c := startCluster(t, 2, nil)
	serve := func(ctx context.Context, payload []byte) error {
		var err error
		if !bytes.Contains(payload, []byte("nothing")) {
			err = errors.Join(
				SetHeader(ctx, Metadata{"early": {"1", "2"}, "again": {"no"}}),
				SetHeader(ctx, Metadata{"again": {"yes"}}),
				SetTrailer(ctx, Metadata{"late": {"3"}}))
		}
		if bytes.Contains(payload, []byte("fail")) {
			return Errorf(NotFound, "no such %s", "thing").WithDetails([]byte("details"))
		}
		return err
	}
	c.handle(t, func(ctx context.Context, payload []byte) ([]byte, error) { return payload, serve(ctx, payload) })
	for _, n := range c.nodes {
		h := func(ctx context.Context, payload []byte, _ <-chan []byte, out chan<- []byte) error {
			err := serve(ctx, payload)
			for i := range bytes.Count(payload, []byte("message")) {
				out <- fmt.Append(nil, i)
				<-taken // so that the end has not come when the caller looks for the header
			}
			return err
		}
		to := target{id: testStream}
		if err := registerStreamOf(n.Manager, &streamHandlerOf[[]byte, []byte]{codec: rawCodec, to: to, handle: h}, 0, 1); err != nil {
			t.Fatal(err)
		}
	}
	return c
}

func TestAnswersHaveMetadataAndCodes(t *testing.T) {
	taken := make(chan struct{})
	c := answering(t, taken)
	conn := c.conn(0, 1)
	header, trailer := Metadata{"early": {"1", "2"}, "again": {"yes"}}, Metadata{"late": {"3"}}
	for _, payload := range []string{"", "nothing", "fail", "message", "message message message", "message message fail"} {
		for _, way := range []string{"request", "stream"} {
			name := fmt.Sprintf("%s %q", way, payload)
			wantHeader, wantTrailer := header, trailer
			if payload == "nothing" {
				wantHeader, wantTrailer = nil, nil
			}
			ctx, answer := WithAnswerMetadata(t.Context())
			for range 2 { // the context may be used again
				var err error
				if way == "request" {
					_, err = conn.Request(ctx, testSingle, []byte(payload))
				} else {
					var st *Stream
					if st, err = conn.NewStream(ctx, testStream, []byte(payload)); err == nil {
						err = st.Results(func([]byte) error {
							if got := answer.Header(); !sameMetadata(got, wantHeader) {
								t.Errorf("%s: header %v with a message", name, got)
							}
							taken <- struct{}{}
							return nil
						})
					}
				}
				if fails := strings.Contains(payload, "fail"); fails != (err != nil) {
					t.Fatalf("%s: %v", name, err)
				}
				if err != nil {
					checkRichError(t, name, err, c.nodes[1].host)
				}
				if got := answer.Header(); !sameMetadata(got, wantHeader) {
					t.Errorf("%s: header %v, want %v", name, got, wantHeader)
				}
				if got := answer.Trailer(); !sameMetadata(got, wantTrailer) {
					t.Errorf("%s: trailer %v, want %v", name, got, wantTrailer)
				}
			}
		}
	}
}

func checkRichError(t *testing.T, name string, err error, peer string) {
	t.Helper()
	var e *Error
	if !errors.As(err, &e) || e.Code != NotFound || e.Text != "no such thing" || string(e.Details) != "details" || !e.Remote ||
		e.Peer != peer || e.Method == "" {
		t.Errorf("%s: %#v", name, err)
	}
	if !errors.Is(err, NotFound) || errors.Is(err, Internal) || CodeOf(err) != NotFound || Classify(t.Context(), err) != ErrorHandler {
		t.Errorf("%s: code %v, class %v", name, CodeOf(err), Classify(t.Context(), err))
	}
	if !errors.Is(err, RemoteErr("no such thing")) || !errors.Is(RemoteErr("no such thing"), err) || IsRemoteErr(err) == nil || err.Error() != "no such thing" {
		t.Errorf("%s: %v is not that RemoteErr", name, err)
	}
}

// The next call with a context does not show the answer of the one before.
func TestTheMetadataOfAnAnswerIsItsOwn(t *testing.T) {
	c := answering(t, nil)
	ctx, answer := WithAnswerMetadata(t.Context())
	for _, payload := range []string{"", "nothing"} {
		if _, err := c.conn(0, 1).Request(ctx, testSingle, []byte(payload)); err != nil {
			t.Fatal(err)
		}
		if got := answer.Header(); (got == nil) != (payload == "nothing") {
			t.Errorf("%q: header %v", payload, got)
		}
	}
	if header := (*AnswerMetadata)(nil).Header(); header != nil {
		t.Errorf("nil has %v", header)
	}
}

func TestAnswerMetadataIsBounded(t *testing.T) {
	const most = 512
	c := startCluster(t, 2, func(i int, o *ManagerOptions) { o.Limits.MaxMetadataSize = []int{most, 0}[i] })
	var kept context.Context
	var errs []error
	c.handle(t, func(ctx context.Context, payload []byte) ([]byte, error) {
		kept = ctx //nolint:fatcontext // used after the handler has returned, which is what it is about
		large := Metadata{"k": {strings.Repeat("v", most)}}
		errs = []error{
			SetHeader(ctx, large), SetTrailer(ctx, large), SetTrailer(ctx, Metadata{"": {"x"}}), SetTrailer(ctx, Metadata{"fits": {"x"}}),
		}
		return payload, Errorf(Aborted, "aborted").WithDetails(make([]byte, most+1))
	})
	for i := range 2 {
		ctx, answer := WithAnswerMetadata(t.Context())
		_, err := c.conn(i, 1-i).Request(ctx, testSingle, nil)
		if want := "aborted (details of 513 bytes left out, at most 512 can be sent)"; err == nil || err.Error() != want || !errors.Is(err, Aborted) {
			t.Errorf("got %v, want %s", err, want)
		}
		for n, err := range errs[:3] {
			if !errors.Is(err, ErrMetadata) {
				t.Errorf("call %d got %v", n, err)
			}
		}
		if errs[3] != nil || answer.Trailer().Get("fits") != "x" || answer.Header() != nil {
			t.Errorf("%v, trailer %v, header %v", errs[3], answer.Trailer(), answer.Header())
		}
		if err := SetTrailer(kept, Metadata{"a": {"b"}}); !errors.Is(err, ErrMetadata) || !strings.Contains(err.Error(), "has been sent") {
			t.Errorf("too late: %v", err)
		}
		ctx = WithMetadata(t.Context(), Metadata{"k": {strings.Repeat("v", most)}})
		if _, err := c.conn(i, 1-i).Request(ctx, testSingle, nil); !errors.Is(err, ErrMetadata) || !strings.Contains(err.Error(), "at most 512") {
			t.Errorf("a request with too much: %v", err)
		}
	}
	for name, ctx := range map[string]context.Context{"nil": nil, "a caller's": t.Context()} {
		if err := SetHeader(ctx, Metadata{"a": {"b"}}); !errors.Is(err, errNoHandlerContext) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Nothing is lost to an answer that has no room: it is an error that says so.
func TestAnAnswerWithoutRoomForItsTrailerSaysSo(t *testing.T) {
	c := startCluster(t, 2, func(_ int, o *ManagerOptions) { o.Limits.MaxMessageSize = 8 << 10 })
	c.handle(t, func(ctx context.Context, payload []byte) ([]byte, error) {
		if err := SetTrailer(ctx, Metadata{"k": {strings.Repeat("v", 2000)}}); err != nil {
			return nil, err
		}
		if string(payload) == "fail" {
			return nil, errors.New(strings.Repeat("x", 8000))
		}
		return make([]byte, 8000), nil
	})
	ctx, answer := WithAnswerMetadata(t.Context())
	if _, err := c.conn(0, 1).Request(ctx, testSingle, nil); !errors.Is(err, ErrMessageTooLarge) {
		t.Errorf("got %v", err)
	}
	_, err := c.conn(0, 1).Request(ctx, testSingle, []byte("fail"))
	if err == nil || err.Error() != "grid: message too large: error text of 8000 bytes" || len(answer.Trailer().Get("k")) != 2000 {
		t.Errorf("got %.200v", err)
	}
}

// A peer of before gets the text of an error and no metadata, and several values of a key are not
// sent to it.
func TestPeersWithoutAnswersGetWhatTheyKnow(t *testing.T) {
	for name, features := range map[string]uint32{"an original": 0, "a node from before": nativeFeatures &^ featureAnswers} {
		t.Run(name, func(t *testing.T) {
			c := &cluster{nodes: []*testNode{listenTCP(t, "127.0.0.1:0", "http://127.0.0.1")}}
			n, host := startForFake(t, c, nil)
			c.handle(t, func(ctx context.Context, _ []byte) ([]byte, error) {
				if err := errors.Join(SetHeader(ctx, Metadata{"a": {"b", "c"}}), SetTrailer(ctx, Metadata{"a": {"b"}})); err != nil {
					return nil, err
				}
				return nil, Errorf(NotFound, "no such thing").WithDetails([]byte("details"))
			})
			p := c.knock(t, n)
			p.introduceAs(t, host, features)
			conn := n.Connection(host)
			if err := conn.WaitForConnect(t.Context()); err != nil {
				t.Fatal(err)
			}
			p.send(t, message{MuxID: 1 << 40, Op: OpRequest, Handler: testSingle, Flags: FlagEOF})
			if m := p.next(t); m.Op != OpResponse || m.metadata != nil || string(m.Payload) != "no such thing" {
				t.Errorf("a handler's error went out as %v %q with %x", m.Op, m.Payload, m.metadata)
			}
			ctx := WithMetadata(t.Context(), Metadata{"k": {"1", "2"}})
			if features != 0 { // an original gets no metadata at all
				if _, err := conn.Request(ctx, testSingle, nil); !errors.Is(err, ErrMetadata) || !strings.Contains(err.Error(), `"k" has 2 values`) || !strings.Contains(err.Error(), host) {
					t.Errorf("several values: %v", err)
				}
			}
		})
	}
}
