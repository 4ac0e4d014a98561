package grid

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
)

type noteStream = StreamTypeHandler[*note, *note, *note]

func newNoteStream() *noteStream {
	return NewStream(typedHandler, newNote, newNote, newNote)
}

// upper answers each request with its text in capitals, after one response with the payload.
func upper(ctx context.Context, p *note, in <-chan *note, out chan<- *note) *RemoteErr {
	out <- &note{Text: p.Text}
	for req := range in {
		out <- &note{Text: strings.ToUpper(req.Text)}
	}
	if ctx.Err() != nil {
		return NewRemoteErr(context.Cause(ctx))
	}
	return nil
}

// texts are the texts of all responses, and the stream's error.
func texts(h *noteStream, st *TypedStream[*note, *note]) (got []string, err error) {
	err = st.Results(func(resp *note) error {
		got = append(got, resp.Text)
		h.PutResponse(resp)
		return nil
	})
	return got, err
}

func TestTypedStreamsDeliverAllInOrder(t *testing.T) {
	h := newNoteStream().WithInCapacity(4).WithOutCapacity(4)
	c := typedConn(t, func(m *Manager) error { return h.Register(m, upper) })
	for range 3 { // with pools empty and filled
		st, err := h.Call(t.Context(), c, &note{Text: "payload"})
		if err != nil {
			t.Fatal(err)
		}
		sent := make(chan error, 1)
		go func() {
			defer close(st.Requests)
			for i := range 20 {
				req := h.NewRequest()
				req.Text = fmt.Sprint("n", i)
				if err := st.Send(req); err != nil {
					sent <- err
					return
				}
			}
			sent <- nil
		}()
		want := []string{"payload"}
		for i := range 20 {
			want = append(want, fmt.Sprint("N", i))
		}
		got, err := texts(h, st)
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("got %q, %v", got, err)
		}
		if err := <-sent; err != nil {
			t.Error("send:", err)
		}
	}
}

func TestTypedStreamsNeedNoInputOrPayload(t *testing.T) {
	t.Run("RegisterNoInput", func(t *testing.T) {
		h := newNoteStream()
		c := typedConn(t, func(m *Manager) error {
			return h.RegisterNoInput(m, func(_ context.Context, p *note, out chan<- *note) *RemoteErr {
				out <- p
				return nil
			})
		})
		if h.InCapacity != 0 {
			t.Error("InCapacity is", h.InCapacity)
		}
		st, err := h.Call(t.Context(), c, &note{Text: "payload"})
		if err != nil {
			t.Fatal(err)
		}
		if st.Requests != nil {
			t.Error("there is a channel for requests")
		}
		if err := st.Send(newNote()); !errors.Is(err, errNoInput) {
			t.Error("send:", err)
		}
		if got, err := texts(h, st); err != nil || !slices.Equal(got, []string{"payload"}) {
			t.Errorf("got %q, %v", got, err)
		}
	})
	t.Run("RegisterNoPayload", func(t *testing.T) {
		h := newNoteStream()
		c := typedConn(t, func(m *Manager) error {
			return h.RegisterNoPayload(m, func(_ context.Context, in <-chan *note, out chan<- *note) *RemoteErr {
				for req := range in {
					out <- req
				}
				return nil
			})
		})
		if h.WithPayload {
			t.Error("WithPayload is set")
		}
		st, err := h.Call(t.Context(), c, &note{broken: true})
		if err != nil {
			t.Fatal(err)
		}
		if err := st.Send(&note{Text: "x"}); err != nil {
			t.Fatal(err)
		}
		close(st.Requests)
		if got, err := texts(h, st); err != nil || !slices.Equal(got, []string{"x"}) {
			t.Errorf("got %q, %v", got, err)
		}
	})
	t.Run("constructed without", func(t *testing.T) {
		h := NewStream[*note, *note](typedHandler, nil, nil, newNote)
		if h.WithPayload || h.InCapacity != 0 || h.OutCapacity != 1 {
			t.Errorf("payload %v, in %d, out %d", h.WithPayload, h.InCapacity, h.OutCapacity)
		}
		c := typedConn(t, func(m *Manager) error {
			return h.Register(m, func(_ context.Context, p *note, in <-chan *note, out chan<- *note) *RemoteErr {
				if p != nil || in != nil {
					return NewRemoteErr(errors.New("there is a payload or input"))
				}
				return nil
			})
		})
		st, err := h.Call(t.Context(), c, nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := st.Results(nil); err != nil {
			t.Error(err)
		}
	})
}

// What does not encode or decode must end the stream instead of arriving as something else.
func TestTypedStreamsEndOnGarbage(t *testing.T) {
	open := func(t *testing.T, h *noteStream, handle func(context.Context, *note, <-chan *note, chan<- *note) *RemoteErr) *TypedStream[*note, *note] {
		t.Helper()
		c := typedConn(t, func(m *Manager) error { return h.Register(m, handle) })
		st, err := h.Call(t.Context(), c, newNote())
		if err != nil {
			t.Fatal(err)
		}
		return st
	}
	check := func(t *testing.T, got []string, err error, want ...string) {
		t.Helper()
		if len(got) != 0 {
			t.Errorf("got responses %q", got)
		}
		for _, w := range append(want, "HandlerID(126)") {
			if err == nil || !strings.Contains(err.Error(), w) {
				t.Errorf("the error is %v, want %q in it", err, w)
			}
		}
	}
	silent := func(ctx context.Context, _ *note, in <-chan *note, out chan<- *note) *RemoteErr {
		for req := range in {
			out <- &note{Text: "got " + req.Text}
		}
		return nil
	}
	t.Run("a request that does not encode", func(t *testing.T) {
		h := newNoteStream()
		st := open(t, h, silent)
		if err := st.Send(&note{broken: true}); err != nil {
			t.Fatal(err)
		}
		got, err := texts(h, st)
		check(t, got, err, "encode request", errWontMarshal.Error())
		if err := st.Send(newNote()); !errors.Is(err, errWontMarshal) {
			t.Error("a later Send:", err)
		}
	})
	t.Run("a request that does not decode", func(t *testing.T) {
		c := typedConn(t, func(m *Manager) error { return newNoteStream().Register(m, silent) })
		raw, err := c.NewStream(t.Context(), typedHandler, []byte{0x80})
		if err != nil {
			t.Fatal(err)
		}
		if err := raw.Send([]byte{0xc1}); err != nil {
			t.Fatal(err)
		}
		check(t, nil, raw.Results(func([]byte) error { return nil }), "decode request")
	})
	t.Run("a response that does not encode", func(t *testing.T) {
		h := newNoteStream()
		st := open(t, h, func(_ context.Context, _ *note, _ <-chan *note, out chan<- *note) *RemoteErr {
			out <- &note{broken: true}
			return nil
		})
		got, err := texts(h, st)
		check(t, got, err, "encode response", errWontMarshal.Error())
	})
	t.Run("a response that does not decode", func(t *testing.T) {
		h := newNoteStream()
		canceled := make(chan struct{})
		c := connBetween(t, func(m *Manager) error { return h.Register(m, silent) }, func(m *Manager) error {
			return m.RegisterStreamingHandler(typedHandler, StreamHandler{InCapacity: 1, Handle: func(ctx context.Context, _ []byte, _ <-chan []byte, out chan<- []byte) *RemoteErr {
				out <- []byte{0xc1}
				<-ctx.Done()
				close(canceled)
				return nil
			}})
		})
		st, err := h.Call(t.Context(), c, newNote())
		if err != nil {
			t.Fatal(err)
		}
		got, err := texts(h, st)
		check(t, got, err, "decode response")
		<-canceled
	})
	t.Run("a payload that does not encode", func(t *testing.T) {
		h := newNoteStream()
		c := typedConn(t, func(m *Manager) error { return h.Register(m, silent) })
		_, err := h.Call(t.Context(), c, &note{broken: true})
		check(t, nil, err, "encode payload")
		if !errors.Is(err, errWontMarshal) {
			t.Error("the error is not wrapped:", err)
		}
	})
	t.Run("a payload that does not decode", func(t *testing.T) {
		h := newNoteStream()
		c := typedConn(t, func(m *Manager) error {
			return h.Register(m, func(context.Context, *note, <-chan *note, chan<- *note) *RemoteErr {
				t.Error("the handler was called")
				return nil
			})
		})
		raw, err := c.NewStream(t.Context(), typedHandler, []byte{0xc1})
		if err != nil {
			t.Fatal(err)
		}
		check(t, nil, raw.Results(func([]byte) error { return nil }), "decode payload")
	})
}

func TestSendReturnsTheErrorOfTheTypedStream(t *testing.T) {
	h := newNoteStream()
	c := typedConn(t, func(m *Manager) error {
		return h.Register(m, func(ctx context.Context, _ *note, _ <-chan *note, _ chan<- *note) *RemoteErr {
			<-ctx.Done()
			return nil
		})
	})
	gone := errors.New("gone")
	ctx, cancel := context.WithCancelCause(t.Context())
	defer cancel(nil)
	st, err := h.Call(ctx, c, nil)
	if err != nil {
		t.Fatal(err)
	}
	first, failed := make(chan struct{}), make(chan error, 1)
	go func() { // until the window is full, or the stream over: the handler takes nothing
		for i := 0; ; i++ {
			if err := st.Send(newNote()); err != nil {
				failed <- err
				return
			}
			if i == 0 {
				close(first)
			}
		}
	}()
	<-first
	cancel(gone)
	if err := <-failed; !errors.Is(err, gone) {
		t.Error("a Send:", err)
	}
	if err := st.Send(newNote()); !errors.Is(err, gone) {
		t.Error("a later Send:", err)
	}
}

func TestConsumersEndTypedStreams(t *testing.T) {
	endless := func(ctx context.Context, _ *note, out chan<- *note) *RemoteErr {
		for i := 0; ; i++ {
			select {
			case out <- &note{N: i}:
			case <-ctx.Done():
				return NewRemoteErr(context.Cause(ctx))
			}
		}
	}
	open := func(t *testing.T) *TypedStream[*note, *note] {
		h := newNoteStream()
		c := typedConn(t, func(m *Manager) error { return h.RegisterNoInput(m, endless) })
		st, err := h.Call(t.Context(), c, nil)
		if err != nil {
			t.Fatal(err)
		}
		return st
	}
	t.Run("an error from the callback is returned", func(t *testing.T) {
		enough := errors.New("enough")
		if err := open(t).Results(func(*note) error { return enough }); err != enough {
			t.Error("got", err)
		}
	})
	t.Run("leaving the loop ends the stream", func(t *testing.T) {
		st, n := open(t), 0
		for resp, err := range st.All() {
			if err != nil || resp.N != n {
				t.Fatal(resp, err)
			}
			if n++; n == 5 {
				break
			}
		}
		<-st.raw.mux.done
	})
	t.Run("the loop ends with the handler's error", func(t *testing.T) {
		h := newNoteStream()
		c := typedConn(t, func(m *Manager) error {
			return h.RegisterNoInput(m, func(_ context.Context, _ *note, out chan<- *note) *RemoteErr {
				out <- newNote()
				return NewRemoteErr(errors.New("as you wish"))
			})
		})
		st, err := h.Call(t.Context(), c, nil)
		if err != nil {
			t.Fatal(err)
		}
		var seen []string
		for resp, err := range st.All() {
			seen = append(seen, fmt.Sprintf("%t %v", resp != nil, err))
		}
		if !slices.Equal(seen, []string{"true <nil>", "false as you wish"}) {
			t.Errorf("got %q", seen)
		}
	})
}

func TestTypedStreamsRefuseWhatCannotWork(t *testing.T) {
	none := func(context.Context, *note, <-chan *note, chan<- *note) *RemoteErr { return nil }
	var nilHandler *noteStream
	tests := map[string]struct {
		register func(m *Manager) error
		want     error
	}{
		"nil handle":             {func(m *Manager) error { return newNoteStream().Register(m, nil) }, errNilHandler},
		"nil handle, no input":   {func(m *Manager) error { return newNoteStream().RegisterNoInput(m, nil) }, errNilHandler},
		"nil handle, no payload": {func(m *Manager) error { return newNoteStream().RegisterNoPayload(m, nil) }, errNilHandler},
		"nil manager":            {func(*Manager) error { return newNoteStream().Register(nil, none) }, errNilManager},
		"nil typed handler":      {func(m *Manager) error { return nilHandler.Register(m, none) }, ErrUnknownHandler},
		"no responses": {func(m *Manager) error {
			return NewStream[*note, *note, *note](typedHandler, nil, nil, nil).Register(m, none)
		}, errNoResponses},
		"input without requests": {func(m *Manager) error {
			return NewStream[*note, *note](typedHandler, nil, nil, newNote).WithInCapacity(1).Register(m, none)
		}, errNoRequests},
		"payload without payload": {func(m *Manager) error {
			h := NewStream[*note](typedHandler, nil, newNote, newNote)
			h.WithPayload = true
			return h.Register(m, none)
		}, errNoPayloads},
		"twice": {func(m *Manager) error {
			h := newNoteStream()
			return errors.Join(h.Register(m, none), h.Register(m, none))
		}, ErrHandlerAlreadyExists},
		"twice, at a subroute": {func(m *Manager) error {
			return errors.Join(newNoteStream().Register(m, none, "a", "b"), newNoteStream().Register(m, none, "a/b"))
		}, ErrHandlerAlreadyExists},
		"once with a subroute, once without": {func(m *Manager) error {
			return errors.Join(newNoteStream().Register(m, none, "a", "b"), newNoteStream().Register(m, none))
		}, nil},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			if err := tt.register(typedNode(t)); !errors.Is(err, tt.want) {
				t.Errorf("got %v, want %v", err, tt.want)
			}
		})
	}
	for name, h := range map[string]*noteStream{"in": newNoteStream().WithInCapacity(-1), "out": newNoteStream().WithOutCapacity(-1)} {
		if err := h.Register(typedNode(t), none); err == nil || !strings.Contains(err.Error(), "HandlerID(126): negative capacity") {
			t.Errorf("a negative %s capacity: %v", name, err)
		}
	}
}

func TestTypedStreamsRecycleWhatWasSent(t *testing.T) {
	run := func(t *testing.T, h *StreamTypeHandler[NoPayload, *counted, *counted]) (req, resp *counted) {
		t.Helper()
		req, resp = newCounted(), newCounted()
		c := typedConn(t, func(m *Manager) error {
			return h.Register(m, func(_ context.Context, _ NoPayload, in <-chan *counted, out chan<- *counted) *RemoteErr {
				for r := range in {
					if h.PutRequest(r); r.recycled.Load() != 1 {
						return NewRemoteErr(errors.New("PutRequest did not recycle"))
					}
				}
				out <- resp
				return nil
			})
		})
		st, err := h.Call(t.Context(), c, NewNoPayload())
		if err != nil {
			t.Fatal(err)
		}
		if err := st.Send(req); err != nil {
			t.Fatal(err)
		}
		close(st.Requests)
		if err := st.Results(nil); err != nil {
			t.Fatal(err)
		}
		return req, resp
	}
	req, resp := run(t, NewStream(typedHandler, NewNoPayload, newCounted, newCounted))
	if q, p := req.recycled.Load(), resp.recycled.Load(); q != 1 || p != 1 {
		t.Errorf("request recycled %d times, response %d times", q, p)
	}
	req, resp = run(t, NewStream(typedHandler, NewNoPayload, newCounted, newCounted).WithSharedResponse())
	if q, p := req.recycled.Load(), resp.recycled.Load(); q != 1 || p != 0 {
		t.Errorf("with shared responses: request recycled %d times, response %d times", q, p)
	}
}

func TestNilTypedStreamsAreSafe(t *testing.T) {
	for name, st := range map[string]*TypedStream[*note, *note]{"nil": nil, "zero": {}} {
		t.Run(name, func(t *testing.T) {
			if err := st.Send(newNote()); !errors.Is(err, ErrDisconnected) {
				t.Error("send:", err)
			}
			if err := st.Results(nil); !errors.Is(err, ErrDisconnected) {
				t.Error("results:", err)
			}
			for _, err := range st.All() {
				if !errors.Is(err, ErrDisconnected) {
					t.Error("all:", err)
				}
			}
		})
	}
	var h *noteStream
	if _, err := h.WithInCapacity(1).WithOutCapacity(1).WithSharedResponse().Call(t.Context(), nil, nil); err == nil {
		t.Error("a nil handler calls")
	}
	h.PutRequest(newNote())
	h.PutResponse(newNote())
	if h.NewPayload() != nil || h.NewRequest() != nil || h.NewResponse() != nil {
		t.Error("a nil handler has values")
	}
	for name, c := range map[string]Streamer{"nil": nil, "nil *Connection": (*Connection)(nil), "nil *Subroute": (*Subroute)(nil)} {
		if _, err := newNoteStream().Call(t.Context(), c, nil); !errors.Is(err, ErrDisconnected) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Recv, Header and Trailer of a typed stream do what those of other streams do.
func TestTypedStreamsReceiveOneByOne(t *testing.T) {
	h := newNoteStream()
	c := typedConn(t, func(m *Manager) error {
		return h.Register(m, func(ctx context.Context, p *note, in <-chan *note, out chan<- *note) *RemoteErr {
			if err := errors.Join(SetHeader(ctx, Metadata{"from": {"header"}}), SetTrailer(ctx, Metadata{"from": {"trailer"}})); err != nil {
				return NewRemoteErr(err)
			}
			for req := range in {
				out <- &note{Text: strings.ToUpper(req.Text)}
			}
			if p.Text == "fail" {
				return NewRemoteErrString("as asked")
			}
			return nil
		})
	})
	for payload, want := range map[string]string{"well": "EOF", "fail": "as asked"} {
		st, err := h.Call(t.Context(), c, &note{Text: payload})
		if err != nil {
			t.Fatal(err)
		}
		if st.Header() != nil || st.Trailer() != nil {
			t.Errorf("metadata came before anything else: %v, %v", st.Header(), st.Trailer())
		}
		for _, word := range []string{"one", "two"} { // one after the other
			if err := st.Send(&note{Text: word}); err != nil {
				t.Fatal(err)
			}
			resp, err := st.Recv()
			if err != nil || resp.Text != strings.ToUpper(word) {
				t.Fatalf("got %+v, %v", resp, err)
			}
			h.PutResponse(resp)
			if got := st.Header().Get("from"); got != "header" || st.Trailer() != nil {
				t.Errorf("the header is from %q, the trailer is %v", got, st.Trailer())
			}
		}
		if md, err := st.WaitForHeader(t.Context()); err != nil || md.Get("from") != "header" {
			t.Errorf("waited for the header %v, %v", md, err)
		}
		if err := st.CloseSend(); err != nil {
			t.Error(err)
		}
		for range 2 {
			if resp, err := st.Recv(); resp != nil || err == nil || (err != io.EOF && payload == "well") || !strings.HasSuffix(err.Error(), want) {
				t.Errorf("%s: at the end Recv returns %v, %v", payload, resp, err)
			}
		}
		if got := st.Trailer().Get("from"); got != "trailer" {
			t.Errorf("the trailer is from %q", got)
		}
	}
}

// A response that cannot be decoded cancels the stream, and no other: Recv returns why.
func TestATypedStreamEndsWithWhatCannotBeDecoded(t *testing.T) {
	ended := make(chan error, 1)
	c := typedConn(t, func(m *Manager) error {
		return m.RegisterStreamingHandler(typedHandler, StreamHandler{
			OutCapacity: 1, InCapacity: 1,
			Handle: func(ctx context.Context, _ []byte, _ <-chan []byte, out chan<- []byte) *RemoteErr {
				out <- []byte("soup")
				<-ctx.Done()
				ended <- context.Cause(ctx)
				return nil
			},
		})
	})
	st, err := newNoteStream().Call(t.Context(), c, &note{})
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if resp, err := st.Recv(); resp != nil || err == nil || !strings.Contains(err.Error(), "decode response") {
			t.Errorf("got %v, %v", resp, err)
		}
	}
	<-ended
	if err := st.Err(); err == nil || !strings.Contains(err.Error(), "decode response") {
		t.Errorf("the stream ended with %v", err)
	}
}
