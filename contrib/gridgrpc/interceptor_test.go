package gridgrpc

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/grpc-ecosystem/go-grpc-middleware/v2/interceptors"
	"github.com/grpc-ecosystem/go-grpc-middleware/v2/interceptors/auth"
	"github.com/grpc-ecosystem/go-grpc-middleware/v2/interceptors/logging"
	"github.com/grpc-ecosystem/go-grpc-middleware/v2/interceptors/realip"
	"github.com/grpc-ecosystem/go-grpc-middleware/v2/interceptors/recovery"
	"github.com/grpc-ecosystem/go-grpc-middleware/v2/interceptors/retry"
	"github.com/grpc-ecosystem/go-grpc-middleware/v2/interceptors/selector"
	"github.com/grpc-ecosystem/go-grpc-middleware/v2/interceptors/timeout"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	testpb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// TestInterceptorsNest wants the first outermost, at both ends.
func TestInterceptorsNest(t *testing.T) {
	var mu sync.Mutex
	var got []string
	note := func(what string) {
		mu.Lock()
		defer mu.Unlock()
		got = append(got, what)
	}
	p := newPair(t)
	s, c := NewServer(p.server), NewClient(p.conn)
	for _, name := range []string{"1", "2", "3"} {
		s.UnaryInterceptors = append(s.UnaryInterceptors,
			func(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
				note("s" + name)
				if !strings.HasPrefix(info.FullMethod, "/grpc.testing.TestService/") {
					return nil, errors.New(info.FullMethod)
				}
				return next(ctx, req)
			})
		s.StreamInterceptors = append(s.StreamInterceptors,
			func(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, next grpc.StreamHandler) error {
				note("s" + name)
				if !strings.HasPrefix(info.FullMethod, "/grpc.testing.TestService/") {
					return errors.New(info.FullMethod)
				}
				return next(srv, ss)
			})
		c.UnaryInterceptors = append(c.UnaryInterceptors,
			func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, next grpc.UnaryInvoker, opts ...grpc.CallOption) error {
				note("c" + name)
				if !strings.HasSuffix(cc.Target(), p.conn.Remote) {
					return errors.New(cc.Target())
				}
				return next(ctx, method, req, reply, cc, opts...)
			})
		c.StreamInterceptors = append(c.StreamInterceptors,
			func(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, next grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
				note("c" + name)
				if !strings.HasSuffix(cc.Target(), p.conn.Remote) {
					return nil, errors.New(cc.Target())
				}
				return next(ctx, desc, cc, method, opts...)
			})
	}
	testpb.RegisterTestServiceServer(s, returning(func(context.Context) error { return nil }))
	client := testpb.NewTestServiceClient(c)
	for kind, call := range calls {
		got = nil
		if err := call(t.Context(), client); err != nil {
			t.Errorf("%s: %v", kind, err)
		}
		if want := []string{"c1", "c2", "c3", "s1", "s2", "s3"}; !slices.Equal(got, want) {
			t.Errorf("%s: got %v, want %v", kind, got, want)
		}
	}
}

// TestMiddleware runs interceptors of go-grpc-middleware, which need of gRPC what a grid has to give:
// metadata, peers, statuses, contexts, streams that are wrapped, and options of their own.
func TestMiddleware(t *testing.T) {
	var lines atomic.Int64
	logger := logging.LoggerFunc(func(_ context.Context, _ logging.Level, _ string, fields ...any) {
		if slog.Group("", fields...).Value.Kind() == slog.KindGroup && slices.Contains(fields, any("grpc.testing.TestService")) {
			lines.Add(1)
		}
	})
	check := func(ctx context.Context) (context.Context, error) {
		token, err := auth.AuthFromMD(ctx, "bearer")
		if err == nil && token != "secret" {
			err = status.Error(codes.Unauthenticated, "wrong token")
		}
		return ctx, err
	}
	everything := selector.MatchFunc(func(context.Context, interceptors.CallMeta) bool { return true })
	p := newPair(t)
	s, c := NewServer(p.server), NewClient(p.conn)
	s.UnaryInterceptors = []grpc.UnaryServerInterceptor{
		logging.UnaryServerInterceptor(logger),
		realip.UnaryServerInterceptorOpts(),
		selector.UnaryServerInterceptor(auth.UnaryServerInterceptor(check), everything),
		recovery.UnaryServerInterceptor(),
	}
	s.StreamInterceptors = []grpc.StreamServerInterceptor{
		logging.StreamServerInterceptor(logger),
		realip.StreamServerInterceptorOpts(),
		selector.StreamServerInterceptor(auth.StreamServerInterceptor(check), everything),
		recovery.StreamServerInterceptor(),
	}
	retries := []retry.CallOption{retry.WithMax(5), retry.WithBackoff(func(context.Context, uint) time.Duration { return 0 })}
	c.UnaryInterceptors = []grpc.UnaryClientInterceptor{
		logging.UnaryClientInterceptor(logger),
		timeout.UnaryClientInterceptor(time.Minute),
		retry.UnaryClientInterceptor(retries...),
	}
	c.StreamInterceptors = []grpc.StreamClientInterceptor{
		logging.StreamClientInterceptor(logger),
	}

	var failures atomic.Int64 // before it works
	testpb.RegisterTestServiceServer(s, returning(func(ctx context.Context) error {
		if md, _ := metadata.FromIncomingContext(ctx); md.Get("panic") != nil {
			panic("as asked")
		}
		if failures.Add(-1) >= 0 {
			return status.Error(codes.Unavailable, "not yet")
		}
		return nil
	}))
	client := testpb.NewTestServiceClient(c)
	ctx := metadata.AppendToOutgoingContext(t.Context(), "authorization", "bearer secret")
	for kind, call := range calls {
		before := lines.Load()
		if err := call(ctx, client); err != nil {
			t.Errorf("%s: %v", kind, err)
		}
		if lines.Load() == before {
			t.Errorf("%s: nothing was logged", kind)
		}
		if err := call(t.Context(), client); status.Code(err) != codes.Unauthenticated {
			t.Errorf("%s: without a token: %v", kind, err)
		}
		err := call(metadata.AppendToOutgoingContext(ctx, "panic", "yes"), client)
		if status.Code(err) != codes.Unknown && status.Code(err) != codes.Internal || !strings.Contains(err.Error(), "as asked") {
			t.Errorf("%s: after a panic: %v", kind, err)
		}
	}

	failures.Store(3)
	if err := calls["unary"](ctx, client); err != nil {
		t.Errorf("after retries: %v", err)
	}
	c.StreamInterceptors = append(c.StreamInterceptors, retry.StreamClientInterceptor(retries...))
	failures.Store(3)
	if err := calls["output"](ctx, client); err != nil {
		t.Errorf("after retries: %v", err)
	}
	failures.Store(3)
	if err := calls["output"](ctx, client, retry.Disable()); status.Code(err) != codes.Unavailable {
		t.Errorf("without retries: %v", err)
	}
}
