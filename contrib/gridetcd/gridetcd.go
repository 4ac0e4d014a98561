// Package gridetcd lets the nodes of a grid find each other in etcd. Each keeps a key there while
// it runs, below a common prefix, and watches those of the others.
//
//	source := &gridetcd.Source{Client: client, Prefix: "/orders/nodes/", Local: m.HostName()}
//	go discovery.Run(ctx, m, source)
//
// Whoever can write below the prefix decides whom the nodes dial, and which names may connect to
// them. It does not make anybody a member: ManagerOptions.AuthRequest and VerifyPeer decide that.
package gridetcd

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/gridmesh/grid/discovery"
)

const (
	defaultTTL = 15 * time.Second
	opTimeout  = 5 * time.Second // for one request to etcd
	maxLeave   = time.Second     // for the last one
)

var (
	errLease   = errors.New("the lease could not be kept alive")
	errWatch   = errors.New("the watch has ended")
	errDeleted = errors.New("somebody has deleted or changed this node's key")
)

// Source is a discovery.Source. Its fields must not change while it is used, and only one Watch may
// run at a time.
type Source struct {
	// Client is the connection to etcd, which remains the caller's. Close it after discovery.Run has
	// returned.
	Client *clientv3.Client
	// Prefix is where the keys of all nodes are, such as "/orders/nodes/". It is required. A slash
	// at its end may be left out.
	Prefix string
	// Local is the name of this node, as in ManagerOptions.Local. Its key is the prefix and the
	// name, and the name is also its value. Without it, the node is not registered.
	Local string
	// TTL is how long the key stays if this process dies without a word, rounded up to seconds. 0
	// means 15 seconds. The hosts of others keep this node for discovery.Runner.Hold longer.
	TTL time.Duration
}

var _ discovery.Source = (*Source)(nil)

// String returns what the log calls the source.
func (s *Source) String() string { return "etcd:" + s.Prefix }

// Watch is part of discovery.Source. It registers this node, and finds the values of all keys below
// the prefix, whoever has written them. When ctx ends, the key is deleted at once. It returns an
// error if etcd does not answer, if it has no leader, or if the key or its lease is lost; it can
// then be called again.
func (s *Source) Watch(ctx context.Context, found func(hosts []string)) error {
	prefix := strings.TrimSuffix(s.Prefix, "/") + "/"
	if prefix == "/" {
		return errors.New("gridetcd: Source.Prefix is required")
	}
	own := ""
	var alive <-chan *clientv3.LeaseKeepAliveResponse
	watching, cancel := context.WithCancel(ctx)
	defer cancel()
	if s.Local != "" {
		own = prefix + s.Local
		lease, kept, err := s.register(watching, own)
		if err != nil {
			return fmt.Errorf("gridetcd: register: %w", err)
		}
		alive = kept
		defer s.leave(ctx, lease)
	}
	nodes, revision, err := s.list(watching, prefix)
	if err != nil {
		return fmt.Errorf("gridetcd: list: %w", err)
	}
	found(slices.Collect(maps.Values(nodes)))
	late := time.AfterFunc(opTimeout, cancel) // while etcd is away, Client.Watch waits
	changes := s.Client.Watch(clientv3.WithRequireLeader(watching), prefix, clientv3.WithPrefix(), clientv3.WithRev(revision+1))
	if !late.Stop() {
		return fmt.Errorf("gridetcd: watch: %w", context.DeadlineExceeded)
	}
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case _, ok := <-alive:
			if !ok {
				return fmt.Errorf("gridetcd: %w", errLease)
			}
		case c, ok := <-changes:
			switch {
			case !ok:
				return fmt.Errorf("gridetcd: %w", errWatch)
			case c.Err() != nil:
				return fmt.Errorf("gridetcd: watch: %w", c.Err())
			case !apply(nodes, c.Events, own, s.Local):
				return fmt.Errorf("gridetcd: %w", errDeleted)
			}
			found(slices.Collect(maps.Values(nodes)))
		}
	}
}

// register writes the key of this node, with a lease that is kept alive until ctx ends or etcd is
// away for too long. Then alive is closed.
func (s *Source) register(ctx context.Context, key string) (id clientv3.LeaseID, alive <-chan *clientv3.LeaseKeepAliveResponse, err error) {
	ttl := s.TTL
	if ttl <= 0 {
		ttl = defaultTTL
	}
	soon, cancel := context.WithTimeout(ctx, opTimeout)
	defer cancel()
	lease, err := s.Client.Grant(soon, int64(math.Ceil(ttl.Seconds())))
	if err != nil {
		return 0, nil, err
	}
	if _, err := s.Client.Put(soon, key, s.Local, clientv3.WithLease(lease.ID)); err != nil {
		return 0, nil, err
	}
	alive, err = s.Client.KeepAlive(ctx, lease.ID)
	return lease.ID, alive, err
}

// leave deletes the key if ctx has ended. Otherwise it is about to be written again, with another
// lease.
func (s *Source) leave(ctx context.Context, lease clientv3.LeaseID) {
	if ctx.Err() == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), maxLeave)
	defer cancel()
	_, _ = s.Client.Revoke(ctx, lease) // If that fails, the lease ends by itself.
}

// list returns the values of all keys below the prefix, and the revision that they are of.
func (s *Source) list(ctx context.Context, prefix string) (nodes map[string]string, revision int64, err error) {
	ctx, cancel := context.WithTimeout(ctx, opTimeout)
	defer cancel()
	resp, err := s.Client.Get(ctx, prefix, clientv3.WithPrefix())
	if err != nil {
		return nil, 0, err
	}
	nodes = make(map[string]string)
	for _, kv := range resp.Kvs {
		nodes[string(kv.Key)] = string(kv.Value)
	}
	return nodes, resp.Header.Revision, nil
}

// apply makes the changes, and reports whether this node's own key is as it was.
func apply(nodes map[string]string, changes []*clientv3.Event, own, local string) bool {
	for _, c := range changes {
		if key := string(c.Kv.Key); c.Type == clientv3.EventTypeDelete {
			delete(nodes, key)
		} else {
			nodes[key] = string(c.Kv.Value)
		}
	}
	return own == "" || nodes[own] == local
}
