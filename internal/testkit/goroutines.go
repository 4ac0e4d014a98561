package testkit

import (
	"runtime"
	"strings"
)

// Goroutines are the stacks of the library's goroutines, those of tests and their servers aside.
func Goroutines() (own []string) {
	for _, stack := range stacks() {
		if strings.Contains(stack, "gridmesh/grid") && !strings.Contains(stack, "testing.tRunner(") &&
			!strings.Contains(stack, "testkit.Serve") {
			own = append(own, stack)
		}
	}
	return own
}

// BubbleGoroutines are the stacks of the goroutines of the caller's bubble of testing/synctest, the
// caller's first; none outside of a bubble.
func BubbleGoroutines() (own []string) {
	all := stacks()
	bubble := bubbleOf(all[0])
	if bubble == "" {
		return nil
	}
	for _, stack := range all {
		_, frames, _ := strings.Cut(stack, "\n")
		if strings.HasPrefix(frames, "internal/synctest.Run(") || strings.HasPrefix(frames, "testing/synctest.testingSynctestTest(") {
			continue // the bubble's own
		}
		if bubbleOf(stack) == bubble {
			own = append(own, stack)
		}
	}
	return own
}

// bubbleOf returns the number of a goroutine's bubble; empty for none.
func bubbleOf(stack string) string {
	head, _, _ := strings.Cut(stack, "\n")
	_, bubble, _ := strings.Cut(head, "synctest bubble ")
	if end := strings.IndexAny(bubble, ",]"); end >= 0 {
		return bubble[:end]
	}
	return ""
}

// stacks are those of all goroutines, the caller's first.
func stacks() []string {
	buf := make([]byte, 1<<20)
	for {
		n := runtime.Stack(buf, true)
		if n < len(buf) {
			return strings.Split(string(buf[:n]), "\n\n")
		}
		buf = make([]byte, 2*len(buf))
	}
}
