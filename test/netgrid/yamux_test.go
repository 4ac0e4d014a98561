package netgrid

import (
	"bytes"
	"io"
	"sync"
	"testing"

	"github.com/hashicorp/yamux"
)

// TestYamux runs many streams of yamux over one Conn.
func TestYamux(t *testing.T) {
	l, dial := listen(t, "yamux")
	config := yamux.DefaultConfig()
	config.LogOutput = io.Discard
	served := make(chan error)
	go func() {
		c, err := l.Accept()
		if err != nil {
			served <- err
			return
		}
		server, err := yamux.Server(c, config)
		if err != nil {
			served <- err
			return
		}
		for {
			s, err := server.AcceptStream()
			if err != nil {
				served <- err
				return
			}
			go func() {
				defer s.Close()
				if _, err := io.Copy(s, s); err != nil {
					t.Error(err)
				}
			}()
		}
	}()
	c, err := dial(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	client, err := yamux.Client(c, config)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := client.Ping(); err != nil {
		t.Error(err)
	}
	var wg sync.WaitGroup
	for i := range 32 {
		wg.Go(func() {
			s, err := client.OpenStream()
			if err != nil {
				t.Error(err)
				return
			}
			body := noise(i * 20 << 10)
			go func() {
				if _, err := s.Write(body); err != nil {
					t.Error(err)
				}
				s.Close() // its half
			}()
			if got, err := io.ReadAll(s); err != nil || !bytes.Equal(got, body) {
				t.Errorf("got %d of %d bytes, %v", len(got), len(body), err)
			}
		})
	}
	wg.Wait()
	if err := client.Close(); err != nil {
		t.Error(err)
	}
	if err := <-served; err != io.EOF {
		t.Errorf("the server ended with %v", err)
	}
}
