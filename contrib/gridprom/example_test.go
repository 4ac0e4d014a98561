package gridprom_test

import (
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"strings"

	"github.com/gridmesh/grid"
	"github.com/gridmesh/grid/contrib/gridprom"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

func Example() {
	g, err := grid.SetupTestGrid(2)
	if err != nil {
		log.Fatal(err)
	}
	defer g.Cleanup()

	registry := prometheus.NewRegistry()
	registry.MustRegister(gridprom.New(g.Managers[0]))
	server := httptest.NewServer(promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))
	defer server.Close()

	resp, err := http.Get(server.URL)
	if err != nil {
		log.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		log.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if strings.HasPrefix(line, "grid_peer_connected{") {
			fmt.Println(strings.Fields(line)[1])
		}
	}
	// Output: 1
}
