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

// errExitedGoroutine is the error of application's code that ended its goroutine in place of
// returning.
var errExitedGoroutine = errors.New("ended its goroutine without a result")

// misbehavior is the error of application's code that did not return.
type misbehavior struct{ text string }

func (m *misbehavior) Error() string { return m.text }

// guarded calls f, which is the application's code, and end whatever f does: it is told how f
// ended, and with which panic. After runtime.Goexit the goroutine ends as soon as end has returned,
// which sees to what was this goroutine's to do.
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

// attempt calls f on a goroutine of its own and gives done its result, or an error where f panics
// or ends the goroutine.
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

// safely calls f, which may be the application's code, and makes an error of its panic.
func safely[A, B any](f func(A) (B, error), a A) (b B, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("panic: %v", r)
		}
	}()
	return f(a)
}

// callbackGrace is how long the application's code of a dial may take to see that its context has
// ended.
const callbackGrace = time.Second

// errExited is the error of a handler that ended its goroutine.
var errExited = RemoteErr("handler exited without a result")
