// Cycles measures how a package is built: which of its files cannot be
// understood without each other, how long its functions are, and where code
// reaches through the fields of one type into those of another.
//
//	go run ./cycles [-refs] [-cuts n] [-dots] [-max n] [-layers document] [-check n] [-C folder] [package ...]
//
// File A refers to file B where it uses an identifier, a method or a field that
// B declares. Tests do not count; generated files do as files, but the length
// of their functions does not.
//
// With -check it fails where a cycle has more files than that, where a chain is
// too long, or where a file refers to a layer above its own: -layers names the
// document that has them in a table.
package main

import (
	"bufio"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/tools/go/packages"
)

type options struct {
	refs    bool // Print which files each file refers to, and what for.
	cuts    int  // References to name that hold the cycle together.
	dots    bool // Print the chains that are too long.
	maxDots int
}

func main() {
	log.SetFlags(0)
	log.SetPrefix("cycles: ")
	var o options
	flag.BoolVar(&o.refs, "refs", false, "print, for each file, the files it refers to and the names it uses of them")
	flag.IntVar(&o.cuts, "cuts", 0, "print `n` references, one after the other, whose removal makes the cycle smallest")
	flag.BoolVar(&o.dots, "dots", false, "print the selector chains that are too long")
	flag.IntVar(&o.maxDots, "max", 2, "`dots` that a selector chain may have")
	document := flag.String("layers", "", "Markdown `document` with a table of layers, from top to bottom")
	most := flag.Int("check", 0, "fail where the largest cycle has more than `n` files, and where something else is wrong")
	dir := flag.String("C", ".", "`folder` to load the packages from")
	flag.Parse()

	pkgs, err := load(*dir, flag.Args()...)
	if err != nil {
		log.Fatal(err)
	}
	out := bufio.NewWriter(os.Stdout)
	for _, pkg := range pkgs {
		report(out, pkg, o)
	}
	if err := out.Flush(); err != nil {
		log.Fatal(err)
	}
	if *most == 0 {
		return
	}
	faults, err := check(pkgs, *document, *most, o.maxDots)
	if err != nil {
		log.Fatal(err)
	}
	for _, fault := range faults {
		log.Print(fault)
	}
	if len(faults) > 0 {
		os.Exit(1)
	}
}

// check says what is wrong with the packages.
func check(pkgs []*packages.Package, document string, most, maxDots int) (faults []string, err error) {
	for _, pkg := range pkgs {
		refs := references(pkg)
		if n := len(largestCycle(refs)); n > most {
			faults = append(faults, fmt.Sprintf("the largest cycle has %d files, and may have %d", n, most))
		}
		for _, chain := range longChains(pkg, maxDots) {
			faults = append(faults, "too many dots: "+chain)
		}
		if document == "" {
			continue
		}
		l, err := readLayers(document)
		if err != nil {
			return nil, err
		}
		var elsewhere []string
		for _, file := range pkg.IgnoredFiles {
			elsewhere = append(elsewhere, filepath.Base(file))
		}
		faults = append(faults, l.check(refs, elsewhere)...)
	}
	return faults, nil
}

// load reads and type-checks packages, without their tests.
func load(dir string, patterns ...string) ([]*packages.Package, error) {
	pkgs, err := packages.Load(&packages.Config{Mode: packages.LoadSyntax | packages.NeedFiles, Dir: dir}, patterns...)
	if err != nil {
		return nil, err
	}
	if packages.PrintErrors(pkgs) > 0 {
		return nil, errors.New("the packages have errors")
	}
	return pkgs, nil
}

func report(w io.Writer, pkg *packages.Package, o options) {
	refs := references(pkg)
	cycle := largestCycle(refs)
	lengths := functionLengths(pkg)
	chains := longChains(pkg, o.maxDots)

	fmt.Fprintf(w, "%s\n", pkg.PkgPath)
	fmt.Fprintf(w, "  files in the largest cycle of references: %d of %d\n", len(cycle), len(refs))
	if len(cycle) > 0 {
		fmt.Fprintf(w, "    %s\n", strings.Join(cycle, " "))
	}
	for _, c := range bestCuts(refs, o.cuts) {
		fmt.Fprintf(w, "    %s\n", c)
	}
	fmt.Fprintf(w, "  functions, median / p90 / longest, lines: %s\n", lengths)
	fmt.Fprintf(w, "  selector chains of more than %d dots: %d\n", o.maxDots, len(chains))
	if o.dots {
		for _, c := range chains {
			fmt.Fprintf(w, "    %s\n", c)
		}
	}
	if o.refs {
		printReferences(w, refs, cycle)
	}
}

func printReferences(w io.Writer, refs graph, cycle []string) {
	fmt.Fprintf(w, "  references; files marked with * are in the largest cycle\n")
	mark := func(file string) string {
		if slices.Contains(cycle, file) {
			return file + "*"
		}
		return file
	}
	for _, from := range sortedKeys(refs) {
		fmt.Fprintf(w, "    %s\n", mark(from))
		for _, to := range sortedKeys(refs[from]) {
			names := sortedKeys(refs[from][to])
			fmt.Fprintf(w, "      %s: %s\n", mark(to), strings.Join(names, " "))
		}
	}
}
