package scale

import (
	"fmt"
	"io"
	"os"
	"testing"

	"github.com/gridmesh/grid/internal/testkit"
)

// roleVariable is set in processes that are nodes, or hold the network, in place of tests.
const roleVariable = "GRID_SCALE_ROLE"

// bare is why processes have no network namespaces here; nil where they have.
var bare error

func TestMain(m *testing.M) {
	switch os.Getenv(roleVariable) {
	case "node":
		runNode()
		return
	case "hub":
		_, _ = io.Copy(io.Discard, os.Stdin) // until the test ends
		return
	}
	if bare = able(); bare != nil {
		fmt.Println("SKIPPED: network namespaces, so that nodes have addresses of loopback instead:", bare)
	}
	testkit.Install("dnsmasq", "dnsmasq-base")
	os.Exit(m.Run())
}
