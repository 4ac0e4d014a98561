package contender

import (
	"context"
	"crypto/rand"
	"testing"
	"time"
)

func TestContendersEcho(t *testing.T) {
	for _, c := range All() {
		for _, secure := range []bool{false, true} {
			if secure && !c.TLS {
				continue
			}
			name := c.Name
			if secure {
				name += " over TLS"
			}
			t.Run(name, func(t *testing.T) {
				nodes, err := c.Start(Setup{Nodes: 3, TLS: secure})
				if err != nil {
					t.Fatal(err)
				}
				defer nodes.Close()
				for _, pair := range [][2]int{{0, 1}, {1, 0}, {2, 1}} {
					client, err := nodes.Client(pair[0], pair[1])
					if err != nil {
						t.Fatal(err)
					}
					for _, size := range []int{1, 512, 64 << 10, 1 << 20} {
						payload := make([]byte, size)
						rand.Read(payload)
						if err := client.Echo(payload); err != nil {
							t.Errorf("%d bytes from %d to %d: %v", size, pair[0], pair[1], err)
						}
					}
					if err := client.Close(); err != nil {
						t.Error(err)
					}
				}
			})
		}
	}
}

func TestContendersStream(t *testing.T) {
	for _, c := range All() {
		if !c.Streams {
			continue
		}
		for _, window := range []int{1, 2, 256} {
			t.Run(c.Name, func(t *testing.T) {
				nodes, err := c.Start(Setup{Nodes: 2, Window: window})
				if err != nil {
					t.Fatal(err)
				}
				defer nodes.Close()
				client, err := nodes.Client(0, 1)
				if err != nil {
					t.Fatal(err)
				}
				st := client.(Streamer)
				for _, messages := range []int{1, 10, 1000} {
					got := 0
					err := st.Stream(context.Background(), Order{Messages: messages, Size: 512}, func(size int) bool {
						if size != 512 {
							t.Errorf("a message of %d bytes", size)
						}
						got++
						return true
					})
					if err != nil || got != messages {
						t.Errorf("%d of %d messages, %v", got, messages, err)
					}
				}
				// Leaving an endless one.
				got := 0
				err = st.Stream(context.Background(), Order{Size: 512}, func(int) bool { got++; return got < 300 })
				if err != nil || got != 300 {
					t.Errorf("%d messages of an endless stream, %v", got, err)
				}
				// One that is held open ends with its context.
				ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
				first := make(chan bool, 1)
				ended := make(chan struct{})
				go func() {
					defer close(ended)
					st.Stream(ctx, Order{Messages: 1, Size: 512, Hold: true}, func(int) bool { first <- true; return true })
				}()
				<-first
				cancel()
				<-ended
				payload := []byte("still alive")
				if err := client.Echo(payload); err != nil {
					t.Errorf("after the streams: %v", err)
				}
			})
		}
	}
}

func TestCheck(t *testing.T) {
	large := make([]byte, 3000)
	wrong := append([]byte(nil), large...)
	wrong[2999] = 1
	for _, tt := range []struct {
		name         string
		sent, answer []byte
		ok           bool
	}{
		{"the same", []byte("abc"), []byte("abc"), true},
		{"another byte", []byte("abc"), []byte("abd"), false},
		{"shorter", []byte("abc"), []byte("ab"), false},
		{"large", large, large[:3000:3000], true},
		{"large with a wrong end", large, wrong, false},
	} {
		if err := Check(tt.sent, tt.answer); (err == nil) != tt.ok {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
}
