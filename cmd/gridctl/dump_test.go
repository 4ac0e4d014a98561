package main

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/gridmesh/grid/cmd/gridctl/internal/dump"
)

func TestDumpPrintsLines(t *testing.T) {
	l := &dump.Line{
		Time: time.Now(), From: "10.0.0.1:1", To: "10.0.0.2:9000", Op: "Response", MuxID: 3, Handler: "kv.Get", Flags: "[EOF,ERR]",
		Size: 4, Detail: "error: a\nb\x1b[31m", Payload: []byte("a\x00"), Metadata: []byte("\x81"), Wrong: "the checksum is wrong",
	}
	var out bytes.Buffer
	if err := (&dumpConfig{payloads: true}).print(&out, l); err != nil {
		t.Fatal(err)
	}
	const want = `10.0.0.1:1 > 10.0.0.2:9000  Response  mux 3  kv.Get  [EOF,ERR]  4 B  error: a; b\u001b[31m  "a\x00"  metadata "\x81"  WRONG: the checksum is wrong` + "\n"
	if !strings.HasSuffix(out.String(), want) {
		t.Errorf("%q, want %q", &out, want)
	}
	out.Reset()
	if err := (&dumpConfig{json: true}).print(&out, l); err != nil || !strings.Contains(out.String(), `"mux":3,`) || strings.Contains(out.String(), "metadata") {
		t.Errorf("%v: %s", err, &out)
	}
}

func TestDumpSaysWhatIsWrong(t *testing.T) {
	dir := t.TempDir()
	for _, args := range [][]string{{"-listen", ":0"}, {"-to", "127.0.0.1:1"}, {"-listen", ":0", "-to", "127.0.0.1:1", "file"}} {
		if code, _, stderr := runHere(t, append([]string{"dump"}, args...)...); code != exitUsage || !strings.Contains(stderr, "give -listen and -to") {
			t.Errorf("%q: exit code %d: %s", args, code, stderr)
		}
	}
	for _, c := range []struct {
		file string
		code int
		want string
	}{
		{"", exitUsage, "give one capture"},
		{dir + "/none", exitUsage, "cannot read the capture"},
		{writeFile(t, dir, "empty", ""), exitFailed, "it is empty"},
		{writeFile(t, dir, "text", "no capture at all, but text"), exitFailed, "neither pcap nor pcapng"},
		{writeFile(t, dir, "no packets", "\xd4\xc3\xb2\xa1\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x04\x00\x01\x00\x00\x00"), exitFailed, "there is no grid in it"},
	} {
		code, _, stderr := runHere(t, "dump", c.file)
		if c.file == "" {
			code, _, stderr = runHere(t, "dump")
		}
		if code != c.code || !strings.Contains(stderr, c.want) {
			t.Errorf("%s: exit code %d: %s", c.file, code, stderr)
		}
	}
}
