package gridtest

import (
	"runtime"
	"sync"
)

// processors is how many there were before the first of the Worlds that need one alone.
var processors struct {
	mu     sync.Mutex // Protects following.
	worlds int
	before int
}

// oneProcessor lets the program run on one processor until it is released: on several, more of what
// happens is up to chance.
func oneProcessor() (release func()) {
	p := &processors
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.worlds++; p.worlds == 1 {
		p.before = runtime.GOMAXPROCS(1)
	}
	return func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		if p.worlds--; p.worlds == 0 {
			runtime.GOMAXPROCS(p.before)
		}
	}
}
