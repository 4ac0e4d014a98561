//go:build race

package main

import "os"

func init() {
	buildFlags = append(buildFlags, "-race")
	os.Setenv("GORACE", "atexit_sleep_ms=0") // the default keeps each process for a second
}
