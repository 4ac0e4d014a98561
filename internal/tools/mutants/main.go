// Mutants sees whether bugs can be planted: whether each patch fits the code, whether that still has
// all its types right, with the tests that should catch the bug, and whether these are there.
//
//	go run ./mutants [-C folder] patch ...
//
// The folder is the root of a module, from which the names of files in patches start. The test is
// named in a patch by a line such as "Caught by: TestName in ./package"; without one, it is the
// simulation. Types are checked in memory, which takes less than a second for a patch; to compile as
// much would take several.
package main

import (
	"errors"
	"flag"
	"fmt"
	"log"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"sync"
)

// simulation is the package whose TestSimulation catches what no other test is named for.
const simulation = "./internal/sim"

func main() {
	log.SetFlags(0)
	log.SetPrefix("mutants: ")
	dir := flag.String("C", ".", "`folder` of the module")
	flag.Parse()
	m, err := load(*dir)
	if err != nil {
		log.Fatal(err)
	}
	results := make([]result, flag.NArg())
	var all sync.WaitGroup
	turn := make(chan struct{}, runtime.GOMAXPROCS(0))
	for i, file := range flag.Args() {
		turn <- struct{}{}
		all.Go(func() {
			results[i] = m.plant(file)
			<-turn
		})
	}
	all.Wait()
	failed := false
	for i, r := range results {
		name := strings.TrimSuffix(filepath.Base(flag.Arg(i)), ".patch")
		if r.err != nil {
			r.test, failed = "NOT PLANTED: "+r.err.Error(), true
		}
		fmt.Printf("| %s | %s | |\n", name, r.test)
	}
	if failed {
		os.Exit(1)
	}
}

// result is what has become of a patch.
type result struct {
	test string // that it names
	err  error
}

var caughtBy = regexp.MustCompile(`(?m)^Caught by: (\w+) in (\S+)$`)

// plant applies a patch and checks what comes of it.
func (m *module) plant(file string) result {
	patch, err := os.ReadFile(file)
	if err != nil {
		return result{err: err}
	}
	test, where := "TestSimulation", simulation
	var r result
	if named := caughtBy.FindSubmatch(patch); named != nil {
		test, where = string(named[1]), string(named[2])
		r.test = test
	}
	changed, err := m.apply(file, patch)
	if err != nil {
		r.err = err
		return r
	}
	r.err = m.check(changed, path.Join(m.path, where), test)
	return r
}

var changes = regexp.MustCompile(`(?m)^\+\+\+ b/(\S+)`)

// apply returns the content of the files that a patch changes, by their paths.
func (m *module) apply(file string, patch []byte) (changed map[string][]byte, err error) {
	tmp, err := os.MkdirTemp("", "mutants")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(tmp)
	var names []string
	for _, match := range changes.FindAllSubmatch(patch, -1) {
		name := string(match[1])
		if _, known := m.packageOf(name); !known {
			return nil, fmt.Errorf("changes %s, which is in no package", name)
		}
		b, err := os.ReadFile(filepath.Join(m.dir, name))
		if err != nil {
			return nil, err
		}
		if err := os.MkdirAll(filepath.Join(tmp, filepath.Dir(name)), 0o700); err != nil {
			return nil, err
		}
		if err := os.WriteFile(filepath.Join(tmp, name), b, 0o600); err != nil {
			return nil, err
		}
		names = append(names, name)
	}
	if len(names) == 0 {
		return nil, errors.New("changes no file")
	}
	file, err = filepath.Abs(file)
	if err != nil {
		return nil, err
	}
	cmd := exec.Command("git", "apply", "--unsafe-paths", file)
	cmd.Dir = tmp
	cmd.Env = append(os.Environ(), "GIT_CEILING_DIRECTORIES="+filepath.Dir(tmp))
	if out, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("does not apply: %s", strings.ReplaceAll(strings.TrimSpace(string(out)), "\n", "; "))
	}
	changed = make(map[string][]byte)
	for _, name := range names {
		b, err := os.ReadFile(filepath.Join(tmp, name))
		if err != nil {
			return nil, err
		}
		changed[filepath.Join(m.dir, name)] = b
	}
	return changed, nil
}
