package grid

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"
)

// maxStuckDials is how many dials to one peer may be stuck in the application's code before no more
// are started.
const maxStuckDials = 4

var errStuckDials = errors.New("AddAuth, Dialer, GetTLSConfig or a TLS callback has not returned from earlier dials")

// inTime runs f, which calls the application's code, on its own goroutine, and waits for it until
// callbackGrace after ctx has ended. A later result goes to late. stuck counts the calls of f that
// run.
func inTime[T any](ctx context.Context, stuck *atomic.Int32, f func() (T, error), late func(T)) (T, error) {
	type result struct {
		v   T
		err error
	}
	var none T
	if stuck.Load() >= maxStuckDials {
		return none, errStuckDials
	}
	stuck.Add(1)
	results := make(chan result, 1)
	var claimed atomic.Bool // by whichever is first: f with its result, or the caller giving up
	attempt(f, func(v T, err error) {
		stuck.Add(-1)
		switch {
		case claimed.CompareAndSwap(false, true):
			results <- result{v, err}
		case err == nil:
			late(v)
		}
	})
	select {
	case r := <-results:
		return r.v, r.err
	case <-ctx.Done():
	}
	patience := time.NewTimer(callbackGrace)
	defer patience.Stop()
	select {
	case r := <-results:
		return r.v, r.err
	case <-patience.C:
	}
	if claimed.CompareAndSwap(false, true) {
		return none, errNoReturn
	}
	r := <-results
	return r.v, r.err
}

// errNoReturn ends a dial that is stuck in the application's code.
var errNoReturn = errors.New("has not returned in time")

// callbackError adds the name of what was running, if that did not return by itself.
func callbackError(name any, err error) error {
	var misbehaved *misbehavior
	if err == errNoReturn || errors.As(err, &misbehaved) {
		return fmt.Errorf("%v %w", name, err)
	}
	return err
}

// token asks the application for the token to show. It comes first: the time it takes must not come
// off the peer's.
func (d *dialer) token(ctx context.Context, c *Connection) (string, error) {
	name, ask := "AddAuthContext", d.AddAuthContext
	if d.AddAuth != nil {
		name, ask = "AddAuth", func(context.Context) (string, error) { return d.AddAuth(""), nil } //nolint:unparam // has to be like AddAuthContext
	}
	if ask == nil {
		return "", nil
	}
	ctx, cancel := context.WithTimeout(ctx, unhurried(d.Limits.DialTimeout))
	defer cancel()
	token, err := inTime(ctx, &c.stuckDials, func() (string, error) {
		token, err := ask(ctx)
		if err != nil {
			return "", fmt.Errorf("%s: %w", name, err) // also calls err.Error here
		}
		return token, nil
	}, func(string) {})
	if err != nil {
		return "", fmt.Errorf("dial %s: %w", c.Remote, callbackError(name, err))
	}
	return token, nil
}

// hasToken reports whether there is a token to show, even an empty one.
func (d *dialer) hasToken() bool { return d.AddAuth != nil || d.AddAuthContext != nil }
