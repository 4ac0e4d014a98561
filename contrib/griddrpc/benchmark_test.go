package griddrpc

import (
	"context"
	"testing"

	"github.com/gridmesh/grid/contrib/griddrpc/internal/testpb"
	"storj.io/drpc"
)

// bench runs a benchmark over one connection of drpc, and over a grid.
func bench(b *testing.B, s service, run func(b *testing.B, client testpb.DRPCTestClient)) {
	for name, over := range map[string]func(testing.TB, service) drpc.Conn{
		"drpc": overDRPC,
		"grid": func(t testing.TB, s service) drpc.Conn { return overGrid(t, s) },
	} {
		b.Run(name, func(b *testing.B) {
			client := testpb.NewDRPCTestClient(over(b, s))
			b.ReportAllocs()
			run(b, client)
		})
	}
}

func BenchmarkUnary(b *testing.B) {
	s := service{unary: func(_ context.Context, in *testpb.Message) (*testpb.Message, error) { return in, nil }}
	bench(b, s, func(b *testing.B, client testpb.DRPCTestClient) {
		text := string(make([]byte, 512))
		for b.Loop() {
			if _, err := client.Unary(b.Context(), message(text)); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func BenchmarkStream(b *testing.B) {
	s := service{output: func(in *testpb.Message, st testpb.DRPCTest_OutputStream) error {
		for range in.GetNumber() {
			if err := st.Send(in); err != nil {
				return err
			}
		}
		return nil
	}}
	bench(b, s, func(b *testing.B, client testpb.DRPCTestClient) {
		st, err := client.Output(b.Context(), &testpb.Message{Number: int64(b.N), Text: string(make([]byte, 512))})
		check(b, err)
		b.ResetTimer()
		for range b.N { // which has been told to the handler
			if _, err := st.Recv(); err != nil {
				b.Fatal(err)
			}
		}
	})
}
