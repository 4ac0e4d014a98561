package compat

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// Commits of before there were releases.
const (
	beforeFacts  = "7bd63da" // has pieces and windows; no facts, priorities, names, codes, metadata of answers, nor guests
	beforePieces = "3b8a7eb" // has none of these either, nor pieces
)

// declarations are what the program needs in parts, each in a file of its own. What is missing has
// the build tag "no" and its name.
var declarations = map[string]string{
	"guests":     "func Join(",
	"names":      "func (m *Manager) HandleStream(",
	"priorities": "func WithPriority(",
}

// version is a state of the library.
type version struct {
	name    string
	program string // that is a node
	has     []string
	missing string // why there is none
}

// versions are this state, and then earlier ones.
var versions []version

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "grid-compat-")
	if err != nil {
		fmt.Println(err)
		return 1
	}
	defer os.RemoveAll(dir)
	root := filepath.Join("..", "..")
	now := version{name: "now"}
	if err := now.build(dir, root); err != nil {
		fmt.Println(err)
		return 1
	}
	versions = append(versions, now)
	for _, commit := range []string{lastRelease(root), beforePieces} {
		v := version{name: commit}
		tree := filepath.Join(dir, "tree-"+commit)
		if err := checkOut(root, commit, tree); err != nil {
			v.missing = err.Error()
			fmt.Printf("SKIPPED: nodes of %s: %v\n", commit, err)
		} else if err := v.build(dir, tree); err != nil {
			fmt.Println(err)
			return 1
		}
		versions = append(versions, v)
	}
	return m.Run()
}

// lastRelease is the last version before this commit; before the first, a commit that stands for it.
func lastRelease(root string) string {
	tag, err := git(root, "describe", "--tags", "--match", "v*", "--abbrev=0", "HEAD^")
	if err != nil {
		return beforeFacts
	}
	return tag
}

// checkOut writes the files of a commit into a new directory.
func checkOut(root, commit, dir string) error {
	archive := dir + ".tar"
	if _, err := git(root, "archive", "--output="+archive, commit+"^{commit}:./"); err != nil {
		return err
	}
	defer os.Remove(archive)
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	if out, err := exec.Command("tar", "-xf", archive, "-C", dir).CombinedOutput(); err != nil {
		return fmt.Errorf("tar: %w: %s", err, out)
	}
	return nil
}

func git(dir string, args ...string) (string, error) {
	cmd := exec.Command("git", args...)
	cmd.Dir = dir
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("git %s: %w: %s", args[0], err, strings.TrimSpace(stderr.String()))
	}
	return strings.TrimSpace(string(out)), nil
}

// build builds the node with the library in a directory.
func (v *version) build(dir, library string) error {
	library, err := filepath.Abs(library)
	if err != nil {
		return err
	}
	var tags []string
	for what, sign := range declarations {
		if found, err := declares(library, sign); err != nil {
			return err
		} else if found {
			v.has = append(v.has, what)
		} else {
			tags = append(tags, "no"+what)
		}
	}
	mod := filepath.Join(dir, "go-"+v.name+".mod")
	text := fmt.Sprintf("module github.com/gridmesh/grid/test/compat\n\ngo 1.26.0\n\n"+
		"require github.com/gridmesh/grid v0.0.0\n\nreplace github.com/gridmesh/grid => %s\n", library)
	if err := os.WriteFile(mod, []byte(text), 0o600); err != nil {
		return err
	}
	sums, err := os.ReadFile(filepath.Join(library, "go.sum"))
	if err != nil {
		return err
	}
	if err := os.WriteFile(strings.TrimSuffix(mod, "mod")+"sum", sums, 0o600); err != nil {
		return err
	}
	v.program = filepath.Join(dir, "node-"+v.name)
	cmd := exec.Command("go", "build", "-modfile="+mod, "-mod=mod", "-tags="+strings.Join(tags, ","), "-o", v.program, "./node")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("go build with %s: %w\n%s", v.name, err, out)
	}
	return nil
}

// declares reports whether the library in a directory has a declaration that begins like sign.
func declares(library, sign string) (bool, error) {
	files, err := filepath.Glob(filepath.Join(library, "*.go"))
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			return false, err
		}
		if strings.Contains(string(text), "\n"+sign) {
			return true, nil
		}
	}
	return false, err
}
