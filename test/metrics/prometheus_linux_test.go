package metrics

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/gridmesh/grid/internal/testkit"
)

// hurry is how many times as fast as in the rules time goes for the Prometheus of the test: it
// scrapes every second in place of every half minute.
const hurry = 30

// hurried returns rules whose times are so much shorter.
func hurried(t *testing.T, rules string) string {
	t.Helper()
	// A range, an offset, or how long an alert is pending. Names of recorded series stay.
	duration := regexp.MustCompile(`(\[|offset |for: )(\d+[mhd])`)
	return duration.ReplaceAllStringFunc(rules, func(s string) string {
		part := duration.FindStringSubmatch(s)
		d, err := time.ParseDuration(strings.Replace(part[2], "1d", "24h", 1))
		if err != nil {
			t.Fatalf("%s: %v", s, err)
		}
		return fmt.Sprintf("%s%ds", part[1], int(d.Seconds())/hurry)
	})
}

// server is a Prometheus.
type server struct{ url string }

// startPrometheus starts a Prometheus that scrapes nodes, until the test ends.
func startPrometheus(t *testing.T, nodes []string) *server {
	t.Helper()
	path := program(t, "prometheus")
	dir := t.TempDir()
	rules, err := os.ReadFile(rulesFile)
	if err != nil {
		t.Fatal(err)
	}
	write := func(name, text string) string {
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	write("rules.yaml", hurried(t, string(rules)))
	config := write("prometheus.yaml", fmt.Sprintf(`
global: {scrape_interval: 1s, scrape_timeout: 1s, evaluation_interval: 1s}
rule_files: [rules.yaml]
scrape_configs:
  - job_name: grid
    static_configs: [{targets: ["%s"]}]
`, strings.Join(nodes, `", "`)))
	address := testkit.FreeAddress(t)
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(path, "--config.file="+config, "--storage.tsdb.path="+filepath.Join(dir, "data"),
		"--web.listen-address="+address, "--log.level=warn")
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		log.Close()
		if text, err := os.ReadFile(log.Name()); t.Failed() && err == nil {
			t.Logf("Prometheus says:\n%s", text)
		}
	})
	return &server{"http://" + address}
}

// get returns what the API answers to a query; an error while the server is not ready.
func (s *server) get(ctx context.Context, path string, result any) error {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, s.url+path, nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", resp.Status, text)
	}
	return json.Unmarshal(text, result)
}

// firing returns the alerts that fire, each with its labels.
func (s *server) firing(ctx context.Context) (all []map[string]string, err error) {
	var answer struct {
		Data struct {
			Alerts []struct {
				Labels map[string]string
				State  string
			}
		}
	}
	if err := s.get(ctx, "/api/v1/alerts", &answer); err != nil {
		return nil, err
	}
	for _, a := range answer.Data.Alerts {
		if a.State == "firing" {
			all = append(all, a.Labels)
		}
	}
	return all, nil
}

// series returns how many series a query has as its result.
func (s *server) series(ctx context.Context, query string) (int, error) {
	var answer struct{ Data struct{ Result []any } }
	err := s.get(ctx, "/api/v1/query?query="+url.QueryEscape(query), &answer)
	return len(answer.Data.Result), err
}

// waitFor waits until at least one alert fires that has all of some labels, or until none does.
func (s *server) waitFor(t *testing.T, want map[string]string, fires bool) {
	t.Helper()
	eventually(t, fmt.Sprintf("firing (%v): %v", fires, want), func(ctx context.Context) error {
		all, err := s.firing(ctx)
		if err != nil {
			return err
		}
		found := false
		for _, labels := range all {
			found = found || contains(labels, want)
		}
		if found != fires {
			return fmt.Errorf("firing are %v", all)
		}
		return nil
	})
}

func contains(labels, want map[string]string) bool {
	for name, value := range want {
		if labels[name] != value {
			return false
		}
	}
	return true
}

// eventually waits until f returns nil.
func eventually(t *testing.T, what string, f func(ctx context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	for {
		err := f(ctx)
		if err == nil {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatalf("not %s: %v", what, err)
		case <-time.After(200 * time.Millisecond):
		}
	}
}
