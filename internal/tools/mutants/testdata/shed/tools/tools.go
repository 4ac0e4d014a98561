// Package tools is behind the door.
package tools

import "shed"

// Take takes a tool.
func Take() bool { return shed.Open("key") }
