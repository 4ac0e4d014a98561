package main

import (
	"strings"
	"testing"
	"time"

	"github.com/gridmesh/grid/bench/scenario"
)

func TestProgress(t *testing.T) {
	o := scenario.Options{Rounds: 2}
	sections := scenario.Sections(o)[:1]
	for _, terminal := range []bool{false, true} {
		var b strings.Builder
		p := newProgress(&b, sections, o)
		p.terminal = terminal
		p.began = time.Now().Add(-time.Minute)
		if want := 2 * len(sections[0].Cases[0].Contenders); p.total < want {
			t.Errorf("%d measurements, want %d at least", p.total, want)
		}
		p.begin("Section", "case")
		for range 11 {
			p.measuring("grid")
		}
		p.tell("%d failed", 3)
		p.end()
		wants := []string{"Section, case:...........", "3 failed\n", "s\n"}
		if terminal {
			wants = []string{clearLine + "11 of ", " min left: Section, case, grid", clearLine + "3 failed\n", clearLine + "Section, case: "}
		}
		for _, want := range wants {
			if !strings.Contains(b.String(), want) {
				t.Errorf("terminal %v: there is no %q in %q", terminal, want, b.String())
			}
		}
	}
}
