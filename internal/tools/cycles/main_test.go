package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestTheHouseIsMeasured(t *testing.T) {
	pkgs, err := load("testdata/house", ".")
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	report(&out, pkgs[0], options{refs: true, cuts: 1, dots: true, maxDots: 2})

	// A chain is counted anew behind an index. The long chain of door.go goes through structs
	// without names.
	want := `
  files in the largest cycle of references: 2 of 4
    door.go room.go
      0 left without door.go -> room.go: [.floor Room]
  functions, median / p90 / longest, lines: 1 / 1 / 4 of 5 (the longest: enter in room.go)
  selector chains of more than 2 dots: 3
    room.go:11: r.next.next.next.floor
    room.go:14: r.next.next.doors[0].room.next.next.floor
    room.go:14: r.next.next.doors
  references; files marked with * are in the largest cycle
    door.go*
      room.go*: .floor Room
    house_gen.go
    roof.go
      room.go*: .floor Room
    room.go*
      door.go*: .room Door Door.open
`
	_, got, _ := strings.Cut(out.String(), "\n")
	if got = "\n" + got; got != want {
		t.Errorf("got:%s\nwant:%s", got, want)
	}
}

func TestALayerRefersToNoneAbove(t *testing.T) {
	pkgs, err := load("testdata/house", ".")
	if err != nil {
		t.Fatal(err)
	}
	document := filepath.Join(t.TempDir(), "map.md")
	const table = "# House\n\n| Layer | Files |\n|---|---|\n| top | `door.go`, `cellar.go` |\n| middle | `room.go`, `roof.go` |\n\ntext `house_gen.go`\n"
	if err := os.WriteFile(document, []byte(table), 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := check(pkgs, document, 1, 100)
	want := []string{
		"the largest cycle has 2 files, and may have 1",
		"house_gen.go is in no layer",
		"room.go (middle) refers to door.go (top), which is above it: .room Door Door.open",
		"cellar.go is in the table and not in the package",
	}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("got %v and\n%s\nwant\n%s", err, strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}
