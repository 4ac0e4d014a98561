package netgrid_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"strings"

	"github.com/gridmesh/grid"
	"github.com/gridmesh/grid/contrib/netgrid"
)

// An HTTP server on one node, without a port of its own, and a client on another.
func Example() {
	g, err := grid.SetupTestGrid(2)
	if err != nil {
		log.Fatal(err)
	}
	defer g.Cleanup()

	l, err := netgrid.Listen(g.Managers[1], "admin")
	if err != nil {
		log.Fatal(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "hello from %s", r.URL.Path)
	})}
	go server.Serve(l)
	defer server.Close()

	conn := g.Managers[0].Connection(g.Hosts[1])
	client := http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return netgrid.Dial(ctx, conn, "admin")
		},
	}}
	resp, err := client.Get("http://node2/status")
	if err != nil {
		log.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	fmt.Printf("%s %v\n", body, err)
	// Output: hello from /status <nil>
}

// A download that was cut short, and what is missing of it.
func ExampleTransfer() {
	g, err := grid.SetupTestGrid(2)
	if err != nil {
		log.Fatal(err)
	}
	defer g.Cleanup()

	err = netgrid.HandleDownload(g.Managers[1], "poems.Get", func(_ context.Context, meta []byte) (io.Reader, error) {
		return strings.NewReader("The text of " + string(meta)), nil
	})
	if err != nil {
		log.Fatal(err)
	}
	got := bytes.NewBufferString("The text")
	t := netgrid.Transfer{Have: bytes.NewReader(got.Bytes())}
	err = t.Download(context.Background(), g.Managers[0].Connection(g.Hosts[1]), "poems.Get", []byte("poem 42"), got)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(got)
	fmt.Println(t.Resumed, "of", t.Bytes, "bytes were there")
	fmt.Println(t.Sum)
	// Output:
	// The text of poem 42
	// 8 of 19 bytes were there
	// a7317ddc81981e7baba1f534a17dd29a
}
