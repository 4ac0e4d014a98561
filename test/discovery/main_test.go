package discovery

import (
	"os"
	"testing"

	"github.com/gridmesh/grid/internal/testkit"
)

func TestMain(m *testing.M) {
	testkit.Install("dnsmasq", "dnsmasq-base")
	if _, err := os.Stat("/run/systemd/system"); err != nil { // With systemd, the package would start a server of its own.
		testkit.Install("etcd", "etcd-server") // for contrib/gridetcd
	}
	os.Exit(m.Run())
}
