package debugz

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/gridmesh/grid"
)

// One node can be asked for what all of them count, and its page leads to those of the others.
func TestAllNodes(t *testing.T) {
	nodes := startGrid(t, 4)
	const page = "https://ops.example:8443/debug/grid/"
	if err := RegisterCluster(nodes[1], page); err != nil {
		t.Fatal(err)
	}
	if err := RegisterCluster(nodes[2], ""); err != nil {
		t.Fatal(err)
	}
	h := Handler(nodes[0], Options{Cluster: true})
	if s := getStatus(t, h, ""); s.Nodes != nil {
		t.Errorf("nobody asked for %+v", s.Nodes)
	}
	for range 5 {
		call(t, nodes[1], nodes[2], "hello")
	}
	s := getStatus(t, h, "?all=1")
	if len(s.Nodes) != 3 {
		t.Fatalf("%+v", s.Nodes)
	}
	for i, n := range s.Nodes {
		if n.Node != nodes[i+1].HostName() || (n.Status != nil) != (i < 2) || (n.Error == "") != (i < 2) {
			t.Errorf("%+v", n)
		}
	}
	found := false
	for _, p := range s.Nodes[0].Status.Pairs {
		found = found || p.Peer == nodes[2].HostName() && p.Role == grid.RoleClient && p.Calls == 5 && p.Minute.Calls == 5
	}
	if !found || s.Nodes[0].Status.Cluster != nil {
		t.Errorf("%+v", s.Nodes[0].Status)
	}
	if s.Peers[0].Page != page || s.Cluster[1].Page != page || s.Peers[1].Page != "" {
		t.Errorf("the pages are %+v", s.Cluster)
	}
	if body := get(t, h, "/").Body.String(); strings.Count(body, `href="`+page+`"`) < 3 {
		t.Error("the page has no links to that of the other node")
	}
	if s := getStatus(t, Handler(nodes[0], Options{}), "?all=1"); s.Nodes != nil {
		t.Error("others are asked without Options.Cluster")
	}
	for _, page := range []string{"javascript:alert(1)", "/debug/", "http://", "ftp://a/", "http://a/" + strings.Repeat("x", maxPageLen)} {
		if err := RegisterCluster(nodes[3], page); err == nil {
			t.Errorf("%.50s is taken for the address of a page", page)
		}
	}
}

// What other nodes say of themselves is not believed.
func TestStatusOfLiars(t *testing.T) {
	nodes := startGrid(t, 2)
	var answer string
	err := nodes[1].Handle(statusMethod, func(context.Context, []byte) ([]byte, error) { return []byte(answer), nil })
	if err != nil {
		t.Fatal(err)
	}
	for text, want := range map[string]bool{
		"":   false,
		"[]": false,
		`{"Node":"http://a:1","Nodes":[{"Node":"x"}],"Cluster":[{"Node":"y"}],"Traces":[{}]}`: true,
		`{"Peers":[{"Remote":` + strings.Repeat(" ", maxStatusSize) + `"x"}]}`:                false,
	} {
		answer = text
		n := getStatus(t, Handler(nodes[0], Options{Cluster: true}), "?all=1").Nodes[0]
		if n.Node != nodes[1].HostName() || (n.Status != nil) != want {
			t.Errorf("%.80s: %+v", text, n)
		}
		if s := n.Status; s != nil && (s.Node != n.Node || s.Nodes != nil || s.Cluster != nil || s.Traces != nil) {
			t.Errorf("%+v", s)
		}
	}
}

// Guests may see who is connected to whom, but not what nodes count.
func TestGuestsAreNotTold(t *testing.T) {
	server := httptest.NewUnstartedServer(nil)
	url := "http://" + server.Listener.Addr().String()
	m, err := grid.NewManager(t.Context(), grid.ManagerOptions{
		Local:       url,
		AuthRequest: func(*http.Request) error { return nil },
		AcceptGuest: func(*http.Request, string) error { return nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	if err := RegisterCluster(m); err != nil {
		t.Fatal(err)
	}
	server.Config.Handler = m.Handler()
	server.Start()
	t.Cleanup(server.Close)
	guest, err := grid.Join(t.Context(), url, grid.ManagerOptions{Local: "probe 7"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { guest.Close() })
	conn := guest.Connection(url)
	if err := conn.WaitForConnect(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Call(t.Context(), clusterMethod, nil); err != nil {
		t.Error(err)
	}
	if _, err := conn.Call(t.Context(), statusMethod, nil); !errors.Is(err, grid.PermissionDenied) {
		t.Errorf("a guest is told: %v", err)
	}
}
