//go:build !linux

package metrics

import (
	"fmt"
	"os"
	"testing"
)

func TestMain(*testing.M) {
	fmt.Println("SKIPPED: the test of metrics with Prometheus needs Linux")
	os.Exit(0)
}
