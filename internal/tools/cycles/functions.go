package main

import (
	"cmp"
	"fmt"
	"go/ast"
	"slices"

	"golang.org/x/tools/go/packages"
)

// lengths are those of functions and methods, in lines from func to the closing
// brace, ascending.
type lengths []function

type function struct {
	name  string
	file  string
	lines int
}

func functionLengths(pkg *packages.Package) lengths {
	var l lengths
	for _, file := range pkg.Syntax {
		if ast.IsGenerated(file) {
			continue
		}
		for _, decl := range file.Decls {
			fn, ok := decl.(*ast.FuncDecl)
			if !ok || fn.Body == nil {
				continue
			}
			first := pkg.Fset.PositionFor(fn.Pos(), false)
			last := pkg.Fset.PositionFor(fn.End(), false)
			l = append(l, function{fn.Name.Name, fileOf(pkg.Fset, fn.Pos()), last.Line - first.Line + 1})
		}
	}
	slices.SortFunc(l, func(a, b function) int { return cmp.Compare(a.lines, b.lines) })
	return l
}

func (l lengths) String() string {
	if len(l) == 0 {
		return "none"
	}
	last := l[len(l)-1]
	return fmt.Sprintf("%d / %d / %d of %d (the longest: %s in %s)",
		l.percentile(50), l.percentile(90), last.lines, len(l), last.name, last.file)
}

func (l lengths) percentile(p int) int {
	return l[(len(l)-1)*p/100].lines
}
