package gridgrpc

import (
	"context"
	"errors"
	"strings"

	"github.com/gridmesh/grid"
	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// A status travels as the code and the text of a grid.Error. If it has details, no text, or a code that
// grid has not, all of it is also in the details of the error, as a google.rpc.Status.

// errorOf returns what a handler's error is to grid; nil for nil.
func errorOf(err error) error {
	if err == nil {
		return nil
	}
	st, ok := status.FromError(err)
	if !ok {
		st = status.FromContextError(err)
	}
	if st.Code() == codes.OK { // an error that says it is none
		return nil
	}
	e := &grid.Error{Code: grid.Code(st.Code()), Text: strings.ToValidUTF8(st.Message(), "\uFFFD")}
	own := st.Code() > codes.Unauthenticated
	if own {
		e.Code = grid.Code(codes.Unknown)
	}
	if whole := st.Proto(); own || e.Text == "" || len(whole.GetDetails()) > 0 {
		whole.Message = e.Text
		if e.Details, err = proto.Marshal(whole); err != nil {
			return &grid.Error{Code: grid.Code(codes.Internal), Text: "gridgrpc: a status cannot be encoded: " + err.Error()}
		}
	}
	return e
}

// statusOf returns an error of a call as a status; nil for nil. ctx is that of the call.
func statusOf(ctx context.Context, err error) error {
	if err == nil {
		return nil
	}
	e, ok := errors.AsType[*grid.Error](err)
	if ok && e.Remote {
		return remoteStatus(e)
	}
	ended := ctx.Err()
	isCause := ended != nil && errors.Is(err, context.Cause(ctx)) // which may be the status of another call
	if st, ok := status.FromError(err); ok && !isCause {
		return st.Err()
	}
	if ended != nil {
		return status.Error(status.FromContextError(ended).Code(), err.Error())
	}
	return status.Error(codes.Code(grid.CodeOf(err)), err.Error())
}

// remoteStatus returns the status that a handler has returned.
func remoteStatus(e *grid.Error) error {
	if len(e.Details) > 0 {
		var st spb.Status
		if err := proto.Unmarshal(e.Details, &st); err == nil && st.GetCode() != int32(codes.OK) {
			return status.ErrorProto(&st)
		}
	}
	return status.Error(codes.Code(e.Code), e.Text)
}
