package main

import "slices"

// has is what the library has that earlier states of it had not, by the files that need it.
var has []string

func hasToo(what string) bool { return slices.Contains(has, what) }
