package grpc

import (
	"context"
	"io"
	"sync"
	"testing"

	"github.com/gridmesh/grid/contrib/gridgrpc"
	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// store is as much of the services KV and Watch of etcd's rpc.proto as the test needs.
type store struct {
	etcdserverpb.UnimplementedKVServer
	etcdserverpb.UnimplementedWatchServer

	mu       sync.Mutex // Protects following.
	values   map[string]string
	revision int64
	watchers map[string]chan *mvccpb.Event
}

func (s *store) Put(_ context.Context, req *etcdserverpb.PutRequest) (*etcdserverpb.PutResponse, error) {
	if len(req.GetKey()) == 0 {
		return nil, rpctypes.ErrGRPCEmptyKey
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.revision++
	s.values[string(req.GetKey())] = string(req.GetValue())
	if w := s.watchers[string(req.GetKey())]; w != nil {
		w <- &mvccpb.Event{Kv: &mvccpb.KeyValue{Key: req.GetKey(), Value: req.GetValue(), ModRevision: s.revision}}
	}
	return &etcdserverpb.PutResponse{Header: &etcdserverpb.ResponseHeader{Revision: s.revision}}, nil
}

func (s *store) Range(_ context.Context, req *etcdserverpb.RangeRequest) (*etcdserverpb.RangeResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	resp := &etcdserverpb.RangeResponse{Header: &etcdserverpb.ResponseHeader{Revision: s.revision}}
	if v, ok := s.values[string(req.GetKey())]; ok {
		resp.Kvs = append(resp.Kvs, &mvccpb.KeyValue{Key: req.GetKey(), Value: []byte(v)})
		resp.Count = 1
	}
	return resp, nil
}

func (s *store) Watch(st etcdserverpb.Watch_WatchServer) error {
	req, err := st.Recv()
	if err != nil {
		return err
	}
	events := make(chan *mvccpb.Event, 10)
	s.mu.Lock()
	s.watchers[string(req.GetCreateRequest().GetKey())] = events
	s.mu.Unlock()
	if err := st.Send(&etcdserverpb.WatchResponse{Created: true}); err != nil {
		return err
	}
	closed := make(chan error, 1)
	go func() {
		_, err := st.Recv()
		closed <- err
	}()
	for {
		select {
		case e := <-events:
			if err := st.Send(&etcdserverpb.WatchResponse{Events: []*mvccpb.Event{e}}); err != nil {
				return err
			}
		case err := <-closed:
			if err == io.EOF {
				return nil
			}
			return err
		}
	}
}

func TestEtcd(t *testing.T) {
	node, conn := newNodes(t)
	s := &store{values: make(map[string]string), watchers: make(map[string]chan *mvccpb.Event)}
	server := gridgrpc.NewServer(node)
	etcdserverpb.RegisterKVServer(server, s)
	etcdserverpb.RegisterWatchServer(server, s)
	cc := gridgrpc.NewClient(conn)
	kv := etcdserverpb.NewKVClient(cc)

	watch, err := etcdserverpb.NewWatchClient(cc).Watch(t.Context())
	check(t, err)
	check(t, watch.Send(&etcdserverpb.WatchRequest{RequestUnion: &etcdserverpb.WatchRequest_CreateRequest{
		CreateRequest: &etcdserverpb.WatchCreateRequest{Key: []byte("a")},
	}}))
	if resp, err := watch.Recv(); err != nil || !resp.GetCreated() {
		t.Fatalf("got %v, %v", resp, err)
	}

	for i, value := range []string{"first", "second"} {
		put, err := kv.Put(t.Context(), &etcdserverpb.PutRequest{Key: []byte("a"), Value: []byte(value)})
		if err != nil || put.GetHeader().GetRevision() != int64(i+1) {
			t.Errorf("got %v, %v", put, err)
		}
		resp, err := watch.Recv()
		if err != nil || len(resp.GetEvents()) != 1 || string(resp.GetEvents()[0].GetKv().GetValue()) != value {
			t.Errorf("got %v, %v", resp, err)
		}
	}
	got, err := kv.Range(t.Context(), &etcdserverpb.RangeRequest{Key: []byte("a")})
	if err != nil || got.GetCount() != 1 || string(got.GetKvs()[0].GetValue()) != "second" {
		t.Errorf("got %v, %v", got, err)
	}
	check(t, watch.CloseSend())
	if _, err := watch.Recv(); err != io.EOF {
		t.Errorf("after the last: %v", err)
	}

	// etcd's clients tell its errors by their texts.
	_, err = kv.Put(t.Context(), new(etcdserverpb.PutRequest))
	if rpctypes.Error(err) != rpctypes.ErrEmptyKey { // as its documentation compares them
		t.Errorf("got %v", err)
	}
	if _, err := kv.Compact(t.Context(), new(etcdserverpb.CompactionRequest)); status.Code(err) != codes.Unimplemented {
		t.Errorf("got %v", err)
	}
}
