package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"strings"
)

// command prepares a command. Its environment may be added to.
func command(dir, name string, args ...string) *exec.Cmd {
	c := exec.Command(name, args...)
	c.Dir, c.Env = dir, os.Environ()
	return c
}

// finish runs a command, whose output is of interest only if it fails.
func finish(c *exec.Cmd) error {
	if out, err := c.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w\n%s", strings.Join(c.Args, " "), err, out)
	}
	return nil
}

func git(dir string, args ...string) error { return finish(command(dir, "git", args...)) }

// output runs a command and returns what it prints.
func output(dir, name string, args ...string) (string, error) {
	c := command(dir, name, args...)
	var failure bytes.Buffer
	c.Stderr = &failure
	out, err := c.Output()
	if err != nil {
		err = fmt.Errorf("%s: %w\n%s", strings.Join(c.Args, " "), err, failure.Bytes())
	}
	return strings.TrimSpace(string(out)), err
}

// sameAuthor makes commits in a clone those of who releases here. A check does without one.
func sameAuthor(here, clone string, check bool) error {
	for _, key := range []string{"user.name", "user.email"} {
		value, err := output(here, "git", "config", key)
		if err != nil && !check {
			return fmt.Errorf("git config %s is not set: %w", key, err)
		}
		if value == "" {
			value = "check"
		}
		if err := git(clone, "config", key, value); err != nil {
			return err
		}
	}
	return nil
}
