package gridgrpc

import (
	"context"
	"maps"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// TestMetadataArrives has a handler send back what its caller sent, as header and as trailer, with an
// answer and with an error.
func TestMetadataArrives(t *testing.T) {
	sent := metadata.Pairs(
		"one", "value",
		"Many", "first", "many", "second", "many", "",
		"bytes-bin", "\x00\xff\xfe", "bytes-bin", "text",
		"grpc-status", "7", "user-agent", "me", "te", "trailers", "content-type", "application/grpc+yaml", ":path", "/x",
	)
	want := metadata.MD{
		"one":       {"value"},
		"many":      {"first", "second", ""},
		"bytes-bin": {"\x00\xff\xfe", "text"},
	}
	for name, outcome := range map[string]error{"answer": nil, "error": status.Error(codes.Aborted, "no")} {
		t.Run(name, func(t *testing.T) {
			forAllKinds(t, func(ctx context.Context) error {
				got, ok := metadata.FromIncomingContext(ctx)
				if !ok || !maps.EqualFunc(got, want, slices.Equal) {
					t.Errorf("the handler got %v, want %v", got, want)
				}
				if got := metadata.ValueFromIncomingContext(ctx, "many"); !slices.Equal(got, want["many"]) {
					t.Errorf("the handler got %q, want %q", got, want["many"])
				}
				for key, values := range got { // in parts
					for _, value := range values {
						if err := grpc.SetHeader(ctx, metadata.Pairs("h-"+key, value)); err != nil {
							t.Error(err)
						}
						if err := grpc.SetTrailer(ctx, metadata.Pairs("t-"+key, value)); err != nil {
							t.Error(err)
						}
					}
				}
				return outcome
			}, func(t *testing.T, call func(ctx context.Context, opts ...grpc.CallOption) error) {
				var header, trailer metadata.MD
				err := call(metadata.NewOutgoingContext(t.Context(), sent), grpc.Header(&header), grpc.Trailer(&trailer))
				if status.Code(err) != status.Code(outcome) {
					t.Errorf("got %v, want %v", err, outcome)
				}
				wantPrefixed(t, "header", header, "h-", want)
				wantPrefixed(t, "trailer", trailer, "t-", want)
			})
		})
	}
}

func wantPrefixed(t *testing.T, what string, got metadata.MD, prefix string, want metadata.MD) {
	t.Helper()
	bare := make(metadata.MD)
	for key, values := range got {
		key, ok := strings.CutPrefix(key, prefix)
		if !ok {
			t.Errorf("%s: key %q", what, key)
		}
		bare[key] = values
	}
	if !maps.EqualFunc(bare, want, slices.Equal) {
		t.Errorf("%s: got %v, want %v", what, bare, want)
	}
}

// TestAHandlerAlwaysHasMetadata wants some, though it is empty, as in gRPC.
func TestAHandlerAlwaysHasMetadata(t *testing.T) {
	forAllKinds(t, func(ctx context.Context) error {
		if md, ok := metadata.FromIncomingContext(ctx); !ok || md == nil {
			t.Errorf("got %v, %v", md, ok)
		}
		return nil
	}, func(t *testing.T, call func(ctx context.Context, opts ...grpc.CallOption) error) {
		var header, trailer metadata.MD
		if err := call(t.Context(), grpc.Header(&header), grpc.Trailer(&trailer)); err != nil {
			t.Error(err)
		}
		if header == nil || trailer == nil {
			t.Errorf("header %v, trailer %v", header, trailer)
		}
	})
}

func TestInvalidMetadataIsNotSent(t *testing.T) {
	for name, md := range map[string]metadata.MD{
		"empty key":       {"": {"x"}},
		"key with space":  {"a b": {"x"}},
		"value with line": {"a": {"x\ny"}},
		"value in UTF-8":  {"a": {"ä"}},
	} {
		t.Run(name, func(t *testing.T) {
			forAllKinds(t, func(ctx context.Context) error {
				if err := grpc.SetHeader(ctx, md); status.Code(err) != codes.Internal {
					t.Errorf("SetHeader: %v", err)
				}
				if err := grpc.SetTrailer(ctx, md); status.Code(err) != codes.Internal {
					t.Errorf("SetTrailer: %v", err)
				}
				return nil
			}, func(t *testing.T, call func(ctx context.Context, opts ...grpc.CallOption) error) {
				if err := call(metadata.NewOutgoingContext(t.Context(), md)); status.Code(err) != codes.Internal {
					t.Errorf("got %v, want code %v", err, codes.Internal)
				}
				if err := call(t.Context()); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

// TestTheHeaderIsSentOnce refuses a header after SendHeader.
func TestTheHeaderIsSentOnce(t *testing.T) {
	forAllKinds(t, func(ctx context.Context) error {
		if err := grpc.SetHeader(ctx, metadata.Pairs("a", "1")); err != nil {
			t.Error(err)
		}
		if err := grpc.SendHeader(ctx, metadata.Pairs("a", "2")); err != nil {
			t.Error(err)
		}
		if err := grpc.SendHeader(ctx, metadata.Pairs("a", "3")); err == nil {
			t.Error("sent twice")
		}
		if err := grpc.SetHeader(ctx, metadata.Pairs("a", "4")); err == nil {
			t.Error("set after it was sent")
		}
		return nil
	}, func(t *testing.T, call func(ctx context.Context, opts ...grpc.CallOption) error) {
		var header metadata.MD
		if err := call(t.Context(), grpc.Header(&header)); err != nil {
			t.Error(err)
		}
		if got := header.Get("a"); !slices.Equal(got, []string{"1", "2"}) {
			t.Errorf("got %q", got)
		}
	})
}
