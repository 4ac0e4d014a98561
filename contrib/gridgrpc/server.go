package gridgrpc

import (
	"context"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"sync"

	"github.com/gridmesh/grid"
	"google.golang.org/grpc"
)

var _ grpc.ServiceRegistrar = (*Server)(nil)

// Server registers services with a Manager. It is a grpc.ServiceRegistrar, for what
// protoc-gen-go-grpc has generated, and has what package reflection needs. Its methods may be called
// by any number of goroutines.
//
// The fields may be set before the first service is registered, and not after.
type Server struct {
	// UnaryInterceptors wrap each handler of unary calls, and StreamInterceptors each handler of
	// streams, the first of them outermost.
	UnaryInterceptors  []grpc.UnaryServerInterceptor
	StreamInterceptors []grpc.StreamServerInterceptor

	m *grid.Manager

	mu       sync.Mutex // Protects following.
	services map[string]grpc.ServiceInfo
}

// NewServer returns a Server for the handlers of a Manager. Services may be registered at any time,
// also while the Manager is connected.
func NewServer(m *grid.Manager) *Server {
	return &Server{m: m, services: make(map[string]grpc.ServiceInfo)}
}

// RegisterService registers the methods of a service under their names, such as "kv.KV/Get".
// Generated code calls it. Like http.Handle, it panics if it cannot: impl does not implement the
// service, or one of its methods is registered already.
func (s *Server) RegisterService(desc *grpc.ServiceDesc, impl any) {
	if impl != nil {
		if want, got := reflect.TypeOf(desc.HandlerType).Elem(), reflect.TypeOf(impl); !got.Implements(want) {
			panic(fmt.Sprintf("gridgrpc: service %s: %v does not implement %v", desc.ServiceName, got, want))
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.services[desc.ServiceName]; ok {
		panic(fmt.Sprintf("gridgrpc: service %s is registered already", desc.ServiceName))
	}
	info := grpc.ServiceInfo{Metadata: desc.Metadata}
	for _, d := range desc.Methods {
		m := newMethod(s, desc, d.MethodName, impl)
		if err := s.m.Handle(m.name, m.unary(d.Handler)); err != nil {
			panic(fmt.Sprintf("gridgrpc: service %s: %v", desc.ServiceName, err))
		}
		info.Methods = append(info.Methods, grpc.MethodInfo{Name: d.MethodName})
	}
	for _, d := range desc.Streams {
		m := newMethod(s, desc, d.StreamName, impl)
		if err := s.m.HandleStream(m.name, m.stream(d)); err != nil {
			panic(fmt.Sprintf("gridgrpc: service %s: %v", desc.ServiceName, err))
		}
		info.Methods = append(info.Methods, grpc.MethodInfo{
			Name: d.StreamName, IsClientStream: d.ClientStreams, IsServerStream: d.ServerStreams,
		})
	}
	s.services[desc.ServiceName] = info
}

// GetServiceInfo returns what is registered, by the names of services. Package reflection calls it.
func (s *Server) GetServiceInfo() map[string]grpc.ServiceInfo {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.services)
}

// method is a method of a service.
type method struct {
	name string // in grid
	path string // in gRPC: with a slash before it
	impl any
	m    *grid.Manager

	unaryInterceptor  grpc.UnaryServerInterceptor // all of them; nil for none
	streamInterceptor grpc.StreamServerInterceptor
}

func newMethod(s *Server, desc *grpc.ServiceDesc, name string, impl any) *method {
	name = desc.ServiceName + "/" + name
	return &method{
		name:              name,
		path:              "/" + name,
		impl:              impl,
		m:                 s.m,
		unaryInterceptor:  chainUnary(s.UnaryInterceptors),
		streamInterceptor: chainStream(s.StreamInterceptors),
	}
}

// unary returns a handler of grid for a unary method.
func (m *method) unary(handle grpc.MethodHandler) func(context.Context, []byte) ([]byte, error) {
	return func(ctx context.Context, request []byte) ([]byte, error) {
		call := &serverCall{request: request}
		call.begin(ctx, m)
		reply, err := handle(m.impl, &call.context, call.decode, m.unaryInterceptor)
		var answer []byte
		if err == nil {
			answer, err = call.codec.marshal(reply)
		}
		return answer, errorOf(err)
	}
}

// stream returns a handler of grid for a method that streams.
func (m *method) stream(desc grpc.StreamDesc) func(context.Context, *grid.RawStream) error {
	info := &grpc.StreamServerInfo{FullMethod: m.path, IsClientStream: desc.ClientStreams, IsServerStream: desc.ServerStreams}
	return func(ctx context.Context, raw *grid.RawStream) error {
		s := newServerStream(ctx, m, raw, desc.ClientStreams)
		if m.streamInterceptor == nil {
			return errorOf(desc.Handler(m.impl, s))
		}
		return errorOf(m.streamInterceptor(m.impl, s, info, desc.Handler))
	}
}

// chainUnary makes one interceptor of many; nil of none.
func chainUnary(all []grpc.UnaryServerInterceptor) grpc.UnaryServerInterceptor {
	if len(all) < 2 {
		return slices.Concat(all, []grpc.UnaryServerInterceptor{nil})[0]
	}
	rest := chainUnary(all[1:])
	return func(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
		return all[0](ctx, req, info, func(ctx context.Context, req any) (any, error) { return rest(ctx, req, info, handler) })
	}
}

// chainStream makes one interceptor of many; nil of none.
func chainStream(all []grpc.StreamServerInterceptor) grpc.StreamServerInterceptor {
	if len(all) < 2 {
		return slices.Concat(all, []grpc.StreamServerInterceptor{nil})[0]
	}
	rest := chainStream(all[1:])
	return func(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
		return all[0](srv, ss, info, func(srv any, ss grpc.ServerStream) error { return rest(srv, ss, info, handler) })
	}
}
