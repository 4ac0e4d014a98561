// Command gridctl shows what package grid does, runs nodes, measures and tests them.
//
//	gridctl demo                                        four nodes in one process
//	gridctl node -local URL -hosts URL,URL,...          one node
//	gridctl top                                         what the nodes of a grid do, in a terminal
//	gridctl doctor -local URL -hosts URL,URL,...        what keeps nodes from each other
//	gridctl call -to URL HANDLER BODY                   a call to a running node
//	gridctl tap -to URL                                 the calls of a running node, as they end
//	gridctl dump FILE                                   what nodes say in a capture of packets
//	gridctl bench -local URL -hosts URL,URL,...         load from one node to the others
//	gridctl soak                                        random load and random cuts, with checks
//
// It exits with 0 when all went well, with 1 when something failed while it
// ran, and with 2 when it was called wrongly or could not start.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"strings"
	"syscall"
)

// Exit codes.
const (
	exitOK          = 0
	exitFailed      = 1   // something failed while it ran
	exitUsage       = 2   // called wrongly, or could not start
	exitInterrupted = 130 // as shells report a program that was interrupted
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends the process at once
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

// command is one of gridctl's commands. run returns what went wrong.
type command struct {
	name  string
	usage string
	run   func(ctx context.Context, args []string, stdout, stderr io.Writer) error
}

// commands returns all commands, in the order of the usage.
func commands() []command {
	return []command{
		{"demo", demoUsage(), runDemo},
		{"node", nodeUsage(), runNode},
		{"top", topUsage(), runTop},
		{"doctor", doctorUsage(), runDoctor},
		{"call", callUsage(), runCall},
		{"tap", tapUsage(), runTap},
		{"dump", dumpUsage(), runDump},
		{"bench", benchUsage(), runBench},
		{"soak", soakUsage(), runSoak},
		{"version", versionUsage, runVersion},
	}
}

// run runs the command that args name and returns the exit code. The end of
// ctx is the wish of the user that it ends.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	out := &firstError{w: stdout}
	code := runPlain(ctx, args, plainWriter{out}, plainWriter{stderr})
	if out.err != nil && code == exitOK {
		fmt.Fprintf(stderr, "gridctl: cannot write the output: %v\n", out.err)
		return exitFailed
	}
	return code
}

// runPlain is run for writers that take anything.
func runPlain(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	if len(args) == 0 {
		fmt.Fprint(stderr, usage)
		return exitUsage
	}
	name, args := args[0], args[1:]
	switch name {
	case "help", "-h", "-help", "--help":
		return help(args, stdout, stderr)
	case "-version", "--version":
		name = "version"
	}
	cmd, ok := findCommand(name)
	if !ok {
		return unknownCommand(name, stderr)
	}
	err := cmd.run(ctx, args, stdout, stderr)
	if errors.Is(err, errHelp) {
		fmt.Fprint(stdout, cmd.usage)
		return exitOK
	}
	return exitCode(cmd.name, err, stderr)
}

// exitCode reports err in one line, unless there is nothing to say about it.
func exitCode(name string, err error, stderr io.Writer) int {
	var wrong *startError
	switch {
	case err == nil:
		return exitOK
	case errors.Is(err, errInterrupted):
		return exitInterrupted
	case errors.As(err, &wrong):
		fmt.Fprintf(stderr, "gridctl %s: %s\n", name, oneLine(err))
		return exitUsage
	}
	fmt.Fprintf(stderr, "gridctl %s: %s\n", name, oneLine(err))
	return exitFailed
}

// help prints the usage of gridctl, or of one command.
func help(args []string, stdout, stderr io.Writer) int {
	if len(args) == 0 {
		fmt.Fprint(stdout, usage)
		return exitOK
	}
	cmd, ok := findCommand(args[0])
	if !ok {
		return unknownCommand(args[0], stderr)
	}
	fmt.Fprint(stdout, cmd.usage)
	return exitOK
}

func findCommand(name string) (command, bool) {
	for _, cmd := range commands() {
		if cmd.name == name {
			return cmd, true
		}
	}
	return command{}, false
}

func unknownCommand(name string, stderr io.Writer) int {
	var names []string
	for _, cmd := range commands() {
		names = append(names, cmd.name)
	}
	fmt.Fprintf(stderr, "gridctl: there is no command %q; the commands are %s and help\n", name, strings.Join(names, ", "))
	return exitUsage
}

// runVersion prints what this program was built from.
func runVersion(_ context.Context, args []string, stdout, _ io.Writer) error {
	if err := noFlags(args); err != nil {
		return err
	}
	version, revision := "unknown", ""
	if info, ok := debug.ReadBuildInfo(); ok {
		version = info.Main.Version
		for _, s := range info.Settings {
			if s.Key == "vcs.revision" {
				revision = " " + s.Value
			}
		}
	}
	_, err := fmt.Fprintf(stdout, "gridctl %s%s %s %s/%s\n", version, revision, runtime.Version(), runtime.GOOS, runtime.GOARCH)
	return err
}
