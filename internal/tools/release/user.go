package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// try does what a user of the module does first.
func (m *module) try(version string, p *proxy) error {
	dir, err := os.MkdirTemp("", "user")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if m.command() {
		return m.install(dir, version, p)
	}
	return m.importIt(dir, version, p)
}

// importIt gets a library for a new module, and compiles a package that imports it.
func (m *module) importIt(dir, version string, p *proxy) error {
	for name, text := range map[string]string{
		"go.mod":  "module user.example/program\n",
		"user.go": fmt.Sprintf("package program\n\nimport _ %q\n", m.path),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			return err
		}
	}
	if err := p.run(dir, "go", "get", m.path+"@"+version); err != nil {
		return err
	}
	return p.run(dir, "go", "build", ".")
}

// install installs a program, which must know its version then.
func (m *module) install(dir, version string, p *proxy) error {
	c, err := p.command(dir, "go", "install", m.path+"@"+version)
	if err != nil {
		return err
	}
	c.Env = append(c.Env, "GOBIN="+dir)
	if err := finish(c); err != nil {
		return err
	}
	said, err := output(dir, filepath.Join(dir, filepath.Base(m.path)), "--version")
	if err == nil && !strings.Contains(said, version) {
		err = fmt.Errorf("--version says %q", said)
	}
	return err
}
