//go:build !linux

package pair

import "errors"

func onProcessor(place Place, _ int, start func() error) error {
	if place != Anywhere {
		return errors.ErrUnsupported
	}
	return start()
}
