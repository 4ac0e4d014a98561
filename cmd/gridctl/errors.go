package main

import (
	"errors"
	"fmt"
	"strings"

	"github.com/gridmesh/grid/internal/visible"
)

var (
	// errHelp asks for a command's usage in place of the command.
	errHelp = errors.New("help")
	// errInterrupted says that the user has ended the command.
	errInterrupted = errors.New("interrupted")
)

// startError says what the user has to change before the command can run.
type startError struct{ text string }

func (e *startError) Error() string { return e.text }

// cannotStart returns a startError.
func cannotStart(format string, a ...any) error {
	return &startError{fmt.Sprintf(format, a...)}
}

// oneLine is the text of err without line breaks, and without what a terminal would obey.
func oneLine(err error) string {
	return visible.Text(strings.Join(strings.FieldsFunc(err.Error(), func(r rune) bool { return r == '\n' || r == '\r' }), "; "))
}
