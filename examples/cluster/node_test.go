package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gridmesh/grid"
	"github.com/gridmesh/grid/discovery"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"
)

// names of the nodes, which the dialer of the tests finds on loopback: of the cluster, and of two
// that it grows by.
var (
	names    = allNames[:3:3]
	allNames = []string{
		"https://node1.example:9000", "https://node2.example:9000", "https://node3.example:9000",
		"https://node4.example:9000", "https://node5.example:9000",
	}
)

// startCluster starts three nodes with the secrets in dir. change may change what a node is told.
func startCluster(t *testing.T, dir string, change func(i int, c *config)) ([]*node, []*tracetest.InMemoryExporter) {
	t.Helper()
	start := prepareCluster(t, dir, names, change)
	var nodes []*node
	var spans []*tracetest.InMemoryExporter
	for i := range names {
		n, exporter := start(i)
		nodes, spans = append(nodes, n), append(spans, exporter)
	}
	return nodes, spans
}

// prepareCluster returns what starts each of the nodes, which end with the test.
func prepareCluster(t *testing.T, dir string, names []string, change func(i int, c *config)) func(i int) (*node, *tracetest.InMemoryExporter) {
	t.Helper()
	listeners := make(map[string]net.Listener)
	for _, name := range names {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		host, err := hostOf(name)
		if err != nil {
			t.Fatal(err)
		}
		listeners[host+":9000"] = l
	}
	dial := func(ctx context.Context, network, address string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, network, listeners[address].Addr().String())
	}
	return func(i int) (*node, *tracetest.InMemoryExporter) {
		exporter := tracetest.NewInMemoryExporter()
		c := config{
			Local: names[i], Hosts: names, Dir: dir, Spans: keptSpans{exporter},
			Dialer: dial, Listener: listeners[strings.TrimPrefix(names[i], "https://")],
		}
		if change != nil {
			change(i, &c)
		}
		n, err := startNode(c)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := n.stop(); err != nil {
				t.Error(err)
			}
		})
		return n, exporter
	}
}

// keptSpans keeps the spans when its node stops.
type keptSpans struct{ *tracetest.InMemoryExporter }

func (keptSpans) Shutdown(context.Context) error { return nil }

func prepare(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := writeSecrets(dir, allNames); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestNodesGreetEachOther(t *testing.T) {
	nodes, spans := startCluster(t, prepare(t), nil)
	for i, n := range nodes {
		for j, peer := range names {
			if i == j {
				continue
			}
			wait(t, n.Connection(peer))
			got, err := n.greet(t.Context(), peer)
			if want := fmt.Sprintf("hello %s, I am %s", names[i], peer); err != nil || got != want {
				t.Errorf("%s greets %s: %q, %v", names[i], peer, got, err)
			}
		}
	}
	if got := get(t, nodes[0].ops.Handler, "/metrics"); !strings.Contains(got, `grid_peer_connected{peer="`+names[1]+`"} 1`) ||
		!strings.Contains(got, `handler="example.Greet"`) {
		t.Errorf("the metrics are\n%s", got)
	}
	if got := get(t, nodes[0].ops.Handler, "/debug/grid/"); !strings.Contains(got, "node2.example") {
		t.Error("the status page does not show the other node")
	}
	get(t, nodes[0].ops.Handler, "/health/ready")
	checkTrace(t, nodes, spans)
}

// checkTrace checks that a call is one trace on two nodes.
func checkTrace(t *testing.T, nodes []*node, spans []*tracetest.InMemoryExporter) {
	t.Helper()
	for _, n := range nodes {
		if err := n.traces.ForceFlush(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	for _, client := range spans[0].GetSpans() {
		if client.SpanKind != trace.SpanKindClient {
			continue
		}
		for _, s := range spans[1].GetSpans() {
			if s.SpanKind == trace.SpanKindServer && s.Parent.SpanID() == client.SpanContext.SpanID() &&
				s.SpanContext.TraceID() == client.SpanContext.TraceID() {
				return
			}
		}
	}
	t.Errorf("no call from the first node to the second is one trace: %v, %v", spans[0].GetSpans(), spans[1].GetSpans())
}

// The third node is not what it should be. The others go on without it.
func TestStrangersStayOutside(t *testing.T) {
	for what, spoil := range map[string]func(t *testing.T, dir string){
		"another secret": func(t *testing.T, dir string) {
			write(t, filepath.Join(dir, secretFile), bytes.Repeat([]byte("ab"), 32))
		},
		"another authority": func(t *testing.T, dir string) {
			secret := read(t, filepath.Join(dir, secretFile))
			if err := writeSecrets(dir, names); err != nil {
				t.Fatal(err)
			}
			write(t, filepath.Join(dir, secretFile), secret)
		},
		"a certificate of another host": func(t *testing.T, dir string) {
			for _, kind := range []string{".crt", ".key"} {
				write(t, filepath.Join(dir, "node3.example"+kind), read(t, filepath.Join(dir, "node2.example"+kind)))
			}
		},
	} {
		t.Run(what, func(t *testing.T) {
			good, bad := prepare(t), t.TempDir()
			if err := os.CopyFS(bad, os.DirFS(good)); err != nil {
				t.Fatal(err)
			}
			spoil(t, bad)
			nodes, _ := startCluster(t, good, func(i int, c *config) {
				if i == 2 {
					c.Dir = bad
				}
			})
			wait(t, nodes[0].Connection(names[1]))
			// The names decide which of the two dials, and counts the error.
			refused := func() bool {
				return nodes[2].Connection(names[0]).Stats().DialErrors+nodes[0].Connection(names[2]).Stats().DialErrors > 0
			}
			eventually(t, "somebody to be refused", refused)
			for i, peer := range map[int]string{0: names[2], 1: names[2], 2: names[0]} {
				if got, err := nodes[i].greet(t.Context(), peer); err == nil {
					t.Errorf("%s greets %s, and gets %q", names[i], peer, got)
				}
			}
		})
	}
}

// The cluster grows from three nodes to five, and shrinks again, while all that are in it greet each
// other. No greeting fails.
func TestTheClusterScales(t *testing.T) {
	dir, file := prepare(t), filepath.Join(t.TempDir(), "hosts")
	list := func(names []string) {
		t.Helper()
		write(t, file+".new", []byte(strings.Join(names, "\n")+"\n"))
		if err := os.Rename(file+".new", file); err != nil {
			t.Fatal(err)
		}
	}
	start := prepareCluster(t, dir, allNames, func(_ int, c *config) {
		source := discovery.File(file)
		source.Every = 10 * time.Millisecond
		c.Hosts, c.Source, c.Hold = nil, source, 50*time.Millisecond
	})
	var members []*member
	grow := func(to int) {
		t.Helper()
		for i := len(members); i < to; i++ {
			n, _ := start(i)
			members = append(members, greetForever(t, n))
		}
		list(allNames[:to])
		for _, m := range members {
			eventually(t, m.local+" to have greeted all others", func() bool { return len(m.greeted()) == to-1 })
		}
	}
	list(names)
	grow(3)
	grow(5)

	for i, m := range members[3:] { // as the program does when it is told to end
		m.end()
		m.Drain()
		for _, other := range slices.Concat(members[:3], members[4+i:]) {
			eventually(t, other.local+" to turn elsewhere", func() bool { return !slices.Contains(other.callable(), m.local) })
			other.finishRound(t)
		}
		if err := m.stop(); err != nil {
			t.Error(err)
		}
	}
	list(names)
	members = members[:3]
	for _, m := range members {
		eventually(t, m.local+" to have removed two", func() bool { return len(m.Targets()) == 2 && m.Stats().Removed.Hosts == 2 })
	}
	for _, m := range members {
		m.finishRound(t)
		m.end()
		for _, host := range m.Targets() {
			if n := m.Connection(host).Stats().Reconnects; n != 0 {
				t.Errorf("%s has connected to %s again", m.local, host)
			}
		}
	}
}

// member is a node that greets the others all the time.
type member struct {
	*node
	end func() // stops greeting

	mu     sync.Mutex // Protects following.
	known  map[string]bool
	rounds int
}

func greetForever(t *testing.T, n *node) *member {
	m := &member{node: n, known: make(map[string]bool)}
	over := make(chan struct{})
	var greeting sync.WaitGroup
	m.end = sync.OnceFunc(func() {
		close(over)
		greeting.Wait()
	})
	t.Cleanup(m.end)
	greeting.Go(func() {
		for {
			select {
			case <-over:
				return
			case <-time.After(time.Millisecond): // the tests of others run beside this
			}
			for _, peer := range n.callable() {
				got, err := n.greet(context.Background(), peer)
				if want := fmt.Sprintf("hello %s, I am %s", n.local, peer); err != nil || got != want {
					t.Errorf("%s greets %s: %q, %v", n.local, peer, got, err)
				}
				m.mu.Lock()
				m.known[peer] = true
				m.mu.Unlock()
			}
			m.mu.Lock()
			m.rounds++
			m.mu.Unlock()
		}
	})
	return m
}

// greeted returns whom the node has greeted.
func (m *member) greeted() (peers []string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Collect(maps.Keys(m.known))
}

// finishRound waits until the node has greeted everybody that it calls now.
func (m *member) finishRound(t *testing.T) {
	t.Helper()
	rounds := func() int {
		m.mu.Lock()
		defer m.mu.Unlock()
		return m.rounds
	}
	before := rounds()
	eventually(t, m.local+" to greet everybody", func() bool { return rounds() >= before+2 })
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for give := time.Now().Add(30 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(give) {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

func wait(t *testing.T, c *grid.Connection) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if err := c.WaitForConnect(ctx); err != nil {
		t.Fatalf("%v is not connected: %v: %s", c, err, c.Stats().LastError)
	}
}

func get(t *testing.T, h http.Handler, path string) string {
	t.Helper()
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "http://localhost"+path, nil))
	body, err := io.ReadAll(w.Body)
	if err != nil || w.Code != http.StatusOK {
		t.Errorf("%s: %d, %v: %s", path, w.Code, err, body)
	}
	return string(body)
}

func read(t *testing.T, file string) []byte {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func write(t *testing.T, file string, b []byte) {
	t.Helper()
	if err := os.WriteFile(file, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestSecretsAreNotReplacedUnlessForced(t *testing.T) {
	dir := t.TempDir()
	if err := prepareSecrets(dir, names, false); err != nil {
		t.Fatal(err)
	}
	authority, secret := filepath.Join(dir, authorityFile), filepath.Join(dir, secretFile)
	before, secretBefore := read(t, authority), read(t, secret)
	if err := prepareSecrets(dir, names, false); err == nil || !strings.Contains(err.Error(), authorityFile) || !strings.Contains(err.Error(), "-force") {
		t.Errorf("secrets were written twice: %v", err)
	}
	if err := prepareSecrets(dir, append(names[:1:1], "nonsense"), true); err == nil {
		t.Error("a name that is none was taken")
	}
	if !bytes.Equal(before, read(t, authority)) {
		t.Error("the authority was replaced")
	}
	if err := os.Chmod(secret, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := prepareSecrets(dir, names, true); err != nil {
		t.Fatal(err)
	}
	if bytes.Equal(before, read(t, authority)) || bytes.Equal(secretBefore, read(t, secret)) {
		t.Error("the secrets were not replaced")
	}
	if info, err := os.Stat(secret); err != nil || runtime.GOOS != "windows" && info.Mode().Perm() != 0o600 {
		t.Errorf("others may read the new secret: %v, %v", info.Mode(), err)
	}
	if _, err := readSecrets(dir, names[0]); err != nil {
		t.Errorf("the new secrets are no use: %v", err)
	}
}
