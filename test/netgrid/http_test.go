package netgrid

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"sync"
	"testing"
)

// TestHTTP sends requests over a grid, with both versions of HTTP: many at the same time, with large
// bodies both ways, and through a reverse proxy.
func TestHTTP(t *testing.T) {
	for _, version := range []int{1, 2} {
		t.Run(fmt.Sprint("version ", version), func(t *testing.T) {
			l, dial := listen(t, "http")
			var protocols http.Protocols
			protocols.SetHTTP1(version == 1)
			protocols.SetUnencryptedHTTP2(version == 2)
			server := &http.Server{
				Protocols: &protocols,
				Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					if r.ProtoMajor != version {
						t.Errorf("the request came with %s", r.Proto)
					}
					host, _, err := net.SplitHostPort(r.RemoteAddr)
					if err != nil || host != "127.0.0.1" {
						t.Errorf("the request came from %s", r.RemoteAddr)
					}
					w.Header().Set("X-Path", r.URL.Path)
					body, err := io.ReadAll(r.Body) // first, as version 1 has it
					if err != nil {
						t.Error(err)
					}
					if _, err := w.Write(body); err != nil {
						t.Error(err)
					}
				}),
			}
			served := make(chan error)
			go func() { served <- server.Serve(l) }()
			client := &http.Client{Transport: &http.Transport{
				Protocols:   &protocols,
				DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx) },
			}}
			var wg sync.WaitGroup
			for i := range 16 {
				wg.Go(func() {
					for k := range 8 {
						body := noise(i * k << 10)
						echo(t, client, fmt.Sprintf("http://other.example/%d/%d", i, k), body)
					}
				})
			}
			wg.Wait()
			if version == 1 {
				target, _ := url.Parse("http://other.example")
				proxy := httputil.NewSingleHostReverseProxy(target)
				proxy.Transport = client.Transport
				front := httptest.NewServer(proxy)
				defer front.Close()
				echo(t, front.Client(), front.URL+"/proxied", noise(1<<20))
			}
			client.CloseIdleConnections()
			if err := server.Shutdown(t.Context()); err != nil {
				t.Error(err)
			}
			if err := <-served; err != http.ErrServerClosed {
				t.Error(err)
			}
		})
	}
}

// echo posts a body and compares it with the answer.
func echo(t *testing.T, client *http.Client, to string, body []byte) {
	resp, err := client.Post(to, "application/octet-stream", bytes.NewReader(body))
	if err != nil {
		t.Error(err)
		return
	}
	defer resp.Body.Close()
	got, err := io.ReadAll(resp.Body)
	if u, _ := url.Parse(to); err != nil || !bytes.Equal(got, body) || resp.Header.Get("X-Path") != u.Path {
		t.Errorf("%s: got %d of %d bytes, %v", to, len(got), len(body), err)
	}
}
