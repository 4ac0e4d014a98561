package main

import (
	"go/ast"
	"go/token"
	"go/types"
	"maps"
	"path/filepath"
	"slices"

	"golang.org/x/tools/go/packages"
)

// graph has, for each file, the files it refers to, and for each of these the
// names that it uses of them. Every file of the package is a key.
type graph map[string]map[string]map[string]bool

// references finds all uses, in one file of a package, of what another declares.
func references(pkg *packages.Package) graph {
	g := make(graph)
	for _, file := range pkg.Syntax {
		from := fileOf(pkg.Fset, file.Pos())
		g[from] = make(map[string]map[string]bool)
		ast.Inspect(file, func(n ast.Node) bool {
			id, ok := n.(*ast.Ident)
			if !ok {
				return true
			}
			obj := pkg.TypesInfo.Uses[id]
			if obj == nil || obj.Pkg() != pkg.Types {
				return true
			}
			if to := fileOf(pkg.Fset, obj.Pos()); to != from && to != "" {
				g.add(from, to, nameOf(obj))
			}
			return true
		})
	}
	return g
}

func (g graph) add(from, to, name string) {
	if g[from][to] == nil {
		g[from][to] = make(map[string]bool)
	}
	g[from][to][name] = true
}

// fileOf returns the name of the file that pos is in, without its folder.
func fileOf(fset *token.FileSet, pos token.Pos) string {
	if !pos.IsValid() {
		return ""
	}
	return filepath.Base(fset.PositionFor(pos, false).Filename)
}

// nameOf returns the name of what obj stands for, a method with that of its
// receiver.
func nameOf(obj types.Object) string {
	if fn, ok := obj.(*types.Func); ok {
		if recv := fn.Signature().Recv(); recv != nil {
			if named := namedType(recv.Type()); named != nil {
				return named.Obj().Name() + "." + fn.Name()
			}
		}
	}
	if v, ok := obj.(*types.Var); ok && v.IsField() {
		return "." + v.Name()
	}
	return obj.Name()
}

// namedType returns the named type that t is, or points to; nil for others.
func namedType(t types.Type) *types.Named {
	if p, ok := types.Unalias(t).(*types.Pointer); ok {
		t = p.Elem()
	}
	named, _ := types.Unalias(t).(*types.Named)
	return named
}

// largestCycle returns the files of the largest strongly connected component,
// sorted; none where no two files need each other.
func largestCycle(g graph) []string {
	t := tarjan{graph: g, index: make(map[string]int), low: make(map[string]int)}
	for _, file := range sortedKeys(g) {
		if t.index[file] == 0 {
			t.visit(file)
		}
	}
	slices.Sort(t.largest)
	return t.largest
}

// tarjan finds strongly connected components in one walk.
type tarjan struct {
	graph      graph
	index, low map[string]int // From 1, in the order of the walk.
	stack      []string       // Files whose component is not complete.
	largest    []string       // Of more than one file.
}

func (t *tarjan) visit(file string) {
	n := len(t.index) + 1
	t.index[file], t.low[file] = n, n
	t.stack = append(t.stack, file)
	for _, to := range sortedKeys(t.graph[file]) {
		if t.index[to] == 0 {
			t.visit(to)
			t.low[file] = min(t.low[file], t.low[to])
		} else if slices.Contains(t.stack, to) {
			t.low[file] = min(t.low[file], t.index[to])
		}
	}
	if t.low[file] != n {
		return
	}
	at := slices.Index(t.stack, file)
	component := t.stack[at:]
	t.stack = t.stack[:at]
	if len(component) > max(1, len(t.largest)) {
		t.largest = slices.Clone(component)
	}
}

func sortedKeys[V any](m map[string]V) []string {
	return slices.Sorted(maps.Keys(m))
}
