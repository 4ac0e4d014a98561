package grpc

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"testing"

	"connectrpc.com/connect"
	"github.com/gridmesh/grid/contrib/netgrid"
	pb "google.golang.org/grpc/examples/route_guide/routeguide"
	"google.golang.org/protobuf/proto"
)

// TestConnect calls services of connect, whose code is made for an http.Handler and an http.Client, in
// all of its protocols. What it generates calls the functions that are called here.
func TestConnect(t *testing.T) {
	const path = "/routeguide.RouteGuide/"
	node, conn := newNodes(t)
	mux := http.NewServeMux()
	mux.Handle(path+"GetFeature", connect.NewUnaryHandler(path+"GetFeature",
		func(_ context.Context, req *connect.Request[pb.Point]) (*connect.Response[pb.Feature], error) {
			if req.Msg.GetLatitude() == 0 {
				return nil, connect.NewError(connect.CodeNotFound, errors.New("nothing there"))
			}
			resp := connect.NewResponse(features[0])
			resp.Trailer().Set("Asked-By", req.Header().Get("Name"))
			return resp, nil
		}))
	mux.Handle(path+"RouteChat", connect.NewBidiStreamHandler(path+"RouteChat",
		func(_ context.Context, st *connect.BidiStream[pb.RouteNote, pb.RouteNote]) error {
			for {
				note, err := st.Receive()
				if errors.Is(err, io.EOF) {
					return nil
				} else if err != nil {
					return err
				}
				if err := st.Send(note); err != nil {
					return err
				}
			}
		}))

	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true) // which streams both ways need
	l, err := netgrid.Listen(node, "connect")
	check(t, err)
	server := &http.Server{Handler: mux, Protocols: protocols}
	served := make(chan error)
	go func() { served <- server.Serve(l) }()
	transport := &http.Transport{Protocols: protocols, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return netgrid.Dial(ctx, conn, "connect")
	}}
	t.Cleanup(func() {
		transport.CloseIdleConnections()
		check(t, server.Close())
		if err := <-served; !errors.Is(err, http.ErrServerClosed) {
			t.Error(err)
		}
	})

	for name, options := range map[string][]connect.ClientOption{
		"connect":  nil,
		"gRPC":     {connect.WithGRPC()},
		"gRPC-Web": {connect.WithGRPCWeb()},
	} {
		t.Run(name, func(t *testing.T) {
			client := &http.Client{Transport: transport}
			get := connect.NewClient[pb.Point, pb.Feature](client, "http://node"+path+"GetFeature", options...)
			req := connect.NewRequest(features[0].GetLocation())
			req.Header().Set("Name", "me")
			resp, err := get.CallUnary(t.Context(), req)
			check(t, err)
			if !proto.Equal(resp.Msg, features[0]) || resp.Trailer().Get("Asked-By") != "me" {
				t.Errorf("got %v, trailer %v", resp.Msg, resp.Trailer())
			}
			_, err = get.CallUnary(t.Context(), connect.NewRequest(new(pb.Point)))
			if connect.CodeOf(err) != connect.CodeNotFound {
				t.Errorf("got %v", err)
			}

			chat := connect.NewClient[pb.RouteNote, pb.RouteNote](client, "http://node"+path+"RouteChat", options...).CallBidiStream(t.Context())
			for _, text := range []string{"one", "", "three"} {
				check(t, chat.Send(&pb.RouteNote{Message: text}))
				if note, err := chat.Receive(); err != nil || note.GetMessage() != text {
					t.Errorf("got %v, %v, want %q", note, err, text)
				}
			}
			check(t, chat.CloseRequest())
			if _, err := chat.Receive(); !errors.Is(err, io.EOF) {
				t.Errorf("after the last: %v", err)
			}
			check(t, chat.CloseResponse())
		})
	}
}
