package griddrpc

import (
	"context"
	"encoding/binary"
	"errors"
	"strings"

	"github.com/gridmesh/grid"
	"storj.io/drpc/drpcerr"
)

// drpc's codes are any numbers, and 0 for none. Those that are codes of gRPC are codes of grid; the others
// are in the details of a grid.Error, and so is 2, which grid.Unknown has, the code of errors without one.

// remoteError returns what a handler's error is to grid; nil for nil.
func remoteError(err error) error {
	if err == nil {
		return nil
	}
	e := &grid.Error{Code: grid.Unknown, Text: strings.ToValidUTF8(err.Error(), "\uFFFD")}
	code := drpcerr.Code(err)
	if own, ok := errors.AsType[*grid.Error](err); ok && code == 0 && own.Code != grid.Unknown {
		code = uint64(own.Code)
	}
	if code <= uint64(grid.Unauthenticated) && code != uint64(grid.Unknown) && code != 0 {
		e.Code = grid.Code(code)
	} else if code != 0 {
		e.Details = binary.AppendUvarint(nil, code)
	}
	return e
}

// errorOf returns an error of a call as its caller expects it. ctx is that of the call.
func errorOf(ctx context.Context, err error) error {
	e, ok := errors.AsType[*grid.Error](err)
	switch {
	case ok && e.Remote:
		return &handlerError{e}
	case ctx.Err() != nil:
		return ctx.Err()
	}
	return err
}

// handlerError is an error of a handler, with its text and nothing more, as with drpc. A *grid.Error is
// in it.
type handlerError struct{ err *grid.Error }

func (e *handlerError) Error() string { return e.err.Text }
func (e *handlerError) Unwrap() error { return e.err }

// Code returns the code of the error, for drpcerr.Code.
func (e *handlerError) Code() uint64 {
	if code, n := binary.Uvarint(e.err.Details); n > 0 && n == len(e.err.Details) {
		return code
	}
	if e.err.Code == grid.Unknown {
		return 0
	}
	return uint64(e.err.Code)
}
