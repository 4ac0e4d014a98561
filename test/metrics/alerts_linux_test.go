package metrics

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/gridmesh/grid/internal/testkit"
)

// process is a node.
type process struct {
	addresses []string // of all nodes, its own first
	cmd       *exec.Cmd
}

func (p *process) name() string { return "http://" + p.addresses[0] }

// start runs the node until the test ends, or it is killed.
func (p *process) start(t *testing.T) {
	t.Helper()
	log, err := os.Create(filepath.Join(t.TempDir(), "log"))
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), nodeVariable+"="+strings.Join(p.addresses, ","))
	cmd.Stdout, cmd.Stderr = log, log
	stdin, err := cmd.StdinPipe() // ends with this process
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p.cmd = cmd
	t.Cleanup(func() {
		stdin.Close()
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		log.Close()
		if text, err := os.ReadFile(log.Name()); t.Failed() && err == nil {
			t.Logf("%s says:\n%s", p.name(), text)
		}
	})
}

func (p *process) signal(t *testing.T, s os.Signal) {
	t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil {
		t.Fatal(err)
	}
}

// fault makes the node do something wrong, or flood a peer.
func (p *process) fault(t *testing.T, f fault, flood string) {
	t.Helper()
	if err := p.post(t.Context(), "/fault", url.Values{"fault": {string(f)}, "flood": {flood}}); err != nil {
		t.Fatal(err)
	}
}

// serves waits until the node answers.
func (p *process) serves(t *testing.T) {
	t.Helper()
	eventually(t, "serving", func(ctx context.Context) error { return p.post(ctx, "/fault", nil) })
}

// reaches waits until a peer has answered a call of the node.
func (p *process) reaches(t *testing.T, peer string) {
	t.Helper()
	eventually(t, "reached", func(ctx context.Context) error {
		return p.post(ctx, "/call", url.Values{"peer": {peer}})
	})
}

func (p *process) post(ctx context.Context, path string, values url.Values) error {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, p.name()+path+"?"+values.Encode(), nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		return err
	}
	if err := resp.Body.Close(); err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", r.URL, resp.Status)
	}
	return nil
}

// Whatever goes wrong at one of three nodes, its alert fires, and no longer than that.
func TestAlertsFire(t *testing.T) {
	program(t, "prometheus")
	const size = 3
	var addresses []string
	for range size {
		addresses = append(addresses, testkit.FreeAddress(t))
	}
	var nodes []*process
	for i := range addresses {
		p := &process{addresses: slices.Concat(addresses[i:], addresses[:i])}
		p.start(t)
		nodes = append(nodes, p)
	}
	s := startPrometheus(t, addresses)
	eventually(t, "recorded", func(ctx context.Context) error {
		n, err := s.series(ctx, "job_peer:grid_peer_call_duration_seconds:p90_5m")
		if err == nil && n != size {
			err = fmt.Errorf("%d series", n)
		}
		return err
	})

	bad := nodes[2]
	here := nodes[0]
	var wants []map[string]string
	for _, test := range []struct {
		name       string
		want       map[string]string
		begin, end func(t *testing.T)
	}{
		{
			"a node is down",
			map[string]string{"alertname": "GridPeerDown", "instance": here.addresses[0], "peer": bad.name()},
			func(t *testing.T) { bad.signal(t, os.Kill); _ = bad.cmd.Wait() },
			nil, // below: it is to live longer than this part of the test
		},
		{
			"a node is slow",
			map[string]string{"alertname": "GridNodeSlow", "peer": bad.name()},
			func(t *testing.T) { bad.fault(t, slow, "") },
			func(t *testing.T) { bad.fault(t, none, "") },
		},
		{
			"handlers fail",
			map[string]string{"alertname": "GridHandlerErrors", "handler": "test.Echo"},
			func(t *testing.T) { bad.fault(t, failing, "") },
			func(t *testing.T) { bad.fault(t, none, "") },
		},
		{
			"a handler panics",
			map[string]string{"alertname": "GridPanic", "instance": bad.addresses[0]},
			func(t *testing.T) { bad.fault(t, panics, "") },
			func(t *testing.T) { bad.fault(t, none, "") },
		},
		{
			"connections are cut again and again",
			map[string]string{"alertname": "GridReconnects"},
			func(t *testing.T) {
				for _, n := range nodes {
					n.fault(t, cutting, "")
				}
			},
			func(t *testing.T) {
				for _, n := range nodes {
					n.fault(t, none, "")
				}
			},
		},
		{
			"a node does not read",
			map[string]string{"alertname": "GridSendQueueFull", "instance": here.addresses[0], "peer": bad.name()},
			func(t *testing.T) {
				here.reaches(t, bad.name()) // else there is no queue
				here.fault(t, none, bad.name())
				bad.signal(t, syscall.SIGSTOP)
			},
			func(t *testing.T) { bad.signal(t, syscall.SIGCONT); here.fault(t, none, "") },
		},
	} {
		ok := t.Run(test.name, func(t *testing.T) {
			s.waitFor(t, test.want, false)
			test.begin(t)
			if test.end != nil {
				defer test.end(t)
			}
			s.waitFor(t, test.want, true)
		})
		if !ok {
			return
		}
		if test.end == nil {
			bad.start(t)
			bad.serves(t) // an alert ends also where a scrape fails
			s.waitFor(t, test.want, false)
		}
		wants = append(wants, test.want)
	}
	for _, want := range wants {
		s.waitFor(t, want, false)
	}
}

// promtool finds nothing wrong with the rules, and their own tests pass.
func TestRules(t *testing.T) {
	tool := program(t, "promtool")
	for _, args := range [][]string{{"check", "rules", rulesFile}, {"test", "rules", unitTests}} {
		if out, err := exec.Command(tool, args...).CombinedOutput(); err != nil {
			t.Errorf("promtool %v: %v\n%s", args, err, out)
		}
	}
}

// Each alert fires in a test of promtool, and docs/operations.md names it, and no other. Each warning
// in the log of a node has one.
func TestAlertsAreTestedAndDocumented(t *testing.T) {
	read := func(name string) string {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	names := func(text, pattern string) (all []string) {
		for _, m := range regexp.MustCompile(pattern).FindAllStringSubmatch(text, -1) {
			all = append(all, m[1])
		}
		slices.Sort(all)
		return slices.Compact(all)
	}
	alerts := names(read(rulesFile), `(?m)^ +- alert: (\w+)$`)
	if len(alerts) < 10 {
		t.Fatalf("only %d alerts were found", len(alerts))
	}
	if tested := names(read(unitTests), `labels: '{alertname="(\w+)"`); !slices.Equal(tested, alerts) {
		t.Errorf("tested are %q, want %q", tested, alerts)
	}
	operations := read("../../docs/operations.md")
	if named := names(operations, "(?m)^\\| `(Grid\\w+)` \\|"); !slices.Equal(named, alerts) {
		t.Errorf("docs/operations.md has %q, want %q", named, alerts)
	}
	lines := regexp.MustCompile("(?m)^\\| `grid: (.*)` \\| (Warn|Error) \\|.*$").FindAllStringSubmatch(operations, -1)
	if len(lines) < 10 {
		t.Errorf("only %d lines of the log were found", len(lines))
	}
	for _, line := range lines {
		cell := regexp.MustCompile("`(Grid\\w+)`").FindStringSubmatch(line[0])
		if strings.HasPrefix(line[1], "discovery ") == (cell != nil) || cell != nil && !slices.Contains(alerts, cell[1]) {
			t.Errorf("%q has the alert %q", line[1], cell)
		}
	}
}
