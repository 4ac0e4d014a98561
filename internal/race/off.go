//go:build !race

// Package race tells tests whether the race detector is on, which makes programs slow and large.
package race

// Enabled reports whether the race detector is on.
const Enabled = false
