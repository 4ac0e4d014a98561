package grid

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gridmesh/grid/internal/race"
	"github.com/tinylib/msgp/msgp"
)

const typedHandler HandlerID = 126

var errWontMarshal = errors.New("this note does not marshal")

// note is a payload without Recycle. A field that is empty is left out, as code generated with
// omitempty does.
type note struct {
	Text   string
	N      int
	broken bool
}

func newNote() *note { return new(note) }

func (n *note) Msgsize() int { return 64 + len(n.Text) }

func (n *note) MarshalMsg(b []byte) ([]byte, error) {
	if n.broken {
		return b, errWontMarshal
	}
	if n.Text == "" {
		b = msgp.AppendMapHeader(b, 1)
	} else {
		b = msgp.AppendMapHeader(b, 2)
		b = msgp.AppendString(msgp.AppendString(b, "t"), n.Text)
	}
	return msgp.AppendInt(msgp.AppendString(b, "n"), n.N), nil
}

func (n *note) UnmarshalMsg(b []byte) ([]byte, error) {
	fields, b, err := msgp.ReadMapHeaderBytes(b)
	for ; err == nil && fields > 0; fields-- {
		var key []byte
		if key, b, err = msgp.ReadMapKeyZC(b); err != nil {
			break
		}
		switch string(key) {
		case "t":
			n.Text, b, err = msgp.ReadStringBytes(b)
		case "n":
			n.N, b, err = msgp.ReadIntBytes(b)
		}
	}
	return b, err
}

// counted is a payload that counts how often it was recycled.
type counted struct {
	note
	recycled atomic.Int32
}

func (c *counted) Recycle() { c.recycled.Add(1) }

func newCounted() *counted { return new(counted) }

// wrapped embeds a payload type of the package but looks after itself.
type wrapped struct {
	*MSS
	recycled int
}

func (w *wrapped) Recycle() { w.recycled++ }

// typedConn returns a connection between two nodes on both of which register was called.
func typedConn(t *testing.T, register func(m *Manager) error) *Connection {
	t.Helper()
	return connBetween(t, register, register)
}

// connBetween returns the connection from one node to another, after each was given to its
// function.
func connBetween(t *testing.T, local, remote func(m *Manager) error) *Connection {
	t.Helper()
	g, err := SetupTestGrid(2)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(g.Cleanup)
	if err := errors.Join(local(g.Managers[0]), remote(g.Managers[1])); err != nil {
		t.Fatal(err)
	}
	return g.Managers[0].Connection(g.Hosts[1])
}

// typedNode returns a node without peers.
func typedNode(t testing.TB) *Manager {
	t.Helper()
	g, err := SetupTestGrid(1)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(g.Cleanup)
	return g.Managers[0]
}

func TestTypedCallsAnswerOrFail(t *testing.T) {
	h := NewSingleHandler(typedHandler, newNote, newNote)
	c := typedConn(t, func(m *Manager) error {
		return h.Register(m, func(req *note) (*note, *RemoteErr) {
			switch req.Text {
			case "fail":
				return nil, NewRemoteErr(errors.New("as you wish"))
			case "nil":
				return nil, nil
			case "broken":
				return &note{broken: true}, nil
			case "echo":
				return req, nil
			}
			return &note{Text: strings.ToUpper(req.Text), N: req.N + 1}, nil
		})
	})
	tests := map[string]struct {
		req     *note
		want    note
		wantErr string
	}{
		"answers":                               {req: &note{Text: "hi", N: 1}, want: note{Text: "HI", N: 2}},
		"answers with the request itself":       {req: &note{Text: "echo", N: 3}, want: note{Text: "echo", N: 3}},
		"a nil request is a new one":            {req: nil, want: note{N: 1}},
		"a nil response is a new one":           {req: &note{Text: "nil"}},
		"a handler's error comes as it is":      {req: &note{Text: "fail"}, wantErr: "as you wish"},
		"a request that does not marshal":       {req: &note{broken: true}, wantErr: "grid: HandlerID(126): encode request: " + errWontMarshal.Error()},
		"a response that does not marshal":      {req: &note{Text: "broken"}, wantErr: "grid: HandlerID(126): encode response: " + errWontMarshal.Error()},
		"a field that is left out is not stale": {req: &note{N: 5}, want: note{N: 6}},
	}
	for range 3 { // with pools empty and filled
		for name, tt := range tests {
			t.Run(name, func(t *testing.T) {
				resp, err := h.Call(t.Context(), c, tt.req)
				if tt.wantErr != "" {
					if err == nil || err.Error() != tt.wantErr || resp != nil {
						t.Fatalf("got %v, %v, want error %q", resp, err, tt.wantErr)
					}
					return
				}
				if err != nil || *resp != tt.want {
					t.Fatalf("got %v, %v, want %v", resp, err, tt.want)
				}
				h.PutResponse(resp)
			})
		}
	}
}

// requesterFunc is a Requester with any behavior.
type requesterFunc func(req []byte) ([]byte, error)

func (f requesterFunc) Request(_ context.Context, _ HandlerID, req []byte) ([]byte, error) {
	return f(req)
}

func TestTypedCallsWrapDecodeErrors(t *testing.T) {
	h := NewSingleHandler(typedHandler, newNote, newNote)
	garbage := requesterFunc(func([]byte) ([]byte, error) { return []byte{0xc1}, nil })
	_, err := h.Call(t.Context(), garbage, newNote())
	if err == nil || !strings.Contains(err.Error(), "HandlerID(126): decode response") || errors.Unwrap(err) == nil {
		t.Errorf("got %v", err)
	}
	c := typedConn(t, func(m *Manager) error {
		return h.Register(m, func(*note) (*note, *RemoteErr) {
			t.Error("the handler was called")
			return nil, nil
		})
	})
	_, err = c.Request(t.Context(), typedHandler, []byte{0xc1})
	if IsRemoteErr(err) == nil || !strings.Contains(err.Error(), "HandlerID(126): decode request") {
		t.Errorf("got %v", err)
	}
}

func TestTypedCallsOnNoConnectionAreDisconnected(t *testing.T) {
	conns := map[string]Requester{
		"nil interface":     nil,
		"nil *Connection":   (*Connection)(nil),
		"nil *Subroute":     (*Subroute)(nil),
		"*Subroute of none": &Subroute{},
	}
	for name, c := range conns {
		t.Run(name, func(t *testing.T) {
			h := NewSingleHandler(typedHandler, newNote, newNote)
			if resp, err := h.Call(t.Context(), c, newNote()); !errors.Is(err, ErrDisconnected) || resp != nil {
				t.Errorf("got %v, %v", resp, err)
			}
			if resp, err := h.IgnoreNilConn().Call(t.Context(), c, newNote()); err != nil || resp != nil {
				t.Errorf("ignored: got %v, %v", resp, err)
			}
		})
	}
}

func TestTypedHandlersRefuseWhatCannotWork(t *testing.T) {
	h := NewSingleHandler(typedHandler, newNote, newNote)
	echo := func(req *note) (*note, *RemoteErr) { return req, nil }
	m := typedNode(t)
	if err := h.Register(m, nil); !errors.Is(err, errNilHandler) || !strings.Contains(err.Error(), "HandlerID(126)") {
		t.Error("nil handler:", err)
	}
	if err := h.RegisterContext(m, nil); !errors.Is(err, errNilHandler) {
		t.Error("nil handler with context:", err)
	}
	if err := h.Register(nil, echo); !errors.Is(err, errNilManager) {
		t.Error("nil manager:", err)
	}
	if err := h.Register(m, echo, "a", "b"); err != nil {
		t.Error("subroute:", err)
	}
	if err := h.Register(m, echo, "a/b"); !errors.Is(err, ErrHandlerAlreadyExists) {
		t.Error("twice:", err)
	}
	var none *SingleHandler[*note, *note]
	if err := none.Register(m, echo); err == nil {
		t.Error("a nil SingleHandler registers")
	}
	if _, err := none.WithSharedResponse().AllowCallRequestPool(true).IgnoreNilConn().Call(t.Context(), nil, nil); err == nil {
		t.Error("a nil SingleHandler calls")
	}
	none.PutResponse(newNote())
	if none.NewRequest() != nil || none.NewResponse() != nil {
		t.Error("a nil SingleHandler has values")
	}
}

func TestTypedCallsWithoutNewValuesFail(t *testing.T) {
	h := NewSingleHandler[*note, *note](typedHandler, nil, func() *note { return nil })
	echo := requesterFunc(func(req []byte) ([]byte, error) { return append(GetByteBuffer(), req...), nil })
	if _, err := h.Call(t.Context(), echo, nil); !errors.Is(err, errNoValue) {
		t.Error("nil request:", err)
	}
	if _, err := h.Call(t.Context(), echo, newNote()); !errors.Is(err, errNoValue) {
		t.Error("response:", err)
	}
}

func TestTypedNilOfOwnTypesStaysNil(t *testing.T) {
	h := NewSingleHandler(typedHandler, NewMSS, NewBytes)
	c := typedConn(t, func(m *Manager) error {
		return h.Register(m, func(req *MSS) (*Bytes, *RemoteErr) {
			if *req != nil {
				return nil, NewRemoteErr(fmt.Errorf("got %v", *req))
			}
			return nil, nil
		})
	})
	for range 3 {
		resp, err := h.Call(t.Context(), c, nil)
		if err != nil || *resp != nil {
			t.Fatal(resp, err)
		}
		h.PutResponse(resp)
		if req := h.NewRequest(); *req == nil {
			t.Fatal("a new request has no map")
		}
	}
}

func TestTypedHandlersAreGivenTheirCallersContext(t *testing.T) {
	h := NewSingleHandler(typedHandler, NewNoPayload, NewBytes)
	c := typedConn(t, func(m *Manager) error {
		return h.RegisterContext(m, func(ctx context.Context, _ NoPayload) (*Bytes, error) {
			_, bounded := ctx.Deadline()
			return NewBytesWith(fmt.Append(nil, GetCaller(ctx).Name, " ", GetSubroute(ctx), " ", bounded)), nil
		}, "a", "b")
	})
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	resp, err := h.Call(ctx, c.Subroute("a").Subroute("b"), NewNoPayload())
	if want := c.Local + " a/b true"; err != nil || string(*resp) != want {
		t.Fatalf("got %v, %v, want %s", resp, err, want)
	}
}

func TestTypedValuesAreRecycledOnce(t *testing.T) {
	newHandler := func() *SingleHandler[*counted, *counted] {
		return NewSingleHandler(typedHandler, newCounted, newCounted)
	}
	check := func(t *testing.T, what string, c *counted, want int32) {
		t.Helper()
		if got := c.recycled.Load(); got != want {
			t.Errorf("the %s was recycled %d times, want %d", what, got, want)
		}
	}
	tests := map[string]struct {
		h                                  *SingleHandler[*counted, *counted]
		callerReq, handlerReq, handlerResp int32
		put                                int32
	}{
		"by default the call's request stays the caller's": {newHandler(), 0, 1, 1, 1},
		"AllowCallRequestPool recycles the call's request": {newHandler().AllowCallRequestPool(true), 1, 1, 1, 1},
		"AllowCallRequestPool(false) takes it back":        {newHandler().AllowCallRequestPool(true).AllowCallRequestPool(false), 0, 1, 1, 1},
		"WithSharedResponse leaves responses alone":        {newHandler().WithSharedResponse(), 0, 1, 0, 0},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			reqs, resps := make(chan *counted, 1), make(chan *counted, 1)
			c := typedConn(t, func(m *Manager) error {
				return tt.h.Register(m, func(req *counted) (*counted, *RemoteErr) {
					resp := newCounted()
					reqs <- req
					resps <- resp
					return resp, nil
				})
			})
			req := newCounted()
			resp, err := tt.h.Call(t.Context(), c, req)
			if err != nil {
				t.Fatal(err)
			}
			check(t, "caller's response, still in use,", resp, 0)
			tt.h.PutResponse(resp)
			check(t, "caller's request", req, tt.callerReq)
			check(t, "handler's request", <-reqs, tt.handlerReq)
			check(t, "handler's response", <-resps, tt.handlerResp)
			check(t, "caller's response", resp, tt.put)
		})
	}
}

func TestRequestThatIsTheResponseIsRecycledOnce(t *testing.T) {
	seen := make(chan *counted, 1)
	h := NewSingleHandler(typedHandler, newCounted, newCounted)
	c := typedConn(t, func(m *Manager) error {
		return h.Register(m, func(req *counted) (*counted, *RemoteErr) {
			seen <- req
			return req, nil
		})
	})
	if _, err := h.Call(t.Context(), c, newCounted()); err != nil {
		t.Fatal(err)
	}
	if n := (<-seen).recycled.Load(); n != 1 {
		t.Errorf("recycled %d times", n)
	}
}

func TestPoolLeavesEmbeddingTypesAlone(t *testing.T) {
	p := pool[*wrapped]{newFn: func() *wrapped { return &wrapped{MSS: NewMSS()} }}
	w := p.fresh()
	p.put(w)
	if w.recycled != 1 || p.free.Get() != nil {
		t.Error("a value with its own Recycle was kept")
	}
	p.put(nil)
	if v, err := p.present(nil); err != nil || v == nil {
		t.Error("a nil value:", v, err)
	}
}

func TestPoolKeepsWhatNewFnSets(t *testing.T) {
	p := pool[*note]{newFn: func() *note { return &note{N: 7} }}
	for range 5 {
		n := p.get()
		if n.N != 7 || n.Text != "" {
			t.Fatalf("got %v", n)
		}
		n.N, n.Text = 1, "used"
		p.put(n)
	}
}

// Handlers that answer with the memory of their request must not make two owners of it.
func TestTypedResponsesMayShareTheRequest(t *testing.T) {
	arr := NewArrayOf(NewBytes)
	tests := map[string]func(t *testing.T) func(text string) (string, error){
		"Bytes with the request's bytes": func(t *testing.T) func(string) (string, error) {
			h := NewSingleHandler(typedHandler, NewBytes, NewBytes)
			c := typedConn(t, func(m *Manager) error {
				return h.Register(m, func(req *Bytes) (*Bytes, *RemoteErr) { return NewBytesWith((*req)[1:]), nil })
			})
			return func(text string) (string, error) {
				resp, err := h.Call(t.Context(), c, NewBytesWith([]byte("-"+text)))
				if err != nil {
					return "", err
				}
				defer h.PutResponse(resp)
				return string(*resp), nil
			}
		},
		"MSS with the request's map": func(t *testing.T) func(string) (string, error) {
			h := NewSingleHandler(typedHandler, NewMSS, NewMSS)
			c := typedConn(t, func(m *Manager) error {
				return h.Register(m, func(req *MSS) (*MSS, *RemoteErr) { return NewMSSWith(*req), nil })
			})
			return func(text string) (string, error) {
				resp, err := h.Call(t.Context(), c, NewMSSWith(map[string]string{"k": text}))
				if err != nil {
					return "", err
				}
				defer h.PutResponse(resp)
				return resp.Get("k"), nil
			}
		},
		"MSS that the handler recycles itself": func(t *testing.T) func(string) (string, error) {
			h := NewSingleHandler(typedHandler, NewMSS, NewMSS)
			c := typedConn(t, func(m *Manager) error {
				return h.Register(m, func(req *MSS) (*MSS, *RemoteErr) {
					defer req.Recycle()
					resp := NewMSS()
					resp.Set("k", req.Get("k"))
					return resp, nil
				})
			})
			return func(text string) (string, error) {
				resp, err := h.Call(t.Context(), c, NewMSSWith(map[string]string{"k": text}))
				if err != nil {
					return "", err
				}
				defer resp.Recycle()
				return resp.Get("k"), nil
			}
		},
		"an element of the request": func(t *testing.T) func(string) (string, error) {
			h := NewSingleHandler(typedHandler, arr.New, NewBytes)
			c := typedConn(t, func(m *Manager) error {
				return h.Register(m, func(req *Array[*Bytes]) (*Bytes, *RemoteErr) { return req.Value()[0], nil })
			})
			return func(text string) (string, error) {
				resp, err := h.Call(t.Context(), c, arr.New().Append(NewBytesWith([]byte(text))))
				if err != nil {
					return "", err
				}
				defer h.PutResponse(resp)
				return string(*resp), nil
			}
		},
		"URLValues with the request's map": func(t *testing.T) func(string) (string, error) {
			h := NewSingleHandler(typedHandler, NewURLValues, NewURLValues)
			c := typedConn(t, func(m *Manager) error {
				return h.Register(m, func(req *URLValues) (*URLValues, *RemoteErr) { return NewURLValuesWith(*req), nil })
			})
			return func(text string) (string, error) {
				resp, err := h.Call(t.Context(), c, NewURLValuesWith(map[string][]string{"k": {text}}))
				if err != nil {
					return "", err
				}
				defer h.PutResponse(resp)
				return resp.Values().Get("k"), nil
			}
		},
		"JSON with the request's value": func(t *testing.T) func(string) (string, error) {
			h := NewSingleHandler(typedHandler, pairs.NewJSON, pairs.NewJSON)
			c := typedConn(t, func(m *Manager) error {
				return h.Register(m, func(req *JSON[pair]) (*JSON[pair], *RemoteErr) { return pairs.NewJSONWith(req.Value()), nil })
			})
			return func(text string) (string, error) {
				resp, err := h.Call(t.Context(), c, pairs.NewJSONWith(&pair{B: text}))
				if err != nil {
					return "", err
				}
				defer h.PutResponse(resp)
				return resp.ValueOrZero().B, nil
			}
		},
	}
	for name, newCall := range tests {
		t.Run(name, func(t *testing.T) {
			call := newCall(t)
			var wg sync.WaitGroup
			for g := range 8 {
				wg.Go(func() {
					for i := range 500 {
						want := fmt.Sprint("text ", g, " ", i)
						if got, err := call(want); err != nil || got != want {
							t.Errorf("got %q, %v, want %q", got, err, want)
							return
						}
					}
				})
			}
			wg.Wait()
		})
	}
}

// inProcess returns a Requester that calls the handler registered on m, without a connection.
func inProcess(m *Manager) Requester {
	h := m.registry.Load().single(typedHandler, nil)
	return requesterFunc(func(req []byte) ([]byte, error) {
		payload := append(GetByteBufferCap(len(req)), req...)
		var b []byte
		var err error
		if h.handleTyped != nil {
			b, err = h.handleTyped(nil, payload)
		} else {
			b, err = h.handle(payload)
		}
		if err != nil {
			return nil, err
		}
		return b, nil
	})
}

// callAllocs counts the allocations of one typed call, both ends together, without those of a
// connection.
func callAllocs[Req, Resp RoundTripper](t *testing.T, h *SingleHandler[Req, Resp], handle func(Req) (Resp, *RemoteErr), newReq func() Req) float64 {
	t.Helper()
	m := typedNode(t)
	if err := h.Register(m, handle); err != nil {
		t.Fatal(err)
	}
	c, ctx := inProcess(m), t.Context()
	raw := typedNode(t)
	err := raw.RegisterSingleHandler(typedHandler, func(b []byte) ([]byte, *RemoteErr) { return b, nil })
	if err != nil {
		t.Fatal(err)
	}
	rawConn, msg := inProcess(raw), []byte("raw")
	base := testing.AllocsPerRun(1000, func() {
		b, _ := rawConn.Request(ctx, typedHandler, msg)
		PutByteBuffer(b)
	})
	typed := testing.AllocsPerRun(1000, func() {
		resp, err := h.Call(ctx, c, newReq())
		if err != nil {
			t.Fatal(err)
		}
		h.PutResponse(resp)
	})
	return typed - base
}

func TestTypedCallsAllocateLittle(t *testing.T) {
	if race.Enabled {
		t.Skip("sync.Pool drops values at random under the race detector")
	}
	tests := map[string]struct {
		most  float64
		count func(t *testing.T) float64
	}{
		"a plain type, new response each time": {1, func(t *testing.T) float64 {
			h, req := NewSingleHandler(typedHandler, newNote, newNote), &note{N: 1}
			return callAllocs(t, h, func(req *note) (*note, *RemoteErr) { return &note{N: req.N}, nil }, func() *note { return req })
		}},
		"a plain type, pooled throughout": {0, func(t *testing.T) float64 {
			h := NewSingleHandler(typedHandler, newNote, newNote).AllowCallRequestPool(true)
			return callAllocs(t, h, func(req *note) (*note, *RemoteErr) {
				resp := h.NewResponse()
				resp.N = req.N
				return resp, nil
			}, h.NewRequest)
		}},
		"Bytes, pooled throughout": {0, func(t *testing.T) float64 {
			h := NewSingleHandler(typedHandler, NewBytes, NewBytes).AllowCallRequestPool(true)
			return callAllocs(t, h, func(req *Bytes) (*Bytes, *RemoteErr) {
				resp := h.NewResponse()
				*resp = append((*resp)[:0], *req...)
				return resp, nil
			}, func() *Bytes {
				req := h.NewRequest()
				*req = append((*req)[:0], "hello"...)
				return req
			})
		}},
		"Bytes, a new header each time": {2, func(t *testing.T) float64 {
			h := NewSingleHandler(typedHandler, NewBytes, NewBytes)
			text := []byte("hello")
			return callAllocs(t, h, func(req *Bytes) (*Bytes, *RemoteErr) { return NewBytesWithCopyOf(*req), nil }, func() *Bytes { return NewBytesWith(text) })
		}},
		"MSS besides its four strings, pooled throughout": {4, func(t *testing.T) float64 {
			h := NewSingleHandler(typedHandler, NewMSS, NewMSS).AllowCallRequestPool(true)
			return callAllocs(t, h, func(req *MSS) (*MSS, *RemoteErr) {
				resp := h.NewResponse()
				resp.Set("key", req.Get("key"))
				return resp, nil
			}, func() *MSS {
				req := h.NewRequest()
				req.Set("key", "value")
				return req
			})
		}},
		"no payloads": {0, func(t *testing.T) float64 {
			h := NewSingleHandler(typedHandler, NewNoPayload, NewNoPayload)
			return callAllocs(t, h, func(NoPayload) (NoPayload, *RemoteErr) { return NewNPErr(nil) }, NewNoPayload)
		}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			n := tt.count(t)
			t.Logf("%v allocations", n)
			if n > tt.most {
				t.Errorf("%v allocations, want at most %v", n, tt.most)
			}
		})
	}
}

func BenchmarkTypedCallWithoutConnection(b *testing.B) {
	h := NewSingleHandler(typedHandler, newNote, newNote).AllowCallRequestPool(true)
	m := typedNode(b)
	if err := h.Register(m, func(req *note) (*note, *RemoteErr) { return req, nil }); err != nil {
		b.Fatal(err)
	}
	c, ctx := inProcess(m), b.Context()
	b.ReportAllocs()
	for b.Loop() {
		resp, err := h.Call(ctx, c, h.NewRequest())
		if err != nil {
			b.Fatal(err)
		}
		h.PutResponse(resp)
	}
}
