package main

import (
	"net/http"
	"testing"
)

func TestSecretsAreCompared(t *testing.T) {
	const secret = "6f1c0ffee6f1c0ffee6f1c0ffee"
	n := new(member)
	check := n.checkSecret(secret)
	refused := int64(0)
	for _, test := range []struct {
		header string
		ok     bool
	}{
		{"Bearer " + secret, true},
		{"Bearer " + secret[:10], false},
		{"Bearer " + secret + "0", false},
		{"Bearer 6F1C0FFEE6F1C0FFEE6F1C0FFEE", false},
		{"Bearer  " + secret, false},
		{"Bearer ", false},
		{"", false},
	} {
		err := check(&http.Request{Header: http.Header{"Authorization": {test.header}}})
		if (err == nil) != test.ok {
			t.Errorf("%q: got %v", test.header, err)
		}
		if err != nil {
			refused++
		}
	}
	if got := n.refused.Load(); got != refused {
		t.Errorf("%d are counted as refused, want %d", got, refused)
	}
	if n.checkSecret("")(&http.Request{}) != nil {
		t.Error("without a secret somebody is refused")
	}
}
