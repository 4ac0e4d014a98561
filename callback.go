package grid

import (
	"errors"
	"fmt"
	"time"
)

// endedBy is how a call of the application's code ended.
type endedBy uint8

const (
	exited   endedBy = iota // by runtime.Goexit, which t.FailNow calls: the goroutine is about to end
	panicked                // with a panic, which has been recovered
	returned
)

// errExitedGoroutine is the error of application code that ended its goroutine instead of
// returning.
var errExitedGoroutine = errors.New("ended its goroutine without a result")

// misbehavior is the error of application code that did not return.
type misbehavior struct{ text string }

func (m *misbehavior) Error() string { return m.text }

// guarded calls f, which is application code, and then end, whatever f does. end learns how f
// ended, and the panic if any. After runtime.Goexit, the goroutine ends as soon as end returns, so
// end must see to whatever the goroutine still had to do.
func guarded(f func(), end func(how endedBy, panicValue any)) {
	how := exited
	defer func() {
		var value any
		if how == exited {
			if value = recover(); value != nil { // never nil after a panic
				how = panicked
			}
		}
		end(how, value)
	}()
	f()
	how = returned
}

// attempt calls f on its own goroutine and passes done its result, or an error if f panics or ends
// the goroutine.
func attempt[T any](f func() (T, error), done func(T, error)) {
	go func() {
		var v T
		var err error
		guarded(func() { v, err = f() }, func(how endedBy, value any) {
			switch how {
			case panicked:
				err = &misbehavior{fmt.Sprintf("panic: %v", value)}
			case exited:
				err = &misbehavior{errExitedGoroutine.Error()}
			}
			done(v, err)
		})
	}()
}

// safely calls f, which may be application code, and turns a panic into an error.
func safely[A, B any](f func(A) (B, error), a A) (b B, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("panic: %v", r)
		}
	}()
	return f(a)
}

// callbackGrace is how long application code called by a dial may take to notice that its context
// has ended.
const callbackGrace = time.Second

// errExited is the error of a handler that ended its goroutine.
var errExited = &Error{Code: Internal, Text: "handler exited without a result", Remote: true}
