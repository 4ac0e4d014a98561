package gridtest

import (
	"flag"
	"fmt"
	"regexp"
	"runtime/debug"
	"strings"
	"testing"

	"github.com/gridmesh/grid/internal/testkit"
)

// Run runs f with a World for each of several seeds, as subtests, each in a bubble of
// testing/synctest, until one fails. A seed that takes more than two minutes of real time hangs,
// and Run panics with its number: a goroutine holds a lock while it waits, or does not wait at all.
//
// The flag -gridtest.seed=7 has it run that one seed, -gridtest.seeds=1000 that many, and both as
// many from that one on. It runs one after the other, on one processor: see the package. To use
// more of them, start several with different seeds.
func Run(t *testing.T, f func(t *testing.T, w *World), options ...Option) {
	t.Helper()
	defer oneProcessor()()
	c := newConfig(options)
	name := t.Name()
	seeds := testkit.Seeds{
		First:  c.seed,
		Count:  c.seeds,
		Hangs:  *hangsFlag,
		Label:  "gridtest.seed",
		Repeat: func(seed uint64) string { return repeatCommand(name, seed) },
	}
	one := func(t *testing.T, seed uint64) {
		c := c
		c.seed, c.ofRun = seed, true
		f(t, newWorld(t, c))
	}
	if c.seeds == 1 {
		seeds.One(t, c.seed, one)
		return
	}
	seeds.All(t, one)
}

// repeatCommand runs a test with one seed.
func repeatCommand(test string, seed uint64) string {
	var pattern []string
	for name := range strings.SplitSeq(test, "/") {
		pattern = append(pattern, "^"+regexp.QuoteMeta(name)+"$")
	}
	flags, pkg := "", "."
	if info, ok := debug.ReadBuildInfo(); ok {
		if path, ofTest := strings.CutSuffix(info.Path, ".test"); ofTest {
			pkg = path
		}
		for _, s := range info.Settings {
			if s.Key == "-race" && s.Value == "true" {
				flags = "-race "
			}
		}
	}
	command := fmt.Sprintf("go test %s-run '%s' %s -gridtest.seed=%d", flags, strings.Join(pattern, "/"), pkg, seed)
	flag.Visit(func(f *flag.Flag) { // those of the package that is tested
		if !strings.HasPrefix(f.Name, "test.") && !strings.HasPrefix(f.Name, "gridtest.") {
			command += " " + quoted(fmt.Sprintf("-%s=%v", f.Name, f.Value))
		}
	})
	return command
}

// quoted returns a word for a shell, in quotes if it needs them.
func quoted(word string) string {
	if strings.ContainsAny(word, " \t\n'\"\\$`*?[](){}<>|&;#~!") {
		return "'" + strings.ReplaceAll(word, "'", `'\''`) + "'"
	}
	return word
}
