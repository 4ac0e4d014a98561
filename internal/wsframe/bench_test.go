package wsframe

import (
	"fmt"
	"io"
	"net"
	"testing"
)

func BenchmarkReader(b *testing.B) {
	for _, n := range []int{64, 512, 4096, 64 << 10, 1 << 20} {
		for _, client := range []bool{true, false} {
			b.Run(fmt.Sprintf("%d/%s", n, reads(client)), func(b *testing.B) {
				benchmarkNext(b, &loop{wire: encode([]frame{binaryFrame(repeat(n))}, !client)}, n, client)
			})
		}
	}
}

// BenchmarkReaderTCP reads what another goroutine writes to a loopback connection, 64 KiB or one
// message at a time.
func BenchmarkReaderTCP(b *testing.B) {
	for _, n := range []int{512, 64 << 10, 1 << 20} {
		for _, client := range []bool{true, false} {
			b.Run(fmt.Sprintf("%d/%s", n, reads(client)), func(b *testing.B) {
				one := encode([]frame{binaryFrame(repeat(n))}, !client)
				batch := one
				for len(batch)+len(one) <= 64<<10 {
					batch = append(batch, one...)
				}
				benchmarkNext(b, loopback(b, batch), n, client)
			})
		}
	}
}

func reads(client bool) string {
	if client {
		return "plain"
	}
	return "masked"
}

func benchmarkNext(b *testing.B, src io.Reader, n int, client bool) {
	r := NewReader(src, nil, Config{Client: client})
	defer r.Release()
	b.SetBytes(int64(n))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := r.Next(); err != nil {
			b.Fatal(err)
		}
	}
}

// loopback returns the receiving end of a connection on which batch is sent until the benchmark
// ends.
func loopback(b *testing.B, batch []byte) net.Conn {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	sender, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		b.Fatal(err)
	}
	receiver, err := l.Accept()
	if err != nil {
		b.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			if _, err := sender.Write(batch); err != nil {
				return
			}
		}
	}()
	b.Cleanup(func() {
		receiver.Close()
		sender.Close()
		<-done
	})
	return receiver
}
