package main

import (
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
)

// layers are the rows of a table of files, from top to bottom.
type layers struct {
	names []string
	row   map[string]int // Of each file.
}

var fileName = regexp.MustCompile("`([a-z0-9_]+\\.go)`")

// readLayers reads the first table in a Markdown document whose heading starts with "| Layer".
func readLayers(document string) (*layers, error) {
	text, err := os.ReadFile(document)
	if err != nil {
		return nil, err
	}
	_, table, ok := strings.Cut(string(text), "\n| Layer ")
	if !ok {
		return nil, fmt.Errorf("%s has no table that starts with Layer", document)
	}
	l := &layers{row: make(map[string]int)}
	for i, line := range strings.Split(table, "\n") {
		if i < 2 {
			continue // The rest of the heading, and the line below.
		}
		if !strings.HasPrefix(line, "|") {
			break
		}
		cells := strings.Split(line, "|")
		l.names = append(l.names, strings.TrimSpace(cells[1]))
		for _, m := range fileName.FindAllStringSubmatch(cells[2], -1) {
			if _, twice := l.row[m[1]]; twice {
				return nil, fmt.Errorf("%s: %s is there twice", document, m[1])
			}
			l.row[m[1]] = len(l.names) - 1
		}
	}
	return l, nil
}

// check says which files are missing in the table, which in the package, and which refer to a row
// above their own. Files for other systems than this one, elsewhere, are not looked into.
func (l *layers) check(g graph, elsewhere []string) (faults []string) {
	for _, file := range sortedKeys(g) {
		row, ok := l.row[file]
		if !ok {
			faults = append(faults, file+" is in no layer")
			continue
		}
		for _, to := range sortedKeys(g[file]) {
			if above, ok := l.row[to]; ok && above < row {
				faults = append(faults, fmt.Sprintf("%s (%s) refers to %s (%s), which is above it: %s",
					file, l.names[row], to, l.names[above], strings.Join(sortedKeys(g[file][to]), " ")))
			}
		}
	}
	for _, file := range sortedKeys(l.row) {
		if _, ok := g[file]; !ok && !slices.Contains(elsewhere, file) {
			faults = append(faults, file+" is in the table and not in the package")
		}
	}
	return faults
}
