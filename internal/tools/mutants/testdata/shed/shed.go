// Package shed has a door for mutants to break.
package shed

import "strings"

// Open opens the door.
func Open(key string) bool { return strings.HasPrefix(key, "k") }
