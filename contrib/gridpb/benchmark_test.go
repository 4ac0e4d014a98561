package gridpb

import (
	"context"
	"testing"

	"github.com/gridmesh/grid"
	"github.com/gridmesh/grid/contrib/gridpb/internal/plainpb"
	"github.com/gridmesh/grid/contrib/gridpb/internal/vtpb"
	"google.golang.org/protobuf/proto"
)

const benchmarkSize = 512 // bytes

func BenchmarkCodec(b *testing.B) {
	for name, m := range items("a key", make([]byte, benchmarkSize)) {
		encoded, err := proto.Marshal(m)
		check(b, err)
		b.Run(name+"/append", func(b *testing.B) {
			buf := make([]byte, 0, 2*benchmarkSize)
			b.ReportAllocs()
			for b.Loop() {
				if _, err := Codec.Append(buf, m); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run(name+"/size", func(b *testing.B) {
			into := fresh(m)
			for b.Loop() {
				if _, err := Codec.DecodedSize(encoded, into); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run(name+"/decode", func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if err := Codec.Decode(encoded, fresh(m)); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkCall also calls a method of bytes, which shows what is left for the messages.
func BenchmarkCall(b *testing.B) {
	node, conn := newNodes(b)
	value := make([]byte, benchmarkSize)
	b.Run("bytes", func(b *testing.B) {
		check(b, node.Handle("bytes", func(_ context.Context, payload []byte) ([]byte, error) { return payload, nil }))
		b.ReportAllocs()
		for b.Loop() {
			answer, err := conn.Call(b.Context(), "bytes", value)
			check(b, err)
			grid.PutByteBuffer(answer)
		}
	})
	b.Run("plain", func(b *testing.B) {
		benchmarkCall(b, node, conn, "plain", func() *plainpb.Item { return &plainpb.Item{Value: value} })
	})
	b.Run("vt", func(b *testing.B) {
		benchmarkCall(b, node, conn, "vt", func() *vtpb.Item { return &vtpb.Item{Value: value} })
	})
}

func benchmarkCall[T any, P item[T]](b *testing.B, node *grid.Manager, conn *grid.Connection, name string, newItem func() P) {
	m := NewMethod[T, T, P, P](name)
	check(b, m.Handle(node, func(_ context.Context, req *T) (*T, error) { return req, nil }))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := m.Call(b.Context(), conn, newItem()); err != nil {
			b.Fatal(err)
		}
	}
}
