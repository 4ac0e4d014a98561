//go:build race

package bytepool

const raceEnabled = true
