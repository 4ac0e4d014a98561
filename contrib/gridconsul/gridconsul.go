// Package gridconsul lets the nodes of a grid find each other in Consul. Each registers a service at
// its agent, which others can also do for it, and watches the healthy ones of the same name.
//
//	source := &gridconsul.Source{Client: client, Service: "orders-grid", Local: m.HostName()}
//	go discovery.Run(ctx, m, source)
//
// Whoever can register services of that name decides whom the nodes dial and show their tokens to,
// and which names may connect to them. It does not make anybody a member:
// ManagerOptions.AuthRequest and VerifyPeer decide that.
package gridconsul

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/gridmesh/grid/discovery"
)

const (
	defaultTTL = 15 * time.Second
	forgotten  = 10 * time.Minute // that a dead node stays registered, as critical
	opTimeout  = 5 * time.Second  // for a request to the agent, but for those that wait for a change
	maxWait    = time.Minute      // for those
	maxLeave   = time.Second      // for the last one
	hostKey    = "grid-host"      // in the service's metadata
)

// Source is a discovery.Source. Its fields must not change while it is used.
type Source struct {
	// Client speaks to the agent of this machine. It remains the caller's.
	Client *api.Client
	// Service is the name of the service that the nodes are. It is required.
	Service string
	// Local is the name of this node, as in ManagerOptions.Local. While Watch runs, it is
	// registered as an instance of the service, with the name in its metadata, as grid-host, and a
	// check that this process passes. Without it, somebody else registers the node.
	Local string
	// TTL is how long the check stays passed if this process dies without a word. 0 means 15
	// seconds. The hosts of others keep this node for discovery.Runner.Hold longer.
	TTL time.Duration
	// Scheme, "http" or "https", is for instances without grid-host, whose names it makes of their
	// addresses and ports. Empty means "http".
	Scheme string
}

var _ discovery.Source = (*Source)(nil)

// String returns what the log calls the source.
func (s *Source) String() string { return "consul:" + s.Service }

// Watch is part of discovery.Source. It registers this node, and finds the names of all instances of
// the service whose checks pass. When ctx ends, this node is deregistered at once. Watch returns an
// error if the agent does not answer, or refuses; it can then be called again.
func (s *Source) Watch(ctx context.Context, found func(hosts []string)) error {
	if s.Service == "" {
		return errors.New("gridconsul: Source.Service is required")
	}
	watching, cancel := context.WithCancelCause(ctx)
	var checking sync.WaitGroup
	defer checking.Wait()
	defer cancel(nil)
	if s.Local != "" {
		if err := s.register(watching); err != nil {
			return fmt.Errorf("gridconsul: register: %w", err)
		}
		checking.Go(func() { cancel(s.keepPassing(watching)) })
		defer s.leave(ctx)
	}
	for index := uint64(0); ; {
		hosts, next, err := s.list(watching, index)
		if watching.Err() != nil {
			return context.Cause(watching)
		}
		if err != nil {
			return fmt.Errorf("gridconsul: list: %w", err)
		}
		if next != index {
			found(hosts)
		}
		if next < index {
			next = 0 // Consul says so: its state was lost or restored.
		}
		index = next
	}
}

// list returns the names of healthy instances once there is another state than that of index.
func (s *Source) list(ctx context.Context, index uint64) (hosts []string, next uint64, err error) {
	wait := maxWait
	ctx, cancel := context.WithTimeout(ctx, wait+wait/16+opTimeout) // the agent adds up to a 16th
	defer cancel()
	o := (&api.QueryOptions{WaitIndex: index, WaitTime: wait}).WithContext(ctx)
	entries, meta, err := s.Client.Health().Service(s.Service, "", true, o)
	if err != nil {
		return nil, 0, err
	}
	for _, e := range entries {
		hosts = append(hosts, s.name(e))
	}
	return hosts, max(meta.LastIndex, 1), nil // 0 would not wait
}

// name returns the name of an instance: what it says, or else what it is registered with.
func (s *Source) name(e *api.ServiceEntry) string {
	if host := e.Service.Meta[hostKey]; host != "" {
		return host
	}
	scheme, address := s.Scheme, e.Service.Address
	if scheme == "" {
		scheme = "http"
	}
	if address == "" {
		address = e.Node.Address
	}
	return scheme + "://" + net.JoinHostPort(address, strconv.Itoa(e.Service.Port))
}

// id is that of this node's instance, such as orders-grid-http-10.0.0.1-9000. It is part of paths.
func (s *Source) id() string {
	return s.Service + "-" + strings.NewReplacer("://", "-", ":", "-", "[", "", "]", "").Replace(s.Local)
}

func (s *Source) ttl() time.Duration {
	if s.TTL <= 0 {
		return defaultTTL
	}
	return s.TTL
}

// register registers this node, with a check that passes for now.
func (s *Source) register(ctx context.Context) error {
	u, err := url.Parse(s.Local)
	if err != nil {
		return err
	}
	port, err := strconv.Atoi(cmp.Or(u.Port(), map[string]string{"http": "80", "https": "443"}[u.Scheme]))
	if err != nil {
		return fmt.Errorf("the port of %q: %w", s.Local, err)
	}
	ctx, cancel := context.WithTimeout(ctx, opTimeout)
	defer cancel()
	return s.Client.Agent().ServiceRegisterOpts(&api.AgentServiceRegistration{
		ID:      s.id(),
		Name:    s.Service,
		Address: u.Hostname(),
		Port:    port,
		Meta:    map[string]string{hostKey: s.Local},
		Check: &api.AgentServiceCheck{
			TTL:                            s.ttl().String(),
			Status:                         api.HealthPassing,
			DeregisterCriticalServiceAfter: forgotten.String(),
		},
	}, api.ServiceRegisterOpts{ReplaceExistingChecks: true}.WithContext(ctx))
}

// keepPassing passes the check again and again, until ctx ends or the agent fails.
func (s *Source) keepPassing(ctx context.Context) error {
	tick := time.NewTicker(max(s.ttl()/3, time.Millisecond))
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		if err := s.pass(ctx); err != nil {
			return fmt.Errorf("gridconsul: check: %w", err)
		}
	}
}

func (s *Source) pass(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, opTimeout)
	defer cancel()
	return s.Client.Agent().UpdateTTLOpts("service:"+s.id(), "", api.HealthPassing, new(api.QueryOptions).WithContext(ctx))
}

// leave deregisters this node if ctx has ended. Otherwise it is about to be registered again.
func (s *Source) leave(ctx context.Context) {
	if ctx.Err() == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), maxLeave)
	defer cancel()
	_ = s.Client.Agent().ServiceDeregisterOpts(s.id(), new(api.QueryOptions).WithContext(ctx)) // If that fails, the check does.
}
