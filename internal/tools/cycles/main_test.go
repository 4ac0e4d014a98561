package main

import (
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
