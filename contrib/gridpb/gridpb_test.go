package gridpb

import (
	"context"
	"errors"
	"io"
	"iter"
	"slices"
	"strings"
	"testing"

	"github.com/gridmesh/grid"
	"github.com/gridmesh/grid/contrib/gridpb/internal/plainpb"
	"github.com/gridmesh/grid/contrib/gridpb/internal/vtpb"
	"google.golang.org/protobuf/proto"
)

// item is what the two types of messages have in common.
type item[T any] interface {
	Message[T]
	GetKey() string
}

// newNodes returns a node, and a connection to it from another.
func newNodes(t testing.TB) (*grid.Manager, *grid.Connection) {
	t.Helper()
	nodes, err := grid.SetupTestGrid(2)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nodes.Cleanup)
	return nodes.Managers[0], nodes.Managers[1].Connection(nodes.Hosts[0])
}

func TestMethods(t *testing.T) {
	t.Run("plain", func(t *testing.T) { testMethods(t, func(key string) *plainpb.Item { return &plainpb.Item{Key: key} }) })
	t.Run("vt", func(t *testing.T) { testMethods(t, func(key string) *vtpb.Item { return &vtpb.Item{Key: key} }) })
}

func testMethods[T any, P item[T]](t *testing.T, newItem func(key string) P) {
	node, conn := newNodes(t)
	keys := []string{"a", "", strings.Repeat("b", 5000)} // one for nil, and one that needs a larger buffer
	toSend := func(key string) *T {
		if key == "" {
			return nil
		}
		return newItem(key)
	}
	// same checks what has come of keys.
	same := func(t *testing.T, values iter.Seq2[*T, error]) error {
		var got []string
		for v, err := range values {
			if err != nil {
				return err
			}
			got = append(got, P(v).GetKey())
		}
		if !slices.Equal(got, keys) {
			t.Errorf("got %q, want %q", got, keys)
		}
		return nil
	}

	t.Run("unary", func(t *testing.T) {
		m := NewMethod[T, T, P, P]("unary")
		check(t, m.Handle(node, func(_ context.Context, req *T) (*T, error) { return toSend(P(req).GetKey()), nil }))
		for _, key := range keys {
			resp, err := m.Call(t.Context(), conn, toSend(key))
			if err != nil || P(resp).GetKey() != key {
				t.Errorf("got %v, %v, want %q", resp, err, key)
			}
		}
	})
	t.Run("stream", func(t *testing.T) {
		m := NewStreamMethod[T, T, P, P]("stream")
		check(t, m.Handle(node, func(_ context.Context, req *T, out *grid.Sender[T]) error {
			for _, key := range keys {
				if err := out.Send(toSend(key)); err != nil {
					return err
				}
			}
			return grid.Errorf(grid.NotFound, "nothing more of %s", P(req).GetKey())
		}))
		err := same(t, m.Call(t.Context(), conn, newItem("this")))
		if !errors.Is(err, grid.NotFound) || !strings.HasSuffix(err.Error(), "nothing more of this") {
			t.Errorf("got %v", err)
		}
	})
	t.Run("upload", func(t *testing.T) {
		m := NewUploadMethod[T, T, P, P]("upload")
		check(t, m.Handle(node, func(_ context.Context, in iter.Seq2[*T, error]) (*T, error) {
			return newItem("all"), same(t, in)
		}))
		resp, err := m.Call(t.Context(), conn, func(yield func(*T) bool) {
			for _, key := range keys {
				if !yield(toSend(key)) {
					return
				}
			}
		})
		if err != nil || P(resp).GetKey() != "all" {
			t.Errorf("got %v, %v", resp, err)
		}
	})
	t.Run("duplex", func(t *testing.T) {
		m := NewDuplexMethod[T, T, P, P]("duplex")
		check(t, m.Handle(node, func(_ context.Context, st *grid.ServerStream[T, T]) error {
			for v, err := range st.All() {
				if err != nil {
					return err
				}
				if err := st.Send(v); err != nil {
					return err
				}
			}
			return nil
		}))
		st, err := m.Call(t.Context(), conn)
		check(t, err)
		for _, key := range keys {
			check(t, st.Send(toSend(key)))
			if v, err := st.Recv(); err != nil || P(v).GetKey() != key {
				t.Errorf("got %v, %v, want %q", v, err, key)
			}
		}
		check(t, st.CloseSend())
		if _, err := st.Recv(); err != io.EOF {
			t.Errorf("got %v", err)
		}
	})
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// TestErrorsNameTheMethod and the type, at the end that finds them.
func TestErrorsNameTheMethod(t *testing.T) {
	node, conn := newNodes(t)
	m := NewMethod[plainpb.Item, vtpb.Item]("kv.Put")
	check(t, m.Handle(node, func(context.Context, *plainpb.Item) (*vtpb.Item, error) { return nil, nil }))
	_, err := conn.Call(t.Context(), "kv.Put", []byte{0xff})
	const want = "kv.Put: decode request: gridpb.plain.Item: "
	if e, ok := errors.AsType[*grid.Error](err); !ok || !e.Remote || !strings.Contains(err.Error(), want) {
		t.Errorf("got %v, want %q in it", err, want)
	}
	_, err = m.Call(t.Context(), conn, &plainpb.Item{Key: "\xff"})
	if err == nil || !strings.HasPrefix(err.Error(), "grid: kv.Put: encode request: gridpb.plain.Item: ") {
		t.Errorf("got %v", err)
	}

	check(t, node.Handle("wrong", func(context.Context, []byte) ([]byte, error) { return []byte{0xff}, nil }))
	_, err = NewMethod[plainpb.Item, vtpb.Item]("wrong").Call(t.Context(), conn, nil)
	if err == nil || !strings.HasPrefix(err.Error(), "grid: wrong: decode response: gridpb.vt.Item: ") {
		t.Errorf("got %v", err)
	}
}

func TestATooLargeMessageIsNotSent(t *testing.T) {
	node, conn := newNodes(t)
	m := NewMethod[vtpb.Item, vtpb.Item]("kv.Put")
	check(t, m.Handle(node, func(context.Context, *vtpb.Item) (*vtpb.Item, error) {
		t.Error("it was sent")
		return nil, nil
	}))
	large := make([]byte, 64<<20) // which is the limit for all of a message
	_, err := m.Call(t.Context(), conn, &vtpb.Item{Value: large})
	if !errors.Is(err, grid.ErrMessageTooLarge) {
		t.Errorf("got %v", err)
	}
}

// TestThePeersMemoryCounts, not only the bytes of its message.
func TestThePeersMemoryCounts(t *testing.T) {
	node, conn := newNodes(t)
	m := NewMethod[plainpb.Everything, plainpb.Item]("grow")
	check(t, m.Handle(node, func(context.Context, *plainpb.Everything) (*plainpb.Item, error) {
		t.Error("it was decoded")
		return nil, nil
	}))
	b, err := proto.Marshal(&plainpb.Everything{Children: slices.Repeat([]*plainpb.Everything{{}}, 600_000)}) // 2 MB
	check(t, err)
	if _, err := conn.Call(t.Context(), "grow", b); err == nil || !strings.Contains(err.Error(), "more than Limits.MaxRequestBytes") {
		t.Errorf("got %v", err)
	}
}
