package debugz_test

import (
	"context"
	"encoding/json"
	"fmt"
	"log"
	"net/http"
	"net/http/httptest"

	"github.com/gridmesh/grid"
	"github.com/gridmesh/grid/debugz"
)

// The page is for people. What it shows is there for programs too.
func Example() {
	g, err := grid.SetupTestGrid(2)
	if err != nil {
		log.Fatal(err)
	}
	defer g.Cleanup()
	mux := http.NewServeMux()
	mux.Handle("/debug/grid/", debugz.Handler(g.Managers[0], debugz.Options{}))
	server := httptest.NewServer(mux)
	defer server.Close()

	s := status(server.URL + "/debug/grid/status.json")
	fmt.Println(s.Peers[0].State)
	// Output: Connected
}

// Where all nodes can be asked, the page of each shows what the others are connected to.
func ExampleRegisterCluster() {
	g, err := grid.SetupTestGrid(3)
	if err != nil {
		log.Fatal(err)
	}
	defer g.Cleanup()
	for _, m := range g.Managers {
		if err := debugz.RegisterCluster(m); err != nil {
			log.Fatal(err)
		}
	}
	server := httptest.NewServer(debugz.Handler(g.Managers[0], debugz.Options{Cluster: true}))
	defer server.Close()

	for _, row := range status(server.URL + "/status.json").Cluster {
		fmt.Println(row.Known, len(row.Links))
	}
	// Output:
	// true 2
	// true 2
	// true 2
}

// A page behind a login, at a name that is not the node's own.
func ExampleHandler() {
	g, err := grid.SetupTestGrid(2)
	if err != nil {
		log.Fatal(err)
	}
	defer g.Cleanup()
	page := debugz.Handler(g.Managers[0], debugz.Options{Hosts: []string{"status.example"}})
	loggedIn := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, password, _ := r.BasicAuth(); password != "let me in" {
			w.Header().Set("WWW-Authenticate", "Basic")
			http.Error(w, "log in first", http.StatusUnauthorized)
			return
		}
		page.ServeHTTP(w, r)
	})

	for _, password := range []string{"", "let me in"} {
		r := httptest.NewRequestWithContext(context.Background(), http.MethodGet, "http://status.example/", nil)
		r.SetBasicAuth("operator", password)
		w := httptest.NewRecorder()
		loggedIn.ServeHTTP(w, r)
		fmt.Println(w.Code)
	}
	// Output:
	// 401
	// 200
}

// status reads what a page shows.
func status(url string) (s debugz.Status) {
	resp, err := http.Get(url)
	if err != nil {
		log.Fatal(err)
	}
	defer resp.Body.Close()
	if err := json.NewDecoder(resp.Body).Decode(&s); err != nil {
		log.Fatal(err)
	}
	return s
}
