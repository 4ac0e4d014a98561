package tools_test

import (
	"testing"

	"shed/tools"
)

func TestTake(t *testing.T) {
	if !tools.Take() {
		t.Error("locked")
	}
}
