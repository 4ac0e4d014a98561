package discovery

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"
)

const (
	fileEvery = time.Second
	maxFile   = 1 << 20
)

// File returns a Source that reads a file every second. It has the name of a node on each line;
// empty lines, and what follows a #, do not count. Write a new version beside it and rename it, as
// most tools do, or replace a link to it, as Kubernetes does with a ConfigMap. A file that does not
// exist, or exceeds 1 MiB, is a failure. So is one whose last line has no end: it may be half
// written.
func File(path string) *Poll {
	find := func(context.Context) ([]string, error) {
		text, err := readFile(path)
		if err != nil {
			return nil, err
		}
		hosts, err := parseFile(text)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		return hosts, nil
	}
	return &Poll{Find: find, Every: fileEvery, Name: "file:" + path}
}

func readFile(path string) (string, error) {
	f, err := openReplaced(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err == nil && len(text) > maxFile {
		err = fmt.Errorf("%s: more than %d bytes", path, maxFile)
	}
	return string(text), err
}

// openReplaced opens a file that may just be replaced. Who moves a link to a new folder and removes
// the old one, as Kubernetes does, may do both between the kernel's steps from the link to the file,
// which is then not found: the next attempt follows the new link.
func openReplaced(path string) (f *os.File, err error) {
	for range 3 {
		f, err = os.Open(path) //nolint:gosec // the file that the application names
		if !errors.Is(err, os.ErrNotExist) {
			break
		}
	}
	return f, err
}

func parseFile(text string) (hosts []string, err error) {
	if text != "" && !strings.HasSuffix(text, "\n") {
		return nil, errors.New("the last line has no end: the file may be half written")
	}
	for line := range strings.Lines(text) {
		line, _, _ = strings.Cut(line, "#")
		if line = strings.TrimSpace(line); line != "" {
			hosts = append(hosts, line)
		}
	}
	return hosts, nil
}
