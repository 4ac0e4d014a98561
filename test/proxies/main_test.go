package proxies

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"text/template"
	"time"
)

// proxy is a program that is put between two nodes.
type proxy struct {
	name, pkg, config string // of the program, Debian's package and the file in config
	args              func(dir, config string) []string
}

var all = []proxy{
	{"haproxy", "haproxy", "haproxy.cfg", func(_, config string) []string { return []string{"-db", "-f", config} }},
	{"nginx", "nginx", "nginx.conf", func(dir, config string) []string { return []string{"-p", dir, "-c", config} }},
	{"caddy", "caddy", "Caddyfile", func(_, config string) []string {
		return []string{"run", "--config", config, "--adapter", "caddyfile"}
	}},
	// The package apache2 would start a server of its own.
	{"apache2", "apache2-bin", "apache2.conf", func(dir, config string) []string {
		return []string{"-DFOREGROUND", "-d", dir, "-f", config}
	}},
}

func TestMain(m *testing.M) {
	if os.Getenv("GRID_LEAVER") != "" {
		leaver()
		return
	}
	for _, p := range all {
		p.install()
	}
	os.Exit(m.Run())
}

// install installs the Debian package of a proxy that is not there.
func (p proxy) install() {
	if p.there() {
		return
	}
	if _, err := exec.LookPath("apt-get"); err != nil || os.Geteuid() != 0 {
		return
	}
	for _, args := range [][]string{{"update", "-qq"}, {"install", "-y", "-qq", "--no-install-recommends", p.pkg}} {
		cmd := exec.Command("apt-get", args...)
		cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
		if out, err := cmd.CombinedOutput(); err != nil {
			fmt.Printf("apt-get %v: %v\n%s", args, err, out)
			return
		}
	}
}

func (p proxy) there() bool {
	_, err := exec.LookPath(p.name)
	return err == nil
}

// link is where a proxy listens, and the node behind it.
type link struct{ Front, Back string }

// start runs the proxy until the test ends.
func (p proxy) start(t *testing.T, links []link) {
	t.Helper()
	dir := t.TempDir()
	config := filepath.Join(dir, p.config)
	f, err := os.Create(config)
	if err != nil {
		t.Fatal(err)
	}
	if err := template.Must(template.ParseFiles(filepath.Join("config", p.config))).Execute(f, links); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	log, err := os.Create(filepath.Join(dir, "output"))
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(p.name, p.args(dir, config)...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Env = append(os.Environ(), "HOME="+dir, "XDG_DATA_HOME="+dir, "XDG_CONFIG_HOME="+dir)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Signal(os.Interrupt)
		cmd.Wait()
		log.Close()
		if t.Failed() {
			out, _ := os.ReadFile(log.Name())
			t.Logf("%s says:\n%s", p.name, out)
		}
	})
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for _, l := range links {
		for {
			c, err := new(net.Dialer).DialContext(ctx, "tcp", l.Front)
			if err == nil {
				c.Close()
				break
			}
			if ctx.Err() != nil {
				t.Fatalf("%s does not listen: %v", p.name, err)
			}
			time.Sleep(10 * time.Millisecond)
		}
	}
}
