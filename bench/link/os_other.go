//go:build !linux

package link

import "errors"

func onThread(f func() error) error { return f() }

func setBuffers(uintptr, int) error { return errors.ErrUnsupported }

func openKernel(Spec) (Link, error) { return nil, errors.ErrUnsupported }

func openCable(Spec) (Link, error) { return nil, errors.ErrUnsupported }
