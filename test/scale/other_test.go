//go:build !linux

package scale

import (
	"fmt"
	"os"
	"testing"
)

func TestMain(*testing.M) {
	fmt.Println("SKIPPED: the test of a grid that scales needs Linux")
	os.Exit(0)
}
