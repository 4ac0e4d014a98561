package gridgrpc

import (
	"fmt"
	"math"
	"slices"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
)

// callOptions are the options of one call.
type callOptions struct {
	all         []grpc.CallOption
	codec       codec
	credentials credentials.PerRPCCredentials
	maxReceive  int  // bytes of a message
	maxSend     int  // bytes of a message
	wait        bool // for the connection
	answers     bool // metadata of the answer is wanted
	onFinish    bool // somebody wants to know the end
}

// newCallOptions refuses what a grid does not have. Options that are none of gRPC's can only be those
// of interceptors, which wrap grpc.EmptyCallOption; they mean nothing to gRPC either.
func newCallOptions(all []grpc.CallOption) (callOptions, error) {
	o := callOptions{all: all, maxReceive: math.MaxInt, maxSend: math.MaxInt}
	var subtype string
	var forced encoding.CodecV2
	for _, option := range all {
		switch option := option.(type) {
		case grpc.HeaderCallOption, grpc.TrailerCallOption:
			o.answers = true
		case grpc.OnFinishCallOption:
			o.onFinish = true
		case grpc.FailFastCallOption:
			o.wait = !option.FailFast
		case grpc.MaxRecvMsgSizeCallOption:
			o.maxReceive = option.MaxRecvMsgSize
		case grpc.MaxSendMsgSizeCallOption:
			o.maxSend = option.MaxSendMsgSize
		case grpc.PerRPCCredsCallOption:
			o.credentials = option.Creds
		case grpc.ContentSubtypeCallOption:
			subtype = strings.ToLower(option.ContentSubtype)
		case grpc.ForceCodecV2CallOption:
			forced = option.CodecV2
		case grpc.ForceCodecCallOption:
			forced = codecV1{option.Codec, option.Codec.Name()}
		case grpc.CustomCodecCallOption:
			forced = codecV1{option.Codec, ""}
		case grpc.CompressorCallOption:
			if option.CompressorType != "" && option.CompressorType != encoding.Identity {
				return o, unsupported("grpc.UseCompressor(%q)", option.CompressorType)
			}
		case grpc.AuthorityOverrideCallOption:
			return o, unsupported("grpc.CallAuthority(%q)", option.Authority)
		}
	}
	var ok bool
	if o.codec, ok = codecFor(subtype, forced); !ok {
		return o, status.Errorf(codes.Internal, "no codec registered for content-subtype %s", subtype)
	}
	return o, nil
}

// codecFor returns the codec of a call: the one that is forced, under the subtype if there is one, or
// the one registered for the subtype.
func codecFor(subtype string, forced encoding.CodecV2) (codec, bool) {
	if forced == nil {
		return codecOf(subtype)
	}
	c := newCodec(forced)
	if subtype != "" {
		c.named = subtype
	}
	return c, true
}

func unsupported(format string, args ...any) error {
	return status.Errorf(codes.Unimplemented, "gridgrpc: a grid does not support %s", fmt.Sprintf(format, args...))
}

// withDefaults puts the options of a client before those of a call.
func withDefaults(defaults, call []grpc.CallOption) []grpc.CallOption {
	switch {
	case len(defaults) == 0:
		return call
	case len(call) == 0:
		return defaults
	}
	return slices.Concat(defaults, call)
}

// tooLarge is the error for a message to be sent, or received.
func (o *callOptions) tooLarge(size int, sent bool) error {
	switch {
	case sent && size > o.maxSend:
		return status.Errorf(codes.ResourceExhausted, "trying to send message larger than max (%d vs. %d)", size, o.maxSend)
	case !sent && size > o.maxReceive:
		return status.Errorf(codes.ResourceExhausted, "grpc: received message larger than max (%d vs. %d)", size, o.maxReceive)
	}
	return nil
}

// finish tells the options how the call has ended.
func (o *callOptions) finish(header, trailer metadata.MD, from func() *peer.Peer, err error) {
	for _, option := range o.all {
		switch option := option.(type) {
		case grpc.HeaderCallOption:
			*option.HeaderAddr = header
		case grpc.TrailerCallOption:
			*option.TrailerAddr = trailer
		case grpc.PeerCallOption:
			*option.PeerAddr = *from()
		}
	}
	o.callOnFinish(err)
}

func (o *callOptions) callOnFinish(err error) {
	if !o.onFinish {
		return
	}
	for _, option := range o.all {
		if option, ok := option.(grpc.OnFinishCallOption); ok {
			option.OnFinish(err)
		}
	}
}
