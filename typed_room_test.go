package grid

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gridmesh/grid/internal/mpack"
	"github.com/gridmesh/grid/internal/race"
	"github.com/tinylib/msgp/msgp"
)

// untyped is a payload of any value, as code that msgp generates has for a field that is an any.
type untyped struct{ value any }

func newUntyped() *untyped { return new(untyped) }

func (u *untyped) Msgsize() int { return 64 }

func (u *untyped) MarshalMsg(b []byte) ([]byte, error) { return msgp.AppendIntf(b, u.value) }

func (u *untyped) UnmarshalMsg(b []byte) (rest []byte, err error) {
	u.value, rest, err = msgp.ReadIntfBytes(b)
	return rest, err
}

// many is a message of n elements behind a head.
func many(head func(b []byte, n uint32) []byte, n int, elem func(b []byte, i int) []byte) []byte {
	b := head(nil, uint32(n))
	for i := range n {
		b = elem(b, i)
	}
	return b
}

// short is a different text of three bytes for each i.
func short(b []byte, i int) []byte {
	return append(b, 0xa3, byte(i), byte(i>>8), byte(i>>16))
}

func repeated(s string) func(b []byte, i int) []byte {
	return func(b []byte, _ int) []byte { return append(b, s...) }
}

// bin is a text of n elements between two ends, as the payload of a JSON.
func bin(first, elem, last string, n int) []byte {
	return msgp.AppendBytes(nil, []byte(first+strings.Repeat(elem+",", n)+elem+last))
}

// What a value takes is never more than what it counts for, and some of it is worth counting.
func TestWhatDecodedValuesTake(t *testing.T) {
	if race.Enabled {
		t.Skip("the race detector takes memory of its own")
	}
	array, textMap := msgp.AppendArrayHeader, msgp.AppendMapHeader
	pair := func(value string) func(b []byte, i int) []byte {
		return func(b []byte, i int) []byte { return append(short(b, i), value...) }
	}
	texts := NewJSONPool[any]()
	for _, tc := range []struct {
		name string
		new  func() msgp.Unmarshaler
		b    []byte
	}{
		{"MSS, short keys", func() msgp.Unmarshaler { return new(MSS) }, many(textMap, 115_000, pair("\xa0"))}, // just grown
		{"MSS, short keys and values", func() msgp.Unmarshaler { return new(MSS) }, many(textMap, 115_000, pair("\xa2xy"))},
		{"MSS, longer values", func() msgp.Unmarshaler { return new(MSS) }, many(textMap, 30_000, pair("\xd9\x81"+strings.Repeat("x", 129)))},
		{"MSS, one pair", func() msgp.Unmarshaler { return new(MSS) }, many(textMap, 1, pair("\xa0"))},
		{"Bytes", func() msgp.Unmarshaler { return new(Bytes) }, msgp.AppendBytes(nil, make([]byte, 600_000))},
		{"URLValues, no values", func() msgp.Unmarshaler { return new(URLValues) }, many(textMap, 115_000, pair("\x90"))},
		{"URLValues, one value each", func() msgp.Unmarshaler { return new(URLValues) }, many(textMap, 115_000, pair("\x91\xa0"))},
		{
			"URLValues, many values", func() msgp.Unmarshaler { return new(URLValues) },
			many(textMap, 3, func(b []byte, i int) []byte {
				return append(short(b, i), many(array, 200_000, repeated("\xa2xy"))...)
			}),
		},
		{"Array of MSS", func() msgp.Unmarshaler { return NewArrayOf(NewMSS).New() }, many(array, 50_000, repeated("\x81\xa0\xa0"))},
		{"Array of empty MSS", func() msgp.Unmarshaler { return NewArrayOf(NewMSS).New() }, many(array, 50_000, repeated("\x80"))},
		{"Array of Bytes", func() msgp.Unmarshaler { return NewArrayOf(NewBytes).New() }, many(array, 50_000, repeated("\xc4\x00"))},
		{"Array of URLValues", func() msgp.Unmarshaler { return NewArrayOf(NewURLValues).New() }, many(array, 50_000, repeated("\x81\xa0\x90"))},
		{"Array of JSON", func() msgp.Unmarshaler { return NewArrayOf(texts.NewJSON).New() }, many(array, 50_000, repeated("\xc4\x08{\"a\":[]}"))},
		{"Array of small JSON", func() msgp.Unmarshaler { return NewArrayOf(texts.NewJSON).New() }, many(array, 50_000, repeated("\xc4\x011"))},
		{"Array of Arrays", func() msgp.Unmarshaler { return NewArrayOf(NewArrayOf(NewMSS).New).New() }, many(array, 50_000, repeated("\x91\x80"))},
		{"Array of structs", func() msgp.Unmarshaler { return NewArrayOf(newNote).New() }, many(array, 50_000, repeated("\x80"))},
		{"JSON, numbers", func() msgp.Unmarshaler { return texts.NewJSON() }, bin("[", "1", "]", 200_000)},
		{"JSON, texts", func() msgp.Unmarshaler { return texts.NewJSON() }, bin("[", `"ab"`, "]", 200_000)},
		{"JSON, wrong texts", func() msgp.Unmarshaler { return texts.NewJSON() }, bin("[", `"`+strings.Repeat("\xff", 100)+`"`, "]", 10_000)},
		{"JSON, objects", func() msgp.Unmarshaler { return texts.NewJSON() }, bin("[", `{"":1}`, "]", 50_000)},
		{"JSON, empty objects", func() msgp.Unmarshaler { return texts.NewJSON() }, bin("[", `{}`, "]", 50_000)},
		{
			"JSON, a nested object", func() msgp.Unmarshaler { return texts.NewJSON() },
			msgp.AppendBytes(nil, []byte("["+strings.Repeat(strings.Repeat(`{"":`, 900)+"1"+strings.Repeat("}", 900)+",", 50)+"1]")),
		},
		{
			"JSON, a large object", func() msgp.Unmarshaler { return texts.NewJSON() },
			msgp.AppendBytes(nil, []byte("{"+string(many(func(b []byte, _ uint32) []byte { return b }, 115_000, func(b []byte, i int) []byte {
				return fmt.Appendf(b, "%q:0,", fmt.Sprint(i))
			}))+`"":0}`)),
		},
		{"any, numbers", func() msgp.Unmarshaler { return newUntyped() }, many(array, 200_000, repeated("\xcd\xff\xff"))},
		{"any, nil", func() msgp.Unmarshaler { return newUntyped() }, many(array, 200_000, repeated("\xc0"))},
		{"any, texts", func() msgp.Unmarshaler { return newUntyped() }, many(array, 200_000, repeated("\xa2xy"))},
		{"any, bytes", func() msgp.Unmarshaler { return newUntyped() }, many(array, 200_000, repeated("\xc4\x01x"))},
		{"any, extensions", func() msgp.Unmarshaler { return newUntyped() }, many(array, 200_000, repeated("\xd4\x50x"))},
		{
			"any, times", func() msgp.Unmarshaler { return newUntyped() },
			many(array, 200_000, func(b []byte, _ int) []byte { return msgp.AppendTime(b, time.Unix(1e9, 1)) }),
		},
		{"any, empty arrays", func() msgp.Unmarshaler { return newUntyped() }, many(array, 200_000, repeated("\x90"))},
		{"any, empty maps", func() msgp.Unmarshaler { return newUntyped() }, many(array, 100_000, repeated("\x80"))},
		{"any, maps of one", func() msgp.Unmarshaler { return newUntyped() }, many(array, 50_000, repeated("\x81\xa0\xc0"))},
		{"any, a large map", func() msgp.Unmarshaler { return newUntyped() }, many(textMap, 115_000, pair("\x80"))},
		{"generated, texts", func() msgp.Unmarshaler { return new(generated) }, many(array, 200_000, repeated("\xa2xy"))},
		{"generated, empty texts", func() msgp.Unmarshaler { return new(generated) }, many(array, 200_000, repeated("\xa0"))},
	} {
		shape, err := mpack.Check(tc.b, defaultMaxDepth)
		if err != nil {
			t.Fatalf("%s: %v", tc.name, err)
		}
		v := tc.new()
		said := int64(decodedSize(v, tc.b, shape))
		before, _, _ := inUse()
		if _, err := v.UnmarshalMsg(tc.b); err != nil {
			t.Fatalf("%s: %v", tc.name, err)
		}
		after, _, _ := inUse()
		runtime.KeepAlive(v)
		took := after - before
		n := int64(len(tc.b))
		t.Logf("%-28s %8d bytes take %9d, %5.1f times as many; %9d, %5.1f times, are counted", tc.name, n,
			took, float64(took)/float64(n), said, float64(said)/float64(n))
		if took > said+4<<10 {
			t.Errorf("%s: %d bytes take %d and count for %d", tc.name, n, took, said)
		}
		if len(tc.b) > 1000 && said > 12*took {
			t.Errorf("%s: %d bytes take %d and count for as many as %d", tc.name, n, took, said)
		}
		tc.b, v = nil, nil //nolint:wastedassign // so that the next one is measured without it
	}
}

// crowd is an MSS whose message is small and which counts for much.
func crowd(pairs int) *MSS {
	m := NewMSS()
	for i := range pairs {
		m.Set(string(short(nil, i)[1:]), "")
	}
	return m
}

func TestDecodedValuesCountInTheQuotas(t *testing.T) {
	const most = 1 << 20
	around := Interceptor{ServerRequest: func(ctx context.Context, _ *CallInfo, b []byte, next ServeRequestFunc) ([]byte, error) {
		return next(ctx, b)
	}}
	for _, test := range []struct {
		name        string
		intercepted bool
		kind        string
	}{
		{"requests", false, "plain"},
		{"requests to a handler with a context", false, "context"},
		{"requests behind an interceptor", true, "plain"},
		{"requests with a context behind an interceptor", true, "context"},
		{"payloads of streams", false, "payload"},
		{"requests of streams", false, "input"},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := startCluster(t, 2, func(_ int, o *ManagerOptions) {
				o.Limits = Limits{MaxMessageSize: 64 << 10, MaxRequestBytes: most, MaxStreamBytes: most}
				if test.intercepted {
					o.Interceptors = []Interceptor{around}
				}
			})
			g := newGate()
			h := NewSingleHandler[*MSS, NoPayload](testSingle, NewMSS, NewNoPayload)
			st := NewStream[*MSS, *MSS, NoPayload](testStream, NewMSS, NewMSS, NewNoPayload)
			wait := func() { g.entered <- struct{}{}; <-g.open }
			for _, n := range c.nodes {
				if err := errors.Join(
					h.Register(n.Manager, func(*MSS) (NoPayload, *RemoteErr) { wait(); return NoPayload{}, nil }),
					h.RegisterContext(n.Manager, func(context.Context, *MSS) (NoPayload, error) { wait(); return NoPayload{}, nil }, "context"),
					st.Register(n.Manager, func(_ context.Context, p *MSS, in <-chan *MSS, _ chan<- NoPayload) *RemoteErr {
						if p.Get("wait") != "" {
							wait()
						}
						for range in {
							wait()
						}
						return nil
					}),
				); err != nil {
					t.Fatal(err)
				}
			}
			conn, quota := c.conn(1, 0), c.conn(0, 1).requestQuota
			call := func(m *MSS) error {
				_, err := h.Call(t.Context(), conn, m)
				return err
			}
			open := func(payload *MSS, input *MSS) error {
				stream, err := st.Call(t.Context(), conn, payload)
				if err != nil {
					return err
				}
				if input != nil {
					stream.Send(input)
				}
				close(stream.Requests)
				return stream.Results(nil)
			}
			switch test.kind {
			case "context":
				call = func(m *MSS) error {
					_, err := h.Call(t.Context(), conn.Subroute("context"), m)
					return err
				}
			case "payload":
				quota = c.conn(0, 1).streamQuota
				call = func(m *MSS) error { m.Set("wait", "x"); return open(m, nil) }
			case "input":
				quota = c.conn(0, 1).streamQuota
				call = func(m *MSS) error { return open(NewMSS(), m) }
			}
			// 2,000 pairs of 10,000 bytes take 170,000 in memory, and count for 230,000.
			var wg sync.WaitGroup
			defer wg.Wait()
			for range 4 {
				wg.Go(func() {
					if err := call(crowd(2000)); err != nil {
						t.Errorf("a call within the limit: %v", err)
					}
				})
				<-g.entered
			}
			if used := quota.used.Load() & quotaBytes; used < 800_000 || used > most {
				t.Errorf("4 values count for %d bytes", used)
			}
			if err := call(crowd(2000)); !errors.Is(err, ErrOverloaded) {
				t.Errorf("a call over the limit: %v", err)
			}
			eventually(t, "the refusal to be counted", func() bool {
				refused := c.conn(0, 1).Stats().Refused
				return refused.MaxRequestBytes+refused.MaxStreamBytes == 1
			}, func() string { return fmt.Sprintf("%+v", c.conn(0, 1).Stats().Refused) })
			// A small one has room.
			wg.Go(func() {
				if err := call(crowd(100)); err != nil {
					t.Errorf("a small call: %v", err)
				}
			})
			<-g.entered
			close(g.open)
			wg.Wait()
			eventually(t, "nothing to count", func() bool { return quota.used.Load() == 0 }, func() string {
				return fmt.Sprint(quota.used.Load()&quotaBytes, " bytes")
			})
			for range 4 {
				if err := call(crowd(2000)); err != nil {
					t.Errorf("a call after the others: %v", err)
				}
				<-g.entered
			}
			// One that is too much alone is never decoded, and the error says why.
			if err := call(crowd(12_000)); errors.Is(err, ErrOverloaded) || err == nil || !strings.Contains(err.Error(), "may take 1") {
				t.Errorf("a call that is too much alone: %v", err)
			}
			eventually(t, "nothing to count", func() bool { return quota.used.Load() == 0 })
			c.waitIdle(t)
		})
	}
}

// What a handler is through with does not count any more, while its stream goes on.
func TestRequestsOfAStreamCountUntilTheNext(t *testing.T) {
	c := startCluster(t, 2, func(_ int, o *ManagerOptions) {
		o.Limits = Limits{MaxMessageSize: 64 << 10, MaxStreamBytes: 1 << 20}
	})
	h := NewStream[NoPayload, *MSS, NoPayload](testStream, nil, NewMSS, NewNoPayload)
	for _, n := range c.nodes {
		if err := h.RegisterNoPayload(n.Manager, func(_ context.Context, in <-chan *MSS, _ chan<- NoPayload) *RemoteErr {
			for m := range in {
				h.PutRequest(m)
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	st, err := h.Call(t.Context(), c.conn(0, 1), NoPayload{})
	if err != nil {
		t.Fatal(err)
	}
	for range 50 {
		if err := st.Send(crowd(2000)); err != nil {
			t.Fatal(err)
		}
	}
	close(st.Requests)
	if err := st.Results(nil); err != nil {
		t.Error(err)
	}
	eventually(t, "nothing to count", func() bool { return c.conn(1, 0).streamQuota.used.Load() == 0 })
}

func TestAnswersThatAreTooMuchAreNotDecoded(t *testing.T) {
	c := startCluster(t, 2, func(_ int, o *ManagerOptions) { o.Limits.MaxMessageSize = 64 << 10 })
	h := NewSingleHandler[NoPayload, *Array[*MSS]](testSingle, NewNoPayload, NewArrayOf(NewMSS).New)
	s := NewStream[NoPayload, NoPayload, *Array[*MSS]](testStream, nil, nil, NewArrayOf(NewMSS).New)
	answer := func(n int) *Array[*MSS] {
		a := NewArrayOf(NewMSS).New()
		for range n {
			a.Append(NewMSSWith(map[string]string{"": ""}))
		}
		return a
	}
	for _, n := range c.nodes {
		if err := errors.Join(
			h.Register(n.Manager, func(NoPayload) (*Array[*MSS], *RemoteErr) { return answer(1000), nil }),
			h.Register(n.Manager, func(NoPayload) (*Array[*MSS], *RemoteErr) { return answer(10_000), nil }, "large"),
			s.RegisterNoPayload(n.Manager, func(_ context.Context, _ <-chan NoPayload, out chan<- *Array[*MSS]) *RemoteErr {
				out <- answer(1000)
				out <- answer(10_000)
				return nil
			}),
		); err != nil {
			t.Fatal(err)
		}
	}
	conn := c.conn(0, 1)
	if a, err := h.Call(t.Context(), conn, NoPayload{}); err != nil || len(a.Value()) != 1000 {
		t.Errorf("a small answer: %v", err)
	}
	const want = "more than 16 times Limits.MaxMessageSize"
	if _, err := h.Call(t.Context(), conn.Subroute("large"), NoPayload{}); err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("a large answer: %v", err)
	}
	st, err := s.Call(t.Context(), conn, NoPayload{})
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	err = st.Results(func(a *Array[*MSS]) error { n++; return nil })
	if n != 1 || err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("%d messages of a stream, then %v", n, err)
	}
}
