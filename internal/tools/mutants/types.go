package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/importer"
	"go/parser"
	"go/token"
	"go/types"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
)

// module is the code without any patch.
type module struct {
	dir, path string
	packages  map[string]*code
	fset      *token.FileSet

	mu      sync.Mutex // Protects following.
	others  types.Importer
	files   map[string]*ast.File
	checked map[string]*types.Package // packages of the module, without their tests
}

// code is a package of the module, as go list describes it.
type code struct {
	ImportPath, Dir                    string
	GoFiles, TestGoFiles, XTestGoFiles []string
	Imports, TestImports, XTestImports []string
	IgnoredGoFiles                     []string
	Export                             string
	Module                             *struct{ Path, Dir string }
}

// load reads which packages there are, and compiles what they need of others.
func load(dir string) (*module, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	m := &module{dir: dir, packages: make(map[string]*code), fset: token.NewFileSet(), files: make(map[string]*ast.File), checked: make(map[string]*types.Package)}
	own, err := list(dir, "./...")
	if err != nil {
		return nil, err
	}
	for _, c := range own {
		m.path, m.packages[c.ImportPath] = c.Module.Path, c
	}
	var needed []string
	for _, c := range own {
		for _, name := range slices.Concat(c.Imports, c.TestImports, c.XTestImports) {
			if m.packages[name] == nil && name != "unsafe" && name != "C" {
				needed = append(needed, name)
			}
		}
	}
	slices.Sort(needed)
	others, err := list(dir, append([]string{"-export", "-deps"}, slices.Compact(needed)...)...)
	if err != nil {
		return nil, err
	}
	exports := make(map[string]string)
	for _, c := range others {
		exports[c.ImportPath] = c.Export
	}
	m.others = importer.ForCompiler(m.fset, "gc", func(name string) (io.ReadCloser, error) {
		if exports[name] == "" {
			return nil, errors.New("nobody needed " + name + " before")
		}
		return os.Open(exports[name])
	})
	return m, nil
}

// list asks go list about packages.
func list(dir string, args ...string) (all []*code, err error) {
	cmd := exec.Command("go", append([]string{"list", "-json"}, args...)...)
	cmd.Dir = dir
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("go list: %w: %s", err, &errs)
	}
	for d := json.NewDecoder(&out); ; {
		c := new(code)
		if err := d.Decode(c); err == io.EOF {
			return all, nil
		} else if err != nil {
			return nil, err
		}
		all = append(all, c)
	}
}

// packageOf returns the package of a file, which is named from the root of the module.
func (m *module) packageOf(file string) (c *code, ok bool) {
	c = m.packages[path.Join(m.path, path.Dir(filepath.ToSlash(file)))]
	if c == nil {
		return nil, false
	}
	return c, slices.Contains(slices.Concat(c.GoFiles, c.TestGoFiles, c.XTestGoFiles, c.IgnoredGoFiles), path.Base(filepath.ToSlash(file)))
}

// variant is the module with a patch, and with the tests of one package.
type variant struct {
	*module
	changed  map[string][]byte // files by their paths
	tested   string            // the package whose tests are part of it
	affected map[string]bool   // whether packages depend on either
	checked  map[string]*types.Package
}

// check looks for errors in the packages with the changed files, in the root of the module, and in
// the package with the test.
func (m *module) check(changed map[string][]byte, tested, test string) error {
	v := &variant{module: m, changed: changed, tested: tested, affected: make(map[string]bool), checked: make(map[string]*types.Package)}
	c := m.packages[tested]
	if c == nil {
		return fmt.Errorf("there is no package %s", tested)
	}
	names := []string{m.path, tested}
	for file := range changed {
		names = append(names, path.Join(m.path, filepath.ToSlash(strings.TrimPrefix(filepath.Dir(file), m.dir))))
	}
	for _, name := range names {
		if m.packages[name] == nil {
			continue // no code in the root
		}
		if _, err := v.Import(name); err != nil {
			return err
		}
	}
	if len(c.XTestGoFiles) > 0 {
		if _, err := v.checkFiles(tested+"_test", c.Dir, c.XTestGoFiles, false); err != nil {
			return err
		}
	}
	return v.find(c, test)
}

// find reports an error if the test is not there.
func (v *variant) find(c *code, test string) error {
	files, err := v.parse(c.Dir, slices.Concat(c.TestGoFiles, c.XTestGoFiles))
	if err != nil {
		return err
	}
	for _, f := range files {
		for _, d := range f.Decls {
			if fn, ok := d.(*ast.FuncDecl); ok && fn.Recv == nil && fn.Name.Name == test {
				return nil
			}
		}
	}
	return fmt.Errorf("NO %s in %s", test, c.ImportPath)
}

// Import is part of types.Importer. Only packages that a change can affect are checked anew.
func (v *variant) Import(name string) (*types.Package, error) {
	c := v.packages[name]
	if c == nil {
		v.mu.Lock()
		defer v.mu.Unlock()
		return v.others.Import(name)
	}
	if p := v.checked[name]; p != nil {
		return p, nil
	}
	clean := !v.isAffected(c)
	if clean {
		v.mu.Lock()
		p := v.module.checked[name]
		v.mu.Unlock()
		if p != nil {
			return p, nil
		}
	}
	files := c.GoFiles
	if name == v.tested {
		files = slices.Concat(files, c.TestGoFiles)
	}
	p, err := v.checkFiles(name, c.Dir, files, clean)
	if err != nil {
		return nil, err
	}
	if !clean {
		v.checked[name] = p
		return p, nil
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if first := v.module.checked[name]; first != nil {
		return first, nil // another patch was faster, and its types are in use
	}
	v.module.checked[name] = p
	return p, nil
}

// isAffected reports whether a package depends on what is changed or tested.
func (v *variant) isAffected(c *code) bool {
	if is, known := v.affected[c.ImportPath]; known {
		return is
	}
	is := c.ImportPath == v.tested
	for file := range v.changed {
		is = is || filepath.Dir(file) == c.Dir
	}
	for _, name := range c.Imports {
		if other := v.packages[name]; other != nil && v.isAffected(other) {
			is = true
		}
	}
	v.affected[c.ImportPath] = is
	return is
}

// checkFiles checks a package. Functions of one that is clean are not looked into.
func (v *variant) checkFiles(name, dir string, names []string, clean bool) (*types.Package, error) {
	files, err := v.parse(dir, names)
	if err != nil {
		return nil, err
	}
	config := types.Config{
		Importer: v, IgnoreFuncBodies: clean,
		Sizes: types.SizesFor("gc", runtime.GOARCH),
	}
	return config.Check(name, v.fset, files, nil)
}

// parse reads files of a folder.
func (v *variant) parse(dir string, names []string) (files []*ast.File, err error) {
	for _, name := range names {
		file := filepath.Join(dir, name)
		f, err := v.parseFile(file)
		if err != nil {
			return nil, err
		}
		files = append(files, f)
	}
	return files, nil
}

func (v *variant) parseFile(file string) (*ast.File, error) {
	if text, ok := v.changed[file]; ok {
		return parser.ParseFile(v.fset, file, text, parser.SkipObjectResolution)
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if f := v.files[file]; f != nil {
		return f, nil
	}
	f, err := parser.ParseFile(v.fset, file, nil, parser.SkipObjectResolution)
	if err == nil {
		v.files[file] = f
	}
	return f, err
}
