package main

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	modpath "golang.org/x/mod/module"
	"golang.org/x/mod/zip"
)

// proxy is a folder from which the go command gets the versions of modules, in the layout that
// https://go.dev/ref/mod#goproxy-protocol gives.
type proxy struct{ dir string }

// add adds the version of a module whose commit is checked out in a clone.
func (p *proxy) add(clone string, m *module, version string) error {
	escaped, err := modpath.EscapePath(m.path)
	if err != nil {
		return err
	}
	base := filepath.Join(p.dir, filepath.FromSlash(escaped), "@v", version)
	if err := os.MkdirAll(filepath.Dir(base), 0o755); err != nil {
		return err
	}
	goMod, err := os.ReadFile(filepath.Join(m.dir, "go.mod"))
	if err != nil {
		return err
	}
	info, err := json.Marshal(struct {
		Version string
		Time    time.Time
	}{version, time.Now().UTC()})
	if err != nil {
		return err
	}
	list := filepath.Join(filepath.Dir(base), "list")
	for name, content := range map[string][]byte{base + ".mod": goMod, base + ".info": info, list: []byte(version + "\n")} {
		if err := os.WriteFile(name, content, 0o600); err != nil {
			return err
		}
	}
	f, err := os.Create(base + ".zip")
	if err != nil {
		return err
	}
	defer f.Close()
	if err := zip.CreateFromVCS(f, modpath.Version{Path: m.path, Version: version}, clone, "HEAD", m.sub); err != nil {
		return err
	}
	return f.Close()
}

// run runs a command that takes these modules from the proxy, and others from where the go command
// of this machine does.
func (p *proxy) run(dir, name string, args ...string) error {
	c, err := p.command(dir, name, args...)
	if err != nil {
		return err
	}
	return finish(c)
}

func (p *proxy) command(dir, name string, args ...string) (*exec.Cmd, error) {
	usual, err := output(dir, "go", "env", "GOPROXY")
	if err != nil {
		return nil, err
	}
	c := command(dir, name, args...)
	c.Env = append(c.Env,
		"GOPROXY=file://"+filepath.ToSlash(p.dir)+","+usual,
		"GONOSUMDB=github.com/gridmesh/*",
		"GOPRIVATE=", "GONOPROXY=", "GOWORK=off",
		"GOFLAGS=-modcacherw", // for forget
		"GODEBUG=goindex=0",   // the index of a module is not made anew for a version that is tried again
	)
	return c, nil
}

// forget removes a version of a module from the machine's module cache, so that another attempt at the
// same version is not taken for this one.
func (p *proxy) forget(m *module, version string) error {
	cache, err := output(".", "go", "env", "GOMODCACHE")
	if err != nil {
		return err
	}
	escaped, err := modpath.EscapePath(m.path)
	if err != nil {
		return err
	}
	path := filepath.FromSlash(escaped)
	files, err := filepath.Glob(filepath.Join(cache, "cache", "download", path, "@v", version+".*"))
	if err != nil {
		return err
	}
	for _, name := range append(files, filepath.Join(cache, path+"@"+version)) {
		if err := os.RemoveAll(name); err != nil {
			return err
		}
	}
	return nil
}
