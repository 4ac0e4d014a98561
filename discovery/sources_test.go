package discovery

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestPollAsksAgainAfterEachAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var asked []time.Time
		p := Poll{Every: 10 * time.Second, Find: func(ctx context.Context) ([]string, error) {
			deadline, ok := ctx.Deadline()
			if !ok || time.Until(deadline) != findTimeout {
				t.Errorf("the deadline of a question is %v", deadline)
			}
			if asked = append(asked, time.Now()); len(asked) == 10 {
				return nil, errors.New("no more")
			}
			return []string{fmt.Sprint(len(asked))}, nil
		}}
		var found []string
		err := p.Watch(t.Context(), func(hosts []string) { found = append(found, hosts...) })
		if err == nil || err.Error() != "no more" {
			t.Errorf("Watch returned %v", err)
		}
		if got := strings.Join(found, ""); got != "123456789" {
			t.Errorf("found %s", got)
		}
		for i := range asked[1:] {
			if pause := asked[i+1].Sub(asked[i]); pause < 9*time.Second || pause > 11*time.Second+1 {
				t.Errorf("a pause of %v", pause)
			}
		}
	})
}

func TestPollEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 12*time.Second)
		defer cancel()
		n := 0
		p := Poll{Find: func(context.Context) ([]string, error) { return []string{"a"}, nil }}
		if err := p.Watch(ctx, func([]string) { n++ }); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Watch returned %v", err)
		}
		if n != 3 {
			t.Errorf("%d answers in 12 seconds, want one every 5", n)
		}
	})
}

// fakeResolver answers from a table, by network and host.
type fakeResolver struct {
	ips    map[string][]netip.Addr
	errs   map[string]error
	srv    []*net.SRV
	srvErr error
	asked  []string
}

func (r *fakeResolver) LookupNetIP(_ context.Context, network, host string) ([]netip.Addr, error) {
	r.asked = append(r.asked, network+" "+host)
	if err := r.errs[network]; err != nil {
		return nil, err
	}
	if ips := r.ips[network]; len(ips) > 0 {
		return ips, nil
	}
	return nil, &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}
}

func (r *fakeResolver) LookupSRV(_ context.Context, service, proto, name string) (string, []*net.SRV, error) {
	r.asked = append(r.asked, "srv "+service+proto+name)
	return name, r.srv, r.srvErr
}

func TestNamesOfNodesInDNS(t *testing.T) {
	four := []netip.Addr{netip.MustParseAddr("10.0.0.2"), netip.MustParseAddr("::ffff:10.0.0.1")}
	six := []netip.Addr{netip.MustParseAddr("fd00::1"), netip.MustParseAddr("fe80::1%eth0")}
	srv := []*net.SRV{{Target: "Node1.example.", Port: 9001}, {Target: ".", Port: 1}, {Target: "node2.example", Port: 443}}
	lost := &net.DNSError{Err: "server misbehaving", IsTemporary: true}
	const grid = "grid.app.svc."
	for name, test := range map[string]struct {
		target string
		r      fakeResolver
		want   string // names, or an error
		asked  string
	}{
		"IPv4": {
			"http://" + grid + ":9000",
			fakeResolver{ips: map[string][]netip.Addr{"ip4": four}},
			"http://10.0.0.2:9000 http://10.0.0.1:9000", "ip4 " + grid,
		},
		"IPv6": {
			"https://" + grid + ":9000",
			fakeResolver{ips: map[string][]netip.Addr{"ip6": six}},
			"https://[fd00::1]:9000 https://[fe80::1]:9000", "ip4 " + grid + ",ip6 " + grid,
		},
		"both, of which one is the name": {
			"http://" + grid,
			fakeResolver{ips: map[string][]netip.Addr{"ip4": four, "ip6": six}},
			"http://10.0.0.2 http://10.0.0.1", "ip4 " + grid,
		},
		"IPv6 without a port": {
			"http://" + grid,
			fakeResolver{ips: map[string][]netip.Addr{"ip6": six[:1]}},
			"http://[fd00::1]", "ip4 " + grid + ",ip6 " + grid,
		},
		"half an answer": {
			"http://" + grid,
			fakeResolver{errs: map[string]error{"ip4": lost}, ips: map[string][]netip.Addr{"ip6": six}},
			"server misbehaving", "ip4 " + grid,
		},
		"the other half": {
			"http://" + grid, fakeResolver{errs: map[string]error{"ip6": lost}}, "server misbehaving", "ip4 " + grid + ",ip6 " + grid,
		},
		"nothing": {"http://" + grid, fakeResolver{}, "no such host", "ip4 " + grid + ",ip6 " + grid},
		"SRV": {
			"https://_grid._tcp.example.",
			fakeResolver{srv: srv},
			"https://node1.example:9001 https://node2.example:443", "srv _grid._tcp.example.",
		},
		"SRV, in part":    {"https://_grid._tcp.example.", fakeResolver{srv: srv[:1], srvErr: lost}, "server misbehaving", "srv _grid._tcp.example."},
		"SRV with a port": {target: "https://_grid._tcp.example:9000", want: "is for SRV records to say"},
		"no scheme":       {target: "grid.app.svc:9000", want: "does not start with http:// or https://"},
		"another scheme":  {target: "dns://grid.app.svc:9000", want: "does not start with http:// or https://"},
		"no host":         {target: "http://:9000", want: "has no host"},
		"a path":          {target: "http://grid.app.svc:9000/", want: "is more than"},
		"nonsense":        {target: "http://[", want: "missing ']'"},
	} {
		t.Run(name, func(t *testing.T) {
			hosts, err := dns(&test.r, test.target).Find(t.Context())
			if got := strings.Join(hosts, " "); err == nil && got != test.want {
				t.Errorf("found %q, want %q", got, test.want)
			}
			if err != nil && (!strings.Contains(err.Error(), test.want) || test.want == "" || hosts != nil) {
				t.Errorf("found %q, %v, want %q", hosts, err, test.want)
			}
			if got := strings.Join(test.r.asked, ","); got != test.asked {
				t.Errorf("asked %q, want %q", got, test.asked)
			}
		})
	}
}

// Of a real resolver, which asks nobody for an address.
func TestAnAddressInPlaceOfAName(t *testing.T) {
	for target, want := range map[string]string{"http://127.0.0.1:9000": "http://127.0.0.1:9000", "https://[::1]:9000": "https://[::1]:9000"} {
		r := &net.Resolver{PreferGo: true, Dial: func(context.Context, string, string) (net.Conn, error) {
			return nil, errors.New("nobody is asked")
		}}
		hosts, err := DNSWith(r, target).Find(t.Context())
		if err != nil || !slices.Equal(hosts, []string{want}) {
			t.Errorf("%s: %q, %v", target, hosts, err)
		}
	}
}

func TestFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "nodes")
	source := File(path)
	for _, test := range []struct{ name, text, want string }{
		{"one node", "http://a:1\n", "http://a:1"},
		{"comments and spaces", "# the nodes\n\n  http://a:1  # first\r\nhttp://b:1\n#http://c:1\n", "http://a:1 http://b:1"},
		{"half a name", "http://node1:9000\nhttp://node1", "may be half written"},
		{"nothing", "", ""},
		{"no nodes", "# none\n", ""},
		{"too long", strings.Repeat("#\n", maxFile/2) + "\n", "more than"},
	} {
		if err := os.WriteFile(path, []byte(test.text), 0o600); err != nil {
			t.Fatal(err)
		}
		hosts, err := source.Find(t.Context())
		if got := strings.Join(hosts, " "); err == nil && got != test.want {
			t.Errorf("%s: %q, want %q", test.name, got, test.want)
		}
		if err != nil && (!strings.Contains(err.Error(), test.want) || !strings.Contains(err.Error(), path) || test.want == "") {
			t.Errorf("%s: %v, want %q", test.name, err, test.want)
		}
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if hosts, err := source.Find(t.Context()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("without a file: %q, %v", hosts, err)
	}
}

// replacements are the ways in which files get a new content.
var replacements = map[string]func(dir, path, text string) error{
	"rename": func(dir, path, text string) error { // Ansible, and most editors
		next := filepath.Join(dir, ".next")
		if err := os.WriteFile(next, []byte(text), 0o600); err != nil {
			return err
		}
		return os.Rename(next, path)
	},
	"link": func(dir, path, text string) error { // a ConfigMap: nodes -> ..data/nodes, ..data -> ..version
		version, err := os.MkdirTemp(dir, "..version")
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(version, "nodes"), []byte(text), 0o600); err != nil {
			return err
		}
		data, next := filepath.Join(dir, "..data"), filepath.Join(dir, "..data_tmp")
		old, _ := os.Readlink(data)
		if err := os.Symlink(version, next); err != nil {
			return err
		}
		if err := os.Rename(next, data); err != nil {
			return err
		}
		if err := os.Symlink(filepath.Join("..data", "nodes"), path); err != nil && !errors.Is(err, os.ErrExist) {
			return err
		}
		return os.RemoveAll(old)
	},
}

func TestAFileIsReplacedWhileItIsRead(t *testing.T) {
	for name, replace := range replacements {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			path := filepath.Join(dir, "nodes")
			if err := replace(dir, path, "http://node00:9000\n"); err != nil {
				t.Skip(err) // Windows lets few make links
			}
			synctest.Test(t, func(t *testing.T) {
				var n fakeNode
				r := Runner{Settle: -1, Logger: slog.New(slog.DiscardHandler)}
				ctx, cancel := context.WithCancel(t.Context())
				done := make(chan struct{})
				go func() {
					r.run(ctx, &n, File(path))
					close(done)
				}()
				for i := range 20 {
					if err := replace(dir, path, fmt.Sprintf("http://node%02d:9000\nhttp://node%02d:9000\n", i, i+1)); err != nil {
						t.Fatal(err)
					}
					time.Sleep(time.Minute)
					synctest.Wait()
					if got, want := n.hosts(), fmt.Sprintf("http://node%02d:9000 http://node%02d:9000", i, i+1); got != want {
						t.Errorf("hosts %q, want %q", got, want)
					}
				}
				if s := r.Stats(); s.Failures != 0 || !strings.HasPrefix(File(path).String(), "file:") {
					t.Errorf("%+v", s)
				}
				cancel()
				<-done
			})
		})
	}
}
