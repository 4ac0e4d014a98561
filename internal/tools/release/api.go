package main

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/exp/apidiff"
	"golang.org/x/mod/semver"
	"golang.org/x/tools/go/packages"
)

// checkAPI compares what the modules export with the version before. It refuses a version that may not
// break code of users, and prints what others break.
func checkAPI(clone string, all []*module, version string) error {
	before, err := versionBefore(clone, version)
	if err != nil || before == "" {
		return err
	}
	old, err := exportedIn(clone, all, before)
	if err != nil {
		return err
	}
	broken, err := breaks(all, old)
	if err != nil || broken == "" {
		return err
	}
	text := fmt.Sprintf("%s breaks code that compiles with %s:\n%s", version, before, broken)
	if !mayBreak(before, version) {
		return errors.New(text)
	}
	fmt.Print(text)
	return nil
}

// breaks lists what code of users no longer compiles with, compared with what the modules exported
// before, by path.
func breaks(all []*module, before map[string]*apidiff.Module) (string, error) {
	var text bytes.Buffer
	for _, m := range all {
		old := before[m.path]
		if old == nil {
			continue
		}
		now, err := m.exported()
		if err != nil {
			return "", err
		}
		if err := apidiff.ModuleChanges(old, now).TextIncompatible(&text, true); err != nil {
			return "", err
		}
	}
	return text.String(), nil
}

// exportedIn returns what the modules exported in a version, by path.
func exportedIn(clone string, all []*module, version string) (modules map[string]*apidiff.Module, err error) {
	now, err := output(clone, "git", "rev-parse", "HEAD")
	if err != nil {
		return nil, err
	}
	if err := git(clone, "checkout", "--quiet", version); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, git(clone, "checkout", "--quiet", now)) }()
	modules = make(map[string]*apidiff.Module)
	for _, m := range all {
		if _, err := os.Stat(filepath.Join(m.dir, "go.mod")); m.command() || errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if modules[m.path], err = m.exported(); err != nil {
			return nil, err
		}
	}
	return modules, nil
}

// exported returns what the packages of the module export that others can import.
func (m *module) exported() (*apidiff.Module, error) {
	found, err := packages.Load(&packages.Config{Dir: m.dir, Mode: packages.LoadTypes}, "./...")
	if err != nil {
		return nil, err
	}
	api := &apidiff.Module{Path: m.path}
	for _, p := range found {
		if len(p.Errors) > 0 {
			return nil, p.Errors[0]
		}
		if p.Name != "main" && !slices.Contains(strings.Split(p.PkgPath, "/"), "internal") {
			api.Packages = append(api.Packages, p.Types)
		}
	}
	return api, nil
}

// mayBreak reports whether code that compiles with one version need not compile with the next.
func mayBreak(before, version string) bool {
	if semver.Major(before) != semver.Major(version) {
		return true
	}
	return semver.Major(version) == "v0" && semver.MajorMinor(before) != semver.MajorMinor(version)
}

// versionBefore returns the latest released version below another, or nothing.
func versionBefore(clone, version string) (before string, err error) {
	tags, err := output(clone, "git", "tag", "--list", "v*")
	for tag := range strings.FieldsSeq(tags) {
		if semver.IsValid(tag) && semver.Prerelease(tag) == "" && semver.Compare(tag, version) < 0 && semver.Compare(tag, before) > 0 {
			before = tag
		}
	}
	return before, err
}
