package grid

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
)

// librarySentinels are the errors that a handler's text can be mistaken for.
var librarySentinels = []RemoteErr{ErrDisconnected, ErrShutdown, ErrOverloaded}

// nameUnknown is a handler that nobody registers.
const nameUnknown = HandlerID(201)

func TestErrorsNameTheCall(t *testing.T) {
	c := startCluster(t, 2, nil)
	if err := c.nodes[0].RegisterStreamingHandler(nameUnknown, StreamHandler{Handle: endless}); err != nil {
		t.Fatal(err)
	}
	conn, peer := c.conn(0, 1), c.nodes[1].host
	request := func(r Requester) func() error {
		return func() error { _, err := r.Request(t.Context(), nameUnknown, nil); return err }
	}
	stream := func() error {
		st, err := conn.NewStream(t.Context(), nameUnknown, nil)
		if err != nil {
			return err
		}
		return st.Results(func([]byte) error { return nil })
	}
	check := func(what string, call func() error, is error, text string) {
		t.Helper()
		err := call()
		if !errors.Is(err, is) || err.Error() != text {
			t.Errorf("%s: got %v, want %s", what, err, text)
		}
		if c := Classify(t.Context(), err); c != classOf(is) {
			t.Errorf("%s: class %v", what, c)
		}
	}
	check("a request", request(conn), ErrUnknownHandler,
		"grid: request to HandlerID(201) at "+peer+": unknown handler")
	check("a request on a subroute", request(conn.Subroute("disks").Subroute("sda")), ErrUnknownHandler,
		"grid: request to HandlerID(201) on subroute disks/sda at "+peer+": unknown handler")
	check("a stream", stream, ErrUnknownHandler,
		"grid: stream to HandlerID(201) at "+peer+": unknown handler")
	c.nodes[1].Close()
	eventually(t, "the loss", func() bool { return conn.State() != StateConnected })
	check("a request to a node that is gone", request(conn), ErrDisconnected,
		"grid: request to HandlerID(201) at "+peer+": remote disconnected")
	check("a stream to a node that is gone", stream, ErrDisconnected,
		"grid: stream to HandlerID(201) at "+peer+": remote disconnected")
	gone := error(ErrDisconnected)
	if n := testing.AllocsPerRun(100, func() { conn.named(gone, false, target{id: nameUnknown, number: int(nameUnknown)}) }); n != 0 {
		t.Errorf("the error of a call to a node that is gone allocates %v times", n)
	}
	c.nodes[0].Close()
	check("a request from a node that is shut down", request(conn), ErrShutdown,
		"grid: request to HandlerID(201) at "+peer+": node is shutting down")
}

// endless serves a stream until it is canceled.
func endless(ctx context.Context, _ []byte, _ <-chan []byte, _ chan<- []byte) *RemoteErr {
	<-ctx.Done()
	return nil
}

// A handler that hands on the very text of one of the library's errors says nothing about its own
// call.
func TestAHandlersTextIsNotTheLibrarys(t *testing.T) {
	c := startCluster(t, 2, nil)
	c.handle(t, func(_ context.Context, b []byte) ([]byte, error) { return nil, NewRemoteErrString(string(b)) })
	c.stream(t, 0, 1, func(_ context.Context, b []byte, _ <-chan []byte, _ chan<- []byte) *RemoteErr {
		return NewRemoteErrString(string(b))
	})
	for _, sentinel := range librarySentinels {
		for kind, call := range map[string]func() error{
			"request": func() error {
				_, err := c.conn(0, 1).Request(t.Context(), testSingle, []byte(sentinel))
				return err
			},
			"stream": func() error {
				st, err := c.conn(0, 1).NewStream(t.Context(), testStream, []byte(sentinel))
				if err != nil {
					return err
				}
				return st.Results(func([]byte) error { return nil })
			},
		} {
			err := call()
			if errors.Is(err, sentinel) || err.Error() != string(sentinel) {
				t.Errorf("%s: got %#v of a handler that returned the text of %v", kind, err, sentinel)
			}
			if r := IsRemoteErr(err); r == nil || *r != sentinel {
				t.Errorf("%s: RemoteErr %v, want %v", kind, r, sentinel)
			}
			if class := Classify(t.Context(), err); class != ErrorHandler {
				t.Errorf("%s: class %v, want %v", kind, class, ErrorHandler)
			}
		}
	}
	stats := handlerStats(c.nodes[0].Stats().Handlers, RoleClient, testSingle, "")
	var returned []Code
	for _, sentinel := range librarySentinels {
		returned = append(returned, CodeOf(sentinel))
	}
	if want := failedWith(returned...); stats.Errors != want {
		t.Errorf("statistics count %+v, want %+v", stats.Errors, want)
	}
}

// wireErrors are the vectors of marked errors.
type wireErrors []struct {
	Name       string `json:"name"`
	Code       byte   `json:"code"`
	Is         string `json:"is"` // the text of the error, empty for none
	Text       string `json:"text"`
	EncodedHex string `json:"encoded_hex"`
}

func readWireErrors(t *testing.T) (v wireErrors) {
	t.Helper()
	b, err := os.ReadFile("testdata/native/errors.json")
	if err == nil {
		err = json.Unmarshal(b, &v)
	}
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func TestMarkedErrorsHaveTheirBytes(t *testing.T) {
	s := &sender{agreement: agree(0, nativeFeatures, 0)}
	for _, v := range readWireErrors(t) {
		err := &libraryError{is: errorCode(v.Code).err(), text: v.Text}
		m := s.marked(message{MuxID: 7, Op: OpResponse, Flags: FlagEOF | FlagPayloadIsErr, Payload: []byte(v.Text)}, err)
		if got := hex.EncodeToString(m.appendTo(nil)); got != v.EncodedHex {
			t.Errorf("%s: got %s, want %s", v.Name, got, v.EncodedHex)
		}
		b, _ := hex.DecodeString(v.EncodedHex)
		var back message
		if err := back.parse(b); err != nil {
			t.Fatal(err)
		}
		if err := s.takeMetadata(&back); err != nil {
			t.Fatal(err)
		}
		said, ok := s.saidError(&back).(*libraryError)
		if !ok || said.text != v.Text || (said.is == nil) != (v.Is == "") || said.is != nil && said.is.Error() != v.Is {
			t.Errorf("%s: read as %#v", v.Name, said)
		}
	}
}

// What peers of each kind are sent, and what is made of what they send.
func TestErrorsOfPeersWithAndWithoutMarks(t *testing.T) {
	for name, peer := range map[string]struct {
		features uint32
		marks    bool
	}{
		"an original":           {0, false},
		"a node from before":    {featureNative | featureMetadata, false},
		"a node like this one":  {nativeFeatures, true},
		"a node that does more": {nativeFeatures | 1<<30, true},
	} {
		t.Run(name, func(t *testing.T) {
			c := &cluster{nodes: []*testNode{listenTCP(t, "127.0.0.1:0", "http://127.0.0.1")}}
			n, host := startForFake(t, c, nil)
			c.handle(t, func(context.Context, []byte) ([]byte, error) { return nil, &errShutdown })
			p := c.knock(t, n)
			p.introduceAs(t, host, peer.features)
			conn := n.Connection(host)
			if err := conn.WaitForConnect(t.Context()); err != nil {
				t.Fatal(err)
			}
			ask := func(reply func(id uint64) message) error {
				done := make(chan error, 1)
				go func() { _, err := conn.Request(t.Context(), testSingle, nil); done <- err }()
				m := p.next(t)
				for m.Op != OpRequest {
					m = p.next(t)
				}
				p.send(t, reply(m.MuxID))
				return <-done
			}
			failure := func(rest []byte) func(id uint64) message {
				return func(id uint64) message {
					return message{MuxID: id, Op: OpResponse, Flags: FlagEOF | FlagPayloadIsErr, Payload: []byte(ErrOverloaded), metadata: rest}
				}
			}
			if err := ask(failure(nil)); errors.Is(err, ErrOverloaded) == peer.marks || IsRemoteErr(err) == nil {
				t.Errorf("the text of ErrOverloaded without a mark is %#v", err)
			}
			if peer.marks {
				if err := ask(failure(appendMark(nil, codeShutdown))); !errors.Is(err, ErrShutdown) {
					t.Errorf("an error that is marked as ErrShutdown is %v", err)
				}
				if err := ask(failure(appendMark(nil, 99))); classOf(err) != ErrorOverloaded && classOf(err) != ErrorOther {
					t.Errorf("a mark of a later version is %v, class %v", err, classOf(err))
				}
			}
			for _, text := range []string{"Invalid Handler", "Invalid Handler for type", "Invalid Handler for type: MakeBucket"} {
				payload, _ := (&muxConnectError{Error: text}).MarshalMsg(nil)
				if err := ask(func(id uint64) message { return message{MuxID: id, Op: OpMuxConnectError, Payload: payload} }); !errors.Is(err, ErrUnknownHandler) {
					t.Errorf("a refusal with %q is %v", text, err)
				}
			}
			// The handler of this node says what looks like a shutdown; then there is one.
			p.send(t, message{MuxID: 1 << 40, Op: OpRequest, Handler: testSingle, Flags: FlagEOF})
			if m := p.next(t); m.Op != OpResponse || several.answerOf(&m).isLibrary || string(m.Payload) != string(ErrShutdown) {
				t.Errorf("a handler's error went out as %v with %x", m.Op, m.metadata)
			}
			conn.active.stop(&errShutdown)
			p.send(t, message{MuxID: 1<<40 + 2, Op: OpRequest, Handler: testSingle, Flags: FlagEOF})
			m := p.next(t)
			if p := several.answerOf(&m); m.Op != OpResponse || p.isLibrary != peer.marks || p.isLibrary && p.library != codeShutdown {
				t.Errorf("a refusal went out as %v with %x", m.Op, m.metadata)
			}
		})
	}
}

// A handler's context that ended with its caller's connection does not make the handler's own calls
// look disconnected.
func TestTheLossOfTheCallerIsNotThatOfTheCallee(t *testing.T) {
	c := startCluster(t, 3, nil)
	inside, result := make(chan struct{}), make(chan error, 1)
	slow := func(ctx context.Context, b []byte) ([]byte, error) {
		if string(b) != "on" {
			<-ctx.Done()
			return nil, nil
		}
		close(inside)
		_, err := c.conn(1, 2).Request(ctx, testSingle, nil)
		result <- err
		return nil, nil
	}
	c.handle(t, slow)
	go c.conn(0, 1).Request(t.Context(), testSingle, []byte("on"))
	<-inside
	c.nodes[0].Close()
	err := <-result
	if errors.Is(err, ErrDisconnected) || !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want what is context.Canceled and not ErrDisconnected", err)
	}
	if !strings.Contains(fmt.Sprint(err), string(ErrDisconnected)) {
		t.Errorf("%v does not say what ended the context", err)
	}
}

func TestClassify(t *testing.T) {
	mine := errors.New("mine")
	canceled, cancel := context.WithCancelCause(t.Context())
	cancel(mine)
	late, stop := context.WithTimeoutCause(t.Context(), 0, mine)
	defer stop()
	<-late.Done()
	over := RemoteErr("over there")
	for _, test := range []struct {
		ctx  context.Context
		err  error
		want ErrorClass
	}{
		{t.Context(), nil, ErrorNone},
		{t.Context(), context.Canceled, ErrorCanceled},
		{t.Context(), fmt.Errorf("reading: %w", context.DeadlineExceeded), ErrorDeadline},
		{canceled, mine, ErrorCanceled},
		{canceled, fmt.Errorf("reading: %w", mine), ErrorCanceled},
		{canceled, ErrDisconnected, ErrorDisconnected}, // before the context ended
		{late, mine, ErrorDeadline},
		{t.Context(), mine, ErrorOther},
		{t.Context(), &over, ErrorHandler},
		{t.Context(), &Error{Text: string(ErrShutdown), Remote: true}, ErrorHandler},
		{t.Context(), errResultsLeft, ErrorLeft},
		{t.Context(), &libraryError{text: "handler blocked"}, ErrorOther},
		{t.Context(), &callError{err: ErrShutdown}, ErrorShutdown},
		{t.Context(), &callError{err: refusal("Invalid Handler")}, ErrorUnknownHandler},
		{t.Context(), fmt.Errorf("%w: 7 bytes", ErrMessageTooLarge), ErrorMessageTooLarge},
		{t.Context(), ErrMetadata, ErrorMetadata},
		{t.Context(), fmt.Errorf("%w: want 1, got 2", ErrIncorrectSequence), ErrorSequence},
	} {
		if got := Classify(test.ctx, test.err); got != test.want {
			t.Errorf("%#v is %v, want %v", test.err, got, test.want)
		}
	}
	var names []string
	for class := range errorClasses {
		names = append(names, class.String())
	}
	slices.Sort(names)
	if len(slices.Compact(names)) != int(errorClasses) || slices.Contains(names, "") {
		t.Errorf("names %q", names)
	}
	if name := ErrorClass(200).String(); name != "other" {
		t.Errorf("a class of a later version is %q", name)
	}
}

func TestRefusalsAreCountedByLimit(t *testing.T) {
	c := startCluster(t, 2, func(_ int, o *ManagerOptions) { o.Limits.MaxRequests, o.Limits.MaxStreams = 1, 1 })
	entered := make(chan struct{})
	c.handle(t, func(ctx context.Context, _ []byte) ([]byte, error) {
		entered <- struct{}{}
		<-ctx.Done()
		return nil, nil
	})
	c.stream(t, 0, 1, func(ctx context.Context, _ []byte, _ <-chan []byte, _ chan<- []byte) *RemoteErr {
		entered <- struct{}{}
		<-ctx.Done()
		return nil
	})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go c.conn(0, 1).Request(ctx, testSingle, nil)
	<-entered
	if _, err := c.conn(0, 1).NewStream(ctx, testStream, nil); err != nil {
		t.Fatal(err)
	}
	<-entered
	for range 3 {
		if _, err := c.conn(0, 1).Request(ctx, testSingle, nil); !errors.Is(err, ErrOverloaded) {
			t.Fatal(err)
		}
	}
	for range 2 {
		st, err := c.conn(0, 1).NewStream(ctx, testStream, nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := st.Results(func([]byte) error { return nil }); !errors.Is(err, ErrOverloaded) {
			t.Fatal(err)
		}
	}
	if got, want := c.conn(1, 0).Stats().Refused, (RefusalStats{MaxRequests: 3, MaxStreams: 2}); got != want {
		t.Errorf("refused %+v, want %+v", got, want)
	}
	for role, n := range map[HandlerID]int64{testSingle: 3, testStream: 2} {
		if got := handlerStats(c.nodes[0].Stats().Handlers, RoleClient, role, "").Errors; got != (ErrorStats{Overloaded: n}) {
			t.Errorf("the caller counts %+v of %v", got, role)
		}
	}
	recent := c.nodes[1].RecentErrors()
	if !slices.ContainsFunc(recent, func(e RecentError) bool {
		return e.Count == 3 && e.Text == "overloaded: over Limits.MaxRequests"
	}) {
		t.Errorf("recent errors %+v", recent)
	}
}
