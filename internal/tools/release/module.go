package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/mod/modfile"
)

// module is one of those that a version has.
type module struct {
	dir  string // in the clone
	sub  string // of the repository; empty for the root
	path string
	uses []string // paths of others that it requires
}

// published returns the modules in a clone that users import or install, each behind those that it
// requires.
func published(clone string) ([]*module, error) {
	var left []*module
	for _, pattern := range []string{"go.mod", "contrib/*/go.mod", "cmd/*/go.mod"} {
		files, err := filepath.Glob(filepath.Join(clone, pattern))
		if err != nil {
			return nil, err
		}
		for _, file := range files {
			m, err := readModule(clone, file)
			if err != nil {
				return nil, err
			}
			left = append(left, m)
		}
	}
	return sorted(left)
}

// sorted puts each module behind those that it requires.
func sorted(left []*module) (all []*module, err error) {
	for len(left) > 0 {
		ready := func(m *module) bool {
			return !slices.ContainsFunc(left, func(other *module) bool { return slices.Contains(m.uses, other.path) })
		}
		i := slices.IndexFunc(left, ready)
		if i < 0 {
			return nil, fmt.Errorf("%s and others require each other", left[0].path)
		}
		all = append(all, left[i])
		left = slices.Delete(left, i, i+1)
	}
	return all, nil
}

func readModule(clone, file string) (*module, error) {
	f, err := parseMod(file)
	if err != nil {
		return nil, err
	}
	m := &module{dir: filepath.Dir(file), path: f.Module.Mod.Path}
	if m.dir != clone {
		m.sub = filepath.ToSlash(strings.TrimPrefix(m.dir, clone+string(filepath.Separator)))
	}
	for _, r := range f.Require {
		m.uses = append(m.uses, r.Mod.Path)
	}
	return m, nil
}

func parseMod(file string) (*modfile.File, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	return modfile.Parse(file, b, nil)
}

// command reports whether the module is a program.
func (m *module) command() bool { return strings.HasPrefix(m.sub, "cmd/") }

// tag is how the go command finds a version of the module.
func (m *module) tag(version string) string {
	if m.sub == "" {
		return version
	}
	return m.sub + "/" + version
}

// edit changes the module's go.mod.
func (m *module) edit(change func(*modfile.File) error) error {
	file := filepath.Join(m.dir, "go.mod")
	f, err := parseMod(file)
	if err != nil {
		return err
	}
	if err := change(f); err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	f.Cleanup()
	b, err := f.Format()
	if err != nil {
		return err
	}
	return os.WriteFile(file, b, 0o600)
}

// require makes the module require a version of the others.
func (m *module) require(version string, all []*module) error {
	return m.edit(func(f *modfile.File) error {
		for _, other := range all {
			if slices.Contains(m.uses, other.path) {
				if err := f.AddRequire(other.path, version); err != nil {
					return err
				}
			}
		}
		return nil
	})
}

// replaceNothing makes the module take the others from a proxy, as its users do, and commits that.
func (m *module) replaceNothing(version string, p *proxy) error {
	err := m.edit(func(f *modfile.File) error {
		for _, r := range slices.Clone(f.Replace) {
			if err := f.DropReplace(r.Old.Path, r.Old.Version); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	if err := p.run(m.dir, "go", "mod", "tidy"); err != nil {
		return err
	}
	return git(m.dir, "commit", "--quiet", "--all", "-m",
		fmt.Sprintf("Let %s be installed by its version\n\ngo install refuses a program whose go.mod replaces anything. This commit is\nonly for the tag %s.", m.sub, m.tag(version)))
}
