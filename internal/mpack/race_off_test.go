//go:build !race

package mpack

const raceEnabled = false
