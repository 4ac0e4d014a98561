package main

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/gridmesh/grid"
	"github.com/gridmesh/grid/debugz"
)

// calledNode starts a node with handlers to call, which accepts guests unless hosts has others.
func calledNode(t *testing.T, hosts ...string) *member {
	t.Helper()
	n := memberHere(t, memberConfig{local: hosts[0], hosts: hosts, acceptGuests: len(hosts) == 1})
	err := errors.Join(
		debugz.RegisterTools(n.Manager, func(string) bool { return true }),
		n.Handle("kv.Get", func(ctx context.Context, b []byte) ([]byte, error) {
			md := grid.MetadataFrom(ctx)
			if err := errors.Join(
				grid.SetHeader(ctx, grid.Metadata{"user": md["user"]}),
				grid.SetTrailer(ctx, grid.Metadata{"t": {"1"}}),
			); err != nil {
				return nil, err
			}
			if string(b) == "none" {
				return nil, grid.NewError(grid.NotFound, "no such key").WithDetails([]byte("d"))
			}
			return b, nil
		}),
		n.HandleStream("kv.Watch", func(_ context.Context, st *grid.RawStream) error {
			if err := errors.Join(st.SetHeader(grid.Metadata{"h": {"2"}}), st.Send([]byte("at "+string(st.Payload())))); err != nil {
				return err
			}
			for b, err := range st.All() {
				if err != nil || st.Send(b) != nil {
					return err
				}
			}
			return nil
		}),
		n.Handle("slow", func(ctx context.Context, _ []byte) ([]byte, error) {
			<-ctx.Done()
			return nil, context.Cause(ctx)
		}),
	)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestCallAsAGuest(t *testing.T) {
	host := freeHosts(t, "http", 1)[0]
	calledNode(t, host)
	dir := t.TempDir()
	file := writeFile(t, dir, "body", "from a file")
	lines := writeFile(t, dir, "lines", "one\ntwo\n")
	for _, c := range []struct {
		name           string
		args           []string
		code           int
		stdout, stderr string // stdout is all of it, stderr a part of it
	}{
		{"a method", []string{"kv.Get", "hello"}, exitOK, "hello", ""},
		{"a number", []string{"128", "hello"}, exitOK, "hello", ""},
		{"the name of a number", []string{"echo", "hello"}, exitOK, "hello", ""},
		{"bytes", []string{"echo", "a\x00\x1bb"}, exitOK, "a\x00\x1bb", ""},
		{"no body", []string{"echo"}, exitOK, "", ""},
		{"a file", []string{"echo", "-file", file}, exitOK, "from a file", ""},
		{"JSON", []string{"-format", "json", "echo", `{"a": [1, 2]}`}, exitOK, `{"a":[1,2]}` + "\n", ""},
		{"MessagePack", []string{"-format", "msgp", "echo", `{"b":{"$bytes":"aGk="},"a":[1,-2,2.5,null,true,18446744073709551615]}`}, exitOK, `{"a":[1,-2,2.5,null,true,18446744073709551615],"b":"aGk="}` + "\n", ""},
		{"metadata", []string{"-v", "-H", "user: anna", "-H", "user:ben", "kv.Get", "x"}, exitOK, "x", "header: user: anna\nheader: user: ben\ntrailer: t: 1\ncode: OK, "},
		{"an error", []string{"kv.Get", "none"}, exitFailed, "", "trailer: t: 1\ndetails: \"d\"\ngridctl call: NotFound: "},
		{"a stream", []string{"-stream", "kv.Watch", "a", "-messages", lines}, exitOK, "at a\none\ntwo\n", ""},
		{"one without input", []string{"-stream", "kv.Watch", "-v"}, exitOK, "at \n", "header: h: 2\ncode: OK, "},
		{"one by number", []string{"-stream", "-in-capacity", "0", "-format", "raw", "-out-capacity", "32", "130", "2 1"}, exitOK, "\x00\n\x00\n", ""},
		{"one by the name of a number", []string{"-stream", "-in-capacity", "0", "source", "1 1"}, exitOK, "\x00\n", ""},
		{"a request as a stream", []string{"-stream", "kv.Get"}, exitFailed, "", "it is a handler of requests: leave out -stream"},
		{"a stream as a request", []string{"kv.Watch"}, exitFailed, "", "it is a handler of streams: give -stream"},
		{"none", []string{"kv.Put"}, exitFailed, "", "-list lists its handlers"},
		{"a timeout", []string{"slow", "-timeout", "10ms"}, exitFailed, "", "DeadlineExceeded"},
	} {
		t.Run(c.name, func(t *testing.T) {
			code, stdout, stderr := runHere(t, append([]string{"call", "-to", host}, c.args...)...)
			if code != c.code || stdout != c.stdout || !strings.Contains(stderr, c.stderr) || (c.stderr == "") != (stderr == "") {
				t.Errorf("exit code %d, %q, %s", code, stdout, stderr)
			}
		})
	}
}

func TestCallFromStandardInput(t *testing.T) {
	host := freeHosts(t, "http", 1)[0]
	calledNode(t, host)
	stdin := os.Stdin
	defer func() { os.Stdin = stdin }()
	for args, want := range map[string]string{"echo -file -": "a\nb\n", "-stream kv.Watch -messages -": "at \na\nb\n"} {
		f, err := os.Open(writeFile(t, t.TempDir(), "in", "a\nb\n"))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		os.Stdin = f
		if code, stdout, stderr := runHere(t, append([]string{"call", "-to", host}, strings.Fields(args)...)...); code != exitOK || stdout != want {
			t.Errorf("%s: exit code %d, %q, %s", args, code, stdout, stderr)
		}
	}
}

func TestCallPrintsJSON(t *testing.T) {
	host := freeHosts(t, "http", 1)[0]
	calledNode(t, host)
	last := func(want int, args ...string) (end callEnd, lines []string) {
		t.Helper()
		code, stdout, stderr := runHere(t, append([]string{"call", "-to", host, "-json"}, args...)...)
		lines = strings.Split(strings.TrimSpace(stdout), "\n")
		if err := json.Unmarshal([]byte(lines[len(lines)-1]), &end); err != nil || code != want {
			t.Fatalf("exit code %d, %v: %s%s", code, err, stdout, stderr)
		}
		return end, lines
	}
	end, _ := last(exitOK, "kv.Get", "x", "-H", "user: anna")
	if string(end.Answer) != `"x"` || end.Code != "OK" || end.Header.Get("user") != "anna" || end.Trailer.Get("t") != "1" || end.Seconds <= 0 {
		t.Errorf("%+v", end)
	}
	if end, _ = last(exitOK, "echo", "\xff"); string(end.Answer) != `{"$bytes":"/w=="}` {
		t.Errorf("%+v", end)
	}
	if end, _ = last(exitFailed, "kv.Get", "none"); end.Code != "NotFound" || !end.Remote || string(end.Details) != "d" || end.Answer != nil {
		t.Errorf("%+v", end)
	}
	end, lines := last(exitOK, "-stream", "kv.Watch", "a")
	if end.Code != "OK" || len(lines) != 2 || lines[0] != `{"message":"at a"}` {
		t.Errorf("%+v, %q", end, lines)
	}
}

func TestCallListsHandlers(t *testing.T) {
	hosts := freeHosts(t, "http", 2)
	calledNode(t, hosts[0])
	code, stdout, _ := runHere(t, "call", "-to", hosts[0], "-list")
	lines := strings.Split(stdout, "\n")
	for i := range lines {
		lines[i] = strings.Join(strings.Fields(lines[i]), " ")
	}
	for _, want := range []string{"handler number kind subroute", "kv.Get request", "kv.Watch stream", "echo 128 request", "source 130 stream"} {
		if code != exitOK || !strings.Contains(strings.Join(lines, "\n")+"\n", want+"\n") {
			t.Errorf("exit code %d, no %q in %s", code, want, stdout)
		}
	}
	memberHere(t, memberConfig{local: hosts[1], hosts: hosts[1:], acceptGuests: true}) // without tools
	code, stdout, stderr := runHere(t, "call", "-to", hosts[1], "-list")
	if code != exitFailed || !strings.Contains(stdout, " 128 ") || !strings.Contains(stderr, "it has to call debugz.RegisterTools") {
		t.Errorf("exit code %d: %s%s", code, stdout, stderr)
	}
}

// Where guests are not accepted, one of the hosts can call, whoever of the two dials.
func TestCallAsAHost(t *testing.T) {
	for _, callerDials := range []bool{true, false} {
		hosts := hostsWhere(t, "http", callerDials)
		calledNode(t, hosts...)
		code, _, stderr := runHere(t, "call", "-to", hosts[0], "echo", "hello")
		if code != exitUsage || !strings.Contains(stderr, "it accepts no guests") || !strings.Contains(stderr, "with -local URL and -hosts") {
			t.Errorf("as a guest: exit code %d: %s", code, stderr)
		}
		code, stdout, stderr := runHere(t, "call", "-to", hosts[0], "-local", hosts[1], "-hosts", strings.Join(hosts, ","), "-wait", patience.String(), "echo", "hello")
		if code != exitOK || stdout != "hello" {
			t.Errorf("as a host that dials, %t: exit code %d: %s", callerDials, code, stderr)
		}
	}
}

func TestCallRefusesWrongArguments(t *testing.T) {
	for args, want := range map[string]string{
		"":                                   "the handler is missing",
		"a b c":                              `unexpected argument "c"`,
		"-list a":                            `unexpected argument "a"`,
		"a":                                  "-to is missing",
		"a -to x":                            "-to x is not a URL",
		"a -to http://a:1 -local http://b:1": "name all of them with -hosts",
		"a -to http://a:1 -local http://b:1 -hosts http://b:1": "-to http://a:1 is not one of -hosts",
		"a -to http://a:1 -local http://a:1 -hosts http://a:1": "is -local itself",
		"a -to http://a:1 -listen :1":                          "-listen, -cert and -key are for a host",
		"a -to http://a:1 -path x":                             "does not start with a slash",
		"a -to http://a:1,http://b:1":                          "call one",
		"a b -file x":                                          "give one of them",
		"a -file /does/not/exist -to http://a:1":               "cannot read -file",
		"a -format xml":                                        "-format xml is not known",
		"a b -format json -to http://a:1":                      "the body: not JSON",
		"a {}{} -format msgp -to http://a:1":                   "there is more behind the value",
		`a {"$bytes":"?"} -format msgp -to http://a:1`:         "the body: $bytes",
		"a -messages x":                                        "give -stream too",
		"a -H x":                                               "want \"key: value\"",
		"a -nothing":                                           "see gridctl help call",
		"-to http://a:1 -- -a -b -c":                           `unexpected argument "-c"`,
	} {
		code, stdout, stderr := runHere(t, append([]string{"call"}, strings.Fields(args)...)...)
		if code != exitUsage || stdout != "" || !strings.Contains(stderr, want) {
			t.Errorf("%s: exit code %d: %s%s", args, code, stdout, stderr)
		}
	}
}
