package limit_test

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"sync"
	"testing"

	"github.com/gridmesh/grid/bench/limit"
)

// pair returns both ends of a connection.
func pair(t *testing.T) (a, b *limit.Peer) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	dialed, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	accepted, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	a, b = limit.New(dialed), limit.New(accepted)
	t.Cleanup(func() { a.Close(); b.Close() })
	return a, b
}

func TestCallsInBothDirections(t *testing.T) {
	a, b := pair(t)
	var wg sync.WaitGroup
	for i := range 64 {
		for _, p := range []*limit.Peer{a, b} {
			wg.Go(func() {
				for j := range 100 {
					payload := bytes.Repeat([]byte(fmt.Sprint(i, j)), 1+j*20)
					err := p.Call(payload, func(answer []byte) error {
						if !bytes.Equal(answer, payload) {
							t.Errorf("call %d of %d has another answer", j, i)
						}
						return nil
					})
					if err != nil {
						t.Error(err)
					}
				}
			})
		}
	}
	wg.Wait()
}

func TestCallOfMoreThanTheReadBuffer(t *testing.T) {
	a, _ := pair(t)
	payload := bytes.Repeat([]byte("0123456789"), 200_000)
	err := a.Call(payload, func(answer []byte) error {
		if !bytes.Equal(answer, payload) {
			t.Error("another answer")
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

func TestManyStreams(t *testing.T) {
	a, _ := pair(t)
	var wg sync.WaitGroup
	for i := range 32 {
		wg.Go(func() {
			got := 0
			o := limit.Order{Messages: 1000, Size: 64, Window: 1 + i}
			err := a.Stream(context.Background(), o, func(b []byte) bool { got += len(b); return true })
			if err != nil || got != 64000 {
				t.Errorf("window %d: %d bytes, %v", o.Window, got, err)
			}
		})
	}
	wg.Wait()
}
