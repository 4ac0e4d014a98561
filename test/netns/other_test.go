//go:build !linux

package netns

import (
	"fmt"
	"os"
	"testing"
)

func TestMain(*testing.M) {
	fmt.Println("SKIPPED: the tests in network namespaces need Linux")
	os.Exit(0)
}
