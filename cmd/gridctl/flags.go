package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"
)

// newFlags returns an empty set of flags that prints nothing by itself.
func newFlags(command string) *flag.FlagSet {
	fs := flag.NewFlagSet(command, flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	return fs
}

// parse reads args, which hold flags only. It returns errHelp or a startError.
func parse(fs *flag.FlagSet, args []string) error {
	err := fs.Parse(args)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return errHelp
	case err != nil:
		return cannotStart("%v; see gridctl help %s", err, fs.Name())
	case fs.NArg() > 0:
		return cannotStart("unexpected argument %q: all arguments are flags, and lists have commas without spaces; see gridctl help %s", fs.Arg(0), fs.Name())
	}
	return nil
}

// noFlags is parse for a command without flags.
func noFlags(args []string) error { return parse(newFlags("version"), args) }

// flagList describes all flags of fs, for a usage.
func flagList(fs *flag.FlagSet) string {
	var b strings.Builder
	b.WriteString("Flags:\n")
	fs.SetOutput(&b)
	fs.PrintDefaults()
	return b.String()
}

// byteSize is a flag in bytes, which takes the suffixes k and m: 64k is 65,536.
type byteSize int

func (s *byteSize) String() string { return strconv.Itoa(int(*s)) }

func (s *byteSize) Set(text string) error {
	digits, factor := strings.ToLower(text), 1
	digits = strings.TrimSuffix(strings.TrimSuffix(digits, "b"), "i")
	if rest, ok := strings.CutSuffix(digits, "k"); ok {
		digits, factor = rest, 1<<10
	} else if rest, ok := strings.CutSuffix(digits, "m"); ok {
		digits, factor = rest, 1<<20
	}
	n, err := strconv.Atoi(digits)
	if err != nil {
		return errors.New("want a number of bytes, such as 512, 64k or 1m")
	}
	if n < 0 || n > maxSize/factor {
		return fmt.Errorf("want 0 to %dm", maxSize>>20)
	}
	*s = byteSize(n * factor)
	return nil
}

// duration is a flag of time.
type duration time.Duration

func (d *duration) String() string { return time.Duration(*d).String() }

func (d *duration) Set(text string) error {
	v, err := time.ParseDuration(text)
	if err != nil {
		return errors.New("want a number with its unit, such as 500ms, 10s or 1m")
	}
	*d = duration(v)
	return nil
}

// maxSize bounds the payload of a call, in bytes. It stays below the largest message of package
// grid.
const maxSize = 32 << 20

// isTerminal reports whether somebody is likely to look at what is written to w.
func isTerminal(w io.Writer) bool {
	w = asItIs(w)
	if e, ok := w.(*firstError); ok {
		w = e.w
	}
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}
