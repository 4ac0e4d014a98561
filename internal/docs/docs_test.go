// Package docs holds the tests of what the repository says: that the documents compile, link, name
// and list what there is, and that the exported API and what comes with it into a program are as
// promised.
package docs

import (
	"log"
	"os"
	"testing"
)

// Files are named from the root of the repository.
func TestMain(m *testing.M) {
	if err := os.Chdir("../.."); err != nil {
		log.Fatal(err)
	}
	os.Exit(m.Run())
}
