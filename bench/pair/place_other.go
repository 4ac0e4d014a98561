//go:build !linux

package pair

import "errors"

// AblePlaces returns why processes cannot be Apart here, or nil.
func AblePlaces() error { return errors.ErrUnsupported }

func onProcessor(place Place, _ int, start func() error) error {
	if place != Anywhere {
		return errors.ErrUnsupported
	}
	return start()
}
