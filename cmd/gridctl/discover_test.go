package main

import (
	"context"
	"slices"
	"strings"
	"syscall"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/gridmesh/grid/internal/testkit"
)

// Nodes find each other in an etcd with users, which goes away.
func TestNodesDiscoverEachOtherInEtcd(t *testing.T) {
	etcd := testkit.StartEtcd(t, "http")
	asRoot := requireUsers(t, etcd)
	user := writeFile(t, t.TempDir(), "user", "grid:what:ever\n")
	where := "etcd://127.0.0.1:1," + etcd.Address() + "/orders/nodes/" // one of them is away
	hosts := freeHosts(t, "http", 4)
	node := func(i int) *process {
		return startNode(t, "-local", hosts[i], "-discover", where, "-etcd-user-file", user)
	}
	a, b := node(0), node(1)
	a.waitFor(t, "grid: connected")
	b.waitFor(t, "grid: connected")
	a.waitFor(t, "gridctl node: warning: the password of etcd goes over the network")

	etcd.Kill()
	a.waitFor(t, "grid: discovery failed")
	etcd.Start()
	node(2).waitFor(t, "peer="+hosts[0])
	b.signal(t, syscall.SIGTERM)
	if code := b.wait(t); code != exitOK {
		t.Errorf("exit code %d", code)
	}
	client := asRoot()
	keys := func() (keys []string) {
		ctx, cancel := context.WithTimeout(t.Context(), testkit.Patience)
		defer cancel()
		resp, err := client.Get(ctx, "/orders/nodes/", clientv3.WithPrefix())
		if err != nil {
			return []string{err.Error()}
		}
		for _, kv := range resp.Kvs {
			keys = append(keys, string(kv.Key)+"="+string(kv.Value))
		}
		return keys
	}
	want := []string{"/orders/nodes/" + hosts[0] + "=" + hosts[0], "/orders/nodes/" + hosts[2] + "=" + hosts[2]}
	slices.Sort(want)
	until(t, "the keys of those that are left", func() bool { return slices.Equal(keys(), want) })

	wrong := startNode(t, "-local", hosts[1], "-discover", where, "-etcd-user-file", writeFile(t, t.TempDir(), "user", "grid:guessed\n"))
	wrong.waitFor(t, "authentication failed")
	stranger := startNode(t, "-local", hosts[3], "-discover", where)
	stranger.waitFor(t, "user name is empty")
}

// requireUsers has etcd let in only the user grid, and root, for whom it returns what connects.
func requireUsers(t *testing.T, etcd *testkit.Etcd) (asRoot func() *clientv3.Client) {
	t.Helper()
	config := clientv3.Config{Endpoints: []string{etcd.Endpoint}, Logger: zap.NewNop()}
	connect := func() *clientv3.Client {
		client, err := clientv3.New(config)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { client.Close() })
		return client
	}
	client := connect()
	must := func(_ any, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), testkit.Patience)
	defer cancel()
	must(client.UserAdd(ctx, "root", "root"))
	must(client.UserGrantRole(ctx, "root", "root"))
	must(client.UserAdd(ctx, "grid", "what:ever"))
	must(client.RoleAdd(ctx, "grid"))
	must(client.RoleGrantPermission(ctx, "grid", "/orders/nodes/", clientv3.GetPrefixRangeEnd("/orders/nodes/"), clientv3.PermissionType(clientv3.PermReadWrite)))
	must(client.UserGrantRole(ctx, "grid", "grid"))
	must(client.AuthEnable(ctx))
	config.Username, config.Password = "root", "root"
	return connect
}

func TestNodesDiscoverEachOtherInEtcdWithTLS(t *testing.T) {
	authority := newAuthority(t)
	cert, key := authority.issue(t, "127.0.0.1")
	etcd := testkit.StartEtcd(t, "https", "--cert-file", cert, "--key-file", key, "--client-cert-auth", "--trusted-ca-file", authority.file)
	where := "etcds://" + etcd.Address() + "/grid"
	hosts := freeHosts(t, "http", 3)
	var nodes []*process
	for _, host := range hosts[:2] {
		nodes = append(nodes, startNode(t, "-local", host, "-discover", where, "-etcd-ca", authority.file, "-etcd-cert", cert, "-etcd-key", key))
	}
	for _, n := range nodes {
		n.waitFor(t, "grid: connected")
	}
	other := startNode(t, "-local", hosts[2], "-discover", where, "-etcd-ca", newAuthority(t).file)
	other.waitFor(t, "grid: discovery failed")
}

func TestMistakesAboutDiscovery(t *testing.T) {
	dir := t.TempDir()
	cert, key := newAuthority(t).issue(t, "127.0.0.1")
	for _, c := range []struct{ flags, want string }{
		{"-discover nodes.example", "is neither file:PATH nor dns:URL nor etcd://HOST:PORT/PREFIX"},
		{"-discover file:", "is neither file:PATH"},
		{"-discover http://nodes.example:9000", "is neither file:PATH"},
		{"-discover etcd:127.0.0.1:2379/grid", "names no etcd"},
		{"-discover etcd:///grid", "names no etcd"},
		{"-discover etcd://127.0.0.1:2379", "has no prefix of keys; write etcd://127.0.0.1:2379/grid"},
		{"-discover etcd://127.0.0.1:2379//", "has no prefix of keys"},
		{"-discover etcd://127.0.0.1/grid", `"127.0.0.1" is not HOST:PORT`},
		{"-discover etcd://127.0.0.1:2379,/grid", `"" is not HOST:PORT`},
		{"-discover etcd://me:secret@127.0.0.1:2379/grid", "give it with -etcd-user-file"},
		{"-discover etcd://127.0.0.1:2379/grid -etcd-ca " + cert, "are for TLS; write -discover etcds://127.0.0.1:2379/grid"},
		{"-discover etcds://127.0.0.1:2379/grid -etcd-cert " + cert, "-etcd-cert needs its key"},
		{"-discover etcds://127.0.0.1:2379/grid -etcd-key " + key, "-etcd-key needs its certificate"},
		{"-discover etcds://127.0.0.1:2379/grid -etcd-cert " + key + " -etcd-key " + cert, "cannot use -etcd-cert"},
		{"-discover etcds://127.0.0.1:2379/grid -etcd-ca " + key, "-etcd-ca " + key + " has no certificate"},
		{"-discover etcd://127.0.0.1:2379/grid -etcd-user-file " + writeFile(t, dir, "one", "me"), "is not USER:PASSWORD"},
		{"-discover etcd://127.0.0.1:2379/grid -etcd-user-file " + writeFile(t, dir, "two", "me:you\nme:too"), "is not USER:PASSWORD"},
		{"-discover etcd://127.0.0.1:2379/grid -etcd-user-file " + dir + "/none", "cannot read -etcd-user-file"},
		{"-discover file:nodes -etcd-ca " + cert, "-etcd-ca is for -discover etcd://"},
		{"-hosts http://127.0.0.1:9001 -etcd-user-file none", "-etcd-user-file is for -discover etcd://"},
	} {
		code, _, stderr := runHere(t, append([]string{"node", "-local", "http://127.0.0.1:9001"}, strings.Fields(c.flags)...)...)
		if code != exitUsage {
			t.Errorf("%s: exit code %d", c.flags, code)
		}
		checkLine(t, stderr, "gridctl node: ", c.want)
		if strings.Contains(stderr, "secret") {
			t.Errorf("the password is printed: %s", stderr)
		}
	}
}

func TestAGuestDoesNotRegister(t *testing.T) {
	c := discoverConfig{from: "etcd://127.0.0.1:2379/grid"}
	for _, m := range []memberConfig{{local: "http://127.0.0.1:9001"}, {local: "probe-7", join: "http://127.0.0.1:9001"}} {
		s, err := c.source(&m)
		if err != nil {
			t.Fatal(err)
		}
		if got := s.(*etcdSource).source.Local; (got == m.local) != (m.join == "") {
			t.Errorf("%s registers as %q", m.local, got)
		}
	}
}
