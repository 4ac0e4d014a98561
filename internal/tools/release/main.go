// Command release makes the commit and the tags of a version: of the library, of the modules under
// contrib, and of the tool. It works in a clone, and tries there what a user will do: get each library
// and compile it, install the tool and ask it for its version. Only if all of that works do the
// commit and the tags come back into the repository. It pushes nothing.
//
//	go run ./release [-check] VERSION
package main

import (
	"cmp"
	"errors"
	"flag"
	"fmt"
	"log"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/mod/semver"
)

func main() {
	log.SetFlags(0)
	log.SetPrefix("release: ")
	check := flag.Bool("check", false, "only try whether the version could be released: change nothing")
	flag.Usage = func() {
		fmt.Fprint(flag.CommandLine.Output(), "Usage: release [-check] VERSION\n\nVERSION is such as v0.2.0.\n")
		flag.PrintDefaults()
	}
	flag.Parse()
	if flag.NArg() != 1 {
		flag.Usage()
		os.Exit(2)
	}
	if err := release(flag.Arg(0), *check); err != nil {
		log.Fatal(err)
	}
}

// release makes a version in a clone of the repository that the program runs in.
func release(version string, check bool) error {
	if !semver.IsValid(version) || semver.Canonical(version) != version || semver.Build(version) != "" {
		return fmt.Errorf("%q is no version such as v0.2.0", version)
	}
	here, err := output(".", "git", "rev-parse", "--show-toplevel")
	if err != nil {
		return err
	}
	if err := releasable(here, version, check); err != nil {
		return err
	}
	tmp, err := os.MkdirTemp("", "release")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	clone := filepath.Join(tmp, "clone")
	if err := git(tmp, "clone", "--quiet", "--no-hardlinks", here, clone); err != nil {
		return err
	}
	if err := sameAuthor(here, clone, check); err != nil {
		return err
	}
	all, err := published(clone)
	if err != nil {
		return err
	}
	if err := checkAPI(clone, all, version); err != nil {
		return err
	}
	tags, err := makeVersion(clone, all, version, &proxy{filepath.Join(tmp, "proxy")})
	if err != nil {
		return err
	}
	if check {
		fmt.Printf("%s could be released: %s\n", version, strings.Join(tags, " "))
		return nil
	}
	if err := takeOver(here, clone, tags); err != nil {
		return err
	}
	fmt.Printf("%s is made. To publish it:\n\n    git push --atomic origin HEAD %s\n", version, strings.Join(tags, " "))
	return nil
}

// takeOver takes the commit and the tags of a version from a clone.
func takeOver(here, clone string, tags []string) error {
	commit, err := output(clone, "git", "rev-parse", "HEAD")
	if err != nil {
		return err
	}
	args := []string{"fetch", "--quiet", clone, "HEAD"}
	for _, tag := range tags {
		args = append(args, "refs/tags/"+tag+":refs/tags/"+tag)
	}
	if err := git(here, args...); err != nil {
		return err
	}
	return git(here, "merge", "--quiet", "--ff-only", commit)
}

// releasable reports why a version cannot be made from the state of a repository.
func releasable(dir, version string, check bool) error {
	if tag, err := output(dir, "git", "tag", "--list", version); err != nil || tag != "" {
		return cmp.Or(err, fmt.Errorf("%s has been released already", version))
	}
	if check {
		return nil // what is not committed is not tried
	}
	changed, err := output(dir, "git", "status", "--porcelain")
	if err == nil && changed != "" {
		err = errors.New("there are changes that are not committed:\n" + changed)
	}
	return err
}

// makeVersion commits and tags a version of all modules in a clone, and tries them. It returns the tags.
func makeVersion(clone string, all []*module, version string, p *proxy) (tags []string, err error) {
	if err := dateChangelog(filepath.Join(clone, "CHANGELOG.md"), version, time.Now()); err != nil {
		return nil, err
	}
	for _, m := range all {
		if err := m.require(version, all); err != nil {
			return nil, err
		}
		defer func() { err = errors.Join(err, p.forget(m, version)) }()
	}
	if err := git(clone, "commit", "--quiet", "--all", "-m", "Release "+version); err != nil {
		return nil, err
	}
	main, err := output(clone, "git", "rev-parse", "HEAD")
	if err != nil {
		return nil, err
	}
	for _, m := range all {
		if m.command() {
			// go install refuses a program whose go.mod replaces anything.
			if err := m.replaceNothing(version, p); err != nil {
				return nil, err
			}
		}
		tag := m.tag(version)
		if err := git(clone, "tag", "-a", "-m", tag, tag); err != nil {
			return nil, err
		}
		if err := p.add(clone, m, version); err != nil {
			return nil, err
		}
		if err := git(clone, "reset", "--quiet", "--hard", main); err != nil {
			return nil, err
		}
		tags = append(tags, tag)
	}
	for _, m := range all {
		if err := m.try(version, p); err != nil {
			return nil, fmt.Errorf("as a user of %s: %w", m.path, err)
		}
	}
	return tags, nil
}

const unreleased = "## [Unreleased]\n"

// dateChangelog makes what is not released yet the changes of a version.
func dateChangelog(file, version string, day time.Time) error {
	b, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	before, after, found := strings.Cut(string(b), unreleased)
	if changes, _, _ := strings.Cut(after, "\n## ["); !found || strings.TrimSpace(changes) == "" {
		return fmt.Errorf("%s has nothing under %q", file, strings.TrimSpace(unreleased))
	}
	text := fmt.Sprintf("%s%s\n## [%s] - %s\n%s", before, unreleased, strings.TrimPrefix(version, "v"), day.Format(time.DateOnly), after)
	return os.WriteFile(file, []byte(text), 0o600)
}
