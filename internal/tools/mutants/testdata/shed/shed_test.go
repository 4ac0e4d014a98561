package shed

import "testing"

func TestOpen(t *testing.T) {
	if !Open("key") || Open("nail") {
		t.Error("open to whom?")
	}
}
