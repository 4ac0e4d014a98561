package gridgrpc

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// contentType is the key under which a codec other than that of protobuf is named, as in HTTP/2.
const (
	contentType       = "content-type"
	contentTypePrefix = "application/grpc+"
)

// reserved reports whether a key is gRPC's own. Such pairs of an application are dropped, as gRPC
// does.
func reserved(key string) bool {
	if strings.HasPrefix(key, ":") {
		return true
	}
	switch key {
	case contentType, "user-agent", "grpc-message-type", "grpc-encoding", "grpc-message", "grpc-status", "grpc-timeout", "te":
		return true
	}
	return false
}

// validate returns an error if gRPC would not send the metadata.
func validate(md metadata.MD) error {
	for key, values := range md {
		if err := validatePair(key, values); err != nil {
			return status.Error(codes.Internal, err.Error())
		}
	}
	return nil
}

func validatePair(key string, values []string) error {
	if key == "" {
		return fmt.Errorf("there is an empty key in the header")
	}
	if key[0] == ':' {
		return nil
	}
	if i := strings.IndexFunc(key, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < '0' || r > '9') && r != '.' && r != '-' && r != '_'
	}); i >= 0 {
		return fmt.Errorf("header key %q contains illegal characters not in [0-9a-z-_.]", key)
	}
	if strings.HasSuffix(key, "-bin") { // these may have any bytes
		return nil
	}
	for _, value := range values {
		if strings.IndexFunc(value, func(r rune) bool { return r < ' ' || r > '~' }) >= 0 {
			return fmt.Errorf("header key %q contains value with non-printable ASCII characters", key)
		}
	}
	return nil
}

// outgoing returns the metadata that a call with ctx carries: that of the context, that of
// credentials, and the name of the codec. It is nil for none.
func outgoing(ctx context.Context, o *callOptions, peer, method string) (metadata.MD, error) {
	md, _ := metadata.FromOutgoingContext(ctx) // a copy
	if err := validate(md); err != nil {
		return nil, err
	}
	maps.DeleteFunc(md, func(key string, values []string) bool { return reserved(key) || len(values) == 0 })
	subtype := o.codec.subtype()
	if o.credentials == nil && subtype == "" {
		return md, nil
	}
	if md == nil {
		md = make(metadata.MD)
	}
	if o.credentials != nil {
		if err := addCredentials(ctx, md, o.credentials, peer, method); err != nil {
			return nil, err
		}
	}
	if subtype != "" {
		md[contentType] = []string{contentTypePrefix + subtype}
	}
	return md, nil
}

// addCredentials adds what credentials say of a call to a service of a peer, as gRPC does.
func addCredentials(ctx context.Context, md metadata.MD, c credentials.PerRPCCredentials, peer, method string) error {
	if c.RequireTransportSecurity() && !strings.HasPrefix(peer, "https://") {
		return status.Errorf(codes.Unauthenticated, "gridgrpc: cannot send secure credentials to %s without TLS", peer)
	}
	service := method[:max(0, strings.LastIndex(method, "/"))]
	ctx = credentials.NewContextWithRequestInfo(ctx, credentials.RequestInfo{Method: method, AuthInfo: securityOf(peer)})
	pairs, err := c.GetRequestMetadata(ctx, strings.TrimSuffix(peer, ":443")+service)
	if err != nil {
		if st, ok := status.FromError(err); ok && !ofHandlers(st.Code()) {
			return err
		}
		return status.Errorf(codes.Internal, "gridgrpc: per-RPC credentials failed: %v", err)
	}
	for key, value := range pairs {
		key = strings.ToLower(key)
		if err := validatePair(key, []string{value}); err != nil {
			return status.Error(codes.Internal, err.Error())
		}
		md[key] = append(md[key], value)
	}
	return nil
}

// security is what credentials are told of a connection.
type security struct{ credentials.CommonAuthInfo }

// AuthType is part of credentials.AuthInfo.
func (security) AuthType() string { return "grid" }

func securityOf(peer string) security {
	level := credentials.NoSecurity
	if strings.HasPrefix(peer, "https://") {
		level = credentials.PrivacyAndIntegrity
	}
	return security{credentials.CommonAuthInfo{SecurityLevel: level}}
}

// ofHandlers reports whether only handlers may use a code, not what comes before them.
func ofHandlers(c codes.Code) bool {
	switch c {
	case codes.InvalidArgument, codes.NotFound, codes.AlreadyExists, codes.FailedPrecondition, codes.Aborted,
		codes.OutOfRange, codes.DataLoss:
		return true
	}
	return false
}

// join appends the values of more to those of md, which it may change, and be nil.
func join(md, more metadata.MD) metadata.MD {
	if md == nil {
		md = make(metadata.MD, len(more))
	}
	for key, values := range more {
		if key = strings.ToLower(key); !reserved(key) {
			md[key] = append(md[key], slices.Clone(values)...)
		}
	}
	return md
}
