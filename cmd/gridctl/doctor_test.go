package main

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/gridmesh/grid/cmd/gridctl/internal/doctor"
)

func TestDoctorExaminesRunningNodes(t *testing.T) {
	hosts := freeHosts(t, "http", 3)
	secret := writeFile(t, t.TempDir(), "secret", "sesame\n")
	list := strings.Join(hosts[:2], ",")
	a := startNode(t, "-accept-guests", "-local", hosts[0], "-hosts", list, "-secret-file", secret)
	b := startNode(t, "-local", hosts[1], "-hosts", list, "-secret-file", secret)
	a.waitFor(t, "grid: connected")
	b.waitFor(t, "grid: connected")
	code, stdout, stderr := runHere(t, "doctor", "-local", hosts[0], "-hosts", list, "-secret-file", secret)
	if code != exitOK || strings.Contains(stdout, "problem") || strings.Count(stdout, "ok  ") != 2 {
		t.Errorf("exit code %d\n%s%s", code, stdout, stderr)
	}
	code, stdout, stderr = runHere(t, "doctor", "-local", hosts[2], "-hosts", list+","+hosts[2], "-json")
	var reports []doctor.Report
	if err := json.Unmarshal([]byte(stdout), &reports); err != nil || len(reports) != 3 {
		t.Fatalf("%v in %s", err, stdout)
	}
	if code != exitFailed || !strings.Contains(stderr, "gridctl doctor: 3 of 3 nodes have problems") {
		t.Errorf("exit code %d: %s", code, stderr)
	}
	for i, want := range []string{"refused the secret", "refused the secret", "nothing listens"} {
		if f := reports[i].Findings; len(f) != 1 || f[0].Level != doctor.Problem || !strings.Contains(f[0].Text, want) {
			t.Errorf("%s: %+v", hosts[i], f)
		}
	}
	code, stdout, _ = runHere(t, "doctor", "-local", "probe", "-join", hosts[0], "-secret-file", secret)
	if code != exitOK || !strings.Contains(stdout, "round trip") {
		t.Errorf("exit code %d: %s", code, stdout)
	}
}

func TestDoctorRefusesWrongFlags(t *testing.T) {
	for args, want := range map[string]string{
		"":                       "-local and -hosts are missing",
		"-path x":                "does not start with a slash",
		"-timeout 0s":            "-timeout 0s is too short",
		"-local probe -join , -": `unexpected argument "-"`,
	} {
		fields := append([]string{"doctor"}, strings.Fields(args)...)
		if strings.HasPrefix(args, "-path") || strings.HasPrefix(args, "-timeout") {
			fields = append(fields, "-local", "http://a:1", "-hosts", "http://a:1")
		}
		code, _, stderr := runHere(t, fields...)
		if code != exitUsage || !strings.Contains(stderr, want) {
			t.Errorf("%s: exit code %d: %s", args, code, stderr)
		}
	}
}
