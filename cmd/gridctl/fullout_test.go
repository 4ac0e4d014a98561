package main

import (
	"bytes"
	"errors"
	"strings"
	"testing"
)

// fullDisk takes nothing.
type fullDisk struct{}

func (fullDisk) Write([]byte) (int, error) { return 0, errors.New("no space left on device") }

func TestOutputThatGetsLostIsAFailure(t *testing.T) {
	for _, args := range [][]string{{"version"}, {"help"}, {"help", "bench"}, {"node", "-h"}, {"demo"}, {"soak"}} {
		var stderr bytes.Buffer
		code := run(t.Context(), args, fullDisk{}, &stderr)
		if code != exitFailed || !strings.Contains(stderr.String(), "no space left on device") {
			t.Errorf("%v: exit code %d, %q", args, code, &stderr)
		}
	}
}
