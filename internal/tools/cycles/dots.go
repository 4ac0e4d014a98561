package main

import (
	"fmt"
	"go/ast"
	"go/types"
	"path/filepath"

	"golang.org/x/tools/go/packages"
)

// longChains lists the selector chains that reach through more than limit dots
// into the fields and methods of other types, as "file:line: chain", in the order
// of the files.
//
// The dot behind a package's name does not count, nor does one into a struct
// without a name, which only groups fields of the type it stands in.
func longChains(pkg *packages.Package, limit int) []string {
	var found []string
	for _, file := range pkg.Syntax {
		if ast.IsGenerated(file) {
			continue
		}
		var visit func(n ast.Node) bool
		visit = func(n ast.Node) bool {
			sel, ok := n.(*ast.SelectorExpr)
			if !ok {
				return true
			}
			if dots(pkg.TypesInfo, sel) > limit {
				at := pkg.Fset.PositionFor(sel.Pos(), false)
				found = append(found, fmt.Sprintf("%s:%d: %s", filepath.Base(at.Filename), at.Line, types.ExprString(sel)))
			}
			ast.Inspect(root(sel), visit) // The shorter chains in it have been counted with it.
			return false
		}
		ast.Inspect(file, visit)
	}
	return found
}

// dots counts how often a chain goes from a value into one of another named type.
func dots(info *types.Info, sel *ast.SelectorExpr) int {
	n := 0
	for {
		if s := info.Selections[sel]; s != nil && namedType(s.Recv()) != nil {
			n++
		}
		inner, ok := ast.Unparen(sel.X).(*ast.SelectorExpr)
		if !ok {
			return n
		}
		sel = inner
	}
}

// root returns what the chain starts with.
func root(sel *ast.SelectorExpr) ast.Expr {
	for {
		x := ast.Unparen(sel.X)
		inner, ok := x.(*ast.SelectorExpr)
		if !ok {
			return x
		}
		sel = inner
	}
}
