package grid

import (
	"errors"
	"fmt"
	"maps"
	"sync"
	"sync/atomic"
	"unicode"
	"unicode/utf8"
)

const (
	// maxNameSize is the maximum length of the name of a method, in bytes.
	maxNameSize = 255
	// maxMethods is how many methods that are called from here have numbers, and are hashed once. A
	// program that makes up names as it goes takes no more memory with each of them.
	maxMethods = 1024
)

// methods are the routes to what this process calls by name. They are like names of handler IDs:
// the same for all nodes in the process. Their zero value is ready.
type methods struct {
	byName atomic.Pointer[map[string]*route] // never changed: adding makes a new one
	mu     sync.Mutex                        // Protects following, and additions.
	names  []string                          // by number, from firstMethod on
}

var calledMethods methods

// to returns the route to a method. It fails with ErrUnknownHandler for what cannot be a name.
func (m *methods) to(name string) (*route, error) {
	if known := m.byName.Load(); known != nil {
		if r := (*known)[name]; r != nil {
			return r, nil
		}
	}
	if err := checkName(name); err != nil {
		return nil, fmt.Errorf("grid: call of %.60q: %w: %w", name, ErrUnknownHandler, err)
	}
	r := newRoute(HandlerNamed, name, nil)
	r.number = otherMethods
	m.mu.Lock()
	defer m.mu.Unlock()
	all := make(map[string]*route)
	if known := m.byName.Load(); known != nil {
		if r := (*known)[name]; r != nil {
			return r, nil
		}
		if len(*known) == maxMethods {
			return r, nil
		}
		maps.Copy(all, *known)
	}
	r.number = firstMethod + len(m.names)
	m.names = append(m.names, name)
	all[name] = r
	m.byName.Store(&all)
	return r, nil
}

// name returns the name of the method with a number that is at least otherMethods.
func (m *methods) name(number int) string {
	if number == otherMethods {
		return "other methods"
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.names[number-firstMethod]
}

// checkName returns an error that says what is wrong with the name of a method.
func checkName(name string) error {
	switch {
	case name == "":
		return errors.New("the name is empty")
	case len(name) > maxNameSize:
		return fmt.Errorf("the name has %d bytes, at most %d are allowed", len(name), maxNameSize)
	case !utf8.ValidString(name):
		return errors.New("the name is not UTF-8")
	}
	for _, r := range name {
		if r == ' ' || !unicode.IsPrint(r) {
			return fmt.Errorf("%q cannot be in a name", r)
		}
	}
	return nil
}
